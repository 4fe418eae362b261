"""What a run leaves behind: events, the frame of each call, and the attributes of a class after construction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import libcst as cst

from esper_audit.semantics.model import ClassModel, Function, ModuleModel
from esper_audit.semantics.tree import descendants, find
from esper_audit.semantics.values import (
    EMPTY,
    UNKNOWN,
    Val,
    join,
)

if TYPE_CHECKING:
    from esper_audit.semantics.flow import Interpreter

BASE = "<distribution>"  # where an object keeps the torch distribution that it is


@dataclass(slots=True)
class Event:
    """Something a rule may ask about.

    `kind` is call, mask, mask_product, logits, dist, return, lift, rank_check, size_check, product, divide, centre
    (less the mean of its batch), invert, store, kept, discard (`del`), meet, unreachable, skipped (a branch whose test
    is False), count_check (a comparison of how many entries of a mask are True), truth (a condition asks a tensor),
    back (what Python read from a tensor goes into one) statistic (an attribute takes up the mean of a batch),
    lookup (a part or column of masks or actions, under a written key), reorder (by a view) or write (into a tensor,
    under subscripts or by `+=`).
    """

    kind: str
    node: cst.CSTNode
    function: Function
    contexts: frozenset[str]
    fills_true: bool | None = None  # of a mask event: whether entries go where the mask, as it came in, is True
    value: Val = UNKNOWN
    target: Val = UNKNOWN
    other: Val = UNKNOWN
    name: str = ""
    args: tuple[Val, ...] = ()
    kwargs: dict[str, Val] = field(default_factory=dict)
    callee: Any = None
    frame: Frame | None = None

    @property
    def module(self) -> ModuleModel:
        """The file the event's node stands in."""
        return self.function.module

    @property
    def scope(self) -> Sequence[cst.CSTNode]:
        """The function that the node stands in, or the statements of the file."""
        return [self.function.node] if self.function.node is not None else list(self.module.statements)

    @property
    def branches(self) -> Iterator[cst.If | cst.IfExp]:
        """All tests of the scope."""
        for node in self.scope:
            yield from find(node, cst.If)
            yield from find(node, cst.IfExp)

    @property
    def branches_around(self) -> Iterator[cst.If | cst.IfExp]:
        """Those among them that the node stands in."""
        for branch in self.branches:
            if any(node is self.node for node in descendants(branch)):
                yield branch


@dataclass(slots=True)
class Frame:
    """One abstract call: its function, parameters as bound, events in order, and what it returned."""

    function: Function
    params: dict[str, Val]
    events: list[Event] = field(default_factory=list)
    result: Val = UNKNOWN
    cost: int = 0  # expressions that it took, those of the calls below it included
    height: int = 0  # how many calls deep it went
    entered: frozenset[int] = EMPTY  # the functions that ran in it, by the identity of their nodes

    def walk(
        self, stack: tuple[Event, ...] = (), _seen: set[int] | None = None
    ) -> Iterator[tuple[Event, tuple[Event, ...]]]:
        """All events below this call with the calls that led there; each called frame is entered once."""
        seen = _seen if _seen is not None else {id(self)}
        for event in self.events:
            yield event, stack
            if event.frame is not None and id(event.frame) not in seen:
                seen.add(id(event.frame))
                yield from event.frame.walk((*stack, event), seen)


class ClassFlow:
    """The runs of one class: its attributes after construction, and a frame per method."""

    def __init__(self, model: ClassModel, interpreter: Interpreter) -> None:
        self.model = model
        self.interpreter = interpreter
        self.attributes: dict[str, Val] = {}  # what the constructor leaves; frozen once it has run
        self.run_attributes: dict[str, Val] = {}  # what the running entry method has set so far
        self.init_frame: Frame | None = None
        self._frames: dict[str, Frame] = {}
        self._building = False

    @property
    def self_value(self) -> Val:
        """`self`, as methods see it."""
        return Val("instance", ref=self)

    @cached_property
    def changing(self) -> frozenset[str]:
        """Attributes of self that methods besides the constructor assign, or may change in place."""
        found: set[str] = set()
        for model in self.model.lineage:
            for name, function in model.own_methods.items():
                if name != "__init__":
                    found.update(*map(_changed_by, find(function.node, _CHANGING)))
        return frozenset(found)

    @property
    def building(self) -> bool:
        """Whether the constructor is running."""
        return self._building

    def build(self) -> None:
        """Run the constructor once, so that methods know the attributes."""
        if self.init_frame is not None or self._building:
            return
        self._building = True
        init = self.model.method("__init__") or self.model.method("setup") or self.model.method("__post_init__")
        if init is not None:
            self.init_frame = self.interpreter.run(init, self)
        self._building = False

    def frame(self, name: str) -> Frame | None:
        """The run of a method with its parameters as declared."""
        self.build()
        if name not in self._frames:
            function = self.model.method(name)
            if function is None:
                return None
            self._frames[name] = self.interpreter.run(function, self)
        return self._frames[name]

    def store(self, name: str, value: Val) -> None:
        """Take note of an assignment to `self.name`."""
        if self._building:
            self.attributes[name] = join(self.attributes[name], value) if name in self.attributes else value
        else:
            before = self.run_attributes.get(name)
            self.run_attributes[name] = value if before is None else join(before, value)
            self.interpreter.touched_flows[id(self)] = self

    def attribute(self, name: str) -> Val | None:
        """What `self.name` may be, class-level constants included; None when nothing is known.

        What other methods set counts only inside the run that set it: whether they ran before is unknown, and facts
        must not depend on the order in which rules ask for them.
        """
        value = self.run_attributes.get(name)
        if value is None:
            value = self.attributes.get(name)
        if value is not None:
            return value
        for model in self.model.lineage:
            expression = model.constants.get(name)
            if expression is not None:
                return self.interpreter.constant_of(model.module, expression)
        return None


_READS = frozenset(
    "items keys values get index count copy to float double half long bool int size dim shape numel view reshape "
    "expand unsqueeze squeeze expand_as repeat exp log sum mean clone detach cpu cuda numpy item split "
    "parameters".split()
)


_CHANGING = (cst.AssignTarget, cst.AugAssign, cst.AnnAssign, cst.Call)


def _changed_by(node: cst.CSTNode) -> Iterator[str]:
    """The attributes of self that an assignment, or a call of one of their methods, may change."""
    changed: list[cst.CSTNode]
    if isinstance(node, cst.Call):
        reads = not isinstance(node.func, cst.Attribute) or node.func.attr.value in _READS
        changed = [] if reads else [node.func.value]  # type: ignore[attr-defined]
    else:
        assert isinstance(node, (cst.AssignTarget, cst.AugAssign, cst.AnnAssign))
        target = node.target
        changed = [element.value for element in target.elements] if isinstance(target, cst.Tuple) else [target]
    for each in changed:
        holder = each
        while isinstance(holder, cst.Subscript):
            holder = holder.value
        if isinstance(holder, cst.Attribute) and isinstance(holder.value, cst.Name) and holder.value.value == "self":
            yield holder.attr.value


class PlainObject:
    """An instance of a plain project class (a distribution, a config) with the attributes its constructor set."""

    __slots__ = ("attributes", "model")

    def __init__(self, model: ClassModel, attributes: dict[str, Val]) -> None:
        self.model = model
        self.attributes = attributes


def class_of(value: Val, interpreter: Interpreter) -> ClassModel | None:
    """The project class of an instance."""
    ref = value.ref
    if isinstance(ref, (ClassFlow, PlainObject)):
        return ref.model
    if ref is None or isinstance(ref, tuple):
        return None
    return interpreter.models.find_class(ref)
