"""Which methods of a network torch.compile covers, and where Dynamo gives up a whole function of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.model import Function, ModuleModel
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.values import Val

Site = tuple[ModuleModel, cst.CSTNode]


@dataclass(frozen=True, slots=True)
class EagerCore:
    """A call of a recurrent layer beside other layers, in a function that a compiled method reaches."""

    event: Event
    method: str
    site: Site


def compiled_methods(net: NetworkClass) -> dict[str, Site]:
    """The methods that torch.compile is seen to cover, and where it is said.

    A wrapper of the network and `net.compile()` cover `forward`, decorators and `torch.compile(net.act)` the method.
    """
    found: dict[str, Site] = {}
    if net.compiles_itself:
        for function in net.model.methods.values():
            for decorator, name in zip(function.node.decorators, function.decorators, strict=True):
                if name in facts.COMPILE:
                    found.setdefault(function.name, (function.module, decorator))
        _from_frames(net, net.all_frames, found)
    for caller in net.compilers():
        _from_frames(net, (caller.frame,), found)
    return found


def _from_frames(net: NetworkClass, frames: tuple[Frame, ...], found: dict[str, Site]) -> None:
    for frame in frames:
        for event, _ in frame.walk():
            if event.kind != "call":
                continue
            name = _covered(net, event)
            if name in net.model.methods:
                found.setdefault(name, (event.module, event.node))


def _covered(net: NetworkClass, event: Event) -> str:
    """The method that a compile call covers, if it is one of the network's."""
    if event.name == ".compile":
        return "forward" if net.builds(event.target) else ""
    given = event.args[0] if event.args else event.kwargs.get("model")
    if event.name not in facts.COMPILE or given is None:
        return ""
    if net.builds(given):
        return "forward"
    if given.kind == "bound":
        function, owner = given.ref
        return function.name if isinstance(owner, Val) and net.builds(owner) else ""
    return ""


def eager_cores(net: NetworkClass) -> Iterator[EagerCore]:
    """Calls of nn.LSTM, nn.GRU and nn.RNN that take other layers out of the graph with them, each once."""
    if not net.recurrent or net.project.files_naming("allow_rnn") != ():
        return
    seen: set[cst.CSTNode] = set()
    for method, site in compiled_methods(net).items():
        frame = net.flow.frame(method)
        for event in _beside_layers(frame) if frame is not None else ():
            if event.node not in seen:
                seen.add(event.node)
                yield EagerCore(event, method, site)


def _beside_layers(frame: Frame) -> Iterator[Event]:
    """The recurrent calls in functions that call other layers, too; what is kept from being traced is left out."""
    if facts.COMPILER_DISABLED.intersection(frame.function.decorators):
        return
    layers = [event for event in frame.events if event.kind == "call" and event.callee == "layer"]
    cores = [event for event in layers if event.name in facts.RECURRENT and "eager_only" not in event.contexts]
    if any(event.name not in facts.RECURRENT for event in layers):
        yield from cores
    for event in frame.events:
        if event.frame is not None and isinstance(event.callee, Function) and "eager_only" not in event.contexts:
            yield from _beside_layers(event.frame)
