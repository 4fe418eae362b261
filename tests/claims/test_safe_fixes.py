"""A network behaves after its safe fixes as it did before: same weights, same numbers, same random stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from esper_audit import fixes
from esper_audit.engine import CheckRequest, audit, prepare

torch = pytest.importorskip("torch")

SOURCE = """\
import math
import torch
from torch import nn


class Policy(nn.Module):
    def __init__(self, size, actions):
        super().__init__()
        self.size = size
        self.bound = math.log(actions)
        self.lstm = nn.LSTM(4, size, batch_first=True)
        self.action_head = nn.Linear(size, actions)
        self.scale = torch.ones(actions) * 2

    def initial_state(self, batch):
        h = torch.randn(1, batch, self.size)
        return h, torch.zeros(1, batch, self.size)

    def forward(self, obs, state=None):
        if state is None:
            state = self.initial_state(obs.size(0))
        out, state = self.lstm(obs, state)
        return self.action_head(out), state  # esper: ignore[ESP302] once
"""


def fixed(path: Path) -> str:
    plan = prepare(CheckRequest(paths=(str(path),), isolated=True))
    outcome = fixes.fix(plan, audit(plan))
    assert outcome.fixed == 8
    return outcome.changes[0].after.decode()


def run(source: str, dtype: Any = torch.float32) -> list[Any]:
    names: dict[str, Any] = {"__name__": "network"}
    exec(compile(source, "network.py", "exec"), names)  # noqa: S102  # the source above, and what the fixes make of it
    torch.manual_seed(3)
    network = names["Policy"](8, 5).to(dtype)
    logits, state = network(torch.ones(2, 3, 4, dtype=dtype))
    return [*network.state_dict().values(), logits, *state, torch.get_rng_state()]


def test_safe_fixes_change_no_number_of_a_float32_network(tmp_path: Path) -> None:
    path = tmp_path / "network.py"
    path.write_text(SOURCE)
    before, after = run(SOURCE), run(fixed(path))
    assert len(before) == len(after)
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))


def test_a_network_in_double_precision_runs_only_after_the_fix(tmp_path: Path) -> None:
    path = tmp_path / "network.py"
    path.write_text(SOURCE)
    with pytest.raises(RuntimeError):
        run(SOURCE, torch.float64)
    assert run(fixed(path), torch.float64)[-2].dtype == torch.float64
