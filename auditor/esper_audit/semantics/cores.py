"""Calls of recurrent cores, and what is known about the state that each is given."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.values import NONE, Val


@dataclass(frozen=True, slots=True)
class CoreCall:
    """One call of a recurrent layer of torch; `state` is None where the call's arguments are not all known."""

    event: Event
    state: Val | None

    @property
    def parts(self) -> tuple[Val, ...]:
        """The tensors of the state: h and c where both are known apart."""
        return self.state.flat() if self.state is not None else ()

    @property
    def is_reset(self) -> bool:
        """Whether every part of the state is cleared on the way here, or may be."""
        return bool(self.parts) and all("kept" in part.tags for part in self.parts)

    @property
    def is_as_given(self) -> bool:
        """Whether every part of the state is what a caller handed in, as it was."""
        return bool(self.parts) and all(as_given(part) for part in self.parts)

    @property
    def is_fresh(self) -> bool:
        """Whether the core surely starts from zeros."""
        return bool(self.parts) and all(_is_fresh(part) for part in self.parts)


def as_given(part: Val) -> bool:
    """Whether a part of a state is a parameter that nothing was done to."""
    return "hidden" in part.roles and bool(part.origins) and not part.tags & {"kept", "optional"} and not part.made


def _is_fresh(part: Val) -> bool:
    if part.kind == "none":
        return True
    zeros = all(made.function.rpartition(".")[2] == "zeros" for made in part.made)
    return bool(part.made) and zeros and not part.origins and not part.tags & {"kept", "optional"}


def core_calls(frame: Frame) -> Iterator[CoreCall]:
    """The calls of recurrent layers below a run."""
    for event, _ in frame.walk():
        if event.kind == "call" and event.callee == "layer" and event.name in facts.RECURRENT | facts.CELLS:
            known = "**" not in event.kwargs and all(value.kind != "starred" for value in event.args)
            given = event.args[1] if len(event.args) > 1 else event.kwargs.get("hx", NONE)
            yield CoreCall(event, given if known else None)
