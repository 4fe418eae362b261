"""`kill -9` at any moment: each file is afterwards the old one or the new one, and never half of one.

A writer is a script that goes on replacing its files until it is killed. What `--fix` and `baseline` write is tried
here on the files themselves, and through the command line in `tests/cli`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from esper_audit.engine import CheckRequest, audit, prepare

from .auditing import as_json, network

VERSIONS = ("old\n" * 30_000, "new\n" * 40_000)

# Each script gets the folder as its only argument, and says that it is under way by creating `ready`.
REPORTS = """
import pathlib, sys
from esper_audit.console import write_file
folder = pathlib.Path(sys.argv[1])
(folder / "ready").touch()
while True:
    for text in ("old\\n" * 30_000, "new\\n" * 40_000):
        for name in ("a.md", "b.json"):
            write_file(folder / name, lambda sink: sink.write(text))
"""


@dataclass(frozen=True)
class Writer:
    """A script that replaces `files` of its folder, and every content that one of them may lawfully have."""

    script: str
    files: tuple[str, ...]
    contents: tuple[str, ...] = VERSIONS


WRITERS = {
    "reports": Writer(REPORTS, ("a.md", "b.json")),
}


def killed(script: str, folder: Path, *, within: float) -> Iterator[None]:
    """Run a script a dozen times and kill it each time, at a moment within so many seconds after it says `ready`."""
    moments = random.Random(9)  # noqa: S311  # moments are no secret
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    for _ in range(12):
        (folder / "ready").unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", script, str(folder)], env=environment)
        while not (folder / "ready").exists():
            assert process.poll() is None
            time.sleep(0.005)
        time.sleep(moments.uniform(0, within))
        process.kill()
        process.wait()
        yield


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_a_killed_writer_leaves_no_torn_file(writer: Writer, tmp_path: Path) -> None:
    for name in writer.files:
        (tmp_path / name).write_text(writer.contents[0])
        (tmp_path / name).chmod(0o640)
    seen = set()
    for _ in killed(writer.script, tmp_path, within=0.1):
        for name in writer.files:
            text = (tmp_path / name).read_text()
            assert text in writer.contents
            seen.add(text)
            assert (tmp_path / name).stat().st_mode & 0o777 == 0o640
    assert len(seen) > 1, "no writer ever wrote"


# Two runs over the same files with caches of different size, again and again.
CACHES = """
import pathlib, sys
from esper_audit.engine import CheckRequest, audit, prepare
folder = pathlib.Path(sys.argv[1])
(folder / "ready").touch()
number = 0
while True:
    number += 1
    (folder / "plain.py").write_text(f"torch = {number}\\n" + "# padding\\n" * (number % 2 * 1000))
    for paths in (("net.py", "plain.py"), (".",)):
        audit(prepare(CheckRequest(paths=paths, cache_dir="cache", isolated=True)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_killed_run_leaves_a_cache_that_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        (tmp_path / f"net{number or ''}.py").write_text(network())
    torn = []
    for _ in killed(CACHES, tmp_path, within=0.4):
        plan = prepare(CheckRequest(paths=(".",), cache_dir="cache", isolated=True))
        assert plan.cache is not None
        torn += [plan.cache.trouble] if plan.cache.trouble else []
        cold = audit(prepare(CheckRequest(paths=(".",), cache=False, isolated=True)))
        assert as_json(audit(plan)) == as_json(cold)
    assert torn == []
    assert getattr(plan.cache, "hits", 0), "no run ever wrote"
