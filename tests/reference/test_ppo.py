"""An update starts at ratio 1, moves towards what paid, and compiled methods are those that training calls."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from esper_reference.network import FactoredActorCritic
from esper_reference.ppo import Collector, Settings, compile_methods, loss_of, train, update
from esper_reference.rollout import RolloutBuffer
from esper_reference.tasks import AGENTS, FactoredTask, RecallTask

from .cases import at, make_case, make_network


@pytest.fixture
def without_onednn() -> Iterator[None]:
    """With one LSTM kernel for training and inference, act and evaluate agree to the last bit."""
    before = torch.backends.mkldnn.set_flags(_enabled=False)
    yield
    torch.backends.mkldnn.set_flags(_enabled=before[0])


def rolled_out(
    network: FactoredActorCritic | None = None, heat: float = 1.0
) -> tuple[FactoredActorCritic, RolloutBuffer]:
    """A rollout of the factored task; with `heat`, by a network with random weights of that scale."""
    environments = FactoredTask(16, seed=1)
    network = network or FactoredActorCritic(environments.observation_dim, environments.head_sizes)
    if heat:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(torch.randn_like(parameter) * (0.3 * heat))
    buffer = RolloutBuffer(network, environments=16, steps=32, window=8)
    Collector(network, environments).fill(buffer, gamma=0.99, gae_lambda=0.95)
    return network, buffer


@pytest.mark.usefixtures("without_onednn")
@pytest.mark.parametrize("agent", list(AGENTS))
@pytest.mark.parametrize("minibatches", [1, 4, 7])
def test_the_ratio_of_the_first_minibatch_is_exactly_one(agent: str, minibatches: int) -> None:
    network, buffer = rolled_out(AGENTS[agent](FactoredTask(1, 0).observation_dim, FactoredTask.head_sizes))
    batch = next(buffer.minibatches(minibatches))
    _, ratio, _ = loss_of(network, batch, Settings())
    assert torch.equal(ratio, torch.ones_like(ratio))


def test_with_onednn_it_is_one_within_a_millionth() -> None:
    network, buffer = rolled_out(heat=0.0)
    error, _, _ = update(network, torch.optim.SGD(network.parameters(), lr=0.1), buffer, Settings())
    assert error <= 1e-6


@pytest.mark.usefixtures("without_onednn")
@pytest.mark.parametrize("fault", ["starts", "masks", "hidden", "order"])
def test_the_ratio_notices_what_evaluate_is_not_given(fault: str) -> None:
    network, buffer = rolled_out()
    batch = next(buffer.minibatches(1))
    spoilt = {
        "starts": batch._replace(episode_starts=torch.zeros_like(batch.episode_starts)),
        "masks": batch._replace(masks={head: torch.ones_like(mask) for head, mask in batch.masks.items()}),
        "hidden": batch._replace(hidden=network.initial_hidden(len(batch.observations))),
        "order": batch._replace(observations=batch.observations.flip(1)),
    }[fault]
    _, ratio, _ = loss_of(network, spoilt, Settings())
    assert (ratio - 1.0).abs().max() > 1e-3


def test_an_update_makes_what_paid_more_probable_and_what_did_not_less() -> None:
    network, buffer = rolled_out(heat=0.0)
    settings = Settings(entropy_weight=0.0)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    batch = buffer.windows(torch.arange(64))
    for _ in range(20):
        loss, ratio, _ = loss_of(network, batch, settings)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    gained = (ratio.detach() * batch.advantages).mean() - batch.advantages.mean()
    assert gained > 0.01


def test_a_ratio_outside_the_clip_gets_no_gradient_in_the_direction_that_leads_further_out() -> None:
    network, buffer = rolled_out()
    batch = buffer.windows(torch.arange(64))
    settings = Settings(value_weight=0.0, entropy_weight=0.0)
    for shift, advantage in ((-1.0, 1.0), (1.0, -1.0)):  # ratio e with a gain to be had, ratio 1/e with a loss to avoid
        extreme = batch._replace(
            log_prob=batch.log_prob + shift, advantages=torch.full_like(batch.advantages, advantage)
        )
        network.zero_grad()
        loss, _, _ = loss_of(network, extreme, settings)
        loss.backward()
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in network.parameters())


def test_progress_counts_the_steps_of_all_environments_and_returns_are_those_of_whole_episodes() -> None:
    environments = RecallTask(8, seed=0)
    network = FactoredActorCritic(environments.observation_dim, environments.head_sizes)
    progress = list(train(network, environments, Settings(updates=3, steps=16, window=8)))
    assert [each.steps for each in progress] == [128, 256, 384]
    assert all(0.0 <= each.mean_return <= 1.0 for each in progress)
    assert all(math.isfinite(each.approximate_kl) and each.approximate_kl >= 0.0 for each in progress)
    assert all(0.0 <= each.normalised_entropy <= 1.0 for each in progress)


def test_a_rollout_in_which_no_episode_ends_has_no_mean_return() -> None:
    environments = RecallTask(2, seed=0)
    network = FactoredActorCritic(environments.observation_dim, environments.head_sizes)
    (progress,) = train(network, environments, Settings(updates=1, steps=2, window=2, minibatches=1))
    assert math.isnan(progress.mean_return)


def test_the_methods_that_training_calls_are_compiled_and_the_checkpoint_keeps_its_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, other = make_network(), make_network()
    keys = list(network.state_dict())
    graphs: list[Any] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda method, **words: compile_with(method, backend=backend, **words))
    torch.compiler.reset()
    compile_methods(network)
    case = make_case(network)
    network.get_action(*at(case, 0)[:2], case.hidden, at(case, 0)[2])
    assert len(graphs) == 1
    network.evaluate_actions(*case).log_prob.sum().backward()
    assert len(graphs) == 2
    assert list(network.state_dict()) == keys
    other.evaluate_actions(*case)
    assert len(graphs) == 2  # this network, not the class
    torch.compiler.reset()
