"""What each kind of expression may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libcst as cst

from esper_audit.semantics import axes as ax
from esper_audit.semantics import roles as role_names
from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.depends import (
    CHOICE,
    LOST,
    OF_EACH_HEAD,
    ONLY_PART,
    STRANGE,
    Atoms,
    adding,
    as_attribute,
    cut,
    everything,
    function_name,
    hands_on,
    of_strange_source,
    part_of,
    stops_gradient,
    without_gradient,
)
from esper_audit.semantics.model import ClassModel
from esper_audit.semantics.project import external_constant, fold
from esper_audit.semantics.run.assignments import Assignments
from esper_audit.semantics.run.containers import Pattern, member_of, pattern_of
from esper_audit.semantics.run.frames import BASE, ClassFlow, PlainObject, class_of
from esper_audit.semantics.run.heads import (
    compares_with_literal,
    cuts_ends,
    holds_heads,
    other_parts_taken,
    sliced,
    takes_one,
)
from esper_audit.semantics.run.layout import product, settled, size_of, sized
from esper_audit.semantics.run.scope import GRADIENT_FREE
from esper_audit.semantics.run.tensors import CARRIED, HOST, comes_from_outside, is_data, true_means_true
from esper_audit.semantics.tree import dotted, literal_number, literal_string
from esper_audit.semantics.values import (
    EMPTY,
    NOTHING,
    UNKNOWN,
    Step,
    Val,
    constant,
    constant_key,
    is_float,
    join,
    sequence,
    stepped,
    tensor,
    unsqueezed,
    wide,
    with_role,
)


class Expressions(Assignments):
    """What each kind of expression may be."""

    def eval(self, node: cst.BaseExpression) -> Val:
        """What an expression may be."""
        self.interpreter.budget -= 1
        if self.interpreter.budget < 0:
            return LOST
        handler = _HANDLERS.get(type(node))
        if handler is None:
            return LOST
        before, self.used = self.used, EMPTY
        value = handler(self, node)
        depend = _DEPENDENCE.get(type(node))
        if depend is not None:
            value = depend(self, node, value)
        self.used = before | everything(value)
        return value

    # --- what it depends on: `self.used` is all that its parts do ----------------------------------------------

    def of_all(self, _: cst.BaseExpression, value: Val) -> Val:
        """An operator: on all that went in."""
        return self.born(adding(value, self.used)) if self.used else value

    def of_comparison(self, node: cst.Comparison, value: Val) -> Val:
        """A comparison passes no gradient; whether something is None, or in a container, is no number of it."""
        if _asks_identity(node):
            return value
        return adding(without_gradient(value), cut(self.used)) if self.used else value

    def of_boolean(self, _: cst.BooleanOperation, value: Val) -> Val:
        """`a or b` is one of the two; of `a and b` nothing else is known."""
        return adding(value, cut(self.used)) if value.kind == "bool" else value

    def of_lookup(self, node: cst.Attribute | cst.Subscript, value: Val) -> Val:
        """`x.name` and `x[...]`: where nothing is known of the part, on the whole."""
        if isinstance(node, cst.Attribute) and node.attr.value == "data":
            return without_gradient(value)
        if value.kind in ("unknown", "tensor") and not value.deps:
            return adding(value, self.used)
        if isinstance(node, cst.Subscript) and value.kind == "unknown" and "hidden" in value.roles:
            index = node.slice[0].slice if len(node.slice) == 1 else None
            if isinstance(index, cst.Index) and isinstance(index.value, cst.Integer):
                return value.but(deps=part_of(value, int(literal_number(index.value))))  # h or c
        if isinstance(node, cst.Subscript) and value.kind in ("unknown", "tensor") and any(map(_may_index, node.slice)):
            return adding(value, cut(self.used - value.deps))
        return value

    def of_call(self, node: cst.Call, value: Val) -> Val:
        """A call: a project function says itself what it gives; one of torch depends on all that it is given."""
        followed, self.followed = self.followed, None
        if followed is node:
            return value if value is not UNKNOWN else adding(value, self.used | STRANGE)
        name = function_name(node)
        if (value.kind in _CONTAINERS and name in _REARRANGES) or not hands_on(name):
            return value
        used = self.used
        if stops_gradient(node, name):
            value, used = without_gradient(value), cut(used)
        if name == "argmax" or (name == "max" and len(node.args) > (not isinstance(node.func, cst.Attribute))):
            used = used | {f"{CHOICE}{self.interpreter.order_of(node)}"}
        if name.endswith("_") and isinstance(node.func, cst.Attribute) and isinstance(node.func.value, cst.Name):
            changed = self.env.get(node.func.value.value)
            if changed is not None and not name.startswith("_"):
                self.env[node.func.value.value] = adding(changed, used)
        return self.born(adding(value, used)) if used else value

    def born(self, value: Val) -> Val:
        """What an operation makes here: without gradient under no_grad and in inference mode."""
        return without_gradient(value) if self.contexts & GRADIENT_FREE else value

    def attribute(self, node: cst.Attribute) -> Val:
        """`x.name`."""
        owner = self.eval(node.value)
        return self.member(owner, node.attr.value, node)

    def member(self, owner: Val, name: str, node: cst.CSTNode) -> Val:
        """What `owner.name` may be."""
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
                axes=owner.axes,
                ref=node.value.value if isinstance(node, cst.Attribute) and isinstance(node.value, cst.Name) else None,
            )
        if named := role_names.named_kind(name):
            return Val(named, ref="given")
        if name in ("ndim", "is_cuda", "requires_grad", "itemsize"):
            return Val("number")
        if name in ("data", "mT", "T", "real"):
            turned = name in ("mT", "T")
            axes = ax.swapped(owner.axes, -2, -1) if turned else owner.axes
            return owner.but(axes=axes) if owner.kind == "tensor" else UNKNOWN
        if kind == "layer":
            return Val("unknown", tags=frozenset({"of_layer"}), ref=(owner.ref, name))
        role = role_names.tensor_role(name)
        return with_role(Val("unknown"), role) if role else UNKNOWN

    def instance_member(self, owner: Val, name: str) -> Val:
        """What an attribute of self, of an object or of another network may be."""
        if name == "module" and "ddp" in owner.tags:
            return owner.but(tags=owner.tags - {"ddp"} | {"ddp_inner"})
        if isinstance(owner.ref, ClassFlow):
            flow = owner.ref
            function = flow.model.method(name)
            if function is not None:
                if "property" in function.decorators or "functools.cached_property" in function.decorators:
                    return self.invoke(function, owner, (), {}, None)
                return Val("bound", ref=(function, owner))
            value = flow.attribute(name)
            if name not in flow.run_attributes:
                value = as_attribute(value or UNKNOWN, name, changes=value is None or name in flow.changing)
            if value is not None and value.kind == "layer" and value.ref and value.ref[0] in facts.COLLECTIONS:
                return value.but(origins=frozenset({f"@{name}"}))  # what comes out of one of its layers keeps it
            if value is not None and (value.kind != "unknown" or value.roles or value.home):
                named = value.kind == "tensor" and not value.roles
                return with_role(value, role_names.tensor_role(name)) if named else value
            if kind := role_names.named_kind(name):
                return Val(kind)
            role = role_names.tensor_role(name)
            unknown = Val(deps=value.deps if value is not None else EMPTY)
            return with_role(unknown, role) if role else unknown
        if isinstance(owner.ref, PlainObject):
            function = owner.ref.model.method(name)
            if function is not None:
                if "property" in function.decorators:
                    return self.invoke(function, owner, (), {}, None)
                return Val("bound", ref=(function, owner))
            known = owner.ref.attributes.get(name)
            if known is None:
                known = self.field_default(owner.ref.model, name)
            base = owner.ref.attributes.get(BASE)
            return known if known is not None else self.distribution_member(base, name) if base is not None else UNKNOWN
        model = class_of(owner, self.interpreter)
        if model is not None:
            function = model.method(name)
            if function is not None:
                return Val("bound", ref=(function, owner))
            if model.is_network:
                flow = self.interpreter.flow(model)
                flow.build()
                known = flow.attribute(name)
                if known is not None:
                    return of_strange_source(known)
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
        """A method or a constant that is reached through its class."""
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

    def subscript(self, node: cst.Subscript) -> Val:
        """`x[...]` on containers, shapes, layers and tensors."""
        container = self.eval(node.value)
        keys = self.subscripts(node)
        if len(keys) > 1 or isinstance(keys[-1].const, str):
            self.looked_up(node, container, keys[-1])
        if container.kind in ("tuple", "list", "dict", "pairs", "values") and len(keys) == 1:
            part = sliced(container, node) if keys[0].kind == "slice" else self.lookup_item(container, keys[0])
            return adding(part, frozenset({ONLY_PART})) if self.leaves_heads_out(container, node) else part
        if container.kind == "layer" and isinstance(container.ref, tuple):
            return member_of(container, keys[0] if len(keys) == 1 else UNKNOWN)
        if container.kind == "shape":
            return _part_of_shape(container, node, keys)
        if container.kind in ("tensor", "unknown"):
            return self.index(container, node, keys)
        return UNKNOWN

    def leaves_heads_out(self, container: Val, node: cst.Subscript) -> bool:
        """Whether only some of what a container has for the heads is taken, and the function takes no other part."""
        if self.function.node is None or not (cuts_ends(node) or takes_one(node)):
            return False
        return holds_heads(container) and not other_parts_taken(self.function.node, node)

    def index(self, value: Val, node: cst.Subscript, keys: list[Val]) -> Val:
        """A tensor under its subscripts: what becomes of its rank."""
        if value.kind == "unknown" and "of_layer" in value.tags:
            return UNKNOWN
        rank = value.rank
        made, home = value.made, value.home
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
                home = (
                    home if rank is not None and rank > 1 else EMPTY
                )  # a number of no dimension goes with all devices
                rank = (
                    rank - 1
                    if (rank is not None and key.const is not NOTHING) or (rank is not None and key.kind == "number")
                    else None
                )
            else:
                if key.kind == "tensor":
                    self.meet(node, value, key)
                else:
                    home = EMPTY  # it may be a number
                rank, made = None, EMPTY
                value = value.but(tags=value.tags - {"alias"})
        if "rows" in value.tags and _takes_first(node):
            value = value.but(tags=value.tags - {"rows"} | {"first_row"})  # of those that `nonzero` found
        result = value.but(rank=rank, made=made, home=home, tags=value.tags - {"rank_guarded"}, ref=None)
        return settled(result, self.index_axes(value, node, keys))

    def binary_node(self, node: cst.BinaryOperation) -> Val:
        """`left + right` and the like."""
        left, right = self.eval(node.left), self.eval(node.right)
        return self.binary(type(node.operator).__name__, left, right, node)

    def binary(self, operator: str, left: Val, right: Val, node: cst.CSTNode) -> Val:
        """What an operator makes of two values."""
        if left.kind in ("number", "bool") and right.kind in ("number", "bool"):
            value = fold(operator, left.const, right.const)
            if value is not NotImplemented:
                return constant(value)
            finfo = {"finfo_min"} if operator in ("Divide", "Multiply") else EMPTY
            number = Val("number", tags=(left.tags | right.tags) & (finfo | HOST))
            return sized(number, product(left, right)) if operator == "Multiply" else number
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
        self.meet(node, left, right)
        left, right = (side.but(tags=side.tags - {"alias"}) for side in (left, right))
        home = left.home | right.home if all(side.home or side.kind == "number" for side in (left, right)) else EMPTY
        result = self.arithmetic(operator, left, right, node)
        read = (left.tags | right.tags) & HOST
        if read and (is_data(left) or is_data(right)):
            self.record("back", node, value=left if "host" in left.tags else right)
        elif read:
            result = result.but(tags=result.tags | read)
        if comes_from_outside(left) or comes_from_outside(right):
            result = result.but(tags=result.tags | {"outside"})
        if left.is_tensorish and right.is_tensorish:
            result = settled(result, ax.broadcast(left.axes, right.axes))
        else:
            result = settled(result, left.axes or right.axes)
        return result if result.home == home else result.but(home=home)

    def arithmetic(self, operator: str, left: Val, right: Val, node: cst.CSTNode) -> Val:
        """What an operator makes of tensors and numbers."""
        if operator == "Subtract" and left.const in (1, 1.0) and "mask" in right.roles and right.dtype == "bool":
            self.record("invert", node, target=right, name="1 -")
        bias = self.mask_arithmetic(operator, left, right)
        if bias is not None:
            return bias
        if operator in ("Add", "Subtract"):
            masked = self.additive(operator, left, right, node)
            if masked is not None:
                return masked
        tags = (left.tags | right.tags) & CARRIED | (_kept(left, right) if operator == "Multiply" else EMPTY)
        if operator in ("Multiply", "MatrixMultiply"):
            self.product(left, right, node)
        if operator == "Multiply":
            tags |= self.mask_product(left, right, node)
        if operator == "Subtract" and "batch_mean" in right.tags and left.is_tensorish:
            self.record("centre", node, target=left, other=right)
            tags = tags | {"batch_mixed"}
        tags = tags | _averaged(operator, left, right)
        if operator == "Divide":
            self.record("divide", node, target=left, other=right)
        floor = _floor(operator, left, right)
        tags = tags | ({"p_floor"} if floor is not None else EMPTY)
        if operator == "Subtract" and "lse" in right.tags:
            tags = tags | {"logp"}
        if operator == "Multiply" and (
            "p_logp" in left.tags or "p_logp" in right.tags or {"p", "logp"} <= (left.tags | right.tags)
        ):
            tags = tags | {"p_logp"}
        steps = self.binary_steps(operator, left, right, node)
        if "tensor" not in (left.kind, right.kind):
            roles = (left.roles if right.kind == "number" else EMPTY) & {"logits"}
            dtype = left.dtype if is_float(left.dtype) and right.kind == "number" else wide(left, right)
            masks = left.masked | right.masked
            return self.touched(Val("unknown", tags=tags, roles=roles, masked=masks, dtype=dtype, steps=steps))
        keep = {"logits", "value", "log_prob"} if operator in ("Add", "Subtract", "Divide", "Multiply") else set()
        tensors = [side for side in (left, right) if side.kind == "tensor"]
        ranks = {side.rank for side in tensors}
        rank = None if None in ranks or any(s.kind == "unknown" for s in (left, right)) else max(ranks)  # type: ignore[type-var]
        roles = left.roles & keep if left.kind == "tensor" else right.roles & keep
        if "entropy" in left.roles | right.roles:
            roles = roles | {"entropy"}
        if right.kind == "number" and operator in ("Add", "Subtract", "Multiply", "Divide"):
            tags = tags | left.tags & {"affine", "p_times_mask"}
            tags = tags | (left.tags & {"times_mask"} if operator in ("Multiply", "Divide") else EMPTY)
        dtypes = {side.dtype for side in tensors}
        # A Python number takes the dtype of the floating-point tensor beside it.
        plain = all(side.kind in ("tensor", "number") for side in (left, right)) and len(dtypes) == 1
        dtype = next(iter(dtypes)) if plain and is_float(*dtypes) else wide(left, right)
        result = tensor(rank, dtype=dtype, tags=tags, masked=left.masked | right.masked, steps=steps, ref=floor)
        return self.touched(result.but(roles=roles))

    def binary_steps(self, operator: str, left: Val, right: Val, node: cst.CSTNode) -> frozenset[Step]:
        """What has happened to the outcome of an operator since its tensors left their layers."""
        if left.steps and right.steps:
            both = join(left, right)
            # A tensor whose rank nothing took away settles that of the outcome.
            settled = any(all(step.kind != "squeeze" for step in side.steps) for side in (left, right))
            return unsqueezed(both).steps if settled else both.steps
        followed, operand = (left, right) if left.steps else (right, left)
        if operator in ("Multiply", "Divide") and operand.const in (1, 1.0) and operand.const is not NOTHING:
            return followed.steps
        kind = "?"  # what is added may be a bias made from a mask, or nothing that softmax sees
        if operator in ("Multiply", "Add", "Subtract") and "mask" in operand.roles:
            kind = "mask"
        elif operator in ("Add", "Subtract") and "random" in operand.tags:
            kind = "noise"
        elif operator in ("Multiply", "Divide") and not self.is_optional(operand):
            kind = "scale"
        return stepped(followed, kind, node, self.function).steps

    def is_optional(self, operand: Val) -> bool:
        """Whether an operand is, or came out of, a parameter that callers may leave out."""
        given = {origin.rpartition("/")[2] for origin in operand.origins}
        return any(param.default is not None for name in given if (param := self.function.param(name)) is not None)

    def sequence_binary(self, operator: str, left: Val, right: Val) -> Val:
        """Operators on lists, tuples and strings."""
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
                ref=Pattern(
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
                    # Less than 10 is a prior, unless it is taken off where the mask says no.
                    enough = 2 if mask.tags & {"negated", "minus_one"} else 10
                    if isinstance(known, str) or abs(known) >= enough:
                        return mask.but(
                            roles=frozenset({"mask_bias"}),
                            const=NOTHING,
                            ref=("bias", known, true_means_true(mask, inverted="minus_one" in mask.tags)),
                            tags=mask.tags - {"negated", "minus_one"},
                        )
        return None

    def additive(self, operator: str, left: Val, right: Val, node: cst.CSTNode) -> Val | None:
        """Logits plus a bias that came out of a mask: the additive way to mask."""
        for bias, target in ((right, left), (left, right)):
            if "mask_bias" in bias.roles and isinstance(bias.ref, tuple) and target.is_tensorish:
                known = bias.ref[1]
                if operator == "Subtract" and isinstance(known, float):
                    known = -known
                value = constant(known) if known is not None else UNKNOWN
                mask = bias.but(roles=frozenset({"mask"}))
                return self.masking(node, target, mask, value, "addition", fills_true=bias.ref[2])
        return None

    def product(self, left: Val, right: Val, node: cst.CSTNode) -> None:
        """Record `p * log p` written by hand."""
        for p, log_p in ((left, right), (right, left)):
            if "p" in p.tags and "logp" in log_p.tags:
                # Only the logarithm can be infinite: where that was filled anew, the product is finite.
                name = "neg_inf" if "neg_inf" in log_p.tags else ""
                self.record("product", node, target=log_p, other=p, name=name)
                return

    def mask_product(self, left: Val, right: Val, node: cst.CSTNode) -> frozenset[str]:
        """Record the product of logits or probabilities with a mask; what can be said of it."""
        for mask, target in ((right, left), (left, right)):
            if "mask" in mask.roles and target.kind == "tensor":
                tag = "p_times_mask" if "p" in target.tags else "times_mask"
                if target.tags & {"affine", "squashed"} or "logits" in target.roles:
                    self.record("mask_product", node, target=target, other=mask)
                    return frozenset({tag})
        return EMPTY

    def unary(self, node: cst.UnaryOperation) -> Val:
        """`-x`, `~x` and `not x`."""
        value = self.eval(node.expression)
        value = value.but(tags=value.tags - {"alias"})
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
            self.record("invert", node, target=value)
            flipped = frozenset({"flipped"} if value.dtype is None else ())
            return value.but(tags=(value.tags ^ {"negated"}) | flipped)
        if isinstance(operator, cst.Not):
            return Val("bool")
        return value.but(const=NOTHING, made=EMPTY)

    def comparison(self, node: cst.Comparison) -> Val:
        """A comparison: it may check a rank or a size, and turn a mask into booleans."""
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
            self.made_bool(left, node)
            negates = (
                (isinstance(operator, cst.Equal) and bound in (0, 0.0, False))
                or isinstance(operator, (cst.LessThan, cst.LessThanEqual))
                or (isinstance(operator, cst.NotEqual) and bound in (1, True))
            )
            left = left.but(dtype="bool", tags=left.tags - {"flipped"})
            return left.but(tags=left.tags ^ {"negated"}) if negates else left
        if any("count" in side.tags for side in (left, *rights)):
            self.record("count_check", node, value=left)
        if _asks_identity(node):
            return Val("bool")
        self.meet(node, left, *rights)
        if left.home or "tensor" in (left.kind, *(r.kind for r in rights)):
            home = left.home if all(r.home or r.kind == "number" for r in rights) else EMPTY
            outside = frozenset({"outside"}) if any(is_data(side) for side in (left, *rights)) else EMPTY
            return settled(tensor(left.rank, dtype="bool", home=home, tags=outside), left.axes)
        return Val("bool")

    def boolean(self, node: cst.BooleanOperation) -> Val:
        """`and`, and `or`, which may be either side."""
        left = self.eval(node.left)
        right = self.eval(node.right)
        return join(left, right) if isinstance(node.operator, cst.Or) else Val("bool")

    def conditional(self, node: cst.IfExp) -> Val:
        """`a if test else b`: one of them when the test is decided, else both joined."""
        decisive = self.tested(node.test)
        known = self.decided(node.test)
        if known is not None:
            return self.eval(node.body if known else node.orelse)
        before, contexts = self.env, self.contexts
        self.env = dict(before)
        self.refine(node.test, truth=True)
        self.contexts = contexts | self.guards(node.test, truth=True)
        then = self.eval(node.body)
        self.env = dict(before)
        self.refine(node.test, truth=False)
        self.contexts = contexts | self.guards(node.test, truth=False)
        other = self.eval(node.orelse)
        self.env, self.contexts = before, contexts
        return adding(join(then, other), decisive)

    def tuple_(self, node: cst.Tuple | cst.List) -> Val:
        """A tuple or list display."""
        kind = "tuple" if isinstance(node, cst.Tuple) else "list"
        values: list[Val] = []
        unknown = False
        for element in node.elements:
            value = self.eval(element.value)
            if isinstance(element, cst.StarredElement):
                unknown = unknown or value.items is None or value.kind == "dict"
                values.extend(value.elements())
            else:
                values.append(value)
        if unknown:
            return Val(kind)
        result = sequence(kind, values)
        return (
            result.but(roles=frozenset({"hidden"})) if values and all("hidden" in v.roles for v in values) else result
        )

    def dict_(self, node: cst.Dict) -> Val:
        """A dict display."""
        items: dict[Any, Val] = {}
        for element in node.elements:
            if isinstance(element, cst.DictElement):
                key = self.eval(element.key)
                items[key.const if key.const is not NOTHING else pattern_of(key)] = self.eval(element.value)
            else:
                items.update(dict(self.eval(element.value).items or ()))
        return Val("dict", items=tuple(items.items()))

    def comprehension(self, node: cst.ListComp | cst.GeneratorExp | cst.SetComp) -> Val:
        """A comprehension as a list whose elements are alike."""
        before = dict(self.env)
        partial = self.comp_for(node.for_in)
        element = adding(self.eval(node.elt), partial)
        if OF_EACH_HEAD in partial and element.roles & {"log_prob", "entropy"}:
            element = element.but(tags=element.tags | {"of_each_head"})
        count = self.literal_count(node.for_in)
        self.env = before
        return sequence("list", [element] * count) if count else Val("list", items=((None, element),))

    def literal_count(self, node: cst.CompFor) -> int:
        """How often `for _ in range(2)` runs; 0 when that is unknown or more than a few times."""
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
        """A dict comprehension: one entry stands for all."""
        before = dict(self.env)
        partial = self.comp_for(node.for_in)
        key, value = self.eval(node.key), adding(self.eval(node.value), partial)
        self.env = before
        return Val("dict", items=((pattern_of(key), value),))

    def comp_for(self, node: cst.CompFor) -> Atoms:
        """Bind the targets of a comprehension; what its conditions depend on, and that they leave heads out."""
        iterated = self.eval(node.iter)
        self.bind_loop(node.target, iterated)
        tests = [condition.test for condition in node.ifs]
        found = EMPTY.union(*map(self.tested, tests))
        if holds_heads(iterated):
            found |= {OF_EACH_HEAD, ONLY_PART} if any(map(compares_with_literal, tests)) else {OF_EACH_HEAD}
        return found | self.comp_for(node.inner_for_in) if node.inner_for_in else found

    def number(self, node: cst.Integer | cst.Float) -> Val:
        """A number literal."""
        return constant(literal_number(node))

    def string(self, node: cst.SimpleString) -> Val:
        """A string literal."""
        value = literal_string(node)
        return Val("str") if value is None else constant(value) if value != "finfo.min" else Val("str", const=value)

    def formatted(self, node: cst.FormattedString) -> Val:
        """An f-string: a constant, or known at its ends only."""
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
        return Val("str", ref=Pattern(prefix, suffix)) if seen else constant(prefix)

    def named(self, node: cst.NamedExpr) -> Val:
        """`name := value`."""
        value = self.eval(node.value)
        self.assign(node.target, value, "", None)
        return value

    def await_(self, node: cst.Await) -> Val:
        """`await x`."""
        return self.eval(node.expression)


_CONTAINERS = frozenset({"pairs", "list", "tuple", "dict", "values"})
_REARRANGES = frozenset("zip enumerate list tuple dict set sorted reversed items values keys get pop".split())


def _may_index(element: cst.SubscriptElement) -> bool:
    """Whether a subscript may be a tensor."""
    literal = (cst.Integer, cst.SimpleString, cst.Ellipsis, cst.UnaryOperation)
    return isinstance(element.slice, cst.Index) and not isinstance(element.slice.value, literal)


_DEPENDENCE: dict[type, Callable[..., Val]] = {
    cst.Attribute: Expressions.of_lookup,
    cst.Subscript: Expressions.of_lookup,
    cst.Call: Expressions.of_call,
    cst.BinaryOperation: Expressions.of_all,
    cst.UnaryOperation: Expressions.of_all,
    cst.Comparison: Expressions.of_comparison,
    cst.BooleanOperation: Expressions.of_boolean,
}
_HANDLERS: dict[type, Callable[..., Val]] = {
    cst.Name: Expressions.name,
    cst.Attribute: Expressions.attribute,
    cst.Call: Expressions.call,
    cst.Subscript: Expressions.subscript,
    cst.BinaryOperation: Expressions.binary_node,
    cst.UnaryOperation: Expressions.unary,
    cst.Comparison: Expressions.comparison,
    cst.BooleanOperation: Expressions.boolean,
    cst.IfExp: Expressions.conditional,
    cst.Tuple: Expressions.tuple_,
    cst.List: Expressions.tuple_,
    cst.Dict: Expressions.dict_,
    cst.ListComp: Expressions.comprehension,
    cst.GeneratorExp: Expressions.comprehension,
    cst.SetComp: Expressions.comprehension,
    cst.DictComp: Expressions.dict_comprehension,
    cst.Integer: Expressions.number,
    cst.Float: Expressions.number,
    cst.SimpleString: Expressions.string,
    cst.FormattedString: Expressions.formatted,
    cst.NamedExpr: Expressions.named,
    cst.Await: Expressions.await_,
}


def _asks_identity(node: cst.Comparison) -> bool:
    """Whether a comparison is of objects, or looks into a container: a bool, whatever it compares."""
    return any(
        isinstance(each.operator, (cst.Is, cst.IsNot, cst.In, cst.NotIn)) or dotted(each.comparator) == "None"
        for each in node.comparisons
    )


def _takes_first(node: cst.Subscript) -> bool:
    """Whether `[0]` or `[:1]` is taken of something."""
    piece = node.slice[0].slice
    if isinstance(piece, cst.Index):
        return isinstance(piece.value, cst.Integer) and piece.value.value == "0"
    upper = piece.upper if isinstance(piece, cst.Slice) and piece.lower is None else None
    return isinstance(upper, cst.Integer) and upper.value == "1"


def _kept(left: Val, right: Val) -> frozenset[str]:
    """`kept` for a hidden state times something that no layer gave: episode ends clear it that way."""
    for state, factor in ((left, right), (right, left)):
        if "hidden" in state.roles and "hidden" not in factor.roles and factor.is_tensorish and not factor.steps:
            return frozenset({"kept"})
    return EMPTY


def _floor(operator: str, left: Val, right: Val) -> tuple[str, Any] | None:
    """The number that is added to probabilities before their logarithm is taken, as far as it is known."""
    for p, number in ((left, right), (right, left)):
        if operator == "Add" and "p" in p.tags and number.kind == "number":
            return "floor", number.const
    return None


def _averaged(operator: str, left: Val, right: Val) -> frozenset[str]:
    """`batch_mean` for the mean of a batch that is scaled, or mixed into a `running` one: no rows are left in it."""
    for mean, other in ((left, right), (right, left)):
        rows = (other.kind == "unknown" or comes_from_outside(other)) and "batch_mean" not in other.tags
        if "batch_mean" in mean.tags and not rows and (mean is left or operator in ("Add", "Multiply")):
            both = (left.tags | right.tags) & {"batch_mean", "running"}
            return both if other.kind in ("number", "bool") or "batch_mean" in other.tags else both | {"running"}
    return EMPTY


def _part_of_shape(shape: Val, node: cst.Subscript, keys: list[Val]) -> Val:
    """`x.shape[0]` is a number, `x.shape[:2]` and `x.shape[:-1]` are shapes of a known length."""
    if len(keys) != 1 or keys[0].kind != "slice":
        return sized(Val("number"), size_of(shape.axes, keys[0].const) if len(keys) == 1 else "")
    piece = node.slice[0].slice
    if not isinstance(piece, cst.Slice) or piece.lower is not None or piece.step is not None:
        return Val("shape")
    upper = piece.upper
    if isinstance(upper, cst.Integer):
        length = int(literal_number(upper))
    elif isinstance(upper, cst.UnaryOperation) and isinstance(upper.expression, cst.Integer) and shape.rank is not None:
        length = max(shape.rank - int(literal_number(upper.expression)), 0)
    else:
        return Val("shape")
    axes = shape.axes
    return Val("shape", rank=length, axes=axes[:length] if axes is not None and not ax.is_open(axes) else None)
