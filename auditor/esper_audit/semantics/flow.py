"""An abstract run of a method: what each expression may be, and the events that rules ask about.

The interpreter follows statements in order, joins branches, calls helpers of the class and of the project with the
arguments at hand, and records events (calls, masking, returns, guards). Loops are run once. A budget bounds each run;
what lies beyond it is unknown. Nothing of the audited code is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import libcst as cst

from esper_audit.semantics import roles as role_names
from esper_audit.semantics.axes import Axes
from esper_audit.semantics.depends import Atoms, as_parameter
from esper_audit.semantics.model import ClassModel, Function, Models, ModuleModel
from esper_audit.semantics.project import is_torch_module, written
from esper_audit.semantics.run.frames import ClassFlow, Event, Frame
from esper_audit.semantics.run.layout import named_size, settled
from esper_audit.semantics.run.scope import entered
from esper_audit.semantics.run.statements import Execution
from esper_audit.semantics.shapes import documented_rank, jaxtyping, rank_in
from esper_audit.semantics.tree import dotted, literal_string
from esper_audit.semantics.values import (
    EMPTY,
    NONE,
    UNKNOWN,
    Val,
    bounded,
    constant_key,
    join_all,
    map_tensors,
    sequence,
    tensor,
    with_role,
)

__all__ = ["ClassFlow", "Event", "Frame", "Interpreter", "constant_key"]

MAX_INLINE_DEPTH = 6
BUDGET = 8_000  # evaluated expressions per entry method


class Interpreter:
    """Runs functions abstractly. One interpreter serves a whole project."""

    def __init__(self, models: Models, config_roles: dict[str, str] | None = None) -> None:
        self.models = models
        self.config_roles = config_roles or {}
        self._flows: dict[tuple[Any, str], ClassFlow] = {}
        self._module_frames: dict[Any, Frame] = {}
        self.budget = 0
        self._depth = 0
        self.memo: dict[Any, Frame] = {}
        self._active: set[int] = set()
        self._orders: dict[cst.CSTNode, int] = {}
        self.cuts = 0  # how often a run was cut short: by recursion, depth or budget
        self.touched_flows: dict[int, ClassFlow] = {}
        self.carried: dict[str, Atoms] = {}  # what a round of a loop leaves to the next: see depends.py
        self._aliases: dict[tuple[Path, str], Val | None] = {}
        self._opened: list[tuple[Path, str]] = []  # aliases that are being looked into
        self._endless: set[tuple[Path, str]] = set()

    def flow(self, model: ClassModel) -> ClassFlow:
        """The flow of a class; made once."""
        key = (model.module.path, model.name)
        if key not in self._flows:
            self._flows[key] = ClassFlow(model, self)
        return self._flows[key]

    def order_of(self, node: cst.CSTNode) -> int:
        """A number that grows with each node that is first asked for."""
        return self._orders.setdefault(node, len(self._orders))

    def role(self, name: str) -> str:
        """The role of a method name: the configuration has the last word."""
        return self.config_roles.get(name) or role_names.method_role(name)

    def constant_of(self, module: ModuleModel, expression: cst.BaseExpression) -> Val:
        """What a class-level or module-level expression is, evaluated in the module's own scope."""
        function = _ModuleScope(module)
        with self._entry(budget=200):
            return Execution(self, None, Frame(function, {}), EMPTY).eval(expression)

    def run(self, function: Function, flow: ClassFlow | None, given: dict[str, Val] | None = None) -> Frame:
        """Run a function with its parameters as its signature, comments and docstring describe them, or as given."""
        with self._entry():
            values = {param.name: self.declared(function, param, flow) for param in function.params}
            return self.execute(function, flow, {**values, **(given or {})}, EMPTY)

    @contextmanager
    def _entry(self, budget: int = BUDGET) -> Iterator[None]:
        """A run of its own: what it finds must not depend on the run that happened to ask for it."""
        saved = (self.budget, self._depth, self._active, self.touched_flows)
        overlays = {key: flow.run_attributes for key, flow in self.touched_flows.items()}
        for flow in self.touched_flows.values():
            flow.run_attributes = {}
        self.budget, self._depth, self._active, self.touched_flows = budget, 0, set(), {}
        try:
            yield
        finally:
            for flow in self.touched_flows.values():
                flow.run_attributes = {}
            self.budget, self._depth, self._active, self.touched_flows = saved
            for key, flow in self.touched_flows.items():
                flow.run_attributes = overlays[key]

    def function_frame(self, function: Function) -> Frame:
        """The run of a module-level function; made once."""
        frame = self._module_frames.get(function.node)
        if frame is None:
            frame = self._module_frames[function.node] = self.run(function, None)
        return frame

    def module_frame(self, module: ModuleModel) -> Frame:
        """The run of the statements at module level, where scripts keep their training loop; made once."""
        frame = self._module_frames.get(module.path)
        if frame is None:
            function = _ModuleScope(module)
            frame = self._module_frames[module.path] = Frame(function, {})
            with self._entry():
                Execution(self, None, frame, EMPTY).block(list(module.statements))
        return frame

    def execute(
        self, function: Function, flow: ClassFlow | None, values: dict[str, Val], contexts: frozenset[str]
    ) -> Frame:
        """Run a function with the given parameter values."""
        for decorator in function.node.decorators:
            contexts = entered(contexts, function.module.qualify, decorator.decorator)
        frame = Frame(function, values)
        if function.is_abstract:
            return frame
        if id(function.node) in self._active or self._depth > MAX_INLINE_DEPTH or self.budget <= 0:
            self.cuts += 1
            return frame
        self._active.add(id(function.node))
        self._depth += 1
        before = self.budget
        scope = Execution(self, flow, frame, contexts)
        try:
            scope.block(function.node.body.body)
        finally:
            self._active.discard(id(function.node))
            self._depth -= 1
        below = [event.frame for event in frame.events if event.frame is not None]
        frame.cost = before - self.budget
        frame.height = 1 + max((inner.height for inner in below), default=0)
        frame.entered = frozenset({id(function.node)}).union(*(inner.entered for inner in below))
        frame.result = bounded(join_all(scope.returned)) if scope.returned else NONE
        return frame

    def can_recall(self, frame: Frame) -> bool:
        """Whether a run from before would have come out the same here: with this budget and depth, under these calls.

        Otherwise the order in which methods were asked about would show in the facts.
        """
        fits = frame.cost < self.budget and self._depth + frame.height <= MAX_INLINE_DEPTH + 1
        return fits and not frame.entered & self._active

    # --- parameters --------------------------------------------------------------------------------------------

    def declared(self, function: Function, param: Any, flow: ClassFlow | None) -> Val:
        """A parameter as annotation, default, comment and docstring describe it."""
        value = self._described(function, param, flow)
        return as_parameter(value, param.name) if value.kind != "instance" else value

    def _described(self, function: Function, param: Any, flow: ClassFlow | None) -> Val:
        if param.kind in ("star", "kwargs"):
            return UNKNOWN
        if (
            function.owner is not None
            and param is function.params[0]
            and flow is not None
            and "staticmethod" not in function.decorators
        ):
            return flow.self_value
        value = self.annotated(function.module, param.annotation)
        if value.kind == "str" and role_names.named_kind(param.name):
            return Val(role_names.named_kind(param.name), origins=frozenset({param.name}))
        if value.kind in ("unknown", "number") and param.default is not None:
            default = self.constant_of(function.module, param.default)
            if default.kind == "number":
                return default.but(origins=frozenset({param.name}))
        if value.kind == "unknown" and (kind := role_names.named_kind(param.name)):
            return Val(kind, origins=frozenset({param.name}))
        role = role_names.tensor_role(param.name)
        if value.kind == "unknown" and role:
            if not _scalar_default(param.default):
                value = with_role(value.but(kind="unknown"), role)
        elif value.kind in ("tensor", "tuple", "list", "dict"):
            value = with_role(value, role)
        if role == "hidden" and value.kind == "tensor" and flow is None:
            value = with_role(value, "hidden")
        if value.is_tensorish:
            rank = value.rank
            if rank is None and param.comment:
                rank = rank_in(param.comment)
            if rank is None:
                rank = documented_rank(function.stated_ranks, param.name)
            value = settled(value.but(rank=rank), _declared_axes(function, param.name, rank, role))
        elif value.kind == "number":
            value = named_size(value, param.name)
        came = frozenset({param.name})
        value = map_tensors(value, lambda each: each.but(tags=each.tags | {"alias"}, origins=came))
        value = value.but(tags=value.tags | {"declared"})  # the caller may still pass None
        if value.kind == "dict":
            value = value.but(ref=("each", param.name))
        return value.but(origins=frozenset({param.name}))

    def annotated(self, module: ModuleModel, node: cst.BaseExpression | None) -> Val:
        """What an annotation promises."""
        if node is None:
            return UNKNOWN
        if isinstance(node, cst.SimpleString):
            try:
                node = cst.parse_expression(literal_string(node) or "")
            except cst.ParserSyntaxError:
                return UNKNOWN
        if isinstance(node, cst.BinaryOperation) and isinstance(node.operator, cst.BitOr):
            left, right = self.annotated(module, node.left), self.annotated(module, node.right)
            return right if left.kind in ("none", "unknown") else left
        name = dotted(node)
        if name == "None":
            return NONE
        if name:
            return self._named_type(module, name)
        if isinstance(node, cst.Subscript):
            return self._generic(module, node)
        return UNKNOWN

    def _named_type(self, module: ModuleModel, name: str) -> Val:
        qualified = module.qualify(name)
        if qualified in ("torch.Tensor", "torch.FloatTensor", "torch.nn.Parameter"):
            return tensor()
        if qualified in ("torch.BoolTensor", "torch.LongTensor"):
            return tensor(dtype="bool" if "Bool" in qualified else "int64")
        if name in ("int", "float"):
            return Val("number")
        if name == "bool":
            return Val("bool")
        if name == "str":
            return Val("str")
        if name in ("dict", "Dict"):
            return Val("dict")
        if is_torch_module(qualified):
            return Val("layer", ref=(qualified, None))
        symbol = module.lookup(name)
        if symbol.path is not None:
            index = self.models.project.index(symbol.path)
            if index and symbol.name in index.classes:
                return Val("instance", ref=symbol)
            if index and symbol.name in index.constants and symbol.path == module.path:
                return self._alias(module, symbol.name, index.constants[symbol.name])  # Hidden = tuple[Tensor, Tensor]
        return UNKNOWN

    def _alias(self, module: ModuleModel, name: str, alias: ast.expr) -> Val:
        """What a name for a type promises: nothing where it holds itself, as those of nested containers do."""
        key = (module.path, name)
        if key not in self._aliases:
            self._aliases[key] = None  # until it is known, and for good where it is met again before that
            self._opened.append(key)
            try:
                value = bounded(self.annotated(module, cst.parse_expression(written(alias))))
            except (cst.ParserSyntaxError, RecursionError):
                value = UNKNOWN
            finally:
                self._opened.pop()
            if key not in self._endless:
                self._aliases[key] = value
        known = self._aliases[key]
        if known is None:
            self._endless.update(self._opened)
            return UNKNOWN
        return known

    def _generic(self, module: ModuleModel, node: cst.Subscript) -> Val:
        name = dotted(node.value).rsplit(".", 1)[-1]
        slices = [e.slice.value for e in node.slice if isinstance(e.slice, cst.Index)]
        if not slices:
            return UNKNOWN
        if name in ("Optional", "Annotated", "Final", "ClassVar"):
            return self.annotated(module, slices[0])
        if name == "Union":
            return join_all([self.annotated(module, s) for s in slices if dotted(s) != "None"])
        if name in ("tuple", "Tuple"):
            return sequence("tuple", [self.annotated(module, s) for s in slices if not isinstance(s, cst.Ellipsis)])
        if name in ("list", "List", "Sequence"):
            return Val("list")
        if name in ("dict", "Dict", "Mapping"):
            return Val(
                "dict", tags=frozenset({"tensors"} if self.annotated(module, slices[-1]).kind == "tensor" else ())
            )
        if len(slices) == 2 and isinstance(slices[1], cst.SimpleString):
            typed = jaxtyping(name, literal_string(slices[1]) or "")
            if typed is not None:
                return tensor(typed[0], dtype=typed[1], tags=frozenset({"jaxtyped"}))
        return UNKNOWN


def _declared_axes(function: Function, name: str, rank: int | None, role: str) -> Axes | None:
    """The axes of a parameter: as stated, or those of a tensor about which nothing is."""
    stated = function.stated_axes.get(name)
    axes = stated if stated is not None and (rank is None or len(stated) == rank) else ("",) * (rank or 0)
    if axes or rank is not None:  # an axis without a name is known by its place, but for the last, of features
        return tuple(axis or (f"{name}#{at}" if at < len(axes) - 1 else "") for at, axis in enumerate(axes))
    return (f"*{name}", "") if role else None


class _ModuleScope(Function):
    """Module level as a function without parameters."""

    def __init__(self, module: ModuleModel) -> None:
        self.module = module
        self.node = None  # type: ignore[assignment]
        self.owner = None
        self.name = ""

    params = ()
    decorators = ()
    docstring = ""


def _scalar_default(default: cst.BaseExpression | None) -> bool:
    if isinstance(default, (cst.Integer, cst.Float, cst.SimpleString)):
        return True
    return isinstance(default, cst.Name) and default.value in ("True", "False")
