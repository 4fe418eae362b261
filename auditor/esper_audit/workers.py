"""Work shared out among processes of this machine; what came back before one of them died is kept."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

Item = TypeVar("Item")
Share = TypeVar("Share")
Result = TypeVar("Result")

_work: Callable[[Any], Any]  # of this process


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def portions(items: Iterable[Item], size: Callable[[Item], int], room: int) -> Iterator[list[Item]]:
    """The items in order, in portions of about `room`."""
    portion: list[Item] = []
    filled = 0
    for item in items:
        portion.append(item)
        filled += size(item)
        if filled >= room:
            yield portion
            portion, filled = [], 0
    if portion:
        yield portion


def spread(
    shares: Iterable[Share], begin: Callable[[], Callable[[Share], Result]], jobs: int, *, tell: Callable[[str], object]
) -> Iterator[Result]:
    """The result for each share, in order. Each process calls `begin` once; it and the shares must be picklable.

    When a process dies or none can be started, the results end early, and `tell` hears why.
    """
    try:
        # Spawned, since a copy of this process would hold the locks of its threads.
        pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin, (begin,))
    except (OSError, ImportError) as error:  # a machine without semaphores
        tell(f"no other process can be used: {error}")
        return
    try:
        for future in [pool.submit(_call, share) for share in shares]:
            yield future.result()
    except BrokenProcessPool as error:
        tell(f"the other processes came to an end, and this one goes on alone: {error}")
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(begin: Callable[[], Callable[[Any], Any]]) -> None:
    global _work  # noqa: PLW0603 - what a process of the pool knows, it can only keep in a global name
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who interrupts wants no trace of every process
    gc.disable()  # as in the process that asks
    atexit.register(os._exit, 0)  # all answers are out by then; taking millions of facts apart would cost seconds
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = begin()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _call(share: Any) -> Any:
    return _work(share)
