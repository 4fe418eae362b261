"""Where fresh hidden states come from, and what their factories left open."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst

from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.flow import Event
from esper_audit.semantics.network import HOT_ROLES, NetworkClass, once
from esper_audit.semantics.project import Project, written
from esper_audit.semantics.roles import INITIAL_STATE, names_hidden_state
from esper_audit.semantics.tree import positions
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
    if _is_bare(net):
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


def initial_state_factories(net: NetworkClass) -> set[cst.CSTNode]:
    """The factory calls that `fresh_hidden_states` judges, those that somebody moves among them."""
    return {made.node for value, _, _ in _states(net) for part in value.flat() for made in part.made}


def by_line(states: Iterable[FreshState]) -> list[tuple[FreshState, ...]]:
    """The states that are made on one line of one method together, in their order there: h and c of one return."""
    found: dict[object, list[FreshState]] = {}
    states = list(states)
    for module in dict.fromkeys(state.made.module for state in states):
        here = {state.made.node: state for state in states if state.made.module is module}
        pieces = [piece for piece in module.pieces if "tree" in piece.__dict__] if len(here) > 1 else []
        places = positions(((piece.first, piece.tree) for piece in pieces), here)
        for node in sorted(here, key=lambda node: places.get(node, (0,))):
            line = places[node][0] if node in places else node
            found.setdefault((module, line, here[node].symbol), []).append(here[node])
    return [tuple(group) for group in found.values()]


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


_PLAIN = frozenset({"number", "str", "bool", "none", "shape", "dtype", "device"})
_BARE_BASES = frozenset({"torch.nn.Module", "object", "abc.ABC"})


def _is_bare(net: NetworkClass) -> bool:
    """Whether a network has neither parameters nor buffers nor parts: then it is nowhere, and moves nowhere."""
    bases = [model.module.lookup(base) for model in net.model.lineage for base in model.base_names]
    known = all(symbol.path is not None or symbol.name in _BARE_BASES for symbol in bases)
    return known and all(value.kind in _PLAIN for value in net.flow.attributes.values())


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
        files = net.project.files_naming(name) or ()
        if any(_moves_result(net, path, name, aspect) for path in files) or _only_measured(net, files, name):
            settled |= {made.node for value in frame.result.flat() for made in value.made}
    return frozenset(settled)


_CASTS = frozenset({"type", "type_as", "half", "double", "bfloat16", "float"})
_MOVES = frozenset({".to", ".cuda", *(f".{name}" for name in _CASTS)})
_PASSES_ON = frozenset({"zip", "list", "tuple", "iter", "enumerate", "reversed", "cat", "stack", "repeat_interleave"})


def _moves_result(net: NetworkClass, path: Path, method: str, aspect: str) -> bool:
    """Whether a file moves what `x.method(...)` gives, under whatever names it holds that, or has a function do so."""
    project = net.project
    if project.index(path) is None:
        return False
    key = (path, method, aspect)
    project.uses_facts(path)
    if key not in project.moves:  # every network with such a method asks this of every file that names it
        with project.finding(project.facts, path):
            tree = project.source(path).ast
            project.moves[key] = _may_call(project, path, method) and (
                _moves(tree, method, aspect)
                or any(
                    _Holders(project, path, scope, method=method, aspect=aspect).moved()
                    for scope in _scopes(tree, method)
                )
            )
    return project.moves[key]


def _may_call(project: Project, path: Path, method: str) -> bool:
    """Whether a file spells `.method` at all: most that name it define it."""
    return b"." + method.encode() in project.source(path).data


def _scopes(tree: ast.Module, method: str) -> list[ast.AST]:
    """The functions and methods that call `x.method(...)`; a function inside a function is a part of that."""
    blocks = [node.body if isinstance(node, ast.ClassDef) else [node] for node in tree.body]
    return [node for block in blocks for node in block if any(_calls(child, method) for child in ast.walk(node))]


class _Holders:
    """The names of one function that hold what `x.method(...)` gives, or what came in as a parameter."""

    def __init__(
        self,
        project: Project,
        path: Path,
        scope: ast.AST,
        *,
        method: str,
        aspect: str = "",
        names: Iterable[str] = (),
    ) -> None:
        self.project = project
        self.path = path
        self.method = method
        self.aspect = aspect
        self.nodes = list(ast.walk(scope))
        self.names = set(names)
        before = -1
        while before < len(self.names):
            before = len(self.names)
            for node in self.nodes:
                self._follow(node)

    def _follow(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign) and self.holds(node.value):
            self.names |= {written(target) for target in node.targets}
        elif isinstance(node, (ast.comprehension, ast.For)) and self.holds(node.iter):
            self.names |= {child.id for child in ast.walk(node.target) if isinstance(child, ast.Name)}
        elif isinstance(node, ast.Call) and any(self.holds(argument) for argument in node.args):
            # `map(lambda h: ..., hidden)` and whatever else applies a function to what it is handed
            lambdas = (each for each in node.args if isinstance(each, ast.Lambda))
            self.names |= {argument.arg for each in lambdas for argument in each.args.args}
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("append", "extend"):
                self.names.add(written(node.func.value))

    def holds(self, node: ast.expr) -> bool:
        """Whether an expression is the state, a part of it or a container with it."""
        if _calls(node, self.method):
            return True
        if isinstance(node, (ast.Name, ast.Attribute)):
            return written(node) in self.names
        if isinstance(node, (ast.Subscript, ast.Starred)):
            return self.holds(node.value)
        if isinstance(node, (ast.Tuple, ast.List)):
            return any(self.holds(each) for each in node.elts)
        if isinstance(node, (ast.ListComp, ast.GeneratorExp)):
            return self.holds(node.elt)
        if isinstance(node, ast.Call):
            called = written(node.func).rpartition(".")[2]
            return called in _PASSES_ON and any(self.holds(argument) for argument in node.args)
        return False

    def moved(self, depth: int = 0) -> bool:
        """Whether something of it is moved, here or in a function of the project that it is handed to."""
        return any(isinstance(node, ast.Call) and self._moves(node, depth) for node in self.nodes)

    def _moves(self, node: ast.Call, depth: int) -> bool:
        if isinstance(node.func, ast.Attribute) and self.holds(node.func.value):
            return _settles(node, self.aspect)
        handed = [number for number, argument in enumerate(node.args) if self.holds(argument)]
        if not handed or depth > 1 or not isinstance(node.func, ast.Name):
            return False
        symbol = self.project.lookup(self.path, node.func.id)
        index = self.project.index(symbol.path) if symbol.path is not None else None
        function = index.functions.get(symbol.name) if index is not None else None
        if function is None or symbol.path is None:
            return False
        names = tuple(arg.arg for number, arg in enumerate(function.args.args) if number in handed)
        path, method, aspect = symbol.path, self.method, self.aspect
        inner = _Holders(self.project, path, function, method=method, aspect=aspect, names=names)
        return inner.moved(depth + 1)

    def measured(self) -> bool:
        """Whether sizes are taken and nothing else: `s.size()`, `s.shape`, `len(s)`, in a loop over it or without."""
        sizes: set[int] = set()
        passed: set[int] = set()
        for node in self.nodes:
            if isinstance(node, ast.Attribute) and node.attr in ("size", "shape", "ndim", "dim"):
                sizes.add(id(node.value))
            elif isinstance(node, (ast.comprehension, ast.For)):
                passed.add(id(node.iter))
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                passed.add(id(node.value))
        uses = {
            id(node)
            for node in self.nodes
            if isinstance(node, (ast.Name, ast.Attribute, ast.Call))
            and not isinstance(getattr(node, "ctx", None), ast.Store)
            and self.holds(node)
        }
        return bool(uses & sizes) and uses <= sizes | passed


def _only_measured(net: NetworkClass, files: Iterable[Path], method: str) -> bool:
    """Whether all that the project calls `x.method(...)` for is the sizes of what it gives."""
    found = False
    for path in files:
        if net.project.index(path) is None or not _may_call(net.project, path, method):
            continue
        for scope in _scopes(net.project.source(path).ast, method):
            found = True
            if not _Holders(net.project, path, scope, method=method).measured():
                return False
    return found


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
