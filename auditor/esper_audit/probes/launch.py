"""Starts a worker, listens to it, and ends it: whatever the audited code does, the audit goes on.

A worker gets its order on standard input and appends one line of JSON per experiment to a file in a folder of its own.
What the audited code prints goes nowhere. When the worker dies, what it had written still counts.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import esper_audit
from esper_audit.probes.contract import FAILED, PASSED, UNDECIDED, Order, Outcome

POLL = 0.05  # seconds between two looks at the worker
Tell = Callable[[str], None]

# `-m` would look for this package on the path, where another one of its name may stand first, or none: pytest, and
# whoever changes sys.path, puts it where a new process does not look. So the worker loads it from the place it has
# here, and nothing is added to the path for the audited code to trip over.
_BOOT = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("esper_audit", sys.argv.pop(1))
package = sys.modules["esper_audit"] = module_from_spec(spec)
spec.loader.exec_module(package)
from esper_audit.probes.worker import main
main()
"""
_NOT_INHERITED = ("PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONWARNINGS")


def carry_out(order: Order, *, timeout: float, tell: Tell = lambda _: None) -> tuple[dict[str, Any], list[Outcome]]:
    """Run the probes of `order` in a worker.

    Args:
        order: What to build and to try.
        timeout: Seconds of wall time for the whole worker.
        tell: Called with the id of each probe when it begins.

    Returns:
        What the worker said about itself (`torch`, `built`), and one outcome for each probe of the order; those it did
        not get to are undecided, and say why.

    """
    if order.problem:
        return {"failed": order.problem}, [Outcome(probe, UNDECIDED, error=order.problem) for probe in order.probes]
    with tempfile.TemporaryDirectory(prefix="esper-audit-", ignore_cleanup_errors=True) as folder:
        results = Path(folder, "results.jsonl")
        results.touch()
        scratch = Path(folder, "tmp")
        scratch.mkdir()
        end = _run(order, results, scratch, timeout, tell)
        about: dict[str, Any] = {}
        outcomes: dict[str, Outcome] = {}
        running = ""
        for line in _lines(results):
            if isinstance(line.get("about"), dict):
                about.update(line["about"])
            elif "begins" in line:
                running = str(line["begins"])
            elif line.get("id") in order.probes and line.get("result") in (PASSED, FAILED, UNDECIDED):
                outcomes[line["id"]] = _outcome(line)
                running = ""
        if "failed" in about:
            about["failed"] = end = _one_line(about["failed"])
        elif running:
            end = f"{end} in `{running}`"
        elif "built" not in about:
            end = f"{end} before the network was built"
        missing = {probe: Outcome(probe, UNDECIDED, error=end) for probe in order.probes}
        return about, [(missing | outcomes)[probe] for probe in order.probes]


def environment(scratch: Path) -> dict[str, str]:
    """The worker's environment: one thread, no GPU, temporary files in a folder of its own."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    if "PYTHONPATH" in kept:  # relative to the folder of this process, and the worker starts in another one
        kept["PYTHONPATH"] = os.pathsep.join(
            str(Path(place).absolute()) for place in kept["PYTHONPATH"].split(os.pathsep)
        )
    return kept | {
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONBREAKPOINT": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(scratch),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
    }


def _run(order: Order, results: Path, scratch: Path, timeout: float, tell: Tell) -> str:
    """How the worker ended: the beginning of a sentence."""
    words = [sys.executable, "-c", _BOOT, str(esper_audit.__file__), str(results), str(math.ceil(timeout))]
    errors = results.with_name("stderr")
    with errors.open("wb") as sink:
        try:
            process = subprocess.Popen(  # noqa: S603 - this Python and this package
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=sink,
                cwd=scratch,  # not the audited project: `-c` puts the current folder first on the path
                env=environment(scratch),
                start_new_session=True,
            )
        except OSError as error:
            return f"the worker could not be started ({_one_line(error)})"
        deadline = time.monotonic() + timeout
        seen = 0
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                pipe.write(json.dumps(order.to_json(), default=str).encode())
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(POLL)
                lines = _lines(results)
                for line in lines[seen:]:
                    if "begins" in line:
                        tell(str(line["begins"]))
                seen = len(lines)
        finally:
            ended = process.poll()
            _end(process)
    return f"the worker was ended after {timeout:g} s" if ended is None else _why(ended, _last_line(errors))


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the worker and everything it started, which may live on when the worker does not."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _lines(results: Path) -> list[Mapping[str, Any]]:
    """The complete lines so far. Audited code might find the file: what is not ours is passed over."""
    found: list[Mapping[str, Any]] = []
    try:
        written = results.read_bytes()
    except OSError:
        return []
    for line in written.split(b"\n")[:-1]:
        with contextlib.suppress(ValueError, RecursionError):
            data = json.loads(line)
            if isinstance(data, dict):
                found.append(data)
    return found


def _outcome(line: Mapping[str, Any]) -> Outcome:
    """The outcome that a line tells. Words of the audited code are in it: they may not break the lines of a report."""
    told = {name: _one_line(line.get(name, "")) for name in ("id", "result", "measured", "error", "method")}
    seconds = line.get("seconds")
    rows = line.get("table")
    table = [tuple(map(_one_line, row)) for row in rows if isinstance(row, list)] if isinstance(rows, list) else []
    even = tuple(table) if len({len(row) for row in table}) == 1 else ()
    return Outcome(
        told["id"],
        told["result"],
        told["measured"],
        told["error"],
        told["method"],
        seconds if isinstance(seconds, float) else 0.0,
        even,
    )


def _one_line(text: object) -> str:
    """One line of characters that can be printed and encoded."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())


def _last_line(errors: Path) -> str:
    with errors.open("rb") as file:  # it may be large, and only its end is of interest
        file.seek(max(0, errors.stat().st_size - 4000))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return next((said for line in reversed(lines) if (said := _one_line(line))), "")


def _why(ended: int, said: str) -> str:
    """Why a worker did not get to the end."""
    if ended >= 0:
        said = f" (its last words: {said[:200]})" if said and ended else ""
        return f"the worker stopped with exit code {ended}{said}"
    if -ended == getattr(signal, "SIGXCPU", 0):
        return "the worker was ended, its processor time was used up"
    try:
        name = signal.Signals(-ended).name
    except ValueError:
        name = f"signal {-ended}"
    said = f" (its last words: {said[:200]})" if said and name == "SIGABRT" else ""
    memory = " (perhaps for want of memory)" if name == "SIGKILL" else ""
    return f"the interpreter died of {name}{memory}{said}"
