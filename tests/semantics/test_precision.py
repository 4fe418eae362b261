"""Whether a project shows that the parameters of a network can be other than float32."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper_audit.semantics.precision import other_precision

from .written import HEADER, Written

NET = """
class Net(nn.Module):
    def __init__(self, size{parameter}):
        super().__init__()
        self.gru = nn.GRU(4, size{given})

    def forward(self, x):
        {body}
"""


def net(parameter: str = "", given: str = "", body: str = "return self.gru(x)") -> str:
    return HEADER + NET.format(parameter=parameter, given=given, body=body)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (net(), False),
        (net(parameter=", dtype=None"), True),
        (net(parameter=", *, dtype=None"), True),
        (net(given=", dtype=torch.float64"), True),
        (net(body="return self.gru(x.to(self.gru.weight_hh_l0.dtype))"), True),
        (net(body="return self.gru(x.to(next(self.parameters()).dtype))"), True),
        (net(body="return self.gru(torch.as_tensor(x, dtype=torch.float32).to(x.dtype))"), False),
    ],
)
def test_the_class_itself_may_speak_of_its_dtype(source: str, shown: bool, tmp_path: Path) -> None:
    assert other_precision(Written(tmp_path, source).network()) is shown


@pytest.mark.parametrize(
    ("use", "shown"),
    [
        ("net = Net(4)", False),
        ("net = Net(4).half()", True),
        ("net = Net(4).to(device).to(torch.bfloat16)", True),
        ("x = nn.Linear(4, 4).double()", True),
        ("player = Net(4)\nplayer = player.to(device, dtype=torch.float16)", True),
        ("player.bfloat16()", True),
        ("self.policy.to(dtype)", True),
        ("self.policy.to(device)", False),
        ("self.policy.to(torch.float32)", False),
        ("rewards = rewards.double()\nx = x.to(torch.float64)", False),
        ("x = torch.zeros(3, dtype=torch.float64).double()", False),
        ("x = names[0].half(1)\nself.policy.half", False),
        ("with torch.autocast('cuda'):\n    pass", False),
        ("with autocast(enabled=flag):\n    pass", False),
        ("torch.set_default_dtype(torch.float64)", True),
        ("torch.set_default_dtype(torch.float32)", False),
        ("trainer = Trainer(precision='16-mixed')", False),
    ],
)
def test_the_project_may_cast_it(use: str, shown: bool, tmp_path: Path) -> None:
    caller = f"import torch\nfrom torch import nn\nfrom network import Net\n\n{use}\n"
    written = Written(tmp_path, {"network.py": net(), "train.py": caller})
    assert other_precision(written.network()) is shown


def test_what_only_tests_cast_is_not_shown(tmp_path: Path) -> None:
    test = "from network import Net\n\nNet(4).half()\n"
    assert not other_precision(Written(tmp_path, {"network.py": net(), "tests/test_net.py": test}).network())


def test_a_project_that_cannot_be_looked_through_shows_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esper_audit.semantics.project.MAX_FILES", 0)
    written = Written(tmp_path, {"network.py": net(), "train.py": "model.half()\n"})
    assert not other_precision(written.network())
