"""The Markdown audit tells everything, keeps its shape, and lets nobody write in it but us."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from esper_audit.core.findings import Category, Fix, Severity, Verdict
from esper_audit.core.report import AuditReport, FileReport, HeadCard, MethodCard, NetworkCard, ProbeResult
from esper_audit.reporters.escape import slug
from esper_audit.reporters.mermaid import flowchart
from esper_audit.reporters.pages import code_blocks, sections

Show = Callable[..., str]
Build = Callable[..., AuditReport]
GFM = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


class MarkdownFile(SingleFileSnapshotExtension):
    """A snapshot that a forge renders."""

    _file_extension = file_extension = "md"
    _write_mode = write_mode = WriteMode.TEXT


@pytest.fixture
def page(snapshot: SnapshotAssertion) -> SnapshotAssertion:
    """Compare with a `.md` file."""
    return snapshot.use_extension(MarkdownFile)


def headings(markdown: str, *levels: str) -> dict[str, int]:
    """The headings as a parser sees them, with the line each stands on."""
    tokens = GFM.parse(markdown)
    return {
        tokens[i + 1].content: (token.map or [0])[0]
        for i, token in enumerate(tokens)
        if token.type == "heading_open" and (not levels or token.tag in levels)
    }


def all_tokens(markdown: str) -> list[Token]:
    """Blocks and what stands in them."""
    return [inner for token in GFM.parse(markdown) for inner in (token, *(token.children or []))]


def section(markdown: str, title: str) -> str:
    """The text below a heading of the second level."""
    found = headings(markdown, "h2")
    start = found[title]
    end = min((line for line in found.values() if line > start), default=None)
    return "\n".join(markdown.split("\n")[start:end])


def test_audit_with_experiments(report: AuditReport, show: Show, page: SnapshotAssertion) -> None:
    """Everything an audit can hold."""
    assert show("markdown", report, date="2026-01-02") == page


def test_audit_by_reading_alone(static_report: AuditReport, show: Show, page: SnapshotAssertion) -> None:
    """The same network without experiments: no claim of a measurement remains."""
    assert show("markdown", static_report, reproducible=True) == page


def test_audit_that_found_nothing(clean_report: AuditReport, show: Show, page: SnapshotAssertion) -> None:
    """Short, and honest about what was looked for."""
    assert show("markdown", clean_report, date="2026-01-02") == page


def test_the_document_has_the_parts_of_an_audit_in_order(report: AuditReport, show: Show) -> None:
    """As the design lists them."""
    assert list(headings(show("markdown", report), "h2")) == [
        "Executive summary",
        "What was examined",
        "1. torch.compile",
        "2. Device and dtype",
        "3. Gradient flow and numerics",
        "4. Memory",
        "5. Integration contracts",
        "6. Code quality and initialisation",
        "All findings",
        "Recommendations in order of priority",
        "Positive highlights",
        "Conformance",
        "Refuted by experiment",
        "Suppressed and baselined",
        "Method and limits",
    ]


def test_links_lead_to_headings(report: AuditReport, show: Show) -> None:
    """Each number in the tables takes the reader to its finding."""
    text = show("markdown", report)
    targets = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert targets
    assert targets <= {slug(heading) for heading in headings(text)}


def test_every_finding_has_all_its_parts(report: AuditReport, show: Show) -> None:
    """Where, snippet, issue, impact, recommendation, evidence, how to verify."""
    findings = re.split(r"\n### \d\.\d ", section(show("markdown", report), "2. Device and dtype"))[1:]
    for text in findings:
        for part in ("Where", "Issue", "Impact", "Recommendation", "Evidence", "How to verify"):
            assert f"**{part}:**" in text
        assert "```text\n" in text
    assert "raises at its first step" in findings[0]
    assert "h = weight.new_zeros(1, batch, self.hidden)" in findings[0]


def test_a_code_is_explained_once_and_then_referred_to(report: AuditReport, show: Show) -> None:
    """Twenty findings of one code would bury the rest under one page."""
    text = show("markdown", report)
    assert text.count("an LSTM wants its state in the dtype of its weights") == 1
    assert "**Impact:** as for finding 2.1." in text


def test_the_date_stands_in_the_head_alone_and_goes_when_asked(report: AuditReport, show: Show) -> None:
    """So that two reports diff cleanly."""
    text = show("markdown", report, date="2026-01-02")
    assert text.count("2026-01-02") == 1
    assert "2026" not in show("markdown", report, date="2026-01-02", reproducible=True)
    assert "**Date:**" not in show("markdown", report)


def test_the_seconds_of_an_experiment_stay_out(report: AuditReport, show: Show) -> None:
    """They differ from run to run."""
    slow = tuple(replace(probe, seconds=9.75) for probe in report.probes)
    assert show("markdown", replace(report, probes=slow)) == show("markdown", report)


@pytest.mark.parametrize(
    ("severity", "words"),
    [
        (Severity.CRITICAL, "not fit for training as it stands (1 critical finding)"),
        (Severity.HIGH, "needs work before a training run can be trusted (1 high finding)"),
        (Severity.MEDIUM, "usable with care (1 medium finding to settle)"),
        (Severity.LOW, "in good order, with small matters to tidy up"),
        (Severity.INFO, "in good order"),
    ],
)
def test_the_assessment_follows_the_worst_finding(
    one_finding: Build, show: Show, severity: Severity, words: str
) -> None:
    """It claims no more than the counts do."""
    text = show("markdown", one_finding("a", (1, 1, 1, 2), severity=severity))
    assert f"**Overall: {words}.** This rests on static reading only" in text


def test_an_audit_without_networks_judges_nothing(show: Show) -> None:
    """Silence about nothing is no praise."""
    text = show("markdown", AuditReport())
    assert "nothing to judge, since no network was found" in text
    assert "No files." in text


def test_an_incomplete_audit_says_so_in_its_summary(report: AuditReport, show: Show) -> None:
    """Before any number is read."""
    assert "**The audit is incomplete:** 1 file could not be audited" in show("markdown", report)


def test_experiments_that_found_nothing_are_still_counted(clean_report: AuditReport, show: Show) -> None:
    """Nothing found by reading and by running is more than by reading alone."""
    probe = ProbeResult("causality", "a.py::Critic", Verdict.INCONCLUSIVE, "no look ahead", "", 0.0, "could not build")
    text = show("markdown", replace(clean_report, probes=(probe,)))
    assert "1 experiment ran beside the static reading" in text
    assert "| could not build |" in text


def test_a_finding_of_an_experiment_names_its_origin(one_finding: Build, show: Show) -> None:
    """No rule saw it."""
    report = one_finding("a", (1, 1, 1, 2), origin="probe", verdict=Verdict.CONFIRMED)
    assert "confirmed by experiment. An experiment found this, no rule did." in show("markdown", report)


@pytest.mark.parametrize(("safe", "words"), [(True, "a safe fix (`--fix`)"), (False, "a fix that changes behaviour")])
def test_fixes_say_whether_they_are_safe(one_finding: Build, show: Show, safe: bool, words: str) -> None:
    """Before anybody applies them."""
    text = show("markdown", one_finding("a", (1, 1, 1, 2), fix=Fix("drop it", safe)))
    assert f"The tool offers {words}" in text


def test_how_to_verify_names_only_commands_that_exist(report: AuditReport, show: Show) -> None:
    """A reader will paste them."""
    text = show("markdown", report)
    assert "`esper-audit check --select" in text
    assert "esper-audit probe" not in text
    assert "`--probe`" not in text


def test_a_report_whose_findings_are_hidden_claims_no_innocence(clean_report: AuditReport, show: Show) -> None:
    """`--min-severity high` finds nothing where fourteen medium findings are."""
    hidden = replace(clean_report, hidden=14)
    assert "14 hidden below them" in show("markdown", hidden)
    assert "14 hidden by --min-severity" in show("full", hidden)


def test_commands_quote_paths_for_the_shell(one_finding: Build, show: Show) -> None:
    """A reader pastes them."""
    text = show("markdown", one_finding("a", (1, 1, 1, 2), path="my nets/$(rm).py"))
    assert "--select ESP601 'my nets/$(rm).py'`" in text


def test_help_that_begins_with_code_and_help_left_open_are_rebuilt(one_finding: Build, show: Show) -> None:
    """An unclosed fence must not swallow the rest of the document."""
    text = show("markdown", one_finding("a", (1, 1, 1, 2), help="```python\nx = 1\n```\nthen\n```\ny = 2"))
    assert "**Recommendation:**\n\n```python\nx = 1\n```\n\nthen\n\n```python\ny = 2\n```\n" in text
    assert list(headings(text))[-1] == "Method and limits"


def test_a_muted_finding_without_a_reason_says_so(report: AuditReport, show: Show) -> None:
    """An empty cell looks like a mistake of ours."""
    assert "| no reason given |" in section(show("markdown", report), "Suppressed and baselined")


HOSTILE = st.text(alphabet="a1 \n#`|<>!*_[]()-=~@$&\\\x1b\u202e:", min_size=1, max_size=24)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(text=HOSTILE)
def test_hostile_files_cannot_change_the_shape_of_the_document(report: AuditReport, show: Show, text: str) -> None:
    """Names, paths, messages, reasons, source lines and sizes are all somebody else's."""
    harmless = GFM.parse(show("markdown", poisoned(report, "word")))
    kept = [token.type for token in harmless]
    written = show("markdown", poisoned(report, text))
    assert all(char.isprintable() or char == "\n" for char in written)
    tokens = all_tokens(written)
    assert not [token for token in tokens if token.type in ("image", "em_open", "s_open", "hr")]
    ours = [token.content for token in harmless if token.type == "html_block"]  # what is folded away
    assert [token.content for token in tokens if token.type == "html_block"] == ours
    assert {token.content for token in tokens if token.type == "html_inline"} <= {"<code>", "</code>"}
    assert all(str(token.attrs["href"]).startswith("#") for token in tokens if token.type == "link_open")
    shape = [token.type for token in GFM.parse(written)]
    for kind in ("heading_open", "fence", "table_open", "tr_open", "td_open", "bullet_list_open", "list_item_open"):
        assert shape.count(kind) == kept.count(kind), kind


