"""The repairs that rules about dead code share: attributes that nobody reads go, and imports that serve them alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence

import libcst as cst

from esper_audit.rulekit.repair import Change, Cut, Delete, Repair
from esper_audit.semantics.dead_code import dead_attributes
from esper_audit.semantics.flow import Event
from esper_audit.semantics.model import ModuleModel
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.tree import children, dotted

_PURE_NODES = (
    cst.Name, cst.Integer, cst.Float, cst.Imaginary, cst.SimpleString, cst.ConcatenatedString, cst.BinaryOperation,
    cst.UnaryOperation, cst.BooleanOperation, cst.Comparison, cst.ComparisonTarget, cst.IfExp, cst.Tuple, cst.List,
    cst.Set, cst.Dict, cst.Element, cst.DictElement, cst.Arg, cst.CompFor, cst.CompIf, cst.ListComp, cst.SetComp,
    cst.DictComp, cst.GeneratorExp, cst.BaseBooleanOp, cst.BaseBinaryOp, cst.BaseUnaryOp, cst.BaseCompOp,
)  # fmt: skip
_PURE_BUILTINS = frozenset({"abs", "bool", "float", "int", "len", "max", "min", "range", "round", "sum"})
_VIEWS = frozenset({"items", "keys", "values"})
_PURE_TORCH = frozenset(f"torch.{name}" for name in ("arange", "eye", "full", "linspace", "ones", "tensor", "zeros"))
_LOOKS_AT_ALL = (b"__dict__", b"vars(")


def without_attribute(net: NetworkClass, name: str, event: Event) -> Repair | None:
    """Delete the assignment of an attribute that nobody reads; unsafe when its value may do more than be a value."""
    node = event.node
    if not isinstance(node, (cst.Assign, cst.AnnAssign)) or (isinstance(node, cst.Assign) and len(node.targets) > 1):
        return None
    target = node.targets[0].target if isinstance(node, cst.Assign) else node.target
    if not isinstance(target, cst.Attribute) or node.value is None:
        return None
    return Repair(f"delete `self.{name}`", (Delete(node),), doubts_about_value(net, event.module, node.value))


def doubts_about_value(net: NetworkClass, module: ModuleModel, value: cst.BaseExpression) -> str:
    """Why a program might notice that an attribute is gone; empty when it cannot."""
    if any(
        text in net.project.source(path).data for path in (module.path, *net.caller_files) for text in _LOOKS_AT_ALL
    ):
        return "the project looks at all attributes of an object at once"
    doubtful = _impure(net, module, value)
    return f"`{module.code(doubtful)}` is not evaluated any more, with whatever it does" if doubtful is not None else ""


def _impure(net: NetworkClass, module: ModuleModel, node: cst.CSTNode) -> cst.CSTNode | None:
    """The first part of an expression that may do something or use something up; None for a mere value."""
    if isinstance(node, cst.Attribute):
        # a property of the class itself may do anything
        return node if not dotted(node) or node.attr.value in net.model.methods else None
    if isinstance(node, cst.Call):
        name = module.qualify(dotted(node.func))
        view = isinstance(node.func, cst.Attribute) and node.func.attr.value in _VIEWS and not node.args
        known = name in _PURE_BUILTINS or name in _PURE_TORCH or name.startswith("math.")
        if any(arg.star for arg in node.args) or not (known or (view and dotted(node.func))):
            return node
        if name in ("max", "min", "sum") and len(node.args) == 1 and isinstance(node.args[0].value, cst.Name):
            return node  # an iterator would be used up
        below = (found for arg in node.args if (found := _impure(net, module, arg.value)) is not None)
        return next(below, None)
    if not isinstance(node, _PURE_NODES) or (isinstance(node, cst.CompFor) and isinstance(node.iter, cst.Name)):
        return node
    return next((found for child in children(node) if (found := _impure(net, module, child)) is not None), None)


# Modules that do something when they are imported. Of the rest of the standard library, importing is all that happens.
_ACTIVE = frozenset({"__main__", "antigravity", "faulthandler", "idlelib", "readline", "rlcompleter", "site", "this"})
# What `import torch` has imported already; every network's file imports torch.
_WITH_TORCH = frozenset({"torch", "torch.distributions", "torch.nn", "torch.nn.functional", "torch.optim"})


def without_import(
    net: NetworkClass, module: ModuleModel, names: Mapping[cst.ImportAlias, str], regions: Sequence[cst.CSTNode]
) -> Repair | None:
    """Delete dead code together with the imports that serve it alone; None where one of them cannot go."""
    try:
        doomed = [_dead_region(net, module, region) for region in regions]
        imports = _dead_imports(net, module, names)
    except _NotSureError:
        return None
    gone = ", ".join(f"`{name}`" for name in names.values())
    changes = [change for change, _ in (*doomed, *imports)]
    why = next((why for _, why in (*doomed, *imports) if why), "")
    return Repair(f"delete the dead code and the import of {gone}", tuple(changes), why)


class _NotSureError(Exception):
    """Something cannot be taken out without a look at what it means."""


def _dead_region(net: NetworkClass, module: ModuleModel, region: cst.CSTNode) -> tuple[Change, str]:
    """How a dead attribute or private function goes, and what speaks against it."""
    for name, event in dead_attributes(net).items():
        if event.node is region and (repair := without_attribute(net, name, event)) is not None:
            return repair.changes[0], repair.why
    if not isinstance(region, cst.FunctionDef) or all(each.node is not region for each in module.functions.values()):
        raise _NotSureError  # an unreachable assignment or `yield` makes a function what it is
    plain = all(isinstance(node, _PLAIN) for node in _evaluated(region))
    name = region.name.value
    return Delete(region), "" if plain else f"defaults and annotations of `{name}` are not evaluated any more"


def _dead_imports(
    net: NetworkClass, module: ModuleModel, names: Mapping[cst.ImportAlias, str]
) -> list[tuple[Change, str]]:
    statements: dict[cst.Import | cst.ImportFrom, list[cst.ImportAlias]] = {}
    doubts: dict[cst.Import | cst.ImportFrom, str] = {}
    for alias, name in names.items():
        statement = module.walk.parents[alias]
        line = module.walk.parents[statement]
        if not isinstance(statement, (cst.Import, cst.ImportFrom)) or not isinstance(
            module.walk.parents.get(line), cst.Module
        ):
            raise _NotSureError  # under an `if` or a `try` it says more
        if _passed_on(net, module, name):
            raise _NotSureError
        statements.setdefault(statement, []).append(alias)
        source = _imported(statement, alias)
        if source.partition(".")[0] not in sys.stdlib_module_names - _ACTIVE and source not in _WITH_TORCH:
            doubts[statement] = f"`{source}` is not imported any more, with whatever it does when it is"
    return [(_removal(statement, aliases), doubts.get(statement, "")) for statement, aliases in statements.items()]


_PLAIN = (cst.Integer, cst.Float, cst.SimpleString, cst.Name, cst.UnaryOperation, cst.Minus)


def _evaluated(function: cst.FunctionDef) -> Iterator[cst.CSTNode]:
    """Whatever is evaluated where a function is defined."""
    parameters = function.params
    for param in (*parameters.posonly_params, *parameters.params, *parameters.kwonly_params):
        if param.default is not None:
            yield param.default
        if param.annotation is not None:
            yield param.annotation.annotation
    if function.returns is not None:
        yield function.returns.annotation


def _imported(statement: cst.Import | cst.ImportFrom, alias: cst.ImportAlias) -> str:
    """The module that an import loads, as far as the statement tells."""
    if isinstance(statement, cst.Import):
        return dotted(alias.name)
    base = "." * len(statement.relative) + (dotted(statement.module) if statement.module is not None else "")
    inner = f"{base}.{dotted(alias.name)}"
    return inner if inner in _WITH_TORCH else base


def _removal(statement: cst.Import | cst.ImportFrom, aliases: Sequence[cst.ImportAlias]) -> Change:
    """The whole statement, or one name of it with its comma."""
    every = list(statement.names) if not isinstance(statement.names, cst.ImportStar) else []
    if len(aliases) == len(every):
        return Delete(statement)
    if len(aliases) > 1:
        raise _NotSureError
    place = every.index(aliases[0])
    return Cut(aliases[0], every[place + 1] if place + 1 < len(every) else every[place - 1])


def _passed_on(net: NetworkClass, module: ModuleModel, name: str) -> bool:
    """Whether another file of the project takes the name from this one."""
    files = net.project.files_naming(name)
    if files is None:
        return True
    for path in files:
        index = net.project.index(path) if path != module.path else None
        for target in index.imports.values() if index else ():
            base, _, last = target.rpartition(".")
            if last == name and base and net.project.module_path(path, base) == module.path:
                return True
    stem = module.path.parent.name if module.path.name == "__init__.py" else module.path.stem
    importers = net.project.files_naming(stem) or ()
    return any(
        index.stars for path in importers if (index := net.project.index(path)) is not None and path != module.path
    )
