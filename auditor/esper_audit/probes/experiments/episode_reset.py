"""An episode start forgets everything before it: h and c.

Experiment: random weights; an episode start in the middle of a sequence, and other observations and another hidden
state before it. Criterion: from the start on nothing moves; without a start it does. Where starts may be None, None
gives what "no start" gives. Pitfalls: a network that takes no episode starts leaves the reset to its caller: not
comparable.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from torch import nn

    from esper_audit.probes.arguments import Inputs
    from esper_audit.probes.contract import MethodFacts
    from esper_audit.probes.subject import Subject


class EpisodeReset(Probe):
    """P-causal of the catalogue, with episode starts."""

    id = "episode-reset"
    claim = "an episode start inside a sequence clears the whole hidden state"
    code, name = "ESP584", "hidden-not-reset"
    category, severity = Category.INTEGRATION, Severity.CRITICAL
    help = "set h and c to 0 before the step at which an episode starts, in act and in evaluate"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m
        from esper_audit.probes.nested import mapped

        role, call = m.sequence_call(subject)
        facts = subject.method(role, "act")
        if not {"starts", "keeps"} & set(subject.roles(facts).values()):
            raise NotComparable(f"`{facts.name}` takes no episode starts: the caller has to reset")
        inputs = subject.inputs()
        if inputs.hidden is None:
            raise NotComparable("the network has no memory")
        network = subject.heated().eval()
        middle = inputs.starts.shape[1] // 2
        moved = m.disturbed(inputs.observations, slice(None), slice(None, middle))
        other = inputs.but(observations=moved, hidden=mapped(inputs.hidden, lambda t: t + 1.0))
        starts = inputs.starts.clone()
        starts[:, middle] = True
        with torch.no_grad():
            reset, kept = (
                m.moved_by(m.seeded(call, network, left), m.seeded(call, network, right), first=middle)
                for left, right in ((inputs.but(starts=starts), other.but(starts=starts)), (inputs, other))
            )
        limit = m.tolerance(subject.dtype) / 10
        if kept <= limit:
            raise NotComparable("without a start the past leaves no trace either")
        if told := _without_starts(subject, facts, network, inputs):
            return judged(passed=reset <= limit and not told, measured=told, method=facts.name)
        measured = f"what came before an episode start moves what comes after it by {reset:.1e} (without it {kept:.1e})"
        return judged(passed=reset <= limit, measured=measured, method=facts.name)


def _without_starts(subject: Subject, facts: MethodFacts, network: nn.Module, inputs: Inputs) -> str:
    """How None in place of starts that are all False changes the result, where the signature allows None."""
    import torch

    from esper_audit.probes import measuring as m

    parameters = inspect.signature(getattr(network, facts.name)).parameters
    names = [name for name, role in subject.roles(facts).items() if role == "starts"]
    if not names or not re.search(r"None|Optional", str(parameters[names[0]])):
        return ""
    kind = "sequence"
    keywords = subject.arguments(network, facts, inputs, kind, score=facts.role != "forward")
    unstarted = {**keywords, names[0]: None}
    with m.without_onednn(), torch.no_grad():
        wanted = m.outputs(m.seeded(lambda n, i: subject.called(n, facts, keywords, i), network, inputs))
        try:
            got = m.outputs(m.seeded(lambda n, i: subject.called(n, facts, unstarted, i), network, inputs))
        except (ValueError, TypeError, AssertionError):
            return ""  # refused on purpose
        except Exception as error:  # noqa: BLE001 - it fails somewhere inside
            return f"no start at all, `{names[0]}=None`, raises {m.sentence(error)}"
    worst = max((m.distance(wanted[name], got.get(name)) for name in wanted), default=0.0)
    if worst <= m.tolerance(subject.dtype):
        return ""
    return (
        f"no start at all gives other results as `{names[0]}=None` than as False everywhere: they differ by {worst:.1e}"
    )
