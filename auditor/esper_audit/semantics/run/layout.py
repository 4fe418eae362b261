"""What becomes of the axes of a tensor: see `semantics.axes` for their labels."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from esper_audit.semantics import axes as ax
from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.axes import Axes
from esper_audit.semantics.run.scope import Scope
from esper_audit.semantics.tree import dotted, literal_number
from esper_audit.semantics.values import NOTHING, UNKNOWN, Val, constant

_ELEMENTWISE = (
    facts.SAME
    | facts.DTYPE_METHODS.keys()
    | frozenset("softmax log_softmax logical_not masked_fill masked_fill_ log_ div_ mul_ add_ sub_ isfinite".split())
) - frozenset("where expand_as view_as reshape_as index_copy index_fill masked_scatter copy_".split())
_SPLITS = frozenset("split chunk tensor_split split_with_sizes".split())
_SIZE = "axis:"


class Layout(Scope):
    """What becomes of the axes of a tensor."""

    def laid_out(
        self, node: cst.Call, value: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val], *, result: Val
    ) -> Val:
        """What a method of a tensor gives, with its axes."""
        if result.kind == "list" and result.items and name in (*_SPLITS, "unbind"):
            dim = kwargs.get("dim", args[0] if args and name == "unbind" else args[1] if len(args) > 1 else constant(0))
            axes = ax.replaced(value.axes, dim.const, None if name == "unbind" else "")
            return result.but(items=tuple((key, settled(part, axes)) for key, part in result.items))
        if result.kind == "tuple" and result.items and name in ("max", "min"):
            axes = self.reduced_axes(value.axes, args, kwargs)
            return result.but(items=tuple((key, settled(part, axes)) for key, part in result.items))
        if result.kind == "number" and name == "size" and args:
            return sized(result, size_of(value.axes, args[0].const))
        if result.kind == "shape":
            owner = node.func.value if isinstance(node.func, cst.Attribute) else None
            return result.but(axes=value.axes, ref=owner.value if isinstance(owner, cst.Name) else None)
        if not result.is_tensorish:
            return result
        return settled(result, self.new_axes(node, value, name, args, kwargs))

    def new_axes(
        self, node: cst.Call, value: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]
    ) -> Axes | None:
        """The axes of what a method of a tensor gives."""
        axes = value.axes
        dims = [arg.const for arg in args]
        dim = kwargs.get("dim", kwargs.get("axis", args[0] if args else UNKNOWN)).const
        if name in _ELEMENTWISE:
            return axes
        if name == "unsqueeze":
            return ax.inserted(axes if axes is not None else ("*",), dim, "1")
        if name == "squeeze":
            return _squeezed(axes, dim)
        if name in ("transpose", "swapaxes", "swapdims") and len(dims) == 2:
            return ax.swapped(axes, *dims)
        if name == "t":
            return ax.swapped(axes, 0, 1) if axes is not None and len(axes) == 2 else None
        if name == "permute":
            order = [part.const for part in args[0].elements()] if len(args) == 1 and args[0].items else dims
            return ax.permuted(axes, order)
        if name == "flatten":
            start = kwargs.get("start_dim", args[0] if args else constant(0)).const
            return ax.flattened(axes, start, kwargs.get("end_dim", args[1] if len(args) > 1 else constant(-1)).const)
        if name in ("view", "reshape", "unflatten"):
            return self.view_axes(node, value, name, args, kwargs)
        if name in ("view_as", "reshape_as", "expand_as") and args:
            return args[0].axes
        if name == "gather" and args:
            index = kwargs.get("index", args[-1])
            known = axes is not None and not ax.is_open(axes) and ax.place(axes, dim) == len(axes) - 1
            known = known or (axes is not None and dim == -1 and ax.place(axes, -1) is not None)
            return ax.replaced(axes, -1, "1" if ax.ends_in_one(index.axes) else "") if known else index.axes
        if name in facts.REDUCTIONS:
            return self.reduced_axes(axes, args, kwargs)
        if name in facts.NEW_FACTORIES:
            return self.size_axes(node, args, kwargs)
        if name in ("add", "sub", "mul", "div", "true_divide", "eq", "ne", "lt", "le", "gt", "ge") and args:
            return ax.broadcast(axes, args[0].axes) if args[0].is_tensorish else axes
        return None

    def reduced_axes(self, axes: Axes | None, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Axes | None:
        """The axes that a reduction leaves."""
        given = kwargs.get("dim", kwargs.get("axis", args[0] if args else None))
        if given is None:
            return ()
        keeps = kwargs.get("keepdim", args[1] if len(args) > 1 else UNKNOWN).const is True
        return ax.replaced(axes, given.const, "1" if keeps else None)

    def view_axes(
        self, node: cst.Call, value: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]
    ) -> Axes | None:
        """The axes after `view` and its kin; recorded where elements change from one axis to another."""
        if name == "unflatten":
            at = ax.place(value.axes, args[0].const if args else None)
            sizes = self.size_axes(node, args[1:], kwargs, skip=1, source=value.axes)
            if at is None or sizes is None or value.axes is None:
                return None
            sizes = (*value.axes[:at], *sizes, *value.axes[at + 1 :])
        else:
            given = self.size_axes(node, args, kwargs, source=value.axes)
            if given is None:
                return None
            sizes = given
        # `view(B, T, N, -1)`: the second count is of something else
        sizes = tuple("" if each in ("B", "T") and each in sizes[:at] else each for at, each in enumerate(sizes))
        if ax.reorders(value.axes, sizes):
            self.record("reorder", node, target=value, other=Val("shape", axes=sizes))
            return ("",) * len(sizes)
        return ax.viewed(value.axes, sizes)

    def size_axes(
        self, node: cst.Call, args: tuple[Val, ...], kwargs: dict[str, Val], skip: int = 0, source: Axes | None = None
    ) -> Axes | None:
        """The labels of sizes that are given one by one, as a tuple, or as the shape of another tensor."""
        given = kwargs.get("size", kwargs.get("shape"))
        values: Sequence[Val] = (given,) if given is not None else args
        expressions = [arg.value for arg in node.args if arg.keyword is None and not arg.star]
        if len(expressions) == len(args) + skip + 1:  # `torch.reshape(x, ...)`
            expressions = expressions[1:]
        expressions = expressions[skip:]
        if len(values) == 1 and values[0].kind == "shape":
            return values[0].axes
        if len(values) == 1 and values[0].kind in ("tuple", "list"):
            if values[0].items is None or any(key is None for key, _ in values[0].items):
                return None
            shown = expressions[0] if expressions else None
            elements = shown.elements if isinstance(shown, (cst.Tuple, cst.List)) else ()
            values, expressions = values[0].elements(), [element.value for element in elements]
        elif len(values) == 1 and values[0].kind != "number":
            return None
        if any(value.kind not in ("number", "unknown") for value in values):
            return None
        if len(expressions) != len(values):
            return tuple(_size_label(value, None, source) for value in values)
        return tuple(_size_label(value, shown, source) for value, shown in zip(values, expressions, strict=True))

    def index_axes(self, value: Val, node: cst.Subscript, keys: list[Val]) -> Axes | None:
        """The axes of a tensor under its subscripts."""
        axes = value.axes
        if axes is None:
            return None
        dots = [
            isinstance(element.slice, cst.Index) and isinstance(element.slice.value, cst.Ellipsis)
            for element in node.slice
        ]
        taken = sum(key.kind != "none" for key, dot in zip(keys, dots, strict=True) if not dot)
        if ax.is_open(axes) and not (dots[:1] == [True] and taken < len(axes)):
            return None
        if True in dots:
            behind = sum(k.kind != "none" for k, _ in zip(keys[dots.index(True) + 1 :], dots, strict=False))
        found: list[str] = []
        at = 0
        for element, key, dot in zip(node.slice, keys, dots, strict=True):
            if dot:
                stop = len(axes) - behind
                found += axes[at:stop]
                at = stop
            elif key.kind == "none":
                found.append("1")
            elif at >= len(axes):
                return None
            elif key.kind == "slice":
                found.append(_cut(axes[at], element.slice))
                at += 1
            elif key.kind == "number":
                at += 1
            else:
                return None
        return (*found, *axes[at:])

    def joined_axes(self, short: str, parts: Val, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Axes | None:
        """The axes that `cat` and `stack` give."""
        values = parts.elements()
        if not values or parts.kind not in ("list", "tuple"):
            return None
        axes = values[0].axes
        if axes is None or any(value.axes != axes for value in values) or short not in ("stack", "cat", "concat"):
            return None
        many = any(key is None for key, _ in parts.items or ()) or "grown" in parts.tags
        dim = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else constant(0))).const
        if short == "stack":
            return ax.inserted(axes, dim, "many" if many else "")
        at = ax.place(axes, dim)
        if at is None or not many:
            return ax.replaced(axes, dim, "")
        if ax.is_one(axes[at]):
            return ax.replaced(axes, dim, "T" if axes[at] == "T1" else "many")
        over = "T" if "T1" in axes else "many"
        return ax.replaced(axes, dim, f"{over}.{axes[at]}" if axes[at] in ("B", "T") else "")


def settled(value: Val, axes: Axes | None) -> Val:
    """A tensor with these axes: they say its rank where it was unknown, and are worth nothing where they belie it."""
    if axes is not None and not ax.is_open(axes):
        if value.rank is None and value.kind == "tensor":
            value = value.but(rank=len(axes))
        if value.rank is not None and value.rank != len(axes):
            axes = None
    return value if value.axes == axes else value.but(axes=axes)


def fed(value: Val) -> Axes:
    """The axes of what goes into a layer: where they are unknown, there is a last one."""
    return value.axes or (("*", "") if value.rank is None else ("",) * value.rank)


def sized(number: Val, axis: str) -> Val:
    """A number that is the size of an axis of this label."""
    return number.but(tags=number.tags | {_SIZE + axis}) if axis else number


def named_size(number: Val, name: str) -> Val:
    """A number whose name says which axis it is the size of."""
    known = any(tag.startswith(_SIZE) for tag in number.tags)
    return number if known or number.const is not NOTHING else sized(number, _size_named(name))


def _size_named(name: str) -> str:
    """The label of a size by its name: a lone `e` is an embedding's more often than a number of environments."""
    return "" if name.strip("_").lower() == "e" else ax.label(name)


