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
        logits, value = self.action_head(features), self.value_head(features).squeeze(-1)
        return logits, value

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
    """What one experiment says about the last network of a file."""
    project = Project(project_root(file))
    interpreter = Interpreter(Models(project))
    *_, name = project.network_names(file)
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


# export


def test_a_sound_network_is_exported_and_pickled(tmp_path: Path) -> None:
    for file in (REFERENCE, planted(tmp_path)):
        found = outcome(file, "export")
        assert found.result == PASSED
        assert found.measured.startswith("`forward` exported, ")
        assert found.measured.endswith("outputs differ by 0; pickled, outputs differ by 0")


@pytest.mark.parametrize(
    ("old", "new", "measured"),
    [
        (FEATURES, f"obs = obs if obs.sum() > 0 else -obs\n        {FEATURES}", "exporting `forward` raises "),
        ("self.calls = 0", "self.scale = lambda x: 2.0 * x", "pickling raises "),
    ],
    ids=["a branch on values", "a lambda on self"],
)
def test_what_stands_in_the_way_is_told(old: str, new: str, measured: str, tmp_path: Path) -> None:
    found = outcome(planted(tmp_path, old, new), "export")
    assert found.result == FAILED
    assert measured in found.measured


def test_a_layer_of_a_class_inside_a_function_leaves_pickling_undecided(tmp_path: Path) -> None:
    local = """
def layer(size):
    class Local(nn.Identity):
        pass
    return Local()


class Policy"""
    source = POLICY.replace("\nclass Policy", local).replace("self.calls = 0", "self.local = layer(3)")
    file = tmp_path / "policy.py"
    file.write_text(source)
    found = outcome(file, "export")
    assert found.result == PASSED
    assert found.measured.endswith("not pickled: a class is defined inside a function")
