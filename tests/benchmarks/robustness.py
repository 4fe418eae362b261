"""Audits every ``*.py`` file of the given folders and tells which crash the audit, hang it or slow it down.

    python tests/benchmarks/robustness.py FOLDER [FOLDER ...] --mode plain --mode appended --mode everything

Three ways to look at the same files, since most of them hold no network and would be dismissed unread:

* ``plain``: the bytes as they are, as a run would see them, whether or not "torch" occurs;
* ``appended``: a small network is appended, so that the concrete tree of the file is built and its rules are asked;
* ``everything``: every class is taken for a network, so that the abstract run and all rules meet code of every kind.

The files are audited by workers, one after the other in one process, as a run does. A file that brings the interpreter
down is known because its name was the last that the worker told; a new worker goes on behind it. A file that takes
longer than ``--limit`` seconds of CPU time is interrupted, and the innermost frames are shown.

Told are: files on which the audit ends otherwise than audited or unparsable, files that it cannot parse although this
interpreter can, what an exception said, and the slowest files with their time for each thousand lines: what grows
faster than the file stands out there. This is run by hand and is never a test. It needs a POSIX system.
"""

from __future__ import annotations

import argparse
import ast
import collections
import gc
import json
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from esper_audit.audit import Auditor
from esper_audit.core.errors import SourceError
from esper_audit.rulekit.registry import load_rules
from esper_audit.semantics.project import Project
from esper_audit.semantics.source import Source
from esper_audit.suppressions import read_comments

MODES = ("plain", "appended", "everything")
PATIENCE = 10  # times the limit passes on the clock before a worker that does not answer is killed
BATCH = 60  # files that one auditor remembers: a library in which every class is a network would not fit into memory

NETWORK = b"""

import torch
from torch import nn


class _AppendedPolicy(nn.Module):
    def __init__(self, obs=4, hidden=8, actions=3):
        super().__init__()
        self.lstm = nn.LSTM(obs, hidden)
        self.head = nn.Linear(hidden, actions)
        self.value_head = nn.Linear(hidden, 1)

    def get_initial_hidden(self, batch):
        return torch.zeros(1, batch, 8), torch.zeros(1, batch, 8)

    def forward(self, obs, mask, hidden=None):
        out, hidden = self.lstm(obs, hidden or self.get_initial_hidden(obs.shape[0]))
        return self.head(out).masked_fill(~mask, float("-inf")), self.value_head(out), hidden

    def act(self, obs, mask, hidden):
        with torch.inference_mode():
            logits, value, hidden = self.forward(obs, mask, hidden)
            dist = torch.distributions.Categorical(logits=logits)
            action = dist.sample()
            return action, dist.log_prob(action), value, hidden
"""


class TooSlow(BaseException):
    """The limit is over. No Exception, so that no guard of the audit takes it for a fault of a rule."""


def _too_slow(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise TooSlow


def python_parses(data: bytes) -> bool:
    """Whether this very interpreter takes the bytes for a module."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError, LookupError):
        return False
    return True


def work(paths: Sequence[Path], mode: str, limit: float, answers: Connection) -> None:
    """Audit the paths and send a dict for each; before each, its number."""
    signal.signal(signal.SIGPROF, _too_slow)
    gc.disable()  # as a run does: collecting walks millions of live nodes again and again
    if mode == "everything":

        def every_class(self: Project, path: Path, name: str) -> bool:
            index = self.index(path)
            return index is not None and name in index.classes

        Project._is_network = every_class  # type: ignore[method-assign]  # noqa: SLF001  # that is the experiment
    rules = list(load_rules(()).values())
    for number, path in enumerate(paths):
        if number % BATCH == 0:
            auditor = Auditor(rules, display=str)
            gc.collect()
        answers.send(number)
        answers.send(look_at(path, mode, limit, auditor))
    answers.send(None)


def look_at(path: Path, mode: str, limit: float, auditor: Auditor) -> dict[str, Any]:
    """Audit one file within the limit."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return {"status": "unreadable", "error": str(error)}
    if mode != "plain":
        data += NETWORK
    if b"torch" not in data:
        data += b"\n# torch\n"
    said: dict[str, Any] = {"lines": data.count(b"\n") + 1}
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        result = auditor.audit_file(path, data)
        read_comments(Source(path, data), str(path))
        said |= {"status": result.report.status, "error": result.report.error}
        said |= {"networks": len(result.report.networks), "findings": len(result.findings)}
    except TooSlow as error:
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        said |= {"status": "too slow", "error": " < ".join(f"{f.name}:{f.lineno}" for f in reversed(frames))}
    except SourceError as error:
        said |= {"status": "unparsable", "error": str(error)}
    except Exception as error:  # noqa: BLE001  # which one is the question
        said |= {"status": "EXCEPTION", "error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    said["seconds"] = time.process_time() - started
    if said["status"] == "unparsable" and python_parses(data):
        said["status"] = "unparsable here, parsed by Python"
    return said


def audited(paths: Sequence[Path], mode: str, limit: float) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each path with what became of it; a worker that dies costs one file."""
    start = 0
    while start < len(paths):
        mine, theirs = multiprocessing.Pipe(duplex=False)
        worker = multiprocessing.Process(target=work, args=(paths[start:], mode, limit, theirs))
        worker.start()
        theirs.close()
        current = start
        try:
            while mine.poll(limit * PATIENCE):
                answer = mine.recv()
                if answer is None:
                    return
                if isinstance(answer, int):
                    current = start + answer
                else:
                    yield paths[current], answer
                    current += 1
            how = "no answer"
        except EOFError:
            worker.join()
            how = f"exit code {worker.exitcode}"
        finally:
            worker.kill()
            worker.join()
        yield paths[current], {"status": "WORKER DIED", "error": how, "seconds": limit, "lines": 0}
        start = current + 1


def main(words: Sequence[str] | None = None) -> int:
    """Run the study; 1 when a file crashed, hung or was refused without reason."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--mode", action="append", choices=MODES, help="several times if need be; default: all")
    parser.add_argument("--limit", type=float, default=30.0, help="CPU seconds for a file; default 30")
    parser.add_argument("--slow", type=float, default=3.0, help="tell files slower than this; default 3")
    parser.add_argument("--json", type=Path, help="write one line of JSON per file and mode here")
    options = parser.parse_args(words)
    log = options.json.open("w", encoding="utf-8") if options.json else None
    bad = 0
    for folder in options.folders:
        paths = sorted(path.absolute() for path in folder.rglob("*.py") if path.is_file() and not path.is_symlink())
        for mode in options.mode or MODES:
            tally: collections.Counter[str] = collections.Counter()
            slow: list[tuple[float, int, Path]] = []
            started = time.perf_counter()
            for path, said in audited(paths, mode, options.limit):
                tally[said["status"]] += 1
                if log is not None:
                    log.write(json.dumps({"path": os.fspath(path), "mode": mode, **said}) + "\n")
                    log.flush()
                if said["status"] not in ("audited", "unparsable"):
                    bad += 1
                    print(f"{mode}: {said['status']}: {path}: {said['error']}", flush=True)
                elif said["seconds"] > options.slow:
                    slow.append((said["seconds"], said["lines"], path))
            counts = ", ".join(f"{number} {status}" for status, number in tally.most_common())
            print(f"== {folder}, {mode}: {len(paths)} files in {time.perf_counter() - started:.0f} s: {counts}")
            for seconds, lines, path in sorted(slow, reverse=True)[:15]:
                print(f"   {seconds:6.1f} s, {lines} lines, {1000 * seconds / lines:6.2f} s per 1000 lines: {path}")
    if log is not None:
        log.close()
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
