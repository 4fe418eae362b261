"""What Dynamo makes of a call: graphs and breaks, counted without compiling anything.

Used in a process of its own: the first call of torch.compile switches the validation of `torch.distributions` off.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from esper_audit.probes.building import told
from esper_audit.probes.contract import NotComparable
from esper_audit.probes.subject import CALLED, Subject


class Counting:
    """A backend that compiles nothing and counts the graphs it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, _inputs: Any) -> Any:
        """Take one graph."""
        self.graphs += 1
        return graph.forward


def calls(subject: Subject) -> Iterator[tuple[str, dict[str, Any]]]:
    """The methods that training calls, each with arguments that it answers to; those that it does not are left out."""
    for role in CALLED:
        if not subject.has(role):
            continue
        facts = subject.method(role)
        inputs = subject.inputs(time=1) if role == "act" else subject.inputs()
        kind = "act" if role == "act" else "sequence"
        try:
            keywords = subject.arguments(subject.network, facts, inputs, kind, score=role == "evaluate")
        except NotComparable:
            continue
        yield facts.name, keywords


def traced(method: Callable[..., Any], keywords: Mapping[str, Any]) -> tuple[int, list[str], str]:
    """Graphs, the breaks that Dynamo logs, and the error if the compiled call fails."""
    torch.compiler.reset()
    backend = Counting()
    failed = ""
    with logged_breaks() as breaks, torch._dynamo.config.patch(allow_rnn=True):  # noqa: SLF001 - there is no other switch
        try:
            torch.compile(method, backend=backend)(**keywords)
        except Exception as error:  # noqa: BLE001 - a compiled call may fail where the eager one does not
            failed = told(error)
    torch.compiler.reset()
    return backend.graphs, breaks, failed


def covered(network: nn.Module, name: str, keywords: Mapping[str, Any]) -> int:
    """How many graphs a call of `name` on the compiled network leads to."""
    torch.compiler.reset()
    backend = Counting()
    compiled: Any = torch.compile(network, backend=backend)
    with logged_breaks(), torch._dynamo.config.patch(allow_rnn=True), contextlib.suppress(Exception):  # noqa: SLF001
        (compiled if name == "forward" else getattr(compiled, name))(**keywords)
    torch.compiler.reset()
    return backend.graphs


@contextlib.contextmanager
def logged_breaks() -> Iterator[list[str]]:
    """The graph breaks that Dynamo logs meanwhile, each place once."""
    breaks: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if record.name.endswith("__graph_breaks") and "duplicate graph break" not in message:
                breaks.append(message)

    torch._logging.set_logs(graph_breaks=True)  # type: ignore[attr-defined]  # noqa: SLF001 - documented, private or not
    logger = logging.getLogger("torch._dynamo")
    others, logger.handlers, logger.propagate = logger.handlers, [Collect()], False
    try:
        yield breaks
    finally:
        logger.handlers, logger.propagate = others, True
        torch._logging.set_logs()  # type: ignore[attr-defined]  # noqa: SLF001 - as above
