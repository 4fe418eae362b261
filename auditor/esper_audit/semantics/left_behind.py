"""Tensors that factories put on the CPU and that meet tensors of the network, wherever that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.flow import Event
from esper_audit.semantics.hidden_states import initial_state_factories
from esper_audit.semantics.network import NetworkClass, once
from esper_audit.semantics.tree import find, literal_string
from esper_audit.semantics.values import Made

_MOVES_ALL = frozenset({"to", "cuda", "_apply"})
_DEFAULTS = ("set_default_device", "set_default_tensor_type")


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A factory call, where its tensor meets one of the network, and the statement that kept it on self, if one did."""

    made: Made
    meeting: Event
    kept: Event | None


@once
def left_behind(net: NetworkClass) -> tuple[LeftBehind, ...]:
    """Factory calls without a device whose tensors a hot method brings together with tensors of the network.

    Silent about what is moved on the way, about numbers of no dimension, about hidden states, which are judged on their
    own, and about attributes that somebody else may move: another method, an override of `to`, code outside the class.
    """
    return tuple(_left_behind(net))


def _left_behind(net: NetworkClass) -> Iterator[LeftBehind]:
    met: dict[cst.CSTNode, tuple[Made, Event]] = {}
    for _, event, _ in net.hot_events("meet"):
        for made in event.value.left_behind:
            met.setdefault(made.node, (made, event))
    if not met or net.ruled_by(*_DEFAULTS):
        return
    hidden = initial_state_factories(net)
    keepers = _keepers(net)
    for node, (made, meeting) in met.items():
        kept = keepers.get(node)
        if node not in hidden and not _on_the_cpu(meeting) and (kept is None or not _may_be_moved(net, kept.name)):
            yield LeftBehind(made, meeting, kept)


def _on_the_cpu(meeting: Event) -> bool:
    """Whether the method takes its input to the CPU: then nothing else works than a network that is there."""
    for call in (call for node in meeting.scope for call in find(node, cst.Call)):
        name = call.func.attr.value if isinstance(call.func, cst.Attribute) else ""
        target = call.args[0].value if len(call.args) == 1 else None
        if name == "to" and isinstance(target, cst.SimpleString) and literal_string(target) == "cpu":
            return True
    return False


def _keepers(net: NetworkClass) -> dict[cst.CSTNode, Event]:
    """The statements of the constructor that keep tensors of factories on self, by the factory's call."""
    init = net.flow.init_frame
    stores = [event for event, _ in init.walk() if event.kind == "store"] if init is not None else []
    return {
        made.node: event
        for event in stores
        if event.target.ref is net.flow
        for part in event.value.flat()
        for made in part.home
    }


def _may_be_moved(net: NetworkClass, name: str) -> bool:
    assert net.flow.init_frame is not None
    nodes = {event.node for event, _ in net.flow.init_frame.walk() if event.kind == "store"}
    again = any(event.name == name and event.node not in nodes for event in net.stores)
    return again or bool(_MOVES_ALL & net.model.methods.keys()) or net.is_read_outside(name)
