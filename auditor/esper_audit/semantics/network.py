"""A network class as an auditor sees it.

Its parts, the roles of its methods, and who in the project builds, compiles, calls, stores or tests it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, TypeVar

import libcst as cst

from esper_audit.semantics import roles as role_names
from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.flow import ClassFlow, Event, Frame, Interpreter
from esper_audit.semantics.model import ClassModel, Function, ModuleModel
from esper_audit.semantics.tree import dotted, find
from esper_audit.semantics.values import Val

ALL_ROLES = (*role_names.METHOD_ROLES, role_names.OTHER)
HOT_ROLES = (role_names.FORWARD, role_names.ACT, role_names.EVALUATE, role_names.VALUE_METHOD)
_VALUE_HEAD = re.compile(r"value|critic|baseline|(^|_)vf?($|_)|v_head|q_?net|(^|_)q[12f]?($|_)")
_NO_HEAD = re.compile(r"embed|encod|proj(ect|$|_)|input|feature|trunk|body|value_?stream_in")
_SPREAD = re.compile(r"log_?std|sigma|scale|var(iance)?$|mean|(^|_)mu($|_)|loc$")
_ACTOR_CLASS = re.compile(r"Actor|Policy|Agent|Pi(Net)?$")
_VALUE_CLASS = re.compile(r"(^|[a-z_])Q([A-Z_]|$)|QNet|DQN|DQNet|Critic|Value|Quantile")
_SIZED_LAYERS = ("Linear", "LSTM", "GRU", "LSTMCell", "GRUCell")
_COLLECTIONS = ("torch.nn.ModuleList", "torch.nn.ModuleDict")
_POLICY_HEAD = re.compile(r"actor|policy|logit|(^|_)pi($|_)|action|mu($|_)|mean|advantage")
# Events that cannot occur where none of these texts does.
_MASKS = (b"mask", b"avail", b"legal", b"valid")
_NEEDS = {
    "mask": _MASKS,
    "mask_product": _MASKS,
    "invert": _MASKS,
    "dist": (b"distributions", b"gather", b"multinomial"),
}
_COMPILING = (b"compile", b"_dynamo")  # without one of these, none of the following
_COMPILES = re.compile(rb"(?<!\bre)\.compile\b|\bimport [^\n]*\bcompile\b|\b_dynamo\b")
# "if compiled (see #12)" is prose: a space follows the participle.
_SAYS_COMPILE = re.compile(rb"(?<!\bre\.)compile(?!d )\w*\s*\(|@\S*compile|_dynamo|\bimport [^\n]*compile")
_RENAMES_COMPILE = re.compile(rb"\bimport [^\n]*\bcompile as ")
MAX_CALLERS = 24


@dataclass(frozen=True, slots=True)
class Head:
    """An output head: attribute name, `policy` or `value`, and the size of its last layer as written."""

    name: str
    role: str
    size: str

    @property
    def stem(self) -> str:
        """The head's name without `_head` and the like: what buffers and masks call it."""
        return re.sub(r"_?(action_)?(head|logits|net|layer|policy|actor)s?$", "", self.name) or self.name


@dataclass(frozen=True, slots=True)
class Caller:
    """A run of project code outside the network that builds or receives it."""

    module: ModuleModel
    frame: Frame


Fact = TypeVar("Fact")


def once(fact: Callable[[NetworkClass], Fact]) -> Callable[[NetworkClass], Fact]:
    """A fact about a network that is found out once, however many rules ask for it."""

    @wraps(fact)
    def found(net: NetworkClass) -> Fact:
        if found not in net.known:
            net.known[found] = fact(net)
        known: Fact = net.known[found]
        return known

    return found


