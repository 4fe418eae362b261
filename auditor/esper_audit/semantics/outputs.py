"""What acting and evaluating methods give back, by the part it plays, and which inputs and layers it depends on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from esper_audit.semantics.cores import CoreCall, core_calls
from esper_audit.semantics.depends import CHOICE, ONLY_LAST, ONLY_PART, Atoms, bare, everything, resolved, with_gradient
from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.model import Function
from esper_audit.semantics.network import NetworkClass, once
from esper_audit.semantics.roles import (
    ACT,
    EVALUATE,
    FORWARD,
    names_end,
    names_greedy_choice,
    names_other_mask,
    names_start,
    tensor_role,
)
from esper_audit.semantics.scoring import both_ways, optional_action
from esper_audit.semantics.values import EMPTY, Val

LEFT_OUT = {  # what the remarks on a log-prob or an entropy say of it
    ONLY_LAST: "is that of the last head alone: each round of the loop writes over it",
    ONLY_PART: "lacks heads",
}
_PARTS = frozenset({"log_prob", "entropy", "value", "action", "hidden"})


@dataclass(frozen=True, slots=True)
class Output:
    """One thing that a method gives back: what it depends on, earlier rounds of loops included."""

    value: Val
    atoms: Atoms

    @property
    def is_known(self) -> bool:
        """Whether all that it depends on is known: what is not among the sources, it certainly does not depend on."""
        return is_known(self.atoms)

    @property
    def sources(self) -> frozenset[str]:
        """The parameters and layers it depends on."""
        return bare(self.atoms)

    @property
    def trained(self) -> frozenset[str]:
        """The layers and parameters of the network that its gradient reaches, `?` for what is not known."""
        return frozenset(atom for atom in bare(with_gradient(self.atoms)) if atom[0] in "@?" or atom[:5] == "self.")

    @property
    def layers(self) -> frozenset[str]:
        """The layers it depends on."""
        return frozenset(atom for atom in self.sources if atom.startswith("@"))


def is_known(atoms: Atoms) -> bool:
    """Whether no source is unknown or an attribute that methods change."""
    return not any(atom.startswith(("?", "self.")) for atom in atoms)


def sources_of(net: NetworkClass, value: Val) -> Atoms:
    """What a value depends on, earlier rounds of loops included."""
    return resolved(everything(value), net.interpreter.carried)


@dataclass(frozen=True, slots=True)
class Method:
    """A run of a method, and its outputs by the part they play: log_prob, entropy, value, action, hidden or other."""

    frame: Frame
    outputs: dict[str, tuple[Output, ...]]
    cores: tuple[CoreCall, ...]

    @property
    def function(self) -> Function:
        """The method."""
        return self.frame.function

    @property
    def name(self) -> str:
        """The method's name."""
        return self.frame.function.name

    def named(self, part: str) -> tuple[Output, ...]:
        """The outputs that play a part."""
        return self.outputs.get(part, ())

    def sources(self, *parts: str) -> frozenset[str]:
        """All parameters and layers that its outputs of these parts depend on."""
        return frozenset[str]().union(*(output.sources for part in parts for output in self.named(part)))

    def heads(self, net: NetworkClass, part: str) -> frozenset[str]:
        """The policy heads that its outputs of a part depend on."""
        return self.sources(part) & {f"@{head.name}" for head in net.policy_heads}

    def params(self, role: str) -> tuple[str, ...]:
        """Its parameters that play a part by their names."""
        return tuple(
            param.name
            for param in self.function.params[1:]
            if param.kind in ("positional", "keyword")
            and tensor_role(param.name) == role
            and not (role == "mask" and names_other_mask(param.name))
        )

    @property
    def is_masked(self) -> bool:
        """Whether an action or a log-prob that it gives depends on its masks."""
        return bool(self.sources("log_prob", "action") & set(self.params("mask")))

    @property
    def discarded(self) -> frozenset[str]:
        """The parameters that it, or what it calls, does away with by `del`."""
        values = (event.value for event, _ in self.frame.walk() if event.kind == "discard")
        return frozenset[str]().union(*(bare(value.deps) for value in values))

    @property
    def starts(self) -> tuple[str, ...]:
        """Its parameters that say where episodes start."""
        return tuple(param.name for param in self.function.params[1:] if names_start(param.name))

    @property
    def ends(self) -> tuple[str, ...]:
        """Its parameters that say where episodes ended."""
        return tuple(param.name for param in self.function.params[1:] if names_end(param.name))


