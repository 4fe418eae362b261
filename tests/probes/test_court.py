"""Suspicions on trial, from the command line on: verdicts, convictions, and what cannot be tried."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NETWORKS = ROOT / "tests" / "networks"
REFERENCE = ROOT / "reference_impl"


def esper(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder."""
    sources = os.pathsep.join(str(ROOT / folder) for folder in ("auditor", "rules", "reference_impl"))
    environment = {**os.environ, "PYTHONPATH": sources, "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "esper_audit", *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def audited(*words: str, cwd: Path) -> Mapping[str, Any]:
    """The JSON report of an audit."""
    report: Mapping[str, Any] = json.loads(esper(*words, "--format", "json", cwd=cwd).stdout)
    return report


@pytest.fixture(scope="module")
def twin() -> Mapping[str, Any]:
    """The faulty scheduler, audited and tried, once for all tests."""
    return audited("network.py", "--probe", cwd=NETWORKS / "twin")


# The numbers come from experiments: that they are there, and what they are about, is what can be relied on.
CONFIRMED = {
    "ESP102": "get_action` 5 graphs, 2 breaks (masks.py:",
    "ESP103": "0 in `get_action`, 0 in `evaluate_actions`",
    "ESP201": "in bfloat16 a step from the initial state (float32) raises",
    "ESP301": "element 0 of tensors does not require grad",
    "ESP303": "Inference tensors cannot be saved for backward",
    "ESP304": "float16: gradients of",
    "ESP402": "8 masking operations for 4 heads",
    "ESP501": "`forward` accepts it and gives other numbers",
    "ESP503": "a mask of width 1 in forward is accepted",
    "ESP602": "of the forget gate is 2.00",
}


@pytest.mark.parametrize("code", CONFIRMED)
def test_each_fault_of_the_twin_that_can_be_tried_is_confirmed_with_a_number(
    code: str, twin: Mapping[str, Any]
) -> None:
    found = [finding for finding in twin["findings"] if finding["code"] == code]
    assert found
    for finding in found:
        assert (finding["verdict"], finding["confidence"]) == ("confirmed", "high")
        assert CONFIRMED[code] in finding["evidence"]


def test_what_no_rule_saw_is_a_finding_of_the_experiment(tmp_path: Path) -> None:
    shutil.copytree(NETWORKS / "twin", tmp_path, dirs_exist_ok=True)
    words = ("network.py", "--probe", "--fail-on", "info", "--select", "ESP680")
    (finding,) = audited(*words, cwd=tmp_path)["findings"]
    assert (finding["origin"], finding["symbol"]) == ("probe", "SchedulerActorCritic")
    assert "deviates from orthogonal" in finding["evidence"]


def test_what_a_rule_saw_is_confirmed_and_no_second_finding(twin: Mapping[str, Any]) -> None:
    seen = {finding["code"]: finding for finding in twin["findings"]}
    assert "deviates from orthogonal" in seen["ESP608"]["evidence"]
    assert [code for code, finding in seen.items() if finding["origin"] == "probe"] == []


def test_a_probe_that_confirmed_the_finding_of_one_rule_convicts_under_no_other(twin: Mapping[str, Any]) -> None:
    assert "ESP502" not in {finding["code"] for finding in twin["findings"]}  # mask-rank decided ESP501


def test_every_experiment_is_told_and_its_verdict_is_about_the_claim(twin: Mapping[str, Any]) -> None:
    verdicts = {probe["id"]: probe["verdict"] for probe in twin["probes"]}
    assert len(verdicts) >= 30
    assert verdicts["hidden-dtype"] == "refuted"
    assert verdicts["act-evaluate"] == "confirmed"
    assert verdicts["episode-reset"] == "inconclusive"
    assert {probe["subject"] for probe in twin["probes"]} == {"network.py::SchedulerActorCritic"}


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        (NETWORKS / "twin_fixed", "network.py"),
        (NETWORKS / "healthy", "policy.py"),
        (REFERENCE, "esper_reference/network.py"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_sound_network_is_convicted_of_nothing(folder: Path, file: str) -> None:
    report = audited(file, "--probe", cwd=folder)
    assert [finding["code"] for finding in report["findings"] if finding["origin"] == "probe"] == []
    held = [probe for probe in report["probes"] if probe["verdict"] == "confirmed"]
    assert len(held) >= 24


def test_no_style_of_writing_a_sound_network_is_convicted(tmp_path: Path) -> None:
    shutil.copytree(NETWORKS / "styles", tmp_path, dirs_exist_ok=True)
    report = audited(".", "--probe", "--ignore", "ESP1", cwd=tmp_path)
    assert [(f["path"], f["code"], f["evidence"]) for f in report["findings"] if f["origin"] == "probe"] == []
    assert len({probe["subject"] for probe in report["probes"]}) >= 12


# A refuted suspicion


REFUTED = """
import torch
from torch import nn
from torch.distributions import Categorical


class Policy(nn.Module):
    def __init__(self, obs_dim: int, num_actions: int) -> None:
        super().__init__()
        self.body = nn.Linear(obs_dim, 16)
        self.action_head = nn.Linear(16, num_actions)
        self.value_head = nn.Linear(16, 1)

    def forward(self, obs, action_mask):
        features = torch.tanh(self.body(obs))
        logits = self.action_head(features)
        if logits.dtype == torch.float16:
            logits = logits + 0.0
            return logits.float().masked_fill(~action_mask, -1e9), self.value_head(features).squeeze(-1)
        return logits.masked_fill(~action_mask, -1e9), self.value_head(features).squeeze(-1)

    @torch.no_grad()
    def act(self, obs, action_mask):
        \"\"\"No gradient flows through the log-prob.\"\"\"
        logits, value = self(obs, action_mask)
        dist = Categorical(logits=logits)
        action = dist.sample()
        return action, dist.log_prob(action), value

    def evaluate_actions(self, obs, action_mask, actions):
        logits, value = self(obs, action_mask)
        dist = Categorical(logits=logits)
        return dist.log_prob(actions), value, dist.entropy()
"""


def test_a_refuted_finding_stays_in_the_report_with_its_number_and_fails_no_run(tmp_path: Path) -> None:
    (tmp_path / "policy.py").write_text(REFUTED)
    words = ("policy.py", "--select", "ESP203", "--fail-on", "info")
    assert esper(*words, cwd=tmp_path).returncode == 1
    done = esper(*words, "--probe", cwd=tmp_path)
    assert done.returncode == 0
    assert "refuted by experiment" in done.stdout
    shown = esper(*words, "--probe", "--show-refuted", cwd=tmp_path).stdout
    assert "probe mask-dtype: REFUTED, runs in float16 and bfloat16" in shown
    report = esper(*words, "--probe", "--format", "markdown", cwd=tmp_path).stdout
    assert "runs in float16 and bfloat16" in report.partition("## Refuted by experiment")[2]
    assert "2.13" in report.partition("## Executive summary")[0]


# What cannot be tried


def test_a_network_that_cannot_be_built_leaves_its_findings_undecided_and_says_what_to_write(tmp_path: Path) -> None:
    source = REFUTED.replace("obs_dim: int, num_actions: int", "config").replace("obs_dim, 16", "config.obs_dim, 16")
    (tmp_path / "policy.py").write_text(source.replace("(16, num_actions)", "(16, config.num_actions)"))
    report = audited("policy.py", "--probe", "--select", "ESP203", cwd=tmp_path)
    assert {finding["verdict"] for finding in report["findings"]} == {"inconclusive"}
    evidence = report["findings"][0]["evidence"]
    assert "cannot guess `config` of Policy" in evidence
    assert '[tool.esper-audit.probe."policy.py::Policy"]' in evidence


@pytest.mark.parametrize(
    "entry",
    ["args = { first = 9, second = 3 }", 'factory = "making:policy"'],
)
def test_the_configuration_says_how_to_build(entry: str, tmp_path: Path) -> None:
    (tmp_path / "policy.py").write_text(REFUTED.replace("obs_dim: int, num_actions: int", "first, second").replace(
        "nn.Linear(obs_dim", "nn.Linear(first").replace("16, num_actions", "16, second"))  # fmt: skip
    (tmp_path / "making.py").write_text("from policy import Policy\n\n\ndef policy():\n    return Policy(9, 3)\n")
    (tmp_path / "pyproject.toml").write_text(f'[tool.esper-audit.probe."policy.py::Policy"]\n{entry}\n')
    done = esper("probe", "policy.py::Policy", cwd=tmp_path)
    assert "holds act-evaluate" in done.stdout
    assert "for head `action` of 3 actions" in done.stdout


def test_a_comment_above_the_class_says_how_to_build(tmp_path: Path) -> None:
    source = REFUTED.replace("obs_dim: int, num_actions: int", "config, obs_dim=0, num_actions=0")
    comment = "# esper: probe(config=None, obs_dim=9, num_actions=3)\nclass Policy"
    (tmp_path / "policy.py").write_text(source.replace("class Policy", comment))
    assert "for head `action` of 3 actions" in esper("probe", "policy.py", cwd=tmp_path).stdout
    (tmp_path / "policy.py").write_text(source.replace("class Policy", "# esper: probe(config=open)\nclass Policy"))
    done = esper("probe", "policy.py", cwd=tmp_path)
    assert "expected `# esper: probe(name=literal, ...)`" in " ".join(done.stdout.split())


def test_without_the_flag_nothing_is_imported(tmp_path: Path) -> None:
    (tmp_path / "policy.py").write_text("open('imported', 'w').close()\n" + REFUTED)
    esper("policy.py", cwd=tmp_path)
    assert not (tmp_path / "imported").exists()


def test_a_configuration_that_asks_for_experiments_counts_only_in_the_current_folder(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "policy.py").write_text(REFUTED)
    (theirs / "pyproject.toml").write_text("[tool.esper-audit]\nprobe = true\n")
    assert audited("theirs/policy.py", cwd=tmp_path)["probes"] == []
    assert audited("policy.py", cwd=theirs)["probes"] != []
    assert audited("policy.py", "--no-probe", cwd=theirs)["probes"] == []


# The command that only tries


def test_the_probe_command_tells_every_number_and_fails_when_a_claim_does() -> None:
    done = esper("probe", "network.py::SchedulerActorCritic", cwd=NETWORKS / "twin")
    assert done.returncode == 1
    assert "FAILS hidden-dtype" in done.stdout
    assert "no    compile-coverage" in done.stdout
    assert "claims hold" in done.stdout
    assert re.search(r"^ +part +log_prob +entropy +value$", done.stdout, re.MULTILINE)
    assert re.search(r"^ +evaluate: entropy +\d\.\de-\d\d +(raw|/ log n|/ log n_valid)$", done.stdout, re.MULTILINE)


def test_a_class_that_is_not_there_is_told_with_the_nearest_name() -> None:
    done = esper("probe", "network.py::SchedulerActor", cwd=NETWORKS / "twin")
    assert done.returncode == 2
    assert "network.py defines no network 'SchedulerActor'; did you mean 'SchedulerActorCritic'?" in done.stderr


def test_a_code_of_an_experiment_can_be_selected_ignored_suppressed_and_explained(tmp_path: Path) -> None:
    shutil.copytree(NETWORKS / "twin", tmp_path, dirs_exist_ok=True)
    words = ("network.py", "--probe", "--fail-on", "info")
    assert {f["code"] for f in audited(*words, "--select", "ESP680", cwd=tmp_path)["findings"]} == {"ESP680"}
    path = tmp_path / "network.py"
    text = path.read_text()
    comment = "# esper: ignore[ESP680] as in the paper\n"
    path.write_text(text.replace("class SchedulerActorCritic", f"{comment}class SchedulerActorCritic"))
    report = audited(*words, "--select", "ESP680,ESP901", cwd=tmp_path)
    assert report["findings"] == []
    assert [finding["reason"] for finding in report["suppressed"]] == ["as in the paper"]
    assert "gate by gate" in esper("explain", "ESP680", cwd=tmp_path).stdout
