"""The network: its state at the start, its memory, its agreement with itself, and what it survives."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_reference.network import FactoredActorCritic, Hidden

from .cases import (
    HEADS,
    HIDDEN_DIM,
    Case,
    at,
    difference,
    differences,
    make_case,
    make_network,
    part,
)
from .test_distributions import Operations

# oneDNN has one LSTM kernel for training and one for inference; they differ in the last digits of float32.
CLOSE = 2e-5


def act(network: FactoredActorCritic, case: Case) -> tuple[dict[str, Tensor], Tensor, Tensor, list[Hidden]]:
    """Step through a case with `get_action`: actions, log-probs, values, and the hidden state before each step."""
    hidden, states, decisions = case.hidden, [], []
    for t in range(case.observations.shape[1]):
        observation, masks, start = at(case, t)
        states.append(hidden)
        decisions.append(network.get_action(observation, masks, hidden, start))
        hidden = decisions[-1].hidden
    actions = {head: torch.stack([each.actions[head] for each in decisions], dim=1) for head in network.head_sizes}
    log_prob = torch.stack([each.log_prob for each in decisions], dim=1)
    return actions, log_prob, torch.stack([each.value for each in decisions], dim=1), [*states, hidden]


# Initialisation


def gain(weight: Tensor) -> float:
    """The gain of a matrix with orthogonal rows or columns; fails for any other."""
    weight = weight.detach()
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.T
    product = wide @ wide.T
    squared = float(product.diagonal().mean())
    assert difference(product, squared * torch.eye(len(product))) < 1e-5
    return float(squared**0.5)


def fresh(layers: int = 1) -> FactoredActorCritic:
    """A network as it is constructed."""
    return make_network(layers=layers, heat=0.0)


def test_each_linear_layer_is_orthogonal_with_the_gain_of_its_role() -> None:
    network = fresh()
    assert gain(network.trunk[0].weight) == pytest.approx(2**0.5)  # type: ignore[arg-type]
    for head in network.heads.values():
        assert gain(head[0].weight) == pytest.approx(2**0.5)  # type: ignore[index]
        assert gain(head[2].weight) == pytest.approx(0.01)  # type: ignore[index]
    assert gain(network.value_head[0].weight) == pytest.approx(2**0.5)  # type: ignore[arg-type]
    assert gain(network.value_head[2].weight) == pytest.approx(1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("layers", [1, 2])
def test_each_gate_of_the_lstm_is_orthogonal(layers: int) -> None:
    for name, parameter in fresh(layers).lstm.named_parameters():
        if name.startswith("weight"):
            assert [gain(gate) for gate in parameter.chunk(4)] == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_biases_of_the_forget_gate_add_up_to_one_and_all_others_to_zero(layers: int) -> None:
    parameters = dict(fresh(layers).lstm.named_parameters())
    for layer in range(layers):
        total = parameters[f"bias_ih_l{layer}"] + parameters[f"bias_hh_l{layer}"]
        ones, zeros = torch.ones(HIDDEN_DIM), torch.zeros(HIDDEN_DIM)
        assert torch.equal(total, torch.cat([zeros, ones, zeros, zeros]))


def test_the_first_policy_is_uniform_over_the_valid_actions() -> None:
    network = fresh()
    assert network.evaluate_actions(*make_case(network)).normalised_entropy.min() > 0.999


def test_parameters_can_be_drawn_again_after_the_meta_device() -> None:
    with torch.device("meta"):
        network = fresh()
    network.to_empty(device="cpu")
    network.reset_parameters()
    assert network.evaluate_actions(*make_case(network)).normalised_entropy.min() > 0.999


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_initial_state_is_zero_and_has_the_dtype_of_the_parameters(dtype: torch.dtype) -> None:
    h, c = make_network(layers=2).to(dtype).initial_hidden(3)
    assert h.shape == c.shape == (2, 3, HIDDEN_DIM)
    assert h.dtype == c.dtype == dtype
    assert not h.any()
    assert not c.any()


def test_the_initial_state_is_on_the_device_of_the_parameters() -> None:
    h, c = make_network().to("meta").initial_hidden(3)
    assert h.device.type == c.device.type == "meta"


def test_writing_to_one_part_of_the_initial_state_changes_no_other() -> None:
    network = make_network()
    h, c = network.initial_hidden(3)
    h[:, 0] = 1.0
    assert not h[:, 1:].any()
    assert not c.any()
    assert not network.initial_hidden(3)[0].any()


# Act and evaluate


@pytest.mark.parametrize("starts", [None, 0.3])
@pytest.mark.parametrize("mode", [nn.Module.train, nn.Module.eval])
def test_evaluate_gives_the_log_probs_and_values_that_act_gave(
    starts: float | None, mode: Callable[[nn.Module], nn.Module]
) -> None:
    network = make_network()
    mode(network)
    case = make_case(network, starts=starts)
    actions, log_prob, value, states = act(network, case)
    evaluated = network.evaluate_actions(*case._replace(actions=actions))
    assert ((evaluated.log_prob - log_prob).exp() - 1.0).abs().max() <= 1e-6
    assert difference(evaluated.value, value) <= 1e-6
    assert max(difference(*pair) for pair in zip(evaluated.hidden, states[-1], strict=True)) <= 1e-6


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
def test_without_onednn_the_ratio_is_one_to_the_last_bit() -> None:
    network = make_network(trunk_dim=64, hidden_dim=64)
    case = make_case(network, 64, 16)
    with torch.backends.mkldnn.flags(enabled=False):
        actions, log_prob, _, _ = act(network, case)
        evaluated = network.evaluate_actions(*case._replace(actions=actions))
    assert torch.equal((evaluated.log_prob - log_prob).exp(), torch.ones(64, 16))


@pytest.mark.parametrize("first", [1, 3, 5])
def test_a_window_from_the_stored_state_gives_what_the_whole_sequence_gave(first: int) -> None:
    network = make_network()
    case = make_case(network)
    actions, _, _, states = act(network, case)
    whole = network.evaluate_actions(*case._replace(actions=actions))
    window = network.evaluate_actions(*part(case._replace(actions=actions), first, 6, states[first]))
    assert difference(window.log_prob, whole.log_prob[:, first:]) <= CLOSE
    assert difference(window.value, whole.value[:, first:]) <= CLOSE
    fresh_state = network.evaluate_actions(*part(case, first, 6, network.initial_hidden(5)))
    assert difference(fresh_state.value, whole.value[:, first:]) > 1e-3  # the state matters


def test_no_starts_and_starts_that_are_all_false_are_the_same() -> None:
    network = make_network()
    case = make_case(network, starts=0.0)
    assert (
        differences(network.evaluate_actions(*case), network.evaluate_actions(*case._replace(episode_starts=None)))
        < CLOSE
    )


def test_a_permuted_batch_gives_permuted_results() -> None:
    network = make_network()
    case = make_case(network)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert case.episode_starts is not None
    permuted = Case(
        case.observations[order],
        {head: mask[order] for head, mask in case.masks.items()},
        {head: action[order] for head, action in case.actions.items()},
        (case.hidden[0][:, order], case.hidden[1][:, order]),
        case.episode_starts[order],
    )
    straight, moved = network.evaluate_actions(*case), network.evaluate_actions(*permuted)
    assert difference(straight.log_prob[order], moved.log_prob) <= CLOSE
    assert difference(straight.hidden[1][:, order], moved.hidden[1]) <= CLOSE


@pytest.mark.parametrize("row", [0, 4])
def test_one_environment_does_not_see_another(row: int) -> None:
    network = make_network()
    case = make_case(network)
    observations = case.observations.requires_grad_()
    evaluated = network.evaluate_actions(*case)
    (evaluated.log_prob[row].sum() + evaluated.value[row].sum()).backward()
    assert observations.grad is not None
    others = torch.arange(5) != row
    assert not observations.grad[others].any()
    assert observations.grad[row].any()


def test_the_past_is_remembered_the_future_unknown_and_another_episode_is_neither() -> None:
    network = make_network()
    case = make_case(network, starts=0.0)
    assert case.episode_starts is not None
    case.episode_starts[:, 4] = True
    observations = case.observations.requires_grad_()
    network.evaluate_actions(*case).value[:, 3].sum().backward()
    assert observations.grad is not None
    assert observations.grad[:, :4].abs().amax(dim=(0, 2)).min() > 0.0
    assert not observations.grad[:, 4:].any()
    observations.grad = None
    network.evaluate_actions(*case).value[:, 5].sum().backward()
    assert not observations.grad[:, :4].any()  # type: ignore[index]
    assert observations.grad[:, 4:].abs().amax(dim=(0, 2)).min() > 0.0  # type: ignore[index]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("value", [3.0, float("nan")])
def test_an_episode_start_clears_h_and_c_whatever_they_hold(which: int, value: float) -> None:
    network = make_network(layers=2)
    case = make_case(network, starts=0.0)
    assert case.episode_starts is not None
    case.episode_starts[2:4, 0] = True
    clean = network.evaluate_actions(*case)
    spoilt = [state.clone() for state in case.hidden]
    spoilt[which][:, 2:4] = value
    dirty = network.evaluate_actions(*case._replace(hidden=(spoilt[0], spoilt[1])))
    assert differences(clean, dirty) == 0.0


def test_the_hidden_state_that_was_given_is_not_changed() -> None:
    network = make_network()
    case = make_case(network, starts=1.0)
    before = [state.clone() for state in case.hidden]
    observation, masks, start = at(case, 0)
    network.get_action(observation, masks, case.hidden, start)
    network.evaluate_actions(*case)
    assert all(torch.equal(*pair) for pair in zip(before, case.hidden, strict=True))


def test_the_deterministic_action_is_the_most_probable_valid_one() -> None:
    network = make_network()
    case = make_case(network)
    observation, masks, start = at(case, 0)
    first, second = (network.get_action(observation, masks, case.hidden, start, deterministic=True) for _ in range(2))
    for head, action in first.actions.items():
        assert torch.equal(action, second.actions[head])
        assert masks[head].gather(1, action.unsqueeze(1)).all()
    sampled = torch.stack([network.get_action(observation, masks, case.hidden, start).log_prob for _ in range(50)])
    assert (first.log_prob >= sampled.amax(dim=0) - 1e-5).all()


def test_the_joint_log_prob_and_entropy_are_sums_over_the_heads() -> None:
    network = make_network()
    case = make_case(network)
    logits, _, _ = network(case.observations, case.hidden, case.episode_starts)
    heads = network.distributions(logits, case.masks)
    evaluated = network.evaluate_actions(*case)
    entropy = sum(heads[head].entropy() for head in HEADS)
    possible = sum(heads[head].max_entropy() for head in HEADS)
    assert difference(evaluated.log_prob, sum(heads[h].log_prob(case.actions[h]) for h in HEADS)) < 1e-5  # type: ignore[arg-type]
    assert difference(evaluated.entropy, entropy) < 1e-5  # type: ignore[arg-type]
    assert difference(evaluated.normalised_entropy, entropy / possible) < 1e-5  # type: ignore[arg-type]


def test_the_order_of_the_heads_in_what_is_passed_does_not_matter() -> None:
    network = make_network()
    case = make_case(network)
    other = case._replace(masks=dict(reversed(case.masks.items())), actions=dict(reversed(case.actions.items())))
    assert differences(network.evaluate_actions(*case), network.evaluate_actions(*other)) == 0.0


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (3, 3)])
def test_shapes_are_those_of_the_docstrings_at_every_size(shape: tuple[int, int]) -> None:
    network = make_network(layers=2)
    case = make_case(network, *shape)
    evaluated = network.evaluate_actions(*case)
    assert {each.shape for each in evaluated[:-1]} == {torch.Size(shape)}
    assert {each.shape for each in evaluated.hidden} == {torch.Size((2, shape[0], HIDDEN_DIM))}
    decision = network.get_action(*at(case, 0)[:2], case.hidden, None)
    assert {each.shape for each in (decision.log_prob, decision.value, *decision.actions.values())} == {
        torch.Size(shape[:1])
    }


# Gradients


def reached(network: FactoredActorCritic, loss: Tensor) -> set[str]:
    """The parts of the network that a loss gives a gradient that is not 0, and all of which it does."""
    network.zero_grad()
    loss.backward()
    found = set()
    for name, parameter in network.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            assert parameter.grad.isfinite().all()
            found.add(name)
    return found


def test_each_loss_reaches_every_parameter_that_it_should_and_no_other() -> None:
    network = make_network(layers=2)
    case = make_case(network)
    for mask in case.masks.values():
        mask[:] = True
    every = {name for name, _ in network.named_parameters()}
    critic = {name for name in every if name.startswith("value_head")}
    actor = {name for name in every if name.startswith("heads")}
    assert reached(network, network.evaluate_actions(*case).log_prob.mean()) == every - critic
    assert reached(network, network.evaluate_actions(*case).entropy.mean()) == every - critic
    assert reached(network, network.evaluate_actions(*case).normalised_entropy.mean()) == every - critic
    assert reached(network, network.evaluate_actions(*case).value.mean()) == every - actor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_with_one_valid_action_have_finite_gradients(dtype: torch.dtype) -> None:
    network = make_network().to(dtype)
    case = make_case(network, dtype=dtype)
    for head, mask in case.masks.items():
        mask[:] = False
        mask.scatter_(-1, case.actions[head].unsqueeze(-1), value=True)
    evaluated = network.evaluate_actions(*case)
    assert not evaluated.log_prob.any()
    assert not evaluated.normalised_entropy.any()
    actor = reached(network, evaluated.log_prob.sum() + evaluated.normalised_entropy.sum() + evaluated.entropy.sum())
    assert not actor  # nothing to decide, nothing to learn


def test_what_act_returns_has_no_graph_and_may_be_used_for_anything() -> None:
    network = make_network()
    case = make_case(network)
    observation, masks, start = at(case, 0)
    decision = network.get_action(observation, masks, case.hidden, start)
    returned = [*decision.actions.values(), decision.log_prob, decision.value, *decision.hidden]
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in returned)

    rest = case._replace(actions={head: action.unsqueeze(1) for head, action in decision.actions.items()})
    evaluated = network.evaluate_actions(*part(rest, 0, 1, decision.hidden))
    loss = (evaluated.log_prob[:, 0] * decision.log_prob).sum() + (
        evaluated.value[:, 0] - decision.value
    ).square().sum()
    assert reached(network, loss)
    decision.hidden[0].mul_(0.5)


# Bad input


@pytest.mark.parametrize(
    ("broken", "kind", "message"),
    [
        (
            lambda case: case._replace(observations=case.observations[:, 0]),
            ValueError,
            r"observations: expected shape \[B, T, 7\], got \(4, 7\)",
        ),
        (
            lambda case: case._replace(observations=case.observations[..., :6]),
            ValueError,
            r"observations: expected shape \(4, 4, 7\), got \(4, 4, 6\)",
        ),
        (
            lambda case: case._replace(observations=case.observations.double()),
            TypeError,
            "observations: expected torch.float32, got torch.float64",
        ),
        (
            lambda case: case._replace(hidden=(case.hidden[0], case.hidden[1].transpose(0, 1))),
            ValueError,
            r"hidden c: expected shape \(1, 4, 16\), got \(4, 1, 16\)",
        ),
        (
            lambda case: case._replace(hidden=(case.hidden[0].bfloat16(), case.hidden[1])),
            TypeError,
            "hidden h: expected torch.float32, got torch.bfloat16",
        ),
        (
            lambda case: case._replace(episode_starts=case.episode_starts[:, 0]),
            ValueError,
            r"episode_starts: expected shape \(4, 4\), got \(4,\)",
        ),
        (
            lambda case: case._replace(episode_starts=case.episode_starts.long()),
            TypeError,
            "episode_starts: expected torch.bool, got torch.int64",
        ),
        (
            lambda case: case._replace(masks={**case.masks, "slot": case.masks["slot"][:, 0]}),
            ValueError,
            r"slot mask: expected shape \(4, 4, 6\), got \(4, 6\)",
        ),
        (
            lambda case: case._replace(masks={**case.masks, "slot": case.masks["op"]}),
            ValueError,
            r"slot mask: expected shape \(4, 4, 6\), got \(4, 4, 4\)",
        ),
        (
            lambda case: case._replace(masks={**case.masks, "slot": case.masks["slot"].float()}),
            TypeError,
            "slot mask: expected torch.bool, got torch.float32",
        ),
        (
            lambda case: case._replace(masks={**case.masks, "slot": torch.zeros_like(case.masks["slot"])}),
            RuntimeError,
            "slot mask: expected a valid action in every row, got a row without one",
        ),
        (
            lambda case: case._replace(masks={"slot": case.masks["slot"]}),
            ValueError,
            r"masks: expected heads \['blueprint', 'op', 'pause', 'slot'\], got \['slot'\]",
        ),
        (
            lambda case: case._replace(actions={**case.actions, "speed": case.actions["slot"]}),
            ValueError,
            r"actions: expected heads \['blueprint', 'op', 'pause', 'slot'\], got .*'speed'",
        ),
        (
            lambda case: case._replace(actions={**case.actions, "op": case.actions["op"].float()}),
            TypeError,
            "op action: expected torch.int64, got torch.float32",
        ),
        (
            lambda case: case._replace(actions={**case.actions, "op": case.actions["op"] + 4}),
            RuntimeError,
            "op action: expected 0 to 3, got another number",
        ),
    ],
)
def test_evaluate_names_what_it_expected_and_what_it_got(
    broken: Callable[[Case], Case], kind: type[Exception], message: str
) -> None:
    network = make_network()
    case = make_case(network, 4, 4)  # B == T: where a missing axis would broadcast
    with pytest.raises(kind, match=message):
        network.evaluate_actions(*broken(case))


@pytest.mark.parametrize(
    ("lifted", "message"),
    [
        ("observation", r"observation: expected shape \[B, 7\], got \(1, 1, 7\)"),
        ("slot", r"slot mask: expected shape \(1, 6\), got \(1, 1, 6\)"),
        ("start", r"episode_start: expected shape \(1,\), got \(1, 1\)"),
    ],
)
def test_act_takes_one_step_and_nothing_that_has_a_time_axis(lifted: str, message: str) -> None:
    network = make_network()
    case = make_case(network, 1, 1)  # B == T == 1: where an axis too many would do no visible harm
    observation, masks, start = at(case, 0)
    assert start is not None
    if lifted == "observation":
        observation = observation.unsqueeze(1)
    elif lifted == "start":
        start = start.unsqueeze(1)
    else:
        masks[lifted] = masks[lifted].unsqueeze(1)
    with pytest.raises(ValueError, match=message):
        network.get_action(observation, masks, case.hidden, start)


def test_a_network_that_produces_nan_says_so() -> None:
    network = make_network()
    with torch.no_grad():
        network.trunk[0].weight[0, 0] = float("nan")  # type: ignore[operator]
    with pytest.raises(RuntimeError, match="slot logits: expected finite numbers"):
        network.evaluate_actions(*make_case(network))
    network.validate = False
    assert network.evaluate_actions(*make_case(network)).log_prob.isnan().any()


# What it survives


def same(network: FactoredActorCritic, other: FactoredActorCritic) -> bool:
    case = make_case(network)
    return differences(network.evaluate_actions(*case), other.evaluate_actions(*case)) == 0.0


def test_another_instance_takes_the_state_dict() -> None:
    network = make_network(layers=2)
    other = make_network(layers=2)
    assert not same(network, other)
    other.load_state_dict(network.state_dict())
    assert same(network, other)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])  # noqa: S301
def test_copies_made_after_a_forward_with_gradients_are_equal(copied: Callable[[Any], Any]) -> None:
    network = make_network()
    network.evaluate_actions(*make_case(network)).log_prob.sum().backward()
    assert same(network, copied(network))


def test_nothing_is_kept_between_calls() -> None:
    network = make_network()
    before = set(vars(network))
    case = make_case(network)
    first = network.evaluate_actions(*case)
    network.get_action(*at(case, 0)[:2], case.hidden, None)
    assert set(vars(network)) == before
    assert differences(first, network.evaluate_actions(*case)) == 0.0


@pytest.mark.filterwarnings("ignore:The tensor attributes self.lstm._flat_weights")  # what nn.LSTM does, every one
@pytest.mark.parametrize("starts", [None, 0.3])
def test_export_gives_the_same_numbers(starts: float | None) -> None:
    network = make_network()
    case = make_case(network, starts=starts)
    arguments = case.observations, case.hidden, case.episode_starts
    exported = torch.export.export(network, arguments).module()
    wanted, got = network(*arguments), exported(*arguments)
    for head, logits in wanted.logits.items():
        assert difference(logits, got.logits[head]) <= 1e-5
    assert difference(wanted.value, got.value) <= 1e-5
    assert difference(wanted.hidden[1], got.hidden[1]) <= 1e-5


def test_everything_runs_on_the_meta_device() -> None:
    network = make_network().to("meta")
    case = make_case(make_network())
    assert case.episode_starts is not None
    meta = Case(
        case.observations.to("meta"),
        {head: mask.to("meta") for head, mask in case.masks.items()},
        {head: action.to("meta") for head, action in case.actions.items()},
        network.initial_hidden(5),
        case.episode_starts.to("meta"),
    )
    evaluated = network.evaluate_actions(*meta)
    decision = network.get_action(*at(meta, 0)[:2], meta.hidden, at(meta, 0)[2])
    assert {each.device.type for each in (*evaluated[:-1], *evaluated.hidden, *decision.hidden)} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("starts", [None, 0.3])
def test_a_model_of_another_dtype_acts_and_learns(dtype: torch.dtype, starts: float | None) -> None:
    network = make_network().to(dtype)
    case = make_case(network, starts=starts, dtype=dtype)
    actions, log_prob, _, states = act(network, case)
    assert {state.dtype for pair in states for state in pair} == {dtype}
    evaluated = network.evaluate_actions(*case._replace(actions=actions))
    assert evaluated.value.dtype == dtype
    assert evaluated.log_prob.dtype == evaluated.entropy.dtype == torch.promote_types(dtype, torch.float32)
    assert ((evaluated.log_prob - log_prob).exp() - 1.0).abs().max() <= {torch.float64: 1e-12}.get(dtype, 0.05)
    assert reached(network, evaluated.log_prob.mean() + evaluated.value.mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("starts", [None, 0.3])
def test_autocast_leaves_the_hidden_state_in_the_dtype_of_the_parameters(
    dtype: torch.dtype, starts: float | None
) -> None:
    network = make_network(heat=0.5)
    case = make_case(network, starts=starts)
    with torch.autocast("cpu", dtype=dtype):
        actions, log_prob, _, states = act(network, case)
        evaluated = network.evaluate_actions(*case._replace(actions=actions))
    assert {state.dtype for pair in states for state in pair} == {torch.float32}
    assert evaluated.log_prob.dtype == torch.float32
    assert ((evaluated.log_prob - log_prob).exp() - 1.0).abs().max() <= 0.05
    outside = network.evaluate_actions(*case._replace(actions=actions, hidden=states[-1]))
    assert reached(network, outside.log_prob.mean())


def test_autocast_does_not_round_the_memory() -> None:
    network = make_network(heat=0.5)
    case = make_case(network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        c = network.evaluate_actions(*case).hidden[1]
    assert not torch.equal(c, c.bfloat16().float())


@pytest.mark.parametrize("starts", [None, 0.3])
def test_no_method_waits_for_the_device(starts: float | None) -> None:
    network = make_network()
    case = make_case(network, starts=starts)
    with Operations() as ran:
        network.get_action(*at(case, 0)[:2], case.hidden, at(case, 0)[2])
        network.evaluate_actions(*case)
    assert not {"_local_scalar_dense", "is_nonzero", "item", "nonzero"} & set(ran.names)


@pytest.mark.parametrize("method", ["forward", "get_action", "evaluate_actions"])
@pytest.mark.parametrize("starts", [None, 0.3])
def test_each_method_is_one_graph_for_dynamo_once_it_may_trace_an_lstm(method: str, starts: float | None) -> None:
    from esper_reference.ppo import allow_lstm

    network = make_network()
    case = make_case(network, starts=starts)
    arguments: tuple[Any, ...] = {
        "forward": (case.observations, case.hidden, case.episode_starts),
        "get_action": (*at(case, 0)[:2], case.hidden, at(case, 0)[2]),
        "evaluate_actions": case,
    }[method]
    torch.compiler.reset()
    with allow_lstm():
        compiled: Any = torch.compile(getattr(network, method), backend="eager", fullgraph=True)
        got = compiled(*arguments)
    if method == "evaluate_actions":
        assert differences(got, network.evaluate_actions(*case)) <= 1e-5
    torch.compiler.reset()
