"""Whether anything makes the parameters of a network other than float32."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from esper_audit.semantics.network import NetworkClass, once
from esper_audit.semantics.project import Project, is_torch_module, written

_WORDS = ("half", "double", "bfloat16", "float16", "float64", "dtype", "set_default_dtype")
_CASTS = frozenset({"half", "double", "bfloat16"})
_OTHER = re.compile(r"\b(b?float16|float64|half|double|\w*dtype)\b")  # written in a `.to(...)`
_MAY_CAST = re.compile(rb"\.(?:half|double|bfloat16)\(|\.to\(|\bset_default_dtype\b")
_MODULE_NAME = re.compile(r"(model|module|net|network|policy|agent|actor|critic|learner)s?\d?$", re.IGNORECASE)


@once
def other_precision(net: NetworkClass) -> bool:
    """Whether the class speaks of its dtype, or a file around it, no test, casts modules.

    Autocast is no such thing: it takes states in float32 beside parameters in float32.
    What cannot be looked through shows nothing.
    """
    return _speaks_of_dtype(net) or _project_casts(net.project, net.module.path)


def _speaks_of_dtype(net: NetworkClass) -> bool:
    """A constructor that takes a dtype, a layer that is made with one, `self.dtype`, `self.layer.weight.dtype`."""
    for model in net.model.lineage:
        path = model.module.path
        for node in ast.walk(model.module.index.classes[model.name].node):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                if any(arg.arg == "dtype" for arg in (*node.args.args, *node.args.kwonlyargs)):
                    return True
            elif isinstance(node, ast.Attribute):
                if node.attr == "dtype" and written(node).startswith(("self.", "next(self.parameters")):
                    return True
            elif isinstance(node, ast.Call) and any(keyword.arg == "dtype" for keyword in node.keywords):
                made = net.project.lookup(path, written(node.func))
                if made.path is None and is_torch_module(made.name):
                    return True
    return False


def _project_casts(project: Project, own: Path) -> bool:
    """Whether a file that the network's file imports, or that imports it, on whatever way, casts modules."""
    files = {path for word in _WORDS for path in project.files_naming(word) or ()}
    return any(
        not project.is_test_code(path)
        and _casts(project, path)
        and (own in project.reach(path) or path in project.reach(own))
        for path in project.in_order(files)
    )


def _casts(project: Project, path: Path) -> bool:
    """Whether a file casts a module or sets another default; each file is asked once."""
    if not project.says(path, _MAY_CAST):
        return False
    project.uses_facts(path)
    if path not in project.casts:
        with project.finding(project.facts, path):
            index = project.index(path)
            project.casts[path] = index is not None and _casts_in(project, path, index.tree)
    return project.casts[path]


def _casts_in(project: Project, path: Path, tree: ast.Module) -> bool:
    nodes = list(ast.walk(tree))
    modules = {
        written(target)
        for node in nodes
        if isinstance(node, ast.Assign) and _makes_module(project, path, node.value)
        for target in node.targets
    }
    discarded = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called == "set_default_dtype" and not any(written(argument).endswith("float32") for argument in node.args):
            return True
        if not isinstance(node.func, ast.Attribute) or not _is_cast(node, called):
            continue
        owner = node.func.value
        name = written(owner)
        # Only a module is changed in place: a cast whose result nobody takes is one of a module.
        if id(node) in discarded or name in modules or _makes_module(project, path, owner) or _MODULE_NAME.search(name):
            return True
    return False


def _is_cast(node: ast.Call, called: str) -> bool:
    if called == "to":
        return any(_OTHER.search(written(each)) for each in (*node.args, *(keyword.value for keyword in node.keywords)))
    return called in _CASTS and not node.args and not node.keywords


def _makes_module(project: Project, path: Path, node: ast.expr) -> bool:
    """Whether an expression is a call of a network class or of one of torch's modules, moved or not."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call):
        node = node.func.value
    if not isinstance(node, ast.Call):
        return False
    symbol = project.lookup(path, written(node.func))
    if symbol.path is None:
        return is_torch_module(symbol.name)
    return project.is_network(symbol.path, symbol.name)
