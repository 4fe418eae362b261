"""The whole auditor on the networks that are shipped with the tests: every planted fault, and no false alarm."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from esper_audit import __version__
from esper_audit.__main__ import main
from esper_audit.audit import Auditor
from esper_audit.core.findings import Finding, Severity
from esper_audit.rulekit.registry import load_rules

TESTS = Path(__file__).resolve().parents[1]
NETWORKS = TESTS / "networks"
SCHEMA = TESTS / "reporters" / "esper-audit-1.schema.json"
Place = tuple[str, int, str]
Tell = Callable[..., str]

# What the README beside the networks tells; a fault that shows at several places is reported where the cure begins.
FAULTS: list[Place] = [
    ("agent.py", 59, "ESP103"),
    ("agent.py", 59, "ESP112"),
    ("masks.py", 76, "ESP304"),
    ("network.py", 68, "ESP401"),
    ("network.py", 105, "ESP608"),
    ("network.py", 110, "ESP602"),
    ("network.py", 115, "ESP201"),
    ("network.py", 116, "ESP201"),
    ("network.py", 144, "ESP105"),
    ("network.py", 188, "ESP501"),
    ("network.py", 197, "ESP301"),
    ("network.py", 206, "ESP102"),
    ("network.py", 206, "ESP402"),
    ("network.py", 210, "ESP303"),
    ("network.py", 228, "ESP503"),
    ("network.py", 241, "ESP102"),
    ("network.py", 241, "ESP402"),
]


class MarkdownFile(SingleFileSnapshotExtension):
    """A snapshot that a forge renders."""

    _file_extension = file_extension = "md"
    _write_mode = write_mode = WriteMode.TEXT


class TextFile(SingleFileSnapshotExtension):
    """A snapshot that reads like the terminal."""

    _file_extension = file_extension = "txt"
    _write_mode = write_mode = WriteMode.TEXT


def auditor() -> Auditor:
    return Auditor(list(load_rules().values()), display=lambda path: path.relative_to(NETWORKS).as_posix())


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (NETWORKS / folder).rglob("*.py"))


def findings_of(*paths: Path, alone: bool = False) -> set[Finding]:
    """What is found in the files, by one auditor or by one for each."""
    shared = auditor()
    found: set[Finding] = set()
    for path in paths:
        result = (auditor() if alone else shared).audit_file(path)
        assert result.report.status in ("audited", "skipped"), result.report.error
        found.update(result.findings)
    return found


@cache
def findings_in(folder: str) -> frozenset[Finding]:
    """What is found when the files of a network are audited together; asked once, for many tests want it."""
    return frozenset(findings_of(*sources(folder)))


def places(found: Iterable[Finding]) -> list[Place]:
    return sorted((Path(finding.span.path).name, finding.span.line, finding.code) for finding in found)


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Tell:
    """What the command line prints beside the networks, without the version of the tool."""
    monkeypatch.chdir(NETWORKS)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["esper-audit", *words, "--isolated"])
        capfd.readouterr()
        main()
        return re.sub(rf'(esper-audit |"version": "){re.escape(__version__)}', r"\g<1>0.0.0", capfd.readouterr().out)

    return run


def process(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The tool in a process of its own."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    return subprocess.run(
        [sys.executable, "-m", "esper_audit", *words],
        cwd=folder,
        env={**kept, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


# the faults of the twin


def test_every_fault_of_the_twin_is_reported_at_its_line_and_nothing_else() -> None:
    assert places(findings_in("twin")) == FAULTS


def test_the_readme_of_the_networks_names_only_faults_that_are_reported_or_have_no_rule_yet() -> None:
    rules = load_rules()
    codes = {rule.name: code for code, rule in rules.items()} | {code: code for code in rules}
    table = (NETWORKS / "README.md").read_text(encoding="utf-8").split("## What is wrong with `twin/`")[1]
    named = [row.strip("|").split("|")[-1].strip() for row in table.split("\n\n")[1].splitlines()[2:]]
    assert len(named) > 10
    assert {codes[name] for name in named if name in codes} == {code for _, _, code in FAULTS}


def test_a_mask_that_is_applied_twice_is_shown_at_both_places() -> None:
    doubled = next(finding for finding in findings_in("twin") if finding.code == "ESP402")
    shown = {(Path(related.span.path).name, related.span.line) for related in doubled.related}
    assert ("masks.py", 52) in shown
    assert shown & {("network.py", line) for line in (149, 152, 155, 158)}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("network.py", FAULTS),
        ("agent.py", [("agent.py", 59, "ESP103"), ("agent.py", 59, "ESP112")]),
        ("masks.py", [("masks.py", 76, "ESP304")]),
        ("buffer.py", []),
    ],
)
def test_a_file_named_alone_gives_what_stands_in_it_or_concerns_its_network(name: str, wanted: list[Place]) -> None:
    assert places(findings_of(NETWORKS / "twin" / name)) == wanted


# no false alarms


@pytest.mark.parametrize("folder", ["twin_fixed", "healthy", "styles"])
def test_a_sound_network_gives_nothing_at_medium_or_above(folder: str) -> None:
    found = findings_in(folder)
    assert [str(finding) for finding in found if finding.severity.at_least(Severity.MEDIUM)] == []


def test_the_cured_twin_gives_nothing_at_all() -> None:
    assert places(findings_in("twin_fixed")) == []


@pytest.mark.parametrize("path", sources("styles"), ids=lambda path: path.stem)
def test_every_style_is_seen_as_a_network(path: Path) -> None:
    assert auditor().audit_file(path).report.networks


# the same, whichever way it is asked


@pytest.mark.parametrize("folder", ["twin", "twin_fixed", "healthy", "styles"])
def test_files_audited_together_or_one_by_one_give_the_same(folder: str) -> None:
    paths = sources(folder)
    together = findings_in(folder)
    assert findings_of(*paths, alone=True) == together
    assert findings_of(*reversed(paths)) == together


def test_a_rule_finds_alone_what_it_finds_among_the_others() -> None:
    apart: set[Finding] = set()
    for rule in load_rules().values():
        single = Auditor([rule], display=lambda path: path.relative_to(NETWORKS).as_posix())
        apart.update(finding for path in sources("twin") for finding in single.audit_file(path).findings)
    assert apart == findings_in("twin")


def test_two_runs_give_identical_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    runs = []
    for seed in ("1", "20"):
        page = tmp_path / f"{seed}.md"
        words = (
            "twin",
            "healthy",
            "styles",
            "--reproducible",
            "--isolated",
            "--format",
            "json",
            "-o",
            f"markdown:{page}",
        )
        result = process(NETWORKS, *words, PYTHONHASHSEED=seed)
        assert result.returncode == 1
        runs.append((result.stdout, page.read_bytes()))
    assert runs[0] == runs[1]
    assert all(b"ESP501" in written for written in runs[0])


# reports


def test_markdown_audit_of_the_twin(tell: Tell, snapshot: SnapshotAssertion) -> None:
    assert tell("twin", "--format", "markdown", "--reproducible") == snapshot.use_extension(MarkdownFile)


def test_concise_audit_of_the_twin(tell: Tell, snapshot: SnapshotAssertion) -> None:
    assert tell("twin", "--format", "concise") == snapshot.use_extension(TextFile)


def test_the_json_of_a_real_run_follows_the_schema(tell: Tell) -> None:
    report: Any = json.loads(tell("twin", "healthy", "styles", "twin_fixed", "--format", "json"))
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(report)
    assert report["findings"]
    assert report["highlights"]


# a rule that crashes


PLUGIN = '''\
from esper_audit.rulekit import Category, Rule, Severity


class Crashing(Rule):
    """A rule with a bug."""

    code = "MINE101"
    name = "crashing"
    summary = "crashes"
    category = Category.QUALITY
    severity = Severity.LOW
    help = ""

    def check_network(self, net, module):
        raise ValueError("no such luck")
'''


@pytest.fixture
def crashing(tmp_path: Path) -> Path:
    """A project whose own rule crashes, with a network that other rules find fault with."""
    source = """\
        import torch
        from torch import nn


        class Policy(nn.Module):
            def __init__(self):
                super().__init__()
                self.core = nn.GRU(4, 4)
                self.head = nn.Linear(4, 2)

            def get_initial_hidden(self, batch, device):
                return torch.zeros(1, batch, 4, device=device)

            def forward(self, obs, hidden):
                features, hidden = self.core(obs, hidden)
                return self.head(features), hidden
        """
    (tmp_path / "pyproject.toml").write_text('[tool.esper-audit]\nplugins = ["house_rules"]\n')
    (tmp_path / "house_rules").mkdir()
    (tmp_path / "house_rules" / "__init__.py").touch()
    (tmp_path / "house_rules" / "crashing.py").write_text(PLUGIN)
    (tmp_path / "network.py").write_text(textwrap.dedent(source))
    return tmp_path


def test_a_rule_that_crashes_is_reported_and_silences_no_other(crashing: Path) -> None:
    result = process(crashing, "network.py", "--format", "json")
    report = json.loads(result.stdout)
    assert result.returncode == 3
    assert b"MINE101 crashed on Policy: ValueError: no such luck" in result.stderr
    assert [file["status"] for file in report["files"]] == ["crashed"]
    assert [(finding["code"], finding["line"]) for finding in report["findings"]] == [("ESP201", 12)]
    jsonschema.validate(report, json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_a_rule_that_is_not_selected_cannot_crash(crashing: Path) -> None:
    result = process(crashing, "network.py", "--format", "concise", "--ignore", "MINE101", "--fail-on", "low")
    assert (result.returncode, result.stderr) == (1, b"")
    assert result.stdout.startswith(b"network.py:12:")


def test_the_installed_command_finds_plugins_beside_the_configuration(crashing: Path) -> None:
    """`python -m` puts the current folder on the path of imports, a console script does not."""
    script = (
        "import sys; sys.path[:] = [p for p in sys.path if p]; from esper_audit.__main__ import main; sys.exit(main())"
    )
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    result = subprocess.run(
        [sys.executable, "-c", script, "list-rules"],
        cwd=crashing,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert "MINE101" in result.stdout, result.stderr


def test_what_two_networks_of_a_file_share_is_reported_once(tmp_path: Path) -> None:
    """An import belongs to the file, not to each of its networks."""
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'shared'\nversion = '0'\n")
    (tmp_path / "network.py").write_text(
        "from functools import reduce\n"
        "from torch import nn\n\n\n"
        "def _product(values):\n    return reduce(lambda a, b: a * b, values)\n\n\n"
        "class Actor(nn.Module):\n    def forward(self, x):\n        return x\n\n\n"
        "class Critic(nn.Module):\n    def forward(self, x):\n        return x\n"
    )
    report = json.loads(process(tmp_path, "network.py", "--format", "json").stdout)
    assert [finding["code"] for finding in report["findings"]] == ["ESP601"]
