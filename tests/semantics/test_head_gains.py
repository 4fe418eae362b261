"""With which gain a constructor leaves the last layer of a policy head, and which quarter of a bias it writes to."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from esper_audit.semantics.head_gains import head_gains
from esper_audit.semantics.lstm_bias import gate_bias_writes

from .written import HEADER, Written

HELPERS = """
import math
from functools import partial

def layer_init(layer, std=math.sqrt(2)):
    nn.init.orthogonal_(layer.weight, std)
    return layer

def last(head):
    return head[-1]

class Net(nn.Module):
    def __init__(self, n, gain=0.5, scheme="orthogonal"):
        super().__init__()
        self.body = layer_init(nn.Linear(4, 8))
        self.action_head = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, n))
        self.value_head = nn.Linear(8, 1)
{init}

    def _fill(self, m, gain=1.0):
        if isinstance(m, (nn.Linear, nn.Conv2d)):
            nn.init.orthogonal_(m.weight, gain=gain)

    def act(self, x):
        return torch.distributions.Categorical(logits=self.action_head(self.body(x))).sample()
"""


@pytest.mark.parametrize(
    ("init", "left"),
    [
        ("pass", ("default", None)),
        ("nn.init.orthogonal_(self.action_head[-1].weight, 0.01)", ("own", 0.01)),
        ("nn.init.orthogonal_(self.action_head[-1].weight)", ("own", 1.0)),
        ("nn.init.orthogonal_(last(self.action_head).weight, gain=2**0.5)", ("own", 2**0.5)),
        ("nn.init.orthogonal_(self.action_head[0].weight, 1.0)", ("default", None)),
        ("nn.init.orthogonal_(self.value_head.weight, 1.0)", ("default", None)),
        ("nn.init.orthogonal_(self.action_head[-1].weight, gain)", None),
        ("self.apply(self._fill)", ("shared", 1.0)),
        ("self.action_head.apply(partial(self._fill, gain=0.01))", ("own", 0.01)),
        ("for head, g in {{self.action_head: 0.01, self.body: 1}}.items(): head.apply(partial(self._fill, gain=g))",
         ("own", 0.01)),
        ("for m in self.modules():\n    if isinstance(m, nn.Linear):\n        nn.init.orthogonal_(m.weight, 1.4)",
         ("shared", 1.4)),
        ("for m in self.modules():\n    if isinstance(m, nn.LSTM):\n        nn.init.orthogonal_(m.weight, 1.4)",
         ("default", None)),
        ("self.apply(self._fill)\nself.action_head[-1].weight.data.mul_(0.01)", None),
        ("self.apply(elsewhere)", None),
        ("if scheme == 'orthogonal':\n    nn.init.orthogonal_(self.action_head[-1].weight, 1.0)", None),
        ("self.apply(self._fill)\nself.action_head[-1].reset_parameters()", ("default", None)),
        ("nn.init.xavier_uniform_(self.action_head[-1].weight, gain=0.01)", None),
    ],
)  # fmt: skip
def test_a_constructor_leaves_a_gain_in_the_last_layer(
    init: str, left: tuple[str, float | None] | None, tmp_path: Path
) -> None:
    init = init.replace("{{", "{").replace("}}", "}")
    source = HEADER + HELPERS.replace("{init}", textwrap.indent(init, " " * 8))
    found = [(gain.how, gain.gain.value) for gain in head_gains(Written(tmp_path, source).network())]
    assert found == ([left] if left is not None else [])


@pytest.mark.parametrize(
    ("piece", "gate"),
    [
        ("[n // 4 : n // 2]", 1),
        ("[h : 2 * h]", 1),
        ("[: n // 4]", 0),
        ("[n // 2 : 3 * n // 4]", 2),
        ("[n // 2 : n // 4 * 3]", 2),
        ("[2 * h : 3 * h]", 2),
        ("[3 * n // 4 :]", 3),
        ("[h * 3 : h * 4]", 3),
        ("[64:128]", 1),
        ("[128:192]", 2),
        (".chunk(4)[0]", 0),
        (".view(4, -1)[3]", 3),
        ("[h:]", None),
        ("[n // 4 : 3 * n // 4]", None),
        ("[0:64]", None),
        ("[100:164]", None),
        (".chunk(3)[1]", None),
    ],
)
def test_a_slice_of_a_bias_is_one_gate(piece: str, gate: int | None, tmp_path: Path) -> None:
    source = f"""{HEADER}class Net(nn.Module):
    def __init__(self, n, h):
        super().__init__()
        self.lstm = nn.LSTM(4, h)
        self.lstm.bias_ih_l0.data{piece}.fill_(1.0)
"""
    (writes,) = gate_bias_writes(Written(tmp_path, source).network())
    assert [write.gate for write in writes] == ([gate] if gate is not None else [])
