"""Calls of a network's methods that can be told from the syntax alone, so that no caller has to be run for them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.project import written

_NO_GRAD = frozenset({"torch.no_grad", "torch.inference_mode"})
_INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def called_without_gradient(net: NetworkClass, method: str) -> bool:
    """Whether a caller says `with torch.no_grad(): net.method(...)` on a name that is this network throughout its file.

    False where that is not plain to see: then the runs of the callers have to say.
    """
    for path in net.caller_files:
        index = net.project.index(path) if net.project.names(path, method) else None
        if index is None:
            continue
        names = {name for block in _gradient_free(net, path, index.tree) for name in _owners(block, method)}
        if any(_is_always(net, path, index.tree, name) for name in names):
            return True
    return False


def _gradient_free(net: NetworkClass, path: Path, tree: ast.Module) -> Iterator[ast.With]:
    """The blocks without gradient among the statements of a file and of its functions."""
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef):
            continue
        for node in _here(statement):
            if isinstance(node, ast.With) and any(_is_no_grad(net, path, item.context_expr) for item in node.items):
                yield node


def _is_no_grad(net: NetworkClass, path: Path, node: ast.expr) -> bool:
    if not isinstance(node, ast.Call) or node.args or node.keywords:
        return False
    return net.project.lookup(path, written(node.func)).name in _NO_GRAD


def _here(node: ast.AST) -> Iterator[ast.AST]:
    """A node and what is below it, without the functions and classes inside it."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(child for child in ast.iter_child_nodes(current) if not isinstance(child, _INNER))


def _owners(block: ast.With, method: str) -> Iterator[str]:
    """The names `x` of all calls `x.method(...)` in a block."""
    for node in _here(block):
        func = node.func if isinstance(node, ast.Call) else None
        if isinstance(func, ast.Attribute) and func.attr == method and isinstance(func.value, ast.Name):
            yield func.value.id


def _is_always(net: NetworkClass, path: Path, tree: ast.Module, name: str) -> bool:
    """Whether all that a file ever binds to a name are new objects of the network, and something is."""
    bound = new = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.arg == name:
            return False
        if isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load):
            bound += 1
        elif isinstance(node, ast.Assign) and any(getattr(target, "id", "") == name for target in node.targets):
            new += _is_new(net, path, node.value)
    return bound == new > 0


def _is_new(net: NetworkClass, path: Path, node: ast.expr) -> bool:
    """`Network(...)`, and that moved to a device."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("to", "cuda"):
        return _is_new(net, path, node.func.value)
    symbol = net.project.lookup(path, written(node.func))
    return symbol.path == net.module.path and symbol.name == net.name
