"""The process in which audited code runs; `launch` starts it, with an order on standard input.

It limits itself, builds the network, and appends one line of JSON for each experiment to a file of results.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

from esper_audit.probes.contract import Order, Outcome, probes
from esper_audit.probes.sandbox import limit, refuse


class Report:
    """The file of results: every line is with the parent before anything else happens.

    It stays open, for audited code may use up all file descriptors; it is opened again where audited code closed it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sink = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._file = os.fstat(self._sink)

    def write(self, line: dict[str, Any]) -> None:
        """Append one line."""
        data = (json.dumps(line) + "\n").encode()
        if self._is_open():
            os.write(self._sink, data)
            return
        sink = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(sink, data)
        finally:
            os.close(sink)  # its number may be that of standard output: what is printed next must not end up here

    def _is_open(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._sink), self._file)
        except OSError:
            return False


def main() -> NoReturn:
    """Carry out one order."""
    results, seconds = Path(sys.argv[1]), int(sys.argv[2])
    order = Order.from_json(json.load(sys.stdin))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # not closed: the next file that is opened would become standard input
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - what the old one has read is the order
    sys.path[:] = [place for place in sys.path if place not in ("", str(Path.cwd()))]
    report = Report(results)
    try:
        _carry_out(order, report, seconds)
    finally:
        if error := sys.exc_info()[1]:  # a fault of ours: all that audited code raises has been caught
            sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1 if error else 0)  # threads and exit handlers of the audited code have had their time


def _carry_out(order: Order, report: Report, seconds: int) -> None:
    warnings.simplefilter("ignore")
    import torch

    from esper_audit.probes.building import CannotBuild, told
    from esper_audit.probes.subject import Subject
    from esper_audit.probes.trying import attempt

    torch.set_num_threads(1)
    report.write({"about": {"torch": torch.__version__}})
    wanted = [probes()[name] for name in order.probes]
    if any(probe.group == "compile" for probe in wanted):
        import torch._dynamo  # it looks for compilers and a temporary folder: before anything is refused
    limit(seconds)  # now that torch is there: how much memory it maps is not the audited code's doing
    refuse(report.path.parent)
    try:
        os.chdir(order.root)
        subject = Subject(order)
    except CannotBuild as error:
        report.write({"about": {"failed": str(error)}})
        return
    except BaseException as failure:  # noqa: BLE001 - a class can be stranger than its building is ready for
        report.write({"about": {"failed": f"building {order.class_name} failed: {told(failure)}"}})
        return
    report.write({"about": {"built": True}})
    for probe in wanted:
        report.write({"begins": probe.id})
        outcome = attempt(probe, subject)
        report.write({name: getattr(outcome, name) for name in Outcome.__slots__})
