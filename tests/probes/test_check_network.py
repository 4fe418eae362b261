"""`check_network` in a user's own tests: one error that lists every broken claim, and nothing changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from esper_audit.probes.contract import PASSED
from esper_audit.testing import ClaimsFailedError, check_network
from esper_reference.network import FactoredActorCritic, Hidden, Output

SIZES = {"slot": 6, "op": 4}


class Forgetful(FactoredActorCritic):
    """Never resets, whatever starts."""

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        never = None if episode_starts is None else torch.zeros_like(episode_starts)
        return super().forward(observations, hidden, never)


def test_a_right_network_passes_and_the_outcomes_have_numbers() -> None:
    outcomes = check_network(FactoredActorCritic(9, SIZES))
    passed = [outcome for outcome in outcomes if outcome.result == PASSED]
    assert len(passed) >= 24
    assert all(outcome.measured for outcome in passed)


def test_every_broken_claim_is_listed_with_its_number() -> None:
    network = Forgetful(9, SIZES)
    with torch.no_grad():
        for name, parameter in network.lstm.named_parameters():
            if name.startswith("bias"):
                parameter.chunk(4)[1].fill_(1.0)
    with pytest.raises(ClaimsFailedError, match="Forgetful breaks 2 claims") as caught:
        check_network(network)
    text = str(caught.value)
    assert "episode-reset: an episode start inside a sequence clears the whole hidden state" in text
    assert "of the forget gate is 2.00" in text
    assert {outcome.id for outcome in caught.value.outcomes} == {"episode-reset", "init-forget-bias"}


def test_claims_can_be_chosen_and_ignored() -> None:
    network = Forgetful(9, SIZES)
    assert [outcome.id for outcome in check_network(network, claims=["hidden-used"])] == ["hidden-used"]
    assert "episode-reset" not in {outcome.id for outcome in check_network(network, ignore=["episode-reset"])}
    with pytest.raises(ValueError, match=r"no experiment is called 'episode-rest'; did you mean 'episode-reset'\?"):
        check_network(network, ignore=["episode-rest"])


def test_the_network_and_the_random_numbers_stay_as_they_are() -> None:
    network = FactoredActorCritic(9, SIZES).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    check_network(network)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(3), expected)
    assert not network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_that_is_not_understood_breaks_no_claim() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def act(self, this: object, that: object) -> None:
            raise TypeError(f"neither {this} nor {that}")

    assert all(outcome.error for outcome in check_network(Odd()) if outcome.result != PASSED)
