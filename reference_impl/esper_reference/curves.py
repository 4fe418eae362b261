"""Learning curves as a PNG: per task the median over seeds of each agent, and the range from the worst to the best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from esper_reference.experiments import Outcome, grouped
from esper_reference.tasks import BEST_RETURN

COLOURS = ("#0072b2", "#d55e00", "#009e73")  # Okabe and Ito: told apart by colour-blind readers, too


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write the curves of `outcomes` to `path`, one panel per task.

    Raises:
        OSError: the file cannot be written.

    """
    groups = grouped(outcomes)
    tasks = list(dict.fromkeys(task for task, _ in groups))
    agents = list(dict.fromkeys(agent for _, agent in groups))
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(5.0 * len(tasks), 3.6), layout="constrained")
        axes = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
        for panel, task in zip(axes, tasks, strict=True):
            panel.axhline(BEST_RETURN, color="0.6", linestyle=":", label="best return")
            for agent, colour in zip(agents, COLOURS, strict=False):
                runs = groups.get((task, agent), [])
                if not runs:
                    continue
                thousands = [steps / 1000 for steps in runs[0].steps]
                columns = [[r for r in column if not math.isnan(r)] or [math.nan] for column in _columns(runs)]
                panel.plot(thousands, [statistics.median(c) for c in columns], color=colour, label=agent)
                low, high = [min(c) for c in columns], [max(c) for c in columns]
                panel.fill_between(thousands, low, high, color=colour, alpha=0.2, linewidth=0)
            seeds = len({run.run.seed for run in outcomes if run.run.task == task})
            panel.set_title(f"{task}: median and range of {seeds} seed{'s' * (seeds > 1)}")
            panel.set_xlabel("environment steps (thousands)")
            panel.set_ylim(-0.03, 1.06)
        axes[0].set_ylabel("return per episode, actions sampled")
        axes[0].legend(loc="upper right", bbox_to_anchor=(1.0, 0.8), fontsize=8)
        figure.savefig(path, dpi=120, format="png", metadata={"Software": None})


def _columns(runs: Sequence[Outcome]) -> list[tuple[float, ...]]:
    """Per update, the returns of all runs."""
    return list(zip(*(run.returns for run in runs), strict=True))
