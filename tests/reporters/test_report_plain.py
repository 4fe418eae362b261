"""The two styles without colour: what stands where, and that the carets are right."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from esper_audit.core.errors import UsageError
from esper_audit.core.findings import Confidence, Fix, Related, Span, Verdict
from esper_audit.core.report import AuditReport, FileReport
from esper_audit.reporters import FORMATS
from esper_audit.reporters.layout import char_width

Show = Callable[..., str]
Build = Callable[..., AuditReport]


class TextFile(SingleFileSnapshotExtension):
    """A snapshot that opens in any editor."""

    _file_extension = file_extension = "txt"
    _write_mode = write_mode = WriteMode.TEXT


@pytest.fixture
def page(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    """Compare with a `.txt` file."""
    return snapshot.use_extension(TextFile)


def columns(line: str) -> list[str]:
    """One entry per terminal column: a wide character fills two, a combining mark joins the one before."""
    cells: list[str] = []
    for char in line:
        if char_width(char) == 0 and cells:
            cells[-1] += char
        else:
            cells.extend([char, ""][: char_width(char)])
    return cells


def marked(text: str) -> list[str]:
    """For each underline of an excerpt, the text above it, read column by column."""
    found = []
    above: list[str] = []
    for line in text.split("\n"):
        if re.match(r" *\d+ \| ", line):
            above = columns(line)
        elif match := re.fullmatch(r"( +\| +)(\^+|-+)( .*)?", line):
            start = len(match[1])
            found.append("".join(above[start : start + len(match[2])]))
    return found


def test_full_report(report: AuditReport, show: Show, page: SnapshotAssertion) -> None:
    """All there is to see at 100 columns."""
    text = show("full", report, show_refuted=True, show_suppressed=True, show_baselined=True, statistics=True)
    assert text == page


def test_full_report_in_a_narrow_terminal(report: AuditReport, show: Show, page: SnapshotAssertion) -> None:
    """At 60 columns lines are wrapped and cut, and the carets move with them."""
    assert show("full", report, width=60) == page


def test_concise_report(report: AuditReport, show: Show, page: SnapshotAssertion) -> None:
    """One line per finding."""
    assert (
        show("concise", report, show_refuted=True, show_suppressed=True, show_baselined=True, statistics=True) == page
    )


def test_carets_stand_under_the_code_they_mean(report: AuditReport, show: Show) -> None:
    """In every finding of the sample."""
    spans = marked(show("full", report))
    assert "self.entropy_ceiling" in spans
    assert "torch.zeros(1, batch, self.hidden, device=device)" in spans
    assert "nn.LSTM" in spans
    assert "MaskedChoice(out[name])" in spans


def test_carets_count_a_tab_as_the_blanks_it_is_shown_as(one_finding: Build, show: Show) -> None:
    """The terminal's own tab stops would shift the caret."""
    text = show("full", one_finding("\tif a:\n\t\tx =\t1", (2, 3, 2, 4)))
    assert "2 |         x = 1\n  |         ^\n" in text
    assert "\t" not in text


def test_carets_count_wide_characters_twice(one_finding: Build, show: Show) -> None:
    """East Asian text before the span moves the caret by two columns a character."""
    text = show("full", one_finding('x = "漢字" + y', (1, 12, 1, 13)))
    assert marked(text) == ["y"]
    assert f"\n  | {' ' * 13}^\n" in text


def test_carets_do_not_count_combining_marks(one_finding: Build, show: Show) -> None:
    """They take no column of their own."""
    assert f"\n  | {' ' * 6}^\n" in show("full", one_finding('"e\u0301" + xyz', (1, 8, 1, 9)))


def test_carets_count_escapes_of_hidden_characters(one_finding: Build, show: Show) -> None:
    """What is shown as six characters takes six columns."""
    text = show("full", one_finding('"\u202e" + y', (1, 7, 1, 8)))
    assert r'1 | "\u202e" + y' in text
    assert marked(text) == ["y"]


