"""Runs that show whether the network learns: every agent on every task over several seeds, beside controls."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from esper_reference.network import FactoredActorCritic
from esper_reference.ppo import Settings, train
from esper_reference.tasks import AGENTS, TASKS

ENVIRONMENTS = 64


class Run(NamedTuple):
    """What is trained on what."""

    task: str
    agent: str
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What came of a run. Returns are shares of episodes answered right, and 1 is the best there is."""

    run: Run
    steps: tuple[int, ...]  # of all environments together, after each update
    returns: tuple[float, ...]  # mean of the episodes that ended in each rollout, sampled actions; NaN where none did
    sampled: float  # mean return of fresh episodes after training, actions sampled
    greedy: float  # the same, the most probable actions
    worst_first_ratio: float  # largest |ratio - 1| before the first optimiser step of any update


def carry_out(run: Run, settings: Settings, tell: Callable[[], None] = lambda: None) -> Outcome:
    """Train and try one agent; `tell` is called after each update. The same run gives the same numbers."""
    torch.manual_seed(run.seed)
    environments = TASKS[run.task](ENVIRONMENTS, seed=run.seed)
    network = AGENTS[run.agent](environments.observation_dim, environments.head_sizes)
    progress = []
    for each in train(network, environments, settings):
        progress.append(each)
        tell()
    return Outcome(
        run=run,
        steps=tuple(each.steps for each in progress),
        returns=tuple(each.mean_return for each in progress),
        sampled=mean_return(network, run, deterministic=False),
        greedy=mean_return(network, run, deterministic=True),
        worst_first_ratio=max(each.first_ratio_error for each in progress),
    )


@torch.no_grad()
def mean_return(network: FactoredActorCritic, run: Run, *, deterministic: bool, episodes: int = 1024) -> float:
    """Mean return of `episodes` fresh ones, one environment each, of which only the first episode counts."""
    environments = TASKS[run.task](episodes, seed=run.seed + 1_000_000)
    observed, hidden = environments.reset(), network.initial_hidden(episodes)
    unfinished = torch.ones(episodes, dtype=torch.bool)
    total = torch.zeros(episodes)
    while unfinished.any():
        decision = network.get_action(
            observed.observation, observed.masks, hidden, observed.episode_start, deterministic=deterministic
        )
        hidden = decision.hidden
        observed, reward = environments.step(decision.actions)
        total += reward * unfinished
        unfinished &= ~observed.episode_start
    return float(total.mean())


def carry_out_all(runs: Sequence[Run], settings: Settings, processes: int, tell: Callable[[], None]) -> list[Outcome]:
    """Carry out `runs` in `processes` of one thread each; `tell` is called in this process after each update."""
    context = multiprocessing.get_context("spawn")  # a forked torch may hang in its thread pool
    updates: Any = context.Queue()
    with ProcessPoolExecutor(processes, context, _begin, (updates,)) as pool:
        futures = [pool.submit(_carry_out_there, run, settings) for run in runs]
        try:
            while not all(future.done() for future in futures):
                _pass_on(updates, tell)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        _pass_on(updates, tell)
        return [future.result() for future in futures]


def _pass_on(updates: Any, tell: Callable[[], None]) -> None:
    """Call `tell` for what has arrived; wait a little when nothing has."""
    try:
        while True:
            updates.get(timeout=0.2)
            tell()
    except queue.Empty:
        return


_updates: Any = None  # in a worker: where it tells of its updates


def _begin(updates: Any) -> None:
    global _updates  # noqa: PLW0603 - a queue reaches a worker when it starts, and never later
    _updates = updates
    torch.set_num_threads(1)
    # oneDNN has one LSTM kernel for inference and one for training, which differ in the last digits: with it the first
    # ratio of an update is off by up to 3e-6, and without it by nothing at all. At this size both are equally fast.
    torch.backends.mkldnn.set_flags(_enabled=False)


def _carry_out_there(run: Run, settings: Settings) -> Outcome:
    return carry_out(run, settings, lambda: _updates.put(None))


def grouped(outcomes: Iterable[Outcome]) -> dict[tuple[str, str], list[Outcome]]:
    """The outcomes by task and agent, in the order in which they come."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.run.task, outcome.run.agent), []).append(outcome)
    return groups
