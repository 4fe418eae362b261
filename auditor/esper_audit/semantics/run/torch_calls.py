"""Calls of what no project file defines: builtins, factories, layers and distributions of torch."""

from __future__ import annotations

import itertools
from typing import Any

import libcst as cst

from esper_audit.semantics import axes as ax
from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.depends import everything
from esper_audit.semantics.project import as_float, is_torch_module
from esper_audit.semantics.run.containers import Containers, is_collection, layers_in, member_of, one_of, with_layer
from esper_audit.semantics.run.layout import fed, settled, size_of, sized
from esper_audit.semantics.run.scope import GRADIENT_FREE
from esper_audit.semantics.run.tensors import CARRIED, HOST, THROUGH_LAYERS, comes_from_outside, is_data
from esper_audit.semantics.values import (
    CERTAIN,
    EMPTY,
    NOTHING,
    UNKNOWN,
    Made,
    Step,
    Val,
    constant,
    join_all,
    map_tensors,
    sequence,
    tensor,
)

_KEEPS_RANK = frozenset(
    "Linear LazyLinear LayerNorm RMSNorm ReLU Tanh GELU SiLU ELU LeakyReLU Mish Sigmoid Dropout Identity".split()
)


_COLLECTIONS = ("ModuleDict", "ModuleList")
_ACTIVATIONS = _KEEPS_RANK - {"Linear", "LazyLinear", "LayerNorm", "RMSNorm"}


