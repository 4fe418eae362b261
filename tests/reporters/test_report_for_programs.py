"""The formats for other programs: each reads as its own specification says, and none loses a finding."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_sarif.model import StaticAnalysisResultsFormatSarifVersion210JsonSchema as SarifLog
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from esper_audit.core.findings import Confidence, Edit, Fix, Related, Severity, Span, Verdict
from esper_audit.core.report import AuditReport, FileReport
from esper_audit.reporters.alerts import HOME, page_url
from esper_audit.reporters.escape import inline, visible
from esper_audit.reporters.github import SUMMARY_LIMIT, step_summary

from .test_report_escape import texts

Show = Callable[..., str]
Build = Callable[..., AuditReport]
ROOT = Path(__file__).resolve().parents[2]


class TextFile(SingleFileSnapshotExtension):
    """A snapshot as it stands in a file."""

    _file_extension = file_extension = "txt"
    _write_mode = write_mode = WriteMode.TEXT


@pytest.mark.parametrize("name", ["sarif", "github", "gitlab", "junit", "rdjson"])
def test_an_audit_as_other_programs_get_it(
    name: str, report: AuditReport, show: Show, snapshot: SnapshotAssertion
) -> None:
    assert show(name, report) == snapshot.use_extension(TextFile)


def test_the_summary_of_a_step(report: AuditReport, snapshot: SnapshotAssertion) -> None:
    assert step_summary(report) == snapshot.use_extension(TextFile)


def test_links_lead_where_the_project_says_it_lives() -> None:
    assert f'"{HOME}/tree/main/docs"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for page in (ROOT / "docs" / "rules").glob("ESP*.md"):
        code, _, name = page.stem.partition("-")
        assert page_url(code, name) == f"{HOME}/blob/main/docs/rules/{page.name}"
    assert page_url("HOUSE101", "any-network") == ""


# --- what a runner makes of a line


def command(line: str) -> tuple[str, dict[str, str], str]:
    """Name, properties and message of a workflow command, taken apart as the runner does it."""
    name, _, properties = line.removeprefix("::").partition("::")[0].partition(" ")
    message = line.removeprefix("::").partition("::")[2]
    for sign, escape in (("\r", "%0D"), ("\n", "%0A"), ("%", "%25")):
        message = message.replace(escape, sign)
    pairs = dict(pair.split("=", 1) for pair in properties.split(","))
    for key, value in pairs.items():
        for sign, escape in (("\r", "%0D"), ("\n", "%0A"), (":", "%3A"), (",", "%2C"), ("%", "%25")):
            value = value.replace(escape, sign)  # noqa: PLW2901 - step by step, as the runner does
        pairs[key] = value
    return name, pairs, message


def annotated(text: str) -> list[tuple[str, dict[str, str], str]]:
    lines = text.removesuffix("\n").split("\n")
    return [command(line) for line in lines if line.startswith("::")]


# --- nothing breaks out, nothing is lost

hostile = st.one_of(
    texts,
    st.text(alphabet=st.characters()),  # lone surrogates among them
    st.sampled_from(
        ["::error file=x::y", "a\r\n::set-env name=A::b", "%0A::add-mask::e", "]]>", "\x00", "\ufffe", "{0}", "[a](1)"]
    ),
)


def hostile_report(report: AuditReport, said: list[str]) -> AuditReport:
    """An audit whose every text, paths included, is one of `said`."""
    template = next(finding for finding in report.findings if finding.code == "ESP201")

    def finding(number: int, text: str) -> Any:
        span = Span(text or "net.py", number, 1, number + number % 2, 9)
        return replace(
            template,
            name=text,
            message=text,
            help=text,
            evidence=text,
            symbol=text,
            reason=text,
            span=span,
            related=(Related(span, text),),
            fix=Fix(text, safe=True, edits=(Edit(span, text),)),
            fingerprint=f"{number:016x}:0",
        )

    found = [finding(number, text) for number, text in enumerate(said, 1)]
    return replace(
        report,
        files=(FileReport(said[0] or "a.py", "unparsable", error=said[0], error_line=3),),
        findings=tuple(found),
        suppressed=(found[0],),
        baselined=(),
        sources={text or "net.py": ("x = 1  # \N{SNOWMAN}",) * 9 for text in said},
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(hostile, min_size=1, max_size=3))
def test_whatever_an_audited_file_holds_each_finding_arrives_as_one(
    report: AuditReport, show: Show, said: list[str]
) -> None:
    audit = hostile_report(report, said)

    sarif = show("sarif", audit)
    SarifLog.model_validate_json(sarif, strict=True)
    results = json.loads(sarif)["runs"][0]["results"]
    assert len([result for result in results if not result["suppressions"]]) == len(said)
    assert len([result for result in results if result["suppressions"]]) == 1

    issues = json.loads(show("gitlab", audit))
    assert len({issue["fingerprint"] for issue in issues}) == len(said)

    diagnostics = json.loads(show("rdjson", audit))["diagnostics"]
    assert [item["message"].partition("\n")[0] for item in diagnostics] == list(map(inline, said))

    told = annotated(show("github", audit))
    assert [name for name, _, _ in told] == ["error"] + ["warning"] * len(said)
    assert sorted(place["title"] for _, place, _ in told[1:]) == sorted(visible(f"ESP201 {text}") for text in said)
    assert sorted(place["file"] for _, place, _ in told[1:]) == sorted(visible(text or "net.py") for text in said)
    assert "\n".join(message.partition("\n")[0] for _, _, message in told[1:]).count("ESP201") >= len(said)

    suites = ET.fromstring(show("junit", audit))  # noqa: S314 - we wrote it
    assert len(suites.findall("testsuite/testcase/failure")) == len(said)
    assert sum(int(suite.attrib["failures"]) for suite in suites) == int(suites.attrib["failures"]) == len(said)

    rows = [line for line in step_summary(audit).split("\n") if line.startswith("| medium | ESP201 |")]
    assert len(rows) == len(said)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=hostile)
def test_nothing_hidden_reaches_a_log_or_a_page(report: AuditReport, show: Show, text: str) -> None:
    audit = hostile_report(report, [text])
    for name in ("sarif", "gitlab", "junit", "rdjson"):
        assert all(char == "\n" or " " <= char <= "~" for char in show(name, audit))
    for page in (show("github", audit), step_summary(audit)):
        assert all(char == "\n" or visible(char) == char for char in page)


# --- SARIF


def run_of(text: str) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(text)["runs"][0]
    return run


@pytest.mark.parametrize("sample", ["report", "static_report", "clean_report"])
def test_sarif_follows_the_schema(sample: str, show: Show, request: pytest.FixtureRequest) -> None:
    SarifLog.model_validate_json(show("sarif", request.getfixturevalue(sample)), strict=True)
    SarifLog.model_validate_json(show("sarif", AuditReport()), strict=True)


def test_sarif_lists_every_rule_with_its_page_and_how_sure_it_is(report: AuditReport, show: Show) -> None:
    rules = (replace(report.rules[2], confidence=Confidence.LOW), *report.rules[3:])
    listed = run_of(show("sarif", replace(report, rules=rules)))["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in listed] == [rule.code for rule in rules]
    assert listed[0]["help"]["markdown"] == rules[0].page
    assert listed[0]["fullDescription"]["text"] == "Reports a hidden state that is created without a dtype."
    assert listed[0]["properties"] == {"tags": ["device"], "precision": "low", "problem.severity": "warning"}
    assert "security-severity" not in show("sarif", report)


def test_a_result_points_to_its_rule_or_names_one_that_is_not_listed(report: AuditReport, show: Show) -> None:
    run = run_of(show("sarif", replace(report, rules=report.rules[:3])))
    listed = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        if "ruleIndex" in result:
            assert listed[result["ruleIndex"]] == result["ruleId"]
        else:
            assert result["ruleId"] not in listed


def test_sarif_keeps_suppressed_findings_with_their_reason_and_drops_refuted_ones(
    report: AuditReport, show: Show
) -> None:
    results = run_of(show("sarif", report))["results"]
    by_line = {result["partialFingerprints"]["primaryLocationLineHash"]: result["suppressions"] for result in results}
    assert by_line[report.suppressed[0].fingerprint] == [
        {"kind": "inSource", "justification": "`Categorical` copes, and every row has a valid action"}
    ]
    assert [item["kind"] for item in by_line[report.baselined[0].fingerprint]] == ["external"]
    assert all(by_line[finding.fingerprint] == [] for finding in report.active)
    assert not {finding.fingerprint for finding in report.refuted} & by_line.keys()


def test_only_safe_fixes_are_offered(report: AuditReport, show: Show) -> None:
    fixable = next(finding for finding in report.findings if finding.fix)
    assert fixable.fix is not None
    assert "fixes" not in show("sarif", report)
    assert "suggestions" not in show("rdjson", report)
    cure = replace(fixable, fix=replace(fixable.fix, safe=True))
    safe = replace(report, findings=(cure,), suppressed=(), baselined=())
    (fix,) = run_of(show("sarif", safe))["results"][0]["fixes"]
    (change,) = fix["artifactChanges"]
    region = {"startLine": 23, "startColumn": 61, "endLine": 23, "endColumn": 61}
    text = ", dtype=self.memory.weight_hh_l0.dtype"
    assert change["artifactLocation"]["uri"] == fixable.span.path
    assert change["replacements"] == [{"deletedRegion": region, "insertedContent": {"text": text}}]
    place = {"line": 23, "column": 61}
    (suggestion,) = json.loads(show("rdjson", safe))["diagnostics"][0]["suggestions"]
    assert suggestion == {"range": {"start": place, "end": place}, "text": text}


def test_half_a_fix_is_no_suggestion(report: AuditReport, show: Show) -> None:
    fixable = next(finding for finding in report.findings if finding.fix)
    assert fixable.fix is not None
    twice = replace(fixable.fix, safe=True, edits=fixable.fix.edits * 2)
    assert "suggestions" not in show("rdjson", replace(report, findings=(replace(fixable, fix=twice),)))


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("a b/é#?%.py", {"uri": "a%20b/%C3%A9%23%3F%25.py", "uriBaseId": "%SRCROOT%"}),
        ("c:d.py", {"uri": "c%3Ad.py", "uriBaseId": "%SRCROOT%"}),
        ("/elsewhere/x y.py", {"uri": "file:///elsewhere/x%20y.py"}),
        ("latin\udce9.py", {"uri": "latin%E9.py", "uriBaseId": "%SRCROOT%"}),
    ],
)
def test_a_path_becomes_an_uri(path: str, location: dict[str, str], one_finding: Build, show: Show) -> None:
    (result,) = run_of(show("sarif", one_finding("x = 1", (1, 1, 1, 6), path=path)))["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"] == location


def test_code_in_a_message_is_no_link(one_finding: Build, show: Show) -> None:
    audit = one_finding("x = 1", (1, 1, 1, 6), message="`self.heads[0](x)` and [this](http://example.org)")
    (result,) = run_of(show("sarif", audit))["results"]
    assert "](" not in result["message"]["text"]
    assert "heads[0] (x)" in result["message"]["text"]


def test_a_file_that_could_not_be_audited_is_told(report: AuditReport, show: Show) -> None:
    (invocation,) = run_of(show("sarif", report))["invocations"]
    (notification,) = invocation["toolExecutionNotifications"]
    assert invocation["executionSuccessful"] is False
    assert notification["message"]["text"] == "agents/broken.py: Expected ':' after the class name."
    assert notification["locations"][0]["physicalLocation"]["region"] == {"startLine": 7}
    good = replace(report, files=report.files[1:])
    assert run_of(show("sarif", good))["invocations"][0]["executionSuccessful"] is True
    first = annotated(show("github", report))[0]
    assert first[:2] == ("error", {"title": "esper-audit", "file": "agents/broken.py", "line": "7"})
    suites = ET.fromstring(show("junit", report))  # noqa: S314 - we wrote it
    assert [case.get("classname") for case in suites.iter("testcase") if case.find("error") is not None] == [
        "agents/broken.py"
    ]


# --- GitHub


def test_the_most_pressing_annotations_come_first(report: AuditReport, show: Show) -> None:
    names = [name for name, _, _ in annotated(show("github", replace(report, files=())))]
    assert names == ["error", "warning", "warning", "warning", "warning", "notice"]


def test_an_annotation_over_several_lines_has_no_columns(report: AuditReport, show: Show) -> None:
    places = [place for _, place, _ in annotated(show("github", replace(report, files=())))]
    assert {place["line"] == place["endLine"] for place in places} == {True, False}
    for place in places:
        assert ("col" in place) == ("endColumn" in place) == (place["line"] == place["endLine"])


def test_a_path_cannot_set_properties_of_its_own(one_finding: Build, show: Show) -> None:
    path = "a,title=mine::b%2C 100%.py"
    ((_, place, message),) = annotated(show("github", one_finding("x = 1", (1, 1, 1, 6), path=path)))
    assert place["file"] == path
    assert place["title"] == "ESP601 attribute-never-read"
    assert message.startswith(f"{path}:1:1: ESP601 ")


def test_a_quiet_run_prints_annotations_alone(report: AuditReport, show: Show) -> None:
    assert not [line for line in show("github", report, quiet=True).splitlines() if not line.startswith("::")]
    assert show("github", report).splitlines()[-1].startswith("6 findings (1 high, 4 medium, 1 low) in ")


def test_a_summary_never_outgrows_what_github_takes(report: AuditReport) -> None:
    many = replace(report, findings=report.active * 2000)
    page = step_summary(many)
    assert SUMMARY_LIMIT - 500 < len(page.encode()) <= SUMMARY_LIMIT
    rows = len(re.findall(r"^\| (?:critical|high|medium|low|info) \|", page, re.MULTILINE))
    assert f"\n{12000 - rows} more findings did not fit; the log has them all.\n" in page
    assert "12000 findings" in step_summary(many, room=900)
    assert step_summary(many, room=10) == ""


# --- GitLab, JUnit, rdjson


def test_equal_lines_of_two_files_are_two_issues(one_finding: Build, show: Show) -> None:
    first, second = (one_finding("x = 1", (1, 1, 1, 6), path=path) for path in ("a.py", "b.py"))
    issues = json.loads(show("gitlab", replace(first, findings=first.findings + second.findings)))
    assert issues[0]["fingerprint"] != issues[1]["fingerprint"]


def test_each_severity_has_its_word(one_finding: Build, show: Show) -> None:
    words = {
        severity: (
            json.loads(show("gitlab", audit))[0]["severity"],
            json.loads(show("rdjson", audit))["diagnostics"][0]["severity"],
            run_of(show("sarif", audit))["results"][0]["level"],
            annotated(show("github", audit))[0][0],
        )
        for severity in Severity
        for audit in [one_finding("x = 1", (1, 1, 1, 6), severity=severity)]
    }
    assert words == {
        Severity.CRITICAL: ("blocker", "ERROR", "error", "error"),
        Severity.HIGH: ("critical", "ERROR", "error", "error"),
        Severity.MEDIUM: ("major", "WARNING", "warning", "warning"),
        Severity.LOW: ("minor", "INFO", "note", "notice"),
        Severity.INFO: ("info", "INFO", "note", "notice"),
    }


def test_reviewdog_counts_columns_in_bytes(one_finding: Build, show: Show) -> None:
    audit = one_finding("s = 'é漢'; x = 1", (1, 11, 1, 12))
    (item,) = json.loads(show("rdjson", audit))["diagnostics"]
    assert item["location"]["range"] == {"start": {"line": 1, "column": 14}, "end": {"line": 1, "column": 15}}
    (item,) = json.loads(show("rdjson", replace(audit, sources={})))["diagnostics"]
    assert item["location"]["range"] == {"start": {"line": 1}, "end": {"line": 1}}


def test_a_comment_of_reviewdog_calls_nobody_and_shows_no_picture(one_finding: Build, show: Show) -> None:
    audit = one_finding("x = 1", (1, 1, 1, 6), message="`x` @everyone ![](http://example.org/x.png)", help="")
    (item,) = json.loads(show("rdjson", audit))["diagnostics"]
    assert item["message"] == "`x` `@everyone` `![](http://example.org/x.png)`"


def test_a_clean_file_is_one_passed_test_and_a_run_is_never_without(clean_report: AuditReport, show: Show) -> None:
    suites = ET.fromstring(show("junit", clean_report))  # noqa: S314 - we wrote it
    assert [(suite.get("name"), suite[0].get("name"), len(suite[0])) for suite in suites] == [
        ("a.py", "no findings", 0),
        ("b.py", "no findings", 0),
        ("c.py", "no findings", 0),
    ]
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("3", "0", "0")
    assert ET.fromstring(show("junit", AuditReport())).get("tests") == "1"  # noqa: S314 - the same


def test_what_an_experiment_said_is_told_and_what_it_refuted_is_not(report: AuditReport, show: Show) -> None:
    for name in ("sarif", "github", "junit", "rdjson"):
        assert "Confirmed by experiment: `.bfloat16()` raises at the first step" in show(name, report)
    for name in ("sarif", "github", "gitlab", "junit", "rdjson"):
        refuted = next(finding for finding in report.findings if finding.verdict is Verdict.REFUTED)
        assert refuted.message not in show(name, replace(report, suppressed=(), baselined=()))


def test_paths_count_from_the_root_of_the_checkout(one_finding: Build, show: Show) -> None:
    audit = one_finding("x = 1", (1, 1, 1, 6), path="net.py")
    (result,) = run_of(show("sarif", audit, folder="sub/dir"))["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "sub/dir/net.py"
    assert annotated(show("github", audit, folder="sub/dir"))[0][1]["file"] == "sub/dir/net.py"
    assert json.loads(show("gitlab", audit, folder="sub/dir"))[0]["location"]["path"] == "sub/dir/net.py"
