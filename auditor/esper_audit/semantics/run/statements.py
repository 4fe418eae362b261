"""Statements in their order: blocks, branches that are joined, loops that are run once."""

from __future__ import annotations

from typing import Any

import libcst as cst

from esper_audit.semantics.depends import ONLY_LAST, ONLY_PART, adding, everything
from esper_audit.semantics.model import Function
from esper_audit.semantics.run.expressions import Expressions
from esper_audit.semantics.run.heads import assigned_names, holds_heads, is_read, leaves_out_rounds
from esper_audit.semantics.run.scope import entered
from esper_audit.semantics.run.tensors import EXP_RAW, RAW
from esper_audit.semantics.tree import dotted, find
from esper_audit.semantics.values import (
    EMPTY,
    NONE,
    Val,
    join,
)

_UNBOUNDED = RAW | EXP_RAW


class Execution(Expressions):
    """One running function: the whole of it, statements and all."""

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
        """Run a simple statement; True when control leaves."""
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
            value = adding(value, self.control)
            self.returned.append(value)
            self.record("return", node, value=value)
            return True
        elif isinstance(node, cst.Del):
            for gone in find(node.target, cst.Name):
                if gone.value in self.env:
                    self.record("discard", node, value=self.env[gone.value])  # somebody says that it is not needed
        elif isinstance(node, cst.Raise):
            if node.exc is not None:
                self.eval(node.exc)
            return True
        elif isinstance(node, (cst.Break, cst.Continue)):
            return True
        elif isinstance(node, cst.Assert):
            self.eval(node.test)  # torch.compile traces what an assert asks of a tensor: that is no "truth"
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
        """Take note of an import inside a function."""
        if isinstance(node.names, cst.ImportStar):
            return
        base = dotted(node.module) if node.module else ""
        if node.relative:
            base = self.interpreter.models.project.absolute_import(self.module.path, len(node.relative), base)
        for alias in node.names:
            name = dotted(alias.name)
            self.local_imports[alias.evaluated_alias or name] = f"{base}.{name}"

    def compound(self, node: cst.CSTNode) -> bool:
        """Run a compound statement; True when control leaves."""
        if isinstance(node, cst.If):
            return self.branch(node)
        if isinstance(node, cst.For):
            iterated = self.eval(node.iter)
            self.bind_loop(node.target, iterated)
            self.loop(node, heads=holds_heads(iterated))
            if node.orelse:
                self.block(node.orelse.body.body)
            return False
        if isinstance(node, cst.While):
            outside = self.control
            self.control = outside | self.tested(node.test)
            before = dict(self.env)
            self.refine(node.test, truth=True)
            self.guarded(node.test, node.body.body, truth=True)
            self.env = _merge(before, self.env)
            self.control = outside
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

    def loop(self, node: cst.For, *, heads: bool) -> None:
        """Run the body of a loop once; that it may not run at all is joined in.

        What a variable holds when a round begins may come from the round before: `^name` stands for that. With
        `heads`, each round is about another head, and what is left out or written over is taken note of.
        """
        before = dict(self.env)
        number = len(self.interpreter.carried)  # each run of a loop has rounds of its own
        written = assigned_names(node.body)
        atoms = {name: f"^{name}@{number}" for name in written if name in before}
        for name, atom in atoms.items():
            self.interpreter.carried[atom] = EMPTY
            self.env[name] = adding(before[name], frozenset({atom}))
        self.block(node.body.body)
        for name, atom in atoms.items():
            self.interpreter.carried[atom] = (everything(self.env[name]) | everything(before[name])) - {atom}
        leaves_out = heads and leaves_out_rounds(node.body)
        for name in written:
            value = self.env.get(name)
            if value is None or not (heads and value.roles & {"log_prob", "entropy"}):
                continue
            if leaves_out:
                self.env[name] = adding(value, frozenset({ONLY_PART}))
            elif atoms.get(name) not in everything(value) and not is_read(node.body, name):
                self.env[name] = adding(value, frozenset({ONLY_LAST}))
        self.env = _merge(before, self.env)

    def branch(self, node: cst.If) -> bool:
        """Run an `if`: the decided branch alone, else both, joined; what the test depends on, both do."""
        before_test = self.control
        decisive = self.tested(node.test)
        known = self.decided(node.test)
        if known is not None:
            self.refine(node.test, truth=known)
            if known:
                return self.guarded(node.test, node.body.body, truth=True)
            self.record("skipped", node)
            if isinstance(node.orelse, cst.If):
                return self.branch(node.orelse)
            return self.guarded(node.test, node.orelse.body.body, truth=False) if node.orelse is not None else False
        self.control = before_test | decisive
        try:
            return self.either_branch(node)
        finally:
            self.control = before_test

    def either_branch(self, node: cst.If) -> bool:
        """Run both branches of an `if` and join what they leave."""
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
        self.env = then_env if else_left else _merge(then_env, self.env, picked=_asks_a_word(node.test))
        return False

    def guarded(self, test: cst.BaseExpression, body: Any, *, truth: bool) -> bool:
        """Run a branch under what its test says of the surroundings: a test of a rank, or of compilation."""
        before = self.contexts
        self.contexts = before | self.guards(test, truth=truth)
        left = self.block(body)
        self.contexts = before
        return left

    def with_(self, node: cst.With) -> bool:
        """Run a `with` under the contexts that it enters."""
        before = self.contexts
        for item in node.items:
            value = self.eval(item.item)
            self.contexts = entered(self.contexts, self.qualify, item.item)
            if item.asname is not None:
                self.assign(item.asname.name, value, "", None)
        left = self.block(node.body.body)
        self.contexts = before
        return left

    def augmented(self, node: cst.AugAssign) -> None:
        """`x += y` as `x = x + y`."""
        assert isinstance(node.target, cst.BaseExpression)
        current = self.eval(node.target)
        value = self.eval(node.value)
        operator = type(node.operator).__name__.removesuffix("Assign")
        if "alias" in current.tags and isinstance(node.target, cst.Name):
            self.record("write", node, target=current, value=value, name=operator)
        result = self.binary(operator, current, value, node)
        self.assign(node.target, self.born(adding(result, everything(current) | everything(value))), "", node)


def _merge(left: dict[str, Val], right: dict[str, Val], *, picked: bool = False) -> dict[str, Val]:
    """What is known after either; with `picked`, the word of a configuration tells which, and that is not known."""
    merged = dict(left)
    for name, value in right.items():
        other = merged.get(name)
        if other is None:
            merged[name] = value
        elif other is not value:
            both = join(other, value)
            wild = both.tags & _UNBOUNDED if picked else EMPTY
            certain = not wild or (other.tags & _UNBOUNDED and value.tags & _UNBOUNDED)
            merged[name] = both if certain else both.but(tags=both.tags - wild)
    return merged


def _asks_a_word(test: cst.BaseExpression) -> bool:
    """Whether a test compares something with a string: `self.std == "learned"`."""
    sides = (test.left, *(each.comparator for each in test.comparisons)) if isinstance(test, cst.Comparison) else ()
    return any(isinstance(side, cst.SimpleString) for side in sides)
