"""One experiment after the other on a subject; whatever audited code raises is an outcome."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from esper_audit.probes.building import told
from esper_audit.probes.contract import UNDECIDED, Measurement, NotComparable, Order, Outcome, Probe, probes
from esper_audit.probes.measuring import validation
from esper_audit.probes.subject import Subject

if TYPE_CHECKING:
    from torch import nn

_ZERO = re.compile(r"\b0(\.0+)?e\+00\b")  # what `:.1e` makes of exactly nothing


def attempt(probe: Probe, subject: Subject) -> Outcome:
    """Run one experiment."""
    start = time.perf_counter()
    try:
        torch.manual_seed(subject.order.seed)
        seen, reason = probe.run(subject), ""
    except NotComparable as why:
        seen, reason = Measurement(UNDECIDED, ""), f"not comparable: {why}"
    except BaseException as failure:  # noqa: BLE001 - audited code may raise anything, SystemExit not excepted
        seen, reason = Measurement(UNDECIDED, ""), f"the experiment could not be finished: {told(failure)}"
    measured = _ZERO.sub("0", seen.measured)
    return Outcome(
        probe.id, seen.result, measured, reason, seen.method, round(time.perf_counter() - start, 3), seen.table
    )


@contextmanager
def _as_in_a_worker() -> Iterator[None]:
    """One thread, and distributions that validate, whatever the process did before.

    For networks this small, waiting for other threads takes most of the time; and torch.compile has switched the
    validation of distributions off for the whole process, wherever it has run.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with validation(on=__debug__):
            yield
    finally:
        torch.set_num_threads(threads)


def tried(order: Order, network: nn.Module) -> Iterator[Outcome]:
    """Run the experiments of `order` on a network that is there already; the random numbers around go on as before."""
    with torch.random.fork_rng(devices=[]), _as_in_a_worker():
        subject = Subject(order, network)
        for name in order.probes:
            yield attempt(probes()[name], subject)
