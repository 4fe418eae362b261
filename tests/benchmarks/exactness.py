"""How far the reference is from the float64 calculation that goes cell by cell, and act from evaluate: two tables.

    python tests/benchmarks/exactness.py

prints what `docs/reference.md` quotes: the largest absolute differences over random networks, inputs and masks. The
tests hold the reference to bounds; this says how much of them is used.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "reference_impl")]

from tests.reference.cases import at, difference, make_case, make_network  # noqa: E402 - found by the lines above
from tests.reference.exact import exact  # noqa: E402 - as above

CASES = 100
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
OUTPUTS = ("log_prob", "value", "entropy", "h", "c")


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, CPU; {CASES} random networks, B = 4, T = 25, mid-window episode starts\n")
    print("| parameters | " + " | ".join(OUTPUTS) + " |\n|---|" + "---:|" * len(OUTPUTS))
    for dtype in DTYPES:
        largest = dict.fromkeys(OUTPUTS, 0.0)
        for seed in range(CASES):
            for name, distance in to_exact(dtype, seed).items():
                largest[name] = max(largest[name], distance)
        print(f"| {str(dtype).removeprefix('torch.')} | " + " | ".join(f"{x:.1e}" for x in largest.values()) + " |")
    print("\nB = 64, T = 16, LSTM of 64: the sizes of the memory tasks\n")
    print("| parameters | weights | oneDNN | largest first ratio error |\n|---|---|---|---:|")
    for dtype in (torch.float32, torch.float64):
        for title, heat in (("as initialised", 0.0), ("random", 1.0)):
            for onednn in (True, False):
                with torch.backends.mkldnn.flags(enabled=onednn):
                    error = max(ratio_error(dtype, heat, seed) for seed in range(CASES // 5))
                word = "on" if onednn else "off"
                print(f"| {str(dtype).removeprefix('torch.')} | {title} | {word} | {error:.1e} |")


def to_exact(dtype: torch.dtype, seed: int) -> dict[str, float]:
    """Largest differences of one network and one case."""
    torch.manual_seed(seed)
    network = make_network(layers=1 + seed % 2, heat=0.5).to(dtype)
    case = make_case(network, 4, 25, dtype=dtype)
    got = network.evaluate_actions(*case)
    wanted = exact(network.state_dict(), *case)
    pairs = zip(
        OUTPUTS,
        (got.log_prob, got.value, got.entropy, *got.hidden),
        (wanted.log_prob, wanted.value, wanted.entropy, wanted.h, wanted.c),
        strict=True,
    )
    return {name: difference(mine, torch.tensor(other, dtype=torch.float64)) for name, mine, other in pairs}


def ratio_error(dtype: torch.dtype, heat: float, seed: int) -> float:
    """Largest |ratio - 1| between 16 steps of `get_action` and one call of `evaluate_actions`."""
    torch.manual_seed(seed)
    network = make_network(heat=heat, trunk_dim=64, hidden_dim=64).to(dtype)
    case = make_case(network, 64, 16, dtype=dtype)
    hidden, old, actions = case.hidden, [], []
    for t in range(16):
        observation, masks, start = at(case, t)
        decision = network.get_action(observation, masks, hidden, start)
        hidden = decision.hidden
        old.append(decision.log_prob)
        actions.append(decision.actions)
    taken = {head: torch.stack([each[head] for each in actions], dim=1) for head in network.head_sizes}
    new = network.evaluate_actions(case.observations, case.masks, taken, case.hidden, case.episode_starts).log_prob
    return float(((new - torch.stack(old, dim=1)).exp() - 1.0).abs().max())


if __name__ == "__main__":
    main()
