"""Where fresh hidden states come from, and what their factories left open."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst

from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.flow import Event
from esper_audit.semantics.network import HOT_ROLES, NetworkClass, once
from esper_audit.semantics.project import written
from esper_audit.semantics.roles import INITIAL_STATE, names_hidden_state
from esper_audit.semantics.values import Made, Val


@dataclass(frozen=True, slots=True)
class FreshState:
    """A factory call whose tensor becomes a hidden state; `use` says how that is known."""

    made: Made
    use: str
    symbol: str


def fresh_hidden_states(net: NetworkClass, aspect: str) -> Iterator[FreshState]:
    """Factories of hidden states whose `aspect` ("dtype" or "device") nothing ever fixes.

    A state counts when an initial-state method returns it, when a recurrent layer is called with it, or when it is
    kept on a recurrent network under a name of a hidden state. A cast by a caller in the project settles it, too.
    """
    if not net.mentions(b"LSTM", b"GRU", b"RNN") and not any(True for _ in net.with_role(INITIAL_STATE)):
        return
    fresh: dict[cst.CSTNode, FreshState] = {}
    for value, use, symbol in _states(net):
        for part in value.flat():
            # Where one branch moves the state and another does not, somebody has thought of it.
            moved = {made.node for made in part.made if getattr(made, aspect)}
            for made in sorted(part.made, key=lambda made: made.function):
                if made.node not in moved:
                    fresh.setdefault(made.node, FreshState(made, use, symbol))
    # Callers are many and dear to read: only now that there is a question.
    if not fresh or any(net.project.mentions(path, *_GLOBAL_DEFAULTS[aspect]) for path in net.caller_files):
        return
    settled = _settled_by_callers(net, aspect)
    yield from (state for node, state in fresh.items() if node not in settled)


_GLOBAL_DEFAULTS = {
    "dtype": (b"set_default_dtype", b"set_default_tensor_type"),
    "device": (b"set_default_device", b"set_default_tensor_type"),
}


@once
def pinned_states(net: NetworkClass) -> tuple[tuple[Event, str], ...]:
    """Where a method returns a hidden state on the CPU, or in float32, whatever the network is: `device`, `dtype`.

    Only where the code writes it down as a literal, and no caller in the project moves or casts what it gets.
    """
    found: dict[tuple[cst.CSTNode, str], Event] = {}
    for frame in net.frames(INITIAL_STATE):
        function = frame.function
        event = next((event for event in reversed(frame.events) if event.kind == "return"), None)
        for part in frame.result.flat() if event is not None and net.recurrent else ():
            aspect = "device" if "on_cpu" in part.tags else "dtype" if _is_pinned(part) else ""
            files = net.project.files_naming(function.name) or ()
            if aspect and event is not None and not any(_moves_result(net, f, function.name, aspect) for f in files):
                found.setdefault((event.node, aspect), event)
    return tuple((event, aspect) for (_, aspect), event in found.items())


def _is_pinned(part: Val) -> bool:
    return part.dtype == "float32" and part.kind == "tensor" and not part.origins


def _states(net: NetworkClass) -> Iterator[tuple[Val, str, str]]:
    for frame in net.frames(INITIAL_STATE):
        yield frame.result, f"what `{frame.function.name}` returns", frame.function.qualified
    for frame in (*net.frames(*HOT_ROLES), *net.all_frames):
        for event, _ in frame.walk():
            if event.kind == "call" and event.callee == "layer" and event.name in facts.RECURRENT | facts.CELLS:
                state = event.args[1] if len(event.args) > 1 else event.kwargs.get("hx")
                if state is not None:
                    yield state, "the state it is called with", event.function.qualified
    if net.recurrent:
        for event in net.stores:
            if names_hidden_state(event.name):
                yield event.value, f"`self.{event.name}`", event.function.qualified


def _settled_by_callers(net: NetworkClass, aspect: str) -> frozenset[cst.CSTNode]:
    """Factories whose result a caller in the project casts or moves.

    Callers that are known to hold this network are followed exactly. Others may reach it through builders and wrappers,
    so a file that calls a method of the same name and moves what it got settles the question, too.
    """
    settled: set[cst.CSTNode] = set()
    functions, frames = net.with_role(INITIAL_STATE), net.frames(INITIAL_STATE)
    makers = {function.name: frame for function, frame in zip(functions, frames, strict=False)}
    if not makers:
        return frozenset()
    for caller in net.callers(*makers):
        for event in caller.frame.events:
            if event.kind == "call" and event.name in _MOVES:
                after = {made.node: made for made in event.value.made}
                settled |= {m.node for m in event.target.made if m.node in after and getattr(after[m.node], aspect)}
    for name, frame in makers.items():
        if any(_moves_result(net, path, name, aspect) for path in net.project.files_naming(name) or ()):
            settled |= {made.node for value in frame.result.flat() for made in value.made}
    return frozenset(settled)


_CASTS = frozenset({"type", "type_as", "half", "double", "bfloat16", "float"})
_MOVES = frozenset({".to", ".cuda", *(f".{name}" for name in _CASTS)})


def _moves_result(net: NetworkClass, path: Path, method: str, aspect: str) -> bool:
    """Whether a file stores `x.method(...)` under a name and moves what that name holds, alone or in a loop over it."""
    if net.project.index(path) is None:
        return False
    key = (path, method, aspect)
    if key not in net.project.moves:  # every network with such a method asks this of every file that names it
        net.project.moves[key] = _moves(net.project.source(path).ast, method, aspect)
    return net.project.moves[key]


def _moves(tree: ast.Module, method: str, aspect: str) -> bool:
    holders: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(_calls(child, method) for child in ast.walk(node.value)):
            holders |= {written(target) for target in node.targets}
    for node in ast.walk(tree):
        if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            loop = node.generators[0]
            if isinstance(loop.target, ast.Name) and written(loop.iter) in holders:
                holders.add(loop.target.id)
    return any(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and _settles(node, aspect)
        and (_calls(node.func.value, method) or written(node.func.value) in holders)
        for node in ast.walk(tree)
    )


def _calls(node: ast.AST, method: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method


def _settles(node: ast.Call, aspect: str) -> bool:
    """Whether a `.to(...)`, `.cuda()` or cast settles the dtype or the device."""
    assert isinstance(node.func, ast.Attribute)
    words = " ".join(written(argument) for argument in (*node.args, *(keyword.value for keyword in node.keywords)))
    if node.func.attr == "to":
        casts = any(word in words for word in ("dtype", "float", "half", "double"))
        places = any(word in words for word in ("device", "cuda", "cpu"))
        return casts if aspect == "dtype" else places or not casts
    return node.func.attr == "cuda" if aspect == "device" else node.func.attr in _CASTS
