"""Hidden states that a caller carries from one update to the next together with the graph that they came out of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.flow import Event
from esper_audit.semantics.model import Function
from esper_audit.semantics.network import HOT_ROLES, NetworkClass, leaves
from esper_audit.semantics.roles import tensor_role
from esper_audit.semantics.run.scope import GRADIENT_FREE
from esper_audit.semantics.tree import descendants, find

_CUTS = re.compile(r"detach|no_grad|inference_mode|set_grad_enabled|\.data\b|repackage|deepcopy|checkpoint")
Loop = cst.For | cst.While


@dataclass(frozen=True, slots=True)
class CarriedState:
    """A call that gets back the state it gave, in a loop that also runs backward; `backward` is one such call."""

    event: Event
    name: str
    backward: Event


def carried_states(net: NetworkClass) -> Iterator[CarriedState]:
    """States that callers feed back across updates while nothing on the way cuts their graph, each call once."""
    if not net.recurrent:
        return
    told: set[cst.CSTNode] = set()
    for caller in net.callers("backward"):
        events = list(caller.frame.walk())
        steps = [(event, (stack or (event,))[0]) for event, stack in events if event.name == ".backward"]
        for event in caller.frame.events if steps else ():
            found = _carried(net, event, steps) if event.node not in told else None
            if found is not None:
                told.add(event.node)
                yield found


def _carried(net: NetworkClass, event: Event, steps: list[tuple[Event, Event]]) -> CarriedState | None:
    name = _fed_back(net, event)
    if not name or event.contexts & GRADIENT_FREE or not _keeps_graph(event):
        return None
    for scope in event.scope:
        for loop in find(scope, (cst.For, cst.While)):
            inside = set(descendants(loop))
            backward = next((step for step, outer in steps if outer.node in inside), None)
            if event.node in inside and backward is not None and _never_reset(inside, name):
                return CarriedState(event, name, backward)
    return None


def _fed_back(net: NetworkClass, event: Event) -> str:
    """The variable that a call of the network takes a hidden state from and leaves it in."""
    callee = event.callee
    ours = isinstance(callee, Function) and callee.owner in net.model.lineage and callee.name in net.roles
    if (
        event.kind != "call"
        or not ours
        or net.roles[callee.name] not in HOT_ROLES
        or not isinstance(event.node, cst.Call)
    ):
        return ""
    given = [arg.value.value for arg in event.node.args if isinstance(arg.value, cst.Name)]
    for scope in event.scope:
        for statement in find(scope, cst.Assign):
            if statement.value is event.node:
                names = [node.value for each in statement.targets for node in find(each.target, cst.Name)]
                return next((name for name in given if name in names and tensor_role(name) == "hidden"), "")
    return ""


def _keeps_graph(event: Event) -> bool:
    """Whether a state comes back, made under gradients, and no function on the way speaks of cutting its graph."""
    states = leaves(event.value, "hidden")
    if not states or any(state.tags & GRADIENT_FREE for state in states) or event.frame is None:
        return False
    inner = {below.function for below, _ in event.frame.walk()} | {event.frame.function}
    texts = (function.module.code(function.node) for function in inner if function.node is not None)
    around = (event.module.code(node) for node in event.scope)
    return not any(_CUTS.search(text) for text in (*texts, *around))


def _never_reset(inside: set[cst.CSTNode], name: str) -> bool:
    """Whether all that a loop gives to a variable is made of what was in it."""
    for node in inside:
        if isinstance(node, (cst.Assign, cst.AnnAssign)) and node.value is not None:
            targets = [each.target for each in node.targets] if isinstance(node, cst.Assign) else [node.target]
            names = {part.value for target in targets for part in find(target, cst.Name)}
            if name in names and not any(part.value == name for part in find(node.value, cst.Name)):
                return False
    return True
