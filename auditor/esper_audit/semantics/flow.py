"""An abstract run of a method: what each expression may be, and the events that rules ask about.

The interpreter follows statements in order, joins branches, calls helpers of the class and of the project with the
arguments at hand, and records events (calls, masking, returns, guards). Loops are run once. A budget bounds each run;
what lies beyond it is unknown. Nothing of the audited code is executed.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import libcst as cst

from esper_audit.semantics import roles as role_names
from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.model import ClassModel, Function, Models, ModuleModel
from esper_audit.semantics.project import as_float, external_constant, fold, is_torch_module
from esper_audit.semantics.shapes import documented_rank, jaxtyping, rank_in
from esper_audit.semantics.tree import dotted, literal_number, literal_string
from esper_audit.semantics.values import (
    EMPTY,
    NONE,
    NOTHING,
    UNKNOWN,
    Made,
    MaskMark,
    Val,
    constant,
    join,
    join_all,
    map_tensors,
    sequence,
    tensor,
    with_role,
)

_BASE = "<distribution>"  # where an object keeps the torch distribution that it is
_HALF_ROUNDS_TO_ZERO = 2.0**-25  # half of the smallest positive float16; ties go to zero
MAX_PARTS = 200  # elements of a container, those of its containers included
MAX_TEXT = 2000
MAX_INLINE_DEPTH = 6
BUDGET = 8_000  # evaluated expressions per entry method
_GRADIENT_FREE = frozenset({"inference_mode", "no_grad"})
_DEVICES = ("device", "str", "ext", "number")  # `.to(0)` names a GPU
_CARRIED = frozenset({"neg_inf"})  # what an operation hands on from its inputs


@dataclass(slots=True)
class Event:
    """Something a rule may ask about.

    `kind` is call, mask, dist, return, lift, rank_check, size_check, product, divide, store or unreachable.
    """

    kind: str
    node: cst.CSTNode
    function: Function
    contexts: frozenset[str]
    value: Val = UNKNOWN
    target: Val = UNKNOWN
    other: Val = UNKNOWN
    name: str = ""
    args: tuple[Val, ...] = ()
    kwargs: dict[str, Val] = field(default_factory=dict)
    callee: Any = None
    frame: Frame | None = None

    @property
    def module(self) -> ModuleModel:
        """The file the event's node stands in."""
        return self.function.module


@dataclass(slots=True)
class Frame:
    """One abstract call: its function, parameters as bound, events in order, and what it returned."""

    function: Function
    params: dict[str, Val]
    events: list[Event] = field(default_factory=list)
    result: Val = UNKNOWN

    def walk(
        self, stack: tuple[Event, ...] = (), _seen: set[int] | None = None
    ) -> Iterator[tuple[Event, tuple[Event, ...]]]:
        """All events below this call with the calls that led there; each called frame is entered once."""
        seen = _seen if _seen is not None else {id(self)}
        for event in self.events:
            yield event, stack
            if event.frame is not None and id(event.frame) not in seen:
                seen.add(id(event.frame))
                yield from event.frame.walk((*stack, event), seen)


class ClassFlow:
    """The runs of one class: its attributes after construction, and a frame per method."""

    def __init__(self, model: ClassModel, interpreter: Interpreter) -> None:
        self.model = model
        self.interpreter = interpreter
        self.attributes: dict[str, Val] = {}  # what the constructor leaves; frozen once it has run
        self.run_attributes: dict[str, Val] = {}  # what the running entry method has set so far
        self.init_frame: Frame | None = None
        self._frames: dict[str, Frame] = {}
        self._building = False

    @property
    def self_value(self) -> Val:
        """`self`, as methods see it."""
        return Val("instance", ref=self)

    def build(self) -> None:
        """Run the constructor once, so that methods know the attributes."""
        if self.init_frame is not None or self._building:
            return
        self._building = True
        init = self.model.method("__init__") or self.model.method("setup") or self.model.method("__post_init__")
        if init is not None:
            self.init_frame = self.interpreter.run(init, self)
        self._building = False

    def frame(self, name: str) -> Frame | None:
        """The run of a method with its parameters as declared."""
        self.build()
        if name not in self._frames:
            function = self.model.method(name)
            if function is None:
                return None
            self._frames[name] = self.interpreter.run(function, self)
        return self._frames[name]

    def store(self, name: str, value: Val) -> None:
        """Take note of an assignment to `self.name`."""
        if self._building:
            self.attributes[name] = join(self.attributes[name], value) if name in self.attributes else value
        else:
            before = self.run_attributes.get(name)
            self.run_attributes[name] = value if before is None else join(before, value)
            self.interpreter.touched_flows[id(self)] = self

    def attribute(self, name: str) -> Val | None:
        """What `self.name` may be, class-level constants included; None when nothing is known.

        What other methods set counts only inside the run that set it: whether they ran before is unknown, and facts
        must not depend on the order in which rules ask for them.
        """
        value = self.run_attributes.get(name)
        if value is None:
            value = self.attributes.get(name)
        if value is not None:
            return value
        for model in self.model.lineage:
            expression = model.constants.get(name)
            if expression is not None:
                return self.interpreter.constant_of(model.module, expression)
        return None


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
            return _Scope(self, None, Frame(function, {}), EMPTY).eval(expression)

    def run(self, function: Function, flow: ClassFlow | None) -> Frame:
        """Run a function with its parameters as its signature, comments and docstring describe them."""
        with self._entry():
            values = {param.name: self.declared(function, param, flow) for param in function.params}
            return self.execute(function, flow, values, EMPTY)

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
                _Scope(self, None, frame, EMPTY).block(list(module.statements))
        return frame

    def execute(
        self, function: Function, flow: ClassFlow | None, values: dict[str, Val], contexts: frozenset[str]
    ) -> Frame:
        """Run a function with the given parameter values."""
        for decorator in function.node.decorators:
            contexts = _entered(contexts, function.module.qualify, decorator.decorator)
        frame = Frame(function, values)
        if function.is_abstract:
            return frame
        if id(function.node) in self._active or self._depth > MAX_INLINE_DEPTH or self.budget <= 0:
            self.cuts += 1
            return frame
        self._active.add(id(function.node))
        self._depth += 1
        scope = _Scope(self, flow, frame, contexts)
        try:
            scope.block(function.node.body.body)
        finally:
            self._active.discard(id(function.node))
            self._depth -= 1
        frame.result = join_all(scope.returned) if scope.returned else NONE
        return frame

    # --- parameters --------------------------------------------------------------------------------------------

    def declared(self, function: Function, param: Any, flow: ClassFlow | None) -> Val:
        """A parameter as annotation, default, comment and docstring describe it."""
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
        if value.kind == "str" and _named_kind(param.name):
            return Val(_named_kind(param.name), origins=frozenset({param.name}))
        if value.kind in ("unknown", "number") and param.default is not None:
            default = self.constant_of(function.module, param.default)
            if default.kind == "number":
                return default.but(origins=frozenset({param.name}))
        if value.kind == "unknown" and (kind := _named_kind(param.name)):
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
            value = value.but(rank=rank)
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
                alias = index.constants[symbol.name]  # Hidden = tuple[Tensor, Tensor]
                try:
                    return self.annotated(module, cst.parse_expression(ast.unparse(alias)))
                except (cst.ParserSyntaxError, RecursionError):
                    return UNKNOWN
        return UNKNOWN

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


def _entered(contexts: frozenset[str], qualify: Callable[[str], str], expression: cst.BaseExpression) -> frozenset[str]:
    """The contexts in force inside `with expression:` or under it as a decorator."""
    call = expression if isinstance(expression, cst.Call) else None
    name = qualify(dotted(call.func if call is not None else expression))
    first = call.args[0].value if call is not None and call.args else None
    switched_off = isinstance(first, cst.Name) and first.value == "False"
    if name == "torch.set_grad_enabled":
        return contexts | {"no_grad"} if switched_off else contexts - _GRADIENT_FREE
    if name == "torch.enable_grad":
        return contexts - {"no_grad"}  # inference mode cannot be left this way
    if name in facts.NO_GRAD:
        return contexts - {"inference_mode"} if switched_off else contexts | {facts.NO_GRAD[name]}
    if name in facts.AUTOCAST:
        return contexts | {"autocast"}
    if name == "torch.device":
        return contexts | {"device"}
    return contexts


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


