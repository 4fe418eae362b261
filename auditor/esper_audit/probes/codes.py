"""The codes under which experiments convict and that no rule has, ESPx70 to ESPx89, with their pages."""

from __future__ import annotations

import sys
from functools import cache

from esper_audit.core.report import RuleInfo
from esper_audit.probes.contract import Probe, probes


@cache
def own_rules() -> tuple[RuleInfo, ...]:
    """The codes under which probes convict and that no rule has: ESPx70 to ESPx89."""
    return tuple(
        RuleInfo(
            code=probe.code,
            name=probe.name,
            summary=f"by experiment, this does not hold: {probe.claim}",
            category=probe.category,
            severity=probe.severity,
            probe=probe.id,
            fixable=None,
            page=page_of(probe),
        )
        for probe in probes().values()
        if probe.code[4] in "78" and probe.convicts
    )


def page_of(probe: Probe) -> str:
    """The page of a code that only an experiment reports: the docstring of its file, under headings."""
    text = (sys.modules[type(probe).__module__].__doc__ or "").strip()
    claim, _, rest = text.partition("\n\n")
    parts = {"The claim": claim, "The experiment": rest, "Use instead": f"{probe.help[:1].upper()}{probe.help[1:]}."}
    return "\n\n".join(f"## {title}\n\n{body}" for title, body in parts.items() if body)
