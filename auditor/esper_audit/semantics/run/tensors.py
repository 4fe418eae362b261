"""What methods and functions of tensors give: ranks, roles, masking."""

from __future__ import annotations

import libcst as cst

from esper_audit.semantics import axes as ax
from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.run.frames import ClassFlow
from esper_audit.semantics.run.layout import Layout
from esper_audit.semantics.run.scope import GRADIENT_FREE
from esper_audit.semantics.tree import dotted
from esper_audit.semantics.values import (
    CERTAIN,
    EMPTY,
    NOTHING,
    UNKNOWN,
    Made,
    MaskMark,
    Step,
    Val,
    constant,
    constant_key,
    join,
    kept_dtype,
    sequence,
    stepped,
    tensor,
    unsqueezed,
    wide,
)

_HALF_ROUNDS_TO_ZERO = 2.0**-25  # half of the smallest positive float16; ties go to zero
_DEVICES = ("device", "str", "ext", "number")  # `.to(0)` names a GPU
CARRIED = frozenset({"neg_inf", "dropped", "batch_mixed", "outside", "on_cpu", "random"})  # what an operation hands on
THROUGH_LAYERS = frozenset({"dropped", "batch_mixed"})  # and what a layer does
_EXPANDS = frozenset({"expand", "expand_as", "broadcast_to"})
_MAY_COPY = frozenset(
    {*facts.DTYPE_METHODS, *"clone contiguous reshape flatten repeat tile to type type_as cuda cpu".split()}
)

HOST = frozenset({"host"})  # on what Python has read from a tensor: numbers, lists, arrays
RAW = frozenset({"raw_output", "raw_parameter"})  # may be any number, as training likes
EXP_RAW = frozenset({"exp_raw_output", "exp_raw_parameter"})


