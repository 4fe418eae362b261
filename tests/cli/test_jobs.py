"""Several processes find what one finds, whatever becomes of them."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from .esper_process import NETWORK, Esper, started

NETWORKS = Path(__file__).parent.parent / "networks"
JSON = (".", "--format", "json", "--reproducible")
PLUGIN = """\
import multiprocessing, os, pathlib, time
from esper_audit.core.findings import Category, Severity
from esper_audit.rulekit.rule import Hit, Rule

class House(Rule):
    \"\"\"## What it does

    Has a way of its own to spend the time of other processes.
    \"\"\"

    code = "HOUSE101"
    name = "house"
    summary = "Nothing"
    category = Category.QUALITY
    severity = Severity.LOW
    help = "none"

    def check_network(self, net, module):
        if multiprocessing.parent_process() is not None:
            pathlib.Path(f"worker-{{os.getpid()}}").touch()
            {spend}
        return ()
"""


@pytest.fixture
def tree(project: Path) -> Path:
    """A repository with more networks, some of which inherit from others, and a trainer that compiles one."""
    shutil.copytree(NETWORKS, project / "networks")
    (project / "base.py").write_text(NETWORK)
    for number in range(3):
        (project / f"heir{number}.py").write_text(
            "import torch\nfrom base import Policy\n\n\nclass Heir(Policy):\n    def act(self, obs):\n"
            "        return torch.distributions.Categorical(logits=self.head(obs)).sample()\n"
        )
    (project / "train.py").write_text("import torch\nfrom heir1 import Heir\n\nnet = torch.compile(Heir())\n")
    return project


def house_rule(project: Path, spend: str) -> None:
    """A plugin that does something to every process but the first."""
    (project / "house.py").write_text(PLUGIN.format(spend=spend))
    (project / "pyproject.toml").write_text('[tool.esper-audit]\nplugins = ["house"]\n')


def alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.usefixtures("tree")
def test_several_processes_say_byte_for_byte_what_one_says(esper: Esper) -> None:
    one = esper("-j", "1", "--no-cache", *JSON)
    several = esper("-j", "3", "--no-cache", *JSON)
    assert one.stdout.count('"code"') > 10
    assert (several.stdout, several.returncode) == (one.stdout, one.returncode)


def test_what_several_processes_found_is_kept_and_holds_as_long_as_its_grounds(esper: Esper, tree: Path) -> None:
    words = ("--cache-dir", "cache", *JSON)
    assert esper("-j", "2", *words).stdout == esper("-j", "1", *words).stdout
    everything = esper(".", "-v", "--cache-dir", "cache").stderr
    assert "files as before" in everything
    hits, _, total = everything.partition("cache: ")[2].split()[:3]
    assert hits == total
    (tree / "base.py").write_text(NETWORK.replace("return self", "self.x = obs.item()\n        return self"))
    fresh = esper("-j", "1", "--no-cache", *JSON)
    assert esper("-j", "2", *words).stdout == fresh.stdout


def test_a_process_that_dies_costs_no_finding(esper: Esper, tree: Path) -> None:
    house_rule(tree, "os._exit(9)")
    one = esper("-j", "1", "--no-cache", *JSON)
    several = esper("-j", "2", "--no-cache", *JSON)
    assert (several.stdout, several.returncode) == (one.stdout, one.returncode)
    assert list(tree.glob("worker-*"))
    assert "this one goes on alone" in esper(".", "-j", "2", "--no-cache", "-v").stderr


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_run(tree: Path, how: signal.Signals) -> None:
    house_rule(tree, "time.sleep(600)")
    process = started("-j", "2", ".", cwd=tree)
    while not list(tree.glob("worker-*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    out, err = process.communicate()
    assert out == b""
    if how is signal.SIGINT:
        assert err == b"error: interrupted\n"
    others = [int(path.name.removeprefix("worker-")) for path in tree.glob("worker-*")]
    while any(map(alive, others)):  # a test that waits for ever tells, too
        time.sleep(0.01)


def test_no_process_is_wrong_use(esper: Esper) -> None:
    result = esper(".", "-j", "0")
    assert result.returncode == 2
    assert result.stderr == (
        "error: Invalid value for '--jobs' / '-j': Input should be greater than or equal to 1 "
        "(see `esper-audit check --help`)\n"
    )
