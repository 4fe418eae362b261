"""The workbench as a fixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from .toy_auditor import Workbench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """A workbench whose folder is the current one and bears a project marker, so that nothing outside is looked at."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return Workbench(tmp_path)
