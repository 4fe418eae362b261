"""What goes into a call: inputs in the one layout of the probes, and the same as a method of a network wants them.

Inside the probes there is one convention: observations [B, T, ...], masks and actions {head: [B, T, ...]}, episode
starts [B, T] bool, results [B, T].
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from esper_audit.probes.contract import NotComparable
from esper_audit.semantics.roles import is_inverted_mask, tensor_role

LAYOUTS = {"act": ("step", "step1", "time1"), "sequence": ("batch", "flat", "flat_batch", "time")}
_DEFAULT: Any = object()  # a parameter that is left at its default


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

    def one(self) -> Inputs:
        """One environment without memory."""
        return Inputs(
            self.observations[:1],
            {head: mask[:1] for head, mask in self.masks.items()},
            {head: action[:1] for head, action in self.actions.items()},
            self.starts[:1],
            None,
        )

    def but(self, **changes: Any) -> Inputs:
        """These inputs with some of them replaced."""
        return replace(self, **changes)


def unmasked(inputs: Inputs) -> Inputs:
    """The same inputs with all actions valid."""
    return inputs.but(masks={head: torch.ones_like(mask) for head, mask in inputs.masks.items()})


@dataclass(frozen=True)
class Convention:
    """How a method wants its arguments."""

    layout: str  # step, step1, batch, time, flat (time first), flat_batch
    mask_dtype: torch.dtype = torch.bool
    starts_dtype: torch.dtype = torch.bool
    first_starts: bool = False  # one start for each environment, at the first step
    actions: str = (
        "plain"  # or column, [..., 1]; or packed, all heads in one tensor; or stacked, where only the actions
    )
    # are and masks lie in a dict; or listed, where they lie in a list
    observations: str = "tensor"  # or dict, which is asked for keys; or tensordict
    keys: tuple[str, ...] = ()  # of the dict


def conventions(kind: str, roles: Mapping[str, str], heads: int) -> Iterator[Convention]:
    """What may be meant, the usual first; only what the parameters leave open is varied."""
    both = (torch.bool, torch.float32)
    taken = set(roles.values())
    forms = ["plain", "column"] if heads == 1 else ["plain", "packed"] if heads else ["plain"]
    if heads > 1 and {"action", "mask"} <= taken:
        forms.append("stacked")
    if heads > 1 and "mask" in taken:
        forms.append("listed")
    for first_starts in (False, True) if "starts" in taken and kind == "sequence" else (False,):
        for actions in forms if {"action", "mask"} & taken else ("plain",):
            for layout in LAYOUTS[kind]:
                for mask_dtype in both if "mask" in taken else both[:1]:
                    for starts_dtype in both if "starts" in taken else both[:1]:
                        yield Convention(layout, mask_dtype, starts_dtype, first_starts, actions)


class Asked(dict[str, Any]):
    """A dict of observations that hands out whatever it is asked for, by the role that the key names."""

    def __init__(self, wish: Wish) -> None:
        super().__init__()
        self._wish = wish

    def __missing__(self, key: str) -> Any:
        """The value of this role; what no role names is an observation."""
        value = self._wish.by_key(key)
        if value is _DEFAULT:
            raise KeyError(key)
        self[key] = value
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """The same, without an error."""
        try:
            return self[key]
        except KeyError:
            return default


@dataclass(frozen=True)
class Wish:
    """One call that is to be made, as far as its arguments ask."""

    method: str
    roles: Mapping[str, str]  # of its parameters
    inputs: Inputs
    convention: Convention
    score: bool = False
    deterministic: bool = False
    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)  # that a parameter is known to be asked for
    asked: list[Asked] = field(default_factory=list)  # the dicts that were handed out

    def arguments(self, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
        """The keyword arguments; NotComparable where one is needed and not understood."""
        given = {name: self._argument(parameters[name]) for name in self.roles}
        return {name: value for name, value in given.items() if value is not _DEFAULT}

    def _argument(self, parameter: inspect.Parameter) -> Any:
        """What one parameter gets, or `_DEFAULT`."""
        name, role = parameter.name, self.roles[parameter.name]
        optional = parameter.default is not parameter.empty
        if role == "obs":
            return self._observations()
        if role in ("starts", "keeps"):
            return self._starts(role)
        if role == "silent":
            if self.deterministic and re.search(r"determin|greedy", name):
                return True
            return _DEFAULT if optional else False
        value, why = _DEFAULT, f"what `{name}` of `{self.method}` is for is not understood"
        if role == "hidden":
            value, why = self._hidden(name), f"`{self.method}` wants `{name}`, and nothing makes a hidden state"
        elif role == "mask":
            value, why = self._mask(parameter), f"which head `{name}` belongs to is not known"
        elif role == "action":
            # What cannot be called without actions, as a critic of states and actions, gets them.
            value = self._action(parameter) if self.score or (self.inputs.actions and not optional) else _DEFAULT
            why = f"`{self.method}` wants actions and is no method that scores them"
        if value is _DEFAULT and not optional:
            raise NotComparable(why)
        return value

    def _observations(self) -> Any:
        observations = arranged(self.inputs.observations, self.convention.layout)
        if self.convention.observations == "tensor":
            return observations
        if not self.convention.keys:
            self.asked.append(Asked(self))
            return self.asked[-1]
        known = {key: self.by_key(key) for key in self.convention.keys}
        known = {key: value for key, value in known.items() if value is not _DEFAULT}
        if self.convention.observations == "dict":
            return known
        tensordict = importlib.import_module("tensordict")  # installed, since the network is made of it
        return tensordict.TensorDict(known, batch_size=observations.shape[:1])

    def by_key(self, key: str) -> Any:
        """What a dict of observations holds under a key."""
        role = tensor_role(key)
        if role == "action":
            return self._action(None) if self.score else _DEFAULT
        if role == "mask":
            return self._mask(inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY))
        if role in ("", "obs"):
            return arranged(self.inputs.observations, self.convention.layout)
        return _DEFAULT

    def _starts(self, role: str) -> Tensor:
        """Episode starts; where it says that an episode goes on, the opposite as a column of numbers."""
        if self.convention.first_starts and bool(self.inputs.starts[:, 1:].any()):
            raise NotComparable(f"`{self.method}` takes episode starts at the first step only")
        starts = self.inputs.starts
        starts = starts[:, 0] if self.convention.first_starts else arranged(starts, self.convention.layout)
        if role == "keeps":
            return (~starts).unsqueeze(-1).to(torch.float32)
        return starts.to(self.convention.starts_dtype)

    def _hidden(self, name: str) -> Any:
        """The state, or the part of it that this parameter takes."""
        states = [each for each, role in self.roles.items() if role == "hidden"]
        if self.inputs.hidden is None:
            return _DEFAULT
        if len(states) == 2 and isinstance(self.inputs.hidden, tuple) and len(self.inputs.hidden) == 2:
            return self.inputs.hidden[states.index(name)]
        return self.inputs.hidden

    def _mask(self, parameter: inspect.Parameter) -> Any:
        """What goes into one mask parameter, or `_DEFAULT`."""
        inverted = is_inverted_mask(parameter.name)

        def formed(mask: Tensor) -> Tensor:
            mask = arranged(~mask if inverted else mask, self.convention.layout)
            return mask.to(self.convention.mask_dtype)

        masks = self.inputs.masks
        head = head_of(parameter.name)
        keys = self.keys.get(parameter.name, ())
        if known := {key: formed(masks[head_of(key)]) for key in keys if head_of(key) in masks}:
            return known
        if head in masks:
            return formed(masks[head])
        if list(self.roles.values()).count("mask") > 1 or not masks:
            return _DEFAULT
        together = {key: formed(mask) for key, mask in masks.items()}
        if len(masks) > 1 and self.convention.actions in ("packed", "listed"):
            parts = list(together.values())
            return parts if self.convention.actions == "listed" else torch.cat(parts, dim=-1)
        if _wants_dict(parameter) or len(masks) > 1:
            return together
        return next(iter(together.values()))

    def _action(self, parameter: inspect.Parameter | None) -> Any:
        if not self.inputs.actions:
            raise NotComparable("what an action looks like is not known")
        formed = {head: arranged(action, self.convention.layout) for head, action in self.inputs.actions.items()}
        if self.convention.actions in ("packed", "stacked", "listed"):
            return torch.stack(list(formed.values()), dim=-1)
        keys = self.keys.get(parameter.name, ()) if parameter is not None else ()
        if known := {key: formed[head_of(key)] for key in keys if head_of(key) in formed}:
            return known
        if len(formed) > 1 or (parameter is not None and _wants_dict(parameter)):
            return formed
        action = next(iter(formed.values()))
        return action.unsqueeze(-1) if self.convention.actions == "column" else action


def _wants_dict(parameter: inspect.Parameter) -> bool:
    return bool(re.search(r"[Dd]ict|Mapping", str(parameter.annotation)))


def head_of(name: str) -> str:
    """The head that a mask or an action of this name belongs to; empty where the name is none but that."""
    return re.sub(r"_?((action_)?masks?|actions?)$", "", name)


def arranged(tensor: Tensor, layout: str) -> Tensor:
    """`[B, T, ...]` in the layout of the network."""
    if layout == "step":
        return tensor[:, 0]
    if layout in ("step1", "batch"):
        return tensor
    if layout in ("time", "time1"):
        return tensor.transpose(0, 1).contiguous()
    if layout == "flat_batch":
        return tensor.flatten(0, 1)  # [B * T, ...], environment by environment
    return tensor.transpose(0, 1).flatten(0, 1)  # [T * B, ...], time first


def unarranged(value: Any, layout: str, shape: tuple[int, int]) -> Any:
    """What a network returned as `[B, T, ...]`; whatever has another size stays as it is."""
    batch, time = shape
    if not isinstance(value, Tensor):
        return value
    if layout == "step" and value.shape == (batch, 1):  # one number for each environment, and no axis of time
        return value.unsqueeze(1)
    if layout in ("step", "step1") and value.shape[:2] != (batch, time) and value.shape[:1] == (batch,):
        return value.unsqueeze(1)
    if layout in ("time", "time1") and value.shape[:2] == (time, batch):
        return value.transpose(0, 1)
    if layout.startswith("flat") and value.shape[:1] == (time * batch,):
        rest = value.shape[1:]
        return (
            value.view(batch, time, *rest) if layout == "flat_batch" else value.view(time, batch, *rest).transpose(0, 1)
        )
    return value
