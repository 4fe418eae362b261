"""A fix cures what the experiment convicted: planted faults are convicted, fixed by their rule, and acquitted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bases import BASES
from planting import plant, planted

from esper_audit.probes.contract import FAILED, PASSED
from esper_audit.probes.launch import carry_out
from esper_audit.probes.orders import order_for
from esper_audit.semantics.flow import Interpreter
from esper_audit.semantics.model import Models
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.project import Project

FAULTS = {(fault.number, fault.spelling): fault for fault in planted(BASES["reference"])}
CURED = [
    ("2", "masked_fill(mask)", "ESP507", "mask-semantics"),
    ("3", "literal", "ESP203", "mask-dtype"),
    ("19", "expand", "ESP516", "initial-hidden-alias"),
    ("20", "(z, z)", "ESP516", "initial-hidden-alias"),
    ("29", "decorator", "ESP303", "inference-tensors"),
    ("34", "list", "ESP305", "state-roundtrip"),
    ("34", "parameter in a list", "ESP305", "state-roundtrip"),
    ("35", "torch.ones", "ESP204", "device-moves"),
    ("36", "persistent=False", "ESP403", "state-roundtrip"),
    ("38", "gain=1.0", "ESP606", "init-policy"),
    ("40", "both biases", "ESP602", "init-forget-bias"),
    ("43", "1e-3", "ESP309", "log-prob-normalised"),
    ("43", "1e-8", "ESP309", "policy-range"),
    ("51", "unvalidated", "ESP506", "log-prob-normalised"),
    ("54", "(~mask).bool()", "ESP207", "mask-kinds"),
]


def verdict(project: Path, probe: str) -> str:
    """What an experiment says about the network of a copy of the reference."""
    reader = Interpreter(Models(Project(project)))
    module = reader.models.parse_named(project / "esper_reference" / "network.py")
    network = NetworkClass(module.classes["FactoredActorCritic"], reader)
    _, outcomes = carry_out(replace(order_for(network), probes=(probe,)), timeout=120)
    return outcomes[0].result


@pytest.mark.parametrize(("number", "spelling", "code", "probe"), CURED)
def test_what_an_experiment_convicts_is_acquitted_after_the_fix(
    number: str, spelling: str, code: str, probe: str, tmp_path: Path
) -> None:
    plant(FAULTS[number, spelling], tmp_path)
    assert verdict(tmp_path, probe) == FAILED
    command = [sys.executable, "-m", "esper_audit", ".", "--isolated", "--no-cache", "--select", code]
    fixed = subprocess.run([*command, "--fix", "--unsafe-fixes"], cwd=tmp_path, check=False, capture_output=True)
    assert (fixed.returncode, b"fixed" in fixed.stderr) == (0, True)
    assert verdict(tmp_path, probe) == PASSED
