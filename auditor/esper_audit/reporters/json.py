"""The report for other programs: the one object of `esper-audit/1`, in pure ASCII."""

from __future__ import annotations

import json
import re
from typing import Any, TextIO

from esper_audit.core.report import AuditReport
from esper_audit.reporters.escape import visible_char
from esper_audit.reporters.options import RenderOptions

_SURROGATE = re.compile("[\ud800-\udfff]")


def render(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """Write the object, indented by two, with a newline at the end."""
    del options  # a contract has no variants
    write(report.to_json(), sink)


def write(value: Any, sink: TextIO) -> None:
    """Write any value as JSON that is pure ASCII and that every strict parser takes."""
    text = json.dumps(_well_formed(value), indent=2, ensure_ascii=True, allow_nan=False)
    # DEL is the one control character that JSON leaves as it is; it can only stand in a string
    text = text.replace("\x7f", "\\u007f").replace("##[", "#\\u0023[")  # the latter is a command in the log of a runner
    sink.write(text + "\n")


def _well_formed(value: Any) -> Any:
    """Spell out lone surrogates (a path that is no UTF-8): strict parsers would refuse the whole report for one."""
    if isinstance(value, str):
        return _SURROGATE.sub(lambda match: visible_char(match[0]), value)
    if isinstance(value, dict):
        return {_well_formed(key): _well_formed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_well_formed(item) for item in value]
    return value