class TorchCalls(Containers):
    """Calls of what no project file defines: builtins, factories, layers and distributions of torch."""

    def external(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """A call of a function that no project file defines, recorded."""
        result = self.external_value(node, name, args, kwargs)
        self.record("call", node, name=name, args=args, kwargs=kwargs, value=result)
        return result

    def external_value(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """What it gives."""
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
            result = self.builtin(node, name, args, kwargs)
            return result.but(tags=result.tags | HOST) if _reads(name, args) else result
        if name in ("numpy.float32", "numpy.float64", "numpy.float16") and args:
            number = as_float(args[0].const)
            return constant(number) if number is not NotImplemented else Val("number")
        if name == "numpy.finfo":
            return Val("finfo")
        if name in ("math.log", "math.sqrt", "math.prod", "numpy.prod", "numpy.log", "numpy.sqrt"):
            return Val("number")
        if name == "functools.partial" and args and "**" not in kwargs:
            return Val("partial", ref=(args[0], args[1:], tuple(kwargs.items())))
        if name == "__import__" and args and isinstance(args[0].const, str):
            return Val("ext", ref=args[0].const)
        if name in ("copy.deepcopy", "copy.copy") and args:
            return args[0]
        return Val(tags=HOST) if name.startswith("numpy.") and any("host" in arg.tags for arg in args) else UNKNOWN

    def builtin(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """Calls of builtins."""
        args = tuple(Val("list", items=((None, member_of(a)),)) if layers_in(a) is not None else a for a in args)
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
            if not args and name == "list":
                return sequence(kind, [])
            if first.kind in ("list", "tuple") and first.items is not None:
                return first.but(kind=kind)
            if first.kind == "pairs":
                return first if first.items else first.but(items=((None, sequence("tuple", list(first.ref))),))
            return Val(kind, items=first.items if first.kind == "values" else None, deps=everything(first))
        if name == "dict":
            given = first.items or () if first.kind == "dict" else _as_items(first)
            return Val("dict", items=tuple({**dict(given), **kwargs}.items()))
        if name == "zip":
            joined = tuple(one_of(a) for a in args)
            lengths = {
                len(a.items) if a.items and a.kind != "layer" and all(k is not None for k, _ in a.items) else -1
                for a in args
            }
            if len(lengths) == 1 and -1 not in lengths:
                rows = [sequence("tuple", list(row)) for row in zip(*(a.elements() for a in args), strict=True)]
                return sequence("list", rows).but(kind="pairs", ref=joined)
            return Val("pairs", ref=joined)
        if name == "enumerate":
            return Val("pairs", ref=(Val("number"), one_of(first)))
        if name == "range":
            return Val("list", items=((None, Val("number")),))
        if name == "getattr" and len(args) >= 2 and isinstance(args[1].const, str):
            return self.member(first, args[1].const, node)
        if name == "abs" and isinstance(first.const, (int, float)):
            return constant(abs(first.const))
        if name == "sum" and first.items:
            return join_all(first.elements()).but(const=NOTHING, made=EMPTY)
        if name in ("len", "int", "abs", "sum"):
            return sized(Val("number"), size_of(first.axes, 0)) if name == "len" else Val("number")
        return Val("bool") if name in ("isinstance", "hasattr", "bool", "any", "all") else UNKNOWN

    def factory(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """`torch.zeros` and its kin: a fresh tensor that remembers its dtype, device and call."""
        dtype, device = kwargs.get("dtype"), kwargs.get("device")
        legacy = name in facts.LEGACY_FACTORIES
        sizes = args[:1] if name == "torch.full" else args
        rank = self.size_rank(sizes, kwargs.get("size", kwargs.get("shape")))
        fill = args[1] if name == "torch.full" and len(args) > 1 else kwargs.get("fill_value", UNKNOWN)
        unknown_keywords = "**" in kwargs or "out" in kwargs  # the tensor that is written to decides
        made = Made(
            node,
            self.module,
            name,
            dtype=unknown_keywords
            or (dtype is not None and dtype.kind != "none")
            or (legacy and name != "torch.Tensor" and "Float" not in name),
            device=unknown_keywords or "device" in self.contexts or (device is not None and device.kind != "none"),
        )
        result = tensor(
            rank,
            dtype=dtype.const
            if dtype is not None and isinstance(dtype.const, str)
            else "default"
            if dtype is None
            else None,
            const=fill.const if isinstance(fill.const, (int, float)) else NOTHING,
            tags=fill.tags & {"finfo_min"}
            | {name.rsplit(".", 1)[1]}
            | _random(name)
            | ({"on_cpu"} if device is not None and device.const == "cpu" else EMPTY),
            made=frozenset({made}),
            home=frozenset({made})
            if rank != 0 and (not legacy or self.is_made_here(args)) and not _is_empty(name, args)
            else EMPTY,
        )
        return settled(result, self.size_axes(node, sizes, kwargs))

    def is_made_here(self, values: tuple[Val, ...]) -> bool:
        """Whether only numbers go in. Who converts a caller's data may leave the moving to them; no constructor can."""
        literal = all(part.kind in ("number", "bool", "shape") for value in values for part in value.flat())
        return literal or self.function.name == "__init__"

    def index_factory(self, node: cst.Call, name: str, kwargs: dict[str, Val]) -> Val:
        """`torch.arange` and its kin: all that is told is where it is."""
        device = kwargs.get("device")
        given = "**" in kwargs or "out" in kwargs or "device" in self.contexts
        given = given or (device is not None and device.kind != "none")
        return Val("unknown", home=frozenset({Made(node, self.module, name, dtype=True, device=given)}))

    def torch_call(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """A function or class of torch."""
        short = name.rsplit(".", 1)[1]
        first = args[0] if args else kwargs.get("input", UNKNOWN)
        if facts.is_distribution(name):
            return self.distribution(node, name, args, kwargs)
        if name in facts.DDP and (wrapped := args[0] if args else kwargs.get("module", UNKNOWN)).kind == "instance":
            return wrapped.but(tags=wrapped.tags - {"ddp_inner"} | {"ddp"})
        if is_torch_module(name):
            return Val(
                "layer",
                ref=(name, node),
                items=tuple(enumerate(args)) if short in ("Sequential", "ModuleList", "ModuleDict") else None,
                tags=_habits(name, args, kwargs) | _outputs(name, args, kwargs),
            )
        if name == "torch.finfo":
            return Val("finfo")
        if name == "torch.promote_types":
            # Beside an unknown dtype, float32 is the narrowest that can come out: what does not fit there fits nowhere.
            given = {value.const for value in (*args, *kwargs.values()) if value.kind == "dtype"}
            wide = next((dtype for dtype in ("float64", "float32") if dtype in given), None)
            return Val("dtype", const=wide) if wide is not None else Val("dtype")
        if name in facts.LIKE_FACTORIES:
            fill = args[1] if short == "full_like" and len(args) > 1 else kwargs.get("fill_value", UNKNOWN)
            tags = fill.tags & {"finfo_min"} | {short.removesuffix("_like")} | _random(name)
            return self.touched(tensor(first.rank, const=fill.const, tags=tags, axes=first.axes))
        if name in facts.COMPILE:
            return self.compiled(args, kwargs)
        if name in facts.INDEX_FACTORIES or (name in facts.TYPED_FACTORIES and self.is_made_here(args)):
            return self.index_factory(node, name, kwargs)
        if name in facts.DATA_FACTORIES:
            value = self.data_factory(first, kwargs)
            if "host" in first.tags:
                self.record("back", node, value=first)
            literal = first.kind in ("list", "tuple") and self.is_made_here((first,))
            return value.but(home=self.index_factory(node, name, kwargs).home) if literal else value
        if name == "torch.autograd.Variable":
            return first
        if name.startswith("torch.nn.Parameter") or name == "torch.nn.parameter.Parameter":
            fixed = kwargs.get("requires_grad", UNKNOWN).const is False
            tags = first.tags | ({"parameter"} if fixed else {"parameter", "raw_parameter"})
            return first.but(made=EMPTY, home=EMPTY, kind="tensor", tags=tags)
        if name == "torch.einsum":
            operands = [part for arg in args[1:] for part in arg.flat()]
            for p, log_p in itertools.combinations(operands, 2):
                self.product(p, log_p, node)
        if name == "torch.where":
            self.meet(node, *args)
            value = self.touched(self.where(node, args))
            outside = any(comes_from_outside(arg) for arg in args)
            return value.but(tags=value.tags | {"outside"}, home=EMPTY) if outside else value
        if short in ("stack", "cat", "concat", "concatenate", "hstack", "vstack"):
            parts = join_all(first.elements()) if first.items else UNKNOWN
            rank = (
                parts.rank + 1
                if short == "stack" and parts.rank is not None
                else parts.rank
                if short != "stack"
                else None
            )
            tags = EMPTY.union(*(part.tags & THROUGH_LAYERS for part in first.elements())) | parts.tags - {
                "optional",
                "alias",
            }
            counted = "part" in tags and all(key is not None for key, _ in first.items or ())
            if short == "stack" and (counted or "of_each_head" in tags):
                axis = (args[1] if len(args) > 1 else kwargs.get("dim", constant(0))).const
                tags = tags - {"part", "of_each_head"} | {f"parts:{axis}"}
            home = parts.home if all(each.home for each in first.elements()) else EMPTY
            self.meet(node, *first.elements())
            axes = self.joined_axes(short, first, args, kwargs)
            return self.touched(settled(parts.but(kind="tensor", rank=rank, const=NOTHING, tags=tags, home=home), axes))
        if name in facts.FUNCTIONAL_BATCH_NORM and _trains(args, kwargs):
            value = first.but(tags=first.tags - (CERTAIN - THROUGH_LAYERS) | {"batch_mixed"}, made=EMPTY)
            return self.touched(value)
        if name == "torch.nn.functional.dropout" and kwargs.get("training", UNKNOWN).const is not False:
            mixed = {"dropped"} if drops(name, args, kwargs) else EMPTY
            value = self.tensor_method(node, first, short, args[1:], kwargs)
            return self.touched(value.but(tags=value.tags | mixed))
        if name.startswith(("torch.nn.functional.", "torch.special.")) or name.count(".") == 1:
            return self.touched(self.tensor_method(node, first, short, args[1:], kwargs))
        return UNKNOWN

    def data_factory(self, first: Val, kwargs: dict[str, Val]) -> Val:
        """`torch.tensor(x)` and its kin."""
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
        """`torch.compile(x)`: x, which remembers it."""
        target = args[0] if args else kwargs.get("model", UNKNOWN)
        if target.kind == "instance":
            return target.but(tags=target.tags | {"compiled"})
        return target

    def distribution(self, node: cst.Call, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """A distribution over masked or plain logits, recorded."""
        logits = kwargs.get("logits")
        if logits is None:
            logits = args[1] if len(args) > 1 and name in facts.FINITE_DISTRIBUTIONS else UNKNOWN
        probs = kwargs.get("probs", args[0] if args else UNKNOWN)
        subject = logits if logits is not UNKNOWN else probs
        result = Val("dist", ref=name, items=(("logits", subject.but(origins=EMPTY)),))
        self.record("dist", node, name=name, target=subject, args=args, kwargs=kwargs)
        return result

    def distribution_call(self, node: cst.Call, owner: Val, name: str, args: tuple[Val, ...]) -> Val:
        """Methods of a distribution."""
        logits = owner.item("logits") or UNKNOWN
        rank = logits.rank - 1 if logits.rank else None
        tags = self.contexts & GRADIENT_FREE
        if name == "log_prob":
            # One of a Gaussian is still to be summed over the action's parts, on the last axis.
            tags = tags | {"parts:-1" if owner.ref in facts.ELEMENTWISE_DISTRIBUTIONS else "part"}
        role = {
            "log_prob": "log_prob",
            "entropy": "entropy",
            "sample": "action",
            "rsample": "action",
            "mode": "action",
        }.get(name)
        self.record("call", node, name=f".{name}", target=owner, args=args)
        if role:
            finite = owner.ref in facts.FINITE_DISTRIBUTIONS and "OneHot" not in owner.ref
            value = tensor(rank if owner.ref in facts.FINITE_DISTRIBUTIONS else None, role, tags=tags)
            return settled(value, ax.replaced(logits.axes, -1, None) if finite else None)
        return UNKNOWN

    def distribution_member(self, owner: Val, name: str) -> Val:
        """`dist.logits` and `dist.probs`."""
        logits = owner.item("logits") or UNKNOWN
        if name == "logits":
            return tensor(
                logits.rank, "log_prob", tags=logits.tags & CARRIED | {"logp"}, masked=logits.masked, steps=logits.steps
            ).but(axes=logits.axes)
        if name == "probs":
            tags = logits.tags & CARRIED | {"p", "squashed"}
            probs = tensor(logits.rank, "probs", tags=tags, masked=logits.masked, steps=logits.steps)
            return probs.but(axes=logits.axes)
        return UNKNOWN

    def layer_method(self, node: cst.Call, owner: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """Methods of a layer."""
        if name == "forward":
            return self.touched_all(self.layer_call(node, owner, args, kwargs))
        if name in ("to", "cuda", "cpu", "eval", "train", "double", "half", "float", "requires_grad_", "apply"):
            return owner
        self.record("call", node, name=f".{name}", target=owner, args=args, kwargs=kwargs)
        if name == "append" and len(args) == 1 and is_collection(owner) and isinstance(node.func, cst.Attribute):
            self.put_back(node.func.value, with_layer(owner, None, args[0]))
            return owner
        if layers_in(owner) is not None:
            return self.of_collection(owner, name)
        return UNKNOWN

    def of_collection(self, owner: Val, name: str) -> Val:
        """`items` and `values` of a `ModuleDict`: one layer stands for all."""
        if name == "items":
            return Val("pairs", ref=(Val("str"), member_of(owner)))
        return Val("list", items=((None, member_of(owner)),)) if name in ("values", "children") else UNKNOWN

    def layer_call(self, node: cst.Call, layer: Val, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """A layer applied to its input: rank, role and hidden state of what it gives."""
        name = layer.ref[0] if isinstance(layer.ref, tuple) and isinstance(layer.ref[0], str) else ""
        first = args[0] if args else kwargs.get("input", UNKNOWN)
        self.record("call", node, name=name, target=layer, args=args, kwargs=kwargs, callee="layer")
        if first.home:
            self.record("meet", node, value=first, other=layer)
        result = self.layer_result(node, layer, name, first, kwargs)
        result = self.layer_axes(node, layer, name, first, result)
        carried = (first.tags if "either" in layer.tags else layer.tags | first.tags) & THROUGH_LAYERS
        return map_tensors(result, lambda value: value.but(tags=value.tags | carried)) if carried else result

    def layer_axes(self, node: cst.Call, layer: Val, name: str, first: Val, result: Val) -> Val:
        """What a layer gives, with its axes: those in front stay, and the last one is its own."""
        if name in facts.RECURRENT and first.axes:
            out = result.elements()[0]
            return result.but(items=((0, settled(out, (*first.axes[:-1], ""))), *(result.items or ())[1:]))
        if name in facts.CELLS:
            axes = (*first.axes[:-1], "") if first.axes and not ax.is_open(first.axes) else None
            return map_tensors(result, lambda state: settled(state, axes))
        if not result.is_tensorish:
            return result
        layer = _inner(layer)
        last = last_sized(layer)
        short = str(last.ref[0]).rsplit(".", 1)[-1] if isinstance(last.ref, tuple) else ""
        kept = all(_short(part) in _KEEPS_RANK for part in (layer.elements() if layer.items else (layer,)))
        if kept and (layer.items or short in ("Linear", "LazyLinear")):
            return settled(result, (*fed(first)[:-1], "1" if "to_one" in last.tags else ""))
        if kept:
            return settled(result, first.axes)
        if result.rank is not None or (result.axes is not None and short not in ("Linear", "LazyLinear")):
            return result
        # What the layer does to the axes in front is unknown, and the same for other encoders of the same tensor.
        came = (
            "_".join(axis.strip("*~") for axis in first.axes) if first.axes else f"@{self.interpreter.order_of(node)}"
        )
        return result.but(axes=(f"*{came}~", "1" if "to_one" in last.tags else ""))

    def layer_result(self, node: cst.Call, layer: Val, name: str, first: Val, kwargs: dict[str, Val]) -> Val:
        """What a layer gives, by its kind."""
        if name in facts.RECURRENT:
            return sequence("tuple", [tensor(first.rank, "features"), _state(name, 3)])
        if name in facts.CELLS:
            return _state(name, 2)
        short = name.rsplit(".", 1)[-1]
        if short == "Embedding":
            return tensor(first.rank + 1 if first.rank is not None else None)
        keeps = short in _KEEPS_RANK
        if short == "Sequential" and layer.items:
            names = [
                v.ref[0].rsplit(".", 1)[-1] if v.kind == "layer" and isinstance(v.ref, tuple) else ""
                for v in layer.elements()
            ]
            if names[-1:] == ["Softmax"]:
                return tensor(first.rank, "probs", tags=frozenset({"p"}) | _certainly(layer), steps=_left_layer(layer))
            keeps = _KEEPS_RANK.issuperset(names)
        if short in ("Softmax", "LogSoftmax"):
            return self.tensor_method(node, first, "softmax" if short == "Softmax" else "log_softmax", (), kwargs)
        last = names[-1] if short == "Sequential" and layer.items else short
        raw = frozenset({"raw_output"}) if last in ("Linear", "LazyLinear") else EMPTY
        return tensor(first.rank if keeps else None, tags=_certainly(layer) | raw, steps=_left_layer(layer))


def _reads(builtin: str, args: tuple[Val, ...]) -> bool:
    """Whether a builtin makes a number of a tensor, or something of what was read from one."""
    if any("host" in arg.tags for arg in args):
        return builtin not in ("isinstance", "hasattr", "getattr", "len")
    return builtin in ("float", "int") and bool(args) and args[0].kind == "tensor" and is_data(args[0])


def _habits(name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> frozenset[str]:
    """What a layer does in training mode: `dropped` for dropout that is on, `batch_mixed` for batch statistics."""
    inner = [value for value in (*args, *kwargs.values()) if value.kind == "layer" and "either" not in value.tags]
    found = EMPTY.union(*(value.tags & THROUGH_LAYERS for value in inner))
    if name in facts.BATCH_NORM:
        found |= {"batch_mixed"}
    return found | ({"dropped"} if drops(name, args, kwargs) else EMPTY)


def _outputs(name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> frozenset[str]:
    """`to_one` for a linear layer with one output."""
    place = {"torch.nn.Linear": 1, "torch.nn.LazyLinear": 0}.get(name)
    if place is None:
        return EMPTY
    size = kwargs.get("out_features", args[place] if len(args) > place else UNKNOWN).const
    return frozenset({"to_one"}) if size == 1 and size is not NOTHING else EMPTY


def _short(layer: Val) -> str:
    return str(layer.ref[0]).rsplit(".", 1)[-1] if layer.kind == "layer" and isinstance(layer.ref, tuple) else ""


def _inner(layer: Val) -> Val:
    """A layer, or what all layers of a collection have in common."""
    if _short(layer) not in _COLLECTIONS or not layer.items:
        return layer
    held = layer.elements()[0]
    inner = join_all(held.elements()) if held.items else layer
    return inner if inner.kind == "layer" else layer


def last_sized(layer: Val) -> Val:
    """The layer of a Sequential that says how many outputs there are: the last one that is no activation."""
    while layer.items and layer.kind == "layer" and "either" not in layer.tags and _short(layer) == "Sequential":
        parts = layer.elements()
        layer = next((part for part in reversed(parts) if _short(part) not in _ACTIVATIONS), parts[-1])
    return layer


def drops(name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> bool:
    """Whether a layer or function of torch drops at random with a probability that is known, and not 0."""
    if name not in facts.DROPOUT or "**" in kwargs:
        return False
    keyword, position, default = facts.DROPOUT[name]
    given = kwargs.get(keyword, args[position] if len(args) > position else constant(default))
    if name in facts.RECURRENT:
        layers = kwargs.get("num_layers", args[2] if len(args) > 2 else constant(1)).const
        if not isinstance(layers, int) or layers < 2:
            return False
    return isinstance(given.const, (int, float)) and given.const > 0


def _is_empty(name: str, args: tuple[Val, ...]) -> bool:
    """Whether a factory makes a placeholder without elements: `torch.empty(0)`."""
    sized_by = name.rpartition(".")[2] in ("empty", "zeros", "ones")
    return sized_by and any(isinstance(size.const, int) and size.const == 0 for size in args)


def _random(name: str) -> frozenset[str]:
    """`random` for the factories of random numbers."""
    return frozenset({"random"} if name.rsplit(".", 1)[1].startswith("rand") else ())


def _trains(args: tuple[Val, ...], kwargs: dict[str, Val]) -> bool:
    """Whether a call of `batch_norm` uses statistics of the batch: it does not unless told to."""
    given = kwargs.get("training", args[5] if len(args) > 5 else constant(False))
    return given.const is not False


def _certainly(layer: Val) -> frozenset[str]:
    """What the output of a layer certainly is, by the last part of it: see CERTAIN.

    Of a softmax that may be left out it says `may_squash`.
    """
    held = layers_in(layer) if "member" in layer.tags else None
    if held is not None:  # one of those in a container: what all of them are
        return frozenset.intersection(*(_certainly(part) for part in held.elements()))
    while layer.items and layer.kind == "layer" and "either" not in layer.tags:
        if layer.ref[0] != "torch.nn.Sequential":
            return EMPTY
        layer = layer.elements()[-1]
    if layer.kind != "layer" or not isinstance(layer.ref, tuple):
        return EMPTY
    if "either" in layer.tags:
        return frozenset({"may_squash"} if str(layer.ref[0]).endswith(".Softmax") and not layer.items else ())
    short = layer.ref[0].rsplit(".", 1)[-1] if isinstance(layer.ref[0], str) else ""
    if short in ("Linear", "LazyLinear"):
        return frozenset({"affine"})
    return frozenset({"squashed"}) if short in ("Softmax", "Sigmoid") else EMPTY


def _left_layer(layer: Val) -> frozenset[Step]:
    """Where the steps of a layer's output begin: with the call that made the layer, or any of those in a container."""
    held = layers_in(layer) if "member" in layer.tags else None
    if held is not None:
        return EMPTY.union(*(_left_layer(part) for part in held.elements()))
    made = layer.ref[1] if isinstance(layer.ref, tuple) else None
    return frozenset({Step("head", made)}) if isinstance(made, cst.Call) else EMPTY


def _state(name: str, rank: int) -> Val:
    """What a recurrent layer remembers: h and c for an LSTM, one tensor for the others."""
    state = tensor(rank, "hidden")
    if name not in facts.LSTM_LIKE:
        return state
    return sequence("tuple", [state, state]).but(roles=frozenset({"hidden"}))


def _extreme(name: str, args: tuple[Val, ...]) -> Val:
    numbers = [a.const for a in args if isinstance(a.const, (int, float))]
    finfo = any("finfo_min" in a.tags for a in args)
    if len(numbers) == len(args):
        return constant(max(numbers) if name == "max" else min(numbers))
    if finfo and len(numbers) == len(args) - 1 and name == "max" and max(numbers) >= -65504:
        return constant(float(max(numbers)))  # every finfo.min is at most that of half
    return Val("number")


def _as_items(pairs: Val) -> list[tuple[Any, Val]]:
    """The entries of `dict(zip(names, values))`, where the names are known."""
    rows = [row.elements() for row in pairs.elements()] if pairs.kind in ("pairs", "list") else []
    return [(row[0].const, row[1]) for row in rows if len(row) == 2 and isinstance(row[0].const, str)]
