"""`python -m esper_reference train` trains agents on the memory tasks, says what they reach, and draws how.

The table is in markdown: `docs/reference.md` shows the one of five seeds, with the command that made it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper_reference.experiments import Outcome, Run
    from esper_reference.ppo import Settings


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return 0; wrong use ends the process with 2."""
    if importlib.util.find_spec("torch") is None:
        print("esper_reference needs torch: pip install 'esper-audit[probe]'", file=sys.stderr)
        return 2
    from esper_reference.experiments import Run
    from esper_reference.ppo import Settings
    from esper_reference.tasks import AGENTS, TASKS

    parser = argparse.ArgumentParser(prog="python -m esper_reference", description="The reference implementation.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    training = commands.add_parser("train", help="train agents on the memory tasks, and say what they reach")
    training.add_argument("--task", choices=[*TASKS, "all"], default="all", help="default: all")
    training.add_argument("--agent", choices=[*AGENTS, "all"], default="reference", help="all: the controls, too")
    training.add_argument("--seeds", type=positive, default=1, metavar="N", help="seeds 0 to N - 1; default: 1")
    training.add_argument(
        "--updates", type=positive, default=Settings.updates, metavar="N", help="of PPO; default: %(default)s"
    )
    training.add_argument(
        "--processes", type=positive, default=os.cpu_count() or 1, metavar="N", help="default: one per core"
    )
    training.add_argument("--plot", type=Path, metavar="PNG", help="draw the learning curves into this file")
    chosen = parser.parse_args(words)

    if chosen.plot is not None and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot: expected matplotlib to be installed, got none: pip install 'esper-audit[curves]'")
    if chosen.plot is not None and not chosen.plot.absolute().parent.is_dir():
        parser.error(f"--plot: expected a file in a folder that exists, got {chosen.plot}")
    tasks = list(TASKS) if chosen.task == "all" else [chosen.task]
    agents = list(AGENTS) if chosen.agent == "all" else [chosen.agent]
    runs = [Run(task, agent, seed) for task in tasks for agent in agents for seed in range(chosen.seeds)]

    start = time.monotonic()
    outcomes = with_progress(runs, Settings(updates=chosen.updates), min(chosen.processes, len(runs)))
    print_table(outcomes)
    print(f"\n{len(runs)} run{'s' * (len(runs) > 1)} in {time.monotonic() - start:.0f} s")
    if chosen.plot is not None:
        from esper_reference.curves import draw

        draw(outcomes, chosen.plot)
        print(f"learning curves: {chosen.plot}")
    return 0


def positive(word: str) -> int:
    """A whole number of at least 1."""
    if not word.isascii() or not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {word!r}")
    return int(word)


def with_progress(runs: Sequence[Run], settings: Settings, processes: int) -> list[Outcome]:
    """Carry out `runs`, with a bar on standard error that counts updates."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    from esper_reference.experiments import carry_out_all

    columns = ("updates", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), "left", TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(runs) * settings.updates)
        return carry_out_all(runs, settings, processes, lambda: bar.advance(task))


def print_table(outcomes: Sequence[Outcome]) -> None:
    """Per task and agent the mean over seeds, and the worst seed in brackets, as shares of the best return."""
    from esper_reference.experiments import grouped
    from esper_reference.tasks import BEST_RETURN

    print("| task | agent | seeds | actions sampled | most probable actions | largest first ratio error |")
    print("|---|---|---:|---:|---:|---:|")
    for (task, agent), group in grouped(outcomes).items():
        shares = [
            [value / BEST_RETURN for value in values]
            for values in ([each.sampled for each in group], [each.greedy for each in group])
        ]
        sampled, greedy = (f"{statistics.mean(values):.3f} ({min(values):.3f})" for values in shares)
        ratio = max(each.worst_first_ratio for each in group)
        print(f"| {task} | {agent} | {len(group)} | {sampled} | {greedy} | {ratio:.1e} |")


if __name__ == "__main__":
    sys.exit(main())
