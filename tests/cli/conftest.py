"""The tool in a folder of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from esper_audit.__main__ import main

from .esper_process import FAULTY, NETWORK, Esper, environment


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a healthy and a faulty network."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "faulty.py").write_text(FAULTY)
    return tmp_path


@pytest.fixture
def esper(project: Path) -> Esper:
    """Run the tool in the project and take what it says."""

    def run(*words: str, env: dict[str, str] | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "esper_audit", *words]
        more = {"cwd": project, "stdin": subprocess.DEVNULL, **more}
        if "input" in more:
            del more["stdin"]
        return subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=environment(**(env or {})),
            check=False,
            **more,
        )

    return run


@pytest.fixture
def inside(project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Esper:
    """Run the tool in the project without a process of its own: for what the words mean, not how it starts."""
    monkeypatch.chdir(project)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["esper-audit", *words])
        capfd.readouterr()
        code = main()
        captured = capfd.readouterr()
        return subprocess.CompletedProcess(words, code, captured.out, captured.err)

    return run
