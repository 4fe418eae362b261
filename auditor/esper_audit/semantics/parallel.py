"""Calls that train a network behind DistributedDataParallel without passing through its forward."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import libcst as cst

from esper_audit.semantics import roles as role_names
from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.model import Function
from esper_audit.semantics.network import HOT_ROLES, NetworkClass, leaves
from esper_audit.semantics.run.scope import GRADIENT_FREE
from esper_audit.semantics.torch_facts import NO_GRAD

_REDUCES = re.compile(rb"all_?reduce|average_gradients|reduce_gradients", re.IGNORECASE)
_GRADIENTS = re.compile(rb"\.grad\b|average_gradients|reduce_gradients")
_BY_HAND = re.compile(rb"prepare_for_backward|register_comm_hook|\.no_sync\b|_sync_params")


def unreduced_calls(net: NetworkClass) -> Iterator[Event]:
    """Training calls on the module inside a DistributedDataParallel, each once.

    A call trains when gradients flow, `backward` is called in the same run of the caller, and it gives or judges
    actions, values or logits. The reducer is armed by the forward of the wrapper alone; a run that goes through that,
    too, and files that reduce gradients by hand are left out.
    """
    wrapping = set(net.project.files_naming("DistributedDataParallel") or ())
    if not wrapping or all(wrapping.isdisjoint(net.project.reach(path)) for path in net.caller_files):
        return  # nobody who calls the network can have it behind a wrapper, and running them is dear
    found: dict[cst.CSTNode, Event] = {}
    for caller in net.callers("backward", "manual_backward"):
        for event in _inside(net, caller.frame):
            if event.node not in found and not any(
                _reduces_by_hand(net, path) for path in (event.module.path, caller.module.path)
            ):
                found[event.node] = event
    yield from found.values()


def _inside(net: NetworkClass, frame: Frame) -> list[Event]:
    calls: list[Event] = []
    trains = False
    for event, _ in frame.walk():
        if event.kind != "call":
            continue
        trains = trains or event.name in (".backward", ".manual_backward")
        if not isinstance(event.callee, Function) or not net.builds(event.target) or event.contexts & GRADIENT_FREE:
            continue
        if "ddp_inner" in event.target.tags:
            calls += [event] if _judges(net, event) else []
        elif "ddp" in event.target.tags:
            return []
    return calls if trains else []


def _judges(net: NetworkClass, event: Event) -> bool:
    """Whether what a call gives can be part of a loss; acting alone is not, unless it is told the actions."""
    function = event.callee
    if NO_GRAD.keys() & set(function.decorators) or function.name == "__init__":
        return False
    role = net.roles.get(function.name, role_names.OTHER)
    if role == role_names.ACT:
        return any("action" in value.roles for value in (*event.args, *event.kwargs.values()))
    return role in HOT_ROLES or bool(leaves(event.value, "log_prob", "entropy", "value", "logits"))


def _reduces_by_hand(net: NetworkClass, path: Path) -> bool:
    project = net.project
    return any(
        project.says(file, _BY_HAND) or (project.says(file, _REDUCES) and project.says(file, _GRADIENTS))
        for file in project.reach(path)
    )
