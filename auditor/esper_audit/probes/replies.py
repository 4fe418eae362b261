"""What a method returned, sorted by role: what the source says first, then names, then what is left over."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from esper_audit.probes.arguments import Inputs, unarranged
from esper_audit.probes.nested import alike, is_mapping, leaves, words
from esper_audit.semantics.roles import tensor_role

ROLES = {"action", "log_prob", "value", "entropy", "logits", "hidden"}


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
    others: Mapping[str, Tensor] = field(default_factory=dict)  # of no known role, where no other has one
    dist: Any = None  # a distribution, as it was returned
    shape: tuple[int, int] = (0, 0)  # B and T of the call
    raw: Any = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor returned, with its role."""
        for name in ("action", "log_probs", "logits", "others"):
            for head, tensor in (getattr(self, name) or {}).items():
                yield f"{name.removesuffix('s')} {head}", tensor
        for name in ("log_prob", "value", "entropy"):
            if (tensor := getattr(self, name)) is not None and not (name == "log_prob" and self.log_probs):
                yield name, tensor
        for number, tensor in enumerate(leaves(self.hidden)):
            yield f"hidden {number}", tensor


@dataclass(frozen=True)
class Reading:
    """What is known about a returned value before it is looked at."""

    role: str  # of the method
    returns: Any  # what the source says
    layout: str
    inputs: Inputs
    heads: Mapping[str, int]
    action_shape: tuple[int, ...] | None  # of a continuous action, where it is known
    remembers: bool  # whether there is anything that a hidden state could belong to
    score: bool = False
    scored: Any = None  # the actions, as they were passed


def read(raw: Any, known: Reading) -> Reply:
    """A returned value by role, `[B, T, ...]`."""
    parts: dict[str, Any] = {}
    rest: list[Any] = []
    _assign(raw, known.returns, parts, rest, known)
    _left_over(rest, parts, known)
    others = [tensor for tensor in rest if isinstance(tensor, Tensor) and tensor.is_floating_point()]
    if (dist := parts.pop("dist", None)) is not None:
        _from_distribution(dist, parts, others, known)
    others += [parts.pop(role) for role in set(parts) - ROLES]
    shape = (known.inputs.starts.shape[0], known.inputs.starts.shape[1])
    found = {role: _restored(value, known.layout, shape) for role, value in parts.items() if role != "hidden"}
    named = any(role in found for role in ("action", "log_prob", "value", "logits"))
    single = next(iter(known.inputs.masks), "action")

    def per_head(value: Any) -> dict[str, Tensor]:
        if value is None:
            return {}
        value = dict(value) if isinstance(value, Mapping) else {single: value}
        return {head: tensor for head, tensor in value.items() if isinstance(tensor, Tensor)}

    log_prob = found.get("log_prob")
    return Reply(
        action=_one_by_one(per_head(found.get("action")), known.heads) or None,
        log_prob=_joint(log_prob),
        log_probs=log_prob if isinstance(log_prob, Mapping) else {},
        value=found["value"] if isinstance(found.get("value"), Tensor) else None,
        entropy=_joint(found.get("entropy")),
        logits=_split(per_head(found.get("logits")), known.heads),
        hidden=parts.get("hidden"),
        others={} if named else _numbered(others, known.layout, shape),
        dist=dist,
        shape=shape,
        raw=raw,
    )


def _numbered(others: list[Any], layout: str, shape: tuple[int, int]) -> dict[str, Tensor]:
    tensors = [each for each in others if isinstance(each, Tensor) and each.is_floating_point()]
    return {str(number): _restored(each, layout, shape) for number, each in enumerate(tensors)}


def _restored(value: Any, layout: str, shape: tuple[int, int]) -> Any:
    if isinstance(value, Mapping):
        return {
            re.sub(r"_?(logits?|log_?probs?|actions?|entropy)$", "", str(key)) or "action": _restored(v, layout, shape)
            for key, v in value.items()
        }
    if isinstance(value, tuple | list):
        return {str(number): _restored(item, layout, shape) for number, item in enumerate(value)}
    return unarranged(value, layout, shape)


def _one_by_one(actions: dict[str, Tensor], heads: Mapping[str, int]) -> dict[str, Tensor]:
    """Actions `[B, T]` for each head, where they came as a column or with all heads in one tensor."""
    if len(actions) == 1:
        action = next(iter(actions.values()))
        if len(heads) > 1 and action.dim() == 3 and action.shape[-1] == len(heads):
            return dict(zip(heads, action.unbind(-1), strict=True))
    columns = {h: a.squeeze(-1) if a.dim() == 3 and not a.is_floating_point() else a for h, a in actions.items()}
    return columns if all(a.dim() == 2 or a.is_floating_point() for a in columns.values()) else actions


def _split(logits: dict[str, Tensor], heads: Mapping[str, int]) -> dict[str, Tensor]:
    """Logits for each head, where they came side by side."""
    if len(logits) == 1 and len(heads) > 1:
        flat = next(iter(logits.values()))
        if flat.dim() and flat.shape[-1] == sum(heads.values()):
            return dict(zip(heads, flat.split(list(heads.values()), dim=-1), strict=True))
    return logits


def _joint(value: Any) -> Tensor | None:
    if isinstance(value, Mapping):
        values = [item for item in value.values() if isinstance(item, Tensor)]
        return torch.stack(values).sum(dim=0) if len({each.shape for each in values}) == 1 else None
    return value if isinstance(value, Tensor) else None


