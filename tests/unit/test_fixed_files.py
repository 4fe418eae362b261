"""Fixes of files put together at random: what comes out compiles, is cured, and holds all the rest byte for byte."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_audit import fixes
from esper_audit.engine import CheckRequest, audit, prepare

# What a fix changes is between bars: before, and after all fixes.
FAULTS = {
    "state": (
        "        self.gru = nn.GRU(4, 8)\n\n"
        "    def init_hidden(self, n):\n"
        "        return torch.zeros((1, n, 8)|| , dtype={w}.dtype, device={w}.device|)\n\n"
        "    def forward(self, x, h):\n"
        "        return self.gru(x, h)\n"
    ).replace("{w}", "self.gru.weight_hh_l0"),
    "mask": (
        "        self.action_head = nn.Linear(4, 2)\n\n"
        "    def act(self, x, mask):\n"
        "        logits = self.action_head(x).masked_fill(~mask, |-1e9|-1e4|)\n"
        "        return Categorical(logits=logits).sample()\n"
    ),
    "dead": (
        "        self.action_head = nn.Linear(4, 2)\n"
        "|        self.dead_{n} = 3 * n\n||"
        "\n"
        "    def forward(self, x):\n"
        "        return self.action_head(x)\n"
    ),
    "comment": (
        "        self.action_head = nn.Linear(4, 2)|  # esper: ignore[ESP602] \N{GREEK SMALL LETTER ALPHA}||\n\n"
        "    def forward(self, x):\n"
        "        return self.action_head(x)  # \N{PILE OF POO} kept\n"
    ),
}
NOISE = [
    'TEXT = """|\n\t\N{EURO SIGN} \\\n  # no comment: esper: ignore[ESP201]\n"""\n',
    "x = (1,\n\t2 ,\n)   ;y = 3\n",
    "def odd( a,*, b = 1 ): # \N{SNOWMAN}\n\treturn (lambda: (yield))\n",
    "\f\n# alone\n\n\n",
    "if True: pass\nelse:\n  pass\n",
]


def pieces_of(text: str) -> tuple[str, str]:
    """Before and after: `|before|after|` stands for a change."""
    parts = text.split("|")
    before = "".join(part for number, part in enumerate(parts) if number % 3 != 2)
    after = "".join(part for number, part in enumerate(parts) if number % 3 != 1)
    return before, after


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, bytes]:
    before = after = "import torch\nfrom torch import nn\nfrom torch.distributions import Categorical\n"
    for number in range(draw(st.integers(1, 4))):
        noise = draw(st.sampled_from(NOISE))
        kind = draw(st.sampled_from(sorted(FAULTS)))
        head = f"class Net{number}(nn.Module):\n    def __init__(self, n):\n        super().__init__()\n"
        old, new = pieces_of(FAULTS[kind].replace("{n}", str(number)).replace("|| , ", "||, "))
        before, after = before + noise + head + old, after + noise + head + new
    newline = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    mark = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    if draw(st.booleans()):
        before, after = before.rstrip("\n"), after.rstrip("\n")
    return tuple(mark + text.replace("\n", newline).encode() for text in (before, after))  # type: ignore[return-value]


@given(files())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_a_fix_does_not_name_stays_byte_for_byte(example: tuple[bytes, bytes]) -> None:
    before, after = example
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.py")
        path.write_bytes(before)
        plan = prepare(CheckRequest(paths=(str(path),), isolated=True))
        outcome = fixes.fix(plan, audit(plan), unsafe=True)
        assert [change.after for change in outcome.changes] == [after]
        assert not any(finding.fix for finding in outcome.report.findings)
        compile(after, "net.py", "exec")