class Tensors(Layout):
    """What methods and functions of tensors give: ranks, roles, masking."""

    def tensor_method(
        self,
        node: cst.Call,
        value: Val,
        name: str,
        args: tuple[Val, ...],
        kwargs: dict[str, Val],
    ) -> Val:
        """A method of a tensor, or the function of torch of the same name, with the axes of what it gives."""
        result = self.method_value(node, value, name, args, kwargs)
        if "alias" in result.tags and name not in facts.VIEWS and not name.endswith("_"):
            result = result.but(tags=result.tags - {"alias"})
        return self.laid_out(node, value, name, args, kwargs, result=result)

    def method_value(
        self,
        node: cst.Call,
        value: Val,
        name: str,
        args: tuple[Val, ...],
        kwargs: dict[str, Val],
    ) -> Val:
        """What a method of a tensor gives, but for its axes."""
        if value.kind == "bool" and name in facts.DTYPE_METHODS:
            value = tensor(dtype="bool")  # Python's own have no such method: it was tensors that were compared
        if value.kind not in ("tensor", "unknown"):
            return UNKNOWN
        if "of_layer" in value.tags and name not in facts.NEW_FACTORIES:
            return UNKNOWN
        if "host" in value.tags:
            return Val(tags=HOST)  # an array, or what came out of one
        if name in facts.MEETINGS:
            self.meet(node, value, *args, *kwargs.values())
        if name in _MAY_COPY and "expanded" in value.tags:
            value = value.but(tags=value.tags - {"expanded"})
        owner = node.func.value if isinstance(node.func, cst.Attribute) else None
        if name.endswith("_") and isinstance(owner, cst.Name) and owner.value in self.env:
            changed = self.env[owner.value]  # in place: what it certainly was may not hold any more
            drawn = {"random"} if name in facts.DRAWN_IN_PLACE else EMPTY
            self.env[owner.value] = changed.but(tags=changed.tags - (CERTAIN - THROUGH_LAYERS) | drawn)
        owner = _changed_before(owner)
        if name.endswith("_") and isinstance(owner, cst.Attribute) and any("batch_mean" in arg.tags for arg in args):
            # A buffer that takes up the mean of each batch it sees is a statistic of the batch itself.
            holder = self.eval(owner.value)
            if isinstance(holder.ref, ClassFlow):
                moved = value.but(tags=value.tags | {"batch_mean", "running"})
                holder.ref.store(owner.attr.value, moved)
                self.record("statistic", node, name=owner.attr.value, target=holder, value=moved)
        if name in ("masked_fill", "masked_fill_"):
            return self.masked_fill(node, value, args, kwargs)
        if name == "bool" or (name in ("to", "type") and args and args[0].const == "bool"):
            self.made_bool(value, node)
            value = value.but(tags=value.tags - {"flipped"})
        if name in ("to", "type", "type_as"):
            return self.moved(value, name, args, kwargs)
        if name in facts.DTYPE_METHODS:
            made = frozenset(Made(m.node, m.module, m.function, True, m.device) for m in value.made)
            return value.but(dtype=facts.DTYPE_METHODS[name], made=made)
        if name in ("cuda", "cpu"):
            tags = value.tags | {"on_cpu"} if name == "cpu" else value.tags - {"on_cpu"}
            return value.but(tags=tags, made=_placed(value.made), home=_placed(value.home))
        if name in facts.NEW_FACTORIES:
            asked = kwargs["dtype"].const if "dtype" in kwargs else None
            on_cpu = {"on_cpu"} if kwargs.get("device", UNKNOWN).const == "cpu" else EMPTY
            dtype = asked if isinstance(asked, str) else None
            return tensor(self.size_rank(args, kwargs.get("size")), dtype=dtype, tags=frozenset(on_cpu))
        if name == "clone" and "inference_mode" not in self.contexts:
            return value.but(tags=value.tags - GRADIENT_FREE)
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
        if name in ("isnan", "isfinite", "isinf"):
            return Val(value.kind, rank=value.rank, tags=frozenset({"outside"}) if is_data(value) else EMPTY)
        if name in ("item", "tolist", "numpy"):
            return Val("number" if name == "item" else "unknown", tags=HOST if is_data(value) else EMPTY)
        if name in ("dim", "ndimension", "numel"):
            return Val("number", ref=("measure", value, "rank") if name in ("dim", "ndimension") else None)
        if name == "size":
            return Val("number", ref=("measure", value, "size")) if args else Val("shape", rank=value.rank)
        result = self.computed(node, value, name, args, kwargs)
        two = name in ("minimum", "maximum") or (name in ("min", "max") and args and args[0].kind == "tensor")
        return Val(tags=result.tags, dtype=wide(value, *args), home=result.home) if two else result

    def made_bool(self, mask: Val, node: cst.CSTNode) -> None:
        """Record a mask that is made bool after `~`: who writes this expects it to be something else before."""
        if "flipped" in mask.tags:
            self.record("invert", node, target=mask, name="~ before bool")

    def masking(
        self, node: cst.CSTNode, target: Val, mask: Val, fill: Val, spelling: str, *, fills_true: bool | None
    ) -> Val:
        """A tensor with some entries replaced: record it and let the value remember."""
        known = constant_key(fill)
        additive = spelling == "addition"
        tags = target.tags - {"times_mask", "p_times_mask"}
        result = target.but(kind="tensor", made=EMPTY, const=NOTHING, ref=None, tags=tags)
        if "zeros" in target.tags and known is not None and known != 0 and not target.roles & {"logits"}:
            # zeros.masked_fill(~mask, -inf) is a bias to be added, no masked logits yet
            return mask.but(roles=frozenset({"mask_bias"}), ref=("bias", known, fills_true), tags=EMPTY)
        mark = MaskMark(node, self.function, known, additive, mask.origins, self.interpreter.order_of(node))
        masked = target.masked
        if known == float("-inf"):
            tags = tags | {"neg_inf"}
        elif "logp" in tags and known is not None:  # what was infinite has a number now
            masked, tags = frozenset(m for m in masked if m.constant != float("-inf")), tags - {"neg_inf"}
        event_value = result.but(masked=masked | {mark}, tags=tags)
        self.record("mask", node, target=target, other=mask, value=fill, name=spelling, fills_true=fills_true)
        return event_value

    def where(self, node: cst.Call, args: tuple[Val, ...]) -> Val:
        """`torch.where`: masking, a bias made from a mask, or either of two values."""
        if len(args) < 3:
            return UNKNOWN
        condition, chosen, other = args[:3]
        if "mask" in condition.roles:
            true, false = true_means_true(condition), true_means_true(condition, inverted=True)
            for logits, fill, fills_true in ((chosen, other, false), (other, chosen, true)):
                if constant_key(fill) is not None and logits.is_tensorish and constant_key(logits) is None:
                    return self.masking(node, logits, condition, fill, "torch.where", fills_true=fills_true)
            for zero, fill, fills_true in ((chosen, other, false), (other, chosen, true)):
                known = constant_key(fill)
                if zero.const in (0, 0.0) and zero.const is not NOTHING and known is not None and known != 0:
                    return condition.but(roles=frozenset({"mask_bias"}), ref=("bias", known, fills_true), tags=EMPTY)
        for side in (chosen, other):
            if side.masked:
                return side.but(made=EMPTY)
        result = (
            join(chosen, other)
            if chosen.kind == other.kind == "tensor"
            else tensor(chosen.rank).but(roles=chosen.roles & other.roles)
        )
        kept = {"kept"} if "hidden" in chosen.roles | other.roles else EMPTY  # one of the two may be a fresh state
        dtype = result.dtype or wide(chosen, other)
        return result.but(made=EMPTY, kind="tensor", dtype=dtype, tags=result.tags - {"p_logp"} | kept)

    def masked_fill(self, node: cst.Call, value: Val, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """`masked_fill` and its in-place form."""
        mask = args[0] if args else kwargs.get("mask", UNKNOWN)
        fill = args[1] if len(args) > 1 else kwargs.get("value", UNKNOWN)
        result = self.masking(node, value, mask, fill, "masked_fill", fills_true=true_means_true(mask))
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
        home = _placed(value.home) if device else value.home
        if device:
            on_cpu = any(a.const == "cpu" for a in given)
            value = value.but(tags=value.tags | {"on_cpu"} if on_cpu else value.tags - {"on_cpu"})
        return value.but(made=made, home=home, dtype=literal or (None if dtype else value.dtype))

    def meet(self, node: cst.CSTNode, *operands: Val) -> None:
        """Record a tensor of a factory that an operation brings together with a tensor of the network or its caller."""
        for value in operands:
            if value.home and any(other is not value and comes_from_outside(other) for other in operands):
                self.record("meet", node, value=value)

    def size_rank(self, sizes: tuple[Val, ...], keyword: Val | None) -> int | None:
        """The rank that size arguments give."""
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

    def reshaped(self, node: cst.Call, value: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """Methods that change the shape: the new rank, and whether a mask was lifted or checked."""
        rank = value.rank
        if name == "unsqueeze":
            rank = rank + 1 if rank is not None else None
        elif name == "squeeze":
            rank = rank - 1 if rank is not None and (args or kwargs) else None
            axis = kwargs.get("dim", args[0] if args else UNKNOWN).const
            if (at := ax.place(value.axes, axis)) is not None and value.axes and ax.ends_in_one(value.axes):
                rank = value.rank if value.axes[at] in ("B", "T") else rank  # of size 1 by accident only
            if not args and not kwargs and "rank_test" not in self.contexts:
                value = stepped(value, "squeeze", node, self.function)
                if not value.steps and "log_prob" in value.roles and not value.origins:
                    value = value.but(steps=frozenset({Step("squeeze", node, self.function)}))  # made here, of whatever
        elif name in ("reshape", "view", "expand", "repeat", "tile"):
            rank = self.size_rank(args, kwargs.get("shape", kwargs.get("size")))
            value = unsqueezed(value)
        elif name == "flatten":
            rank = self.flattened(rank, args, kwargs)
            value = unsqueezed(value)
        elif name in ("view_as", "reshape_as", "expand_as"):
            rank = args[0].rank if args else None
            value = unsqueezed(value)
        elif name in ("broadcast_to", "unflatten"):
            rank = None
        if name in _EXPANDS:
            value = value.but(tags=value.tags | {"expanded"})
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
        """The rank after `flatten`."""
        start = (args[0] if args else kwargs.get("start_dim", constant(0))).const
        end = (args[1] if len(args) > 1 else kwargs.get("end_dim", constant(-1))).const
        if start == 0 and end == -1:
            return 1
        if rank is None or not isinstance(start, int) or not isinstance(end, int):
            return start + 1 if isinstance(start, int) and start >= 0 and end == -1 else None
        start, end = start % rank, end % rank
        return rank - (end - start)

    def computed(self, node: cst.Call, value: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """Methods that compute: what becomes of roles, tags and rank."""
        keep = value.tags & CARRIED | ({"outside"} if comes_from_outside(value) else EMPTY)
        times = value.tags & {"times_mask"}
        if name == "where" and len(args) >= 2:
            return self.where(node, (args[0], value, args[1]))
        if name == "softmax":
            tags = keep | {"p", "squashed"} | times
            probs = tensor(value.rank, "probs", tags=tags, masked=value.masked, origins=value.origins)
            return probs.but(dtype=kept_dtype(value, kwargs), steps=value.steps)
        if name == "log_softmax":
            tags = keep | {"logp"} | times
            logs = tensor(value.rank, "log_prob", tags=tags, masked=value.masked, origins=value.origins)
            return logs.but(dtype=kept_dtype(value, kwargs), steps=value.steps)
        if name == "logsumexp":
            return tensor(value.rank, tags=keep | {"lse"}, steps=value.steps)
        if name in ("log", "log_"):
            if "mask" in value.roles:
                fills_true = true_means_true(value, inverted=True)
                return value.but(roles=frozenset({"mask_bias"}), ref=("bias", float("-inf"), fills_true), tags=EMPTY)
            tags = (
                keep
                | (value.tags & {"p_times_mask"})
                | ({"logp"} if value.tags & {"p", "p_floor"} else EMPTY)
                | ({"log_of_count"} if "count" in value.tags else EMPTY)
            )
            if "p_floor" in value.tags:
                tags, value = tags - {"neg_inf"}, value.but(masked=EMPTY)  # what was 0 is finite now
            scored = value.but(masked=EMPTY, steps=EMPTY) if "logp" not in tags else value
            return tensor(value.rank, dtype=value.dtype, tags=tags, masked=scored.masked, steps=scored.steps)
        if name == "exp":
            raw = {f"exp_{tag}" for tag in RAW & value.tags} | (value.tags & {"bounded"})
            return tensor(value.rank, tags=keep | raw | ({"p"} if "logp" in value.tags else EMPTY))
        if name in ("clamp", "clip", "clamp_min", "clamp_"):
            return self.clamped(stepped(value, "clamp", node, self.function), args, kwargs)
        if name in ("logical_not", "bitwise_not") and "mask" in value.roles:
            return value.but(tags=value.tags ^ {"negated"}, dtype="bool" if name == "logical_not" else value.dtype)
        if name in ("add", "sub", "mul", "div", "true_divide", "add_", "mul_"):
            operator = {"add": "Add", "sub": "Subtract", "mul": "Multiply", "div": "Divide", "true_divide": "Divide"}[
                name.rstrip("_")
            ]
            return self.binary(operator, value, args[0] if args else UNKNOWN, node)
        if name in ("eq", "ne", "lt", "le", "gt", "ge"):
            if "count" in value.tags:
                self.record("count_check", node, value=value)
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
        if name == "nonzero" and value.kind == "tensor" and not args and not kwargs:
            return tensor(2, dtype="int64", tags=keep | {"rows"}, origins=value.origins)
        if name == "gather":
            return self.gathered(node, value, keep)
        if name == "argmax":
            return tensor(None, "action", tags=keep)
        if name == "nan_to_num":
            return value.but(tags=value.tags - {"neg_inf"})
        if name in facts.SAME:
            changed = name not in facts.KEEPS_IDENTITY
            if changed:
                value = stepped(value, name.rstrip("_"), node, self.function)
                lost = (CERTAIN - THROUGH_LAYERS) | RAW | EXP_RAW
                value = value.but(tags=value.tags - lost | ({"squashed"} if name == "sigmoid" else EMPTY))
            return value.but(
                made=EMPTY if changed else value.made,
                ref=None,
                kind="tensor" if value.kind == "tensor" else "unknown",
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
            return tensor(value.rank, tags=keep | {"affine"})
        if name in ("tril", "triu") or name in facts.MEETINGS:
            return Val("unknown", tags=keep & {"outside", "on_cpu"}, home=value.home if name[:3] == "tri" else EMPTY)
        return UNKNOWN

    def gathered(self, node: cst.Call, value: Val, keep: frozenset[str]) -> Val:
        """`gather`: the log-prob or the probability of the action that was taken."""
        if "logp" in value.tags:
            self.record("dist", node, name="gather", target=value)
        roles = frozenset({"log_prob"}) if "logp" in value.tags else value.roles
        if value.tags & {"p", "p_floor"}:  # of the action that was taken, and still a probability
            keep = keep | value.tags & {"p", "p_floor"}
            return tensor(value.rank, tags=keep, steps=value.steps, masked=value.masked, ref=value.ref).but(roles=roles)
        return tensor(value.rank, tags=keep, steps=value.steps).but(roles=roles)

    def clamped(self, value: Val, args: tuple[Val, ...], kwargs: dict[str, Val]) -> Val:
        """`clamp`: it ends minus infinity, and may leave a bound that float16 rounds to zero."""
        low = kwargs.get("min", args[0] if args else UNKNOWN)
        bound = low.const if isinstance(low.const, (int, float)) and not isinstance(low.const, bool) else None
        if "mask_bias" in value.roles and isinstance(value.ref, tuple):
            return value.but(ref=("bias", constant_key(low), *value.ref[2:]))
        if "mask" in value.roles and bound is not None and bound > 0:
            value = value.but(roles=value.roles - {"mask"})  # its log is finite: no mask any more
        tags = value.tags - {"neg_inf"} if bound is not None or "finfo_min" in low.tags else value.tags
        # `bounded` also where another branch does not clamp
        tags = tags - {"tiny_clamp", "affine"} - RAW - EXP_RAW | {"bounded"}
        tags = tags | ({"above_zero"} if bound is not None and bound > 0 else EMPTY)
        if "p" in tags and bound is not None and bound > 0:
            value, tags = value.but(ref=("floor", bound)), tags | {"p_floor"}
        result = value.but(tags=tags, made=EMPTY, const=NOTHING)
        if bound is not None and 0 < bound < _HALF_ROUNDS_TO_ZERO:
            return result.but(tags=tags | {"tiny_clamp"}, ref=("bound", bound))
        return result

    def reduced(
        self, value: Val, name: str, args: tuple[Val, ...], kwargs: dict[str, Val], keep: frozenset[str]
    ) -> Val:
        """Reductions: the rank that is left, and sums that are entropies, log-probs or counts."""
        has_dim = bool(args) or "dim" in kwargs or "axis" in kwargs
        keepdim = kwargs.get("keepdim", UNKNOWN).const is True
        rank = value.rank if keepdim else value.rank - 1 if has_dim and value.rank else 0 if not has_dim else None
        if name in ("max", "min") and has_dim:
            return sequence(
                "tuple",
                [
                    tensor(rank, tags=keep, steps=value.steps),
                    tensor(rank, "action" if "logits" in value.roles or "probs" in value.roles else "", dtype="int64"),
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
        dim = kwargs.get("dim", kwargs.get("axis", args[0] if args else UNKNOWN))
        dims = [each.const for each in dim.elements()] if dim.kind in ("tuple", "list") else [dim.const]
        if name == "mean" and 0 in dims and value.rank != 1:
            tags = tags | {"batch_mean"}
        return tensor(rank, tags=tags, steps=(value if has_dim else unsqueezed(value)).steps).but(
            roles=frozenset(roles)
        )


def true_means_true(mask: Val, *, inverted: bool = False) -> bool | None:
    """Whether True of a mask is True of the mask that came in, however often it was negated; None when unknown."""
    return None if "either" in mask.tags else ("negated" in mask.tags) == inverted


def _changed_before(owner: cst.BaseExpression | None) -> cst.BaseExpression | None:
    """What `x.mul_(a)` changes, where another change in place follows it."""
    while isinstance(owner, cst.Call) and isinstance(owner.func, cst.Attribute) and owner.func.attr.value.endswith("_"):
        owner = owner.func.value
    return owner


def _placed(made: frozenset[Made]) -> frozenset[Made]:
    """The factories of a tensor that has been moved to a device."""
    return frozenset(Made(m.node, m.module, m.function, m.dtype, True) for m in made)


def is_data(value: Val) -> bool:
    """Whether a value is certainly a tensor, and what a caller, a layer or a distribution gave: its numbers matter."""
    if not value.is_tensorish or {"of_layer", "host"} & value.tags:
        return False
    if "outside" in value.tags or comes_from_outside(value):
        return True
    return value.kind == "tensor" and (bool(value.roles) or any(atom.startswith("@") for atom in value.deps))


def comes_from_outside(value: Val) -> bool:
    """Whether a tensor is what a layer gave, a parameter, or an argument that is a tensor by its type or its name."""
    if not value.is_tensorish or value.home or value.rank == 0 or "on_cpu" in value.tags:
        return False
    if {"parameter", "outside"} & value.tags or value.from_layers or any(atom[0] == "@" for atom in value.deps):
        return True
    return bool(value.origins and (value.kind == "tensor" or value.roles))
