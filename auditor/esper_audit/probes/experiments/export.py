"""The network can be exported and pickled, and computes the same afterwards.

Experiment: `torch.export.export` of `forward`, or of act where there is none, and a call of what comes out; `pickle` of
the whole network after a forward, and a call of what is loaded. Criterion: neither raises, and the outputs are the
same. Tolerance: 1e-4 in float32, 1e-9 in float64, 0.1 in bfloat16, 0.02 in float16 for the exported program, whose
operators may be other ones; none for the pickled network. Cost: a second. Pitfalls: classes inside functions cannot be
pickled wherever they are, and then nothing is said about pickling; a method that samples is not compared once it is
exported; the validation of `torch.distributions` cannot be exported, and is off meanwhile. Whether any of it matters
depends on who deploys the network.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import COMPILE, Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from torch import nn

    from esper_audit.probes.measuring import Called
    from esper_audit.probes.subject import Subject


class Export(Probe):
    """`torch.export` and `pickle`."""

    id = "export"
    claim = "the network can be exported and pickled, and computes the same afterwards"
    code, name = "ESP182", "not-exportable"
    category, severity = Category.COMPILE, Severity.LOW
    help = "return tensors, decide by shapes and not by values, and keep no lambda and no handle on `self`"
    group = COMPILE
    convicts = False  # nobody said that the network is exported

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        called, keywords = _callable(subject)
        network = subject.heated().eval()
        exported, fails = _exported(network, called, keywords, compare=_is_steady(subject, called))
        told, broken = [exported], fails
        if any("<locals>" in type(module).__qualname__ for module in network.modules()):
            told.append("not pickled: a class is defined inside a function")
        else:
            pickled, fails = _pickled(network, called, keywords)
            told.append(pickled)
            broken |= fails
        return judged(passed=not broken, measured="; ".join(told), method=called.facts.name)


def _callable(subject: Subject) -> tuple[Called, dict[str, Any]]:
    """What is exported, with arguments that it answers to."""
    from esper_audit.probes import measuring as m
    from esper_audit.probes.arguments import unmasked

    why = "the network has neither forward nor act"
    for role, kind, time in (("forward", "sequence", 3), ("act", "act", 1)):
        if subject.has(role):
            called = m.Called(subject.method(role).name, subject.method(role), kind)
            try:
                return called, called.keywords(subject, subject.network, unmasked(subject.inputs(time=time)))
            except NotComparable as reason:
                why = str(reason)
    raise NotComparable(why)


def _is_steady(subject: Subject, called: Called) -> bool:
    """Whether two calls give the same, so that there is something to compare."""
    from esper_audit.probes import measuring as m

    try:
        m.steady(subject, called.facts.role)
    except Exception:  # noqa: BLE001 - it may also refuse the inputs that are tried
        return False
    return called.kind != "act"


def _exported(network: nn.Module, called: Called, keywords: dict[str, Any], *, compare: bool) -> tuple[str, bool]:
    """What came of exporting, and whether that breaks the claim."""
    import torch
    from torch import nn

    from esper_audit.probes import measuring as m

    class Method(nn.Module):
        """A method as the forward of a module, which is all that can be exported."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, **given: Any) -> Any:
            return getattr(self.network, called.facts.name)(**given)

    module = network if called.facts.name == "forward" else Method()
    with torch.no_grad(), m.without_onednn(), m.validation(on=False):
        before = module(**copy.deepcopy(keywords))
        try:
            program = torch.export.export(module, (), kwargs=keywords, strict=False)
            after = program.module()(**keywords)
        except Exception as error:  # noqa: BLE001 - the finding itself
            return f"exporting `{called.label}` raises {m.sentence(error, 100)}", True
    nodes = f"`{called.label}` exported, {len(program.graph.nodes)} nodes"
    if not compare:
        return nodes, False
    differs = _difference(before, after)
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    return f"{nodes}, outputs differ by {differs:.0e}", differs > m.tolerance(dtype)


def _pickled(network: nn.Module, called: Called, keywords: dict[str, Any]) -> tuple[str, bool]:
    """What came of pickling, and whether that breaks the claim."""
    import pickle

    import torch

    from esper_audit.probes import measuring as m

    def call(each: nn.Module) -> Any:
        with torch.no_grad(), m.without_onednn(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            return (each if called.facts.name == "forward" else getattr(each, called.facts.name))(**keywords)

    before = call(network)
    try:
        loaded = pickle.loads(pickle.dumps(network))  # noqa: S301 - what was written a moment ago
    except Exception as error:  # noqa: BLE001 - the finding itself
        return f"pickling raises {m.sentence(error, 100)}", True
    differs = _difference(before, call(loaded))
    return f"pickled, outputs differ by {differs:.0e}", differs > 0


def _difference(left: Any, right: Any) -> float:
    """The largest difference between the tensors of two results."""
    from esper_audit.probes import measuring as m
    from esper_audit.probes.nested import leaves

    pairs = zip(leaves(left), leaves(right), strict=True)
    return max((m.distance(one, other) for one, other in pairs), default=0.0)
