"""Which attributes of a network are its heads, and how large they are as written."""

from __future__ import annotations

from pathlib import Path

import pytest

from .written import HEADER, Written

HELPER = """

def make_head(width, size, *, depth=1):
    return nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, size))
"""


def heads_of(tmp_path: Path, init: str, more: str = HELPER) -> list[tuple[str, str, str]]:
    source = f"{HEADER}class Net(nn.Module):\n    def __init__(self, width, n, sizes):\n        super().__init__()\n"
    source += f"        {init}\n\n    def forward(self, x):\n        return x\n{more}"
    return [(head.name, head.role, head.size) for head in Written(tmp_path, source).network().heads]


@pytest.mark.parametrize(
    ("init", "heads"),
    [
        ("self.policy_head = make_head(width, n)", [("policy_head", "policy", "n")]),
        ("self.policy_head = make_head(size=n * 2, width=width)", [("policy_head", "policy", "n * 2")]),
        ("self.value_head = make_head(width, 1)", [("value_head", "value", "1")]),
        (
            "self.heads = nn.ModuleDict({k: make_head(width, sizes[k]) for k in sizes})",
            [("heads", "policy", "sizes[k]")],
        ),
        ("self.heads = nn.ModuleList([nn.Linear(width, n), nn.Linear(width, n)])", [("heads", "policy", "n")]),
    ],
)
def test_a_head_has_the_size_that_the_class_writes(
    init: str, heads: list[tuple[str, str, str]], tmp_path: Path
) -> None:
    assert heads_of(tmp_path, init) == heads


def test_a_size_that_only_the_helper_knows_makes_no_head(tmp_path: Path) -> None:
    helper = "\n\ndef make_head(width):\n    count = 7\n    return nn.Linear(width, count)\n"
    assert heads_of(tmp_path, "self.policy_head = make_head(width)", helper) == []


def test_what_marks_the_start_of_an_episode_is_no_action_mask(tmp_path: Path) -> None:
    source = HEADER + (
        "class Net(nn.Module):\n"
        "    def forward(self, x, action_mask, episode_starts):\n"
        "        h = x.masked_fill(episode_starts, 0.0)\n"
        "        return h.masked_fill(~action_mask, -1e4)\n"
    )
    assert Written(tmp_path, source).network().masks == ("action_mask",)
