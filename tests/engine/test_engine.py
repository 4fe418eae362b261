"""From a request to a report, with an auditor that finds what it is told to find."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from esper_audit.core.errors import ConfigError, SourceError, UsageError
from esper_audit.core.findings import Confidence, Severity
from esper_audit.core.report import AuditReport
from esper_audit.engine import AnyRule, CheckRequest, audit, exit_code, prepare

from .toy_auditor import TOY_RULES, Workbench, codes


def statuses(report: AuditReport) -> dict[str, str]:
    return {file.path: file.status for file in report.files}


# --- which files are audited


def test_files_without_torch_are_skipped_and_no_rule_is_loaded_for_them(bench: Workbench) -> None:
    bench.write("a.py", "x = 1  # <- ESP201\n")
    report = bench.audit("a.py")
    assert statuses(report) == {"a.py": "skipped"}
    assert bench.made is None
    assert bench.plan is not None
    assert not bench.plan.catalogue.loaded
    assert report.notes == ("a.py defines no PyTorch network",)


def test_a_named_file_that_is_no_python_is_told_even_without_torch(bench: Workbench) -> None:
    bench.write("a.py", "def f(:\n")
    bench.write("b/c.py", "def f(:\n")
    report = bench.audit("a.py", "b")
    assert statuses(report) == {"a.py": "unparsable", "b/c.py": "skipped"}
    assert report.files[0].error_line == 1


def test_a_broken_file_does_not_end_the_run(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n")
    bench.write("broken.py", "import torch\ndef f(:\n")
    bench.write("crash.py", "import torch  # crash\n")
    (bench.folder / "gone.py").symlink_to("nowhere.py")
    report = bench.audit("broken.py", "crash.py", "gone.py", "net.py")
    assert statuses(report) == {
        "broken.py": "unparsable",
        "crash.py": "crashed",
        "gone.py": "unparsable",
        "net.py": "audited",
    }
    errors = {file.path: file.error for file in report.files}
    assert errors["crash.py"] == "the audit failed: ZeroDivisionError: rule ESP201 fell over"
    assert errors["gone.py"] == "cannot be read: no such file or directory"
    assert codes(report.findings) == [("ESP201", 4)]


def test_standard_input_is_audited_under_its_name(bench: Workbench) -> None:
    report = bench.audit("-", stdin=b"import torch\nx = 1  # <- ESP201\n", stdin_filename="agent/net.py")
    assert [finding.span.path for finding in report.findings] == ["agent/net.py"]
    assert report.sources["agent/net.py"][1] == "x = 1  # <- ESP201"
    assert statuses(bench.audit("-", stdin=b"x = 1\n")) == {"<stdin>": "skipped"}


@pytest.mark.usefixtures("bench")
def test_closed_standard_input_is_an_unreadable_file() -> None:
    def closed() -> bytes:
        raise SourceError("cannot be read: standard input is closed")

    plan = prepare(CheckRequest(paths=("-",)), rules=lambda _: TOY_RULES)
    report = audit(plan, stdin=closed)
    assert statuses(report) == {"<stdin>": "unparsable"}
    assert exit_code(report, plan) == 3


def test_excluded_and_consulted_files_are_listed_as_such(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201 at masks.py:1\n")
    bench.write("masks.py", "FILL = 1\n")
    bench.write("old.py", "import torch\n")
    bench.write("pyproject.toml", '[tool.esper-audit]\nexclude = ["old.py"]\n')
    report = bench.audit("net.py", "old.py", force_exclude=True)
    assert statuses(report) == {"masks.py": "consulted", "net.py": "audited", "old.py": "skipped"}


def test_a_missing_path_leaves_the_rest_of_the_run(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n")
    report = bench.audit("net.py", "nte.py")
    assert bench.plan is not None
    assert bench.plan.problems == ("no such file or folder: 'nte.py'; did you mean 'net.py'?",)
    assert codes(report.findings) == [("ESP201", 4)]
    assert exit_code(report, bench.plan) == 2


def test_nothing_but_missing_paths_is_wrong_use(bench: Workbench) -> None:
    with pytest.raises(UsageError) as error:
        bench.audit("chek", "qqqq")
    assert str(error.value).split("\n") == [
        "no such file or folder: 'chek'; did you mean the command 'check'?",
        "no such file or folder: 'qqqq'",
    ]


def test_progress_is_told_before_each_file(bench: Workbench) -> None:
    for name in ("b.py", "a.py"):
        bench.write(name, "x = 1\n")
    told: list[tuple[int, int, str]] = []
    audit(prepare(CheckRequest(paths=(".",))), progress=lambda *step: told.append(step))
    assert told == [(0, 2, "a.py"), (1, 2, "b.py")]


# --- one finding per fault


def test_a_finding_that_two_networks_raise_in_one_place_is_reported_once(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP301 at masks.py:1\n", "a.py")
    bench.network("    x = 1  # <- ESP301 at masks.py:1\n", "b.py")
    bench.write("masks.py", "FILL = 1\n")
    assert [finding.message for finding in bench.audit("a.py", "b.py").findings] == ["found by a.py"]


def test_a_files_own_audit_has_the_first_word_on_it(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP301 at masks.py:2\n", "a.py")
    bench.write("masks.py", "import torch\nF=1  # <- ESP301\n")
    report = bench.audit("a.py", "masks.py")
    assert [(finding.span.path, finding.message) for finding in report.findings] == [("masks.py", "found")]


def test_one_network_may_say_two_things_about_one_place(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201 # <- ESP202 # <- ESP201\n")
    assert codes(bench.audit().findings) == [("ESP201", 4), ("ESP202", 4)]


def test_highlights_are_told_once_and_sorted(bench: Workbench) -> None:
    bench.network("    y = 1  # praise\n    x = 1  # praise\n")
    report = bench.audit("net.py", ".")
    assert [highlight.line for highlight in report.highlights] == [4, 5]


# --- settings


def test_rules_that_are_not_selected_do_not_run(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201 # <- ESP301\n")
    assert codes(bench.audit(select=("ESP3",)).findings) == [("ESP301", 4)]
    assert bench.made is not None
    assert list(bench.made.rules) == ["ESP301"]


def test_an_unknown_code_is_an_error_even_when_no_file_needs_the_rules(bench: Workbench) -> None:
    bench.write("a.py", "x = 1\n")
    with pytest.raises(ConfigError, match=r"^--select: unknown rule 'ESP999'"):
        bench.audit("a.py", select=("ESP999",))


def test_roles_and_rules_reach_the_auditor(bench: Workbench) -> None:
    bench.network("    x = 1\n")
    bench.write("pyproject.toml", '[tool.esper-audit.roles]\nchoose = "act"\n')
    report = bench.audit()
    assert bench.made is not None
    assert bench.made.roles == {"choose": "act"}
    assert [rule.code for rule in report.rules] == [*TOY_RULES, "ESP901", "ESP902", "ESP903"]


def test_plugins_of_the_configuration_reach_the_catalogue(bench: Workbench) -> None:
    bench.network("    x = 1\n")
    bench.write("pyproject.toml", '[tool.esper-audit]\nplugins = ["my_rules"]\n')
    seen: list[Sequence[str]] = []

    def loader(plugins: Sequence[str]) -> dict[str, AnyRule]:
        seen.append(plugins)
        return {}

    plan = prepare(CheckRequest(paths=("net.py",)), rules=loader)
    assert plan.catalogue.rules == {}
    assert seen == [("my_rules",)]


def test_severities_and_per_file_ignores_are_applied(bench: Workbench) -> None:
    body = "    x = 1  # <- ESP201 # <- ESP202\n"
    bench.network(body)
    bench.network(body, "tests/net.py")
    bench.write(
        "pyproject.toml",
        '[tool.esper-audit.severity]\nESP201 = "info"\n[tool.esper-audit.per-file-ignores]\n"tests/" = ["ESP202"]\n',
    )
    report = bench.audit(".")
    assert [(f.span.path, f.code, f.severity.value) for f in report.findings] == [
        ("net.py", "ESP201", "info"),
        ("net.py", "ESP202", "medium"),
        ("tests/net.py", "ESP201", "info"),
    ]


def test_thresholds_hide_what_is_below_them(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201 low\n    y = 1  # <- ESP603\n    z = 1  # <- ESP202 medium\n")
    assert codes(bench.audit().findings) == [("ESP201", 4), ("ESP603", 5), ("ESP202", 6)]
    assert codes(bench.audit(min_confidence=Confidence.MEDIUM).findings) == [("ESP603", 5), ("ESP202", 6)]
    assert codes(bench.audit(min_severity=Severity.MEDIUM).findings) == [("ESP201", 4), ("ESP202", 6)]


# --- the report


def test_fingerprints_survive_moved_and_reindented_lines(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n    x = 1  # <- ESP201\n")
    before = [finding.fingerprint for finding in bench.audit().findings]
    bench.network("    pass\n    if y:\n        x  =  1  # <- ESP201\n    x = 1  # <- ESP201\n")
    assert [finding.fingerprint for finding in bench.audit().findings] == before
    assert [fingerprint[-2:] for fingerprint in before] == [":0", ":1"]
    assert len({fingerprint[:-2] for fingerprint in before}) == 1


def test_two_runs_give_the_same_report_whatever_the_order_of_the_words(bench: Workbench) -> None:
    for name in ("b.py", "a.py", "c/d.py"):
        bench.network("    x = 1  # <- ESP201 at masks.py:1\n    y = 1  # <- ESP202\n    z = 1  # praise\n", name)
    bench.write("masks.py", "x = 1\n")
    bench.write("c/masks.py", "x = 1\n")
    first = json.dumps(bench.audit("a.py", "b.py", "c").to_json())
    assert json.dumps(bench.audit("c", "b.py", "a.py").to_json()) == first


def test_the_sources_of_everything_shown_are_at_hand(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201 at masks.py:2\r\n\fy = 1  # praise\r\n")
    bench.write("masks.py", "a = 1\r\nb = 2\r\n")
    report = bench.audit()
    assert report.sources["masks.py"] == ("a = 1", "b = 2", "")
    assert report.sources["net.py"][4] == "\fy = 1  # praise"


def test_a_finding_in_a_file_that_has_gone_is_still_reported(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201 at gone.py:2\n")
    report = bench.audit()
    assert codes(report.findings) == [("ESP201", 2)]
    assert report.sources == {}


def test_no_network_anywhere_is_told_once(bench: Workbench) -> None:
    bench.write("a.py", "import torch\n")
    bench.write("b.py", "import torch\n")
    assert bench.audit("a.py", "b.py").notes == ("none of the 2 files defines a PyTorch network",)
    bench.network("    pass\n")
    assert bench.audit("a.py", "net.py").notes == ()


def test_details_are_told_only_on_request(bench: Workbench) -> None:
    bench.network("    pass\n")
    bench.write("a.py", "x = 1\n")
    (bench.folder / "loop").symlink_to(".", target_is_directory=True)
    assert bench.audit(".").notes == ()
    assert bench.audit(".", verbose=True).notes == (
        "link not followed: loop",
        "a.py: skipped, torch does not occur in it",
    )


# --- exit codes


@pytest.mark.parametrize(
    ("marks", "request_", "expected"),
    [
        ("", {}, 0),
        ("# <- ESP603", {}, 0),
        ("# <- ESP202", {}, 1),
        ("# <- ESP202", {"fail_on": Severity.HIGH}, 0),
        ("# <- ESP603", {"fail_on": Severity.LOW}, 1),
        ("# <- ESP301", {"exit_zero": True}, 0),
        ("# <- ESP301", {"min_severity": Severity.CRITICAL}, 1),
        ("# <- ESP201", {"min_severity": Severity.CRITICAL}, 0),
    ],
)
def test_findings_from_fail_on_up_fail_the_run(
    bench: Workbench, marks: str, request_: dict[str, Any], expected: int
) -> None:
    bench.network(f"    x = 1  {marks}\n")
    report = bench.audit(**request_)
    assert bench.plan is not None
    assert exit_code(report, bench.plan) == expected


def test_fail_on_may_come_from_the_configuration(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP603\n")
    bench.write("pyproject.toml", '[tool.esper-audit]\nfail-on = "info"\n')
    report = bench.audit()
    assert bench.plan is not None
    assert exit_code(report, bench.plan) == 1


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        ("import torch\ndef f(:\n", "bad/net.py", 3),
        ("import torch\ndef f(:\n", "bad", 0),
        ("import torch  # crash\n", "bad", 3),
        ("import torch  # crash\n", "bad/net.py", 3),
    ],
)
def test_an_audit_that_failed_is_3_when_the_broken_file_was_named(
    bench: Workbench, text: str, word: str, expected: int
) -> None:
    path: Path = bench.write("bad/net.py", text)
    assert path.exists()
    report = bench.audit(word, exit_zero=True)
    assert bench.plan is not None
    assert exit_code(report, bench.plan) == expected


def test_the_current_folder_may_have_gone(bench: Workbench) -> None:
    lost = bench.folder / "lost"
    lost.mkdir()
    import os

    os.chdir(lost)
    lost.rmdir()
    with pytest.raises(UsageError, match="the current folder does not exist any more"):
        bench.audit("x.py")
