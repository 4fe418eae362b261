"""Calls: whom they reach, with which arguments, and the abstract run of project functions."""

from __future__ import annotations

from typing import Any

import libcst as cst

from esper_audit.semantics import roles as role_names
from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.depends import STRANGE, adding, cut, of_strange_source, remarks
from esper_audit.semantics.model import ClassModel, Function
from esper_audit.semantics.run.frames import BASE, ClassFlow, Frame, PlainObject, class_of
from esper_audit.semantics.run.scope import GRADIENT_FREE
from esper_audit.semantics.run.torch_calls import TorchCalls
from esper_audit.semantics.tree import dotted
from esper_audit.semantics.values import (
    EMPTY,
    NONE,
    UNKNOWN,
    Val,
    map_tensors,
    sequence,
    with_role,
)


class ProjectCalls(TorchCalls):
    """Calls: whom they reach, with which arguments, and the abstract run of project functions."""

    def arguments(self, node: cst.Call) -> tuple[tuple[Val, ...], dict[str, Val]]:
        """Positional and keyword arguments; what a star hides becomes `starred` and `**`."""
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
        """A call: find out whom it reaches, then follow it."""
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
        return self.call_value(node, callee, args, kwargs)

    def method_call(self, node: cst.Call, owner: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """`owner.name(...)`, by what the owner is."""
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
        """A method of an instance, a class or a module."""
        callee = self.member(owner, name, node)
        self.used = self.used | callee.deps
        if owner.kind == "instance" and callee.kind == "unknown":
            if isinstance(owner.ref, PlainObject) and BASE in owner.ref.attributes:
                return self.distribution_call(node, owner.ref.attributes[BASE], name, args)
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
                if name in ("eval", "train"):
                    self.record("call", node, name=f".{name}", target=owner, args=args, kwargs=kwargs)
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
                owner.ref.store(args[0].const, (args[1] if len(args) > 1 else UNKNOWN).but(made=EMPTY, home=EMPTY))
                return NONE
            self.record("call", node, name=f".{name}", target=owner, args=args, kwargs=kwargs)
            if name == "state_dict":
                return Val(ref=("state_dict", owner))
            role = role_names.tensor_role(name)
            return with_role(UNKNOWN, role)
        if owner.kind == "module" and callee.kind == "ext":
            return self.external(node, str(callee.ref), args, kwargs)
        result = self.call_value(node, callee, args, kwargs)
        said = remarks(owner.deps)
        return adding(result, said) if said else result

    def super_call(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """`super().name(...)`: the next definition in the lineage, or the torch class behind it."""
        owner = self.function.owner
        if owner is None:
            return UNKNOWN
        me = self.env.get(self.function.params[0].name, UNKNOWN) if self.function.params else UNKNOWN
        model = self.flow.model if self.flow is not None else me.ref.model if isinstance(me.ref, PlainObject) else None
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
        if isinstance(me.ref, PlainObject) and facts.is_distribution(external):
            if name == "__init__":
                me.ref.attributes[BASE] = self.distribution(node, external, args, kwargs)
                return NONE
            return self.distribution_call(node, me.ref.attributes.get(BASE, UNKNOWN), name, args)
        return UNKNOWN

    def call_value(self, node: cst.Call, callee: Val, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """Call whatever a callee evaluated to."""
        kind = callee.kind
        if kind == "partial":
            callee, first, named = callee.ref
            return self.call_value(node, callee, (*first, *args), {**dict(named), **kwargs})
        if kind == "ext":
            return self.external(node, str(callee.ref), args, kwargs)
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
            result = self.invoke(function, None, args, kwargs, node)
            # A function inside a function also reads the variables around it, which are not followed.
            return adding(result, STRANGE) if isinstance(callee.ref, Function) else result
        if kind == "class":
            return self.construct(node, callee, args, kwargs)
        if kind == "layer":
            result = self.touched_all(self.layer_call(node, callee, args, kwargs))
            return map_tensors(result, lambda value: value.but(origins=value.origins | callee.origins))
        if kind == "instance":
            return self.instance_call(node, callee, args, kwargs)
        self.record("call", node, name=".", target=callee, args=args, kwargs=kwargs)
        return UNKNOWN

    def instance_call(self, node: cst.Call, callee: Val, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """`self(...)` or `net(...)`: its forward."""
        model = class_of(callee, self.interpreter)
        forward = (model.method("forward") or model.method("__call__")) if model is not None else None
        if forward is None:
            self.record("call", node, name=".", target=callee, args=args, kwargs=kwargs)
            return UNKNOWN
        result = self.invoke(forward, callee, args, kwargs, node, called="__call__")
        return adding(result, cut(callee.deps) if self.contexts & GRADIENT_FREE else callee.deps)

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
            model = class_of(bound, self.interpreter)
            if isinstance(bound.ref, ClassFlow):
                flow = bound.ref
            elif model is not None and model.is_network:
                flow = self.interpreter.flow(model)
                flow.build()
        if not _can_bind(function, bound, args, kwargs, node):
            return of_strange_source(UNKNOWN)  # it raises, and nothing comes back
        values = self.bind(function, flow, bound, args, kwargs)
        frame = self.run_or_recall(function, flow, bound, values)
        result = frame.result
        self.followed = None if function.is_abstract else node
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
        if bound is not None and isinstance(bound.ref, PlainObject):
            return interpreter.execute(function, flow, values, self.contexts)  # its attributes are not part of a key
        overlay = frozenset(flow.run_attributes.items()) if flow is not None else EMPTY
        key = (id(function.node), id(flow), self.contexts & GRADIENT_FREE, overlay, tuple(values.items()))
        frame = interpreter.memo.get(key)
        if frame is not None and not interpreter.can_recall(frame):
            return interpreter.execute(function, flow, values, self.contexts)
        if frame is None:
            cut = interpreter.cuts
            frame = interpreter.execute(function, flow, values, self.contexts)
            if interpreter.cuts == cut and interpreter.budget > 0:
                interpreter.memo[key] = frame
        else:
            interpreter.budget -= frame.cost
            for event, _ in frame.walk():
                if event.kind in ("store", "statistic") and isinstance(event.target.ref, ClassFlow):
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
        """The parameters of a function as a call fills them."""
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
                unpassed = self.interpreter.declared(function, param, flow).but(origins=EMPTY)
                values[param.name] = of_strange_source(unpassed)
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
        """Make an object of a project class; networks stay references, small classes are run."""
        symbol = callee.ref
        models = self.interpreter.models
        self.followed = node
        if models.project.is_network(symbol.path, symbol.name):
            result = Val("instance", ref=symbol, tags=frozenset({"network"}))
            self.record("call", node, name=symbol.name, args=args, kwargs=kwargs, callee=symbol, value=result)
            return result
        model = models.find_class(symbol)
        if model is None:
            self.followed = None
            return UNKNOWN
        if _is_dataclass(model):
            given = {
                **dict(zip(model.annotated_fields, args, strict=False)),
                **{k: v for k, v in kwargs.items() if k in model.annotated_fields},
            }
            result = Val(
                "instance", ref=PlainObject(model, given), items=tuple(given.items()), tags=frozenset({"record"})
            )
            self.record("call", node, name=model.name, args=args, kwargs=kwargs, callee=symbol, value=result)
            return result
        instance = Val("instance", ref=PlainObject(model, {}))
        init = model.method("__init__")
        frame = None
        if init is not None and self.interpreter.budget > 0:
            values = self.bind(init, None, instance, args, kwargs)
            frame = self.interpreter.execute(init, None, values, self.contexts)
        elif init is None:
            external = self.external_base(model)
            if external and facts.is_distribution(external):
                instance.ref.attributes[BASE] = self.distribution(node, external, args, kwargs)
        self.record(
            "call", node, name=model.name, args=args, kwargs=kwargs, callee=init or symbol, frame=frame, value=instance
        )
        return instance

    def external_base(self, model: ClassModel) -> str:
        """The foreign class that a class descends from, or nothing."""
        for ancestor in model.lineage:
            for base in ancestor.base_names:
                symbol = ancestor.module.lookup(base)
                if symbol.path is None and "." in symbol.name:
                    return str(symbol.name)
        return ""


_KEEP_SIGNATURES = frozenset({"staticmethod", "classmethod", "abstractmethod", "abc.abstractmethod", *facts.NO_GRAD})


def _can_bind(
    function: Function, bound: Val | None, args: tuple[Val, ...], kwargs: dict[str, Val], node: cst.Call | None
) -> bool:
    """Whether a call may fit the parameters: all that is required is there, and nothing is passed that has no place.

    What hides behind a star, or behind a decorator that may change the signature, is not known: then it may.
    """
    if node is None or any(arg.star for arg in node.args) or len(node.args) != len(args) + len(kwargs):
        return True
    if not all(name in _KEEP_SIGNATURES for name in function.decorators):
        return True
    params = list(function.params)
    if function.owner is not None and "staticmethod" not in function.decorators:
        if bound is None and "classmethod" not in function.decorators:
            return True  # `Base.method(self, ...)`
        params = params[1:]
    named = {param.name for param in params if param.kind in ("positional", "keyword")}
    kinds = {param.kind for param in params}
    places = [param.name for param in params if param.kind == "positional"]
    given = {*places[: len(args)], *kwargs}
    fits = (len(args) <= len(places) or "star" in kinds) and (kwargs.keys() <= named or "kwargs" in kinds)
    return fits and all(p.name in given or p.default is not None for p in params if p.name in named)


def _from_layer(value: Val, name: str) -> Val:
    """What `self.name(...)` gave remembers which layer it came out of, as an origin `@name`."""
    return value.but(origins=value.origins | {f"@{name}"}) if value.is_tensorish else value


def _is_dataclass(model: ClassModel) -> bool:
    for decorator in model.node.decorators:
        expression = decorator.decorator
        name = dotted(expression.func if isinstance(expression, cst.Call) else expression)
        if name.rsplit(".", 1)[-1] == "dataclass":
            return True
    return "NamedTuple" in model.base_names
