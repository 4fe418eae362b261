"""What each choice in the masked distribution costs, beside what one would have written instead: a table.

    python tests/benchmarks/distribution.py

prints what `docs/reference.md` quotes: medians of calls in turns, on one thread of a CPU. It says nothing of a GPU,
where what a wait for the device costs depends on what else there is to do. This is run by hand and is never a test.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.distributions import Categorical

sys.path.insert(0, str(Path(__file__).parents[2] / "reference_impl"))

from esper_reference.distributions import MASKED_LOGIT, MaskedCategorical

ROWS, ACTIONS, ROUNDS = 1024, 16, 400


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logits = torch.randn(ROWS, ACTIONS)
    half = logits.bfloat16()
    mask = torch.rand(ROWS, ACTIONS) < 0.5
    mask[:, 0] = True
    head = MaskedCategorical(logits, mask)
    other = Categorical(logits=logits.masked_fill(~mask, MASKED_LOGIT), validate_args=True)
    action = head.sample()
    print(f"torch {torch.__version__}, CPU, 1 thread, logits [{ROWS}, {ACTIONS}], microseconds\n")
    print("| what | MaskedCategorical | instead | |\n|---|---:|---:|---|")
    for title, mine, instead, name in (
        (
            "construction, values checked",
            lambda: MaskedCategorical(logits, mask),
            lambda: Categorical(logits=logits.masked_fill(~mask, MASKED_LOGIT), validate_args=True).probs,
            "`Categorical`, validated",
        ),
        (
            "construction, values not checked",
            lambda: MaskedCategorical(logits, mask, validate=False),
            lambda: Categorical(logits=logits.masked_fill(~mask, MASKED_LOGIT), validate_args=False).probs,
            "`Categorical`, not validated",
        ),
        (
            "construction from bfloat16, not checked",
            lambda: MaskedCategorical(half, mask, validate=False),
            lambda: MaskedCategorical(logits, mask, validate=False),
            "from float32",
        ),
        ("sample", head.sample, other.sample, "`torch.multinomial` in `Categorical`"),
        (
            "log_prob, checked",
            lambda: head.log_prob(action),
            lambda: other.log_prob(action),
            "`Categorical`, validated",
        ),
        ("entropy", head.entropy, other.entropy, "`Categorical`"),
        ("normalised entropy", head.normalised_entropy, head.entropy, "entropy"),
    ):
        medians = timed({"mine": mine, "instead": instead})
        print(f"| {title} | {medians['mine']:.0f} | {medians['instead']:.0f} | {name} |")


def timed(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median microseconds of each call; they take turns, so that a slow phase of the machine hits all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number >= ROUNDS // 10:
                times[name].append(1e6 * (time.perf_counter() - start))
    return {name: statistics.median(column) for name, column in times.items()}


if __name__ == "__main__":
    main()
