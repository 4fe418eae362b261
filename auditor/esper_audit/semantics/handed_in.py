"""What the callers of a method pass for a parameter: something of their own, or a copy that nobody keeps."""

from __future__ import annotations

import ast
import re

from esper_audit.semantics.model import Function
from esper_audit.semantics.network import NetworkClass

_PICKS = re.compile(r"ind(s|ex|ices|exes)?$|idx(s|es)?$|perm(utation)?$", re.IGNORECASE)


def hands_in_copies(net: NetworkClass, function: Function, name: str) -> bool:
    """Whether calls of the method are seen, and each leaves the parameter out or passes `x[indices]`, which copies."""
    places = [param.name for param in function.params[1:] if param.kind == "positional"]
    at = places.index(name) if name in places else -1
    calls = [
        node
        for path in net.project.files_naming(function.name) or ()
        if (index := net.project.index(path)) is not None and not net.project.is_test_code(path)
        for node in ast.walk(index.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == function.name
    ]
    given = [_passed(call, at, name) for call in calls]
    return any(each is not None for each in given) and all(each is None or _is_copy(each) for each in given)


def _passed(call: ast.Call, at: int, name: str) -> ast.expr | None:
    """What a call passes; the call itself where a star hides it."""
    hidden = any(isinstance(argument, ast.Starred) for argument in call.args)
    if hidden or any(keyword.arg is None for keyword in call.keywords):
        return call
    named = next((keyword.value for keyword in call.keywords if keyword.arg == name), None)
    return call.args[at] if named is None and 0 <= at < len(call.args) else named


def _is_copy(node: ast.expr) -> bool:
    """Whether an expression picks rows by a tensor or list of indices."""
    return isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Name) and bool(_PICKS.search(node.slice.id))