class NetworkClass:
    """One network class of the audited project."""

    def __init__(self, model: ClassModel, interpreter: Interpreter) -> None:
        self.model = model
        self.interpreter = interpreter
        self.project = interpreter.models.project
        self.flow: ClassFlow = interpreter.flow(model)
        self._mentioned: dict[tuple[bytes, ...], bool] = {}
        self.known: dict[Any, Any] = {}  # see `once`
        self._by_kind: dict[
            tuple[str, ...], dict[str, list[tuple[tuple[int, int], Frame, Event, tuple[Event, ...]]]]
        ] = {}
        self.flow.build()

    @property
    def name(self) -> str:
        """The class name."""
        return self.model.name

    @property
    def simple_name(self) -> str:
        """The class name without the classes it is nested in."""
        return self.name.rpartition(".")[2]

    @property
    def module(self) -> ModuleModel:
        """The file the class is defined in."""
        return self.model.module

    @property
    def is_test_code(self) -> bool:
        """Whether the class stands in a test file: a double that is built there, and goes nowhere else."""
        return self.project.is_test_code(self.module.path)

    def mentions(self, *texts: bytes) -> bool:
        """Whether one of the texts occurs where the network's code can be: its file and what the imports lead to.

        Cheap, and asked before anything is run: without `inference_mode` in the bytes, no tensor is born there.
        """
        if texts not in self._mentioned:
            files = dict.fromkeys(model.module.path for model in self.model.lineage)
            self._mentioned[texts] = any(self.project.mentions(path, *texts) for path in files)
        return self._mentioned[texts]

    @property
    def speaks_of_masks(self) -> bool:
        """Whether anything there is called like an action mask."""
        return self.mentions(*_NEEDS["mask"])

    # --- methods -----------------------------------------------------------------------------------------------

    @cached_property
    def roles(self) -> dict[str, str]:
        """Method name to role, inherited methods of the project included."""
        return {
            name: self.interpreter.role(name)
            for name in self.model.methods
            if not name.startswith("__") or name == "__call__"
        }

    def with_role(self, *wanted: str) -> Iterator[Function]:
        """The methods that play one of the given roles."""
        for name, role in self.roles.items():
            if role in wanted and (role != role_names.OTHER or name in self.model.own_methods):
                yield self.model.methods[name]

    def frames(self, *wanted: str) -> Iterator[Frame]:
        """The abstract runs of the methods that play one of the given roles, own methods first."""
        for function in self.with_role(*wanted):
            frame = self.flow.frame(function.name)
            if frame is not None:
                yield frame

    @cached_property
    def all_frames(self) -> tuple[Frame, ...]:
        """The runs of all methods that the class itself defines, the constructor included."""
        found = [self.flow.init_frame] if self.flow.init_frame else []
        for name in self.model.own_methods:
            if name != "__init__":
                frame = self.flow.frame(name)
                if frame is not None:
                    found.append(frame)
        return tuple(found)

    @cached_property
    def stores(self) -> tuple[Event, ...]:
        """All assignments to attributes of self, wherever the class's methods make them, each statement once."""
        found: dict[tuple[cst.CSTNode, str], Event] = {}
        for frame in self.all_frames:
            for event, _ in frame.walk():
                if event.kind == "store" and event.target.ref is self.flow:
                    found.setdefault((event.node, event.name), event)
        return tuple(found.values())

    def events(self, *kinds: str) -> Iterator[tuple[Frame, Event, tuple[Event, ...]]]:
        """Events of the given kinds that any method reaches: some networks dispatch by name to methods of any name.

        Of inherited methods only the hot ones count; the others are read where they are defined.
        """
        yield from self._events(ALL_ROLES, kinds)

    def hot_events(self, *kinds: str) -> Iterator[tuple[Frame, Event, tuple[Event, ...]]]:
        """Events of the given kinds that forward, act, evaluate and value methods reach."""
        yield from self._events(HOT_ROLES, kinds)

    def _events(
        self, wanted: tuple[str, ...], kinds: tuple[str, ...]
    ) -> Iterator[tuple[Frame, Event, tuple[Event, ...]]]:
        kinds = tuple(kind for kind in kinds if kind not in _NEEDS or self.mentions(*_NEEDS[kind]))
        if not kinds:
            return
        if wanted not in self._by_kind:
            # Most rules ask for a few kinds each; one walk serves them all.
            buckets = self._by_kind[wanted] = {}
            for number, frame in enumerate(self.frames(*wanted)):
                for order, (event, stack) in enumerate(frame.walk()):
                    buckets.setdefault(event.kind, []).append(((number, order), frame, event, stack))
        buckets = self._by_kind[wanted]
        found = [entry for kind in kinds for entry in buckets.get(kind, ())]
        if len(kinds) > 1:
            found.sort(key=lambda entry: entry[0])
        for _, frame, event, stack in found:
            yield frame, event, stack

    @cached_property
    def called_inside(self) -> frozenset[str]:
        """The methods of the class that its hot methods call: what those get may have been changed on the way."""
        return frozenset(
            event.callee.name
            for _, event, _ in self.hot_events("call")
            if isinstance(event.callee, Function) and event.callee.owner in self.model.lineage
        )

    def in_network(self, event: Event, stack: tuple[Event, ...]) -> Event:
        """The innermost call in the class's own methods that led to an event: where its cure can begin."""
        innermost = event
        for call in (*stack, event):
            if call.function.owner not in self.model.lineage:
                break
            innermost = call
        return innermost

    # --- parts -------------------------------------------------------------------------------------------------

    @cached_property
    def layers(self) -> dict[str, Val]:
        """Attributes that hold torch layers."""
        return {
            name: value
            for name, value in self.flow.attributes.items()
            if value.kind == "layer" and isinstance(value.ref, tuple)
        }

    @cached_property
    def recurrent(self) -> dict[str, str]:
        """Recurrent attributes and the layer class each holds; recurrent networks of the project count as such."""
        return _recurrent_parts(self.flow, self.interpreter, depth=0)

    def size_of(self, layer: Val) -> str:
        """The output size of a layer's last Linear, as written where it is made."""
        node = layer.ref[1] if isinstance(layer.ref, tuple) else None
        if layer.items:
            return next((size for part in reversed(_parts(layer)) if (size := self.size_of(part))), "")
        if not isinstance(node, cst.Call) or not str(layer.ref[0]).endswith(_SIZED_LAYERS):
            return ""
        positional = [arg for arg in node.args if arg.keyword is None and not arg.star]
        for arg in node.args:
            if arg.keyword is not None and arg.keyword.value in ("out_features", "hidden_size"):
                return self.module.code(arg.value)
        return self.module.code(positional[1].value) if len(positional) > 1 else ""

    def _sized_here(self, layer: Val) -> bool:
        """Whether the layer that gives the size is made in the class itself: a helper has names of its own."""
        node = layer.ref[1] if isinstance(layer.ref, tuple) else None
        if layer.items:
            sized = next((part for part in reversed(_parts(layer)) if self.size_of(part)), None)
            return sized is not None and self._sized_here(sized)
        return node in self._own_calls

    def _size_given(self, attribute: str, layer: Val) -> str:
        """What the class hands to the helper that makes the layer, for the parameter that becomes its output size."""
        size = self.size_of(layer)
        for event in self.stores if size.isidentifier() else ():
            for call in find(event.node, cst.Call) if event.name == attribute else ():
                helper = self.interpreter.models.find_function(event.function.module.lookup(dotted(call.func)))
                if helper is None or helper.param(size) is None:
                    continue
                names = [param.name for param in helper.params if param.kind == "positional"]
                positional = [arg for arg in call.args if arg.keyword is None and not arg.star]
                given = dict(zip(names, positional, strict=False))
                given |= {arg.keyword.value: arg for arg in call.args if arg.keyword is not None}
                if size in given:
                    return self.module.code(given[size].value)
        return ""

    @cached_property
    def _own_calls(self) -> frozenset[cst.Call]:
        """All calls in the classes of the lineage."""
        return frozenset(call for model in self.model.lineage for call in find(model.node, cst.Call))

    @cached_property
    def _inner_layers(self) -> frozenset[str]:
        """Layers whose output is seen to go into another layer of the class: those are no heads."""
        inner: set[str] = set()
        for _, event, _ in self.hot_events("call"):
            if event.callee == "layer":
                inner.update(*(value.from_layers for value in event.args))
        return frozenset(inner)

    @cached_property
    def heads(self) -> tuple[Head, ...]:
        """Output heads, in the order they are built."""
        found = []
        for name, layer in self.layers.items():
            size = self.size_of(layer) if self._sized_here(layer) else self._size_given(name, layer)
            named_head = name.endswith(("_head", "_heads")) or (name == "heads" and layer.ref[0] in _COLLECTIONS)
            if name in self.recurrent or not size or (_NO_HEAD.search(name) and not named_head):
                continue
            role = "value" if _VALUE_HEAD.search(name) or size == "1" else "policy"
            if role == "value" or named_head or _POLICY_HEAD.search(name):
                found.append(Head(name, role, size))
        if len(found) > 1:
            found = [head for head in found if head.name not in self._inner_layers]
        return tuple(found)

    @property
    def policy_heads(self) -> tuple[Head, ...]:
        """Heads that give logits."""
        return tuple(head for head in self.heads if head.role == "policy")

    @cached_property
    def acting_heads(self) -> tuple[Head, ...]:
        """The policy heads whose output is seen to reach an action distribution."""
        acting = frozenset[str]().union(*(event.target.from_layers for _, event, _ in self.events("dist")))
        return tuple(head for head in self.policy_heads if head.name in acting)

    @cached_property
    def is_policy(self) -> bool:
        """Whether the class acts: a distribution, an act or evaluate method by its heads, or actor and critic parts."""
        names = set(self.roles.values())
        acts = role_names.ACT in names
        if (role_names.EVALUATE in names and acts) or (self.policy_heads and acts):
            return True
        if self.policy_heads and (
            _ACTOR_CLASS.search(self.simple_name) or any(head.role == "value" for head in self.heads)
        ):
            return True
        # A distribution alone may be one over latent states; it has to give an action.
        if not any(True for _ in self.hot_events("dist")):
            return False
        return acts or any(leaves(frame.result, "action", "log_prob") for frame in self.frames(*HOT_ROLES))

    @cached_property
    def kind(self) -> str:
        """What the network is, in the field's words."""
        prefix = "recurrent " if self.recurrent else ""
        policies = [head for head in self.policy_heads if not _SPREAD.search(head.name)]
        several = any(self.layers[head.name].ref[0] in _COLLECTIONS for head in policies)
        if len(policies) > 1 or several:
            prefix += "factored "
        has_value = any(head.role == "value" for head in self.heads)
        if self.is_policy:
            return prefix + ("actor-critic" if has_value else "policy")
        is_value = has_value or bool(_VALUE_CLASS.search(self.simple_name))
        return prefix + ("value network" if is_value and not policies else "module")

    @cached_property
    def masks(self) -> tuple[str, ...]:
        """Parameters of hot methods that are action masks by what happens to them, else by their names."""
        found: dict[str, None] = {}
        for _, event, _stack in self.hot_events("mask"):
            for origin in sorted(event.other.origins):
                if "/" not in origin and "@" not in origin and not role_names.names_other_mask(origin):
                    found[origin] = None
        for function in self.with_role(*HOT_ROLES):
            for param in function.params:
                if role_names.tensor_role(param.name) == "mask" and param.name not in ("mask", "masks", "memory_mask"):
                    found[param.name] = None
        order = [p.name for f in self.with_role(*HOT_ROLES) for p in f.params]
        return tuple(sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name)))

    # --- the project around it -----------------------------------------------------------------------------------

    @cached_property
    def naming_files(self) -> tuple[Path, ...] | None:
        """Project files whose bytes name the class, its own file included; None when the project is too large."""
        return self.project.files_naming(self.simple_name)

    @cached_property
    def caller_files(self) -> tuple[Path, ...]:
        """Non-test files that import or define the class; its own file included."""
        own = self.module.path
        found = [own]
        for path in self.naming_files or ():
            if path == own or self.project.is_test_code(path):
                continue
            symbol = self.project.lookup(path, self.simple_name)
            if (symbol.path == own and symbol.name in (self.name, self.simple_name)) or (
                symbol.path is None and own in self.project.reach(path)
            ):
                found.append(path)
        return tuple(found[:MAX_CALLERS])

    def callers(self, *words: str) -> Iterator[Caller]:
        """Abstract runs of project code that names the class, in files that also hold one of the words.

        The bodies of the class itself are left out: only code that builds, receives or trains the network counts.
        """
        for path in self.caller_files:
            if not words or any(self.project.names(path, word) for word in words):
                yield from self._callers_in(path, None)

    def ruled_by(self, *words: str) -> bool:
        """Whether a file that leads to the network on whatever way, a script mostly, says one of the words."""
        own = self.module.path
        files = {path for word in words for path in self.project.files_naming(word) or ()}
        return any(path == own or own in self.project.reach(path) for path in self.project.in_order(files))

    def callers_saying(self, pattern: re.Pattern[bytes]) -> Iterator[Caller]:
        """The callers in files that match a pattern; of these, the classes and functions whose text does."""
        for path in self.caller_files:
            if self.project.says(path, pattern):
                yield from self._callers_in(path, pattern)

    def compilers(self) -> Iterator[Caller]:
        """The callers in files that compile something; of these, the classes and functions that do."""
        for path in self.caller_files:
            if self.project.spells(path, *_COMPILING) and self.project.says(path, _SAYS_COMPILE):
                renamed = self.project.says(path, _RENAMES_COMPILE)
                yield from self._callers_in(path, None if renamed else _SAYS_COMPILE)

    @cached_property
    def compiles_itself(self) -> bool:
        """Whether a file of the class or its project ancestors speaks of compilation."""
        files = {model.module.path: None for model in self.model.lineage}
        return any(self.project.spells(path, *_COMPILING) and self.project.says(path, _COMPILES) for path in files)

    def _callers_in(self, path: Path, wanted: re.Pattern[bytes] | None) -> Iterator[Caller]:
        """The runs of one file; with `wanted`, only of the classes and functions whose text it matches."""
        module = self.interpreter.models.module(path)
        if module is None:
            return
        self.project.consulted.add(path)
        index = module.index
        for name, entry in index.classes.items():
            if self.project.is_network(path, name) or not _matches(module, entry.node, wanted):
                continue
            model = module.classes.get(name)
            if model is None:
                continue
            flow = self.interpreter.flow(model)
            flow.build()
            if flow.init_frame is not None:
                yield Caller(module, flow.init_frame)
            if any(_holds_network(value, self) for value in flow.attributes.values()):
                for method in model.own_methods:
                    if method != "__init__" and (frame := flow.frame(method)) is not None:
                        yield Caller(module, frame)
        for name, definition in index.functions.items():
            if _matches(module, definition, wanted) and (function := module.functions.get(name)) is not None:
                yield Caller(module, self.interpreter.function_frame(function))
        if any(_matches(module, node, wanted) for node in index.tree.body if not isinstance(node, _DEFINITIONS)):
            yield Caller(module, self.interpreter.module_frame(module))

    def calls_by_name(self, method: str) -> Iterator[tuple[ModuleModel, cst.Call]]:
        """Calls `x.method(...)` in the project outside the network's own files and tests, on whatever x is.

        Nothing where a class that is no network defines a method of that name, too: then x may be one of those.
        """
        own = {model.module.path for model in self.model.lineage}
        found: list[tuple[Path, int]] = []
        for path in self.project.files_naming(method) or ():
            index = self.project.index(path)
            if index is None or self.project.is_test_code(path):
                continue
            for name, entry in index.classes.items():
                defines = any(isinstance(node, _FUNCTIONS) and node.name == method for node in entry.node.body)
                if defines and not self.project.is_network(path, name):
                    return
            if path not in own:
                found += [
                    (path, node.lineno)
                    for node in ast.walk(index.tree)
                    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
                ]
        for path, line in found:
            module = self.interpreter.models.module(path)
            piece = module.piece_at(line) if module is not None else None
            for call in find(piece.tree, cst.Call) if piece is not None else ():
                if module is not None and isinstance(call.func, cst.Attribute) and call.func.attr.value == method:
                    yield module, call
                    break

    def builds(self, value: Val) -> bool:
        """Whether a value is an instance of this class."""
        if value.kind != "instance":
            return False
        if isinstance(value.ref, ClassFlow):
            return value.ref.model is self.model
        return getattr(value.ref, "path", None) == self.module.path and getattr(value.ref, "name", None) == self.name

    @cached_property
    def half_precision(self) -> bool:
        """Whether the code of the network's file or of a caller uses float16, or autocast with its default dtype."""
        indexes = (self.project.index(path) for path in self.caller_files)
        return any(_is_half(node) for index in indexes if index is not None for node in ast.walk(index.tree))

    @cached_property
    def testing_files(self) -> tuple[Path, ...] | None:
        """Test files that name the class or its module; None when the project cannot be looked through."""
        naming, importing = (self.project.files_naming(word) for word in (self.simple_name, self.module.path.stem))
        if naming is None or importing is None:
            return None
        return tuple(
            path
            for path in self.project.in_order((*naming, *importing))
            if self.project.is_test_code(path) and (path in naming or self._imports_module(path))
        )

    @cached_property
    def importing_tests(self) -> tuple[Path, ...]:
        """The test files that import the class itself, at their top or inside a test."""
        module_name = self.project.dotted_name(self.module.path).encode()
        found = []
        for path in self.testing_files or ():
            symbol = self.project.lookup(path, self.simple_name)
            data = self.project.source(path).data
            inside = b"import " in data and module_name in data
            named = self.project.names(path, self.simple_name)
            if (symbol.path == self.module.path and symbol.name == self.name) or (named and inside):
                found.append(path)
        return tuple(found)

    def _imports_module(self, path: Path) -> bool:
        data = self.project.source(path).data
        if self.module.path.name.encode() in data:
            return True
        index = self.project.index(path)
        if index is None:
            return False
        return any(
            target.endswith("." + self.module.path.stem) or target == self.module.path.stem
            for target in index.imports.values()
        )

    def reached_by_tests(self) -> bool:
        """Whether a test names code that names the class, or code that names that: tests of a trainer count."""
        files, seen = list(self.caller_files), set(self.caller_files)
        for _ in range(2):
            names = {name for path in files for name in self._defined(path)}
            named = (path for name in sorted(names) for path in self.project.files_naming(name) or ())
            if any(self.project.is_test_code(path) for path in named):
                return True
            callers = {path for name in sorted(names) for path in (self.project.files_naming(name) or ())[:MAX_CALLERS]}
            files = sorted(callers - seen)[:MAX_CALLERS]
            seen.update(files)
        return False

    def _defined(self, path: Path) -> set[str]:
        index = self.project.index(path)
        return {path.stem, *index.classes, *index.functions} - {"main", "__init__", "train", "run"} if index else set()

    def reads_attribute(self, name: str) -> bool | None:
        """Whether any project code reads `.name`, or names it in a string; None when the project is too large."""
        files = self.project.files_naming(name)
        if files is None:
            return None
        for path in {*files, self.module.path}:
            index = self.project.index(path)
            if index is None:
                return True
            if name in index.read_names:
                return True
        return False

    def is_read_outside(self, name: str) -> bool:
        """Whether code outside the class, in a file that imports it, asks an object for an attribute of that name."""
        inside = {
            node
            for model in self.model.lineage
            for node in ast.walk(model.module.index.classes[model.name].node)
            if isinstance(node, ast.Attribute)
        }
        for path in self.caller_files:
            index = self.project.index(path)
            for node in ast.walk(index.tree) if index is not None and self.project.names(path, name) else ():
                if isinstance(node, ast.Attribute) and node.attr == name and node not in inside:
                    return True
        return False

    def foreign_bases(self) -> tuple[str, ...]:
        """External ancestors other than torch's own modules: code there may read what this class sets."""
        found = []
        for model in self.model.lineage:
            for base in model.base_names:
                symbol = model.module.lookup(base)
                if (
                    symbol.path is None
                    and not symbol.name.startswith(("torch.nn.", "abc.", "typing."))
                    and symbol.name != "object"
                ):
                    found.append(symbol.name)
        return tuple(found)

    def buffer_classes(self) -> Iterator[ClassModel]:
        """Rollout storages that the network's callers import or define."""
        seen: set[tuple[Path, str]] = set()
        for path in self.caller_files:
            index = self.project.index(path)
            if index is None:
                continue
            for name in sorted({*index.classes, *index.imports}):
                if not re.search(r"Buffer|Storage|Rollout|Memory", name):
                    continue
                symbol = self.project.lookup(path, name)
                if symbol.path is None or (symbol.path, symbol.name) in seen:
                    continue
                seen.add((symbol.path, symbol.name))
                model = self.interpreter.models.find_class(symbol)
                if model is not None:
                    self.project.consulted.add(symbol.path)
                    yield model


