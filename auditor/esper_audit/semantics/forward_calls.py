"""Calls of a network's forward by its name, and what they pass by."""

from __future__ import annotations

import re

import libcst as cst

from esper_audit.semantics.flow import Event
from esper_audit.semantics.model import Function
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.values import UNKNOWN, Val

_HOOK = re.compile(r"\.register_(forward|full_backward)(_pre)?_hook|\.register_full_backward_(pre_)?hook")
_HOOKING = re.compile(r"torch\.nn\.utils\.(prune\.\w+|spectral_norm|weight_norm)")
_CALLS = re.compile(rb"\.forward\s*\(")
_CALLS_OR_HOOKS = re.compile(rb"\.forward\s*\(|_hook\b|nn\.utils|\.compile\s*\(")


def direct_forward_calls(net: NetworkClass) -> tuple[list[Event], str]:
    """Calls `net.forward(...)` outside of the class, each once, and what of the network they pass by, if anything.

    Wrappers are left out: their forward does what their call does. So are classes with a `__call__` of their own.
    """
    calls: dict[cst.CSTNode, Event] = {}
    reason = ""
    if "__call__" in net.model.methods:
        return [], ""
    if not any(net.project.says(path, _CALLS) for path in net.caller_files):
        return [], ""
    for caller in net.callers_saying(_CALLS_OR_HOOKS):
        for event, _ in caller.frame.walk():
            if event.kind != "call":
                continue
            hooked = event.target if _HOOK.fullmatch(event.name) else (*event.args, UNKNOWN)[0]
            if (_HOOK.fullmatch(event.name) or _HOOKING.fullmatch(event.name)) and net.builds(hooked):
                reason = reason or "its hooks"
            elif event.name == ".compile" and net.builds(event.target):
                reason = reason or "what `compile()` compiled"
            elif event.name == "forward" and net.builds(event.target) and _from_outside(net, event):
                calls.setdefault(event.node, event)
    return list(calls.values()), reason


def _from_outside(net: NetworkClass, event: Event) -> bool:
    return not _is_wrapped(event.target) and event.function.owner not in net.model.lineage


def forward_calls_on_parts(net: NetworkClass) -> list[Event]:
    """Calls `self.part.forward(...)` in the class's own methods on parts that are networks, each once."""
    calls: dict[cst.CSTNode, Event] = {}
    for _, event, _ in net.hot_events("call"):
        if event.name != "forward" or not isinstance(event.callee, Function) or event.target.kind != "instance":
            continue
        part = event.callee.owner
        other = part is not None and part.is_network and "__call__" not in part.methods
        if other and part not in net.model.lineage and event.function.owner in net.model.lineage:
            calls.setdefault(event.node, event)
    return [event for event in calls.values() if not _is_wrapped(event.target)]


def _is_wrapped(target: Val) -> bool:
    return bool(target.tags & {"compiled", "ddp"})
