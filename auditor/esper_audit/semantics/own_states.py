"""Recurrent states that a network keeps on self between calls, and initial states that it makes once for all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.cores import CoreCall, core_calls
from esper_audit.semantics.depends import bare, function_name
from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.model import Function
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.outputs import sources_of
from esper_audit.semantics.roles import ACT, EVALUATE, FORWARD, INITIAL_STATE, tensor_role
from esper_audit.semantics.tree import descendants, dotted, find

IGNORED, SHARED, KEPT, CACHED = "ignored", "shared", "kept", "cached"
_VIEWS = frozenset({"setdefault", "get", "expand", "view", "unsqueeze", "transpose", "tuple", "list", "to", "detach"})
_MEMOIZED = ("functools.lru_cache", "functools.cache", "cachetools.cached")


@dataclass(frozen=True, slots=True)
class OwnState:
    """One state on self: where it is stored, and what follows.

    IGNORED: it takes the place of the state that a caller passes, `param`. SHARED: the methods in `users` both start
    from it, one that acts and one that scores. KEPT: nothing worse is seen. CACHED: an initial state that is handed
    out again and again.
    """

    how: str
    attribute: str
    node: cst.CSTNode
    function: Function
    param: str = ""
    users: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Use:
    """A method whose core may start from an attribute; `param` is the state that callers have to pass, if any."""

    role: str
    function: Function
    param: str


def own_states(net: NetworkClass) -> Iterator[OwnState]:
    """The states that the methods of a recurrent network keep and start from, and its cached initial states."""
    for function in net.with_role(INITIAL_STATE):
        yield from _cached(function)
    stored = _stored(net) if net.recurrent else {}
    uses = _uses(net, set(stored)) if stored else {}
    told: set[cst.CSTNode] = set()
    for name, event in stored.items():
        users = uses.get(name, [])
        if not users or event.node in told:
            continue  # `self.h, self.c = ...` is one state
        told.add(event.node)
        ignored = next((use for use in users if use.param), None)
        scoring = next((use for use in users if use.role == EVALUATE), None)
        acting = next((use for use in users if use.role == ACT), None)
        if ignored is not None:
            yield OwnState(IGNORED, name, event.node, event.function, ignored.param)
        elif scoring is not None and acting is not None:
            names = (acting.function.name, scoring.function.name)
            yield OwnState(SHARED, name, event.node, event.function, users=names)
        else:
            yield OwnState(KEPT, name, event.node, event.function, users=(users[0].function.name,))


def _stored(net: NetworkClass) -> dict[str, Event]:
    """The attributes that hot methods leave with what a recurrent layer gave."""
    cores = {f"@{name}" for name in net.recurrent}
    found: dict[str, Event] = {}
    for _, event, _ in net.hot_events("store"):
        if event.target.ref is net.flow and cores & bare(sources_of(net, event.value)):
            found.setdefault(event.name, event)
    return found


def _uses(net: NetworkClass, stored: set[str]) -> dict[str, list[_Use]]:
    """By attribute, the methods whose core may start from it."""
    found: dict[str, list[_Use]] = {}
    for role in (FORWARD, ACT, EVALUATE):
        for frame in net.frames(role):
            for call in core_calls(frame):
                atoms = bare(sources_of(net, call.state)) if call.state is not None else frozenset()
                for name in sorted(stored & {atom[5:] for atom in atoms if atom.startswith("self.")}):
                    found.setdefault(name, []).append(_Use(role, frame.function, _replaced(net, frame, name, call)))
    return found


def _replaced(net: NetworkClass, frame: Frame, attribute: str, call: CoreCall) -> str:
    """The parameter for a hidden state that the attribute takes the place of; empty where that is a fallback for None.

    A state that the core reads as its input is that of another part, and lost it is not.

    Every function on the way that reads the attribute may say that it is one.
    """
    read = bare(sources_of(net, call.event.args[0])) if call.event.args else frozenset()
    names = [
        param.name
        for param in frame.function.params[1:]
        if tensor_role(param.name) == "hidden"
        and param.name not in read
        and (param.default is None or dotted(param.default) != "None")
    ]
    readers = [
        function
        for function in net.model.methods.values()
        if id(function.node) in frame.entered and _reads(function, attribute)
    ]
    if not names or any(_asks_for_none(function) for function in readers):
        return ""
    return names[0]


def _reads(function: Function, attribute: str) -> bool:
    return any(node.attr.value == attribute for node in find(function.node, cst.Attribute))


def _asks_for_none(function: Function) -> bool:
    """Whether a test asks if a state that was passed is None, or `state or self.state` does."""
    names = {param.name for param in function.params[1:] if tensor_role(param.name) == "hidden"}
    compared = [node.left for node in find(function.node, cst.Comparison) if "None" in _names(node)]
    alternatives = [node.left for node in find(function.node, cst.BooleanOperation)]
    negated = [node.expression for node in find(function.node, cst.UnaryOperation)]
    return any(dotted(node) in names for node in (*compared, *alternatives, *negated))


def _names(node: cst.CSTNode) -> set[str]:
    return {each.value for each in find(node, cst.Name)}


def _cached(function: Function) -> Iterator[OwnState]:
    """An initial state that a method makes once: by a decorator, by `setdefault`, or under a test of what it kept."""
    for decorator, name in zip(function.node.decorators, function.decorators, strict=True):
        if name in _MEMOIZED:
            yield OwnState(CACHED, function.name, decorator, function)
    me = function.first
    if not me or function.owner is None:
        return
    returned = [node.value for node in find(function.node.body, cst.Return) if node.value is not None]
    handed = {name for value in returned for name in _handed_out(value, me)}
    for call in find(function.node.body, cst.Call):
        if isinstance(call.func, cst.Attribute) and call.func.attr.value == "setdefault":
            name = next(iter(_own(call.func.value, me)), "")
            if name and any(call is node for value in returned for node in descendants(value)) and name in handed:
                yield OwnState(CACHED, name, call, function)
    stored = {name for assign in find(function.node.body, cst.Assign) for name in _own(assign.targets[0].target, me)}
    for branch in find(function.node.body, cst.If):
        for early in find(branch.body, cst.Return):
            again = _handed_out(early.value, me) if early.value is not None else set()
            for name in sorted(again & stored & set(_own(branch.test, me))):
                yield OwnState(CACHED, name, early, function)
        for assign in find(branch.body, cst.Assign):
            names = _own(assign.targets[0].target, me)
            if names and names[0] in handed and names[0] in _own(branch.test, me):
                yield OwnState(CACHED, names[0], assign, function)


def _own(node: cst.CSTNode, me: str) -> list[str]:
    """The attributes of self that an expression mentions."""
    return [
        each.attr.value
        for each in descendants(node)
        if isinstance(each, cst.Attribute) and isinstance(each.value, cst.Name) and each.value.value == me
    ]


def _handed_out(node: cst.CSTNode, me: str) -> set[str]:
    """The attributes that a returned expression holds as they are; what goes into another call may be copied there."""
    inside = [
        name
        for call in find(node, cst.Call)
        if function_name(call) not in _VIEWS
        for part in (call.func, *call.args)
        for name in _own(part, me)
    ]
    return set(_own(node, me)) - set(inside)
