"""The rollout buffer keeps environments apart, and advantages are what their definition says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esper_reference.network import Decision, FactoredActorCritic, Hidden
from esper_reference.rollout import Observed, RolloutBuffer, generalised_advantages

from .cases import HEADS, make_network

ENVIRONMENTS, STEPS, WINDOW = 3, 8, 4


def tagged(network: FactoredActorCritic, t: int) -> tuple[Observed, Hidden, Decision, Tensor]:
    """One step in which every number says where it belongs: 100 * environment + step."""
    tag = torch.arange(ENVIRONMENTS) * 100 + t
    observation = tag.float().unsqueeze(1).expand(-1, network.observation_dim)
    masks = {head: torch.arange(size) == (tag % size).unsqueeze(1) for head, size in HEADS.items()}
    h, c = network.initial_hidden(ENVIRONMENTS)
    shown = tag.float().view(1, -1, 1)
    hidden = h + shown, c - shown
    decision = Decision({head: tag % size for head, size in HEADS.items()}, tag / 7, tag / 3, hidden)
    return Observed(observation, masks, tag % 5 == 0), hidden, decision, tag.float()


def filled(network: FactoredActorCritic) -> RolloutBuffer:
    buffer = RolloutBuffer(network, environments=ENVIRONMENTS, steps=STEPS, window=WINDOW)
    for t in range(STEPS):
        buffer.add(*tagged(network, t))
    buffer.finish(torch.zeros(ENVIRONMENTS), torch.zeros(ENVIRONMENTS).bool(), gamma=0.9, gae_lambda=0.8)
    return buffer


def test_a_window_holds_consecutive_steps_of_one_environment_and_the_state_before_them() -> None:
    batch = filled(make_network(layers=2)).windows(torch.arange(ENVIRONMENTS * STEPS // WINDOW))
    for number in range(ENVIRONMENTS * STEPS // WINDOW):
        environment, first = divmod(number, STEPS // WINDOW)
        tags = 100 * environment + WINDOW * first + torch.arange(WINDOW)
        assert torch.equal(batch.observations[number, :, 0], tags.float())
        assert torch.equal(batch.episode_starts[number], tags % 5 == 0)
        assert torch.equal(batch.log_prob[number], tags / 7)
        for head, size in HEADS.items():
            assert torch.equal(batch.actions[head][number], tags % size)
            assert torch.equal(batch.masks[head][number].int().argmax(-1), tags % size)
        h, c = batch.hidden
        assert (h[:, number] == tags[0]).all()
        assert (c[:, number] == -tags[0]).all()


def test_minibatches_are_whole_windows_each_exactly_once() -> None:
    batches = list(filled(make_network()).minibatches(4))
    assert [len(batch.observations) for batch in batches] == [2, 2, 2]
    first_tags = torch.cat([batch.observations[:, 0, 0] for batch in batches])
    assert sorted(first_tags.tolist()) == [0, 4, 100, 104, 200, 204]


def test_what_was_stored_does_not_follow_its_source_and_is_no_inference_tensor() -> None:
    network = make_network()
    buffer = RolloutBuffer(network, environments=ENVIRONMENTS, steps=STEPS, window=WINDOW)
    with torch.inference_mode():
        observed, hidden, decision, reward = tagged(network, 0)
    buffer.add(observed, hidden, decision, reward)
    with torch.inference_mode():
        hidden[0].fill_(-1.0)
        reward.fill_(-1.0)
    assert buffer.reward[:, 0].tolist() == [0.0, 100.0, 200.0]
    assert buffer.hidden[0][0, :, 0, 0].tolist() == [0.0, 100.0, 200.0]
    assert not any(each.is_inference() for each in (buffer.observations, buffer.log_prob, *buffer.actions.values()))


def test_bad_sizes_are_told() -> None:
    network = make_network()
    with pytest.raises(ValueError, match="steps: expected a multiple of window = 3, got 8"):
        RolloutBuffer(network, environments=2, steps=8, window=3)
    buffer = filled(network)
    with pytest.raises(IndexError, match="expected at most 8 steps, got one more"):
        buffer.add(*tagged(network, 8))
    buffer.filled = 0
    observed, hidden, decision, reward = tagged(network, 0)
    with pytest.raises(ValueError, match=r"reward: expected shape \(3,\), got \(3, 1\)"):
        buffer.add(observed, hidden, decision, reward.unsqueeze(1))


def test_fields_follow_the_dtype_of_the_network() -> None:
    buffer = RolloutBuffer(make_network().bfloat16(), environments=2, steps=4, window=2)
    assert {each.dtype for each in (buffer.observations, buffer.value, *buffer.hidden)} == {torch.bfloat16}
    assert buffer.log_prob.dtype == torch.float32
    assert {mask.dtype for mask in buffer.masks.values()} == {torch.bool}


@settings(max_examples=50, deadline=None)
@given(
    environments=st.integers(1, 3),
    steps=st.integers(1, 7),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_advantages_are_the_weighted_sum_of_the_errors_up_to_the_end_of_the_episode(
    environments: int, steps: int, gamma: float, gae_lambda: float, seed: int
) -> None:
    torch.manual_seed(seed)
    rewards, values = torch.randn(2, environments, steps, dtype=torch.float64)
    ends = torch.rand(environments, steps) < 0.3
    last_value = torch.randn(environments, dtype=torch.float64)
    got = generalised_advantages(rewards, values, ends, last_value, gamma=gamma, gae_lambda=gae_lambda)
    for n in range(environments):
        for t in range(steps):
            total, weight = 0.0, 1.0
            for k in range(t, steps):
                after = 0.0 if ends[n, k] else float(last_value[n] if k + 1 == steps else values[n, k + 1])
                total += weight * (float(rewards[n, k]) + gamma * after - float(values[n, k]))
                weight *= gamma * gae_lambda
                if ends[n, k]:
                    break
            assert float(got[n, t]) == pytest.approx(total, abs=1e-9)


def test_with_lambda_one_an_advantage_is_the_discounted_return_less_the_value() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.4, 0.6]])
    ends = torch.tensor([[False, False, True]])
    got = generalised_advantages(rewards, values, ends, torch.tensor([9.0]), gamma=0.5, gae_lambda=1.0)
    assert got.tolist() == [pytest.approx([0.25 - 0.2, 0.5 - 0.4, 1.0 - 0.6])]


def test_an_episode_ends_at_the_step_before_the_next_one_starts() -> None:
    network = make_network()
    buffer = RolloutBuffer(network, environments=1, steps=4, window=4)
    buffer.reward[:] = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    buffer.episode_starts[:] = torch.tensor([[True, False, True, False]])  # steps 0 and 1 are one episode
    buffer.finish(torch.tensor([16.0]), torch.tensor([False]), gamma=1.0, gae_lambda=1.0)
    assert buffer.returns.tolist() == [[3.0, 2.0, 28.0, 24.0]]
    buffer.finish(torch.tensor([16.0]), torch.tensor([True]), gamma=1.0, gae_lambda=1.0)
    assert buffer.returns.tolist() == [[3.0, 2.0, 12.0, 8.0]]


def test_advantages_have_mean_zero_and_deviation_one_and_a_single_one_is_zero() -> None:
    advantages = filled(make_network()).advantages
    assert advantages.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert advantages.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    alone = RolloutBuffer(make_network(), environments=1, steps=1, window=1)
    alone.finish(torch.tensor([5.0]), torch.tensor([False]), gamma=0.9, gae_lambda=0.9)
    assert alone.advantages.tolist() == [[0.0]]