class _Scope:
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

    # --- statements --------------------------------------------------------------------------------------------

    def block(self, body: Any) -> bool:
        """Run statements; True when control does not leave at the end (return, raise, break, continue)."""
        for position, statement in enumerate(body):
            if isinstance(statement, cst.SimpleStatementLine):
                comment = statement.trailing_whitespace.comment
                text = comment.value if comment else ""
                left = True in [self.small(small, text) for small in statement.body]  # every one of them is run
            else:
                left = self.compound(statement)
            if left:
                for unreachable in body[position + 1 :]:
                    self.record("unreachable", unreachable)
                return True
        return False

    def small(self, node: cst.CSTNode, comment: str) -> bool:
        if isinstance(node, cst.Assign):
            value = self.eval(node.value)
            for target in node.targets:
                self.assign(target.target, value, comment, node)
        elif isinstance(node, cst.AnnAssign):
            if node.value is not None:
                self.assign(node.target, self.eval(node.value), comment, node)
        elif isinstance(node, cst.AugAssign):
            self.augmented(node)
        elif isinstance(node, cst.Expr):
            self.eval(node.value)
        elif isinstance(node, cst.Return):
            value = self.eval(node.value) if node.value is not None else NONE
            self.returned.append(value)
            self.record("return", node, value=value)
            return True
        elif isinstance(node, cst.Raise):
            if node.exc is not None:
                self.eval(node.exc)
            return True
        elif isinstance(node, (cst.Break, cst.Continue)):
            return True
        elif isinstance(node, cst.Assert):
            self.test(node.test)
            self.refine(node.test, truth=True)
        elif isinstance(node, cst.ImportFrom) and self.function.node is not None:
            self.local_import(node)
        elif isinstance(node, cst.Import) and self.function.node is not None:
            for alias in node.names:
                name = dotted(alias.name)
                if alias.evaluated_alias is not None:
                    self.local_imports[alias.evaluated_alias] = name
                else:
                    head = name.partition(".")[0]
                    self.local_imports[head] = head
        return False

    def local_import(self, node: cst.ImportFrom) -> None:
        if isinstance(node.names, cst.ImportStar):
            return
        base = dotted(node.module) if node.module else ""
        if node.relative:
            base = self.interpreter.models.project.absolute_import(self.module.path, len(node.relative), base)
        for alias in node.names:
            name = dotted(alias.name)
            self.local_imports[alias.evaluated_alias or name] = f"{base}.{name}"

    def compound(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.If):
            return self.branch(node)
        if isinstance(node, cst.For):
            iterated = self.eval(node.iter)
            self.bind_loop(node.target, iterated)
            self.loop(node.body.body)
            if node.orelse:
                self.block(node.orelse.body.body)
            return False
        if isinstance(node, cst.While):
            self.test(node.test)
            before = dict(self.env)
            self.refine(node.test, truth=True)
            self.guarded(node.test, node.body.body, truth=True)
            self.env = _merge(before, self.env)
            return False
        if isinstance(node, cst.With):
            return self.with_(node)
        if isinstance(node, cst.Try):
            self.block(node.body.body)
            after = dict(self.env)
            for handler in node.handlers:
                self.env = dict(after)
                self.block(handler.body.body)
            self.env = after
            if node.orelse:
                self.block(node.orelse.body.body)
            if node.finalbody:
                self.block(node.finalbody.body.body)
            return False
        if isinstance(node, cst.FunctionDef):
            self.env[node.name.value] = Val("func", ref=Function(self.module, node))
            return False
        if isinstance(node, cst.Match):
            self.eval(node.subject)
            before = dict(self.env)
            merged: dict[str, Val] | None = None
            for case in node.cases:
                self.env = dict(before)
                if not self.block(case.body.body):
                    merged = self.env if merged is None else _merge(merged, self.env)
            self.env = _merge(before, merged) if merged is not None else before
            return False
        return False

    def loop(self, body: Any) -> None:
        before = dict(self.env)
        self.block(body)
        self.env = _merge(before, self.env)

    def decided(self, node: cst.BaseExpression) -> bool | None:
        """What a condition must be here: None tests of values that are known, and known flags. Else None."""
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Not):
            inner = self.decided(node.expression)
            return None if inner is None else not inner
        if isinstance(node, cst.BooleanOperation):
            sides = (self.decided(node.left), self.decided(node.right))
            absorbing = isinstance(node.operator, cst.Or)
            if absorbing in sides:
                return absorbing
            return None if None in sides else not absorbing
        if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
            target = node.comparisons[0]
            if (
                isinstance(target.comparator, cst.Name)
                and target.comparator.value == "None"
                and isinstance(node.left, cst.Name)
            ):
                value = self.env.get(node.left.value)
                is_none = None if value is None else _is_none(value)
                if is_none is not None and isinstance(target.operator, (cst.Is, cst.Equal, cst.IsNot, cst.NotEqual)):
                    return is_none == isinstance(target.operator, (cst.Is, cst.Equal))
            return None
        if isinstance(node, (cst.Name, cst.Attribute)):
            const = self.eval(node).const
            return const if isinstance(const, bool) else None
        return None

    def branch(self, node: cst.If) -> bool:
        self.test(node.test)
        known = self.decided(node.test)
        if known is not None:
            self.refine(node.test, truth=known)
            if known:
                return self.guarded(node.test, node.body.body, truth=True)
            if isinstance(node.orelse, cst.If):
                return self.branch(node.orelse)
            return self.guarded(node.test, node.orelse.body.body, truth=False) if node.orelse is not None else False
        before = self.env
        self.env = dict(before)
        self.refine(node.test, truth=True)
        then_left = self.guarded(node.test, node.body.body, truth=True)
        then_env = self.env
        self.env = dict(before)
        self.refine(node.test, truth=False)
        else_left = False
        if isinstance(node.orelse, cst.If):
            else_left = self.branch(node.orelse)
        elif node.orelse is not None:
            else_left = self.guarded(node.test, node.orelse.body.body, truth=False)
        if then_left and else_left:
            return True
        if then_left:
            return False
        self.env = then_env if else_left else _merge(then_env, self.env)
        return False

    def guarded(self, test: cst.BaseExpression, body: Any, *, truth: bool) -> bool:
        """Run a branch under what its test says of the surroundings: a test of a rank, or of compilation."""
        before = self.contexts
        self.contexts = before | _guards(self, test, truth=truth)
        left = self.block(body)
        self.contexts = before
        return left

    def with_(self, node: cst.With) -> bool:
        before = self.contexts
        for item in node.items:
            value = self.eval(item.item)
            self.contexts = _entered(self.contexts, self.qualify, item.item)
            if item.asname is not None:
                self.assign(item.asname.name, value, "", None)
        left = self.block(node.body.body)
        self.contexts = before
        return left

    def bind_loop(self, target: cst.BaseAssignTargetExpression, iterated: Val) -> None:
        element = join_all(iterated.elements()) if iterated.items else UNKNOWN
        if iterated.kind == "tensor":
            element = iterated.but(rank=iterated.rank - 1 if iterated.rank else None)
        if iterated.kind == "pairs" and iterated.ref is not None:
            element = sequence("tuple", list(iterated.ref))
        self.assign(target, element, "", None)

    def augmented(self, node: cst.AugAssign) -> None:
        assert isinstance(node.target, cst.BaseExpression)
        current = self.eval(node.target)
        value = self.eval(node.value)
        operator = type(node.operator).__name__.removesuffix("Assign")
        self.assign(node.target, self.binary(operator, current, value, node), "", node)

    def assign(self, target: cst.CSTNode, value: Val, comment: str, statement: cst.CSTNode | None) -> None:
        if (value.items is not None and not _is_small(value)) or (
            isinstance(value.const, str) and len(value.const) > MAX_TEXT
        ):
            value = Val(value.kind, roles=value.roles, tags=value.tags, origins=value.origins)
        if isinstance(target, cst.Name):
            name = target.value
            role = role_names.tensor_role(name)
            if role and not value.roles & {"logits", "mask", "hidden"} and value.kind in ("tensor", "unknown", "tuple"):
                value = with_role(value, role)
            if comment and value.is_tensorish and value.rank is None:
                value = value.but(rank=rank_in(comment))
            self.env[name] = value
        elif isinstance(target, (cst.Tuple, cst.List)):
            self.unpack(target, value, comment, statement)
        elif isinstance(target, cst.Attribute):
            self.assign_attribute(target, value, statement)
        elif isinstance(target, cst.Subscript):
            self.assign_item(target, value, statement)

    def unpack(self, target: cst.Tuple | cst.List, value: Val, comment: str, statement: cst.CSTNode | None) -> None:
        elements = target.elements
        starred = any(isinstance(element, cst.StarredElement) for element in elements)
        known = self.env.get(value.ref) if value.kind == "shape" and isinstance(value.ref, str) else None
        if known is not None and statement is not None:
            if starred:
                self.record("size_check", statement, value=known)
            elif known.is_tensorish:
                # `b, t, a = x.shape` raises for any other rank
                self.record("rank_check", statement, value=known)
                self.env[value.ref] = known.but(rank=len(elements))
        for position, element in enumerate(elements):
            item = value.item(position) if not starred else None
            if item is None and value.kind == "list":
                item = value.item(None)  # all elements are alike: what `split` and comprehensions give
            if item is None:
                if value.kind in ("tuple", "unknown", "list") and "hidden" in value.roles:
                    item = tensor(None, "hidden", origins=value.origins, tags=value.tags)
                elif value.kind == "shape":
                    item = Val("number")
                else:
                    item = Val("unknown", tags=value.tags & _GRADIENT_FREE, origins=value.origins)
            self.assign(element.value, item, comment if len(elements) == 1 else "", statement)

    def assign_attribute(self, target: cst.Attribute, value: Val, statement: cst.CSTNode | None) -> None:
        owner = self.eval(target.value)
        if owner.kind == "instance" and isinstance(owner.ref, ClassFlow):
            name = target.attr.value
            flow = owner.ref
            flow.store(name, value)
            self.record("store", statement or target, value=value, name=name, target=owner)
        elif owner.kind == "instance" and isinstance(owner.ref, _Object):
            owner.ref.attributes[target.attr.value] = value
        elif owner.kind == "instance":
            self.record("store", statement or target, value=value, name=target.attr.value, target=owner)

    def assign_item(self, target: cst.Subscript, value: Val, statement: cst.CSTNode | None) -> None:
        container = self.eval(target.value)
        keys = self.subscripts(target)
        name = target.value.value if isinstance(target.value, cst.Name) else ""
        mask = next((key for key in keys if "mask" in key.roles), None)
        if container.kind in ("tensor", "unknown") and mask is not None:
            masked = self.masking(statement or target, container, mask, value, "index assignment", additive=False)
            if name:
                self.env[name] = masked
            elif isinstance(target.value, cst.Attribute):
                self.assign_attribute(target.value, masked, None)
            return
        owner = self.eval(target.value.value) if isinstance(target.value, cst.Attribute) else UNKNOWN
        if container.kind in ("dict", "list") and owner.kind == "instance" and isinstance(owner.ref, ClassFlow):
            # An entry of a container on self is kept like an attribute of that name.
            self.assign_attribute(target.value, Val(container.kind, items=((None, value),)), statement)  # type: ignore[arg-type]
            return
        if name and container.kind in ("dict", "list"):
            key = keys[0].const if keys and keys[0].const is not NOTHING else _pattern(keys[0]) if keys else None
            items = dict(container.items or ())
            items[key] = join(items[key], value) if key in items and key is None else value
            self.env[name] = container.but(items=tuple(items.items()))

    # --- tests and guards --------------------------------------------------------------------------------------

    def test(self, node: cst.BaseExpression) -> None:
        """Evaluate a condition; comparisons in it record what they check."""
        self.eval(node)

    def measured(self, node: cst.BaseExpression) -> tuple[Val | None, str]:
        """The tensor whose rank (`x.dim()`, `len(x.shape)`) or size (`x.shape[-1]`) an expression reads, and which."""
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            if node.func.attr.value in ("dim", "ndimension"):
                return self.eval(node.func.value), "rank"
            if node.func.attr.value == "size":
                return self.eval(node.func.value), "size"
        if (
            isinstance(node, cst.Call)
            and isinstance(node.func, cst.Name)
            and node.func.value in ("len", "tuple", "list")
            and len(node.args) == 1
        ):
            value = self.eval(node.args[0].value)
            if value.kind == "shape":
                return self.measured(node.args[0].value)[0], "rank"
        if isinstance(node, cst.Attribute) and node.attr.value == "ndim":
            return self.eval(node.value), "rank"
        if isinstance(node, cst.Attribute) and node.attr.value == "shape":
            return self.eval(node.value), "rank"  # comparing whole shapes compares ranks, too
        if isinstance(node, cst.Subscript):
            subject, what = self.measured(node.value)
            return subject, "size" if what else ""
        if isinstance(node, cst.Name):
            value = self.env.get(node.value, UNKNOWN)
            if value.kind in ("shape", "number") and isinstance(value.ref, tuple) and value.ref[0] == "measure":
                return value.ref[1], value.ref[2]
        return None, ""

    def refine(self, node: cst.BaseExpression, *, truth: bool) -> None:
        """Take over what a condition says about names: ranks and None."""
        if isinstance(node, cst.BooleanOperation):
            if isinstance(node.operator, cst.And) == truth:
                self.refine(node.left, truth=truth)
                self.refine(node.right, truth=truth)
            return
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Not):
            self.refine(node.expression, truth=not truth)
            return
        if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
            self.refine_comparison(node, truth=truth)

    def refine_comparison(self, node: cst.Comparison, *, truth: bool) -> None:
        operator, right = node.comparisons[0].operator, node.comparisons[0].comparator
        if isinstance(node.left, cst.Name) and isinstance(right, cst.Name) and right.value == "None":
            is_none = isinstance(operator, (cst.Is, cst.Equal)) == truth
            value = self.env.get(node.left.value)
            if value is not None:
                self.env[node.left.value] = NONE.but(origins=value.origins) if is_none else value
            return
        subject = _rank_subject(node.left)
        bound = self.eval(right).const
        if subject is None or not isinstance(bound, int) or subject not in self.env:
            return
        value = self.env[subject]
        if not value.is_tensorish:
            return
        if (isinstance(operator, cst.Equal) and truth) or (isinstance(operator, cst.NotEqual) and not truth):
            self.env[subject] = value.but(rank=bound, tags=value.tags | {"rank_guarded"})
        elif (
            isinstance(operator, (cst.LessThan, cst.LessThanEqual, cst.NotEqual))
            if truth
            else isinstance(operator, cst.Equal)
        ):
            self.env[subject] = value.but(tags=value.tags | {"rank_guarded"})

    # --- expressions -------------------------------------------------------------------------------------------

    def eval(self, node: cst.BaseExpression) -> Val:
        """What an expression may be."""
        self.interpreter.budget -= 1
        if self.interpreter.budget < 0:
            return UNKNOWN
        handler = _HANDLERS.get(type(node))
        return handler(self, node) if handler else UNKNOWN

    def name(self, node: cst.Name) -> Val:
        name = node.value
        value = self.env.get(name)
        if value is not None:
            return value
        if name in ("True", "False", "None"):
            return constant({"True": True, "False": False, "None": None}[name])
        return self.global_name(name)

    def global_name(self, name: str) -> Val:
        if name in self.local_imports:
            symbol = self.interpreter.models.project.lookup_absolute(self.module.path, self.local_imports[name])
        else:
            symbol = self.module.lookup(name)
        return self.symbol(symbol)

    def symbol(self, symbol: Any) -> Val:
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
        project = self.interpreter.models.project
        index = project.index(symbol.path)
        node = index.constants[symbol.name] if index else None
        if isinstance(node, ast.Call) and len(node.args) == 1 and isinstance(node.args[0], ast.Name):
            wrapped = project.lookup(symbol.path, node.args[0].id)
            if (
                project.lookup(symbol.path, ast.unparse(node.func)).name in facts.COMPILER_DISABLED
                and wrapped.path is not None
            ):
                return Val("func", ref=wrapped, tags=frozenset({"disabled"}))
        if isinstance(node, (ast.List, ast.Tuple)) and all(isinstance(e, ast.Constant) for e in node.elts):
            return sequence("list" if isinstance(node, ast.List) else "tuple", [constant(e.value) for e in node.elts])  # type: ignore[attr-defined]
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

    def attribute(self, node: cst.Attribute) -> Val:
        owner = self.eval(node.value)
        return self.member(owner, node.attr.value, node)

    def member(self, owner: Val, name: str, node: cst.CSTNode) -> Val:
        kind = owner.kind
        if kind == "ext":
            qualified = f"{owner.ref}.{name}"
            if qualified in facts.DTYPE_NAMES:
                return Val("dtype", const=facts.DTYPE_NAMES[qualified])
            value = external_constant(qualified)
            return constant(value) if value is not NotImplemented else Val("ext", ref=qualified)
        if kind == "module":
            return self.symbol(self.interpreter.models.project.lookup(owner.ref, name))
        if kind == "finfo":
            return Val("number", tags=frozenset({"finfo_min"})) if name == "min" else Val("number")
        if kind == "instance":
            return self.instance_member(owner, name)
        if kind == "class":
            return self.class_member(owner, name)
        if kind == "dist":
            return self.distribution_member(owner, name)
        if name == "shape":
            return Val(
                "shape",
                rank=owner.rank,
                ref=node.value.value if isinstance(node, cst.Attribute) and isinstance(node.value, cst.Name) else None,
            )
        if named := _named_kind(name):
            return Val(named, ref="given")
        if name in ("ndim", "is_cuda", "requires_grad", "itemsize"):
            return Val("number")
        if name in ("data", "mT", "T", "real"):
            return owner if owner.kind == "tensor" else UNKNOWN
        if kind == "layer":
            return Val("unknown", tags=frozenset({"of_layer"}), ref=(owner.ref, name))
        role = role_names.tensor_role(name)
        return with_role(Val("unknown"), role) if role else UNKNOWN

    def instance_member(self, owner: Val, name: str) -> Val:
        if isinstance(owner.ref, ClassFlow):
            flow = owner.ref
            function = flow.model.method(name)
            if function is not None:
                if "property" in function.decorators or "functools.cached_property" in function.decorators:
                    return self.invoke(function, owner, (), {}, None)
                return Val("bound", ref=(function, owner))
            value = flow.attribute(name)
            if value is not None and (value.kind != "unknown" or value.roles):
                named = value.kind == "tensor" and not value.roles
                return with_role(value, role_names.tensor_role(name)) if named else value
            if kind := _named_kind(name):
                return Val(kind)
            role = role_names.tensor_role(name)
            return with_role(UNKNOWN, role) if role else UNKNOWN
        if isinstance(owner.ref, _Object):
            function = owner.ref.model.method(name)
            if function is not None:
                if "property" in function.decorators:
                    return self.invoke(function, owner, (), {}, None)
                return Val("bound", ref=(function, owner))
            known = owner.ref.attributes.get(name)
            if known is None:
                known = self.field_default(owner.ref.model, name)
            base = owner.ref.attributes.get(_BASE)
            return known if known is not None else self.distribution_member(base, name) if base is not None else UNKNOWN
        model = _class_of(owner, self.interpreter)
        if model is not None:
            function = model.method(name)
            if function is not None:
                return Val("bound", ref=(function, owner))
            if model.is_network:
                flow = self.interpreter.flow(model)
                flow.build()
                known = flow.attribute(name)
                if known is not None:
                    return known
            default = self.field_default(model, name)
            if default is not None:
                return default
        return UNKNOWN

    def field_default(self, model: ClassModel, name: str) -> Val | None:
        """The default of a dataclass field: what configuration objects hold unless somebody says otherwise."""
        for ancestor in model.lineage:
            if name in ancestor.constants and name in ancestor.annotated_fields:
                return self.interpreter.constant_of(ancestor.module, ancestor.constants[name])
        return None

    def class_member(self, owner: Val, name: str) -> Val:
        model = self.interpreter.models.find_class(owner.ref)
        if model is None:
            return UNKNOWN
        function = model.method(name)
        if function is not None:
            return Val("bound", ref=(function, None))
        for ancestor in model.lineage:
            if name in ancestor.constants:
                return self.interpreter.constant_of(ancestor.module, ancestor.constants[name])
        return UNKNOWN

    def distribution_member(self, owner: Val, name: str) -> Val:
        logits = owner.item("logits") or UNKNOWN
        if name == "logits":
            return tensor(logits.rank, "log_prob", tags=logits.tags & _CARRIED | {"logp"}, masked=logits.masked)
        if name == "probs":
            return tensor(logits.rank, "probs", tags=logits.tags & _CARRIED | {"p"}, masked=logits.masked)
        return UNKNOWN

    def subscripts(self, node: cst.Subscript) -> list[Val]:
        found = []
        for element in node.slice:
            if isinstance(element.slice, cst.Index):
                found.append(self.eval(element.slice.value))
            else:
                found.append(Val("slice"))
        return found

    def subscript(self, node: cst.Subscript) -> Val:
        container = self.eval(node.value)
        keys = self.subscripts(node)
        if container.kind in ("tuple", "list", "dict") and len(keys) == 1:
            return self.lookup_item(container, keys[0])
        if container.kind == "layer" and isinstance(container.ref, tuple):
            return container
        if container.kind == "shape":
            return Val("number")
        if container.kind in ("tensor", "unknown"):
            return self.index(container, node, keys)
        return UNKNOWN

    def lookup_item(self, container: Val, key: Val) -> Val:
        if (
            container.kind == "dict"
            and isinstance(container.ref, tuple)
            and container.ref[0] == "each"
            and not container.items
        ):
            role = next(iter(sorted(container.roles)), "")
            item = with_role(tensor() if "tensors" in container.tags else UNKNOWN, role)
            return item.but(origins=container.origins)
        if key.const is not NOTHING:
            found = container.item(key.const)
            if found is None and isinstance(key.const, int) and key.const < 0 and container.items:
                found = container.item(len(container.items) + key.const)
            if found is None and container.items:
                loose = [
                    v
                    for k, v in container.items
                    if k is None or (isinstance(k, _Pattern) and isinstance(key.const, str) and k.matches(key.const))
                ]
                found = join_all(loose) if loose else None
            if found is not None:
                return found
            if container.items is not None and container.kind != "dict":
                return UNKNOWN
        pattern = _pattern(key)
        if container.items:
            if isinstance(pattern, _Pattern):
                matching = [value for name, value in container.items if isinstance(name, str) and pattern.matches(name)]
                if matching:
                    return join_all(matching)
            if key.const is NOTHING and key.kind != "slice":
                return join_all([value for name, value in container.items])
        if key.kind == "slice":
            return container.but(items=None)
        if container.roles and not container.items:
            return Val(
                "unknown", roles=container.roles, origins=container.origins, tags=container.tags & _GRADIENT_FREE
            )
        return UNKNOWN

    def index(self, value: Val, node: cst.Subscript, keys: list[Val]) -> Val:
        if value.kind == "unknown" and "of_layer" in value.tags:
            return UNKNOWN
        rank = value.rank
        made = value.made
        for element, key in zip(node.slice, keys, strict=True):
            expression = element.slice.value if isinstance(element.slice, cst.Index) else None
            if key.kind == "slice" or isinstance(expression, cst.Ellipsis):
                continue
            if key.kind == "none":
                rank = rank + 1 if rank is not None else None
                if value.origins and (
                    "rank_guarded" in value.tags or ("rank_test" in self.contexts and "mask" in value.roles)
                ):
                    self.record("lift", node, value=value)
            elif key.kind == "number":
                rank = (
                    rank - 1
                    if (rank is not None and key.const is not NOTHING) or (rank is not None and key.kind == "number")
                    else None
                )
            else:
                rank, made = None, EMPTY
        return value.but(rank=rank, made=made, tags=value.tags - {"rank_guarded"}, ref=None)

    def binary_node(self, node: cst.BinaryOperation) -> Val:
        left, right = self.eval(node.left), self.eval(node.right)
        return self.binary(type(node.operator).__name__, left, right, node)

    def binary(self, operator: str, left: Val, right: Val, node: cst.CSTNode) -> Val:
        if left.kind in ("number", "bool") and right.kind in ("number", "bool"):
            value = fold(operator, left.const, right.const)
            if value is not NotImplemented:
                return constant(value)
            return Val(
                "number", tags=(left.tags | right.tags) & {"finfo_min"} if operator in ("Divide", "Multiply") else EMPTY
            )
        if (
            left.kind == "str"
            or right.kind == "str"
            or (left.kind in ("list", "tuple") and right.kind in ("list", "tuple", "number"))
        ):
            return self.sequence_binary(operator, left, right)
        for side in (left, right):
            if side.kind not in ("tensor", "unknown", "number", "bool"):
                return UNKNOWN
        if operator == "Multiply":
            for ones, factor in ((left, right), (right, left)):
                if "ones" in ones.tags and factor.kind == "number" and constant_key(factor) is not None:
                    return ones.but(const=factor.const, tags=factor.tags & {"finfo_min"}, made=EMPTY)
        bias = self.mask_arithmetic(operator, left, right)
        if bias is not None:
            return bias
        if operator in ("Add", "Subtract"):
            masked = self.additive(operator, left, right, node)
            if masked is not None:
                return masked
        tags = (left.tags | right.tags) & _CARRIED
        if operator == "Multiply":
            self.product(left, right, node)
        if operator == "Divide":
            self.record("divide", node, target=left, other=right)
        if operator == "Subtract" and "lse" in right.tags:
            tags = tags | {"logp"}
        if operator == "Multiply" and (
            "p_logp" in left.tags or "p_logp" in right.tags or {"p", "logp"} <= (left.tags | right.tags)
        ):
            tags = tags | {"p_logp"}
        if "tensor" not in (left.kind, right.kind):
            roles = (left.roles if right.kind == "number" else EMPTY) & {"logits"}
            return self.touched(Val("unknown", tags=tags, roles=roles, masked=left.masked | right.masked))
        keep = {"logits", "value", "log_prob"} if operator in ("Add", "Subtract", "Divide", "Multiply") else set()
        tensors = [side for side in (left, right) if side.kind == "tensor"]
        ranks = {side.rank for side in tensors}
        rank = None if None in ranks or any(s.kind == "unknown" for s in (left, right)) else max(ranks)  # type: ignore[type-var]
        roles = left.roles & keep if left.kind == "tensor" else right.roles & keep
        if "entropy" in left.roles | right.roles:
            roles = roles | {"entropy"}
        return self.touched(tensor(rank, tags=tags, masked=left.masked | right.masked).but(roles=roles))

    def sequence_binary(self, operator: str, left: Val, right: Val) -> Val:
        if (
            operator == "Add"
            and left.kind == right.kind
            and left.items is not None
            and right.items is not None
            and left.kind in ("list", "tuple")
        ):
            return sequence(left.kind, [*left.elements(), *right.elements()])
        if operator == "Multiply" and left.items is not None and isinstance(right.const, int) and right.const <= 4:
            return sequence(left.kind, [*left.elements()] * right.const)
        if operator == "Multiply" and left.items is not None:
            return left.but(items=left.items)
        if operator == "Add" and left.kind == "str" and right.kind == "str":
            if isinstance(left.const, str) and isinstance(right.const, str):
                return constant(left.const + right.const)
            return Val(
                "str",
                ref=_Pattern(
                    left.const if isinstance(left.const, str) else "",
                    right.const if isinstance(right.const, str) else "",
                ),
            )
        return UNKNOWN

    def mask_arithmetic(self, operator: str, left: Val, right: Val) -> Val | None:
        """`1 - mask`, `mask - 1`, and their products with a large constant: the additive way to mask."""
        if (
            operator == "Subtract"
            and "mask" in right.roles
            and left.const in (1, 1.0, True)
            and left.const is not NOTHING
        ):
            return right.but(tags=right.tags ^ {"negated"})
        if operator == "Subtract" and "mask" in left.roles and right.const in (1, 1.0) and right.const is not NOTHING:
            return left.but(tags=left.tags | {"minus_one"})
        if operator == "Multiply":
            for mask, factor in ((left, right), (right, left)):
                if "mask" in mask.roles and factor.kind == "number":
                    known = constant_key(factor)
                    if known is None:
                        return None
                    if isinstance(known, float) and "minus_one" in mask.tags:
                        known = -known
                    if isinstance(known, str) or abs(known) >= 10:
                        return mask.but(
                            roles=frozenset({"mask_bias"}),
                            const=NOTHING,
                            ref=("bias", known),
                            tags=mask.tags - {"negated", "minus_one"},
                        )
        return None

    def additive(self, operator: str, left: Val, right: Val, node: cst.CSTNode) -> Val | None:
        for bias, target in ((right, left), (left, right)):
            if "mask_bias" in bias.roles and isinstance(bias.ref, tuple) and target.is_tensorish:
                known = bias.ref[1]
                if operator == "Subtract" and isinstance(known, float):
                    known = -known
                value = constant(known) if known is not None else UNKNOWN
                return self.masking(node, target, bias.but(roles=frozenset({"mask"})), value, "addition", additive=True)
        return None

    def product(self, left: Val, right: Val, node: cst.CSTNode) -> None:
        both = left.tags | right.tags
        if ("p" in left.tags and "logp" in right.tags) or ("logp" in left.tags and "p" in right.tags):
            self.record("product", node, target=left, other=right, name="neg_inf" if "neg_inf" in both else "")

    def touched(self, value: Val) -> Val:
        """A tensor that an operation made here: born under no_grad or inference mode when one is in force."""
        born = self.contexts & _GRADIENT_FREE
        if born and value.is_tensorish:
            return value.but(tags=value.tags | born)
        return value

    def unary(self, node: cst.UnaryOperation) -> Val:
        value = self.eval(node.expression)
        operator = node.operator
        if isinstance(operator, cst.Minus):
            if isinstance(value.const, (int, float)) and not isinstance(value.const, bool):
                return constant(-value.const)
            return self.touched(
                value.but(
                    made=EMPTY,
                    tags=value.tags - {"finfo_min"} | ({"finfo_max"} if "finfo_min" in value.tags else set()),
                )
            )
        if isinstance(operator, cst.BitInvert) and "mask" in value.roles:
            return value.but(tags=value.tags ^ {"negated"})
        if isinstance(operator, cst.Not):
            return Val("bool")
        return value.but(const=NOTHING, made=EMPTY)

    def comparison(self, node: cst.Comparison) -> Val:
        for side in (node.left, *(target.comparator for target in node.comparisons)):
            if not isinstance(side, (cst.Name, cst.Call, cst.Attribute, cst.Subscript)):
                continue
            subject, what = self.measured(side)
            if subject is not None and subject.origins:
                self.record(f"{what}_check", node, value=subject)
        left = self.eval(node.left)
        rights = [self.eval(target.comparator) for target in node.comparisons]
        if len(rights) == 1 and left.is_tensorish and "mask" in left.roles and rights[0].kind in ("number", "bool"):
            operator, bound = node.comparisons[0].operator, rights[0].const
            negates = (
                (isinstance(operator, cst.Equal) and bound in (0, 0.0, False))
                or isinstance(operator, (cst.LessThan, cst.LessThanEqual))
                or (isinstance(operator, cst.NotEqual) and bound in (1, True))
            )
            return left.but(dtype="bool", tags=left.tags ^ {"negated"} if negates else left.tags)
        if "tensor" in (left.kind, *(r.kind for r in rights)):
            return tensor(left.rank, dtype="bool")
        return Val("bool")

    def boolean(self, node: cst.BooleanOperation) -> Val:
        left = self.eval(node.left)
        right = self.eval(node.right)
        return join(left, right) if isinstance(node.operator, cst.Or) else Val("bool")

    def conditional(self, node: cst.IfExp) -> Val:
        self.test(node.test)
        known = self.decided(node.test)
        if known is not None:
            return self.eval(node.body if known else node.orelse)
        before, contexts = self.env, self.contexts
        self.env = dict(before)
        self.refine(node.test, truth=True)
        self.contexts = contexts | _guards(self, node.test, truth=True)
        then = self.eval(node.body)
        self.env = dict(before)
        self.refine(node.test, truth=False)
        self.contexts = contexts | _guards(self, node.test, truth=False)
        other = self.eval(node.orelse)
        self.env, self.contexts = before, contexts
        return join(then, other)

    def tuple_(self, node: cst.Tuple | cst.List) -> Val:
        kind = "tuple" if isinstance(node, cst.Tuple) else "list"
        values: list[Val] = []
        for element in node.elements:
            value = self.eval(element.value)
            if isinstance(element, cst.StarredElement):
                if value.items is None or value.kind == "dict":
                    return Val(kind)
                values.extend(value.elements())
            else:
                values.append(value)
        result = sequence(kind, values)
        return (
            result.but(roles=frozenset({"hidden"})) if values and all("hidden" in v.roles for v in values) else result
        )

    def dict_(self, node: cst.Dict) -> Val:
        items: dict[Any, Val] = {}
        for element in node.elements:
            if isinstance(element, cst.DictElement):
                key = self.eval(element.key)
                items[key.const if key.const is not NOTHING else _pattern(key)] = self.eval(element.value)
            else:
                items.update(dict(self.eval(element.value).items or ()))
        return Val("dict", items=tuple(items.items()))

    def comprehension(self, node: cst.ListComp | cst.GeneratorExp | cst.SetComp) -> Val:
        before = dict(self.env)
        self.comp_for(node.for_in)
        element = self.eval(node.elt)
        count = self.literal_count(node.for_in)
        self.env = before
        return sequence("list", [element] * count) if count else Val("list", items=((None, element),))

    def literal_count(self, node: cst.CompFor) -> int:
        if (
            isinstance(node.iter, cst.Call)
            and isinstance(node.iter.func, cst.Name)
            and node.iter.func.value == "range"
            and len(node.iter.args) == 1
        ):
            value = self.eval(node.iter.args[0].value).const
            if isinstance(value, int) and 0 < value <= 4:
                return value
        return 0

    def dict_comprehension(self, node: cst.DictComp) -> Val:
        before = dict(self.env)
        self.comp_for(node.for_in)
        key, value = self.eval(node.key), self.eval(node.value)
        self.env = before
        return Val("dict", items=((_pattern(key), value),))

    def comp_for(self, node: cst.CompFor) -> None:
        self.bind_loop(node.target, self.eval(node.iter))
        for condition in node.ifs:
            self.test(condition.test)
        if node.inner_for_in:
            self.comp_for(node.inner_for_in)

    def number(self, node: cst.Integer | cst.Float) -> Val:
        return constant(literal_number(node))

    def string(self, node: cst.SimpleString) -> Val:
        value = literal_string(node)
        return Val("str") if value is None else constant(value) if value != "finfo.min" else Val("str", const=value)

    def formatted(self, node: cst.FormattedString) -> Val:
        prefix, suffix, seen = "", "", False
        for part in node.parts:
            if isinstance(part, cst.FormattedStringText):
                if seen:
                    suffix += part.value
                else:
                    prefix += part.value
            elif isinstance(part, cst.FormattedStringExpression):
                value = self.eval(part.expression)
                text = value.const if isinstance(value.const, str) else None
                if text is not None and not seen:
                    prefix += text
                else:
                    seen, suffix = True, ""
        return Val("str", ref=_Pattern(prefix, suffix)) if seen else constant(prefix)

    def named(self, node: cst.NamedExpr) -> Val:
        value = self.eval(node.value)
        self.assign(node.target, value, "", None)
        return value

    def await_(self, node: cst.Await) -> Val:
        return self.eval(node.expression)

    # --- calls -------------------------------------------------------------------------------------------------

    def arguments(self, node: cst.Call) -> tuple[tuple[Val, ...], dict[str, Val]]:
        args: list[Val] = []
        kwargs: dict[str, Val] = {}
        for arg in node.args:
            value = self.eval(arg.value)
            if arg.star == "*":
                if value.items is not None and value.kind in ("tuple", "list"):
                    args.extend(value.elements())
                else:
                    args.append(Val("starred"))
            elif arg.star == "**":
                kwargs.update({k: v for k, v in (value.items or ()) if isinstance(k, str)})
                kwargs.setdefault("**", UNKNOWN)
            elif arg.keyword is not None:
                kwargs[arg.keyword.value] = value
            else:
                args.append(value)
        return tuple(args), kwargs

    def call(self, node: cst.Call) -> Val:
        func = node.func
        if isinstance(func, cst.Name) and func.value == "super":
            return Val("super")
        if isinstance(func, cst.Attribute):
            owner = self.eval(func.value)
            args, kwargs = self.arguments(node)
            result = self.method_call(node, owner, func.attr.value, args, kwargs)
            layer = (
                owner.kind == "instance" and isinstance(owner.ref, ClassFlow) and owner.ref.attribute(func.attr.value)
            )
            return _from_layer(result, func.attr.value) if layer and layer.kind in ("layer", "instance") else result
        callee = self.eval(func)
        args, kwargs = self.arguments(node)
        if callee.kind == "ext":
            return self.external(node, str(callee.ref), args, kwargs)
        return self.call_value(node, callee, args, kwargs)

    def method_call(self, node: cst.Call, owner: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        kind = owner.kind
        if kind == "ext":
            return self.external(node, f"{owner.ref}.{name}", args, kwargs)
        if kind == "super":
            return self.super_call(node, name, args, kwargs)
        if kind in ("instance", "class", "module"):
            return self.object_method(node, owner, name, args, kwargs)
        if kind == "dist":
            return self.distribution_call(node, owner, name, args)
        if kind in ("dict", "list", "tuple"):
            return self.container_call(node, owner, name, args)
        if kind == "layer":
            return self.layer_method(node, owner, name, args, kwargs)
        if kind == "unknown" and name in ("items", "values", "keys") and not args:
            return self.container_call(
                node, Val("dict", roles=owner.roles, origins=owner.origins, ref=("each", name)), name, args
            )
        result = self.tensor_method(node, owner, name, args, kwargs)
        self.record("call", node, name=f".{name}", target=owner, args=args, kwargs=kwargs, value=result)
        return self.touched(result)

    def object_method(
        self, node: cst.Call, owner: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]
    ) -> Val:
        callee = self.member(owner, name, node)
        if owner.kind == "instance" and callee.kind == "unknown":
            if isinstance(owner.ref, _Object) and _BASE in owner.ref.attributes:
                return self.distribution_call(node, owner.ref.attributes[_BASE], name, args)
            if name in (
                "to",
                "cuda",
                "cpu",
                "eval",
                "train",
                "half",
                "double",
                "float",
                "bfloat16",
                "requires_grad_",
                "share_memory",
            ):
                return owner
            if name == "compile":
                self.record("call", node, name=".compile", target=owner, args=args, kwargs=kwargs)
                return NONE
            if (
                name == "register_buffer"
                and args
                and isinstance(args[0].const, str)
                and isinstance(owner.ref, ClassFlow)
            ):
                owner.ref.store(args[0].const, (args[1] if len(args) > 1 else UNKNOWN).but(made=EMPTY))
                return NONE
            self.record("call", node, name=f".{name}", target=owner, args=args, kwargs=kwargs)
            role = role_names.tensor_role(name)
            return with_role(UNKNOWN, role)
        if owner.kind == "module" and callee.kind == "ext":
            return self.external(node, str(callee.ref), args, kwargs)
        return self.call_value(node, callee, args, kwargs)

    def super_call(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        owner = self.function.owner
        if owner is None:
            return UNKNOWN
        me = self.env.get(self.function.params[0].name, UNKNOWN) if self.function.params else UNKNOWN
        model = self.flow.model if self.flow is not None else me.ref.model if isinstance(me.ref, _Object) else None
        if model is None:
            return UNKNOWN
        lineage = model.lineage
        start = next((i for i, m in enumerate(lineage) if m.node is owner.node), 0) + 1
        for model in lineage[start:]:
            if name in model.own_methods:
                return self.invoke(
                    model.own_methods[name], self.flow.self_value if self.flow is not None else me, args, kwargs, node
                )
        external = self.external_base(lineage[0])
        if isinstance(me.ref, _Object) and facts.is_distribution(external):
            if name == "__init__":
                me.ref.attributes[_BASE] = self.distribution(node, external, args, kwargs)
                return NONE
            return self.distribution_call(node, me.ref.attributes.get(_BASE, UNKNOWN), name, args)
        return UNKNOWN

    def call_value(self, node: cst.Call, callee: Val, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        kind = callee.kind
        if kind == "bound":
            function, bound = callee.ref
            return self.invoke(function, bound, args, kwargs, node)
        if kind == "func":
            function = (
                callee.ref if isinstance(callee.ref, Function) else self.interpreter.models.find_function(callee.ref)
            )
            if function is None:
                return UNKNOWN
            if "disabled" in callee.tags:
                self.record("call", node, name="torch.compiler.disable", args=args, kwargs=kwargs)
            return self.invoke(function, None, args, kwargs, node)
        if kind == "class":
            return self.construct(node, callee, args, kwargs)
        if kind == "layer":
            return self.touched_all(self.layer_call(node, callee, args, kwargs))
        if kind == "instance":
            return self.instance_call(node, callee, args, kwargs)
        self.record("call", node, name=".", target=callee, args=args, kwargs=kwargs)
        return UNKNOWN

    def instance_call(self, node: cst.Call, callee: Val, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        model = _class_of(callee, self.interpreter)
        forward = (model.method("forward") or model.method("__call__")) if model is not None else None
        if forward is None:
            self.record("call", node, name=".", target=callee, args=args, kwargs=kwargs)
            return UNKNOWN
        return self.invoke(forward, callee, args, kwargs, node, called="__call__")

    def invoke(
        self,
        function: Function,
        bound: Val | None,
        args: tuple[Val, ...],
        kwargs: dict[str, Val],
        node: cst.Call | None,
        *,
        called: str = "",
    ) -> Val:
        """Call a project function abstractly and record the call."""
        flow = None
        if bound is not None and bound.kind == "instance":
            model = _class_of(bound, self.interpreter)
            if isinstance(bound.ref, ClassFlow):
                flow = bound.ref
            elif model is not None and model.is_network:
                flow = self.interpreter.flow(model)
                flow.build()
        values = self.bind(function, flow, bound, args, kwargs)
        frame = self.run_or_recall(function, flow, bound, values)
        result = frame.result
        if result.kind in ("unknown", "none") and not result.roles and function.is_abstract:
            result = self.interpreter.annotated(
                function.module, function.node.returns.annotation if function.node.returns else None
            )
        if node is not None:
            self.record(
                "call",
                node,
                name=called or function.name,
                target=bound or UNKNOWN,
                args=args,
                kwargs=kwargs,
                callee=function,
                frame=frame,
                value=result,
            )
        return result

    def run_or_recall(
        self, function: Function, flow: ClassFlow | None, bound: Val | None, values: dict[str, Val]
    ) -> Frame:
        """The run of a call; an equal call before gives the same one, with its assignments to self made again."""
        interpreter = self.interpreter
        if bound is not None and isinstance(bound.ref, _Object):
            return interpreter.execute(function, flow, values, self.contexts)  # its attributes are not part of a key
        overlay = frozenset(flow.run_attributes.items()) if flow is not None else EMPTY
        key = (id(function.node), id(flow), self.contexts & _GRADIENT_FREE, overlay, tuple(values.items()))
        frame = interpreter.memo.get(key)
        if frame is None:
            cut = interpreter.cuts
            frame = interpreter.execute(function, flow, values, self.contexts)
            if interpreter.cuts == cut and interpreter.budget > 0:
                interpreter.memo[key] = frame
        else:
            for event, _ in frame.walk():
                if event.kind == "store" and isinstance(event.target.ref, ClassFlow):
                    event.target.ref.store(event.name, event.value)
        return frame

    def bind(
        self,
        function: Function,
        flow: ClassFlow | None,
        bound: Val | None,
        args: tuple[Val, ...],
        kwargs: dict[str, Val],
    ) -> dict[str, Val]:
        values: dict[str, Val] = {}
        params = list(function.params)
        static = "staticmethod" in function.decorators
        if function.owner is not None and not static and params:
            if bound is not None:
                values[params[0].name] = flow.self_value if flow is not None else bound
                params = params[1:]
            elif "classmethod" in function.decorators:
                values[params[0].name] = UNKNOWN
                params = params[1:]
        position = 0
        unknown_from = next((i for i, a in enumerate(args) if a.kind == "starred"), None)
        for param in params:
            if (
                param.kind == "positional"
                and position < len(args)
                and (unknown_from is None or position < unknown_from)
            ):
                values[param.name] = self.passed(function, param, args[position])
                position += 1
            elif param.name in kwargs:
                values[param.name] = self.passed(function, param, kwargs[param.name])
            elif param.default is not None and unknown_from is None and "**" not in kwargs:
                values[param.name] = self.interpreter.constant_of(function.module, param.default)
            elif param.kind == "star":
                values[param.name] = sequence("tuple", list(args[position:])) if unknown_from is None else UNKNOWN
            else:
                values[param.name] = self.interpreter.declared(function, param, flow).but(origins=EMPTY)
        return values

    def passed(self, function: Function, param: Any, value: Val) -> Val:
        """An argument as the callee sees it: its own facts, and the role that the parameter's name gives it.

        It also remembers that it came in through this parameter (`forward/mask`), so that what the callee does to its
        argument can be told apart from what it does to other values of the same origin.
        """
        if not value.is_tensorish:
            return value
        role = role_names.tensor_role(param.name)
        if (
            (role and not value.roles)
            or (role == "mask" and not value.roles & {"mask", "mask_bias", "hidden", "logits"})
            or (role == "logits" and not value.roles & {"mask", "hidden", "logits"})
        ):
            value = with_role(value, role)
        return value.but(origins=value.origins | {f"{function.name}/{param.name}"})

    def construct(self, node: cst.Call, callee: Val, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        symbol = callee.ref
        models = self.interpreter.models
        if models.project.is_network(symbol.path, symbol.name):
            result = Val("instance", ref=symbol, tags=frozenset({"network"}))
            self.record("call", node, name=symbol.name, args=args, kwargs=kwargs, callee=symbol, value=result)
            return result
        model = models.find_class(symbol)
        if model is None:
            return UNKNOWN
        if _is_dataclass(model):
            given = {
                **dict(zip(model.annotated_fields, args, strict=False)),
                **{k: v for k, v in kwargs.items() if k in model.annotated_fields},
            }
            result = Val("instance", ref=_Object(model, given), items=tuple(given.items()), tags=frozenset({"record"}))
            self.record("call", node, name=model.name, args=args, kwargs=kwargs, callee=symbol, value=result)
            return result
        instance = Val("instance", ref=_Object(model, {}))
        init = model.method("__init__")
        frame = None
        if init is not None and self.interpreter.budget > 0:
            values = self.bind(init, None, instance, args, kwargs)
            frame = self.interpreter.execute(init, None, values, self.contexts)
        elif init is None:
            external = self.external_base(model)
            if external and facts.is_distribution(external):
                instance.ref.attributes[_BASE] = self.distribution(node, external, args, kwargs)
        self.record(
            "call", node, name=model.name, args=args, kwargs=kwargs, callee=init or symbol, frame=frame, value=instance
        )
        return instance

    def external_base(self, model: ClassModel) -> str:
        for ancestor in model.lineage:
            for base in ancestor.base_names:
                symbol = ancestor.module.lookup(base)
                if symbol.path is None and "." in symbol.name:
                    return str(symbol.name)
        return ""

    # --- torch ---------------------------------------------------------------------------------------------------

    def external(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        result = self.external_value(node, name, args, kwargs)
        self.record("call", node, name=name, args=args, kwargs=kwargs, value=result)
        return result

    def external_value(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        if name in facts.SIZE_FACTORIES or name in facts.LEGACY_FACTORIES:
            return self.touched(self.factory(node, name, args, kwargs))
        if name.startswith("torch."):
            return self.torch_call(node, name, args, kwargs)
        if name in (
            "float",
            "int",
            "abs",
            "max",
            "min",
            "len",
            "list",
            "tuple",
            "dict",
            "zip",
            "enumerate",
            "range",
            "reversed",
            "sorted",
            "isinstance",
            "hasattr",
            "getattr",
            "bool",
            "sum",
            "any",
            "all",
            "set",
            "str",
        ):
            return self.builtin(node, name, args, kwargs)
        if name in ("numpy.float32", "numpy.float64", "numpy.float16") and args:
            number = as_float(args[0].const)
            return constant(number) if number is not NotImplemented else Val("number")
        if name == "numpy.finfo":
            return Val("finfo")
        if name in ("math.log", "math.sqrt", "math.prod", "numpy.prod", "numpy.log", "numpy.sqrt"):
            return Val("number")
        if name in ("copy.deepcopy", "copy.copy") and args:
            return args[0]
        return UNKNOWN

    def builtin(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        first = args[0] if args else UNKNOWN
        if name == "float":
            value = as_float(first.const)
            return (
                constant(value)
                if value is not NotImplemented
                else Val("number", tags=first.tags & {"finfo_min", "finfo_max"})
            )
        if name in ("max", "min") and len(args) >= 2:
            return _extreme(name, args)
        if name in ("list", "tuple", "sorted", "reversed", "set"):
            kind = "tuple" if name == "tuple" else "list"
            if first.kind in ("list", "tuple") and first.items is not None:
                return first.but(kind=kind)
            return Val(kind, items=first.items if first.kind == "values" else None)
        if name == "dict":
            given = first.items or () if first.kind == "dict" else _as_items(first)
            return Val("dict", items=tuple({**dict(given), **kwargs}.items()))
        if name == "zip":
            joined = tuple(join_all(a.elements()) if a.items else UNKNOWN for a in args)
            lengths = {len(a.items) if a.items and all(k is not None for k, _ in a.items) else -1 for a in args}
            if len(lengths) == 1 and -1 not in lengths:
                rows = [sequence("tuple", list(row)) for row in zip(*(a.elements() for a in args), strict=True)]
                return sequence("list", rows).but(kind="pairs", ref=joined)
            return Val("pairs", ref=joined)
        if name == "enumerate":
            return Val("pairs", ref=(Val("number"), join_all(first.elements()) if first.items else UNKNOWN))
        if name == "range":
            return Val("list", items=((None, Val("number")),))
        if name == "getattr" and len(args) >= 2 and isinstance(args[1].const, str):
            return self.member(first, args[1].const, node)
        if name == "abs" and isinstance(first.const, (int, float)):
            return constant(abs(first.const))
        if name == "sum" and first.items:
            return join_all(first.elements()).but(const=NOTHING, made=EMPTY)
        if name in ("len", "int", "abs", "sum"):
            return Val("number", ref=None)
        return Val("bool") if name in ("isinstance", "hasattr", "bool", "any", "all") else UNKNOWN

    def factory(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        dtype, device = kwargs.get("dtype"), kwargs.get("device")
        legacy = name in facts.LEGACY_FACTORIES
        sizes = args[:1] if name == "torch.full" else args
        rank = self.size_rank(sizes, kwargs.get("size", kwargs.get("shape")))
        fill = args[1] if name == "torch.full" and len(args) > 1 else kwargs.get("fill_value", UNKNOWN)
        unknown_keywords = "**" in kwargs
        made = Made(
            node,
            self.module,
            name,
            dtype=unknown_keywords
            or (dtype is not None and dtype.kind != "none")
            or (legacy and name != "torch.Tensor" and "Float" not in name),
            device=unknown_keywords or "device" in self.contexts or (device is not None and device.kind != "none"),
        )
        return tensor(
            rank,
            dtype=dtype.const
            if dtype is not None and isinstance(dtype.const, str)
            else "default"
            if dtype is None
            else None,
            const=fill.const if isinstance(fill.const, (int, float)) else NOTHING,
            tags=fill.tags & {"finfo_min"} | {name.rsplit(".", 1)[1]},
            made=frozenset({made}),
        )

    def size_rank(self, sizes: tuple[Val, ...], keyword: Val | None) -> int | None:
        if keyword is not None:
            return (
                len(keyword.items) if keyword.items is not None else keyword.rank if keyword.kind == "shape" else None
            )
        if len(sizes) == 1 and sizes[0].kind in ("tuple", "list"):
            return len(sizes[0].items) if sizes[0].items is not None else None
        if len(sizes) == 1 and sizes[0].kind == "shape":
            return sizes[0].rank
        if any(size.kind in ("starred", "tuple", "list", "shape", "tensor") for size in sizes):
            return None
        if len(sizes) == 1 and sizes[0].kind == "unknown":
            return None  # one unknown argument may be a whole size
        return len(sizes) if sizes else None

    def torch_call(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        short = name.rsplit(".", 1)[1]
        first = args[0] if args else kwargs.get("input", UNKNOWN)
        if facts.is_distribution(name):
            return self.distribution(node, name, args, kwargs)
        if is_torch_module(name):
            return Val(
                "layer",
                ref=(name, node),
                items=tuple(enumerate(args)) if short in ("Sequential", "ModuleList") else None,
            )
        if name == "torch.finfo":
            return Val("finfo")
        if name in facts.LIKE_FACTORIES:
            fill = args[1] if short == "full_like" and len(args) > 1 else kwargs.get("fill_value", UNKNOWN)
            return self.touched(
                tensor(first.rank, const=fill.const, tags=fill.tags & {"finfo_min"} | {short.removesuffix("_like")})
            )
        if name in facts.COMPILE:
            return self.compiled(args, kwargs)
        if name in facts.DATA_FACTORIES:
            return self.data_factory(first, kwargs)
        if name == "torch.autograd.Variable":
            return first
        if name.startswith("torch.nn.Parameter") or name == "torch.nn.parameter.Parameter":
            return first.but(made=EMPTY, kind="tensor", tags=first.tags | {"parameter"})
        if name == "torch.where":
            return self.touched(self.where(node, args))
        if short in ("stack", "cat", "concat", "concatenate", "hstack", "vstack"):
            parts = join_all(first.elements()) if first.items else UNKNOWN
            rank = (
                parts.rank + 1
                if short == "stack" and parts.rank is not None
                else parts.rank
                if short != "stack"
                else None
            )
            return self.touched(parts.but(kind="tensor", rank=rank, const=NOTHING, tags=parts.tags - {"optional"}))
        if name.startswith(("torch.nn.functional.", "torch.special.")) or name.count(".") == 1:
            return self.touched(self.tensor_method(node, first, short, args[1:], kwargs))
        return UNKNOWN

    def data_factory(self, first: Val, kwargs: dict[str, Val]) -> Val:
        dtype = kwargs.get("dtype")
        value = first.const if isinstance(first.const, (int, float)) else NOTHING
        rank = 0 if first.kind in ("number", "bool") else first.rank if first.kind == "tensor" else None
        return self.touched(
            tensor(
                rank,
                const=value,
                dtype=dtype.const if dtype is not None and isinstance(dtype.const, str) else None,
                tags=first.tags & {"finfo_min"},
            ).but(roles=first.roles)
        )

    def compiled(self, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        target = args[0] if args else kwargs.get("model", UNKNOWN)
        if target.kind == "instance":
            return target.but(tags=target.tags | {"compiled"})
        return target

    def where(self, node: cst.Call, args: tuple[Val, ...]) -> Val:
        if len(args) < 3:
            return UNKNOWN
        condition, chosen, other = args[:3]
        if "mask" in condition.roles:
            for logits, fill in ((chosen, other), (other, chosen)):
                if constant_key(fill) is not None and logits.is_tensorish and constant_key(logits) is None:
                    return self.masking(node, logits, condition, fill, "torch.where", additive=False)
            for zero, fill in ((chosen, other), (other, chosen)):
                known = constant_key(fill)
                if zero.const in (0, 0.0) and zero.const is not NOTHING and known is not None and known != 0:
                    return condition.but(roles=frozenset({"mask_bias"}), ref=("bias", known), tags=EMPTY)
        for side in (chosen, other):
            if side.masked:
                return side.but(made=EMPTY)
        result = (
            join(chosen, other)
            if chosen.kind == other.kind == "tensor"
            else tensor(chosen.rank).but(roles=chosen.roles & other.roles)
        )
        return result.but(made=EMPTY, kind="tensor", tags=result.tags - {"p_logp"})

    def masking(self, node: cst.CSTNode, target: Val, mask: Val, fill: Val, spelling: str, *, additive: bool) -> Val:
        """A tensor with some entries replaced: record it and let the value remember."""
        known = constant_key(fill)
        result = target.but(kind="tensor", made=EMPTY, const=NOTHING, ref=None)
        if "zeros" in target.tags and known is not None and known != 0 and not target.roles & {"logits"}:
            # zeros.masked_fill(~mask, -inf) is a bias to be added, no masked logits yet
            return mask.but(roles=frozenset({"mask_bias"}), ref=("bias", known), tags=EMPTY)
        mark = MaskMark(node, self.function, known, additive, mask.origins, self.interpreter.order_of(node))
        event_value = result.but(
            masked=target.masked | {mark}, tags=target.tags | ({"neg_inf"} if known == float("-inf") else EMPTY)
        )
        self.record("mask", node, target=target, other=mask, value=fill, name=spelling)
        return event_value

    def distribution(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        logits = kwargs.get("logits")
        if logits is None:
            logits = args[1] if len(args) > 1 and name in facts.FINITE_DISTRIBUTIONS else UNKNOWN
        probs = kwargs.get("probs", args[0] if args else UNKNOWN)
        subject = logits if logits is not UNKNOWN else probs
        result = Val("dist", ref=name, items=(("logits", subject.but(origins=EMPTY)),))
        self.record("dist", node, name=name, target=subject, args=args, kwargs=kwargs)
        return result

    def distribution_call(self, node: cst.Call, owner: Val, name: str, args: tuple[Val, ...]) -> Val:
        logits = owner.item("logits") or UNKNOWN
        rank = logits.rank - 1 if logits.rank else None
        tags = self.contexts & _GRADIENT_FREE
        role = {
            "log_prob": "log_prob",
            "entropy": "entropy",
            "sample": "action",
            "rsample": "action",
            "mode": "action",
        }.get(name)
        self.record("call", node, name=f".{name}", target=owner, args=args)
        if role:
            return tensor(rank if owner.ref in facts.FINITE_DISTRIBUTIONS else None, role, tags=tags)
        return UNKNOWN

    def container_call(self, node: cst.Call, owner: Val, name: str, args: tuple[Val, ...]) -> Val:
        if name == "items":
            element = join_all(owner.elements()) if owner.items else self.lookup_item(owner, Val("str"))
            return Val("pairs", ref=(Val("str"), element))
        if name == "values":
            return Val("list", items=owner.items or ((None, self.lookup_item(owner, Val("str"))),))
        if name == "keys":
            return Val("list", items=tuple(enumerate(constant(k) for k, _ in owner.items or () if isinstance(k, str))))
        if name in ("get", "pop", "__getitem__") and args:
            found = self.lookup_item(owner, args[0])
            return join(found, args[1]) if len(args) > 1 else found
        func = node.func
        if name == "append" and args and isinstance(func, cst.Attribute) and isinstance(func.value, cst.Name):
            items = dict(owner.items or ())
            items[len(items)] = args[0]
            self.env[func.value.value] = owner.but(items=tuple(items.items()))
            return NONE
        return UNKNOWN

    def layer_method(self, node: cst.Call, owner: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        if name == "forward":
            return self.touched_all(self.layer_call(node, owner, args, kwargs))
        if name in ("to", "cuda", "cpu", "eval", "train", "double", "half", "float", "requires_grad_", "apply"):
            return owner
        self.record("call", node, name=f".{name}", target=owner, args=args, kwargs=kwargs)
        return UNKNOWN

    def layer_call(self, node: cst.Call, layer: Val, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        name = layer.ref[0] if isinstance(layer.ref, tuple) and isinstance(layer.ref[0], str) else ""
        first = args[0] if args else kwargs.get("input", UNKNOWN)
        self.record("call", node, name=name, target=layer, args=args, kwargs=kwargs, callee="layer")
        if name in facts.RECURRENT:
            state = tensor(3, "hidden")
            hidden = (
                sequence("tuple", [state, state]).but(roles=frozenset({"hidden"})) if name in facts.LSTM_LIKE else state
            )
            return sequence("tuple", [tensor(first.rank, "features"), hidden])
        if name in facts.CELLS:
            state = tensor(2, "hidden")
            return (
                sequence("tuple", [state, state]).but(roles=frozenset({"hidden"})) if name in facts.LSTM_LIKE else state
            )
        short = name.rsplit(".", 1)[-1]
        if short == "Embedding":
            return tensor(first.rank + 1 if first.rank is not None else None)
        keeps = short in (
            "Linear",
            "LayerNorm",
            "ReLU",
            "Tanh",
            "GELU",
            "SiLU",
            "ELU",
            "LeakyReLU",
            "Dropout",
            "Identity",
            "RMSNorm",
            "LazyLinear",
            "Mish",
            "Sigmoid",
        )
        if short == "Sequential" and layer.items:
            names = [
                v.ref[0].rsplit(".", 1)[-1] if v.kind == "layer" and isinstance(v.ref, tuple) else ""
                for v in layer.elements()
            ]
            if any(n == "Softmax" for n in names[-1:]):
                return tensor(first.rank, "probs", tags=frozenset({"p"}))
            keeps = all(
                n
                in (
                    "Linear",
                    "LayerNorm",
                    "ReLU",
                    "Tanh",
                    "GELU",
                    "SiLU",
                    "ELU",
                    "LeakyReLU",
                    "Dropout",
                    "Identity",
                    "RMSNorm",
                    "Mish",
                    "Sigmoid",
                )
                for n in names
            )
        if short in ("Softmax", "LogSoftmax"):
            return self.tensor_method(node, first, "softmax" if short == "Softmax" else "log_softmax", (), kwargs)
        return tensor(first.rank if keeps else None)

    def touched_all(self, value: Val) -> Val:
        return map_tensors(value, self.touched) if self.contexts & _GRADIENT_FREE else value

    def tensor_method(
        self,
        node: cst.Call,
        value: Val,
        name: str,
        args: tuple[Val, ...],
        kwargs: dict[str, Val],
    ) -> Val:
        if value.kind not in ("tensor", "unknown"):
            return UNKNOWN
        if "of_layer" in value.tags:
            return UNKNOWN
        if name in ("masked_fill", "masked_fill_"):
            return self.masked_fill(node, value, args, kwargs)
        if name in ("to", "type", "type_as"):
            return self.moved(value, name, args, kwargs)
        if name in facts.DTYPE_METHODS:
            made = frozenset(Made(m.node, m.module, m.function, True, m.device) for m in value.made)
            return value.but(dtype=facts.DTYPE_METHODS[name], made=made)
        if name in ("cuda", "cpu"):
            return value.but(made=frozenset(Made(m.node, m.module, m.function, m.dtype, True) for m in value.made))
        if name in facts.NEW_FACTORIES:
            return tensor(self.size_rank(args, kwargs.get("size")))
        if name == "clone" and "inference_mode" not in self.contexts:
            return value.but(tags=value.tags - _GRADIENT_FREE)
        if name in (
            "unsqueeze",
            "squeeze",
            "reshape",
            "view",
            "flatten",
            "expand",
            "repeat",
            "transpose",
            "permute",
            "view_as",
            "reshape_as",
            "expand_as",
            "t",
            "broadcast_to",
            "unflatten",
            "tile",
        ):
            return self.reshaped(node, value, name, args, kwargs)
        if name in ("dim", "ndimension", "item", "numel"):
            return Val("number", ref=("measure", value, "rank") if name in ("dim", "ndimension") else None)
        if name == "size":
            return Val("number", ref=("measure", value, "size")) if args else Val("shape", rank=value.rank)
        return self.computed(node, value, name, args, kwargs)

    def masked_fill(self, node: cst.Call, value: Val, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        mask = args[0] if args else kwargs.get("mask", UNKNOWN)
        fill = args[1] if len(args) > 1 else kwargs.get("value", UNKNOWN)
        result = self.masking(node, value, mask, fill, "masked_fill", additive=False)
        func = node.func
        if isinstance(func, cst.Attribute) and func.attr.value.endswith("_") and isinstance(func.value, cst.Name):
            self.env[func.value.value] = result
        return result

    def moved(self, value: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """`.to(...)`, `.type(...)`, `.type_as(...)`: what of dtype and device is settled now."""
        given = (*args, *kwargs.values())
        dtype = name in ("type", "type_as") or "dtype" in kwargs or any(a.kind == "dtype" for a in args)
        device = name == "type_as" or "device" in kwargs or any(a.kind in _DEVICES for a in args)
        if name == "to" and any(a.kind not in (*_DEVICES, "dtype", "bool") for a in args):
            dtype = device = True  # another tensor, or something that may be one: then nothing may be claimed
        literal = next((a.const for a in given if a.kind == "dtype" and isinstance(a.const, str)), None)
        made = frozenset(Made(m.node, m.module, m.function, m.dtype or dtype, m.device or device) for m in value.made)
        return value.but(made=made, dtype=literal or (None if dtype else value.dtype))

    def reshaped(self, node: cst.Call, value: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        rank = value.rank
        if name == "unsqueeze":
            rank = rank + 1 if rank is not None else None
        elif name == "squeeze":
            rank = rank - 1 if rank is not None and (args or kwargs) else None
        elif name in ("reshape", "view", "expand", "repeat", "tile"):
            rank = self.size_rank(args, kwargs.get("shape", kwargs.get("size")))
        elif name == "flatten":
            rank = self.flattened(rank, args, kwargs)
        elif name in ("view_as", "reshape_as", "expand_as"):
            rank = args[0].rank if args else None
        elif name in ("broadcast_to", "unflatten"):
            rank = None
        if (
            name in ("unsqueeze", "reshape", "view", "view_as", "expand_as", "reshape_as")
            and value.origins
            and ("rank_guarded" in value.tags or ("rank_test" in self.contexts and "mask" in value.roles))
        ):
            self.record("lift", node, value=value)
        if name in ("view_as", "expand_as", "reshape_as", "broadcast_to") and value.origins:
            self.record("rank_check", node, value=value)
        own_sizes = [arg for arg in node.args if isinstance(arg.value, cst.Attribute)]
        if (
            name in ("reshape", "view")
            and value.origins
            and "mask" in value.roles
            and any(dotted(arg.value).startswith("self.") for arg in own_sizes)
        ):
            self.record("size_check", node, value=value)
        if name in ("reshape", "view") and value.origins and len(args) == 1 and args[0].kind == "shape":
            self.record("rank_check", node, value=value)
        return value.but(
            rank=rank, tags=value.tags - {"rank_guarded"}, kind="tensor" if value.kind == "tensor" else "unknown"
        )

    def flattened(self, rank: int | None, args: tuple[Val, ...], kwargs: dict[str, Val]) -> int | None:
        start = (args[0] if args else kwargs.get("start_dim", constant(0))).const
        end = (args[1] if len(args) > 1 else kwargs.get("end_dim", constant(-1))).const
        if start == 0 and end == -1:
            return 1
        if rank is None or not isinstance(start, int) or not isinstance(end, int):
            return start + 1 if isinstance(start, int) and start >= 0 and end == -1 else None
        start, end = start % rank, end % rank
        return rank - (end - start)

    def computed(self, node: cst.Call, value: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        keep = value.tags & _CARRIED
        if name == "where" and len(args) >= 2:
            return self.where(node, (args[0], value, args[1]))
        if name == "softmax":
            return tensor(value.rank, "probs", tags=keep | {"p"}, masked=value.masked, origins=value.origins)
        if name == "log_softmax":
            return tensor(value.rank, "log_prob", tags=keep | {"logp"}, masked=value.masked, origins=value.origins)
        if name == "logsumexp":
            return tensor(value.rank, tags=keep | {"lse"})
        if name in ("log", "log_"):
            if "mask" in value.roles:
                return value.but(roles=frozenset({"mask_bias"}), ref=("bias", float("-inf")), tags=EMPTY)
            tags = (
                keep
                | ({"logp"} if "p" in value.tags else EMPTY)
                | ({"log_of_count"} if "count" in value.tags else EMPTY)
            )
            return tensor(value.rank, dtype=value.dtype, tags=tags)
        if name == "exp":
            return tensor(value.rank, tags=keep | ({"p"} if "logp" in value.tags else EMPTY))
        if name in ("clamp", "clip", "clamp_min", "clamp_"):
            return self.clamped(value, args, kwargs)
        if name in ("logical_not", "bitwise_not") and "mask" in value.roles:
            return value.but(tags=value.tags ^ {"negated"})
        if name in ("add", "sub", "mul", "div", "true_divide", "add_", "mul_"):
            operator = {"add": "Add", "sub": "Subtract", "mul": "Multiply", "div": "Divide", "true_divide": "Divide"}[
                name.rstrip("_")
            ]
            return self.binary(operator, value, args[0] if args else UNKNOWN, node)
        if name in ("eq", "ne", "lt", "le", "gt", "ge"):
            if "mask" in value.roles:
                return value.but(
                    dtype="bool",
                    tags=value.tags ^ {"negated"}
                    if name in ("lt", "le") or (name == "eq" and args and args[0].const in (0, 0.0))
                    else value.tags,
                )
            return tensor(value.rank, dtype="bool")
        if name in facts.REDUCTIONS:
            return self.reduced(value, name, args, kwargs, keep)
        if name == "gather":
            if "logp" in value.tags:
                self.record("dist", node, name="gather", target=value)
            roles = frozenset({"log_prob"}) if "logp" in value.tags else value.roles
            return tensor(value.rank, tags=keep).but(roles=roles)
        if name == "argmax":
            return tensor(None, "action", tags=keep)
        if name == "nan_to_num":
            return value.but(tags=value.tags - {"neg_inf"})
        if name in facts.SAME:
            changed = name not in facts.KEEPS_IDENTITY
            return value.but(
                made=EMPTY if changed else value.made, ref=None, kind="tensor" if value.kind == "tensor" else "unknown"
            )
        if name in ("split", "chunk", "unbind", "tensor_split", "split_with_sizes"):
            part = value.but(
                rank=value.rank - 1 if name == "unbind" and value.rank else value.rank if name != "unbind" else None
            )
            return Val("list", items=((None, part),), roles=value.roles & {"hidden"})
        if name == "multinomial":
            if "p" in value.tags:
                self.record("dist", node, name="multinomial", target=value)
            return tensor(None, "action", tags=keep)
        if name == "linear":
            return tensor(value.rank, tags=keep)
        return UNKNOWN

    def clamped(self, value: Val, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        low = kwargs.get("min", args[0] if args else UNKNOWN)
        bound = low.const if isinstance(low.const, (int, float)) and not isinstance(low.const, bool) else None
        if "mask_bias" in value.roles and isinstance(value.ref, tuple):
            return value.but(ref=("bias", constant_key(low)))
        if "mask" in value.roles and bound is not None and bound > 0:
            value = value.but(roles=value.roles - {"mask"})  # its log is finite: no mask any more
        tags = value.tags - {"neg_inf"} if bound is not None or "finfo_min" in low.tags else value.tags
        tags = tags - {"tiny_clamp"}
        result = value.but(tags=tags, made=EMPTY, const=NOTHING)
        if bound is not None and 0 < bound < _HALF_ROUNDS_TO_ZERO:
            return result.but(tags=tags | {"tiny_clamp"}, ref=("bound", bound))
        return result

    def reduced(
        self, value: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val], keep: frozenset[str]
    ) -> Val:
        has_dim = bool(args) or "dim" in kwargs or "axis" in kwargs
        keepdim = kwargs.get("keepdim", UNKNOWN).const is True
        rank = value.rank if keepdim else value.rank - 1 if has_dim and value.rank else 0 if not has_dim else None
        if name in ("max", "min") and has_dim:
            return sequence(
                "tuple",
                [
                    tensor(rank, tags=keep),
                    tensor(rank, "action" if "logits" in value.roles or "probs" in value.roles else ""),
                ],
            )
        roles: set[str] = set()
        if name == "argmax":
            roles = {"action"}
        if name == "sum" and value.roles & {"log_prob", "entropy"}:
            roles = set(value.roles & {"log_prob", "entropy"})
        if name in ("sum", "mean") and "p_logp" in value.tags:
            roles = {"entropy"}
        tags = keep | ({"count"} if name == "sum" and "mask" in value.roles else EMPTY)
        return tensor(rank, tags=tags).but(roles=frozenset(roles))

    # --- records -----------------------------------------------------------------------------------------------

    def record(self, kind: str, node: cst.CSTNode, **fields: Any) -> Event:
        event = Event(kind, node, self.function, self.contexts, **fields)
        self.frame.events.append(event)
        return event


class _Object:
    """An instance of a plain project class (a distribution, a config) with the attributes its constructor set."""

    __slots__ = ("attributes", "model")

    def __init__(self, model: ClassModel, attributes: dict[str, Val]) -> None:
        self.model = model
        self.attributes = attributes


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A string known at its ends only: `f"{head}_logits"`."""

    prefix: str
    suffix: str

    def matches(self, text: str) -> bool:
        return text.startswith(self.prefix) and text.endswith(self.suffix)


def _pattern(key: Val) -> Any:
    return key.ref if isinstance(key.ref, _Pattern) else None


def _merge(left: dict[str, Val], right: dict[str, Val]) -> dict[str, Val]:
    merged = dict(left)
    for name, value in right.items():
        other = merged.get(name)
        if other is None:
            merged[name] = value
        elif other is not value:
            merged[name] = join(other, value)
    return merged


def constant_key(value: Val) -> float | str | None:
    """The constant a tensor is filled with: a float, "finfo.min", or None."""
    if "finfo_min" in value.tags:
        return "finfo.min"
    if isinstance(value.const, (int, float)) and not isinstance(value.const, bool):
        return float(value.const)
    return None


def _extreme(name: str, args: tuple[Val, ...]) -> Val:
    numbers = [a.const for a in args if isinstance(a.const, (int, float))]
    finfo = any("finfo_min" in a.tags for a in args)
    if len(numbers) == len(args):
        return constant(max(numbers) if name == "max" else min(numbers))
    if finfo and len(numbers) == len(args) - 1 and name == "max" and max(numbers) >= -65504:
        return constant(float(max(numbers)))  # every finfo.min is at most that of half
    return Val("number")


def _guards(scope: _Scope, test: cst.BaseExpression, *, truth: bool) -> frozenset[str]:
    negated = isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not)
    call = test.expression if isinstance(test, cst.UnaryOperation) and negated else test
    if isinstance(call, cst.Call) and scope.qualify(dotted(call.func)).endswith(".is_compiling"):
        return frozenset({"eager_only"}) if truth == negated else EMPTY
    for comparison in _comparisons(test):
        if scope.measured(comparison.left)[1] == "rank":
            return frozenset({"rank_test"})
    return EMPTY


def _from_layer(value: Val, name: str) -> Val:
    """What `self.name(...)` gave remembers which layer it came out of, as an origin `@name`."""
    return value.but(origins=value.origins | {f"@{name}"}) if value.is_tensorish else value


def _as_items(pairs: Val) -> list[tuple[Any, Val]]:
    """The entries of `dict(zip(names, values))`, where the names are known."""
    rows = [row.elements() for row in pairs.elements()] if pairs.kind in ("pairs", "list") else []
    return [(row[0].const, row[1]) for row in rows if len(row) == 2 and isinstance(row[0].const, str)]


def _is_small(value: Val) -> bool:
    """Whether a container holds a bounded number of things; what grows without end is not followed."""
    seen = 0
    stack = [value]
    while stack:
        seen += 1
        if seen > MAX_PARTS:
            return False
        stack.extend(stack.pop().elements())
    return True


def _is_none(value: Val) -> bool | None:
    """Whether a value is None: known for None itself and for tensors and containers that no branch made optional."""
    if value.kind == "none":
        return True
    if (
        value.kind in ("tensor", "tuple", "list", "dict", "instance", "dist")
        and "optional" not in value.tags
        and "declared" not in value.tags
    ):
        return False
    return None


def _named_kind(name: str) -> str:
    """`device` or `dtype` where a name says that it holds one."""
    last = name.lower().rsplit("_", 1)[-1]
    return last if last in ("device", "dtype") else ""


def _class_of(value: Val, interpreter: Interpreter) -> ClassModel | None:
    """The project class of an instance."""
    ref = value.ref
    if isinstance(ref, (ClassFlow, _Object)):
        return ref.model
    if ref is None or isinstance(ref, tuple):
        return None
    return interpreter.models.find_class(ref)


def _is_dataclass(model: ClassModel) -> bool:
    for decorator in model.node.decorators:
        expression = decorator.decorator
        name = dotted(expression.func if isinstance(expression, cst.Call) else expression)
        if name.rsplit(".", 1)[-1] == "dataclass":
            return True
    return "NamedTuple" in model.base_names


def _comparisons(node: cst.BaseExpression) -> Iterator[cst.Comparison]:
    if isinstance(node, cst.Comparison):
        yield node
    elif isinstance(node, cst.BooleanOperation):
        yield from _comparisons(node.left)
        yield from _comparisons(node.right)
    elif isinstance(node, cst.UnaryOperation):
        yield from _comparisons(node.expression)


def _rank_subject(node: cst.BaseExpression) -> str | None:
    """The name in `x.dim()`, `x.ndim`, `len(x.shape)`."""
    if (
        isinstance(node, cst.Call)
        and isinstance(node.func, cst.Attribute)
        and node.func.attr.value in ("dim", "ndimension")
    ):
        return node.func.value.value if isinstance(node.func.value, cst.Name) else None
    if isinstance(node, cst.Attribute) and node.attr.value == "ndim":
        return node.value.value if isinstance(node.value, cst.Name) else None
    if (
        isinstance(node, cst.Call)
        and isinstance(node.func, cst.Name)
        and node.func.value == "len"
        and len(node.args) == 1
    ):
        shape = node.args[0].value
        if isinstance(shape, cst.Attribute) and shape.attr.value == "shape" and isinstance(shape.value, cst.Name):
            return shape.value.value
        if (
            isinstance(shape, cst.Call)
            and isinstance(shape.func, cst.Attribute)
            and shape.func.attr.value == "size"
            and isinstance(shape.func.value, cst.Name)
        ):
            return shape.func.value.value
    return None


_HANDLERS: dict[type, Callable[..., Val]] = {
    cst.Name: _Scope.name,
    cst.Attribute: _Scope.attribute,
    cst.Call: _Scope.call,
    cst.Subscript: _Scope.subscript,
    cst.BinaryOperation: _Scope.binary_node,
    cst.UnaryOperation: _Scope.unary,
    cst.Comparison: _Scope.comparison,
    cst.BooleanOperation: _Scope.boolean,
    cst.IfExp: _Scope.conditional,
    cst.Tuple: _Scope.tuple_,
    cst.List: _Scope.tuple_,
    cst.Dict: _Scope.dict_,
    cst.ListComp: _Scope.comprehension,
    cst.GeneratorExp: _Scope.comprehension,
    cst.SetComp: _Scope.comprehension,
    cst.DictComp: _Scope.dict_comprehension,
    cst.Integer: _Scope.number,
    cst.Float: _Scope.number,
    cst.SimpleString: _Scope.string,
    cst.FormattedString: _Scope.formatted,
    cst.NamedExpr: _Scope.named,
    cst.Await: _Scope.await_,
}
