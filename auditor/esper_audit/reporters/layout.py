"""Lines made of pieces that carry a tone, so that one layout serves plain text and a colourful terminal.

A tone is a word (`high`, `gutter`, `help`...), never an escape sequence: what it looks like is the reporter's affair.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace

from esper_audit.reporters.escape import commandless, visible


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a line in one tone. Its text is already harmless."""

    text: str
    tone: str = ""


Line = tuple[Segment, ...]
BLANK: Line = ()


def line_text(line: Line) -> str:
    """The line without its tones."""
    return "".join(segment.text for segment in trimmed(line))


def trimmed(line: Line) -> Line:
    """The line without blanks at its end, and without anything that a runner would take for a command."""
    while line and not line[-1].text.rstrip(" "):
        line = line[:-1]
    line = tuple(replace(segment, text=segment.text.replace("##[", r"#\x23[")) for segment in line)
    for number, segment in enumerate(line):
        if segment.text.strip(" "):
            if segment.tone != "gutter":  # `:::` leads to another file; no runner takes that for a command
                line = (*line[:number], replace(segment, text=commandless(segment.text)), *line[number + 1 :])
            break
    return (*line[:-1], replace(line[-1], text=line[-1].text.rstrip(" "))) if line else line


def char_width(char: str) -> int:
    """How many columns of a terminal a character takes."""
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def text_width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return len(text) if text.isascii() else sum(map(char_width, text))


def wrap(text: str, width: int, *, lead: int = 0) -> list[str]:
    """Break at spaces so that lines fit; the first line has `lead` columns less.

    Columns count, not characters. A long word stays whole, so that it can be copied.
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.extend(_wrap_paragraph(visible(paragraph.expandtabs(4)).rstrip(" "), width, 0 if lines else lead))
    return lines


def _wrap_paragraph(text: str, width: int, lead: int) -> list[str]:
    body = text.lstrip(" ")
    indent = text[: len(text) - len(body)]
    lines: list[str] = []
    current = ""
    for word in body.split(" "):
        longer = f"{current} {word}" if current else word
        room = width - len(indent) - (0 if lines else lead)
        if current and text_width(longer) > room:
            lines.append(indent + current)
            longer = word
        current = longer
    return [*lines, indent + current]


def hanging(lead: Line, text: str, *, tone: str, width: int, indent: int) -> list[Line]:
    """`lead`, then `text` wrapped to `width`; further lines start at column `indent`."""
    used = sum(text_width(segment.text) for segment in lead)
    room = max(20, width - indent)
    first, *rest = wrap(text, room, lead=used - indent)
    return [(*lead, Segment(first, tone)), *((Segment(" " * indent + line, tone),) for line in rest)]
