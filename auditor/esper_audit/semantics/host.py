"""Where the host takes part in what hot methods compute: it reads tensors, branches on them, talks, rolls dice, counts.

Each costs a wait for the device where there is one, and under torch.compile a cut in the graph or a compilation anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.compilation import Site, compiled_methods
from esper_audit.semantics.flow import Event
from esper_audit.semantics.model import Function
from esper_audit.semantics.network import NetworkClass, once
from esper_audit.semantics.project import written
from esper_audit.semantics.roles import ACT
from esper_audit.semantics.run.tensors import is_data
from esper_audit.semantics.tree import descendants, dotted, find
from esper_audit.semantics.values import UNKNOWN

_READS = frozenset({"item", "tolist", "numpy", "equal", "allclose"})
_CASTS = frozenset({"float", "int", "bool", "numpy.array", "numpy.asarray", "torch.equal", "torch.allclose"})
_TRACED = frozenset({"numpy", "numpy.array", "numpy.asarray"})  # by Dynamo, which has a numpy of its own
_DICE = re.compile(r"(numpy\.random|random)\.[a-z_]+")
_NO_DICE = frozenset({"seed", "default_rng", "get_state", "set_state", "getstate", "setstate"})
_WENT_WRONG = frozenset({"isnan", "isinf", "isfinite"})
_LEVELS = frozenset({"debug", "info", "warning", "error", "critical", "log"})
_CHATTY = re.compile(r"(^|_)(debug|verbose|verbosity|log|logging|print|trace|profile|profiling)(_|$)", re.IGNORECASE)
_EXPLORES = re.compile(r"eps|explor|random|warm_?up|coin", re.IGNORECASE)
Branch = cst.If | cst.IfExp | cst.While


@dataclass(frozen=True, slots=True)
class Interruption:
    """Something in a hot method that is no work for the device; `site` is where torch.compile covers the method."""

    event: Event
    what: str
    site: Site | None


@once
def host_reads(net: NetworkClass) -> tuple[Interruption, ...]:
    """Where hot methods read numbers out of tensors; what they hand out or only keep on self is left out.

    Of methods that act, only what goes back into a tensor or decides a branch counts: the rest is for the environment.
    """
    reads = tuple(_met(net, _read, "call"))
    known = {each.event.function.node for each in reads if each.what != "asked"}
    return (*reads, *(each for each in _met(net, _back, "back") if each.event.function.node not in known))


def _read(event: Event, role: str) -> str:
    name = event.name.removeprefix(".")
    subject = event.target if event.name.startswith(".") else event.args[0] if event.args else UNKNOWN
    wanted = name in _READS if event.name.startswith(".") else name in _CASTS
    certain = subject.kind == "tensor" or event.name.startswith((".", "torch."))
    if not wanted or not certain or not is_data(subject):
        return ""
    if _handed_out(event) or _asks_the_type(event):
        return ""
    if _deciding(event) is not None:
        return "asked"
    return "" if role == ACT else "traced" if name in _TRACED else "read"


def _back(_event: Event, _role: str) -> str:
    return "back"


def _handed_out(event: Event) -> bool:
    """Whether a statement gives what was read to the caller, or keeps it on self: telemetry, mostly."""
    for node in event.scope:
        for statement in find(node, (cst.Return, cst.Assign)):
            kept = not isinstance(statement, cst.Assign) or all(_on_self(each.target) for each in statement.targets)
            if kept and event.node in descendants(statement):
                return True
    return False


def _on_self(target: cst.CSTNode) -> bool:
    if isinstance(target, cst.Tuple):
        return all(_on_self(element.value) for element in target.elements)
    return isinstance(target, cst.Attribute)


def _asks_the_type(event: Event) -> bool:
    """Whether an `if` around it asks for a type: then it may be no tensor there."""
    calls = (call for branch in event.branches_around for call in find(branch.test, cst.Call))
    return any(dotted(call.func) == "isinstance" for call in calls)


@once
def tensor_branches(net: NetworkClass) -> tuple[Interruption, ...]:
    """Where hot methods branch on the values of a tensor; a "check" only raises, or goes on.

    What decides whether Python has to loop counts under torch.compile alone: one wait may save many steps.
    """
    return tuple(each for each in _met(net, _branch, "truth") if each.what != "loop" or each.site is not None)


def _branch(event: Event, _role: str) -> str:
    branch = _deciding(event)
    if _asks_the_type(event):
        return ""
    if not isinstance(branch, cst.If):
        return "branch"
    return "check" if _raises(branch) else "loop" if any(find(branch, cst.For)) else "branch"


def _deciding(event: Event) -> Branch | None:
    """The branch or loop in whose condition an event stands."""
    loops = (loop for node in event.scope for loop in find(node, cst.While))
    return next((each for each in (*event.branches, *loops) if event.node in descendants(each.test)), None)


def _raises(branch: cst.If) -> bool:
    last = branch.body.body[-1]
    return isinstance(last, cst.SimpleStatementLine) and isinstance(last.body[-1], cst.Raise)


@once
def side_effects(net: NetworkClass) -> tuple[Interruption, ...]:
    """Calls of print and of loggers ("print"), and random numbers of numpy and of Python ("dice"), in hot methods."""
    if not net.mentions(b"print(", b"random", b"log"):
        return ()
    return tuple(_met(net, _effect, "call"))


def _effect(event: Event, role: str) -> str:
    last = event.name.rpartition(".")[2]
    if event.name == "print" or (last in _LEVELS and _of_logger(event)):
        return "" if _before_raise(event) or _is_rare(event) else "print"
    if not _DICE.fullmatch(event.name) or last in _NO_DICE:
        return ""
    return "" if role == ACT and _explores(event) else "dice"


def _of_logger(event: Event) -> bool:
    """Whether a method is one of the logging module, or of something that is called a logger, or made as one."""
    owner = (
        event.node.func.value
        if isinstance(event.node, cst.Call) and isinstance(event.node.func, cst.Attribute)
        else None
    )
    name = dotted(owner) if owner is not None else ""
    made = event.module.index.constants.get(name)
    last = name.rpartition(".")[2].lower().strip("_")
    return last in ("logger", "logging") or (made is not None and "getLogger" in written(made))


def _is_rare(event: Event) -> bool:
    """Whether it is told only when something went wrong, or is one side of a conditional expression."""
    if any(isinstance(branch, cst.IfExp) or _WENT_WRONG & _called(branch.test) for branch in event.branches_around):
        return True
    handlers = (handler for node in event.scope for handler in find(node, cst.ExceptHandler))
    return any(event.node in descendants(handler) for handler in handlers)


def _called(test: cst.BaseExpression) -> set[str]:
    return {dotted(call.func).rpartition(".")[2] for call in find(test, cst.Call)}


def _before_raise(event: Event) -> bool:
    """Whether an exception is what follows in the same block: the last words of a program."""
    blocks = (block for node in event.scope for block in find(node, cst.IndentedBlock))
    for block in blocks:
        here = [event.node in descendants(line) for line in block.body if isinstance(line, cst.SimpleStatementLine)]
        last = block.body[-1] if block.body else None
        if True in here and isinstance(last, cst.SimpleStatementLine) and isinstance(last.body[-1], cst.Raise):
            return True
    return False


def _explores(event: Event) -> bool:
    """Whether the function acts at random now and then: it asks an epsilon, or the dice themselves, what to do."""
    return any(
        isinstance(node, cst.Name) and _EXPLORES.search(node.value)
        for branch in event.branches
        for node in descendants(branch.test)
    )


@once
def counters(net: NetworkClass) -> tuple[Interruption, ...]:
    """Whole numbers on self that every call of a hot method moves on, and lists on self that it makes longer."""
    return tuple(_met(net, _count, "store", "kept"))


def _count(event: Event, _role: str) -> str:
    node = event.node
    if event.kind == "kept":
        longer = isinstance(node, cst.Call) and dotted(node.func).endswith(".append")
        return "list" if longer and event.value.kind in ("number", "bool", "none", "str") else ""
    kinds = {each.kind for each in event.value.flat()}
    if event.value.kind == "dict" and isinstance(node, (cst.AugAssign, cst.Assign)):
        step = node.value.right if isinstance(node.value, cst.BinaryOperation) else node.value
        kinds -= {"unknown"} if isinstance(step, cst.Integer) else set()  # a dict that is empty at first
    return "number" if event.value.kind in ("number", "dict") and kinds <= {"number"} and _moves_on(node) else ""


def _moves_on(node: cst.CSTNode) -> bool:
    """Whether a statement adds a whole number to what it assigns to: `x += 1`, `x = x + 1`."""
    if isinstance(node, cst.AugAssign):
        moves = isinstance(node.operator, (cst.AddAssign, cst.SubtractAssign))
        return moves and not isinstance(node.value, cst.Float)
    if not isinstance(node, cst.Assign) or not isinstance(node.value, cst.BinaryOperation):
        return False
    sum_ = node.value
    target = _attribute_of(node.targets[0].target)
    own = [side for side in (sum_.left, sum_.right) if target and _attribute_of(side) == target]
    return bool(own) and isinstance(sum_.operator, (cst.Add, cst.Subtract)) and not isinstance(sum_.right, cst.Float)


def _attribute_of(node: cst.CSTNode) -> str:
    """`self.calls` in `self.calls`, `self.calls[name]` and `self.calls.get(name, 0)`."""
    if isinstance(node, cst.Subscript):
        return _attribute_of(node.value)
    if isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
        return _attribute_of(node.func.value)
    return dotted(node) if isinstance(node, cst.Attribute) else ""


def _met(net: NetworkClass, what: Callable[[Event, str], str], *kinds: str) -> Iterator[Interruption]:
    """The events of hot methods that are told, without what is kept out of graphs on purpose, or asked for by a flag.

    Each place once; that a method is compiled counts more than that another one is not. Nothing of test code.
    """
    compiled = compiled_methods(net)
    found: dict[cst.CSTNode, Interruption] = {}
    for frame, event, stack in () if net.project.is_test_code(net.module.path) else net.hot_events(*kinds):
        name = frame.function.name
        known = found.get(event.node)
        if known is not None and (known.site is not None or name not in compiled):
            continue
        told = what(event, net.roles.get(name, ""))
        if told and not _set_apart(frame.function, event, stack):
            found[event.node] = Interruption(event, told, compiled.get(name))
    yield from found.values()


def _set_apart(method: Function, event: Event, stack: tuple[Event, ...]) -> bool:
    functions = (method, *(call.callee for call in stack if isinstance(call.callee, Function)))
    if any(facts.COMPILER_DISABLED.intersection(function.decorators) for function in functions):
        return True
    return any("eager_only" in each.contexts or _by_chatty_flag(each) for each in (*stack, event))


def _by_chatty_flag(event: Event) -> bool:
    """Whether an `if` around it asks somebody's wish to see more."""
    return any(_CHATTY.search(flag) for branch in event.branches_around for flag in _flags(branch.test))


def _flags(test: cst.BaseExpression) -> Iterator[str]:
    """The bare names and attributes that a condition asks on their own, or that all else in it hangs on."""
    if isinstance(test, cst.BooleanOperation):
        yield from _flags(test.left)
        yield from _flags(test.right)
    elif isinstance(test, (cst.Name, cst.Attribute)):
        yield dotted(test).rpartition(".")[2]