def names_head(name: str) -> bool:
    """Whether an attribute's name says that it is an output head, of the policy or of the value."""
    return bool(_VALUE_HEAD.search(name) or _POLICY_HEAD.search(name) or name.endswith(("_head", "_heads")))


def _is_half(node: ast.AST) -> bool:
    """`.half`, `torch.float16`, a GradScaler, or an autocast that leaves the dtype to its default."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return called == "autocast" and not any(keyword.arg == "dtype" for keyword in node.keywords)
    return name in ("half", "float16", "GradScaler")


def _parts(layer: Val) -> list[Val]:
    """The layers inside a Sequential, ModuleList or ModuleDict, those of a list or dict argument included."""
    found: list[Val] = []
    for value in layer.elements():
        if value.kind == "layer":
            found.append(value)
        elif value.kind in ("list", "tuple", "dict"):
            found.extend(_parts(value))
    return found


def _recurrent_parts(flow: ClassFlow, interpreter: Interpreter, depth: int) -> dict[str, str]:
    found: dict[str, str] = {}
    for model in flow.model.lineage:
        for base in model.base_names:
            name = model.module.qualify(base)
            if name in facts.RECURRENT | facts.CELLS:
                found["self"] = name
    for name, value in flow.attributes.items():
        if value.kind == "layer" and isinstance(value.ref, tuple) and value.ref[0] in facts.RECURRENT | facts.CELLS:
            found[name] = value.ref[0]
        elif value.kind == "instance" and "network" in value.tags and value.ref is not None and depth < 2:
            held = interpreter.models.find_class(value.ref)
            if held is not None and held is not flow.model:
                part = interpreter.flow(held)
                part.build()
                inner = _recurrent_parts(part, interpreter, depth + 1)
                if inner:
                    found[name] = next(iter(inner.values()))
    return found


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Import, ast.ImportFrom)


def _matches(module: ModuleModel, node: ast.stmt, wanted: re.Pattern[bytes] | None) -> bool:
    if wanted is None:
        return True
    lines = module.source.data_lines[node.lineno - 1 : node.end_lineno]
    return any(wanted.search(line) for line in lines)


def _holds_network(value: Val, net: NetworkClass) -> bool:
    return net.builds(value) or any(net.builds(item) for item in value.flat())


def leaves(value: Val, *wanted: str) -> list[Val]:
    """The tensors inside a returned value that play one of the roles."""
    return [leaf for leaf in value.flat() if leaf.is_tensorish and leaf.roles & set(wanted)]


def gradient_free_block(function: Function) -> cst.CSTNode | None:
    """The decorator or `with` statement that switches gradients off in a method."""
    for decorator, name in zip(function.node.decorators, function.decorators, strict=True):
        if name in facts.NO_GRAD:
            return decorator
    for statement in find(function.node, cst.With):
        for item in statement.items:
            called = item.item.func if isinstance(item.item, cst.Call) else item.item
            if function.module.qualify(dotted(called)) in facts.NO_GRAD:
                return statement
    return None


def buffer_fields(model: ClassModel) -> dict[str, cst.CSTNode]:
    """The fields a storage holds: annotated class fields and attributes set on self, with their nodes."""
    fields: dict[str, cst.CSTNode] = dict(model.annotated_fields)
    for method in model.own_methods.values():
        assigned = [node.target for node in find(method.node, cst.AssignTarget)]
        assigned += [node.target for node in find(method.node, cst.AnnAssign)]
        for target in assigned:
            if (
                isinstance(target, cst.Attribute)
                and isinstance(target.value, cst.Name)
                and target.value.value == "self"
            ):
                fields.setdefault(target.attr.value, target)
    return fields
