"""Where the weights of a network go to disk and into other networks, and whose keys they have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import libcst as cst

from esper_audit.semantics.flow import Event
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.torch_facts import COMPILE
from esper_audit.semantics.tree import dotted
from esper_audit.semantics.values import Val

_WRITERS = frozenset({"torch.save", "pickle.dump", "safetensors.torch.save_file", "safetensors.torch.save"})
_KEYS = re.compile(rb"state_dict")
_KEYS_OR_COMPILE = re.compile(rb"state_dict|compile")


@dataclass(frozen=True, slots=True)
class CompiledCheckpoint:
    """A place where keys with the prefix of the compiled wrapper meet a file or a network without it.

    `kind` is "save" (the wrapper's keys are written), "mixed" (one network's keys go into the other's) or "lenient"
    (`strict=False` on the wrapper). `certain` is False where the keys fit as long as compilation is never switched off.
    """

    event: Event
    kind: str
    certain: bool
    site: Event


def compiled_checkpoints(net: NetworkClass) -> Iterator[CompiledCheckpoint]:
    """Checkpoints of the network under the keys of `torch.compile`'s wrapper, each place once.

    A project that names `_orig_mod` anywhere knows of the prefix. Copies in memory between wrappers fit, and so does a
    wrapper that nothing makes optional and that loads what it has saved.
    """
    keys = ("state_dict", "load_state_dict")
    names = net.project.names
    if net.project.files_naming("_orig_mod") != () or not any(
        names(p, word) for p in net.caller_files for word in keys
    ):
        return
    if not any(True for _ in net.compilers()):
        return
    sites: dict[cst.CSTNode, Event] = {}
    saves: dict[cst.CSTNode, Event] = {}
    loads: dict[cst.CSTNode, Event] = {}
    for caller in net.callers_saying(_KEYS_OR_COMPILE):
        for event, _ in caller.frame.walk():
            if event.kind != "call":
                continue
            if event.name in COMPILE and any(net.builds(value) for value in (*event.args, *event.kwargs.values())):
                sites.setdefault(event.node, event)
            elif event.name in _WRITERS and any(_wrapped(net, keys) for keys in _keys_in(event.args)):
                saves.setdefault(event.node, event)
            elif event.name == ".load_state_dict" and net.builds(event.target):
                loads.setdefault(event.node, event)
    site = next(iter(sites.values()), None)
    if site is not None:
        yield from _judged(net, site, list(saves.values()), list(loads.values()))


def _judged(net: NetworkClass, site: Event, saves: list[Event], loads: list[Event]) -> Iterator[CompiledCheckpoint]:
    from_file = [load for load in loads if not any(True for _ in _keys_in(load.args))]
    bare = any("compiled" not in load.target.tags for load in from_file)
    settled = not _is_optional(site)
    for load in loads:
        into_wrapper = "compiled" in load.target.tags
        if any(_wrapped(net, keys) is not into_wrapper for keys in _keys_in(load.args)):
            yield CompiledCheckpoint(load, "mixed", True, site)
        elif load in from_file and into_wrapper and _is_lenient(load) and not (saves and settled):
            yield CompiledCheckpoint(load, "lenient", True, site)
    if not (settled and from_file and not bare):
        yield from (CompiledCheckpoint(save, "save", bare, site) for save in saves)


def _keys_in(args: tuple[Val, ...]) -> Iterator[Val]:
    """The networks whose state dicts are among the arguments, or inside one of them."""
    for argument in args:
        for value in argument.flat():
            if isinstance(value.ref, tuple) and value.ref[0] == "state_dict":
                yield value.ref[1]


def _wrapped(net: NetworkClass, owner: Val) -> bool:
    return net.builds(owner) and "compiled" in owner.tags


def _is_lenient(load: Event) -> bool:
    strict = load.args[1] if len(load.args) > 1 else load.kwargs.get("strict")
    return strict is not None and strict.const is False


def _is_optional(event: Event) -> bool:
    """Whether an `if` decides that an event happens; `if __name__ == "__main__"` decides nothing."""
    return any(not _is_main(branch.test) for branch in event.branches_around)


def _is_main(test: cst.BaseExpression) -> bool:
    return isinstance(test, cst.Comparison) and dotted(test.left) == "__name__"
