"""Whether anybody asks if each row of an action mask has a valid action, and whether the question is in force."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.depends import bare
from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.network import NetworkClass, once
from esper_audit.semantics.roles import tensor_role
from esper_audit.semantics.tree import descendants, dotted, find
from esper_audit.semantics.values import Val

_ASKS = frozenset({"any", "max", "amax", "count_nonzero"})  # `all` only of what is invalid
_REFUSED = frozenset({"RuntimeError", "ValueError", "AssertionError", "Exception", "BaseException"})
# What code around the network may do about such rows: a question, or an action that is made valid.
_CARES = re.compile(
    rb"(mask|avail|legal|valid)\w*(\[[^\]\n]*\])?\.(any|max|amax|count_nonzero)\("
    rb"|(mask|avail|legal|valid)\w*(\[[^\]\n]*\])?\.sum\([^)\n]*\)\s*[=<>!]"
    rb"|\b(any|all|max|amax|count_nonzero)\([\s~]*(not )?[\w.]*(mask|avail|legal|valid)"
    rb"|\bsum\([\w.]*(mask|avail|legal|valid)\w*[^)\n]*\)\s*[=<>!]"
    rb"|(mask|avail|legal|valid)\w*\[[^\]\n]*\]\s*=\s*(True|1)\b"
    rb"|\bno_?op\b|NO_?OP\b",
    re.IGNORECASE,
)


_OBJECTION = re.compile(r"assert|warn|error|raise|fail|expect|check|ensure|verify|validate")


@dataclass(frozen=True, slots=True)
class RowCheck:
    """A question whether each row has a valid action; `off` says why nobody hears the answer, or is empty."""

    node: cst.CSTNode
    event: Event
    off: str


@once
def row_checks(net: NetworkClass) -> tuple[RowCheck, ...]:
    """The questions on the way through the hot methods, those under a flag that is False among them."""
    return tuple(_row_checks(net))


def rows_say(net: NetworkClass, mask: Val) -> bool | None:
    """What True means in a mask by the question that is asked of its rows: with `any(dim=-1)`, that an action is valid.

    None where nothing is asked of the rows of this mask, or not per row.
    """
    for check in row_checks(net):
        event = check.event
        home, _, name = event.name.rpartition(".")
        args = event.args[1:] if home == "torch" else event.args
        subject = event.args[0] if home == "torch" and event.args else event.target
        if name == "any" and (args or {"dim", "axis"} & event.kwargs.keys()) and bare(subject.deps) & bare(mask.deps):
            return "negated" not in subject.tags
    return None


def somebody_cares(net: NetworkClass) -> bool:
    """Whether code of the class or of its callers seems to see to it that rows have a valid action."""
    files = dict.fromkeys([*(model.module.path for model in net.model.lineage), *net.caller_files])
    return any(net.project.says(path, _CARES) for path in files)


def _row_checks(net: NetworkClass) -> Iterator[RowCheck]:
    for frame, event, stack in net.hot_events("call", "count_check", "skipped"):
        if event.kind == "skipped":
            if isinstance(event.node, cst.If) and _holds_question(event.node) and _objects(event.node):
                yield RowCheck(event.node, event, f"`{event.module.code(event.node.test)}` is False")
        elif event.kind == "count_check" or _is_question(event):
            yield RowCheck(event.node, event, _swallowed(event, stack) or _off_by_default(net, frame, event, stack))


def _is_question(event: Event) -> bool:
    """`mask.any(-1)` and the like, `(~mask).all(-1)`."""
    home, _, name = event.name.rpartition(".")
    subject = event.args[0] if home == "torch" and event.args else event.target
    if "mask" not in subject.roles or home not in ("torch", ""):
        return False
    return name in _ASKS or (name == "all" and "negated" in subject.tags)


def _objects(branch: cst.If | cst.IfExp) -> bool:
    """Whether something under a flag raises, asserts or warns: another flag may choose a distribution."""
    said = (dotted(call.func).rpartition(".")[2].lower() for call in find(branch, cst.Call))
    return any(find(branch, (cst.Raise, cst.Assert))) or any(_OBJECTION.search(name) for name in said)


def _holds_question(branch: cst.If) -> bool:
    """The same by names, in code that is not run."""
    for call in find(branch.body, cst.Call):
        if isinstance(call.func, cst.Attribute) and call.func.attr.value in _ASKS:
            subject = dotted(call.func.value)
            subject = dotted(call.args[0].value) if subject == "torch" and call.args else subject
            if tensor_role(subject.rpartition(".")[2]) == "mask":
                return True
    return False


def _swallowed(event: Event, stack: Sequence[Event]) -> str:
    """The exception is caught around the question, or around a call that leads to it, and nothing is done about it."""
    for each in (event, *stack):
        for scope in each.scope:
            for attempt in find(scope, cst.Try):
                if any(_ignores(handler) for handler in attempt.handlers) and any(
                    node is each.node for node in descendants(attempt.body)
                ):
                    return "its exception is caught and ignored"
    return ""


def _ignores(handler: cst.ExceptHandler) -> bool:
    """Whether a handler catches what a check raises, and only passes or tells."""
    caught = [dotted(each) for each in find(handler.type, cst.Name)] if handler.type is not None else ["Exception"]
    lines = handler.body.body
    quiet = all(
        isinstance(line, cst.SimpleStatementLine)
        and all(isinstance(small, (cst.Pass, cst.Expr)) for small in line.body)
        for line in lines
    )
    return quiet and bool(_REFUSED & set(caught))


def _off_by_default(net: NetworkClass, frame: Frame, event: Event, stack: Sequence[Event]) -> str:
    """A flag around the question that comes from a parameter of the constructor whose default is False."""
    inner = stack[-1].frame if stack and stack[-1].frame is not None else frame
    for branch in filter(_objects, event.branches_around):
        for name in (dotted(node) for node in find(branch.test, (cst.Name, cst.Attribute))):
            flag = inner.params.get(name) or net.flow.attributes.get(name.removeprefix("self.")) or Val()
            for origin in sorted(flag.origins):
                if _is_false(net, origin) and not _is_switched_on(net, origin):
                    return f"`{origin}` is False by default"
    return ""


def _is_false(net: NetworkClass, name: str) -> bool:
    init = net.model.method("__init__")
    param = init.param(name) if init is not None else None
    return param is not None and isinstance(param.default, cst.Name) and param.default.value == "False"


def _is_switched_on(net: NetworkClass, name: str) -> bool:
    on = re.compile(rf"\b{re.escape(name)}\s*=\s*True".encode())
    return any(net.project.says(path, on) for path in net.caller_files)
