"""The network on trial, and how to speak with it: every method is called by what its parameters are for.

Conventions differ: [B, D] or [B, 1, D], time first or batch first or both in one axis, masks one by one or in a dict,
bool or float. What the source says about roles comes with the order; what it does not say is found by trying, once, and
remembered. A network that answers in no convention that is known is *not comparable*, and not at fault.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from esper_audit.probes.arguments import Convention, Inputs, Wish, conventions, unarranged, unmasked
from esper_audit.probes.building import build, layers_of, told
from esper_audit.probes.contract import MethodFacts, NotComparable, Order
from esper_audit.probes.nested import alike, mapped, words
from esper_audit.probes.replies import Reading, Reply, read
from esper_audit.probes.sizes import (
    CELLS,
    RECURRENT,
    continuous_shape,
    heads_of,
    number_of_actions,
    observation_shapes,
    space_of,
)
from esper_audit.probes.states import FORMS, emptied, wrapper, zeros
from esper_audit.semantics.roles import tensor_role

CALLED = ("forward", "act", "evaluate")  # roles of methods that probes call
ENVIRONMENTS, STEPS = 5, 6  # B and T: never equal, and equal to no size that is guessed but one
_RETURNED = "returned"  # the form of a hidden state that only the network itself can make
_MOST_WIDTHS = 6
_STARTS = re.compile(
    r"(episode_|is_)?(starts?|firsts?|resets?)|(prev_)?(done|dones|terminals?|terminated)s?(_mask)?|is_first|first"
)
_KEEPS = re.compile(r"not_?dones?|keeps?(_mask)?|alives?|continues?|episode_masks?")
_SILENT = re.compile(
    r"(is_)?(deterministic|greedy|explore|stochastic|training|inference)(_output)?|return_.*|.*temperature"
)


class Subject:
    """One network class, built and understood as far as it can be."""

    def __init__(self, order: Order, network: nn.Module | None = None) -> None:
        """Build the network of `order`, or take a copy of one that is there."""
        self.order = order
        self._given = network
        self._conventions: dict[tuple[str, str], Convention] = {}
        self._silent: dict[tuple[str, str], str] = {}  # the same for what answers in none: why
        self._taken: dict[tuple[int, int, int], Mapping[str, Tensor]] = {}
        self._widths: set[int] = set()  # of the categorical distributions that were made when the network acted
        torch.manual_seed(order.seed)
        self.network = self._made()

    # --- networks

    def fresh(self, seed: int = 0) -> nn.Module:
        """The network as its constructor leaves it, built once more; from another seed to have other random numbers."""
        torch.manual_seed(self.order.seed + seed)
        return self._made()

    def _made(self) -> nn.Module:
        return build(self.order) if self._given is None else copy.deepcopy(self._given)

    def heated(self, network: nn.Module | None = None) -> nn.Module:
        """A copy with random weights. A policy head that starts near 0 hides every error before it a hundredfold."""
        network = copy.deepcopy(self.network if network is None else network)
        generator = torch.Generator().manual_seed(self.order.seed + 1)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.dim() >= 2 and parameter.is_floating_point():
                    fan_in = parameter[0].numel()
                    noise = torch.randn(parameter.shape, generator=generator) * (1.5 / fan_in**0.5)
                    parameter.copy_(noise.to(parameter.dtype))
                elif "bias" in name and parameter.is_floating_point():
                    parameter.copy_((torch.randn(parameter.shape, generator=generator) * 0.1).to(parameter.dtype))
        return network

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)

    @cached_property
    def cores(self) -> list[tuple[str, nn.Module]]:
        """Recurrent layers and cells."""
        return layers_of(self.network, *RECURRENT, *CELLS)

    # --- methods by role

    def method(self, *roles: str) -> MethodFacts:
        """The method that plays one of these roles; NotComparable when none does."""
        for role in roles:
            if (facts := self._players.get(role)) is not None:
                return facts
        for role in roles:
            if role == "evaluate" and "act" not in self._players and self._scores_by_distribution:
                return self._players["forward"]
        raise NotComparable(f"the network has no {' or '.join(roles)} method")

    @cached_property
    def _players(self) -> dict[str, MethodFacts]:
        """Who plays which role, as the source says it: the first that can, and of two that act the one that scores."""
        found: dict[str, MethodFacts] = {}
        acting = []
        for facts in self.order.methods:
            if not callable(getattr(self.network, facts.name, None)):
                continue
            returned = set(words(facts.returns))
            if facts.role == "act" or (facts.role == "forward" and {"action", "log_prob"} <= returned):
                acting.append(("log_prob" not in returned, facts))
            if facts.role == "evaluate" and "action" not in self.roles(facts).values():
                continue  # what takes no actions scores none: it samples
            if facts.role != "act":
                found.setdefault(facts.role, facts)
        if acting:
            found["act"] = min(acting, key=lambda each: each[0])[1]
            if found.get("forward") is found["act"]:
                del found["forward"]
        return found

    def has(self, role: str) -> bool:
        """Whether a method plays this role."""
        try:
            self.method(role)
        except NotComparable:
            return False
        return True

    def takes(self, what: str, role: str) -> bool:
        """Whether the method that plays `role` has a parameter for `what`."""
        return bool(self.parameters_for(what, role)[1])

    def parameters_for(self, what: str, role: str) -> tuple[MethodFacts | None, list[str]]:
        """The method that plays `role`, which may be one that acts as well, and its parameters for `what`."""
        if role == "evaluate" and self.evaluates_through_act:
            role = "act"
        if not self.has(role):
            return None, []
        facts = self.method(role)
        return facts, [name for name, what_for in self.roles(facts).items() if what_for == what]

    def masked_inputs(self, role: str = "evaluate") -> Inputs:
        """Inputs for a method that takes masks; NotComparable where it takes none."""
        if not self.takes("mask", role):
            raise NotComparable(f"{role} takes no masks")
        inputs = self.inputs()
        if not inputs.masks:
            raise NotComparable("which head a mask belongs to is not known")
        return inputs

    @cached_property
    def evaluates_through_act(self) -> bool:
        """Whether the act method takes actions to score, as `get_action_and_value(x, action=None)` does."""
        if "evaluate" in self._players or "act" not in self._players:
            return False
        facts = self._players["act"]
        return "action" in self.roles(facts).values() or "action" in map(tensor_role, self._keys_read(facts))

    @cached_property
    def _scores_by_distribution(self) -> bool:
        """Whether `forward` returns a distribution, which scores actions for whoever asks it."""
        if "forward" not in self._players:
            return False
        try:
            return self.forward(copy.deepcopy(self.network), self._drawn(ENVIRONMENTS, STEPS)).dist is not None
        except Exception:  # noqa: BLE001 - it does not answer, so it returns none
            return False

    def _keys_read(self, facts: MethodFacts) -> tuple[str, ...]:
        """The keys that a method reads from its observations, where these are a dict."""
        name = next((name for name, role in self.roles(facts).items() if role == "obs"), None)
        try:
            source = inspect.getsource(getattr(self.network, facts.name))
        except (OSError, TypeError):
            return ()
        return tuple(re.findall(rf"\b{name}(?:\.get\(|\[)\s*[\"'](\w+)[\"']", source)) if name else ()

    def roles(self, facts: MethodFacts) -> dict[str, str]:
        """Parameter name to role. Names first, what the source does with it second, elimination last."""
        found: dict[str, str] = {}
        parameters = inspect.signature(getattr(self.network, facts.name)).parameters
        recurrent = any(tensor_role(name) == "hidden" for name in parameters)
        for name, parameter in parameters.items():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            low = name.lower()
            if _SILENT.fullmatch(low):
                found[name] = "silent"
            elif _STARTS.fullmatch(low):
                found[name] = "starts"
            elif _KEEPS.fullmatch(low) or (low == "masks" and recurrent and "rnn" in " ".join(parameters)):
                found[name] = "keeps"
            else:
                found[name] = facts.parameters.get(name) or tensor_role(name)
        _observed(found, [name for name, each in parameters.items() if each.kind is each.VAR_POSITIONAL])
        unknown = [n for n, role in found.items() if not role and parameters[n].default is inspect.Parameter.empty]
        if facts.role == "evaluate" and "action" not in found.values() and len(unknown) == 1:
            found[unknown[0]] = "action"
        return found

    # --- sizes

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """The shape of one observation."""
        return self._understood[0]

    @cached_property
    def _understood(self) -> tuple[tuple[int, ...], str]:
        """The shape of an observation and the form of a hidden state: the first pair in which the network answers."""
        shapes, forms = observation_shapes(self.network)[:_MOST_WIDTHS], self._forms
        if not shapes:
            raise NotComparable("no layer tells how wide an observation is")
        role = next((role for role in ("act", "forward") if role in self._players), "")
        if not role or len(shapes) == len(forms) == 1:
            return shapes[0], forms[0]
        facts, kind = self._players[role], "act" if role == "act" else "sequence"
        for shape in shapes:
            for form in forms:
                try:
                    trial = self._drawn(ENVIRONMENTS, 1 if kind == "act" else STEPS, understood=(shape, form))
                    convention, reply, _ = self._answering(facts, kind, trial)
                except NotComparable:
                    continue
                if convention is None or reply is None:
                    continue
                if trial.hidden is None or reply.hidden is None or alike(reply.hidden, trial.hidden):
                    return shape, form
        return shapes[0], forms[0]

    @cached_property
    def _forms(self) -> list[str]:
        """The forms that a hidden state may have: one only where a method makes it, or where there is none."""
        takers = [f for f in self._players.values() if "hidden" in self.roles(f).values() and f.role in CALLED]
        if "initial_state" in self._players or not takers or not self.cores:
            return [""]
        possible = [form for form in FORMS if zeros(self.cores[0][1], form, 1) is not None]
        return [*possible, _RETURNED]

    @cached_property
    def _choices(self) -> dict[str, int]:
        """Heads and sizes, as far as they are known; whether actions are discrete is another question."""
        masks = [
            key
            for facts in self.order.methods
            if facts.role in CALLED and callable(getattr(self.network, facts.name, None))
            for name, role in self.roles(facts).items()
            if role == "mask" or name in facts.keys
            for key in facts.keys.get(name) or (name,)
        ]
        columns = max((facts.columns for facts in self.order.methods), default=0)
        return heads_of(self.network, masks, self.order.heads if 1 < columns == len(self.order.heads) else ())

    @cached_property
    def heads(self) -> dict[str, int]:
        """Policy heads and how many actions each has; NotComparable where actions are numbers."""
        if self._acts_in_numbers:
            raise NotComparable("actions are continuous")
        if len(self._widths) == 1 and list(self._choices) in ([], ["action"]):  # a distribution knows it better
            width = next(iter(self._widths))
            return self._choices if self._choices.get("action") == width else {"action": width}
        if self._choices:
            return self._choices
        if self._acts_in_numbers is False and (size := number_of_actions(self.network)):
            return {"action": size}
        raise NotComparable("no policy head is known by its name")

    @cached_property
    def _acts_in_numbers(self) -> bool | None:
        """Whether actions are continuous; None where nothing tells."""
        if continuous_shape(self.network) is not None:
            return True
        if space_of(self.network, "action") is not None:
            return False
        actions = self._sampled(self._drawn(ENVIRONMENTS, 1), 0)
        return any(action.is_floating_point() for action in actions.values()) if actions else None

    # --- inputs

    def inputs(self, batch: int = ENVIRONMENTS, time: int = STEPS, *, seed: int = 0, memory: bool = True) -> Inputs:
        """Random inputs: masks with one to all actions valid, no starts, a hidden state that is not 0.

        Actions are drawn where they are choices; where they are numbers, they are those that the network takes.
        """
        drawn = self._drawn(batch, time, seed=seed, memory=memory)
        try:
            heads = self.heads
        except NotComparable:
            key = (batch, time, seed)
            if key not in self._taken:
                self._taken[key] = self._sampled(drawn, seed) or self._made_up(batch, time, seed)
            return drawn.but(masks={}, actions=self._taken[key])
        return drawn if heads is self._choices else self._drawn(batch, time, seed=seed, memory=memory, heads=heads)

    def _drawn(
        self,
        batch: int,
        time: int,
        *,
        seed: int = 0,
        memory: bool = True,
        heads: Mapping[str, int] | None = None,
        understood: tuple[tuple[int, ...], str] | None = None,
    ) -> Inputs:
        """Random inputs, with actions for the heads that may be there."""
        generator = torch.Generator().manual_seed(1000 * self.order.seed + seed + 7)
        shape = (batch, time)
        width, form = understood or self._understood
        observations = torch.randn(*shape, *width, generator=generator).to(self.dtype)
        masks, actions = {}, {}
        for head, size in (self._choices if heads is None else heads).items():
            actions[head] = torch.randint(size, shape, generator=generator)
            share = torch.rand(*shape, 1, generator=generator)
            mask = torch.rand(*shape, size, generator=generator) < share
            masks[head] = mask.scatter(-1, actions[head].unsqueeze(-1), value=True)
        hidden = self._state(self.network, form, batch, observations)
        if memory:
            hidden = mapped(hidden, lambda t: torch.randn(t.shape, generator=generator).to(t.dtype).mul(0.5))
        return Inputs(observations, masks, actions, torch.zeros(shape, dtype=torch.bool), hidden)

    def _sampled(self, inputs: Inputs, seed: int) -> dict[str, Tensor]:
        """The actions that the network takes, step by step; none where it does not answer."""
        network = copy.deepcopy(self.network).eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.order.seed + seed + 1)
                if "act" not in self._players:
                    return self._of_distribution(network, inputs)
                with categoricals() as widths:
                    taken = [self.act(network, inputs.at(t)).action or {} for t in range(inputs.starts.shape[1])]
                self._widths |= widths
        except Exception:  # noqa: BLE001 - then nothing says what an action looks like
            return {}
        return {head: torch.cat([step[head].detach().clone() for step in taken], dim=1) for head in taken[0]}

    def _of_distribution(self, network: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """Samples of the distribution that `forward` returns."""
        if not self._scores_by_distribution:
            return {}
        facts = self.method("forward")
        with categoricals() as widths:
            reply = self.forward(network, inputs)
        self._widths |= widths
        layout = self._conventions[facts.name, "sequence"].layout
        return {"action": unarranged(reply.dist.sample(), layout, (inputs.starts.shape[0], inputs.starts.shape[1]))}

    def _made_up(self, batch: int, time: int, seed: int) -> dict[str, Tensor]:
        """Continuous actions for a network that takes none itself, where their shape is known."""
        shape = continuous_shape(self.network)
        if shape is None and "forward" in self._players and "action" in self.roles(self.method("forward")).values():
            size = number_of_actions(self.network)  # an action that goes into a layer is a vector
            shape = (size,) if size else None
        if shape is None:
            return {}
        generator = torch.Generator().manual_seed(self.order.seed + seed + 11)
        return {"action": torch.rand(batch, time, *shape, generator=generator).to(self.dtype) - 0.5}

    def initial(self, batch: int, network: nn.Module | None = None) -> Any:
        """The hidden state before the first step, None for a network without memory."""
        return self._state(self.network if network is None else network, self._understood[1], batch)

    def _state(self, network: nn.Module, form: str, batch: int, observations: Tensor | None = None) -> Any:
        if "initial_state" in self._players:
            return self._initialised(network, batch)
        if not form:
            return None
        if form == _RETURNED:
            return self._first_returned(batch, observations)
        name, _ = self.cores[0]
        state = zeros(network.get_submodule(name) if name else network, form, batch)
        for facts in self._players.values():
            for parameter, role in self.roles(facts).items():
                if role == "hidden" and (kind := wrapper(getattr(self.network, facts.name), parameter)) is not None:
                    return kind(*(mapped(state, torch.clone) for _ in range(len(kind.__annotations__))))
        return state

    def _initialised(self, network: nn.Module, batch: int) -> Any:
        """What the method for it makes."""
        call = getattr(network, self._players["initial_state"].name)
        given: dict[str, Any] = {}
        for name, parameter in inspect.signature(call).parameters.items():
            if "device" in name:
                given[name] = next(network.parameters()).device
            elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
                given[name] = batch
        with torch.no_grad():
            return call(**given)

    def _first_returned(self, batch: int, observations: Tensor | None) -> Any:
        """Zeros like the state that the network returns when it is given none."""
        facts = self.method("act", "forward")
        if observations is None:
            observations = torch.zeros(batch, 1, *self.observation_shape, dtype=self.dtype)
        first = observations[:, :1]
        starts = torch.zeros(batch, 1, dtype=torch.bool)
        trial = Inputs(first, {}, {}, starts, None)
        for kind in ("act", "sequence"):
            _, reply, _ = self._answering(facts, kind, trial)
            if reply is not None and reply.hidden is not None:
                return mapped(reply.hidden, emptied)
        raise NotComparable(f"`{facts.name}` wants a hidden state, and nothing tells how it looks")

    # --- calls

    def act(self, network: nn.Module, inputs: Inputs, *, deterministic: bool = False) -> Reply:
        """One step: `inputs` are `[B, 1, ...]`, and so is the reply."""
        return self._call(network, self.method("act"), inputs, kind="act", deterministic=deterministic)

    def evaluate(self, network: nn.Module, inputs: Inputs) -> Reply:
        """Score the actions of `inputs`."""
        role = "act" if self.evaluates_through_act else "evaluate"
        reply = self._call(network, self.method(role), inputs, kind="sequence", score=True)
        return replace(reply, action=None)  # whatever it is, it is none that was asked for

    def forward(self, network: nn.Module, inputs: Inputs) -> Reply:
        """Logits or whatever else `forward` returns; without noise, where it can be told to add none."""
        return self._call(network, self.method("forward"), inputs, kind="sequence", deterministic=True)

    def arguments(
        self,
        network: nn.Module,
        facts: MethodFacts,
        inputs: Inputs,
        kind: str,
        *,
        score: bool = False,
    ) -> dict[str, Any]:
        """The keyword arguments of a call, in the convention that is known to work."""
        return self._wish(facts, inputs, kind, score=score).arguments(self._parameters(network, facts))

    def called(
        self,
        network: nn.Module,
        facts: MethodFacts,
        keywords: Mapping[str, Any],
        inputs: Inputs,
        kind: str = "sequence",
    ) -> Reply:
        """The reply to arguments that were changed by hand."""
        wish = self._wished(facts, inputs, self._conventions[facts.name, kind])
        return self._read(facts, self._callable(network, facts)(**keywords), wish)

    def _call(
        self,
        network: nn.Module,
        facts: MethodFacts,
        inputs: Inputs,
        *,
        kind: str,
        score: bool = False,
        deterministic: bool = False,
    ) -> Reply:
        wish = self._wish(facts, inputs, kind, score=score, deterministic=deterministic)
        keywords = wish.arguments(self._parameters(network, facts))
        return self._read(facts, self._callable(network, facts)(**keywords), wish)

    def _wish(
        self, facts: MethodFacts, inputs: Inputs, kind: str, *, score: bool = False, deterministic: bool = False
    ) -> Wish:
        """A call in the convention that is known to work."""
        convention = self._convention(facts, kind, score=score)
        return self._wished(facts, inputs, convention, score=score, deterministic=deterministic)

    def _wished(
        self,
        facts: MethodFacts,
        inputs: Inputs,
        convention: Convention,
        *,
        score: bool = False,
        deterministic: bool = False,
    ) -> Wish:
        return Wish(facts.name, self.roles(facts), inputs, convention, score, deterministic, facts.keys)

    def _callable(self, network: nn.Module, facts: MethodFacts) -> Callable[..., Any]:
        call: Callable[..., Any] = network if facts.name == "forward" else getattr(network, facts.name)
        for name, parameter in self._parameters(network, facts).items():
            if parameter.kind is parameter.VAR_POSITIONAL and name in self.roles(facts):
                return lambda **given: call(given.pop(name), **given)
        return call

    def _parameters(self, network: nn.Module, facts: MethodFacts) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(getattr(network, facts.name)).parameters

    def _read(self, facts: MethodFacts, raw: Any, wish: Wish) -> Reply:
        """What was returned, by role."""
        if type(raw).__name__ == "TensorDict":
            raw = {key: raw.get(key) for key in getattr(self.network, "out_keys", ()) if isinstance(key, str)}
        by_distribution = wish.score and "action" not in wish.roles.values() and bool(wish.inputs.actions)
        return read(
            raw,
            Reading(
                role="act" if facts is self._players.get("act") else facts.role,
                returns=facts.returns,
                layout=wish.convention.layout,
                inputs=wish.inputs,
                heads=self._choices,
                action_shape=continuous_shape(self.network),
                remembers=bool(self.cores) or "initial_state" in self._players,
                score=wish.score,
                scored=wish.by_key("action") if by_distribution else None,
            ),
        )

    # --- conventions

    def _convention(self, facts: MethodFacts, kind: str, *, score: bool) -> Convention:
        key = (facts.name, kind)
        if key in self._silent:  # what answered in no convention does not answer the next experiment either
            raise NotComparable(self._silent[key])
        if key not in self._conventions:
            with torch.random.fork_rng(devices=[]):  # or the first call of an experiment would draw other numbers
                self._conventions[key] = self._learned(facts, kind, score=score)
        return self._conventions[key]

    def _learned(self, facts: MethodFacts, kind: str, *, score: bool) -> Convention:
        """The first convention in which the method answers, and its answer has the right size."""
        # What acts unless it is given actions is asked to act: looking for actions to give it would end here again.
        draw = self.inputs if score or self._wants_actions(facts) else self._drawn
        trial = draw(ENVIRONMENTS, 1 if kind == "act" else STEPS)
        trials = [trial]
        if {"starts", "keeps"} & set(self.roles(facts).values()):  # how they are taken shows where an episode starts
            trials[:0] = [_started(trial, first_only=False), _started(trial, first_only=True)]
        if trial.masks:  # a network that has masks the wrong way round may answer when all actions are valid
            trials += map(unmasked, list(trials))
        told_first = ""
        for each in trials:
            convention, _, error = self._answering(facts, kind, each, score=score)
            if convention is not None:
                return self._in_order(facts, convention, each, score=score)
            told_first = told_first or error
        self._silent[facts.name, kind] = f"`{facts.name}` answers in no known convention: {told_first}"
        raise NotComparable(self._silent[facts.name, kind])

    def _wants_actions(self, facts: MethodFacts) -> bool:
        """Whether a method cannot be called without actions."""
        parameters = inspect.signature(getattr(self.network, facts.name)).parameters
        return any(
            role == "action" and parameters[name].default is inspect.Parameter.empty
            for name, role in self.roles(facts).items()
        )

    def answers(self, facts: MethodFacts, kind: str, inputs: Inputs, *, score: bool = False) -> bool:
        """Whether a method answers at these sizes, in whatever convention."""
        return self._answering(facts, kind, inputs, score=score)[0] is not None

    def _answering(
        self, facts: MethodFacts, kind: str, trial: Inputs, *, score: bool = False
    ) -> tuple[Convention | None, Reply | None, str]:
        """The first convention that works, what was answered, and else the error of the call that got furthest.

        Without memory nothing tells one axis from another by itself: an answer of the right size comes first.
        """
        others: dict[str, tuple[Convention, Reply]] = {}
        furthest, error = -1, ""
        for convention in self._possible(facts, kind, trial):
            network = copy.deepcopy(self.network)
            wish = self._wished(facts, trial, convention, score=score)
            try:
                keywords = wish.arguments(self._parameters(network, facts))
            except NotComparable:
                if convention.first_starts:
                    continue
                raise
            with finished() as modules:
                try:
                    with torch.random.fork_rng(devices=[]):  # a seed that was set for the real call stays set
                        reply = self._read(facts, self._callable(network, facts)(**keywords), wish)
                except NotComparable:
                    raise
                except Exception as failure:  # noqa: BLE001 - a convention that is not this network's
                    if len(modules) > furthest and convention.observations != "dict":
                        furthest, error = len(modules), told(failure)
                    continue
            if not any(True for _ in reply.tensors()):
                furthest, error = 1_000_000, f"it returns {type(reply.raw).__name__}, and no tensor that is understood"
                continue
            learned = replace(convention, keys=tuple(wish.asked[0])) if wish.asked else convention
            if trial.hidden is not None or (sized(reply, trial) and self._sized_alone(facts, wish)):
                return learned, reply, ""
            others.setdefault("sized" if sized(reply, trial) else "any", (learned, reply))
        found = others.get("sized") or others.get("any")
        return (*found, "") if found is not None else (None, None, error)

    def _sized_alone(self, facts: MethodFacts, wish: Wish) -> bool:
        """Whether the answer has the right size for one step and for one environment, too.

        Of many, the sizes may agree by chance: an action [B, 1] is a column here, and a sequence there.
        """
        network = copy.deepcopy(self.network)
        for inputs in (wish.inputs.at(0), wish.inputs.one()):
            alone = replace(wish, inputs=inputs)
            try:
                with torch.random.fork_rng(devices=[]), torch.no_grad():
                    keywords = alone.arguments(self._parameters(network, facts))
                    reply = self._read(facts, self._callable(network, facts)(**keywords), alone)
            except Exception:  # noqa: BLE001 - it takes sequences only, or it is another convention
                return False
            if not sized(reply, inputs):
                return False
        return True

    def _possible(self, facts: MethodFacts, kind: str, trial: Inputs) -> Iterator[Convention]:
        """Every convention that may be meant, with observations as a tensor first."""
        several = list(conventions(kind, self.roles(facts), len(trial.actions)))
        keys = getattr(self.network, "in_keys", None)
        if isinstance(keys, list | tuple) and keys and all(isinstance(key, str) for key in keys):
            yield from (replace(each, observations="tensordict", keys=tuple(keys)) for each in several)
        yield from several
        yield from (replace(each, observations="dict") for each in several)

    def _in_order(self, facts: MethodFacts, convention: Convention, trial: Inputs, *, score: bool) -> Convention:
        """With all steps of all environments in one axis: whether those of one environment lie side by side.

        The first observation of one environment is changed. What it moves are the rows of its later steps.
        """
        if convention.layout != "flat" or trial.hidden is None:
            return convention
        network = self.heated().eval()
        trial = trial.but(starts=torch.zeros_like(trial.starts))
        moved = trial.observations.clone()
        moved[0, 0] += 1.0
        rows: set[int] = set()
        batch, time = trial.starts.shape
        replies = []
        for observations in (trial.observations, moved):
            wish = self._wished(facts, trial.but(observations=observations), convention, score=score)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                keywords = wish.arguments(self._parameters(network, facts))
                replies.append(dict(self._read(facts, self._callable(network, facts)(**keywords), wish).tensors()))
        for name, before in replies[0].items():
            after = replies[1][name]
            if before.shape[:2] == (batch, time) == after.shape[:2] and before.is_floating_point():
                differs = (before != after).reshape(batch, time, -1).any(-1)
                rows |= {int(t) * batch + int(b) for b, t in differs.nonzero()}
        if len(rows) > 1 and rows <= set(range(time)):
            return replace(convention, layout="flat_batch")
        return convention


def _observed(roles: dict[str, str], gathered: list[str]) -> None:
    """Decide which parameter takes the observations; what is called state beside them is what the network remembers."""
    observed = [name for name, role in roles.items() if role == "obs"]
    for name in observed[1:]:
        if name.lower() == "state":
            roles[name] = "hidden"
    if not observed and (first := next((name for name in (*roles, *gathered) if not roles.get(name)), None)):
        roles[first] = "obs"


def _started(inputs: Inputs, *, first_only: bool) -> Inputs:
    """The same inputs with two episodes that start: one at the first step, the other at the last if there are more."""
    starts = inputs.starts.clone()
    starts[1, 0] = starts[2, 0 if first_only else -1] = True
    return inputs.but(starts=starts)


def sized(reply: Reply, inputs: Inputs) -> bool:
    """Whether all that was returned for each step has an axis of environments and one of steps."""
    return all(
        tensor.shape[:2] == inputs.starts.shape
        for name, tensor in reply.tensors()
        if name != "entropy" and not name.startswith("hidden")
    )


@contextlib.contextmanager
def categoricals() -> Iterator[set[int]]:
    """How many choices there are in each categorical distribution that is made inside."""
    seen: set[int] = set()
    make = torch.distributions.Categorical.__init__

    def noting(self: torch.distributions.Categorical, *words: Any, **named: Any) -> None:
        make(self, *words, **named)
        seen.add(int(self.logits.shape[-1]))

    torch.distributions.Categorical.__init__ = noting  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        torch.distributions.Categorical.__init__ = make  # type: ignore[method-assign]


@contextlib.contextmanager
def finished() -> Iterator[list[str]]:
    """The modules that come to an end inside: of two calls that fail, the one with more of them got further."""
    done: list[str] = []

    def note(module: nn.Module, *_: object) -> None:
        done.append(type(module).__name__)

    handle = nn.modules.module.register_module_forward_hook(note)
    try:
        yield done
    finally:
        handle.remove()
