"""Whether a verdict is a matter of luck: every experiment under twenty seeds, on networks whose verdicts are known.

    python tests/benchmarks/seeds.py [--seeds N] [FILE ...]

A seed draws the weights, the observations, masks, actions and hidden states. Without a file it tries the reference
implementation, every network in `tests/networks`, faulty ones included, and the healthy networks of `matrix.py`; on the
reference it tries the experiments for torch.compile, too. Each network has a process of its own, in which one seed
follows the other. Verdicts that differ go to standard output, with what was measured, and so do the sums; progress goes
to standard error. The exit status is 1 where a verdict differs or the reference fails what convicts.

This is run by hand and is never a test: it takes about ten minutes on two cores. It needs torch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from bases import REFERENCE
from matrix import WORKERS, planted_copy
from planting import HERE, planted

from esper_audit.probes.building import CannotBuild
from esper_audit.probes.contract import BEHAVIOUR, COMPILE, FAILED, Order, Outcome, probes
from esper_audit.probes.orders import order_for
from esper_audit.probes.subject import Subject
from esper_audit.probes.trying import attempt
from esper_audit.semantics.flow import Interpreter
from esper_audit.semantics.model import Models
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.project import Project, project_root


@dataclass(frozen=True)
class Job:
    """One network and the experiments of one group."""

    label: str
    file: Path | None  # None: the healthy network of the matrix with that label
    class_name: str
    group: str = BEHAVIOUR


Outcomes = list[dict[str, Outcome]]  # by seed


def jobs(files: Sequence[Path]) -> Iterator[Job]:
    """What to try."""
    if files:
        for path in files:
            yield from _networks(path)
        return
    yield Job("reference", REFERENCE.folder / REFERENCE.network, REFERENCE.class_name)
    yield Job("reference", REFERENCE.folder / REFERENCE.network, REFERENCE.class_name, COMPILE)
    folder = HERE / "tests" / "networks"
    for path in sorted(folder.rglob("*.py")):
        if path.parent != folder and "tests" not in path.relative_to(folder).parts:
            yield from _networks(path)
    for fault in planted(REFERENCE):
        if fault.operator == "benign twin":
            yield Job(fault.spelling, None, REFERENCE.class_name)


def _networks(path: Path) -> Iterator[Job]:
    path = path.resolve()
    for name in Project(project_root(path)).network_names(path):
        yield Job(f"{path.parent.name}/{path.name}::{name}", path, name)


def carry_out(job: Job, seeds: int) -> tuple[Job, Outcomes]:
    """Try one network under every seed, in a process that has tried nothing else."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if job.file is None:
        fault = next(each for each in planted(REFERENCE) if each.spelling == job.label and not each.number)
        with planted_copy(fault) as order:
            return job, [_under(replace(order, seed=seed), job.group) for seed in range(seeds)]
    reader = Interpreter(Models(Project(project_root(job.file))))
    order = order_for(NetworkClass(reader.models.parse_named(job.file).classes[job.class_name], reader))
    try:
        return job, [_under(replace(order, seed=seed), job.group) for seed in range(seeds)]
    except CannotBuild:
        return job, [{}]


def _under(order: Order, group: str) -> dict[str, Outcome]:
    subject = Subject(order)
    return {name: attempt(probe, subject) for name, probe in probes().items() if probe.group == group}


def differences(outcomes: Outcomes) -> Iterator[str]:
    """One line for each verdict that differs between seeds."""
    for name in outcomes[0]:
        results = Counter(each[name].result for each in outcomes)
        if len(results) == 1:
            continue
        counted = ", ".join(f"{number} {result}" for result, number in results.most_common())
        rarest = results.most_common()[-1][0]
        seed, odd = next((i, each[name]) for i, each in enumerate(outcomes) if each[name].result == rarest)
        yield f"{name}: {counted}; seed {seed}: {odd.measured or odd.error}"


def convicted(outcomes: Outcomes) -> Iterator[str]:
    """What failed under some seed, and convicts."""
    for name in outcomes[0]:
        if probes()[name].convicts and any(each[name].result == FAILED for each in outcomes):
            yield name


def main() -> None:
    """Try all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=20, metavar="N")
    options = parser.parse_args()
    todo = list(jobs(options.files))
    start = time.monotonic()
    verdicts = flips = failures = 0
    # A process for each: two networks may have modules of one name, and compiling changes torch for good.
    with multiprocessing.get_context("spawn").Pool(WORKERS, maxtasksperchild=1) as pool:
        carried_out = pool.imap_unordered(partial(carry_out, seeds=options.seeds), todo, chunksize=1)
        for done, (job, outcomes) in enumerate(carried_out, start=1):
            print(f"{done} of {len(todo)}: {job.label} ({job.group})", file=sys.stderr)
            verdicts += len(outcomes[0])
            broken = list(convicted(outcomes)) if job.label == "reference" else []
            for line in differences(outcomes):
                flips += 1
                print(f"{job.label}: {line}", flush=True)
            for name in broken:
                failures += 1
                print(f"{job.label}: {name} fails", flush=True)
    print(f"{len({job.label for job in todo})} networks, {verdicts} verdicts, {options.seeds} seeds: {flips} differ")
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    sys.exit(bool(flips or failures))


if __name__ == "__main__":
    main()