def poisoned(report: AuditReport, text: str) -> AuditReport:
    """The report with `text` wherever a file could have put it. Rule names and pages stay: they are ours."""
    old = "agents/harvest_policy.py"
    findings = tuple(
        replace(
            finding, message=f"x{text}", symbol=text, evidence=text, reason=text, help=f"x{text}".replace("\n", " ")
        )
        for finding in report.findings
    )
    card = NetworkCard(
        name=text,
        path=text,
        line=1,
        kind=text,
        bases=(text,),
        core=text,
        trunk=(text, text),
        heads=(HeadCard(text, "policy", text),),
        methods=(MethodCard(text, "other", 1, (text,)),),
        masks=(text,),
        sizes=((text, text),),
    )
    return replace(
        report,
        files=(FileReport(text, "crashed", error=text), FileReport(old, "audited", networks=(card,))),
        findings=findings,
        suppressed=findings[:1],
        highlights=tuple(replace(item, message=f"x{text}", path=text) for item in report.highlights),
        probes=(ProbeResult(text, text, Verdict.CONFIRMED, text, text, 1.0, text),),
        notes=(f"x{text}",),
        sources={old: tuple(text.replace("\n", " ") + line for line in report.sources[old])},
    )


# Rule pages


def test_a_heading_inside_code_is_no_heading() -> None:
    """A Python comment may begin with two hashes."""
    page = "Summary.\n\n## Example\n\n```python\n## no heading\n```\n\n## Use instead\n\ntext\n"
    assert sections(page) == {"Example": "```python\n## no heading\n```", "Use instead": "text"}


