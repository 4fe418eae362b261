"""What a method takes log-probs of: the heads behind its distributions, and what lies between the two."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import libcst as cst

from esper_audit.semantics.depends import as_parameter
from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.model import Function
from esper_audit.semantics.network import NetworkClass, leaves, once
from esper_audit.semantics.roles import ACT, EVALUATE, FORWARD, tensor_role
from esper_audit.semantics.run.containers import layers_in
from esper_audit.semantics.values import NONE, Val, tensor

_NO_CHANGE = ("head", "squeeze")
_ACTION = tensor(None, "action")


@dataclass(frozen=True, slots=True)
class Scoring:
    """The heads whose log-probs a method takes, each known by the call that makes its layer.

    `steps` says for each head what happens to its output on the way (`mask`, `scale`, `clamp`, ...), and where first.
    """

    frame: Frame
    events: dict[cst.CSTNode, Event]
    steps: dict[cst.CSTNode, dict[str, tuple[cst.CSTNode, Any]]]
    complete: bool  # no log-prob is taken of what has an unknown origin

    @property
    def name(self) -> str:
        """The method's name."""
        return self.frame.function.name


def scoring_of(frame: Frame) -> Scoring:
    """What the log-probs of one run are taken of."""
    complete = True
    events: dict[cst.CSTNode, Event] = {}
    steps: dict[cst.CSTNode, dict[str, tuple[cst.CSTNode, Any]]] = {}
    for event, logits in _scored(frame):
        heads = [step.node for step in logits.steps if step.kind == "head"]
        complete = complete and bool(heads)
        happened = {step.kind: (step.node, step.function) for step in logits.steps if step.kind not in _NO_CHANGE}
        for mark in sorted(logits.masked, key=lambda mark: mark.order):
            happened.setdefault("mask", (mark.node, mark.function))
        for head in heads:
            events.setdefault(head, event)
            steps.setdefault(head, {}).update(happened)
    return Scoring(frame, events, steps, complete)


def _scored(frame: Frame) -> Iterator[tuple[Event, Val]]:
    """Where the methods of networks take log-probs, with the logits (or means) that these come from."""
    for event, stack in frame.walk():
        place = _place(event, stack)
        if event.kind == "call" and event.name == ".log_prob" and event.target.kind == "dist":
            yield place, event.target.item("logits") or Val()
        elif event.kind == "call" and event.name in (".log_prob", ".log_probs"):
            yield place, Val()  # of a distribution that nothing is known about
        elif event.kind == "dist" and event.name == "gather":
            yield place, event.target


def _place(event: Event, stack: tuple[Event, ...]) -> Event:
    """The innermost call in a method of a network: its cure begins there, and not in a distribution that all share."""
    calls = (*stack, event)
    owners = ((call, call.function.owner) for call in reversed(calls))
    return next((call for call, owner in owners if owner is not None and owner.is_network), event)


def means_over_heads(frame: Frame, role: str) -> Iterator[Event]:
    """Means of log-probs or entropies along the axis of the parts of an action."""
    for event, _ in frame.walk():
        if event.kind != "call" or event.name not in (".mean", "torch.mean"):
            continue
        given = (event.target, *event.args) if event.name == ".mean" else event.args
        axis = event.kwargs.get("dim", given[1] if len(given) > 1 else None)
        if axis is not None and given and role in given[0].roles and f"parts:{axis.const}" in given[0].tags:
            yield event


def optional_action(function: Function) -> str:
    """The parameter of a method that samples an action, or scores the one that it is given; nothing for others."""
    for param in function.params:
        left_out = isinstance(param.default, cst.Name) and param.default.value == "None"
        if left_out and tensor_role(param.name) == "action":
            return param.name
    return ""


def acting_frames(net: NetworkClass) -> Iterator[Frame]:
    """The runs of the methods that act: by their names, and a forward method that gives actions."""
    yield from net.frames(ACT)
    yield from (frame for frame in net.frames(FORWARD) if leaves(frame.result, "action"))


@dataclass(frozen=True, slots=True)
class BothWays:
    """A method that acts, and scores an action where one is given: its run without one, and its run with one."""

    function: Function
    acted: Frame
    scored: Frame


@once
def both_ways(net: NetworkClass) -> tuple[BothWays, ...]:
    """The methods that act and score, each run once for either."""
    return tuple(_both_ways(net))


def _both_ways(net: NetworkClass) -> Iterator[BothWays]:
    for function in net.with_role(ACT, EVALUATE, FORWARD):
        name = optional_action(function)
        if name:
            given = as_parameter(_ACTION, name)
            acted, scored = (net.interpreter.run(function, net.flow, {name: action}) for action in (NONE, given))
            yield BothWays(function, acted, scored)


@once
def act_and_evaluate(net: NetworkClass) -> tuple[tuple[Scoring, Scoring], ...]:
    """Pairs of methods that act and that score recorded actions, where both take log-probs of known heads.

    A method that does both, by an action that may be left out, is a pair with itself.
    """
    return tuple(_act_and_evaluate(net))


def _act_and_evaluate(net: NetworkClass) -> Iterator[tuple[Scoring, Scoring]]:
    for ways in both_ways(net):
        acted, evaluated = scoring_of(ways.acted), scoring_of(ways.scored)
        if acted.events and evaluated.events:
            yield acted, evaluated
    if EVALUATE not in net.roles.values():
        return
    acts = [scoring for frame in acting_frames(net) if (scoring := scoring_of(frame)).events]
    for frame in net.frames(EVALUATE) if acts else ():
        if any(tensor_role(param.name) == "action" for param in frame.function.params):
            evaluated = scoring_of(frame)
            for acted in acts if evaluated.events else ():
                yield acted, evaluated


def scores_actions(net: NetworkClass, value: Val) -> bool:
    """Whether a value came out of a head that gives actions: it reaches a distribution, or is called a policy's."""
    policy = {head.name for head in net.policy_heads}
    return bool("logits" in value.roles or policy & value.from_layers or _made_by(value) & _acting_layers(net))


@once
def _acting_layers(net: NetworkClass) -> frozenset[cst.CSTNode]:
    """The layers whose output reaches an action distribution, or a choice of log-probs by hand."""
    return frozenset[cst.CSTNode]().union(*(_made_by(event.target) for _, event, _ in net.events("dist")))


def _made_by(value: Val) -> frozenset[cst.CSTNode]:
    return frozenset(step.node for step in value.steps if step.kind == "head")


def head_name(net: NetworkClass, made: cst.CSTNode) -> str:
    """What the network calls a head, in backquotes; `a head` where it has no name of its own here."""
    return next((f"`{name}`" for name, layer in net.layers.items() if _is_made_by(layer, made)), "a head")


def head_size(net: NetworkClass, made: cst.CSTNode) -> str:
    """The output size of a head as written; nothing where it is not known."""
    return next((net.size_of(layer) for layer in net.layers.values() if _is_made_by(layer, made)), "")


def _is_made_by(layer: Val, made: cst.CSTNode) -> bool:
    """Whether a call makes a layer, or one of those in a container of layers."""
    held = layers_in(layer)
    parts = held.elements() if held is not None else ()
    return (isinstance(layer.ref, tuple) and layer.ref[1] is made) or any(_is_made_by(part, made) for part in parts)
