"""What a condition checks, what it says about names, and whether its outcome is known."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from esper_audit.semantics.depends import Atoms, cut
from esper_audit.semantics.run.project_calls import ProjectCalls
from esper_audit.semantics.run.tensors import is_data
from esper_audit.semantics.tree import dotted
from esper_audit.semantics.values import (
    EMPTY,
    NONE,
    UNKNOWN,
    Val,
)


class Conditions(ProjectCalls):
    """What a condition checks, what it says about names, and whether its outcome is known."""

    def test(self, node: cst.BaseExpression) -> None:
        """Evaluate a condition; comparisons in it record what they check, and tensors are recorded that it asks."""
        if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Not):
            self.test(node.expression)
        elif isinstance(node, cst.BooleanOperation):
            self.test(node.left)
            self.test(node.right)
        elif is_data(value := self.eval(node)) and value.kind == "tensor":
            self.record("truth", node, value=value)

    def tested(self, node: cst.BaseExpression) -> Atoms:
        """The same; what the outcome depends on."""
        before, self.used = self.used, EMPTY
        self.test(node)
        decisive, self.used = cut(self.used), before
        return decisive

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
            if dotted(node).endswith("TYPE_CHECKING") and self.qualify(dotted(node)).startswith("typing"):
                return False  # what stands there is for type checkers, and never runs
            const = self.eval(node).const
            return const if isinstance(const, bool) else None
        return None

    def guards(self, test: cst.BaseExpression, *, truth: bool) -> frozenset[str]:
        """The contexts that a test puts its branch under: a test of a rank, or of compilation."""
        negated = isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not)
        call = test.expression if isinstance(test, cst.UnaryOperation) and negated else test
        if isinstance(call, cst.Call) and self.qualify(dotted(call.func)).endswith(".is_compiling"):
            return frozenset({"eager_only"}) if truth == negated else EMPTY
        for comparison in _comparisons(test):
            if self.measured(comparison.left)[1] == "rank":
                return frozenset({"rank_test"})
        return EMPTY

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
        """Take over what `x is None` and `x.dim() == 2` say about x."""
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
