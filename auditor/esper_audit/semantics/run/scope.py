"""One running function: its variables, the contexts and guards in force, and what names mean in it."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import libcst as cst

from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.depends import Atoms
from esper_audit.semantics.project import external_constant, limited, written
from esper_audit.semantics.run.frames import ClassFlow, Event, Frame
from esper_audit.semantics.tree import dotted
from esper_audit.semantics.values import (
    EMPTY,
    UNKNOWN,
    Val,
    constant,
    map_tensors,
    sequence,
)

if TYPE_CHECKING:
    from esper_audit.semantics.flow import Interpreter

GRADIENT_FREE = frozenset({"inference_mode", "no_grad"})


class Scope(ABC):
    """One running function: its variables, and the contexts and guards in force."""

    def __init__(
        self,
        interpreter: Interpreter,
        flow: ClassFlow | None,
        frame: Frame,
        contexts: frozenset[str],
    ) -> None:
        self.interpreter = interpreter
        self.function = frame.function
        self.module = frame.function.module
        self.flow = flow
        self.frame = frame
        self.env = dict(frame.params)
        self.contexts = contexts
        self.returned: list[Val] = []
        self.local_imports: dict[str, str] = {}
        self.used: Atoms = EMPTY  # what the parts of the running expression depend on
        self.control: Atoms = EMPTY  # and the tests of the branches that it stands in
        self.followed: cst.CSTNode | None = None  # the call that has just been followed into the project

    def record(self, kind: str, node: cst.CSTNode, **fields: Any) -> Event:
        """Take note of an event."""
        event = Event(kind, node, self.function, self.contexts, **fields)
        self.frame.events.append(event)
        return event

    def touched(self, value: Val) -> Val:
        """A tensor that an operation made here: born under no_grad or inference mode when one is in force."""
        born = self.contexts & GRADIENT_FREE
        if born and value.is_tensorish:
            return value.but(tags=value.tags | born)
        return value

    def touched_all(self, value: Val) -> Val:
        """The same for all tensors of a container."""
        return map_tensors(value, self.touched) if self.contexts & GRADIENT_FREE else value

    def name(self, node: cst.Name) -> Val:
        """What a name holds."""
        name = node.value
        value = self.env.get(name)
        if value is not None:
            return value
        if name in ("True", "False", "None"):
            return constant({"True": True, "False": False, "None": None}[name])
        return self.global_name(name)

    def global_name(self, name: str) -> Val:
        """What a name of the file or of a local import leads to."""
        if name in self.local_imports:
            symbol = self.interpreter.models.project.lookup_absolute(self.module.path, self.local_imports[name])
        else:
            symbol = self.module.lookup(name)
        return self.symbol(symbol)

    def symbol(self, symbol: Any) -> Val:
        """The value of a resolved name."""
        if symbol.path is None:
            value = external_constant(symbol.name)
            if value is not NotImplemented:
                return constant(value)
            return Val("ext", ref=symbol.name)
        if not symbol.name:
            return Val("module", ref=symbol.path)
        index = self.interpreter.models.project.index(symbol.path)
        if index is None:
            return UNKNOWN
        if symbol.name in index.classes:
            return Val("class", ref=symbol)
        if symbol.name in index.functions:
            return Val("func", ref=symbol)
        if symbol.name in index.constants:
            value = self.interpreter.models.project.constant(symbol.path, symbol.name)
            if value is not NotImplemented:
                return constant(value)
            if self.function.node is None and symbol.path == self.module.path:
                return UNKNOWN  # module level itself is being run
            return self.module_constant(symbol)
        return UNKNOWN

    def module_constant(self, symbol: Any) -> Val:
        """A constant of a module beyond plain literals: wrapped functions and short lists."""
        project = self.interpreter.models.project
        index = project.index(symbol.path)
        node = index.constants[symbol.name] if index else None
        if isinstance(node, ast.Call) and len(node.args) == 1 and isinstance(node.args[0], ast.Name):
            wrapped = project.lookup(symbol.path, node.args[0].id)
            if (
                project.lookup(symbol.path, written(node.func)).name in facts.COMPILER_DISABLED
                and wrapped.path is not None
            ):
                return Val("func", ref=wrapped, tags=frozenset({"disabled"}))
        if isinstance(node, (ast.List, ast.Tuple)):
            values = [limited(e.value) for e in node.elts if isinstance(e, ast.Constant)]
            if len(values) == len(node.elts):
                return sequence("list" if isinstance(node, ast.List) else "tuple", [constant(v) for v in values])
        return UNKNOWN

    def qualify(self, name: str) -> str:
        """The qualified external name of a dotted name as it is visible here."""
        if not name:
            return ""
        head, _, rest = name.partition(".")
        if head in self.env:
            value = self.env[head]
            if value.kind == "ext" and isinstance(value.ref, str):
                return f"{value.ref}.{rest}" if rest else value.ref
            return ""
        if head in self.local_imports:
            target = self.local_imports[head]
            return f"{target}.{rest}" if rest else target
        return self.module.qualify(name)

    @abstractmethod
    def eval(self, node: cst.BaseExpression) -> Val:
        """What an expression may be."""

    @abstractmethod
    def member(self, owner: Val, name: str, node: cst.CSTNode) -> Val:
        """What `owner.name` may be."""

    @abstractmethod
    def product(self, left: Val, right: Val, node: cst.CSTNode) -> None:
        """Record `p * log p` written by hand."""

    @abstractmethod
    def binary(self, operator: str, left: Val, right: Val, node: cst.CSTNode) -> Val:
        """What an operator makes of two values."""


def entered(contexts: frozenset[str], qualify: Callable[[str], str], expression: cst.BaseExpression) -> frozenset[str]:
    """The contexts in force inside `with expression:` or under it as a decorator."""
    call = expression if isinstance(expression, cst.Call) else None
    name = qualify(dotted(call.func if call is not None else expression))
    first = call.args[0].value if call is not None and call.args else None
    switched_off = isinstance(first, cst.Name) and first.value == "False"
    if name == "torch.set_grad_enabled":
        return contexts | {"no_grad"} if switched_off else contexts - GRADIENT_FREE
    if name == "torch.enable_grad":
        return contexts - {"no_grad"}  # inference mode cannot be left this way
    if name in facts.NO_GRAD:
        return contexts - {"inference_mode"} if switched_off else contexts | {facts.NO_GRAD[name]}
    if name in facts.AUTOCAST:
        return contexts | {"autocast"}
    if name == "torch.device":
        return contexts | {"device"}
    return contexts
