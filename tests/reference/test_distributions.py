"""The masked distribution: invalid actions do not exist, in value and in gradient, and bad input is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from esper_reference.distributions import MASKED_LOGIT, MaskedCategorical

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def random_rows(rows: int, size: int, dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits that require a gradient, and masks of which the first row has one valid action and the second all."""
    logits = (torch.randn(rows, size) * scale).clamp(-6e4, 6e4).to(dtype).requires_grad_()  # float16 ends at 65504
    mask = torch.rand(rows, size) < 0.5
    mask = mask.scatter(1, torch.randint(size, (rows, 1)), value=True)
    mask[0] = torch.arange(size) == size // 2
    mask[1] = True
    return logits, mask


rows_of_all_kinds = given(
    rows=st.integers(2, 6),
    size=st.integers(1, 12),
    dtype=st.sampled_from(DTYPES),
    scale=st.sampled_from([0.01, 1.0, 100.0, 3e4]),
    seed=st.integers(0, 2**32 - 1),
)
few = settings(max_examples=60, deadline=None)


@few
@rows_of_all_kinds
def test_an_invalid_action_has_probability_and_gradient_exactly_zero(
    rows: int, size: int, dtype: torch.dtype, scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    logits, mask = random_rows(rows, size, dtype, scale)
    head = MaskedCategorical(logits, mask)
    assert (head.probs[~mask] == 0.0).all()
    (head.log_prob(head.sample()).sum() + head.entropy().sum() + head.normalised_entropy().sum()).backward()
    assert logits.grad is not None
    assert (logits.grad[~mask] == 0.0).all()
    assert logits.grad.isfinite().all()


@few
@rows_of_all_kinds
def test_entropy_lies_between_zero_and_its_maximum(
    rows: int, size: int, dtype: torch.dtype, scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    logits, mask = random_rows(rows, size, dtype, scale)
    head = MaskedCategorical(logits, mask)
    assert (head.entropy() >= 0.0).all()
    assert (head.entropy() <= head.max_entropy() + 1e-6).all()
    assert (head.normalised_entropy() <= 1.0 + 1e-6).all()


@few
@rows_of_all_kinds
def test_what_is_drawn_and_what_is_preferred_is_valid(
    rows: int, size: int, dtype: torch.dtype, scale: float, seed: int
) -> None:
    torch.manual_seed(seed)
    logits, mask = random_rows(rows, size, dtype, scale)
    head = MaskedCategorical(logits, mask)
    for action in (head.mode(), *(head.sample() for _ in range(20))):
        assert mask.gather(1, action.unsqueeze(1)).all()
        assert action.shape == (rows,)
        assert action.dtype == torch.int64


@few
@given(size=st.integers(1, 8), shift=st.floats(-1e4, 1e4), seed=st.integers(0, 2**32 - 1))
def test_the_logits_of_invalid_actions_do_not_matter(size: int, shift: float, seed: int) -> None:
    torch.manual_seed(seed)
    logits, mask = random_rows(4, size, torch.float32)
    moved = torch.where(mask, logits, logits + shift)
    left, right = MaskedCategorical(logits, mask), MaskedCategorical(moved, mask)
    assert torch.equal(left.log_probs, right.log_probs)
    assert torch.equal(left.entropy(), right.entropy())


def test_sampling_follows_the_probabilities() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, 5.0]).expand(200_000, 4)
    mask = torch.tensor([True, True, True, False]).expand(200_000, 4)
    head = MaskedCategorical(logits, mask)
    frequency = torch.bincount(head.sample(), minlength=4) / 200_000
    assert torch.allclose(frequency, head.probs[0], atol=0.005)  # four standard deviations
    assert frequency[3] == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_valid_action_leaves_no_entropy_and_no_gradient(dtype: torch.dtype) -> None:
    logits = torch.tensor([[3.0, -2.0, 8.0]], dtype=dtype, requires_grad=True)
    head = MaskedCategorical(logits, torch.tensor([[False, True, False]]))
    assert head.entropy().item() == 0.0
    assert head.normalised_entropy().item() == 0.0
    assert head.log_prob(torch.tensor([1])).item() == 0.0
    (head.normalised_entropy().sum() + head.entropy().sum()).backward()
    assert logits.grad is not None
    assert (logits.grad == 0.0).all()


def test_equal_logits_have_the_largest_entropy() -> None:
    mask = torch.tensor([[True, True, False, True], [True, True, True, True], [True, False, True, False]])
    head = MaskedCategorical(torch.zeros(3, 4), mask)
    expected = torch.tensor([math.log(3), math.log(4), math.log(2)])
    assert torch.allclose(head.entropy(), expected)
    assert torch.allclose(head.max_entropy(), expected)
    assert torch.allclose(head.normalised_entropy(), torch.ones(3))


@pytest.mark.parametrize("valid", [-9_995.0, -11_000.0, -1e20])
def test_no_valid_logit_is_so_low_that_the_mask_leaks(valid: float) -> None:
    head = MaskedCategorical(torch.tensor([[valid, 0.0]]), torch.tensor([[True, False]]))
    assert head.probs.tolist() == [[1.0, 0.0]]