def test_only_the_code_of_a_section_is_quoted_where_there_is_code() -> None:
    """Prose around it repeats the help."""
    assert code_blocks("words\n\n```python\nx\n```\n\nmore") == "```python\nx\n```"
    assert code_blocks("no code at all") == "no code at all"


def test_a_block_left_open_by_a_page_is_closed() -> None:
    """It would swallow the rest of the report."""
    assert sections("## Use instead\n\n~~~~python\n```\nx") == {"Use instead": "~~~~python\n```\nx\n~~~~"}


# The flowchart


def test_the_flowchart_goes_from_input_to_heads() -> None:
    """Through trunk and core."""
    card = NetworkCard(
        "N", "n.py", 1, "", core="GRU(8, 8)", trunk=("Linear(4, 8)",), heads=(HeadCard("v", "value", "1"),)
    )
    chart = flowchart(card)
    assert "observation --> trunk1" in chart
    assert "trunk1 --> core" in chart
    assert "core --> head1" in chart
    assert "hidden -. step t .-> core" in chart
    assert "masks" not in chart


def test_a_network_without_memory_has_no_loop_and_unknown_layers_no_chart() -> None:
    """Nothing is drawn that was not read."""
    plain = NetworkCard(
        "N", "n.py", 1, "", trunk=("Linear(4, 8)",), masks=("mask",), heads=(HeadCard("pi", "policy", ""),)
    )
    assert "hidden" not in flowchart(plain)
    assert 'head1["pi"]' in flowchart(plain)
    assert "masks -.-> head1" in flowchart(plain)
    assert flowchart(NetworkCard("N", "n.py", 1, "")) == ""


def test_a_core_of_unknown_kind_loops_when_the_network_makes_a_first_state() -> None:
    """What a network remembers shows in its methods."""
    methods = (
        MethodCard("initial_state", "initial_state", 1),
        MethodCard("forward", "forward", 2, ("self", "obs: Tensor")),
    )
    chart = flowchart(NetworkCard("N", "n.py", 1, "", core="Memory()", methods=methods))
    assert "core -. step t+1 .-> hidden" in chart
    assert 'observation(["obs"])' in chart
    assert "hidden" not in flowchart(NetworkCard("N", "n.py", 1, "", core="Memory()"))


def test_every_category_has_a_section(one_finding: Build, show: Show) -> None:
    """A finding can get lost in no gap."""
    for chapter, category in enumerate(Category, 1):
        assert f"### {chapter}.1 ESP601" in show("markdown", one_finding("a", (1, 1, 1, 2), category=category))


def test_a_network_of_which_little_is_known_says_so(clean_report: AuditReport, show: Show) -> None:
    """Unknown is an answer; an empty table is none."""
    file = FileReport("n.py", "audited", networks=(NetworkCard("Bare", "n.py", 3, "module"),))
    text = show("markdown", replace(clean_report, files=(file,)))
    assert "- **Core:** none known" in text
    assert "mermaid" not in text
    assert "| head |" not in text
    assert "| method |" not in text


def test_a_cached_audit_reads_like_a_fresh_one(clean_report: AuditReport, show: Show) -> None:
    """A second run must not differ from the first."""
    fresh = tuple(replace(file, status="audited") for file in clean_report.files)
    assert show("markdown", clean_report) == show("markdown", replace(clean_report, files=fresh))
