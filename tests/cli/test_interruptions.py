"""What happens when a run is interrupted, takes long, or when the tool itself is at fault."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from esper_audit.console import guarded
from esper_audit.core.errors import ConfigError, RuleCrash
from esper_audit.progress import ProgressBar

from .esper_process import started


def test_an_interrupted_run_ends_with_130_and_one_line(project: Path) -> None:
    os.mkfifo(project / "slow.py")
    process = started("slow.py", cwd=project)
    with open(project / "slow.py", "wb"):  # opens when the audit has come to read the file, which then waits for us
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (out, err) == (b"", b"error: interrupted\n")
    assert process.returncode == 130


def raising(error: BaseException) -> int:
    def work() -> int:
        raise error

    return guarded(work)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("pyproject.toml: no"), 2, "error: pyproject.toml: no\n"),
        (RuleCrash("a rule fell over"), 3, "error: a rule fell over\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (
            KeyError("x\ny"),
            3,
            "error: esper-audit itself failed: KeyError: 'x\\ny' (-v tells more)\n",
        ),
    ],
)
def test_every_failure_is_one_line_and_never_looks_like_findings(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert raising(error) == code
    assert capsys.readouterr().err == line


def test_verbose_shows_where_the_tool_failed(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise ZeroDivisionError("inside")

    assert guarded(work, verbose=True) == 3
    assert "in work" in capsys.readouterr().err


def test_the_progress_bar_waits_a_second_before_it_shows_itself(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 0.2, 0.9, 1.1])
    bar = ProgressBar(clock=lambda: next(times))
    seen = []
    for number in range(4):
        bar(number, 4, "[red]net.py")
        seen.append(bar.visible)
    bar.close()
    assert seen == [False, False, True, True]
    assert not bar.visible
    assert "\x1b[31m" not in capsys.readouterr().err
