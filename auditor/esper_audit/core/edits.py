"""Edits applied to the bytes of one file: what they do not name keeps every byte, line ends and encoding included."""

from __future__ import annotations

import io
import itertools
import re
import tokenize
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from esper_audit.core.findings import Edit, Span

_LINE_END = re.compile(r"\r\n|\r|\n")


class EditError(ValueError):
    """The edits do not fit the file; the message says why."""


@dataclass(frozen=True, slots=True)
class Page:
    """A file's text with the places where its lines begin; lines are split where Python splits them."""

    text: str
    encoding: str
    starts: tuple[int, ...]
    newline: str

    @classmethod
    def read(cls, data: bytes) -> Page:
        """Decode as Python does. Raises EditError for bytes that would not come back the same."""
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            text = data.decode(encoding)
            kept = text.encode(encoding) == data
        except (SyntaxError, UnicodeError, LookupError) as error:
            raise EditError(f"it cannot be decoded: {error}") from None
        if not kept:
            raise EditError(f"its encoding {encoding} would not give the same bytes back")
        ends = list(_LINE_END.finditer(text))
        return cls(text, encoding, (0, *(end.end() for end in ends)), ends[0].group() if ends else "\n")

    def bytes_of(self, text: str) -> bytes:
        """The text in the file's encoding. Raises EditError when a letter of it has no place there."""
        try:
            return text.encode(self.encoding)
        except UnicodeError:
            raise EditError(f"its encoding {self.encoding} lacks a letter of the new text") from None

    def offset(self, line: int, column: int) -> int:
        """Where a 1-based line and column lie in the text. Raises EditError for a place that is not there."""
        if not 1 <= line <= len(self.starts):
            raise EditError(f"there is no line {line}")
        start = self.starts[line - 1]
        limit = self.starts[line] if line < len(self.starts) else len(self.text)
        if not 0 <= column - 1 <= limit - start:
            raise EditError(f"line {line} has no column {column}")
        return start + column - 1

    def range(self, span: Span) -> tuple[int, int]:
        """First offset and the one behind the last. Raises EditError for a span that is not there."""
        first, last = self.offset(span.line, span.column), self.offset(span.end_line, span.end_column)
        if first > last:
            raise EditError("an edit ends before it begins")
        return first, last


def apply(data: bytes, edits: Iterable[Edit]) -> bytes:
    """The file with all edits made, the last one first. Raises EditError when they overlap or do not fit."""
    page = Page.read(data)
    ranges = sorted((*page.range(edit.span), edit.text) for edit in edits)
    if any(touch(left[:2], right[:2]) for left, right in itertools.pairwise(ranges)):
        raise EditError("two edits overlap")
    text = page.text
    for first, last, new in reversed(ranges):
        text = text[:first] + _LINE_END.sub(lambda _: page.newline, new) + text[last:]
    return page.bytes_of(text)


def touch(left: tuple[int, int], right: tuple[int, int]) -> bool:
    """Whether two ranges share a place. Ranges side by side do not, unless one is an insertion: its place is theirs."""
    if left[0] == left[1] or right[0] == right[1]:
        return left[0] <= right[1] and right[0] <= left[1]
    return left[0] < right[1] and right[0] < left[1]


def compatible(data: bytes, groups: Sequence[Sequence[Edit]]) -> list[int]:
    """The numbers of the groups that can be applied together, the first come first; a group is taken whole or not."""
    page = Page.read(data)
    taken: list[tuple[int, int]] = []
    chosen = []
    for number, group in enumerate(groups):
        try:
            ranges = sorted(page.range(edit.span) for edit in group)
        except EditError:
            continue
        inside = any(touch(left, right) for left, right in itertools.pairwise(ranges))
        if inside or any(touch(mine, other) for mine in ranges for other in taken):
            continue
        chosen.append(number)
        for mine in ranges:
            insort(taken, mine)
    return chosen
