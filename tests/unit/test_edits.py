"""Edits against a reference that knows nothing of offsets: it cuts a file into letters, with a line and column each."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_audit.core.edits import EditError, apply, compatible
from esper_audit.core.findings import Edit, Span

LETTERS = st.text(
    st.sampled_from("ab \t\N{GREEK SMALL LETTER ALPHA}\N{GRINNING FACE}\f\v\x85\N{LINE SEPARATOR}"), max_size=6
)
TEXTS = st.lists(st.tuples(LETTERS, st.sampled_from(["\n", "\r\n", "\r"])), max_size=6).flatmap(
    lambda lines: LETTERS.map(lambda last: "".join(map("".join, lines)) + last)
)


def places(text: str) -> list[tuple[int, int]]:
    """Line and column of each letter's left edge, and of the end of the text."""
    found, line, column, before = [], 1, 1, ""
    for letter in text:
        if before == "\n" or (before == "\r" and letter != "\n"):
            line, column = line + 1, 1
        found.append((line, column))
        column, before = column + 1, letter
    return [*found, (line + 1, 1) if before in ("\n", "\r") else (line, column)]


@st.composite
def edited_texts(draw: st.DrawFn) -> tuple[str, list[tuple[int, int, str]]]:
    """A text and changes that do not touch each other."""
    text = draw(TEXTS)
    marks = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    changes = []
    while len(marks) >= 2:
        first, last = marks.pop(0), marks.pop(0)
        changes.append((first, last, draw(st.sampled_from(["", "x", "x\ny", "\N{EURO SIGN}"]))))
    return text, changes


def edits_of(text: str, changes: list[tuple[int, int, str]]) -> list[Edit]:
    where = places(text)
    return [Edit(Span("a.py", *where[first], *where[last]), new) for first, last, new in changes]


def by_letters(text: str, changes: list[tuple[int, int, str]]) -> str:
    ends = re.search(r"\r\n|\r|\n", text)
    newline = ends.group() if ends else "\n"
    letters: list[str] = list(text)
    for first, last, new in changes:
        for place in range(first, last):
            letters[place] = ""
        letters[first] = new.replace("\n", newline)
    return "".join(letters)


@given(edited_texts())
def test_applied_edits_are_what_the_reference_makes(example: tuple[str, list[tuple[int, int, str]]]) -> None:
    text, changes = example
    assert apply(text.encode(), edits_of(text, changes)) == by_letters(text, changes).encode()


@given(edited_texts())
def test_the_order_of_edits_does_not_matter(example: tuple[str, list[tuple[int, int, str]]]) -> None:
    text, changes = example
    edits = edits_of(text, changes)
    assert apply(text.encode(), edits) == apply(text.encode(), edits[::-1])


@given(TEXTS, st.data())
def test_groups_that_go_together_can_be_applied_and_the_first_always_goes(text: str, data: st.DataObject) -> None:
    ends = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(sorted)
    ranges = data.draw(st.lists(ends, min_size=1, max_size=6))
    groups = [edits_of(text, [(first, last, "x")]) for first, last in ranges]
    numbers = compatible(text.encode(), groups)
    assert numbers[0] == 0
    apply(text.encode(), [edit for number in numbers for edit in groups[number]])
    for left_out in set(range(len(groups))) - set(numbers):
        first, last = ranges[left_out]
        assert any(first <= ranges[n][1] and ranges[n][0] <= last for n in numbers)


def edit(line: int, column: int, end_line: int, end_column: int, text: str = "") -> Edit:
    return Edit(Span("a.py", line, column, end_line, end_column), text)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (edit(1, 1, 1, 3), edit(1, 2, 1, 4)),
        (edit(1, 1, 1, 3), edit(1, 3, 1, 3, "x")),
        (edit(1, 2, 1, 2, "x"), edit(1, 2, 1, 2, "y")),
    ],
    ids=["overlap", "an insertion at the edge", "two insertions at one place"],
)
def test_edits_that_touch_are_refused(left: Edit, right: Edit) -> None:
    with pytest.raises(EditError, match="overlap"):
        apply(b"abcdef\n", [left, right])
    assert compatible(b"abcdef\n", [[left], [right]]) == [0]


def test_edits_side_by_side_are_none_that_touch() -> None:
    assert apply(b"abcdef\n", [edit(1, 1, 1, 3, "x"), edit(1, 3, 1, 5, "y")]) == b"xyef\n"


@pytest.mark.parametrize("where", [edit(3, 1, 3, 1), edit(1, 9, 1, 9), edit(1, 3, 1, 2), edit(0, 1, 1, 1)])
def test_a_place_that_is_not_there_is_refused(where: Edit) -> None:
    with pytest.raises(EditError):
        apply(b"abcdef\n", [where])
    assert compatible(b"abcdef\n", [[where]]) == []


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfabc = 1\r\n",
        b"# -*- coding: latin-1 -*-\nabc = '\xe9'\n",
        b"# coding: koi8-r\r\nabc = '\xc1'",
        b"abc = 1\rx = 2",
    ],
    ids=["mark", "latin-1", "koi8-r", "old newlines"],
)
def test_mark_encoding_and_newlines_stay(data: bytes) -> None:
    at = 2 if b"coding" in data else 1
    assert apply(data, [edit(at, 1, at, 4, "xyz")]) == data.replace(b"abc", b"xyz")


def test_what_an_encoding_lacks_is_refused() -> None:
    with pytest.raises(EditError, match="lacks a letter"):
        apply(b"# coding: ascii\nabc\n", [edit(2, 1, 2, 4, "\N{EURO SIGN}")])


@pytest.mark.parametrize("data", [b"# coding: utf-7\n+AGE-\n", b"\xff\n", b"# coding: nonsense\n"])
def test_bytes_that_would_not_come_back_are_refused(data: bytes) -> None:
    with pytest.raises(EditError):
        apply(data, [])
