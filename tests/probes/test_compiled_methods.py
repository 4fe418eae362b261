"""What the experiments of the compile group say about faults that are planted, each network in a worker of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from esper_audit.probes.contract import FAILED, PASSED, Outcome
from esper_audit.probes.launch import carry_out
from esper_audit.probes.orders import order_for
from esper_audit.semantics.flow import Interpreter
from esper_audit.semantics.model import Models
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.project import Project, project_root

REFERENCE = Path(__file__).resolve().parents[2] / "reference_impl" / "esper_reference" / "network.py"

POLICY = """
import torch
from torch import nn
from torch.distributions import Categorical


class Policy(nn.Module):
    def __init__(self, obs_dim: int, num_actions: int) -> None:
        super().__init__()
        self.calls = 0
        self.body = nn.Linear(obs_dim, 16)
        self.action_head = nn.Linear(16, num_actions)
        self.value_head = nn.Linear(16, 1)

    def forward(self, obs):
        features = torch.tanh(self.body(obs))
        return self.action_head(features), self.value_head(features).squeeze(-1)

    @torch.no_grad()
    def act(self, obs):
        logits, value = self(obs)
        dist = Categorical(logits=logits)
        action = dist.sample()
        return action, dist.log_prob(action), value

    def evaluate_actions(self, obs, actions):
        logits, value = self(obs)
        dist = Categorical(logits=logits)
        return dist.log_prob(actions), value, dist.entropy()
"""
FEATURES = "features = torch.tanh(self.body(obs))"


def outcome(file: Path, probe: str, seed: int = 0) -> Outcome:
    """What one experiment says about the only network of a file."""
    project = Project(project_root(file))
    interpreter = Interpreter(Models(project))
    (name,) = project.network_names(file)
    network = NetworkClass(interpreter.models.parse_named(file).classes[name], interpreter)
    _, (found,) = carry_out(replace(order_for(network), probes=(probe,), seed=seed), timeout=120)
    return found


def planted(folder: Path, old: str = "", new: str = "") -> Path:
    """The policy with a fault."""
    assert POLICY.count(old) == 1 or not old
    file = folder / "policy.py"
    file.write_text(POLICY.replace(old, new) if old else POLICY)
    return file


# recompiles


def test_a_sound_network_is_compiled_for_a_second_size_and_a_second_mode_and_no_further(tmp_path: Path) -> None:
    found = outcome(planted(tmp_path), "recompiles")
    assert found.result == PASSED
    assert found.table == (
        ("method", "the first call", "the same call", "other batch sizes", "other lengths", "another mode and back"),
        ("`act`", "1", "0", "1", "-", "1"),
        ("`evaluate_actions`", "1", "0", "1", "1", "1"),
    )


def test_the_reference_is_compiled_three_times_and_no_further() -> None:
    found = outcome(REFERENCE, "recompiles")
    assert (found.result, found.measured) == (PASSED, "compiled: `get_action` 3 times; `evaluate_actions` 3 times")


@pytest.mark.parametrize(
    ("new", "kind", "why"),
    [
        (f"self.calls += 1\n        {FEATURES} + 0.0 * self.calls", "the same call", "calls"),
        (
            "features = torch.stack([torch.tanh(self.body(step)) for step in obs.unbind(-2)], dim=-2)",
            "other lengths",
            "size mismatch at index 1",
        ),
        ("features = torch.stack([torch.tanh(self.body(each)) for each in obs])", "other batch sizes", "size mismatch"),
    ],
    ids=["a counter on self", "a loop over steps", "a loop over environments"],
)
def test_what_compiles_anew_with_each_call_is_told_with_the_guard_that_failed(
    new: str, kind: str, why: str, tmp_path: Path
) -> None:
    found = outcome(planted(tmp_path, FEATURES, new), "recompiles")
    assert found.result == FAILED
    assert f"anew for {kind} (" in found.measured
    assert why in found.measured