def test_an_empty_span_still_gets_a_caret(one_finding: Build, show: Show) -> None:
    """An insertion point is a place too."""
    assert "1 | f(a)\n  |    ^\n" in show("full", one_finding("f(a)", (1, 4, 1, 4)))


def test_spans_of_many_lines_are_underlined_line_by_line(one_finding: Build, show: Show) -> None:
    """From the first column of the span to its last, without indentation and blank lines."""
    assert marked(show("full", one_finding("y = f(\n    a,\n) + 1", (1, 5, 3, 2)))) == ["f(", "a,", ")"]
    assert marked(show("full", one_finding("y = f(\n\n    a) + 1", (1, 5, 3, 7)))) == ["f(", "a)"]


def test_long_spans_lose_their_middle(one_finding: Build, show: Show) -> None:
    """The reader needs the beginning and the end."""
    source = "\n".join(["f(", *(f"    a{i}," for i in range(30)), ")"])
    text = show("full", one_finding(source, (1, 1, 32, 2)))
    assert marked(text) == ["f(", "a0,", ")"]
    assert "\n...\n" in text


def test_a_span_that_ends_at_the_start_of_a_line_leaves_that_line_out(one_finding: Build, show: Show) -> None:
    """Its end is exclusive."""
    assert marked(show("full", one_finding("a\nb\nc", (1, 1, 3, 1)))) == ["a", "b"]


def test_very_long_lines_are_cut_around_the_span(one_finding: Build, show: Show) -> None:
    """A generated table of a megabyte must not fill the screen."""
    source = "x = [" + "1, " * 5000 + "BAD, " + "2, " * 5000 + "]"
    column = source.index("BAD") + 1
    text = show("full", one_finding(source, (1, column, 1, column + 3)), width=80)
    assert marked(text) == ["BAD"]
    assert all(len(line) <= 80 for line in text.split("\n"))
    assert re.search(r"^1 \| \.\.\..*BAD.*\.\.\.$", text, re.MULTILINE)


def test_a_span_longer_than_the_screen_shows_its_beginning(one_finding: Build, show: Show) -> None:
    """With a little of what stands before it."""
    text = show("full", one_finding("a" * 300 + "b" * 500, (1, 301, 1, 801)), width=80)
    (span,) = marked(text)
    assert set(span) <= {"b", "."}
    assert span.startswith("bbb")
    assert all(len(line) <= 80 for line in text.split("\n"))


def test_places_too_far_apart_on_one_line_are_shown_one_by_one(one_finding: Build, show: Show) -> None:
    """Both carets can be seen."""
    source = f"aaa = {'x' * 400} + bbb"
    far = Span("net.py", 1, 410, 1, 413)
    text = show("full", one_finding(source, (1, 1, 1, 4), related=(Related(far, "and this"),)), width=80)
    assert marked(text) == ["aaa", "bbb"]


def test_two_places_on_one_line_get_an_underline_each(one_finding: Build, show: Show) -> None:
    """The line itself is shown once."""
    related = (Related(Span("net.py", 1, 9, 1, 10), "made of this"),)
    text = show("full", one_finding("left = f(right)", (1, 1, 1, 5), related=related))
    assert text.count("left = f(right)") == 1
    assert "  | ^^^^\n  |         - made of this\n" in text


def test_a_label_without_room_behind_goes_below(one_finding: Build, show: Show) -> None:
    """It would run out of the terminal."""
    related = (Related(Span("net.py", 1, 41, 1, 61), "words that find no room behind the carets"),)
    text = show("full", one_finding("x" * 70, (1, 1, 1, 2), related=related), width=74)
    assert re.search(r"^  \| +-{20}\n  \| +words that find no room behind the carets$", text, re.MULTILINE)


def test_a_single_line_between_two_places_is_shown_instead_of_dots(one_finding: Build, show: Show) -> None:
    """Dots would take as much room."""
    related = (Related(Span("net.py", 3, 1, 3, 2), "here"),)
    text = show("full", one_finding("a\nmiddle\nb\nc", (1, 1, 1, 2), related=related))
    assert "2 | middle\n" in text
    assert "..." not in text


