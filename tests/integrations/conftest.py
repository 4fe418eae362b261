"""What others get of this repository: a commit of the working tree, whether or not it is committed here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]

FAULTY = """\
import torch
from torch import nn


class Policy(nn.Module):
    def __init__(self, size=8):
        super().__init__()
        self.core = nn.LSTM(4, size)
        self.size = size

    def get_initial_hidden(self, batch):
        return torch.zeros(1, batch, self.size), torch.zeros(1, batch, self.size)

    def forward(self, obs, hidden):
        return self.core(obs, hidden)
"""
CURED = FAULTY.replace(
    "        return torch.zeros(1, batch, self.size), torch.zeros(1, batch, self.size)\n",
    "        weight = self.core.weight_hh_l0\n"
    "        return weight.new_zeros(1, batch, self.size), weight.new_zeros(1, batch, self.size)\n",
)


class Source(NamedTuple):
    """A clone and its newest commit."""

    path: Path
    revision: str


def clean_environment(home: Path) -> dict[str, str]:
    """The caller's environment without what would steer git elsewhere or bring this checkout into other Pythons.

    These tests may run inside a hook, where git itself exports GIT_DIR and GIT_INDEX_FILE.
    """
    left_out = ("PYTHONPATH", "PYTHONHOME", "SKIP", "PRE_COMMIT", "PRE_COMMIT_HOME")
    kept = {key: value for key, value in os.environ.items() if key not in left_out and not key.startswith("GIT_")}
    return {
        **kept,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "A",
        "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_COMMITTER_NAME": "A",
        "GIT_COMMITTER_EMAIL": "a@example.org",
        "PRE_COMMIT_HOME": str(home),
        "PRE_COMMIT_COLOR": "never",
    }


def git(folder: Path, *words: str, env: dict[str, str]) -> str:
    """What git says; raises when it refuses."""
    run = subprocess.run(["git", *words], cwd=folder, env=env, capture_output=True, encoding="utf-8", check=True)
    return run.stdout


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The working tree, with changes that nobody has committed yet, as a repository of its own."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("only a git checkout knows its files")
    folder = tmp_path_factory.mktemp("source") / "esper-audit"
    env = clean_environment(folder)
    listing = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", env={**os.environ})
    names = listing.split("\0")
    for name in names:
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    git(folder, "init", "--quiet", env=env)
    git(folder, "add", "--all", "--force", env=env)
    git(folder, "commit", "--quiet", "--message", "Everything", env=env)
    return Source(folder, git(folder, "rev-parse", "HEAD", env=env).strip())


def readme_files() -> dict[str, str]:
    """The files that the README gives to be pasted: name -> text."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def tool(name: str) -> str:
    """A program that the `dev` extra installs beside this Python."""
    path = shutil.which(name, path=sysconfig.get_path("scripts"))
    assert path is not None, f"{name} is not installed: pip install -e '.[dev]'"
    return path


class Installed(NamedTuple):
    """An environment that the shell script of the README made, and how its first run went."""

    folder: Path
    first_run: subprocess.CompletedProcess[str]
    script: Path


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, source: Source) -> Installed:
    """The shell script of the README, run in a folder with a faulty network; it installs the working tree for that."""
    folder = tmp_path_factory.mktemp("shell")
    script = folder / "esper-audit.sh"
    script.write_text(readme_files()["esper-audit.sh"])
    (folder / "src").mkdir()
    (folder / "src" / "policy.py").write_text(FAULTY)
    venv = folder / "esper-audit"
    env = {**clean_environment(folder), "ESPER_AUDIT": source.path.as_uri(), "VENV": str(venv)}
    words = ["sh", str(script), "src", "--format", "concise", "--select", "ESP202"]
    run = subprocess.run(words, cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False)
    if not (venv / "bin" / "esper-audit").exists():
        pytest.fail(f"esper-audit cannot be installed; is a package index reachable?\n{run.stdout}{run.stderr}")
    return Installed(venv, run, script)
