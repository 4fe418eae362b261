"""Once a method has seen a few sizes, no call compiles it anew.

Experiment: compile act, and evaluate or else `forward`, with a backend that compiles nothing, with `nn.LSTM` allowed.
Call it three times alike; with other batch sizes; with other lengths; in eval mode under `no_grad`, and then as at
first. Count the calls on which Dynamo compiled. Criterion: the last call of each kind compiles nothing. Tolerance:
none, these are counts. Cost: about half a second for each of the 3 to 5 compilations of a method. Pitfalls: Dynamo
unrolls `nn.LSTM` over its steps, and a loop over steps is how episode starts are obeyed: other lengths are tried on
networks without a recurrent core only. Size 1 is always compiled for itself, and is left out. After 8 compilations of a
function Dynamo gives up, and runs it uncompiled. Whether any of it matters depends on a trainer that compiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import COMPILE, FAILED, PASSED, Measurement, NotComparable, Probe

if TYPE_CHECKING:
    from esper_audit.probes.measuring import Called
    from esper_audit.probes.subject import Subject

# (batch, steps) of each kind of call: the first of all compiles, a second size makes it general.
FIRST = (6, 2)
KINDS = {
    "the same call": (FIRST, FIRST),
    "other batch sizes": ((9, 2), (14, 2), (23, 2), (37, 2)),  # a convolution branches at 16
    "other lengths": ((6, 3), (6, 4)),
    "another mode and back": (FIRST, FIRST),
}


class Recompiles(Probe):
    """P-compile of the catalogue, for the number of compilations."""

    id = "recompiles"
    claim = "once a method has seen a few sizes, no call compiles it anew"
    code, name = "ESP181", "repeated-compilation"
    category, severity = Category.COMPILE, Severity.MEDIUM
    help = "keep counters and sizes out of the traced code, and loops over batch or steps in tensor operations"
    group = COMPILE
    convicts = False  # nobody said that the method is compiled

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import measuring as m

        told, table, blamed, problems = [], [("method", "the first call", *KINDS)], "", []
        for called in m.methods(subject):
            try:
                counts, anew = _counted(subject, called)
            except NotComparable:
                continue
            except Exception as error:  # noqa: BLE001 - a compiled call may fail where the eager one does not
                problems.append(f"`{called.label}` fails: {type(error).__name__}")
                continue
            text = f"`{called.label}` {sum(counts.values())} times"
            if anew:
                text += f" and then anew for {', '.join(f'{each} ({why})' for each, why in anew.items())}"
                blamed = blamed or called.facts.name
            told.append(text)
            table.append((f"`{called.label}`", *(str(counts.get(each, "-")) for each in table[0][1:])))
        if not told:
            raise NotComparable("; ".join(problems) or "no method could be called")
        return Measurement(FAILED if blamed else PASSED, f"compiled: {'; '.join(told)}", blamed, tuple(table))


def _counted(subject: Subject, called: Called) -> tuple[dict[str, int], dict[str, str]]:
    """The calls of each kind that compiled; and for the kinds whose last call still did, why."""
    import torch

    from esper_audit.probes import dynamo

    network = subject.heated().train()

    def keywords(batch: int, time: int) -> Mapping[str, Any]:
        inputs = subject.inputs(batch, 1 if called.kind == "act" else time)
        return called.keywords(subject, network, inputs)

    unrolled = called.kind == "act" or bool(subject.cores) or "starts" in subject.roles(called.facts).values()
    counts, anew = {}, {}
    with dynamo.compiled(getattr(network, called.facts.name)) as call:
        if call(keywords(*FIRST)) is None:
            raise NotComparable(f"Dynamo compiles nothing of `{called.label}`")
        counts["the first call"] = 1
        for each, sizes in KINDS.items():
            if each == "other lengths" and unrolled:
                continue
            reasons: list[str | None] = []
            for size in sizes:
                rollout = each == "another mode and back" and not reasons
                network.train(not rollout)
                with torch.set_grad_enabled(not rollout):
                    reasons.append(call(keywords(*size)))
            counts[each] = sum(why is not None for why in reasons)
            if (reason := reasons[-1]) is not None:
                anew[each] = reason
    return counts, anew