@pytest.mark.parametrize("span", [(9, 1, 9, 2), (1, 1, 1, 2)])
def test_a_finding_without_its_source_still_says_where(one_finding: Build, show: Show, span: tuple[int, ...]) -> None:
    """The file may have changed, or its lines were not kept."""
    related = (Related(Span("other.py", 4, 2, 4, 3), "defined here"),)
    report = one_finding("a", span, related=related)
    report = replace(report, sources={"net.py": ("a",) if span[0] == 9 else ()})
    text = show("full", report)
    assert f" --> net.py:{span[0]}:1\n" in text
    assert "::: other.py:4:2: defined here\n" in text
    assert "^" not in text


ALPHABET = st.text(alphabet="ab \t漢é\u0301\x1b\u202e'\"#", max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=ALPHABET, span=st.text(alphabet="xyz漢", min_size=1, max_size=8), after=ALPHABET, width=st.integers(60, 90)
)
def test_carets_are_right_whatever_the_line_holds(
    one_finding: Build, show: Show, before: str, span: str, after: str, width: int
) -> None:
    """The columns above the carets spell the span, and nothing else."""
    line = f"k{before}{span}{after}"  # a mark that combines with nothing would have no column to stand on
    report = one_finding(line, (1, len(before) + 2, 1, len(before) + 2 + len(span)))
    (read,) = marked(show("full", report, width=width))
    assert read.rstrip("\u0301") == span


def test_findings_below_full_confidence_say_so(one_finding: Build, show: Show) -> None:
    """And those of full confidence do not waste a line."""
    assert "= confidence: low\n" in show("full", one_finding("a", (1, 1, 1, 2), confidence=Confidence.LOW))
    assert "confidence" not in show("full", one_finding("a", (1, 1, 1, 2)))


@pytest.mark.parametrize(
    ("safe", "words"), [(True, "(safe: --fix)"), (False, "(changes behaviour: --fix --unsafe-fixes)")]
)
def test_fixes_name_the_flag_that_applies_them(one_finding: Build, show: Show, safe: bool, words: str) -> None:
    """A reader should not have to look it up."""
    assert f"= fix: drop it {words}\n" in show("full", one_finding("a", (1, 1, 1, 2), fix=Fix("drop it", safe)))


def test_evidence_of_a_static_reading_is_shown_without_a_verdict(one_finding: Build, show: Show) -> None:
    """No experiment is claimed that did not run."""
    text = show("full", one_finding("a", (1, 1, 1, 2), evidence="read in the constructor"))
    assert "= evidence: read in the constructor\n" in text
    assert "probe" not in text


def test_a_verdict_without_a_number_stands_alone(one_finding: Build, show: Show) -> None:
    """No dangling comma."""
    assert "= probe: CONFIRMED\n" in show("full", one_finding("a", (1, 1, 1, 2), verdict=Verdict.CONFIRMED))


def test_help_of_several_lines_keeps_its_code_and_loses_its_fences(report: AuditReport, show: Show) -> None:
    """Fences are for the Markdown report."""
    text = show("full", report)
    assert "_, log_probs, _ = policy.evaluate(view, masks, memory, actions)" in text
    assert "```" not in text


def test_a_finding_without_help_has_no_help_line(one_finding: Build, show: Show) -> None:
    """Nothing is said where there is nothing to say."""
    assert "help" not in show("full", one_finding("a", (1, 1, 1, 2), help=""))


def test_refuted_and_suppressed_findings_are_hidden_until_asked_for(report: AuditReport, show: Show) -> None:
    """They do not fail a run."""
    assert "ESP302" not in show("full", report)
    assert "refuted: logits of `field`" in show("full", report, show_refuted=True)
    shown = show("full", report, show_suppressed=True)
    assert "suppressed: logits of `crop`" in shown
    assert "baselined: `self.hidden`" not in shown
    assert "baselined: `self.hidden`" in show("full", report, show_baselined=True)


