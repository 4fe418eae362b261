"""Each method is one graph for torch.compile.

Experiment: compile forward, act and evaluate with a backend that compiles nothing, with `nn.LSTM` allowed (Dynamo
refuses it otherwise, and sees nothing else), and read Dynamo's own log. Criterion: one graph and no break. Pitfalls:
it only costs speed, and only where somebody compiles the method; `dynamo.explain` counts no break where a frame is
given up.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import COMPILE, Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from esper_audit.probes.subject import Subject

_PLACE = re.compile(r"Graph [Bb]reak.* in user code at (.+):(\d+)")


class GraphBreaks(Probe):
    """P-compile of the catalogue."""

    id = "graph-breaks"
    claim = "torch.compile captures each method in one graph, nn.LSTM allowed"
    code, name = "ESP102", "disabled-function-in-hot-path"
    category, severity = Category.COMPILE, Severity.MEDIUM
    help = "take what Dynamo cannot trace out of the method"
    group = COMPILE
    convicts = False  # nobody said that the method is compiled

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        from esper_audit.probes import dynamo
        from esper_audit.probes import measuring as m

        seen, broken, blamed = [], False, ""
        for name, keywords in dynamo.calls(subject):
            graphs, breaks, failed = dynamo.traced(getattr(subject.network, name), keywords)
            places = [f"{Path(found[1]).name}:{found[2]}" for text in breaks if (found := _PLACE.search(text))]
            text = f"`{name}` {graphs} graph{'s' * (graphs != 1)}, {len(breaks)} break{'s' * (len(breaks) != 1)}"
            if places:
                text += f" ({m.listed(dict.fromkeys(places), 3)})"
            if failed:
                text += f", then {failed}"
            seen.append(text)
            if graphs != 1 or breaks or failed:
                broken, blamed = True, blamed or name
        if not seen:
            raise NotComparable("no method could be called")
        return judged(passed=not broken, measured="; ".join(seen), method=blamed)
