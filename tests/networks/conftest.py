"""Keep the tests of the projects in here out of the auditor's own test run.

They belong to the projects: they import ``network`` or ``policy`` from the folder they are run
in, and some of them need torch. Inside one of the folders ``python -m pytest`` runs them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent.resolve()


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Ignore everything below, unless pytest was started in one of the projects."""
    return None if HERE in config.invocation_params.dir.resolve().parents else True
