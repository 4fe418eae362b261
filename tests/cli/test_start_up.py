"""A bare run imports nothing that it does not need; start-up is guarded by what is imported, not by a stopwatch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .esper_process import environment

NEVER = (
    "torch", "rich", "typer", "click", "pydantic", "libcst.matchers", "importlib.metadata", "pathspec", "tempfile",
    "difflib", "esper_audit.baseline", "esper_audit.changes",
)  # fmt: skip


def imported(project: Path, *words: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "esper_audit", *words],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    return set(re.findall(r"^import time:.*\| +(\S+)$", result.stderr, re.MULTILINE))


@pytest.mark.parametrize("words", [("faulty.py",), ("check", "net.py", "faulty.py")], ids=" ".join)
def test_a_bare_run_imports_no_heavy_module(project: Path, words: tuple[str, ...]) -> None:
    modules = imported(project, *words)
    assert "libcst" in modules
    assert not modules & set(NEVER)


def test_a_run_that_tries_nothing_loads_no_experiment(project: Path) -> None:
    assert "esper_audit.probes.experiments" not in imported(project, "net.py")
    assert "esper_audit.probes.experiments" in imported(project, "net.py", "--ignore", "ESP586")


def test_a_file_without_torch_does_not_import_the_parser(project: Path) -> None:
    (project / "plain.py").write_text("x = 1\n")
    modules = imported(project, "plain.py")
    assert not modules & {*NEVER, "libcst", "esper_rules"}


def test_the_version_imports_next_to_nothing(project: Path) -> None:
    modules = imported(project, "--version")
    assert not modules & {*NEVER, "libcst", "dataclasses", "tokenize"}


def test_a_format_costs_nothing_until_somebody_asks_for_it(project: Path) -> None:
    unasked = {"esper_audit.reporters.alerts", "xml.etree.ElementTree"}
    assert not imported(project, "faulty.py") & unasked
    assert imported(project, "faulty.py", "-o", "a.xml") >= unasked


def test_no_output_without_a_terminal_is_painted(project: Path) -> None:
    for words in (("list-rules",), ("explain", "ESP901"), ("faulty.py", "-o", "AUDIT.md")):
        assert not imported(project, *words) & {"rich.markdown", "rich.table", "torch"}
