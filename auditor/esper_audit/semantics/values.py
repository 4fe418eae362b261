"""Abstract values: what is known about an expression without running it. Unknown is always allowed.

A value says what kind of thing it is, and for tensors its rank, dtype and device where known, the roles it plays
(logits, mask, hidden, ...), how it came to be (factories, masking, inference mode) and from which parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

import libcst as cst

from esper_audit.semantics.axes import Axes, is_open

EMPTY: frozenset[Any] = frozenset()
_BY_REFERENCE = frozenset(
    {"class", "func", "bound", "module", "ext", "dist", "instance", "pairs", "partial"}
)  # nothing without their ref


class _Nothing:
    def __repr__(self) -> str:
        return "NOTHING"


# Tags that say what a tensor certainly is: where branches meet, they stay only if they hold in each. `affine` is the
# output of a linear layer, any real numbers; `squashed` that of a softmax or sigmoid; `times_mask` are logits that were
# multiplied by a mask, and what a softmax makes of them; `p_times_mask` are probabilities that were, not renormalised;
# `dropped` went through dropout, and `batch_mixed` depends on statistics of the batch, both in training mode;
# `expanded` is a view that holds one memory several times; `to_one` is a layer with one output; `alias` shares its
# memory with what a caller handed in.
CERTAIN = frozenset(
    {"affine", "squashed", "times_mask", "p_times_mask", "dropped", "batch_mixed", "expanded", "to_one", "alias"}
)

NOTHING: Any = _Nothing()  # "no constant is known"; None is a constant


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor factory call a value still is, and what the call (or a later `.to`) fixed."""

    node: cst.Call
    module: Any  # ModuleModel; kept loose to avoid an import cycle
    function: str  # the factory's name, e.g. "torch.zeros"
    dtype: bool
    device: bool