@once
def scored(net: NetworkClass) -> tuple[Method, ...]:
    """The methods that score recorded actions; one that acts, too, as it runs when an action is given."""
    return tuple(_scored(net))


def _scored(net: NetworkClass) -> Iterator[Method]:
    for ways in both_ways(net):
        yield _method(net, ways.scored)
    for frame in net.frames(EVALUATE):
        method = _method(net, frame)
        if method.params("action") and not optional_action(frame.function):
            yield method


@once
def acting(net: NetworkClass) -> tuple[Method, ...]:
    """The methods that act; one that scores, too, as it runs when no action is given."""
    alone = {ways.function.name: ways.acted for ways in both_ways(net)}
    return tuple(_method(net, alone.get(frame.function.name, frame)) for frame in net.frames(ACT))


@once
def choosing(net: NetworkClass) -> tuple[Method, ...]:
    """The methods that act, those among them that only ever take the best action."""
    greedy = (net.flow.frame(name) for name in net.roles if names_greedy_choice(name))
    return (*acting(net), *(_method(net, frame) for frame in greedy if frame is not None))


@once
def stepping(net: NetworkClass) -> tuple[Method, ...]:
    """All methods through which a hidden state goes, in all their ways."""
    plain = [frame for frame in net.frames(FORWARD, ACT, EVALUATE) if not optional_action(frame.function)]
    both = [method for method in (*scored(net), *acting(net)) if optional_action(method.function)]
    return (*(_method(net, frame) for frame in plain), *both)


def _method(net: NetworkClass, frame: Frame) -> Method:
    return Method(frame, _outputs(net, frame), tuple(core_calls(frame)) if net.recurrent else ())


def _outputs(net: NetworkClass, frame: Frame) -> dict[str, tuple[Output, ...]]:
    found: dict[str, list[Output]] = {}
    critics = {f"@{head.name}" for head in net.heads if head.role == "value"}
    for part, value in _leaves(frame.result, ""):
        output = Output(value, sources_of(net, value))
        gives_value = bool(critics & output.layers) and not value.roles
        found.setdefault(part or ("value" if gives_value else "other"), []).append(output)
    return {part: tuple(outputs) for part, outputs in found.items()}


def _leaves(value: Val, part: str) -> Iterator[tuple[str, Val]]:
    """The tensors that a result holds, each with its part: by the name of a field or a key, else by its own role."""
    held = value.kind in ("tuple", "list", "dict") or "record" in value.tags
    if held and value.items:
        for key, item in value.items:
            named = tensor_role(key) if isinstance(key, str) else ""
            own = next(iter(sorted(value.roles & _PARTS)), "") if value.kind != "instance" else ""
            yield from _leaves(item, named or own or part)
        return
    own = part if part in _PARTS else next(iter(sorted(value.roles & _PARTS)), "")
    if value.is_tensorish:
        yield own, value


def state_atoms(net: NetworkClass, call: CoreCall) -> tuple[Atoms, ...] | None:
    """What each part of the state that a core is called with depends on; None where the arguments are not known."""
    if call.state is None:
        return None
    return tuple(sources_of(net, part) for part in call.parts)


def input_atoms(net: NetworkClass, call: CoreCall) -> Atoms:
    """What the input of a core depends on."""
    args = call.event.args
    return sources_of(net, args[0]) if args else EMPTY


def has_layers(atoms: Atoms) -> bool:
    """Whether a layer of the network is among the sources."""
    return any(atom.startswith("@") for atom in atoms)


def choice_of(net: NetworkClass, event: Event) -> str:
    """The atom that says that an argmax chose a value."""
    return f"{CHOICE}{net.interpreter.order_of(event.node)}"


def first_round(value: Val) -> Atoms:
    """What a value depends on when a loop is entered: nothing that a round before left."""
    return frozenset(atom for atom in everything(value) if not atom.startswith("^"))


def returns(frame: Frame) -> Event | None:
    """The last place where a run returns."""
    return next((event for event in reversed(frame.events) if event.kind == "return"), None)
