"""What single experiments see, and what they pass over: right networks with one thing changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from esper_audit.probes.contract import FAILED, PASSED, Outcome
from esper_audit.testing import ClaimsFailedError, check_network
from esper_reference import distributions
from esper_reference.distributions import MaskedCategorical
from esper_reference.network import Decision, Evaluation, FactoredActorCritic, Hidden, Output

SIZES = {"slot": 6, "op": 4}


def tried(network: FactoredActorCritic, claim: str) -> Outcome:
    """The outcome of one experiment."""
    try:
        (outcome,) = check_network(network, claims=[claim])
    except ClaimsFailedError as error:
        (outcome,) = error.outcomes
    return outcome


class HalfForgotten(FactoredActorCritic):
    """Evaluate starts from h alone."""

    def evaluate_actions(
        self,
        observations: Tensor,
        masks: Mapping[str, Tensor],
        actions: Mapping[str, Tensor],
        hidden: Hidden,
        episode_starts: Tensor | None,
    ) -> Evaluation:
        return super().evaluate_actions(
            observations, masks, actions, (hidden[0], torch.zeros_like(hidden[1])), episode_starts
        )


def test_a_hidden_state_of_which_evaluate_reads_one_half_is_not_used() -> None:
    outcome = tried(HalfForgotten(9, SIZES), "hidden-used")
    assert outcome.result == FAILED
    assert outcome.measured == "part 1 of the hidden state moves the results of act, and not those of evaluate"
    assert outcome.method == "evaluate_actions"


class OwnMemory(FactoredActorCritic):
    """Act goes on from what it kept itself."""

    kept: Hidden | None = None

    def get_action(
        self,
        observation: Tensor,
        masks: Mapping[str, Tensor],
        hidden: Hidden,
        episode_start: Tensor | None,
        *,
        deterministic: bool = False,
    ) -> Decision:
        if self.kept is not None and self.kept[0].shape == hidden[0].shape:
            hidden = self.kept
        decision = super().get_action(observation, masks, hidden, episode_start, deterministic=deterministic)
        self.kept = decision.hidden
        return decision


def test_what_act_keeps_on_self_is_missed_in_the_checkpoint() -> None:
    outcome = tried(OwnMemory(9, SIZES), "state-roundtrip")
    assert outcome.result == FAILED
    assert outcome.measured.endswith("after state_dict")


class Unsqueezed(FactoredActorCritic):
    """The value keeps its last dimension: [B, 1] from act, [B, T, 1] from evaluate."""

    def get_action(
        self,
        observation: Tensor,
        masks: Mapping[str, Tensor],
        hidden: Hidden,
        episode_start: Tensor | None,
        *,
        deterministic: bool = False,
    ) -> Decision:
        decision = super().get_action(observation, masks, hidden, episode_start, deterministic=deterministic)
        return decision._replace(value=decision.value.unsqueeze(-1))

    def evaluate_actions(
        self,
        observations: Tensor,
        masks: Mapping[str, Tensor],
        actions: Mapping[str, Tensor],
        hidden: Hidden,
        episode_starts: Tensor | None,
    ) -> Evaluation:
        evaluation = super().evaluate_actions(observations, masks, actions, hidden, episode_starts)
        return evaluation._replace(value=evaluation.value.unsqueeze(-1))


def test_a_value_that_keeps_its_last_dimension_in_both_methods_is_the_same_value() -> None:
    outcome = tried(Unsqueezed(9, SIZES), "act-evaluate")
    assert outcome.result == PASSED
    assert "largest difference" in outcome.measured


class ByPosition(FactoredActorCritic):
    """Evaluate hands logits to the parameter that takes probabilities."""

    def evaluate_actions(
        self,
        observations: Tensor,
        masks: Mapping[str, Tensor],
        actions: Mapping[str, Tensor],
        hidden: Hidden,
        episode_starts: Tensor | None,
    ) -> Evaluation:
        logits, _, _ = self(observations, hidden, episode_starts)
        log_prob = torch.zeros(observations.shape[:2])
        for name, each in logits.items():
            log_prob = log_prob + torch.distributions.Categorical(each).log_prob(actions[name])
        evaluation = super().evaluate_actions(observations, masks, actions, hidden, episode_starts)
        return evaluation._replace(log_prob=log_prob)


@pytest.fixture(params=[True, False], ids=["as it starts", "after torch.compile"])
def validation(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compiling switches the validation of distributions off for the whole process."""
    torch.distributions.Distribution.set_default_validate_args(request.param)
    yield
    torch.distributions.Distribution.set_default_validate_args(__debug__)


@pytest.mark.usefixtures("validation")
def test_logits_taken_for_probabilities_are_seen_though_every_call_raises() -> None:
    outcome = tried(ByPosition(9, SIZES), "policy-range")
    assert outcome.result == FAILED
    assert outcome.measured.startswith("it scores no action until the logits are positive")
    assert outcome.method == "evaluate_actions"


def test_an_action_that_act_takes_and_then_refuses_itself_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "MASKED_LOGIT", -5.0)
    outcome = tried(FactoredActorCritic(9, SIZES), "mask-semantics")
    assert outcome.result == FAILED
    assert outcome.measured.startswith("act refuses its own sampled action")


class Additive(MaskedCategorical):
    """Adds a constant where the mask forbids, in the dtype of the logits."""

    def __init__(self, logits: Tensor, mask: Tensor, *, validate: bool = True, name: str = "action") -> None:
        super().__init__(logits, mask, validate=validate, name=name)
        self.log_probs = torch.log_softmax(logits + (1 - mask.to(logits.dtype)) * -1e9, dim=-1)
        self.probs = self.log_probs.exp()


def test_a_constant_that_half_precision_turns_into_infinity_spoils_the_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper_reference.network.MaskedCategorical", Additive)
    outcome = tried(FactoredActorCritic(9, SIZES), "mask-dtype")
    assert outcome.result == FAILED
    assert outcome.measured == "float16: entropies of masked rows are not finite"


class Stash(FactoredActorCritic):
    """Keeps the last value, with its graph."""

    last: Tensor | None = None

    def forward(self, observations: Tensor, hidden: Hidden, episode_starts: Tensor | None) -> Output:
        output = super().forward(observations, hidden, episode_starts)
        self.last = output.value
        return output


def test_what_forward_keeps_on_self_is_found_whatever_ran_before() -> None:
    with pytest.raises(ClaimsFailedError) as caught:
        check_network(Stash(9, SIZES))
    assert [outcome.id for outcome in caught.value.outcomes] == ["graph-kept"]
    assert caught.value.outcomes[0].measured.startswith("deepcopy raises RuntimeError: ")
    assert caught.value.outcomes[0].measured.endswith("; tensors with a graph: last")


class Picky(FactoredActorCritic):
    """Act refuses what masks out anything, for reasons of its own."""

    def get_action(
        self,
        observation: Tensor,
        masks: Mapping[str, Tensor],
        hidden: Hidden,
        episode_start: Tensor | None,
        *,
        deterministic: bool = False,
    ) -> Decision:
        if not all(bool(mask.all()) for mask in masks.values()):
            raise RuntimeError("not now")
        return super().get_action(observation, masks, hidden, episode_start, deterministic=deterministic)


@pytest.mark.parametrize("claim", ["act-graph", "inference-tensors"])
def test_a_network_that_refuses_masks_of_chance_is_asked_without_any(claim: str) -> None:
    assert tried(Picky(9, SIZES), claim).result == PASSED