@dataclass(frozen=True, slots=True)
class MaskMark:
    """A masking step that a value went through. `constant` is a float, "finfo.min", or None when unknown."""

    node: cst.CSTNode
    function: Any  # the Function it stands in; kept loose to avoid an import cycle
    constant: float | str | None
    additive: bool
    origins: frozenset[str] = EMPTY  # the parameters that the mask came from
    order: int = 0  # marks live in sets, whose order is none; this one is the order in which they were first met


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to a tensor since it left a layer: `kind` is head, mask, scale, clamp, a function, or ?.

    `head` is the layer itself, known by the call that made it; `?` may be a step or none, by what a caller passes.
    """

    kind: str
    node: cst.CSTNode
    function: Any = None  # the Function it stands in; kept loose to avoid an import cycle


@dataclass(frozen=True, slots=True)
class Val:
    """One abstract value; every field beyond `kind` may be unknown.

    Kinds: `unknown tensor tuple list dict none bool number str shape dtype device finfo ext module func class instance
    layer dist bound`. `ref` holds what a kind refers to (a qualified name, a model object, a layer's call).
    """

    kind: str = "unknown"
    rank: int | None = None
    dtype: str | None = None
    roles: frozenset[str] = EMPTY
    tags: frozenset[str] = EMPTY
    items: tuple[tuple[Any, Val], ...] | None = None
    const: Any = NOTHING
    ref: Any = None
    origins: frozenset[str] = EMPTY
    made: frozenset[Made] = EMPTY
    masked: frozenset[MaskMark] = EMPTY
    steps: frozenset[Step] = EMPTY  # none where it is unknown which layer it came from
    axes: Axes | None = None  # which axis is which; of a shape, too
    home: frozenset[Made] = EMPTY  # factories of one dimension or more that it is the work of, and nothing else is
    deps: frozenset[str] = EMPTY  # where its numbers come from: see depends.py

    def but(self, **changes: Any) -> Val:
        """A copy with other fields: what `dataclasses.replace` gives, in a third of its time."""
        values = list(_read_fields(self))
        for name, value in changes.items():
            values[_PLACES[name]] = value
        return Val(*values)

    @property
    def is_tensorish(self) -> bool:
        """A tensor, or something unknown that may be one."""
        return self.kind in ("tensor", "unknown")

    def item(self, key: Any) -> Val | None:
        """The element under a known key of a tuple, list or dict."""
        if self.items is not None:
            for name, value in self.items:
                if name == key:
                    return value
        return None

    def elements(self) -> tuple[Val, ...]:
        """All known elements of a container, else nothing."""
        return tuple(value for _, value in self.items) if self.items else ()

    def flat(self) -> tuple[Val, ...]:
        """The value itself when it holds nothing, else all values inside it, nested containers included."""
        if not self.items or (self.kind not in ("tuple", "list", "dict") and "record" not in self.tags):
            return (self,)
        found: list[Val] = []
        for _, value in self.items:
            found.extend(value.flat())
        return tuple(found)

    @property
    def from_layers(self) -> frozenset[str]:
        """The attributes of self whose layers gave it, or what it was made of."""
        return frozenset(origin[1:] for origin in self.origins if origin.startswith("@"))

    @property
    def left_behind(self) -> tuple[Made, ...]:
        """The factories that made it on the CPU and that nothing moved; none where one branch moves it."""
        moved = {made.node for made in self.home if made.device}
        return tuple(sorted((m for m in self.home if m.node not in moved), key=lambda made: made.function))


_FIELDS = tuple(field.name for field in fields(Val))
_PLACES = {name: place for place, name in enumerate(_FIELDS)}
_read_fields = attrgetter(*_FIELDS)


UNKNOWN = Val()
NONE = Val("none", const=None)


def tensor(rank: int | None = None, *roles: str, **fields: Any) -> Val:
    """A tensor value."""
    return Val("tensor", rank=rank, roles=frozenset(roles), **fields)


def is_float(dtype: str | None) -> bool:
    """Whether a dtype is known, and one of floating-point numbers."""
    return dtype is not None and dtype.startswith(("float", "bfloat"))


def wide(*values: Val) -> str | None:
    """The dtype of at least single precision that tensors of dimensions bring into whatever they are combined with."""
    known = {value.dtype for value in values if value.is_tensorish and value.rank != 0}
    return next((dtype for dtype in ("float64", "float32") if dtype in known), None)


def kept_dtype(value: Val, kwargs: Mapping[str, Val]) -> str | None:
    """The dtype of `softmax` and its kin: as asked for, else that of what comes in."""
    asked = kwargs.get("dtype")
    if asked is not None and asked.kind != "none":
        return asked.const if isinstance(asked.const, str) else None
    return value.dtype if is_float(value.dtype) else None


def constant(value: Any) -> Val:
    """The value of a literal."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return Val("bool", const=value)
    if isinstance(value, (int, float)):
        return Val("number", const=value)
    if value == "finfo.min":
        return Val("number", tags=frozenset({"finfo_min"}))
    if isinstance(value, str):
        return Val("str", const=value)
    return UNKNOWN


def sequence(kind: str, values: list[Val], **fields: Any) -> Val:
    """A tuple or list with known elements."""
    return Val(kind, items=tuple(enumerate(values)), **fields)


def join(left: Val, right: Val) -> Val:
    """What is known when either may be the case: ranks and kinds must agree, roles and histories add up."""
    if left == right or (right is NONE and left.kind == "none"):
        return left
    if left.kind == "none":
        return right.but(tags=right.tags | {"optional"}, deps=left.deps | right.deps)
    if right.kind == "none":
        return left.but(tags=left.tags | {"optional"}, deps=left.deps | right.deps)
    if left.kind == right.kind == "layer" and left.ref != right.ref:
        # `nn.LSTM(...) if recurrent else nn.GRU(...)`: one of them; the recurrent one asks for more care.
        layer = max(
            (left, right), key=lambda layer: ("LSTM" in str(_layer_name(layer)), "GRU" in str(_layer_name(layer)))
        )
        return layer.but(tags=layer.tags | {"either"}, deps=left.deps | right.deps)
    if (
        left.kind == right.kind == "ext"
        and str(left.ref).startswith("torch.nn.")
        and str(right.ref).startswith("torch.nn.")
    ):
        # `rnn_class = nn.GRU if cell == "gru" else nn.LSTM`
        return max((left, right), key=lambda value: ("LSTM" in value.ref, "GRU" in value.ref))
    for known, other in ((left, right), (right, left)):
        if known.kind in ("tuple", "list", "dict") and known.items and other.kind == "unknown":
            # The container is still a possibility, but no rank of what it holds is certain any more.
            held = map_tensors(known, _maybe)
            if "hidden" not in known.roles | other.roles:
                held = map_tensors(held, lambda item: item.but(axes=None))
            return held.but(
                roles=known.roles | other.roles,
                origins=known.origins | other.origins,
                tags=known.tags | other.tags,
                deps=known.deps | other.deps,
            )
    if left.kind != right.kind and "unknown" not in (left.kind, right.kind):
        kind = "unknown"
    else:
        kind = left.kind if left.kind == right.kind else "unknown"
    if kind in _BY_REFERENCE and left.ref != right.ref:
        kind = "unknown"
    tags = (left.tags | right.tags) - (CERTAIN & (left.tags ^ right.tags))
    if "mask" in left.roles & right.roles and "negated" in left.tags ^ right.tags:
        tags |= {"either"}  # what True means in it depends on the branch
    items = None
    if left.items is not None and right.items is not None and kind != "unknown":
        items = _join_items(left, right)
    deps = left.deps | right.deps
    if items is None and (left.items or right.items):
        deps = deps | _all_deps(left) | _all_deps(right)
    if kind == "unknown" and (left.kind in _BY_REFERENCE or right.kind in _BY_REFERENCE):
        deps = deps | {"?"}  # which object it is decides
    return Val(
        kind if kind != "unknown" or "tensor" not in (left.kind, right.kind) else "tensor",
        rank=left.rank if left.rank == right.rank else None,
        dtype=left.dtype if left.dtype == right.dtype else None,
        roles=left.roles | right.roles,
        tags=tags,
        items=items,
        const=left.const if left.const is right.const or left.const == right.const else NOTHING,
        ref=left.ref if left.ref == right.ref else None,
        origins=left.origins | right.origins,
        made=left.made | right.made,
        masked=left.masked | right.masked,
        steps=_all_steps(left.steps, right.steps),
        home=left.home | right.home,
        deps=deps,
        axes=_joined_axes(left, right),
    )


def _maybe(item: Val) -> Val:
    return item.but(rank=None, tags=item.tags | {"optional"})


def _joined_axes(left: Val, right: Val) -> Axes | None:
    """The axes that two values have in common; of a hidden state and a fresh one, those of the one that has some."""
    if left.axes == right.axes:
        return left.axes
    if "hidden" in left.roles | right.roles and left.kind != "number":
        known = [axes for axes in (left.axes, right.axes) if axes is not None and not is_open(axes)]
        return known[0] if len(known) == 1 else None
    return None


MAX_STEPS = 24  # what goes through more is not followed


def _all_steps(left: frozenset[Step], right: frozenset[Step]) -> frozenset[Step]:
    both = left | right
    return both if len(both) <= MAX_STEPS else EMPTY


def stepped(value: Val, kind: str, node: cst.CSTNode, function: Any) -> Val:
    """The value after another step, if it is known which layer it came from."""
    return value.but(steps=_all_steps(value.steps, frozenset({Step(kind, node, function)}))) if value.steps else value


def unsqueezed(value: Val) -> Val:
    """The value once its rank is settled anew: what a bare `squeeze` took away is forgotten."""
    return value.but(steps=frozenset(step for step in value.steps if step.kind != "squeeze"))


def _layer_name(layer: Val) -> str:
    return str(layer.ref[0]) if isinstance(layer.ref, tuple) else ""


def _join_items(left: Val, right: Val) -> tuple[tuple[Any, Val], ...]:
    merged: dict[Any, Val] = dict(left.items or ())
    given = dict(right.items or ())
    for key, value in given.items():
        merged[key] = join(merged[key], value) if key in merged else _perhaps(value)
    for key, _ in left.items or ():
        if key not in given:
            merged[key] = _perhaps(merged[key])
    return tuple(merged.items())


def _perhaps(value: Val) -> Val:
    """A member that one branch adds: of a layer it must be known that it may be missing."""
    return value.but(tags=value.tags | {"either"}) if value.kind == "layer" else value


def join_all(values: tuple[Val, ...] | list[Val]) -> Val:
    """The join of several values; unknown for none."""
    if not values:
        return UNKNOWN
    result = values[0]
    for value in values[1:]:
        result = join(result, value)
    return result


def with_role(value: Val, role: str) -> Val:
    """The value, and what it contains, playing a role too."""
    if not role or value.kind in (
        "number",
        "bool",
        "str",
        "none",
        "ext",
        "module",
        "func",
        "class",
        "layer",
        "shape",
        "dist",
    ):
        return value
    items = value.items
    if items and value.kind in ("tuple", "list"):
        items = tuple((key, with_role(item, role)) for key, item in items)
    return value.but(roles=value.roles | {role}, items=items)


MAX_PARTS = 200  # elements of a container, those of its containers included
MAX_TEXT = 2000


def bounded(value: Val) -> Val:
    """The value, or what is left of it when it has grown past all use: what doubles in a loop is not followed."""
    if (isinstance(value.const, str) and len(value.const) > MAX_TEXT) or (
        value.items is not None and not _is_small(value)
    ):
        return Val(value.kind, roles=value.roles, tags=value.tags, origins=value.origins, deps=_all_deps(value))
    return value


def _all_deps(value: Val) -> frozenset[str]:
    """Of a container too large to follow: what the first of its parts depend on stands for all."""
    found = value.deps
    for part in value.elements()[:MAX_PARTS]:
        found = found | part.deps | frozenset[str]().union(*(inner.deps for inner in part.elements()[:MAX_PARTS]))
    return found | {"?"}


def _is_small(value: Val) -> bool:
    seen = 0
    stack = [value]
    while stack:
        seen += 1
        if seen > MAX_PARTS:
            return False
        stack.extend(stack.pop().elements())
    return True


def map_tensors(value: Val, change: Callable[[Val], Val]) -> Val:
    """Apply `change` to a value and to everything inside a container."""
    if value.items and value.kind in ("tuple", "list", "dict"):
        return value.but(items=tuple((key, map_tensors(item, change)) for key, item in value.items))
    return change(value)


def constant_key(value: Val) -> float | str | None:
    """The constant a tensor is filled with: a float, "finfo.min", or None."""
    if "finfo_min" in value.tags:
        return "finfo.min"
    if isinstance(value.const, (int, float)) and not isinstance(value.const, bool):
        return float(value.const)
    return None
