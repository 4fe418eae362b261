"""The network on trial, and how to speak with it: every method is called by what its parameters are for.

Conventions differ: [B, D] or [B, 1, D], time first or batch first or both in one axis, masks one by one or in a dict,
bool or float. What the source says about roles comes with the order; what it does not say is found by trying, once, and
remembered. A network that answers in no convention that is known is *not comparable*, and not at fault.

Inside the probes there is one convention: observations [B, T, ...], masks and actions {head: [B, T, ...]}, episode
starts [B, T] bool, results [B, T].
"""

from __future__ import annotations

import copy
import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from esper_audit.probes.building import build, layers_of, told
from esper_audit.probes.contract import MethodFacts, NotComparable, Order
from esper_audit.semantics.roles import is_inverted_mask, tensor_role

CALLED = ("forward", "act", "evaluate")  # roles of methods that probes call
RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
ENVIRONMENTS, STEPS = 5, 6  # B and T: never equal, and equal to no size that is guessed but one
_STARTS = re.compile(
    r"(episode_|is_)?(starts?|firsts?|resets?)|(prev_)?(done|dones|terminals?|terminated)s?(_mask)?|is_first|first"
)
_KEEPS = re.compile(r"not_?dones?|keeps?(_mask)?|alives?|continues?|episode_masks?")
_HEAD_NAMES = (
    r"(.*[._])?(actor|policy|pi|action)(_head|_net|_mean|_logits)?",
    r"(.*_)?(logits|head|out|fc_out|actor_.*)",
)
_CRITIC = re.compile(r"value|critic|vf|baseline")
_SILENT = re.compile(r"(is_)?(deterministic|greedy|explore|stochastic|training|inference)|return_.*|.*temperature")


@dataclass(frozen=True)
class Inputs:
    """What goes into a sequence; `[B, T, ...]` throughout."""

    observations: Tensor
    masks: Mapping[str, Tensor]  # True where valid, whatever the network wants
    actions: Mapping[str, Tensor]
    starts: Tensor  # bool
    hidden: Any  # in the layout of the network, or None

    def at(self, t: int) -> Inputs:
        """One step, still `[B, 1, ...]`."""
        return self.cut(t, t + 1)

    def cut(self, first: int, last: int) -> Inputs:
        """Steps `first` to `last` - 1."""
        return Inputs(
            self.observations[:, first:last],
            {head: mask[:, first:last] for head, mask in self.masks.items()},
            {head: action[:, first:last] for head, action in self.actions.items()},
            self.starts[:, first:last],
            self.hidden,
        )

    def but(self, **changes: Any) -> Inputs:
        """These inputs with some of them replaced."""
        return replace(self, **changes)


def unmasked(inputs: Inputs) -> Inputs:
    """The same inputs with all actions valid."""
    return inputs.but(masks={head: torch.ones_like(mask) for head, mask in inputs.masks.items()})


@dataclass(frozen=True)
class Reply:
    """What a method returned, by role; None for what it did not."""

    action: Any = None  # {head: [B, T]}
    log_prob: Tensor | None = None  # [B, T], joint
    log_probs: Mapping[str, Tensor] = field(default_factory=dict)
    value: Tensor | None = None
    entropy: Tensor | None = None
    logits: Mapping[str, Tensor] = field(default_factory=dict)  # {head: [B, T, n]}
    hidden: Any = None
    raw: Any = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor returned, with its role."""
        for name in ("action", "log_probs", "logits"):
            for head, tensor in (getattr(self, name) or {}).items():
                yield f"{name.removesuffix('s')} {head}", tensor
        for name in ("log_prob", "value", "entropy"):
            if (tensor := getattr(self, name)) is not None and not (name == "log_prob" and self.log_probs):
                yield name, tensor
        for number, tensor in enumerate(leaves(self.hidden)):
            yield f"hidden {number}", tensor


def leaves(value: Any) -> list[Tensor]:
    """All tensors inside a nested value."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in leaves(item)]
    return []


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A nested value with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, change) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(mapped(item, change) for item in value)
    return value


@dataclass(frozen=True)
class Convention:
    """How a method wants its arguments."""

    layout: str  # step, step1, batch, time, flat
    mask_dtype: torch.dtype
    starts_dtype: torch.dtype


_DEFAULT: Any = object()  # a parameter that is left at its default