def _assign(raw: Any, returns: Any, parts: dict[str, Any], rest: list[Any], known: Reading) -> None:
    """Give each part of a returned value its role; what has none is left over."""
    logits: dict[str, Any] = {}
    for value, says, name in _parts(raw, returns):
        role = _role_of(value, says, name, known)
        if role == "logits" and isinstance(raw, Mapping) and isinstance(value, Tensor):
            logits[name] = value
        elif role and role not in parts:
            parts[role] = value
        elif not role and (is_mapping(value) or isinstance(value, tuple | list)) and value is not raw:
            _assign(value, says, parts, rest, known)
        elif value is not None and not role:
            rest.append(value)
    if logits:
        parts["logits"] = logits


def _left_over(rest: list[Any], parts: dict[str, Any], known: Reading) -> None:
    """What a part without a name must be, when only one thing is left that it can be."""
    if "hidden" not in parts and known.inputs.hidden is not None:
        states = [value for value in rest if alike(value, known.inputs.hidden)]
        if states:
            parts["hidden"] = states[-1]
            rest[:] = [value for value in rest if value is not states[-1]]
    floats = [value for value in rest if isinstance(value, Tensor) and value.is_floating_point()]
    shape = known.action_shape
    if known.role == "act" and "action" not in parts and shape is not None and len(floats) > 1:
        taken = [value for value in floats if value.shape[-len(shape) :] == shape]
        if taken:  # of an action and its mean, the action comes first
            parts["action"] = taken[0]
            floats = [value for value in floats if value is not taken[0]]
            rest[:] = floats
    if len(floats) != 1:
        return
    usual = {"act": "action", "forward": "logits"}.get(known.role, "")
    missing = [role for role in ("value", "log_prob") if role not in parts]
    if usual and usual not in parts:
        parts[usual] = floats[0]
    elif len(missing) == 1 and floats[0].numel() == known.inputs.starts.numel():  # one number for each step
        parts[missing[0]] = floats[0]
    else:
        return
    rest[:] = [value for value in rest if value is not floats[0]]


def _parts(raw: Any, known: Any) -> list[tuple[Any, Any, str]]:
    """The parts of a returned value, with what the source says about each and what it is called."""
    named = known.get("dict", {}) if isinstance(known, Mapping) else {}
    listed = known.get("tuple", []) if isinstance(known, Mapping) else []
    if is_mapping(raw):
        return [(value, named.get(key), str(key)) for key, value in raw.items()]
    if isinstance(raw, tuple) and hasattr(raw, "_fields"):
        return [(value, named.get(name), name) for name, value in zip(raw._fields, raw, strict=True)]
    if isinstance(raw, tuple | list):
        return [(value, listed[i] if i < len(listed) else None, "") for i, value in enumerate(raw)]
    return [(raw, known, "")]


def _role_of(value: Any, says: Any, name: str, known: Reading) -> str:
    """The role of one part of a returned value."""
    if hasattr(value, "log_prob") and hasattr(value, "sample"):
        return "dist"
    inner = set(words(says))
    if len(inner) == 1 and inner != {"obs"} and not _names_roles(value, says):
        return inner.pop()
    if named := tensor_role(name) if name else "":
        return named
    if (isinstance(value, tuple | list) or is_mapping(value)) and _is_state(value, known):
        return "hidden"
    return "action" if isinstance(value, Tensor) and value.dtype == torch.int64 else ""


def _names_roles(value: Any, says: Any) -> bool:
    """Whether a dict holds things of several kinds, by their names, of which the source tells one only."""
    named = says.get("dict", {}) if isinstance(says, Mapping) else {}
    return is_mapping(value) and None in named.values() and any(tensor_role(str(key)) for key in named)


def _is_state(value: Any, known: Reading) -> bool:
    """Whether a group of tensors is a hidden state: like the one that was passed, or a pair where none was."""
    if known.inputs.hidden is not None:
        return alike(value, known.inputs.hidden)
    if not known.remembers or "hidden" in words(known.returns):
        return False  # or the source says which part it is
    if is_mapping(value):
        return any(tensor_role(str(key)) == "hidden" for key, _ in value.items())
    return len(value) == 2 and all(isinstance(each, Tensor) and each.dim() >= 2 for each in value)


def _from_distribution(dist: Any, parts: dict[str, Any], others: list[Tensor], known: Reading) -> None:
    """What a returned distribution says: its logits or its moments, and the score of the actions that were passed."""
    logits = getattr(dist, "logits", None)
    if isinstance(logits, Tensor):
        parts.setdefault("logits", logits)
    else:
        for name in ("mean", "stddev"):
            try:
                moment = getattr(dist, name)
            except (AttributeError, NotImplementedError):
                continue
            if isinstance(moment, Tensor):
                others.append(moment)
    if known.score and known.scored is not None and "log_prob" not in parts:
        rows = known.scored.dim() - (1 if known.scored.is_floating_point() else 0)
        parts["log_prob"] = _by_row(dist.log_prob(known.scored), rows)
        try:
            parts.setdefault("entropy", _by_row(dist.entropy(), rows))
        except NotImplementedError:
            return


def _by_row(value: Tensor, rows: int) -> Tensor:
    """A sum over the dimensions of an action, where a distribution keeps them apart."""
    return value.sum(dim=tuple(range(rows, value.dim()))) if value.dim() > rows else value