def test_the_mask_constant_survives_being_subtracted_from_in_float32() -> None:
    lowest = torch.tensor(MASKED_LOGIT) - 3.4e38
    assert lowest.isfinite()


# Bad input


LOGITS = torch.zeros(4, 4, 3)  # B == T, where a mask without a time axis would broadcast without an error


@pytest.mark.parametrize(
    ("mask", "kind", "message"),
    [
        (torch.ones(4, 3).bool(), ValueError, r"op mask: expected shape \(4, 4, 3\), got \(4, 3\)"),
        (torch.ones(4, 4, 1).bool(), ValueError, r"op mask: expected shape \(4, 4, 3\), got \(4, 4, 1\)"),
        (torch.ones(4, 4, 4).bool(), ValueError, r"op mask: expected shape \(4, 4, 3\), got \(4, 4, 4\)"),
        (torch.ones(4, 4, 3), TypeError, r"op mask: expected torch.bool, got torch.float32"),
        (torch.ones(4, 4, 3, dtype=torch.uint8), TypeError, r"op mask: expected torch.bool, got torch.uint8"),
        (
            torch.zeros(4, 4, 3).bool(),
            RuntimeError,
            r"op mask: expected a valid action in every row, got a row without",
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask: Tensor, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        MaskedCategorical(LOGITS, mask, name="op")


@pytest.mark.parametrize(
    ("action", "kind", "message"),
    [
        (torch.zeros(4), TypeError, "op action: expected torch.int64, got torch.float32"),
        (torch.zeros(4, 1).long(), ValueError, r"op action: expected shape \(4,\), got \(4, 1\)"),
        (torch.tensor([0, 0, 0, 3]), RuntimeError, "op action: expected 0 to 2, got another number"),
        (torch.tensor([0, 0, 0, -1]), RuntimeError, "op action: expected 0 to 2, got another number"),
        (torch.tensor([0, 0, 0, 1]), RuntimeError, "op action: expected a valid one, got one the mask forbids"),
    ],
)
def test_an_action_that_cannot_have_been_taken_is_refused(action: Tensor, kind: type[Exception], message: str) -> None:
    mask = torch.tensor([True, False, True]).expand(4, 3)
    head = MaskedCategorical(torch.zeros(4, 3), mask, name="op")
    with pytest.raises(kind, match=message):
        head.log_prob(action)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_are_refused_even_where_they_are_masked(bad: float) -> None:
    logits = torch.tensor([[0.0, bad]])
    with pytest.raises(RuntimeError, match="op logits: expected finite numbers, got NaN or infinity"):
        MaskedCategorical(logits, torch.tensor([[True, False]]), name="op")


def test_nobody_else_switches_the_validation_off(monkeypatch: pytest.MonkeyPatch) -> None:
    nan = torch.full((1, 2), math.nan)
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)  # as the first torch.compile does
    assert torch.distributions.Categorical(logits=nan).probs.isnan().all()
    with pytest.raises(RuntimeError, match="expected finite numbers"):
        MaskedCategorical(nan, torch.ones(1, 2).bool())


def test_validation_of_values_can_be_switched_off_and_that_of_shapes_cannot() -> None:
    nothing_valid = torch.zeros(2, 3).bool()
    head = MaskedCategorical(torch.tensor([[0.0, math.nan, 0.0], [0.0, 0.0, 0.0]]), nothing_valid, validate=False)
    assert head.probs[1].tolist() == pytest.approx([1 / 3] * 3)  # what the check is for: a choice among the forbidden
    with pytest.raises(ValueError, match="expected shape"):
        MaskedCategorical(torch.zeros(2, 3), nothing_valid[:, :2], validate=False)


# Cost


class Operations(TorchDispatchMode):
    """The operations that run inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device() -> None:
    logits, mask = random_rows(4, 5, torch.float32)
    with Operations() as ran:
        head = MaskedCategorical(logits, mask)
        action = head.sample()
        head.mode()
        head.log_prob(action)
        head.normalised_entropy()
    assert "_assert_async" in ran.names
    assert not {"_local_scalar_dense", "is_nonzero", "item", "nonzero"} & set(ran.names)


def test_the_distribution_runs_where_no_value_is_known() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool, device="meta")
    head = MaskedCategorical(torch.zeros(2, 3, device="meta"), mask)
    assert head.log_prob(head.sample()).shape == head.normalised_entropy().shape == (2,)


def test_the_masking_is_one_copy() -> None:
    logits, mask = random_rows(4, 5, torch.float32)
    with Operations() as ran:
        MaskedCategorical(logits, mask, validate=False)
    assert ran.names.count("masked_fill") == 1
    assert "_to_copy" not in ran.names


def test_half_precision_logits_give_float32_log_probs() -> None:
    logits = torch.randn(1000, 64).to(torch.bfloat16)
    head = MaskedCategorical(logits, torch.ones(1000, 64).bool())
    assert head.log_probs.dtype == head.entropy().dtype == torch.float32
    exact = logits.double().log_softmax(-1)
    assert (head.log_probs - exact).abs().max() < 1e-5
    assert (logits.log_softmax(-1) - exact).abs().max() > 1e-3  # what a PPO ratio would be off by
