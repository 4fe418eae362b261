"""One audit, many readers: each format is a module of its own, imported when somebody asks for it.

Start-up time is why: a pipe or a pre-commit hook must not pay for the colours of a terminal.
"""

from __future__ import annotations

import importlib
import io
from typing import TextIO

from esper_audit.core.errors import UsageError
from esper_audit.core.report import AuditReport
from esper_audit.reporters.options import RenderOptions

__all__ = ["FORMATS", "RenderOptions", "render", "render_experiments"]

_REPORTERS = {
    "full": ("plain", "render_full"),
    "concise": ("plain", "render_concise"),
    "json": ("json", "render"),
    "markdown": ("markdown", "render"),
    "sarif": ("sarif", "render"),
    "github": ("github", "render"),
    "gitlab": ("gitlab", "render"),
    "junit": ("junit", "render"),
    "rdjson": ("rdjson", "render"),
}
_COLOURED = {
    "full": ("terminal", "render_full"),
    "concise": ("terminal", "render_concise"),
}

FORMATS: tuple[str, ...] = tuple(_REPORTERS)


def render(format_name: str, report: AuditReport, sink: TextIO, *, options: RenderOptions | None = None) -> None:
    """Write `report` to `sink` in one of `FORMATS`."""
    if format_name not in _REPORTERS:
        raise UsageError(f"unknown format {format_name!r}; there are {', '.join(FORMATS)}")
    options = options or RenderOptions()
    coloured = options.color and format_name in _COLOURED
    _render(*(_COLOURED[format_name] if coloured else _REPORTERS[format_name]), report, sink, options)


def render_experiments(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """Write what the experiments alone say, for the `probe` command."""
    _render("terminal" if options.color else "plain", "render_experiments", report, sink, options)


def _render(module: str, function: str, report: AuditReport, sink: TextIO, options: RenderOptions) -> None:
    page = io.StringIO()
    getattr(importlib.import_module(f"{__name__}.{module}"), function)(report, page, options=options)
    sink.write(_encodable(page.getvalue(), sink))


def _encodable(text: str, sink: TextIO) -> str:
    """Spell out what the sink cannot hold: a finding must not be lost to a pipe that only knows cp1252."""
    encoding = getattr(sink, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
