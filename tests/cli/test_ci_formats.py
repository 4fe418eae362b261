"""The formats for CI as a run writes them: several at once, and what the environment of a job changes."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from .esper_process import FAULTY, Esper

JOB = ("GITHUB_ACTIONS", "GITHUB_WORKSPACE", "GITHUB_STEP_SUMMARY", "CI_PROJECT_DIR")


@pytest.fixture(autouse=True)
def outside_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests may run in a workflow themselves."""
    for name in JOB:
        monkeypatch.delenv(name, raising=False)


def first_uri(sarif: Path) -> str:
    result = json.loads(sarif.read_text())["runs"][0]["results"][0]
    return str(result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"])


def test_one_run_writes_as_many_reports_as_are_asked_for(inside: Esper, project: Path) -> None:
    outputs = ("a.sarif", "b.sarif.json", "c.xml", "AUDIT.md", "gitlab:quality.json", "rdjson:review.json")
    done = inside("faulty.py", "--format", "github", *(word for name in outputs for word in ("-o", name)))
    assert done.stdout.startswith("::warning title=ESP903 invalid-suppression,file=faulty.py,line=11,")
    assert done.returncode == 1
    assert json.loads((project / "a.sarif").read_text())["version"] == "2.1.0"
    assert (project / "b.sarif.json").read_text() == (project / "a.sarif").read_text()
    assert ET.parse(project / "c.xml").getroot().get("failures") == "1"  # noqa: S314 - we wrote it
    assert (project / "AUDIT.md").read_text().startswith("# Audit of `faulty.py`")
    assert json.loads((project / "quality.json").read_text())[0]["check_name"] == "ESP903"
    assert json.loads((project / "review.json").read_text())["diagnostics"][0]["code"]["value"] == "ESP903"


def test_a_suffix_of_many_formats_leaves_the_choice_to_the_format(inside: Esper, project: Path) -> None:
    done = inside("faulty.py", "--format", "gitlab", "-o", "report.json")
    assert json.loads((project / "report.json").read_text())[0]["check_name"] == "ESP903"
    assert done.stdout.startswith("report.json: 1 finding")


def test_a_second_run_writes_the_same_bytes(inside: Esper, project: Path) -> None:
    for number in (1, 2):
        names = [f"{name}:{name}.{number}" for name in ("sarif", "github", "gitlab", "junit", "rdjson")]
        inside(".", *(word for name in names for word in ("-o", name)))
    for name in ("sarif", "github", "gitlab", "junit", "rdjson"):
        first, second = ((project / f"{name}.{number}").read_bytes() for number in (1, 2))
        assert first
        assert first == second


def test_sarif_lists_the_rules_in_force_and_the_reason_of_a_suppression(inside: Esper, project: Path) -> None:
    (project / "net.py").write_text(FAULTY.replace("# esper: ignore", "# esper: ignore[ESP603] demo"))
    (project / "tests").mkdir()
    (project / "tests/test_other.py").write_text("")
    inside("net.py", "-o", "a.sarif", "--select", "ESP603,ESP901")
    run = json.loads((project / "a.sarif").read_text())["runs"][0]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == ["ESP603", "ESP901"]
    assert all("## " in rule["help"]["markdown"] for rule in run["tool"]["driver"]["rules"])


# --- GitHub


def test_the_summary_of_the_step_is_added_to(inside: Esper, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = project / "summary.md"
    summary.write_text("# Said before\n\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    inside("faulty.py")
    assert summary.read_text() == "# Said before\n\n"
    inside("faulty.py", "--format", "github")
    assert summary.read_text().startswith("# Said before\n\n## esper-audit\n\n1 finding (1 medium) in 1 file")
    assert "| medium | ESP903 |" in summary.read_text()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project / "new.md"))
    inside("net.py", "--format", "github")
    assert (project / "new.md").read_text().startswith("## esper-audit\n\nNo findings in 1 file")


def test_a_full_summary_is_left_as_it_is(inside: Esper, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = project / "summary.md"
    summary.write_bytes(b"x" * (1024 * 1024 - 10))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert inside("faulty.py", "--format", "github").returncode == 1
    assert summary.stat().st_size == 1024 * 1024 - 10


def test_a_summary_that_cannot_be_written_is_told_and_loses_no_finding(
    inside: Esper, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project))
    done = inside("faulty.py", "--format", "github")
    assert done.stdout.startswith("::warning ")
    assert done.stderr == "error: cannot write to $GITHUB_STEP_SUMMARY: is a directory\n"
    assert done.returncode == 3


def test_a_workflow_gets_what_a_desk_gets_unless_it_asks(inside: Esper, monkeypatch: pytest.MonkeyPatch) -> None:
    before = inside("faulty.py").stdout
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert inside("faulty.py").stdout == before


def test_a_file_that_does_not_parse_is_annotated_once(inside: Esper, project: Path) -> None:
    (project / "broken.py").write_text("import torch\nclass :\n")
    done = inside("broken.py", "--format", "github")
    assert done.stdout.startswith("::error title=esper-audit,file=broken.py,line=2::broken.py:2: does not parse: ")
    assert (done.stderr, done.returncode) == ("", 3)


@pytest.mark.parametrize("variable", ["GITHUB_WORKSPACE", "CI_PROJECT_DIR"])
def test_paths_count_from_the_root_of_the_checkout(
    variable: str, inside: Esper, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "sub").mkdir()
    (project / "sub/faulty.py").write_text(FAULTY)
    monkeypatch.chdir(project / "sub")
    inside("faulty.py", "-o", "a.sarif")
    assert first_uri(project / "sub/a.sarif") == "faulty.py"
    monkeypatch.setenv(variable, str(project))
    inside("faulty.py", "-o", "a.sarif")
    assert first_uri(project / "sub/a.sarif") == "sub/faulty.py"
    monkeypatch.setenv(variable, "/elsewhere")
    inside("faulty.py", "-o", "a.sarif")
    assert first_uri(project / "sub/a.sarif") == "faulty.py"
