"""Tests of DepotPolicy."""

from __future__ import annotations

import pytest
import torch

from policy import DepotConfig, DepotPolicy

CONFIG = DepotConfig(num_bays=5, hidden_size=16)


@pytest.fixture
def policy() -> DepotPolicy:
    torch.manual_seed(1)
    return DepotPolicy(CONFIG)


def some_masks(*lead: int) -> torch.Tensor:
    """Half of the bays occupied; waiting is always allowed."""
    free = torch.rand(*lead, CONFIG.num_actions) < 0.5
    free[..., -1] = True
    return free


def test_occupied_bays_are_never_chosen(policy: DepotPolicy) -> None:
    obs, free = torch.randn(200, CONFIG.obs_dim), some_masks(200)
    for greedy in (False, True):
        action = policy.act(obs, free, policy.initial_hidden(200), greedy=greedy).action
        assert free.gather(1, action.unsqueeze(1)).all()


def test_stepping_and_evaluating_agree(policy: DepotPolicy) -> None:
    obs, free = torch.randn(3, 7, CONFIG.obs_dim), some_masks(3, 7)
    hidden = policy.initial_hidden(3)
    steps = []
    for t in range(7):
        steps.append(policy.act(obs[:, t], free[:, t], hidden))
        hidden = steps[-1].hidden
    actions = torch.stack([step.action for step in steps], dim=1)
    result = policy.evaluate_actions(obs, free, policy.initial_hidden(3), actions)
    expected = torch.stack([step.log_prob for step in steps], dim=1)
    torch.testing.assert_close(result.log_prob, expected, rtol=0, atol=1e-5)
    assert result.value.shape == result.entropy.shape == (3, 7)


def test_a_new_day_forgets_the_old_one(policy: DepotPolicy) -> None:
    hidden = torch.randn(1, 3, CONFIG.hidden_size)
    kept = policy.reset_finished(hidden, torch.tensor([False, True, False]))
    assert torch.equal(kept[:, [0, 2]], hidden[:, [0, 2]])
    assert not kept[:, 1].any()


@pytest.mark.parametrize("shape", [(4, 6), (4, 4, 5), (4, 3, 6)])
def test_a_mask_that_does_not_fit_is_refused(policy: DepotPolicy, shape: tuple[int, ...]) -> None:
    obs, free = torch.randn(4, 4, CONFIG.obs_dim), torch.ones(shape, dtype=torch.bool)
    with pytest.raises(ValueError, match="free: expected"):
        policy(obs, free, policy.initial_hidden(4))


def test_a_row_without_a_choice_is_refused(policy: DepotPolicy) -> None:
    free = some_masks(2)
    free[1] = False
    with pytest.raises(RuntimeError, match="does not even allow to wait"):
        policy.act(torch.randn(2, CONFIG.obs_dim), free, policy.initial_hidden(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_memory_follows_the_type_of_the_policy(policy: DepotPolicy, dtype: torch.dtype) -> None:
    policy.to(dtype)
    obs = torch.randn(2, CONFIG.obs_dim, dtype=dtype)
    decision = policy.act(obs, some_masks(2), policy.initial_hidden(2))
    assert decision.hidden.dtype == dtype


def test_gradients_reach_every_parameter(policy: DepotPolicy) -> None:
    result = policy.evaluate_actions(
        torch.randn(3, 4, CONFIG.obs_dim),
        torch.ones(3, 4, CONFIG.num_actions, dtype=torch.bool),
        policy.initial_hidden(3),
        torch.randint(CONFIG.num_actions, (3, 4)),
    )
    (result.log_prob + result.value + result.entropy).sum().backward()
    for name, param in policy.named_parameters():
        assert param.grad is not None, name
        assert param.grad.abs().sum() > 0, name
