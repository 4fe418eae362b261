"""What a run takes note of where Python asks a tensor for its values."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from .written import HEADER, Written

NET = """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, obs, mask=None, names=(), limit=1.0):
        y = self.linear(obs)
"""


def kinds(tmp_path: Path, body: str) -> list[str]:
    source = HEADER + NET + textwrap.indent(textwrap.dedent(body), " " * 8)
    return [event.kind for event in Written(tmp_path, source).frame().events if event.kind in ("truth", "back")]


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("if (y > 0).any(): pass", 1),
        ("if not y.isfinite().all(): pass", 1),
        ("if torch.isnan(y).any() and mask.any(): pass", 2),
        ("while limit < y.max(): pass", 1),
        ("z = y if y.mean() > 0 else -y", 1),
        ("if mask.sum() == 0 or limit > 3: pass", 1),
        ("rows = [row for row in y if row.any()]", 1),
        ("if y is obs or y is not None or mask == None: pass", 0),
        ("if 'a' in names or y in names: pass", 0),
        ("if y.shape == obs.shape and y.dim() == 2 and y.dtype == torch.float32: pass", 0),
        ("if limit > 3 or self.training or names: pass", 0),
        ("assert (y > 0).all() and not y.isnan().any()", 0),
        ("has_mask = mask is not None\nif has_mask: pass", 0),
    ],
)
def test_a_condition_that_asks_a_tensor_is_taken_note_of(body: str, count: int, tmp_path: Path) -> None:
    assert kinds(tmp_path, body) == ["truth"] * count


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("return y + y.mean().item()", 1),
        ("return y * (2 * float(y.mean()))", 1),
        ("return y - sum(y.flatten().tolist())", 1),
        ("return torch.tensor(y.max().item())", 1),
        ("import numpy as np\nreturn torch.from_numpy(np.sin(y.detach().numpy()) * 2)", 1),
        ("return y + float(limit) + int(obs.shape[0])", 0),
        ("size = y.mean().item() + 1\nreturn y, size", 0),
        ("return y + len(y.tolist())", 0),
    ],
)
def test_a_number_that_was_read_is_seen_to_go_back(body: str, count: int, tmp_path: Path) -> None:
    assert kinds(tmp_path, body) == ["back"] * count


def test_what_stands_behind_an_unknown_star_is_run(tmp_path: Path) -> None:
    source = HEADER + NET + "        return [*names, self.linear(obs)]\n"
    calls = [event for event in Written(tmp_path, source).frame().events if event.callee == "layer"]
    assert len(calls) == 2
