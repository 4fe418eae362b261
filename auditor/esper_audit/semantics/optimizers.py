"""Which layers of a network each optimizer steps, by the expressions that its parameters come from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import libcst as cst

from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.tree import assigned, find
from esper_audit.semantics.values import Val

_OPTIMIZER = re.compile(r"torch\.optim\.(\w+\.)*(Adam|AdamW|SGD|RMSprop|Adagrad|NAdam|RAdam)")
_MAKER = rb"\b(Adam\w*|SGD|RMSprop|Adagrad|NAdam|RAdam)\("
_MAKES = re.compile(_MAKER)
_MAKES_TWO = re.compile(_MAKER + rb".*" + _MAKER, re.DOTALL)
_FILTERS = re.compile(r"requires_grad|named_parameters|\bif\b|filter\(")
WHOLE = "*"


@dataclass(frozen=True, slots=True)
class SharedLayers:
    """Two optimizers that both step some layers: one for the policy's head, one for the value's."""

    first: Event
    second: Event
    names: tuple[str, ...]


def shared_layers(net: NetworkClass) -> Iterator[SharedLayers]:
    """Pairs of optimizers of one function that step the same layers and each a head of their own.

    Nothing of what is made under an `if`, where only one of them may be, and of parameters that are picked by hand.
    """
    roles = {head.name: head.role for head in net.heads}
    if len(set(roles.values())) < 2 or not any(net.project.says(path, _MAKES_TWO) for path in net.caller_files):
        return
    frames = [net.flow.init_frame] if net.flow.init_frame is not None else []
    frames += [caller.frame for caller in net.callers_saying(_MAKES)]
    for frame in frames:
        made = [(event, held) for event in frame.events if (held := _held(net, frame, event))]
        for (first, left), (second, right) in combinations(made, 2):
            names = (_layers(net, left) & _layers(net, right)) - roles.keys()
            if names and _apart(roles, _layers(net, left), _layers(net, right)):
                yield SharedLayers(first, second, tuple(sorted(names)))


def _apart(roles: dict[str, str], left: set[str], right: set[str]) -> bool:
    """Whether one has a policy head and the other a value head, and neither has both: the losses are two."""
    heads = [{roles[name] for name in held if name in roles} for held in (left, right)]
    return sorted(map(sorted, heads)) == [["policy"], ["value"]]


def _layers(net: NetworkClass, held: set[str]) -> set[str]:
    return set(net.layers) if WHOLE in held else held


def _held(net: NetworkClass, frame: Frame, event: Event) -> set[str]:
    """The layers whose parameters an optimizer was given, if that is all it was given."""
    if event.kind != "call" or not _OPTIMIZER.fullmatch(event.name) or not isinstance(event.node, cst.Call):
        return set()
    if not event.node.args or any(event.branches_around):
        return set()
    given = event.node.args[0].value
    if isinstance(given, cst.Name):
        sources = [value for scope in event.scope for value in assigned(scope, given.value)]
        if len(sources) != 1:
            return set()
        given = sources[0]
    if _FILTERS.search(event.module.code(given)):
        return set()
    calls = set(find(given, cst.Call))
    targets = [each.target for each in frame.events if each.name == ".parameters" and each.node in calls]
    return set().union(*(_names(net, target) for target in targets))


def _names(net: NetworkClass, target: Val) -> set[str]:
    """The attributes of the network that a value is: all of them for the network itself."""
    if net.builds(target):
        return {WHOLE}
    return {name for name, layer in net.layers.items() if target.kind == "layer" and layer.ref == target.ref}