def _or(parameter: inspect.Parameter, *, otherwise: Any) -> Any:
    """The default where there is one."""
    return otherwise if parameter.default is parameter.empty else _DEFAULT


@dataclass(frozen=True)
class _Wish:
    """One call that is to be made, as far as its arguments ask."""

    method: str
    roles: Mapping[str, str]  # of its parameters
    inputs: Inputs
    convention: Convention
    score: bool = False
    deterministic: bool = False

    def starts(self, role: str) -> Tensor:
        """Episode starts; where it says that an episode goes on, the opposite as a column of numbers."""
        starts = arranged(self.inputs.starts, self.convention.layout)
        if role == "keeps":
            return (~starts).unsqueeze(-1).to(torch.float32)
        return starts.to(self.convention.starts_dtype)

    def hidden(self, name: str) -> Any:
        """The state, or the part of it that this parameter takes."""
        states = [each for each, role in self.roles.items() if role == "hidden"]
        if self.inputs.hidden is None:
            return _DEFAULT
        if len(states) == 2 and isinstance(self.inputs.hidden, tuple) and len(self.inputs.hidden) == 2:
            return self.inputs.hidden[states.index(name)]
        return self.inputs.hidden


LAYOUTS = {"act": ("step", "step1", "time1"), "sequence": ("batch", "flat", "time")}


