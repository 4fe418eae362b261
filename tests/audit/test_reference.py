"""The auditor has nothing to say about the reference implementation, and notices each fault that is planted into it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REFERENCE = Path(__file__).resolve().parents[2] / "reference_impl"


class Fault(NamedTuple):
    """A fault: what it is called, and the text of one file that is replaced."""

    code: str
    name: str
    file: str
    right: str
    wrong: str


FRESH_STATE = "return weight.new_zeros(shape), weight.new_zeros(shape)"
SAYS_SO = """\
        No gradient flows through anything returned, the log-probs least of all: they are the constant denominator of
        the PPO ratio, and the numerator comes from `evaluate_actions`. All of it are plain tensors, not inference
        tensors: store them, slice them, feed them back.
"""
ONE_BIAS = """\
                if name.startswith("bias_ih"):
                    parameter.chunk(4)[1].fill_(1.0)
"""

FAULTS = [
    Fault(
        "ESP101", "the network compiles a part of itself", "network.py",
        "        self.reset_parameters()\n\n", "        self.trunk = torch.compile(self.trunk)\n\n",
    ),
    Fault(
        "ESP103", "the network is compiled and its methods are called", "ppo.py",
        '    for name in ("get_action", "evaluate_actions"):\n'
        "        setattr(network, name, _compiled(getattr(network, name)))\n",
        "    network = torch.compile(network)\n    network.get_action()\n",
    ),
    Fault("ESP201", "zeros without dtype", "network.py", FRESH_STATE,
          "return torch.zeros(shape, device=weight.device), torch.zeros(shape, device=weight.device)"),
    Fault("ESP202", "zeros without device", "network.py", FRESH_STATE,
          "return torch.zeros(shape, dtype=weight.dtype), torch.zeros(shape, dtype=weight.dtype)"),
    Fault("ESP203", "the logits stay in half precision", "distributions.py", "wide.masked_fill", "logits.masked_fill"),
    Fault("ESP301", "the docstring does not speak of gradients", "network.py", SAYS_SO, "        For the rollout.\n"),
    Fault("ESP302", "-inf and p * log_p", "distributions.py", "MASKED_LOGIT = -1e30", "MASKED_LOGIT = -math.inf"),
    Fault(
        "ESP303", "inference_mode on act", "network.py",
        "    @torch.no_grad()\n    def get_action", "    @torch.inference_mode()\n    def get_action",
    ),
    Fault("ESP304", "a normaliser clamped to 1e-8", "distributions.py", "clamp(min=math.log(2.0))", "clamp(min=1e-8)"),
    Fault(
        "ESP401", "an attribute that nobody reads", "network.py",
        "        self.reset_parameters()\n\n",
        "        self.reset_parameters()\n        self.largest = {k: math.log(n) for k, n in head_sizes.items()}\n\n",
    ),
    Fault("ESP602", "the forget bias in both vectors", "network.py", ONE_BIAS,
          "                parameter.chunk(4)[1].fill_(1.0)\n"),
]  # fmt: skip


def audited(folder: Path) -> Mapping[str, Any]:
    """The JSON report about the package in `folder`, as the command prints it."""
    words = [sys.executable, "-m", "esper_audit", "esper_reference", "--isolated", "--format", "json"]
    done = subprocess.run(words, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    report: Mapping[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The reference as a project of its own."""
    shutil.copytree(REFERENCE, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def test_there_is_no_finding_and_no_suppression() -> None:
    report = audited(REFERENCE)
    assert report["findings"] == []
    assert report["suppressed"] == []
    assert [network["name"] for file in report["files"] for network in file["networks"]] == [
        "FactoredActorCritic",
        "WithoutMemory",
        "WithoutMasks",
    ]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.code}-{fault.name}".replace(" ", "-"))
def test_a_planted_fault_is_reported_where_it_stands_and_nothing_else_is(fault: Fault, copied: Path) -> None:
    path = copied / "esper_reference" / fault.file
    source = path.read_text(encoding="utf-8")
    assert source.count(fault.right) == 1
    path.write_text(source.replace(fault.right, fault.wrong), encoding="utf-8")
    findings = audited(copied)["findings"]
    assert {finding["code"] for finding in findings} == {fault.code}
    assert {finding["path"] for finding in findings} == {f"esper_reference/{fault.file}"}
