"""A setting that nothing acts on yet is told, so that nobody believes that it works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from esper_audit.config import WITHOUT_EFFECT


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_a_reserved_key_is_told_to_have_no_effect(key: str, tmp_path: Path) -> None:
    value = {"first-party": '["mine"]'}[key]
    (tmp_path / "pyproject.toml").write_text(f"[tool.esper-audit]\n{key} = {value}\n")
    (tmp_path / "empty.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "esper_audit", "empty.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert f"{key!r} has no effect in this version" in done.stderr
