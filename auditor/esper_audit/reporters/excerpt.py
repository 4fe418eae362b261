"""Cuts the piece of source that a finding is about, with carets under the very columns it means.

A caret stands right only if one counts what the terminal shows: a tab is several columns, a CJK character two, a
combining mark none, and an escaped control character as many as its escape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from esper_audit.core.findings import Span
from esper_audit.reporters.escape import visible, visible_char
from esper_audit.reporters.layout import Line, Segment, char_width, line_text, text_width

_TAB = 4
_CUT = "..."
_LEFT_CONTEXT = 8  # columns kept before a span that is itself too long to show
_LONGEST_SPAN = 3  # lines of one span that are shown before its middle is left out
_LEAST_WIDTH = 40
_BLANKS = " \t\r\n"  # other white space is rare enough in code to be shown


@dataclass(frozen=True, slots=True)
class Mark:
    """A span to underline, the words that belong to it, and the tone of both."""

    span: Span
    label: str = ""
    tone: str = "label"
    sign: str = "-"


@dataclass(frozen=True, slots=True)
class _Strip:
    """The part of a mark that lies on one line, as positions in the line; the end is exclusive."""

    line: int
    start: int
    end: int
    label: str
    mark: Mark


def excerpt(source: Sequence[str], marks: Sequence[Mark], *, gutter: int, width: int) -> list[Line]:
    """The marked lines of `source`, numbered in a gutter of `gutter` digits and cut to `width` columns."""
    room = max(_LEAST_WIDTH, width - gutter - len(" | "))
    strips = sorted(
        (strip for mark in marks for strip in _strips(mark, source)),
        key=lambda strip: (strip.line, strip.start, strip.end, strip.label),
    )
    shown: list[Line] = []
    previous = 0
    for number, group in groupby(strips, key=lambda strip: strip.line):
        shown.extend(_gap(source, previous, number, gutter, room))
        shown.extend(_marked_line(source[number - 1], list(group), gutter, room))
        previous = number
    return shown


def gutter_line(gutter: int, content: Iterable[Segment] = (), number: int = 0) -> Line:
    """A line of an excerpt: its number or a blank, a bar, the content."""
    text = str(number) if number else ""
    return (Segment(f"{text:>{gutter}} | ", "gutter"), *content)


def _strips(mark: Mark, source: Sequence[str]) -> Iterator[_Strip]:
    """One strip per line of the span, blank lines and a too long middle left out; the label goes with the last."""
    span = mark.span
    last = span.end_line - 1 if span.end_line > span.line and span.end_column <= 1 else span.end_line
    inside = range(max(1, span.line), min(last, len(source)) + 1)
    numbers = [number for number in inside if number == span.line or source[number - 1].strip(_BLANKS)]
    if len(numbers) > _LONGEST_SPAN:
        numbers = [*numbers[: _LONGEST_SPAN - 1], numbers[-1]]
    for number in numbers:
        text = source[number - 1].rstrip(_BLANKS)
        start = span.column - 1 if number == span.line else len(text) - len(text.lstrip(_BLANKS))
        end = span.end_column - 1 if number == span.end_line else len(text)
        start = max(0, min(start, len(text)))
        yield _Strip(number, start, max(start, min(end, len(text))), mark.label if number == numbers[-1] else "", mark)


def _gap(source: Sequence[str], previous: int, number: int, gutter: int, room: int) -> list[Line]:
    """What stands between two shown lines: the one line that is missing, or dots for more."""
    missing = number - previous - 1
    if not previous or missing < 1:
        return []
    if missing == 1:
        return [gutter_line(gutter, _Row(source[number - 2]).cut(0, 0, room)[0], number - 1)]
    return [(Segment(_CUT, "gutter"),)]


def _marked_line(text: str, strips: list[_Strip], gutter: int, room: int) -> list[Line]:
    """A source line and an underline per strip; the line is shown again for strips too far apart to fit together."""
    row = _Row(text)
    start, end = min(strip.start for strip in strips), max(strip.end for strip in strips)
    if len(strips) > 1 and not row.fits(start, end, room):
        return [line for strip in strips for line in _marked_line(text, [strip], gutter, room)]
    content, shift = row.cut(start, end, room)
    lines = [gutter_line(gutter, content, strips[0].line)]
    for strip in strips:
        lines.extend(_underline(row, strip, shift, gutter, room))
    return lines


def _underline(row: _Row, strip: _Strip, shift: int, gutter: int, room: int) -> list[Line]:
    """The carets of a strip with its label behind them, or below them where there is no room behind."""
    tone, label = strip.mark.tone, visible(strip.label)
    start = row.offsets[strip.start] - shift
    length = max(1, min(row.offsets[strip.end] - shift, room) - start)
    carets = Segment(" " * start + strip.mark.sign * length, tone)
    if not label:
        return [gutter_line(gutter, [carets])]
    if start + length + 1 + text_width(label) <= room:
        return [gutter_line(gutter, [carets, Segment(f" {label}", tone)])]
    indent = max(0, min(start, room - text_width(label)))
    return [gutter_line(gutter, [carets]), gutter_line(gutter, [Segment(" " * indent + label, tone)])]


class _Row:
    """A source line as the screen shows it; `offsets[i]` is the column at which its i-th character begins."""

    def __init__(self, text: str) -> None:
        self.cells: list[str] = []
        widths: list[int] = []
        column = 0
        for char in text.rstrip(_BLANKS):
            cell = " " * (_TAB - column % _TAB) if char == "\t" else visible_char(char)
            self.cells.append(cell)
            widths.append(len(cell) if cell != char else char_width(char))
            column += widths[-1]
        self.offsets = list(accumulate(widths, initial=0))

    def fits(self, start: int, end: int, room: int) -> bool:
        """Whether both positions can be shown at once."""
        spread = self.offsets[end] - self.offsets[start]
        return self.offsets[-1] <= room or spread <= room - 2 * len(_CUT)

    def cut(self, start: int, end: int, room: int) -> tuple[list[Segment], int]:
        """The part of the line around `start:end` that fits, and how many columns it moved to the left."""
        if self.offsets[-1] <= room:
            return [Segment("".join(self.cells), "source")], 0
        inner = room - 2 * len(_CUT)
        left = 0
        if self.offsets[end] > inner:
            spare = inner - (self.offsets[end] - self.offsets[start])
            left = self.offsets[start] - max(_LEFT_CONTEXT, spare // 2)
            left = max(0, min(left, self.offsets[-1] - inner))
        first = next(i for i, offset in enumerate(self.offsets) if offset >= left)
        last = max(i for i, offset in enumerate(self.offsets) if offset <= self.offsets[first] + inner)
        head = [Segment(_CUT, "dim")] if first else []
        tail = [Segment(_CUT, "dim")] if last < len(self.cells) else []
        body = Segment("".join(self.cells[first:last]), "source")
        return [*head, body, *tail], self.offsets[first] - (len(_CUT) if first else 0)


def gutter_width(source: Sequence[str], marks: Sequence[Mark]) -> int:
    """Digits of the largest line number an excerpt of these marks can show."""
    return len(str(max((min(mark.span.end_line, len(source)) for mark in marks), default=0)))


def excerpt_text(source: Sequence[str], marks: Sequence[Mark], *, width: int) -> str:
    """The excerpt without tones, for a code block."""
    lines = excerpt(source, marks, gutter=gutter_width(source, marks), width=width)
    return "\n".join(map(line_text, lines))
