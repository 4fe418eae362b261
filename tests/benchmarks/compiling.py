"""What torch.compile makes of the reference: graphs, breaks, seconds to compile, and time per call beside eager.

    python tests/benchmarks/compiling.py

prints the table of `docs/reference.md`, slow cases and all. It takes some minutes and a C++ compiler. Graphs are
counted by a backend that compiles nothing, breaks by Dynamo's own log; times are those of the default backend, on one
thread, in turns with eager calls. This is run by hand and is never a test: a timed test fails on a busy machine.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from esper_audit.probes.dynamo import Counting, logged_breaks
from esper_reference.network import FactoredActorCritic
from esper_reference.ppo import allow_lstm

HEADS = {"slot": 6, "blueprint": 5, "op": 4}
OBSERVATION_DIM = 32
ENVIRONMENTS, STEPS = 16, 16


class Case(NamedTuple):
    """One call that training makes, or could make."""

    method: str
    arguments: tuple[Any, ...]
    title: str
    backward: bool = False


class Row(NamedTuple):
    """What was measured of one case, compiled in one way."""

    graphs: int
    breaks: int
    seconds_to_compile: float
    eager_ms: float
    compiled_ms: float


def report() -> None:
    """Print a markdown table of all cases."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, CPU, 1 thread, B = {ENVIRONMENTS}, T = {STEPS}, one LSTM layer of 64\n")
    print("| what is compiled | call | graphs | breaks | compiling, s | eager, ms | compiled, ms | compiled / eager |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for title, wrap, lstm_allowed in WAYS:
        for case in cases(FactoredActorCritic(OBSERVATION_DIM, HEADS)):
            row = measure(case, wrap, lstm_allowed=lstm_allowed)
            ratio = row.compiled_ms / row.eager_ms
            print(
                f"| {title} | {case.title} | {row.graphs} | {row.breaks} | {row.seconds_to_compile:.1f} "
                f"| {row.eager_ms:.2f} | {row.compiled_ms:.2f} | {ratio:.2f} |",
                flush=True,
            )


def cases(network: FactoredActorCritic) -> list[Case]:
    """The three methods with episode starts, and the two that take sequences without."""
    shape = (ENVIRONMENTS, STEPS)
    observations = torch.randn(*shape, network.observation_dim)
    masks = {head: torch.rand(*shape, size) < 0.7 for head, size in network.head_sizes.items()}
    for mask in masks.values():
        mask[..., 0] = True
    first_valid = {head: torch.zeros(shape, dtype=torch.int64) for head in masks}
    starts = torch.rand(shape) < 0.1
    hidden = network.initial_hidden(ENVIRONMENTS)
    one_step = observations[:, 0], {head: mask[:, 0] for head, mask in masks.items()}, hidden, starts[:, 0]
    return [
        Case("forward", (observations, hidden, starts), "`forward`"),
        Case("forward", (observations, hidden, None), "`forward`, no episode starts"),
        Case("get_action", one_step, "`get_action`"),
        Case("evaluate_actions", (observations, masks, first_valid, hidden, starts), "`evaluate_actions`"),
        Case(
            "evaluate_actions",
            (observations, masks, first_valid, hidden, starts),
            "`evaluate_actions` and backward",
            backward=True,
        ),
        Case(
            "evaluate_actions",
            (observations, masks, first_valid, hidden, None),
            "the same, no episode starts",
            backward=True,
        ),
    ]


def wrapper(network: FactoredActorCritic, method: str, backend: Any) -> Callable[..., Any]:
    """The method of `torch.compile(network)`, as most trainers call it."""
    compiled: Any = torch.compile(network, backend=backend)
    handed_through: Callable[..., Any] = compiled if method == "forward" else getattr(compiled, method)
    return handed_through


def method_itself(network: FactoredActorCritic, method: str, backend: Any) -> Callable[..., Any]:
    """The method, compiled."""
    compiled: Callable[..., Any] = torch.compile(getattr(network, method), backend=backend)
    return compiled


WAYS = (
    ("`torch.compile(network)`", wrapper, False),
    ("each method", method_itself, False),
    ("each method, `allow_rnn` (`compile_methods`)", method_itself, True),
)


def measure(
    case: Case, wrap: Callable[[FactoredActorCritic, str, Any], Callable[..., Any]], *, lstm_allowed: bool
) -> Row:
    """Count graphs and breaks, then compile for good and time eager and compiled calls in turns."""
    torch.manual_seed(0)
    network = FactoredActorCritic(OBSERVATION_DIM, HEADS)
    backend = Counting()

    with allow_lstm() if lstm_allowed else contextlib.nullcontext():
        torch.compiler.reset()
        with logged_breaks() as breaks:
            wrap(network, case.method, backend)(*case.arguments)
        torch.compiler.reset()
        eager = calling(case, getattr(network, case.method))
        compiled = calling(case, wrap(network, case.method, "inductor"))
        start = time.perf_counter()
        compiled()
        seconds_to_compile = time.perf_counter() - start
        times = [(timed(eager), timed(compiled)) for _ in range(60)][10:]
    eager_ms, compiled_ms = (statistics.median(column) for column in zip(*times, strict=True))
    return Row(backend.graphs, len(breaks), seconds_to_compile, eager_ms, compiled_ms)


def calling(case: Case, function: Callable[..., Any]) -> Callable[[], None]:
    """The case as a call without arguments."""

    def call() -> None:
        result = function(*case.arguments)
        if case.backward:
            loss: Tensor = result.log_prob.mean() + result.value.mean() + result.entropy.mean()
            loss.backward()

    return call


def timed(call: Callable[[], None]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    report()
