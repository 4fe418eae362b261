"""What Dynamo makes of a call: graphs and breaks, counted without compiling anything.

Used in a process of its own: the first call of torch.compile switches the validation of `torch.distributions` off.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from esper_audit.probes.building import told
from esper_audit.probes.contract import NotComparable
from esper_audit.probes.subject import CALLED, Subject

_GUARD = re.compile(r"- \d+/\d+: ([^#\n]+)")  # the first guard that failed, without the code that asked for it


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
def compiled(method: Callable[..., Any]) -> Iterator[Callable[[Mapping[str, Any]], str | None]]:
    """A compiled method. Each call says why Dynamo compiled something anew, and None where it compiled nothing.

    The limit at which Dynamo gives up is raised: what came after it would not be counted.
    """
    torch.compiler.reset()
    backend = Counting()
    run = torch.compile(method, backend=backend)
    limits: Any = {
        "recompile_limit": 64,
        "accumulated_recompile_limit": 256,
    }
    with logged("recompiles") as reasons, torch._dynamo.config.patch(allow_rnn=True, **limits):  # noqa: SLF001

        def call(keywords: Mapping[str, Any]) -> str | None:
            before = backend.graphs
            reasons.clear()
            run(**keywords)
            if backend.graphs == before:
                return None
            guards = [found[1] for text in reasons if (found := _GUARD.search(text))]
            return guards[0].strip() if guards else "the first call"

        yield call
    torch.compiler.reset()


@contextlib.contextmanager
def logged_breaks() -> Iterator[list[str]]:
    """The graph breaks that Dynamo logs meanwhile, each place once."""
    with logged("graph_breaks") as messages:
        breaks: list[str] = []
        yield breaks
        breaks += [message for message in messages if "duplicate graph break" not in message]


@contextlib.contextmanager
def logged(artifact: str) -> Iterator[list[str]]:
    """What Dynamo logs meanwhile of one kind: `graph_breaks` or `recompiles`."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name.endswith(f"__{artifact}"):
                messages.append(record.getMessage())

    chosen: Any = {artifact: True}
    torch._logging.set_logs(**chosen)  # type: ignore[attr-defined]  # noqa: SLF001 - documented, private or not
    logger = logging.getLogger("torch._dynamo")
    others, logger.handlers, logger.propagate = logger.handlers, [Collect()], False
    try:
        yield messages
    finally:
        logger.handlers, logger.propagate = others, True
        torch._logging.set_logs()  # type: ignore[attr-defined]  # noqa: SLF001 - as above