class Subject:
    """One network class, built and understood as far as it can be."""

    def __init__(self, order: Order, network: nn.Module | None = None) -> None:
        """Build the network of `order`, or take a copy of one that is there."""
        self.order = order
        self._given = network
        self._conventions: dict[tuple[str, str], Convention] = {}
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
        """The first method that plays one of these roles; NotComparable when none does."""
        for role in roles:
            for facts in self.order.methods:
                if facts.role != role or not callable(getattr(self.network, facts.name, None)):
                    continue
                if role == "evaluate" and "action" not in self.roles(facts).values():
                    continue  # what takes no actions scores none: it samples
                return facts
        raise NotComparable(f"the network has no {' or '.join(roles)} method")

    def has(self, role: str) -> bool:
        """Whether a method plays this role."""
        try:
            self.method(role)
        except NotComparable:
            return False
        return True

    def takes(self, what: str, role: str) -> bool:
        """Whether the method that plays `role` has a parameter for `what`."""
        if role == "evaluate" and self.evaluates_through_act:
            role = "act"
        return self.has(role) and what in self.roles(self.method(role)).values()

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
        return not self.has("evaluate") and self.has("act") and "action" in self.roles(self.method("act")).values()

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
        if "obs" not in found.values():
            first = next((name for name, role in found.items() if not role), None)
            if first is not None:
                found[first] = "obs"
        unknown = [n for n, role in found.items() if not role and parameters[n].default is inspect.Parameter.empty]
        if facts.role == "evaluate" and "action" not in found.values() and len(unknown) == 1:
            found[unknown[0]] = "action"
        return found

    # --- sizes

    @cached_property
    def observation_shape(self) -> tuple[int, ...]:
        """The shape of one observation."""
        for _, module in self.network.named_modules():
            if isinstance(module, nn.Linear):
                return (module.in_features,)
            if isinstance(module, RECURRENT + CELLS):
                return (module.input_size,)
            if isinstance(module, nn.Conv2d):
                return (module.in_channels, 84, 84)
            if isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
                return tuple(getattr(module, "normalized_shape", ())) or (module.num_features,)  # type: ignore[return-value]
        raise NotComparable("no layer tells how wide an observation is")

    @cached_property
    def heads(self) -> dict[str, int]:
        """Policy heads and how many actions each has, as far as masks, numbers or module names tell."""
        for found in (self._heads_by_mask, self._heads_by_numbers, self._heads_by_container, self._heads_by_name):
            if heads := found():
                return heads
        raise NotComparable("no policy head is known by its name")

    def _heads_by_mask(self) -> dict[str, int]:
        """`slot_mask` goes with `slot_head`."""
        found: dict[str, int] = {}
        for facts in self.order.methods:
            masks = [name for name, role in self.roles(facts).items() if role == "mask"] if facts.role in CALLED else []
            for mask in masks:
                head = re.sub(r"_?(action_)?masks?$", "", mask)
                size = self._size_of(head) if head else None
                if size is not None:
                    found.setdefault(head, size)
        return found

    def _heads_by_numbers(self) -> dict[str, int]:
        """An attribute such as `head_sizes`, {name: number of actions}."""
        for name, value in vars(self.network).items():
            if not isinstance(value, dict) or not value or not re.search(r"head|action", name):
                continue
            if all(isinstance(head, str) and type(size) is int and size > 1 for head, size in value.items()):
                return dict(value)
        return {}

    def _heads_by_container(self) -> dict[str, int]:
        """A dict or list of modules that is called heads."""
        for name, children in self._containers():
            if re.search(r"heads?|actors?|policy|policies", name) and not _CRITIC.search(name):
                sizes = {key: _out_features(child) for key, child in children.items()}
                if sizes and all(sizes.values()):
                    return {key: int(size or 0) for key, size in sizes.items()}
        return {}

    def _heads_by_name(self) -> dict[str, int]:
        """A single head."""
        for pattern in _HEAD_NAMES:
            for name, module in self.network.named_modules():
                if re.fullmatch(pattern, name) and not _CRITIC.search(name) and (size := _out_features(module)):
                    return {"action": size}
        return {}

    def _containers(self) -> Iterator[tuple[str, dict[str, nn.Module]]]:
        """Groups of modules under one name: also those in plain containers, which PyTorch does not see."""
        for name, module in self.network.named_modules():
            if isinstance(module, nn.ModuleDict | nn.ModuleList):
                yield name, {str(key): child for key, child in module.named_children()}
            for attribute, value in vars(module).items():
                if attribute.startswith("_") or not isinstance(value, dict | list | tuple):
                    continue
                items = value.items() if isinstance(value, dict) else enumerate(value)
                children = {str(key): child for key, child in items if isinstance(child, nn.Module)}
                if children and len(children) == len(value):
                    yield attribute, children

    def _size_of(self, head: str) -> int | None:
        for name, module in self.network.named_modules():
            last = name.rpartition(".")[2]
            known = (f"{head}{end}" for end in ("", "_head", "_logits", "_net", "_actor"))
            if last in (*known, f"head_{head}", f"actor_{head}") and (size := _out_features(module)):
                return size
        return None

    # --- inputs

    def inputs(self, batch: int = ENVIRONMENTS, time: int = STEPS, *, seed: int = 0, memory: bool = True) -> Inputs:
        """Random inputs: masks with one to all actions valid, no starts, a hidden state that is not 0."""
        generator = torch.Generator().manual_seed(1000 * self.order.seed + seed + 7)
        shape = (batch, time)
        observations = torch.randn(*shape, *self.observation_shape, generator=generator).to(self.dtype)
        masks, actions = {}, {}
        try:
            heads = self.heads
        except NotComparable:
            heads = {}
        for head, size in heads.items():
            actions[head] = torch.randint(size, shape, generator=generator)
            share = torch.rand(*shape, 1, generator=generator)
            mask = torch.rand(*shape, size, generator=generator) < share
            masks[head] = mask.scatter(-1, actions[head].unsqueeze(-1), value=True)
        hidden = self.initial(batch)
        if memory:
            hidden = mapped(hidden, lambda t: torch.randn(t.shape, generator=generator).to(t.dtype).mul(0.5))
        return Inputs(observations, masks, actions, torch.zeros(shape, dtype=torch.bool), hidden)

    def initial(self, batch: int, network: nn.Module | None = None) -> Any:
        """The hidden state before the first step, None for a network without memory."""
        network = self.network if network is None else network
        if self.has("initial_state"):
            facts = self.method("initial_state")
            call = getattr(network, facts.name)
            given: dict[str, Any] = {}
            for name, parameter in inspect.signature(call).parameters.items():
                if "device" in name:
                    given[name] = next(network.parameters()).device
                elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
                    given[name] = batch
            with torch.no_grad():
                return call(**given)
        if not self.cores:
            return None
        takes = any("hidden" in self.roles(f).values() for f in self.order.methods if f.role in CALLED)
        if not takes:
            return None
        name, _ = self.cores[0]
        core = network.get_submodule(name) if name else network
        weight = next(core.parameters())
        width: Any = core.hidden_size
        if isinstance(core, RECURRENT):
            state = weight.new_zeros(core.num_layers * (2 if core.bidirectional else 1), batch, width)
        else:
            state = weight.new_zeros(batch, width)
        return (state, state.clone()) if isinstance(core, nn.LSTM | nn.LSTMCell) else state

    # --- calls

    def act(self, network: nn.Module, inputs: Inputs, *, deterministic: bool = False) -> Reply:
        """One step: `inputs` are `[B, 1, ...]`, and so is the reply."""
        return self._call(network, self.method("act"), inputs, kind="act", deterministic=deterministic)

    def evaluate(self, network: nn.Module, inputs: Inputs) -> Reply:
        """Score the actions of `inputs`."""
        if self.evaluates_through_act:
            return self._call(network, self.method("act"), inputs, kind="sequence", score=True)
        return self._call(network, self.method("evaluate"), inputs, kind="sequence", score=True)

    def forward(self, network: nn.Module, inputs: Inputs) -> Reply:
        """Logits or whatever else `forward` returns."""
        return self._call(network, self.method("forward"), inputs, kind="sequence")

    def arguments(
        self,
        network: nn.Module,
        facts: MethodFacts,
        inputs: Inputs,
        kind: str,
        *,
        score: bool = False,
        deterministic: bool = False,
    ) -> dict[str, Any]:
        """The keyword arguments of a call, in the convention that is known to work."""
        convention = self._convention(facts, kind, score=score)
        return self._arguments(network, facts, inputs, convention, score=score, deterministic=deterministic)

    def called(
        self,
        network: nn.Module,
        facts: MethodFacts,
        keywords: Mapping[str, Any],
        inputs: Inputs,
        kind: str = "sequence",
    ) -> Reply:
        """The reply to arguments that were changed by hand."""
        return self._read(
            facts, self._callable(network, facts)(**keywords), inputs, self._conventions[facts.name, kind]
        )

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
        convention = self._convention(facts, kind, score=score)
        keywords = self._arguments(network, facts, inputs, convention, score=score, deterministic=deterministic)
        raw = self._callable(network, facts)(**keywords)
        return self._read(facts, raw, inputs, convention)

    def _convention(self, facts: MethodFacts, kind: str, *, score: bool) -> Convention:
        key = (facts.name, kind)
        if key not in self._conventions:
            with torch.random.fork_rng(devices=[]):  # or the first call of an experiment would draw other numbers
                self._conventions[key] = self._learned(facts, kind, score=score)
        return self._conventions[key]

    @staticmethod
    def _callable(network: nn.Module, facts: MethodFacts) -> Callable[..., Any]:
        call: Callable[..., Any] = network if facts.name == "forward" else getattr(network, facts.name)
        return call

    def _learned(self, facts: MethodFacts, kind: str, *, score: bool) -> Convention:
        """The first convention in which the method answers, and its answer has the right size."""
        trial = self.inputs(ENVIRONMENTS, 1 if kind == "act" else STEPS)
        trials = [trial]
        if trial.masks:  # a network that has masks the wrong way round may answer when all actions are valid
            trials.append(unmasked(trial))
        told_first = ""
        for each in trials:
            convention, error = self._answering(facts, kind, each, score=score)
            if convention is not None:
                return convention
            told_first = told_first or error
        raise NotComparable(f"`{facts.name}` answers in no known convention: {told_first or 'it returns no tensors'}")

    def answers(self, facts: MethodFacts, kind: str, inputs: Inputs, *, score: bool = False) -> bool:
        """Whether a method answers at these sizes, in whatever convention."""
        return self._answering(facts, kind, inputs, score=score)[0] is not None

    def _answering(self, facts: MethodFacts, kind: str, trial: Inputs, *, score: bool) -> tuple[Convention | None, str]:
        first_error = ""
        for layout, mask_dtype, starts_dtype in itertools.product(
            LAYOUTS[kind], (torch.bool, torch.float32), (torch.bool, torch.float32)
        ):
            convention = Convention(layout, mask_dtype, starts_dtype)
            network = copy.deepcopy(self.network)
            try:
                keywords = self._arguments(network, facts, trial, convention, score=score)
                with torch.random.fork_rng(devices=[]):  # a seed that was set for the real call stays set
                    reply = self._read(facts, self._callable(network, facts)(**keywords), trial, convention)
            except NotComparable:
                raise
            except Exception as error:  # noqa: BLE001 - a convention that is not this network's
                first_error = first_error or told(error)
                continue
            if any(True for _ in reply.tensors()):
                return convention, ""
        return None, first_error

    def _arguments(
        self,
        network: nn.Module,
        facts: MethodFacts,
        inputs: Inputs,
        convention: Convention,
        *,
        score: bool = False,
        deterministic: bool = False,
    ) -> dict[str, Any]:
        call = self._callable(network, facts)
        parameters = inspect.signature(call.forward if isinstance(call, nn.Module) else call).parameters
        roles = self.roles(facts)
        wish = _Wish(facts.name, roles, inputs, convention, score=score, deterministic=deterministic)
        given = {name: self._argument(wish, parameters[name]) for name in roles}
        return {name: value for name, value in given.items() if value is not _DEFAULT}

    def _argument(self, wish: _Wish, parameter: inspect.Parameter) -> Any:
        """What one parameter gets, or `_DEFAULT`; NotComparable where nothing is known and there is no default."""
        name, role = parameter.name, wish.roles[parameter.name]
        if role == "obs":
            return arranged(wish.inputs.observations, wish.convention.layout)
        if role in ("starts", "keeps"):
            return wish.starts(role)
        value, why = _DEFAULT, f"what `{name}` of `{wish.method}` is for is not understood"
        if role == "silent":
            return (
                True if wish.deterministic and re.search(r"determin|greedy", name) else _or(parameter, otherwise=False)
            )
        if role == "hidden":
            value, why = wish.hidden(name), f"`{wish.method}` wants `{name}`, and nothing makes a hidden state"
        elif role == "mask":
            value, why = self._mask(wish, parameter), f"which head `{name}` belongs to is not known"
        elif role == "action":
            value = self._action(wish, parameter) if wish.score else _DEFAULT
            why = f"`{wish.method}` wants actions and is no method that scores them"
        if value is _DEFAULT and parameter.default is parameter.empty:
            raise NotComparable(why)
        return value

    @staticmethod
    def _mask(wish: _Wish, parameter: inspect.Parameter) -> Any:
        """What goes into one mask parameter, or `_DEFAULT`."""
        inverted = is_inverted_mask(parameter.name)

        def formed(mask: Tensor) -> Tensor:
            mask = arranged(~mask if inverted else mask, wish.convention.layout)
            return mask.to(wish.convention.mask_dtype)

        masks = wish.inputs.masks
        head = re.sub(r"_?(action_)?masks?$", "", parameter.name)
        if head in masks:
            return formed(masks[head])
        if list(wish.roles.values()).count("mask") > 1 or not masks:
            return _DEFAULT
        if re.search(r"[Dd]ict|Mapping", str(parameter.annotation)) or len(masks) > 1:
            return {key: formed(mask) for key, mask in masks.items()}
        return formed(next(iter(masks.values())))

    @staticmethod
    def _action(wish: _Wish, parameter: inspect.Parameter) -> Any:
        if not wish.inputs.actions:
            raise NotComparable("what an action looks like is not known")
        formed = {head: arranged(action, wish.convention.layout) for head, action in wish.inputs.actions.items()}
        if re.search(r"[Dd]ict|Mapping", str(parameter.annotation)) or len(formed) > 1:
            return formed
        return next(iter(formed.values()))

    # --- replies

    def _read(self, facts: MethodFacts, raw: Any, inputs: Inputs, convention: Convention) -> Reply:
        parts: dict[str, Any] = {}
        _assign(raw, facts.returns, parts, "logits" if facts.role == "forward" else "")
        shape = (inputs.starts.shape[0], inputs.starts.shape[1])

        def restored(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {
                    re.sub(r"_?(logits?|log_?probs?|actions?|entropy)$", "", str(k)) or "action": restored(v)
                    for k, v in value.items()
                }
            if isinstance(value, tuple | list):
                return {str(number): restored(item) for number, item in enumerate(value)}
            return unarranged(value, convention.layout, shape)

        found = {role: restored(value) for role, value in parts.items() if role not in ("hidden", "dist")}
        single = next(iter(inputs.masks), "action")

        def per_head(value: Any) -> dict[str, Tensor]:
            if value is None:
                return {}
            return dict(value) if isinstance(value, Mapping) else {single: value}

        log_prob, entropy = found.get("log_prob"), found.get("entropy")
        logits = {head: value for head, value in per_head(found.get("logits")).items() if isinstance(value, Tensor)}
        return Reply(
            action=per_head(found.get("action")) or None,
            log_prob=_joint(log_prob),
            log_probs=log_prob if isinstance(log_prob, Mapping) else {},
            value=found.get("value") if isinstance(found.get("value"), Tensor) else None,
            entropy=_joint(entropy),
            logits=logits,
            hidden=parts.get("hidden"),
            raw=raw,
        )


def _joint(value: Any) -> Tensor | None:
    if isinstance(value, Mapping):
        values = [item for item in value.values() if isinstance(item, Tensor)]
        return torch.stack(values).sum(dim=0) if values else None
    return value if isinstance(value, Tensor) else None


def _assign(raw: Any, known: Any, parts: dict[str, Any], otherwise: str) -> None:
    """Sort what a method returned by role: what the source says first, then names, then what is left over."""
    rest: list[Any] = []
    logits: dict[str, Any] = {}
    for value, says, name in _parts(raw, known):
        role = _role_of(value, says, name)
        if role == "logits" and isinstance(raw, Mapping) and isinstance(value, Tensor):
            logits[name] = value
        elif role and role not in parts:
            parts[role] = value
        elif value is not None and not role:
            rest.append(value)
    if logits:
        parts["logits"] = logits
    floats = [value for value in rest if isinstance(value, Tensor) and value.is_floating_point()]
    if len(floats) == 1:
        missing = [role for role in ("value", "log_prob") if role not in parts]
        role = otherwise if otherwise and otherwise not in parts else (missing[0] if len(missing) == 1 else "")
        if role:
            parts[role] = floats[0]


def _parts(raw: Any, known: Any) -> list[tuple[Any, Any, str]]:
    """The parts of a returned value, with what the source says about each and what it is called."""
    named = known.get("dict", {}) if isinstance(known, Mapping) else {}
    listed = known.get("tuple", []) if isinstance(known, Mapping) else []
    if isinstance(raw, Mapping):
        return [(value, named.get(key), str(key)) for key, value in raw.items()]
    if isinstance(raw, tuple) and hasattr(raw, "_fields"):
        return [(value, named.get(name), name) for name, value in zip(raw._fields, raw, strict=True)]
    if isinstance(raw, tuple | list):
        return [(value, listed[i] if i < len(listed) else None, "") for i, value in enumerate(raw)]
    return [(raw, known, "")]


def _role_of(value: Any, says: Any, name: str) -> str:
    """The role of one part of a returned value."""
    if hasattr(value, "log_prob") and hasattr(value, "sample"):
        return "dist"
    inner = set(_words(says))
    if len(inner) == 1:
        return inner.pop()
    if named := tensor_role(name) if name else "":
        return named
    pair = isinstance(value, tuple | list) and len(value) == 2
    if pair and all(isinstance(each, Tensor) and each.dim() >= 2 for each in value):
        return "hidden"
    return "action" if isinstance(value, Tensor) and value.dtype == torch.int64 else ""


def _words(says: Any) -> Iterator[str]:
    if isinstance(says, str):
        if says:
            yield says
    elif isinstance(says, Mapping):
        for value in says.values():
            yield from _words(value)
    elif isinstance(says, list | tuple):
        for value in says:
            yield from _words(value)


def _out_features(module: nn.Module) -> int | None:
    """The width of what the last Linear inside gives."""
    linear = [each for each in module.modules() if isinstance(each, nn.Linear)]
    return linear[-1].out_features if linear else None


def arranged(tensor: Tensor, layout: str) -> Tensor:
    """`[B, T, ...]` in the layout of the network."""
    if layout == "step":
        return tensor[:, 0]
    if layout in ("step1", "batch"):
        return tensor
    if layout in ("time", "time1"):
        return tensor.transpose(0, 1).contiguous()
    return tensor.transpose(0, 1).flatten(0, 1)  # [T * B, ...], time first


def unarranged(value: Any, layout: str, shape: tuple[int, int]) -> Any:
    """What a network returned as `[B, T, ...]`; whatever has another size stays as it is."""
    batch, time = shape
    if not isinstance(value, Tensor):
        return value
    if layout in ("step", "step1") and value.shape[:2] != (batch, time) and value.shape[:1] == (batch,):
        return value.unsqueeze(1)
    if layout in ("time", "time1") and value.shape[:2] == (time, batch):
        return value.transpose(0, 1)
    if layout == "flat" and value.shape[:1] == (time * batch,):
        return value.view(time, batch, *value.shape[1:]).transpose(0, 1)
    return value
