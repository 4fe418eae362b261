"""A warm run says what a cold one would say, whatever happened to the files and to the cache in between."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_audit import cache as caches
from esper_audit.config import Settings
from esper_audit.engine import CheckRequest, audit, prepare

NETWORK = """\
import torch
from torch import nn
from {where} import {base}
from consts import LARGE

class {name}({base}):
    def __init__(self, obs_dim, actions):
        super().__init__()
        self.lstm = nn.LSTM(obs_dim, 64)
        self.policy = nn.Linear(64, actions)
        self.value = nn.Linear(64, 1)
        self.{spare} = 3

    def initial_state(self, batch):
        return torch.zeros(1, batch, 64), torch.zeros(1, batch, 64)

    def forward(self, x, mask, hidden):
        x, hidden = self.lstm(x, hidden)
        logits = self.policy(x).masked_fill(~mask, LARGE)
        return logits, self.value(x), hidden  # esper: ignore[ESP201] {spare}
"""
BASE = """\
from torch import nn

class {name}({parent}):
    def helper(self, x):
        return x.{call}()
"""
TRAINER = """\
import torch
from {module} import {name}

def train(net_dim):
    net = {name}(net_dim, 4)
    {what}
    return net.{spare}
"""
TEST = "from {module} import {name}\n\ndef test_it():\n    assert {name}(3, 4)\n"
CONSTS = "import numpy\nLARGE = {value}\n"
PLAIN = "# {value}\nvalue = {value}\n"

NAMES = st.sampled_from(["Agent", "Policy", "Net"])
MODULES = st.sampled_from(["net", "base", "agent", "sub.inner", "trainer"])
SPARE = st.sampled_from(["left", "spare"])
CONTENT = st.one_of(
    st.builds(
        NETWORK.format,
        name=NAMES,
        base=st.sampled_from(["Base", "Agent", "Module"]),
        where=st.sampled_from(["base", "torch.nn", "sub.inner", "agent"]),
        spare=SPARE,
    ),
    st.builds(
        BASE.format,
        name=st.sampled_from(["Base", "Agent", "Module"]),
        parent=st.sampled_from(["nn.Module", "object", "Base", "Policy"]),
        call=st.sampled_from(["item", "relu", "detach"]),
    ),
    st.builds(
        TRAINER.format,
        name=NAMES,
        module=MODULES,
        what=st.sampled_from(["net = torch.compile(net)", "pass", "net.forward(1, 2, 3)"]),
        spare=SPARE,
    ),
    st.builds(TEST.format, name=NAMES, module=MODULES),
    st.builds(CONSTS.format, value=st.sampled_from(["-1e9", "-1e4", "float('-inf')", "1.0"])),
    st.builds(PLAIN.format, value=st.integers(0, 3)),
    st.just("class torch(:\n"),
    st.just(""),
)
PATHS = st.sampled_from([
    "net.py", "base.py", "agent.py", "consts.py", "trainer.py", "tests/test_net.py", "sub/inner.py", "sub/__init__.py",
    "base/__init__.py",
])  # fmt: skip
STEP = st.one_of(
    st.tuples(st.just("write"), PATHS, CONTENT),
    st.tuples(st.just("write"), PATHS, CONTENT),
    st.tuples(st.just("delete"), PATHS, st.just("")),
    st.tuples(st.just("rename"), PATHS, PATHS),
)
TREE = st.dictionaries(PATHS, CONTENT, min_size=3, max_size=8)
PATHS_ASKED = st.lists(st.one_of(st.just("."), PATHS), min_size=1, max_size=3, unique=True)


def take(root: Path, step: tuple[str, str, str]) -> None:
    what, first, second = step
    path = root / first
    if what == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(second, encoding="utf-8")
    elif path.is_file() and what == "delete":
        path.unlink()
    elif path.is_file():
        (root / second).parent.mkdir(exist_ok=True)
        path.replace(root / second)


def answer(paths: list[str], *, cached: bool) -> tuple[str, int]:
    """The JSON of a run, and how many files came from the cache."""
    plan = prepare(CheckRequest(paths=tuple(paths), cache=cached))
    report = audit(plan)
    return json.dumps(report.to_json(), indent=1), plan.cache.hits if plan.cache else 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREE, rounds=st.lists(st.tuples(st.lists(STEP, max_size=2), PATHS_ASKED), min_size=2, max_size=4))
def test_a_warm_run_says_what_a_cold_one_says(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    tree: dict[str, str],
    rounds: list[tuple[list[tuple[str, str, str]], list[str]]],
) -> None:
    root = tmp_path_factory.mktemp("project")
    (root / "pyproject.toml").write_text("[tool.esper-audit]\n", encoding="utf-8")
    monkeypatch.chdir(root)
    for path, text in tree.items():
        take(root, ("write", path, text))
    answer(["."], cached=True)
    for steps, paths in rounds:
        for step in steps:
            take(root, step)
        asked = [path for path in paths if (root / path).exists()] or ["."]
        assert answer(asked, cached=True)[0] == answer(asked, cached=False)[0]
