"""A warm run says what a cold one would say, whatever happened to the files and to the cache in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_audit.cache import FOLDER, Cache, folder_for
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


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a configuration of its own and one network whose base stands in another file."""
    (tmp_path / "pyproject.toml").write_text('[tool.esper-audit]\nignore = ["ESP603"]\n', encoding="utf-8")
    network = NETWORK.format(name="Net", base="Base", where="base", spare="left")
    for path, text in (
        ("net.py", network),
        ("base.py", BASE.format(name="Base", parent="nn.Module", call="relu")),
        ("consts.py", CONSTS.format(value="-1e9")),
        ("plain.py", PLAIN.format(value=1)),
    ):
        take(tmp_path, ("write", path, text))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cache_file(project: Path) -> Path:
    (found,) = (project / FOLDER).glob("*.json")
    return found


@pytest.mark.usefixtures("project")
def test_a_second_run_takes_every_file_from_the_cache() -> None:
    first, none = answer(["."], cached=True)
    second, hits = answer(["."], cached=True)
    assert (none, hits) == (0, 4)
    assert second == first


def test_a_changed_base_class_in_another_file_is_seen(project: Path) -> None:
    answer(["."], cached=True)
    take(project, ("write", "base.py", BASE.format(name="Base", parent="object", call="relu")))
    warm, hits = answer(["."], cached=True)
    assert hits == 2  # the constants and the file without torch
    assert warm == answer(["."], cached=False)[0]


def test_a_file_that_was_missing_is_seen_when_it_comes(project: Path) -> None:
    (project / "base.py").unlink()
    answer(["."], cached=True)
    take(project, ("write", "base.py", BASE.format(name="Base", parent="nn.Module", call="relu")))
    assert answer(["."], cached=True)[0] == answer(["."], cached=False)[0]


def test_a_change_that_keeps_size_and_time_is_seen(project: Path) -> None:
    answer(["."], cached=True)
    path = project / "consts.py"
    before = path.stat()
    path.write_text(CONSTS.format(value="-1e4"), encoding="utf-8")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert answer(["."], cached=True)[0] == answer(["."], cached=False)[0]


def test_a_warm_run_imports_neither_libcst_nor_the_rules(project: Path) -> None:
    code = (
        "import sys\nfrom esper_audit.__main__ import main\nmain()\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('libcst', 'esper_rules')))"
    )
    command = [sys.executable, "-c", code, "."]
    cold = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout
    warm = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout
    assert "esper_rules.device" in cold
    assert warm.rstrip().endswith("[]")
    assert warm.splitlines()[:-1] == cold.splitlines()[:-1]


@pytest.mark.usefixtures("project")
def test_reports_that_need_the_rules_have_them_in_a_warm_run_too() -> None:
    cold = audit(prepare(CheckRequest(paths=(".",))))
    warm = audit(prepare(CheckRequest(paths=(".",))))
    assert list(warm.rules) == list(cold.rules)
    assert len(warm.rules) > 20


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"critical", b"info", 1).replace(b"high", b"info"),
        lambda data: b"\x00" * len(data),
        lambda data: data.partition(b"\n")[0] + b"\n{}",
    ],
    ids=["empty", "torn", "forged", "zeros", "another body"],
)
def test_a_damaged_cache_is_no_cache(project: Path, damage: object) -> None:
    cold = answer(["."], cached=True)[0]
    path = cache_file(project)
    assert callable(damage)
    path.write_bytes(damage(path.read_bytes()))
    assert answer(["."], cached=True) == (cold, 0)
    assert answer(["."], cached=True) == (cold, 4)


def test_a_cache_sealed_by_somebody_else_is_not_believed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cold = answer(["."], cached=True)[0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(project / "another-user"))
    assert answer(["."], cached=True) == (cold, 0)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="the system has no links")
def test_a_cache_folder_that_leads_elsewhere_is_not_written_to(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (project / FOLDER).symlink_to(elsewhere)
    answer(["."], cached=True)
    assert list(elsewhere.iterdir()) == []


def test_where_nothing_can_be_written_the_run_goes_on(project: Path) -> None:
    (project / FOLDER).write_text("a file where the folder should be", encoding="utf-8")
    assert answer(["."], cached=True) == (answer(["."], cached=False)[0], 0)


@pytest.mark.usefixtures("project")
def test_other_rules_have_a_cache_of_their_own() -> None:
    answer(["."], cached=True)
    plan = prepare(CheckRequest(paths=(".",), ignore=("ESP2",)))
    assert not [finding for finding in audit(plan).findings if finding.code.startswith("ESP2")]
    assert plan.cache is not None
    assert plan.cache.hits == 0


def test_the_folder_is_known_to_git_and_backups_as_a_cache(project: Path) -> None:
    answer(["."], cached=True)
    assert (project / FOLDER / ".gitignore").read_text(encoding="utf-8") == "*\n"
    assert (project / FOLDER / "CACHEDIR.TAG").read_text(encoding="utf-8").startswith("Signature: 8a477f597d28d172")


def test_nothing_is_written_into_a_project_that_is_only_read(tmp_path: Path) -> None:
    caller, foreign = tmp_path / "caller", tmp_path / "foreign"
    inside = folder_for(Settings(file=foreign / "pyproject.toml", root=foreign), caller, None)
    assert inside is not None
    assert foreign not in inside.parents
    assert folder_for(Settings(file=caller / "pyproject.toml", root=caller), caller, None) == caller / FOLDER
    assert folder_for(Settings(), caller, "mine") == caller / "mine"


@pytest.mark.usefixtures("project")
def test_experiments_and_standard_input_use_no_cache() -> None:
    assert prepare(CheckRequest(paths=("net.py",), probe=True)).cache is None
    assert prepare(CheckRequest(paths=("-", "net.py"))).cache is None


def test_runs_at_the_same_time_leave_a_cache_that_holds(project: Path) -> None:
    command = [sys.executable, "-m", "esper_audit", "."]
    runs = [subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    outputs = {run.communicate()[0] for run in runs}
    assert len(outputs) == 1
    assert answer(["."], cached=True)[1] == 4
    assert isinstance(prepare(CheckRequest(paths=(".",))).cache, Cache)
