"""Tests of SchedulerActorCritic."""

from __future__ import annotations

import pytest
import torch

from masks import HEADS, HeadDistribution
from network import SchedulerActorCritic

OBS_DIM = 10
SIZES = {"machine": 4, "job": 7, "tool": 5, "mode": 3}


@pytest.fixture
def network() -> SchedulerActorCritic:
    torch.manual_seed(0)
    net = SchedulerActorCritic(
        OBS_DIM, num_machines=4, num_jobs=7, num_tools=5, num_modes=3, encoder_dim=16, core_dim=24
    )
    # Far enough from uniform that a wrong mask or a wrong state shows.
    with torch.no_grad():
        for head in HEADS:
            getattr(net, f"{head}_head")[-1].weight.mul_(100.0)
    return net


def random_masks(*lead: int) -> dict[str, torch.Tensor]:
    """Masks with at least one open choice per row; the last row of a head has exactly one."""
    masks = {}
    for head, size in SIZES.items():
        mask = torch.rand(*lead, size) < 0.5
        mask.scatter_(-1, torch.randint(size, (*lead, 1)), True)
        mask[-1] = False
        mask[-1, ..., 0] = True
        masks[f"{head}_mask"] = mask
    return masks


def rollout(
    network: SchedulerActorCritic, obs: torch.Tensor, masks: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    """Step through ``obs`` and stack what ``get_action`` returns along the time axis."""
    hidden = network.get_initial_hidden(obs.shape[0])
    steps = []
    for t in range(obs.shape[1]):
        step_masks = {name: mask[:, t] for name, mask in masks.items()}
        *step, hidden = network.get_action(obs[:, t], hidden, **step_masks)
        steps.append(step)
    actions = {head: torch.stack([step[0][head] for step in steps], 1) for head in HEADS}
    log_probs = {head: torch.stack([step[1][head] for step in steps], 1) for head in HEADS}
    return actions, log_probs, torch.stack([step[2] for step in steps], 1)


def test_forward_returns_one_set_of_logits_per_head(network: SchedulerActorCritic) -> None:
    out = network(torch.randn(3, 5, OBS_DIM))
    for head, size in SIZES.items():
        assert out[f"{head}_logits"].shape == (3, 5, size)
    assert out["value"].shape == (3, 5)
    assert out["hidden"][0].shape == out["hidden"][1].shape == (1, 3, 24)


def test_infeasible_choices_are_never_taken(network: SchedulerActorCritic) -> None:
    masks = random_masks(64)
    for deterministic in (False, True):
        actions, *_ = network.get_action(
            torch.randn(64, OBS_DIM), **masks, deterministic=deterministic
        )
        for head in HEADS:
            assert masks[f"{head}_mask"].gather(1, actions[head].unsqueeze(1)).all()


def test_evaluate_reproduces_the_log_probs_of_the_rollout(network: SchedulerActorCritic) -> None:
    obs, masks = torch.randn(3, 6, OBS_DIM), random_masks(3, 6)
    actions, old_log_probs, old_values = rollout(network, obs, masks)
    log_probs, values, _, _ = network.evaluate_actions(obs, actions, **masks)
    torch.testing.assert_close(log_probs, old_log_probs, rtol=0, atol=1e-5)
    torch.testing.assert_close(values, old_values, rtol=0, atol=1e-5)


def test_rollout_returns_nothing_differentiable(network: SchedulerActorCritic) -> None:
    _, log_probs, value, hidden = network.get_action(torch.randn(3, OBS_DIM))
    for tensor in (*log_probs.values(), value, *hidden):
        assert not tensor.requires_grad
        assert not tensor.is_inference()


def test_hidden_state_of_a_rollout_can_start_an_update(network: SchedulerActorCritic) -> None:
    *_, hidden = network.get_action(torch.randn(2, OBS_DIM))
    actions = {head: torch.zeros(2, 3, dtype=torch.int64) for head in HEADS}
    log_probs, *_ = network.evaluate_actions(torch.randn(2, 3, OBS_DIM), actions, hidden=hidden)
    sum(log_probs.values()).sum().backward()
    assert network.core.weight_hh_l0.grad.abs().sum() > 0


def test_every_parameter_is_trained(network: SchedulerActorCritic) -> None:
    actions = {head: torch.randint(size, (4, 5)) for head, size in SIZES.items()}
    log_probs, values, entropies, _ = network.evaluate_actions(torch.randn(4, 5, OBS_DIM), actions)
    loss = sum(log_probs.values()).sum() + values.sum() + sum(entropies.values()).sum()
    loss.backward()
    for name, param in network.named_parameters():
        assert param.grad is not None, name
        assert param.grad.isfinite().all(), name
        assert param.grad.abs().sum() > 0, name


@pytest.mark.parametrize("shape", [(4, 7), (4, 7, 4), (4, 4, 6), (4, 4, 1)])
def test_a_mask_that_does_not_fit_is_refused(
    network: SchedulerActorCritic, shape: tuple[int, ...]
) -> None:
    obs = torch.randn(4, 4, OBS_DIM)
    actions = {head: torch.zeros(4, 4, dtype=torch.int64) for head in HEADS}
    mask = torch.ones(shape, dtype=torch.bool)
    for call in (
        lambda: network(obs, job_mask=mask),
        lambda: network.evaluate_actions(obs, actions, job_mask=mask),
    ):
        with pytest.raises(ValueError, match=r"job_mask: expected \(4, 4, 7\), got"):
            call()


def test_a_mask_for_another_batch_is_refused_when_acting(network: SchedulerActorCritic) -> None:
    with pytest.raises(ValueError, match=r"tool_mask: expected \(3, 1, 5\), got \(4, 5\)"):
        network.get_action(torch.randn(3, OBS_DIM), tool_mask=torch.ones(4, 5, dtype=torch.bool))


def test_a_mask_that_is_not_boolean_is_refused(network: SchedulerActorCritic) -> None:
    with pytest.raises(ValueError, match=r"mode_mask: expected torch.bool, got torch.float32"):
        network(torch.randn(2, 1, OBS_DIM), mode_mask=torch.ones(2, 1, 3))


def test_a_row_without_a_choice_is_refused(network: SchedulerActorCritic) -> None:
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[1] = False
    with pytest.raises(RuntimeError, match="machine_mask has a row without a choice"):
        network.get_action(torch.randn(3, OBS_DIM), machine_mask=mask)


def test_a_broken_observation_is_refused(network: SchedulerActorCritic) -> None:
    obs = torch.randn(3, OBS_DIM)
    obs[1, 4] = float("nan")
    with pytest.raises(RuntimeError, match="the core put out NaN"):
        network.get_action(obs)


def test_an_action_of_the_wrong_shape_is_refused(network: SchedulerActorCritic) -> None:
    actions = {head: torch.zeros(2, 3, dtype=torch.int64) for head in HEADS}
    actions["mode"] = actions["mode"].unsqueeze(-1)
    with pytest.raises(ValueError, match=r"mode action: expected \(2, 3\), got \(2, 3, 1\)"):
        network.evaluate_actions(torch.randn(2, 3, OBS_DIM), actions)


def test_an_action_outside_its_head_is_refused(network: SchedulerActorCritic) -> None:
    actions = {head: torch.zeros(2, 3, dtype=torch.int64) for head in HEADS}
    actions["tool"][1, 2] = 5
    with pytest.raises(RuntimeError, match=r"tool action is not in 0\.\.4"):
        network.evaluate_actions(torch.randn(2, 3, OBS_DIM), actions)


def test_a_missing_head_is_refused(network: SchedulerActorCritic) -> None:
    with pytest.raises(ValueError, match="expected heads"):
        network.evaluate_actions(
            torch.randn(2, 3, OBS_DIM), {"job": torch.zeros(2, 3, dtype=torch.int64)}
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_initial_state_has_the_type_of_the_network(
    network: SchedulerActorCritic, dtype: torch.dtype
) -> None:
    network.to(dtype)
    assert {state.dtype for state in network.get_initial_hidden(3)} == {dtype}
    out = network(torch.randn(3, 5, OBS_DIM, dtype=dtype))
    assert out["value"].dtype == dtype


def test_a_state_that_came_out_of_autocast_is_accepted(network: SchedulerActorCritic) -> None:
    obs = torch.randn(3, 5, OBS_DIM)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = network(obs)["hidden"]
    assert hidden[0].dtype == torch.bfloat16
    assert network(obs, hidden)["value"].isfinite().all()


def test_the_forget_gate_is_opened_once(network: SchedulerActorCritic) -> None:
    bias = network.core.bias_ih_l0 + network.core.bias_hh_l0
    expected = torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(24)
    assert torch.equal(bias, expected)


def test_every_gate_starts_orthogonal(network: SchedulerActorCritic) -> None:
    for gate in network.core.weight_hh_l0.chunk(4):
        torch.testing.assert_close(gate @ gate.T, torch.eye(24))


def test_a_fresh_policy_is_nearly_uniform() -> None:
    network = SchedulerActorCritic(OBS_DIM)
    actions = {head: torch.zeros(8, 6, dtype=torch.int64) for head in HEADS}
    _, _, entropies, _ = network.evaluate_actions(torch.randn(8, 6, OBS_DIM), actions)
    for entropy in entropies.values():
        assert entropy.min() > 0.99


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_entropy_of_a_single_choice_is_zero_and_so_is_its_gradient(dtype: torch.dtype) -> None:
    logits = torch.tensor([[0.5, -1e4, -1e4], [0.5, 1.0, -1e4]], dtype=dtype, requires_grad=True)
    entropy = HeadDistribution(logits, torch.tensor([1, 2])).entropy()
    assert entropy[0] == 0
    assert 0.9 < entropy[1] <= 1
    entropy.sum().backward()
    assert logits.grad.isfinite().all()
    assert not logits.grad[0].any()


def test_the_methods_trace_as_one_graph_each(network: SchedulerActorCritic) -> None:
    obs, masks = torch.randn(3, 4, OBS_DIM), random_masks(3, 4)
    actions, *_ = rollout(network, obs, masks)
    with torch._dynamo.config.patch(allow_rnn=True):
        act = torch.compile(network.get_action, backend="eager", fullgraph=True)
        act(obs[:, :1], **{name: mask[:, :1] for name, mask in masks.items()})
        evaluate = torch.compile(network.evaluate_actions, backend="eager", fullgraph=True)
        log_probs, *_ = evaluate(obs, actions, **masks)
    expected, *_ = network.evaluate_actions(obs, actions, **masks)
    torch.testing.assert_close(log_probs, expected)
