"""What the formats that other programs show have in common: three levels, plain texts, links to pages, paths.

Such programs show a finding far from its source, and often as HTML or Markdown: every character of an audited file is
made visible first.
"""

from __future__ import annotations

import re

from esper_audit.core.findings import Finding, Severity, Verdict
from esper_audit.reporters import words
from esper_audit.reporters.escape import commandless, visible
from esper_audit.reporters.options import RenderOptions

HOME = "https://github.com/esper-audit/esper-audit"
ERROR, WARNING, NOTE = "error", "warning", "note"
LEVELS = {
    Severity.CRITICAL: ERROR,
    Severity.HIGH: ERROR,
    Severity.MEDIUM: WARNING,
    Severity.LOW: NOTE,
    Severity.INFO: NOTE,
}
_OWN_CODE = re.compile(r"ESP\d{3}")
_OWN_NAME = re.compile(r"[a-z0-9-]+")


def page_url(code: str, name: str) -> str:
    """Where the page of a rule is read in a browser; empty for the rules of others."""
    if not (_OWN_CODE.fullmatch(code) and _OWN_NAME.fullmatch(name)):
        return ""
    return f"{HOME}/blob/main/docs/rules/{code}-{name}.md"


def sentence(text: str) -> str:
    """One line that begins like a sentence, unless it begins with code, and ends with one full stop."""
    line = visible(text).strip().rstrip(".")
    return f"{line[:1].upper()}{line[1:]}."


def details(finding: Finding) -> list[str]:
    """What is told below the message, line by line: what an experiment said, and the help without its fences."""
    lines = []
    if finding.verdict is not Verdict.UNTESTED:
        measured = f": {finding.evidence}" if finding.evidence else ""
        lines.append(sentence(f"{words.OUTCOMES[finding.verdict]}{measured}"))
    elif finding.evidence:
        lines.append(sentence(f"evidence: {finding.evidence}"))
    kept = [line for line in finding.help.split("\n") if line.strip() and not line.strip().startswith("```")]
    if kept:
        lines += [f"Help: {visible(kept[0])}", *(commandless(visible(line)) for line in kept[1:])]
    return lines


def in_checkout(path: str, options: RenderOptions) -> str:
    """A path as the forge counts it, from the root of the checkout."""
    return path if not options.folder or path.startswith("/") else f"{options.folder}/{path}"