def size_of(axes: Axes | None, axis: object) -> str:
    """The label of a size that is read off a tensor."""
    at = ax.place(axes, axis)
    if axes is not None and at is not None:
        return axes[at] if "." not in axes[at] and axes[at] != "many" else ""
    if axes and len(axes[0]) > 1 and isinstance(axis, int) and axis >= 0:
        return f"{axes[0][1:]}#{axis}"  # of `*x`
    return ""


def label_of(number: Val) -> str:
    """The label that a number has as a size; nothing where it may be of several axes."""
    found = [tag.removeprefix(_SIZE) for tag in number.tags if tag.startswith(_SIZE)]
    return found[0] if len(found) == 1 else ""


def product(left: Val, right: Val) -> str:
    """The label of the product of two sizes, whose order says nothing."""
    labels = (label_of(left), label_of(right))
    return "&".join(sorted(labels)) if all(labels) else ""


def _size_label(value: Val, shown: cst.BaseExpression | None, source: Axes | None) -> str:
    """The label of a size: as it was read off a tensor, or as it is called where that fits what it is applied to."""
    if isinstance(value.const, int):
        return {1: "1", -1: "-1"}.get(value.const, "")
    read, name = label_of(value), _size_named(dotted(shown).rpartition(".")[2]) if shown is not None else ""
    return name if name and source is not None and read not in ax.apart(source) else read or name


