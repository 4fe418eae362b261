"""The network computes what a float64 calculation computes that goes cell by cell and knows no mask constant."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from .cases import difference, make_case, make_network
from .exact import exact

# float32 and float64 round at 1e-7 and 1e-16; the rest is what the sums of a few dozen products make of it. In half
# precision the whole network rounds at every step, and a wrong formula would still be off by more.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 5e-6, torch.bfloat16: 0.1, torch.float16: 0.01}


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 4),
    time=st.integers(1, 5),
    layers=st.integers(1, 2),
    starts=st.sampled_from([None, 0.0, 0.3, 1.0]),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_network_computes_what_the_cell_by_cell_calculation_does(
    batch: int, time: int, layers: int, starts: float | None, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    network = make_network(layers=layers, heat=0.5).to(dtype)
    case = make_case(network, batch, time, starts=starts, dtype=dtype)

    got = network.evaluate_actions(*case)
    wanted = exact(network.state_dict(), *case)

    for name, tensor, numbers in (
        ("log_prob", got.log_prob, wanted.log_prob),
        ("value", got.value, wanted.value),
        ("entropy", got.entropy, wanted.entropy),
        ("h", got.hidden[0], wanted.h),
        ("c", got.hidden[1], wanted.c),
    ):
        assert difference(tensor, torch.tensor(numbers, dtype=torch.float64)) <= TOLERANCE[dtype], name


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 3), min_size=0, max_size=2),
    size=st.integers(1, 9),
    scale=st.sampled_from([0.01, 1.0, 30.0, 1e4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_valid_action_has_the_exact_log_prob(shape: list[int], size: int, scale: float, seed: int) -> None:
    from esper_reference.distributions import MaskedCategorical

    torch.manual_seed(seed)
    logits = torch.randn(*shape, size, dtype=torch.float64) * scale
    mask = torch.rand(*shape, size) < 0.5
    mask[..., int(torch.randint(size, ()))] = True
    head = MaskedCategorical(logits, mask)
    for row, valid, log_probs in zip(
        logits.view(-1, size), mask.view(-1, size), head.log_probs.view(-1, size), strict=True
    ):
        expected = row[valid] - torch.logsumexp(row[valid], dim=0)  # the invalid ones are not even there
        torch.testing.assert_close(log_probs[valid], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("constant", ["-1e4", "unmasked"])
def test_the_comparison_would_notice_weak_masks(constant: str) -> None:
    network = make_network().double()
    with torch.no_grad():
        for head in network.heads.values():
            head[-1].bias.sub_(10_000.0)  # type: ignore[index]  # legal, and out of reach of -1e4
    case = make_case(network, dtype=torch.float64)
    wanted = exact(network.state_dict(), *case).log_prob
    assert difference(network.evaluate_actions(*case).log_prob, torch.tensor(wanted, dtype=torch.float64)) < 1e-10

    logits = network(case.observations, case.hidden, case.episode_starts).logits
    total = torch.zeros(case.observations.shape[:2], dtype=torch.float64)
    for name, mask in case.masks.items():
        weak = logits[name].masked_fill(~mask, -1e4) if constant == "-1e4" else logits[name]
        total += weak.log_softmax(-1).gather(-1, case.actions[name].unsqueeze(-1)).squeeze(-1)
    assert difference(total, torch.tensor(wanted, dtype=torch.float64)) > 0.1
