"""The hooks of this repository in the real pre-commit, which installs them as it would for anybody.

The installation asks a package index. Where none can be reached the tests fail and say so: a hook that nobody has tried
is not known to work.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from esper_audit.cli import app

from .conftest import CURED, FAULTY, ROOT, Source, clean_environment, git

HAS_FIX = any("--fix" in parameter.opts for parameter in getattr(get_command(app), "commands", {})["check"].params)

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pre-commit keeps what it installs: once for all tests of this file."""
    return tmp_path_factory.mktemp("pre-commit")


@pytest.fixture
def run(tmp_path: Path, home: Path) -> Run:
    """Run a command in the sample repository."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=tmp_path, env=clean_environment(home), capture_output=True, encoding="utf-8", check=False
        )

    return run


@pytest.fixture
def sample(tmp_path: Path, run: Run, source: Source, home: Path) -> Callable[..., Path]:
    """Make the sample repository, with hooks that are installed."""

    def make(*hooks: str, **files: str) -> Path:
        entry = {"repo": str(source.path), "rev": source.revision, "hooks": [{"id": hook} for hook in hooks]}
        (tmp_path / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [entry]}))
        for name, text in files.items():
            (tmp_path / name.replace("_toml", ".toml").replace("_py", ".py")).write_text(text)
        env = clean_environment(home)
        git(tmp_path, "init", "--quiet", env=env)
        git(tmp_path, "add", "--all", env=env)
        made = run(sys.executable, "-m", "pre_commit", "install", "--install-hooks")
        if made.returncode != 0:
            pytest.fail(f"the hooks cannot be installed; is a package index reachable?\n{made.stdout}{made.stderr}")
        return tmp_path

    return make


def commit(run: Run) -> subprocess.CompletedProcess[str]:
    run("git", "add", "--all")
    return run("git", "commit", "--message", "A network")


def test_a_fault_blocks_the_commit_until_it_is_cured(sample: Callable[..., Path], run: Run) -> None:
    project = sample("esper-audit", policy_py=FAULTY, plain_py="x = 1\n")
    blocked = commit(run)
    assert blocked.returncode == 1
    assert "policy.py:12:16" in blocked.stderr
    assert "ESP202" in blocked.stderr
    assert run("git", "rev-parse", "--verify", "--quiet", "HEAD").returncode == 1
    (project / "policy.py").write_text(CURED)
    passed = commit(run)
    assert passed.returncode == 0, passed.stderr
    assert run("git", "ls-files", "policy.py").stdout == "policy.py\n"


def test_what_the_configuration_excludes_blocks_nothing(sample: Callable[..., Path], run: Run) -> None:
    sample("esper-audit", policy_py=FAULTY, pyproject_toml='[tool.esper-audit]\nexclude = ["policy.py"]\n')
    passed = commit(run)
    assert passed.returncode == 0, passed.stderr


def test_torch_is_not_in_the_environment_of_the_hook(sample: Callable[..., Path], home: Path) -> None:
    sample("esper-audit")
    pythons = [path for path in home.glob("repo*/py_env-*/*/python*") if path.stem == "python"]
    assert len(pythons) == 1
    question = "import importlib.util as u; print([u.find_spec(name) is not None for name in ('esper_audit', 'torch')])"
    answer = subprocess.run(
        [pythons[0], "-I", "-c", question], env=clean_environment(home), capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[True, False]\n"


@pytest.mark.skipif(not HAS_FIX, reason="there is no --fix in this version")
def test_the_fixing_hook_repairs_a_fault_and_the_second_commit_passes(sample: Callable[..., Path], run: Run) -> None:
    project = sample("esper-audit-fix", "esper-audit", policy_py=FAULTY)
    first = commit(run)
    assert first.returncode == 1
    assert "files were modified by this hook" in first.stderr
    was, now = FAULTY.splitlines(), (project / "policy.py").read_text().splitlines()
    assert [line for line in was if line not in now] == [was[11]]
    assert "device=" in now[11]
    second = commit(run)
    assert second.returncode == 0, second.stderr


def test_the_hooks_are_what_pre_commit_understands() -> None:
    manifest = ROOT / ".pre-commit-hooks.yaml"
    checked = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-manifest", str(manifest)], capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    hooks = yaml.safe_load(manifest.read_text(encoding="utf-8"))
    assert [hook["id"] for hook in hooks] == ["esper-audit", "esper-audit-fix"]
    assert all(hook["require_serial"] and "--force-exclude" in hook["entry"].split() for hook in hooks)