def _squeezed(axes: Axes | None, axis: object) -> Axes | None:
    """The axes after `squeeze(axis)`: batch and time stay, since they have size 1 by accident only."""
    at = ax.place(axes, axis)
    if axes is None or at is None:
        return None
    kept = axes[at] in ("B", "T") and ax.ends_in_one(axes)
    return axes if kept else ax.replaced(axes, axis, None)


def _cut(axis: str, piece: cst.BaseSlice) -> str:
    """What a slice leaves of an axis."""
    if not isinstance(piece, cst.Slice) or (piece.lower is None and piece.upper is None):
        return axis
    if piece.lower is not None and piece.upper is not None and _is_next(piece.lower, piece.upper):
        return f"{axis}1" if axis in ("T", "B") else "1"
    if piece.lower is None and isinstance(piece.upper, cst.Integer) and literal_number(piece.upper) == 1:
        return f"{axis}1" if axis in ("T", "B") else "1"
    return axis if axis in ("B", "T") else ""


def _is_next(lower: cst.BaseExpression, upper: cst.BaseExpression) -> bool:
    """Whether `upper` is `lower + 1`."""
    return (
        isinstance(upper, cst.BinaryOperation)
        and isinstance(upper.operator, cst.Add)
        and isinstance(upper.right, cst.Integer)
        and upper.right.value == "1"
        and upper.left.deep_equals(lower)
    )
