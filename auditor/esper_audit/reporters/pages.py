"""Takes a rule's page apart, so that a report can quote its sections. A page is the rule author's Markdown: trusted."""

from __future__ import annotations

import re
from functools import reduce

from esper_audit.reporters.escape import visible

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def sections(page: str) -> dict[str, str]:
    """The text below each `## Heading`; a `##` inside a code block is a comment and no heading."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line, in_code in _lines(page):
        if not in_code and line.startswith("## "):
            current = found.setdefault(line[3:].strip(), [])
        else:
            current.append(line)
    return {title: _closed(lines) for title, lines in found.items()}


def code_blocks(text: str) -> str:
    """The fenced code of a section without the prose around it, or the whole section when it has no fence."""
    kept = [line for line, in_code in _lines(text) if in_code]
    return _closed(kept) if kept else text


def _lines(text: str) -> list[tuple[str, bool]]:
    """Each line, and whether it belongs to a fenced block (the fences included)."""
    marked: list[tuple[str, bool]] = []
    opener = ""
    for raw in text.split("\n"):
        line = visible(raw.expandtabs(4)).rstrip()
        before, opener = opener, _opener(line, opener)
        marked.append((line, bool(before or opener)))
    return marked


def _opener(line: str, opener: str) -> str:
    """The fence that is open after `line`, when `opener` was open before it; empty for none."""
    match = _FENCE.match(line)
    if not opener:
        return match[1] if match else ""
    closes = match and match[1].startswith(opener) and line.strip() == match[1]
    return "" if closes else opener


def _closed(lines: list[str]) -> str:
    """The lines as one text; a block that the author forgot to close must not swallow the rest of a report."""
    text = "\n".join(lines).strip("\n")
    opener = reduce(lambda opener, line: _opener(line, opener), text.split("\n"), "")
    return f"{text}\n{opener}" if opener else text