def test_the_summary_says_what_was_looked_at(report: AuditReport, clean_report: AuditReport, show: Show) -> None:
    """Silence about three files differs from silence about none."""
    assert show("full", report).splitlines()[-1] == (
        "6 findings (1 high, 4 medium, 1 low) in 1 file, 1 network; 1 file could not be audited; 1 refuted by "
        "experiment; 2 good patterns (--format markdown tells them); 1 suppressed; 1 in the baseline; 1 file skipped"
    )
    assert show("full", clean_report) == "No findings in 3 files, 2 networks (2 suppressed).\n"
    assert show("concise", AuditReport()) == "No findings in 0 files, 0 networks.\n"


def test_a_summary_with_nothing_to_add_ends_with_the_networks(one_finding: Build, show: Show) -> None:
    """No empty semicolons."""
    assert show("concise", one_finding("a", (1, 1, 1, 2))).endswith("1 finding (1 low) in 1 file, 0 networks\n")


def test_quiet_leaves_only_the_findings(report: AuditReport, clean_report: AuditReport, show: Show) -> None:
    """Nothing found, nothing said."""
    assert show("full", clean_report, quiet=True) == ""
    text = show("concise", report, quiet=True, statistics=True)
    assert len(text.splitlines()) == len(report.active) + 1  # and the file that does not parse


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (FileReport("a.py", "unparsable", error="bad", error_line=3), "error: a.py:3: bad"),
        (FileReport("a.py", "unparsable"), "error: a.py: the file does not parse"),
        (FileReport("a.py", "crashed", error="ESP201 raised KeyError"), "error: a.py: ESP201 raised KeyError"),
        (FileReport("a.py", "crashed"), "error: a.py: the audit of this file failed"),
        (FileReport("a\n.py", "crashed", error="x\ny"), r"error: a\n.py: x\ny"),
    ],
)
@pytest.mark.parametrize("style", ["full", "concise"])
def test_files_that_failed_are_shown_as_errors(file: FileReport, line: str, style: str, show: Show) -> None:
    """Even when nothing was found in the others."""
    text = show(style, AuditReport(files=(file,)))
    assert text.splitlines()[0] == line
    assert text.endswith("No findings in 0 files, 0 networks (1 file could not be audited).\n")


HOSTILE = st.text(alphabet="a \n\r\x1b\x9b\u2028\u202e\t`|<[\ud800", min_size=1, max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=HOSTILE, path=HOSTILE, code=HOSTILE, style=st.sampled_from(["full", "concise"]))
def test_hostile_names_cannot_forge_lines_or_move_the_cursor(
    one_finding: Build, show: Show, message: str, path: str, code: str, style: str
) -> None:
    """Every character of the output is one that can be seen."""
    report = one_finding(message, (1, 1, 1, 2), path=path, message=message, code=code, help=message, evidence=message)
    text = show(style, report)
    assert all(char.isprintable() or char == "\n" for char in text)
    if style == "concise":
        assert len(text.splitlines()) == 2


def test_unknown_formats_are_refused_by_name(report: AuditReport, show: Show) -> None:
    """With the names that exist."""
    with pytest.raises(UsageError, match=r"unknown format 'yaml'; there are full, concise"):
        show("yaml", report)


@pytest.mark.parametrize("style", FORMATS)
def test_a_report_is_the_same_every_time(report: AuditReport, show: Show, style: str) -> None:
    """Two runs diff cleanly."""
    assert show(style, report) == show(style, report)


def test_a_known_finding_that_came_back_says_so(one_finding: Build, show: Show) -> None:
    """It stands among the others, and its reader knows that it is an old one."""
    report = one_finding("a", (1, 1, 1, 2), verdict=Verdict.CONFIRMED, evidence="3 of 4", reason="in known.json")
    assert "= baseline: in known.json" in show("full", report)
    assert show("concise", report).splitlines()[0].endswith(" [in known.json]")
    assert "**Baseline:** in known.json" in show("markdown", report)
