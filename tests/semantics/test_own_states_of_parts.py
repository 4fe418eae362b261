"""A state that a part keeps beside the one that it is passed."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper_audit.semantics.own_states import IGNORED, KEPT, own_states

from .written import HEADER, Written

NET = """
class Messages(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRUCell(4, 4)
        self.message = None

    def forward(self, x, h):
        m = self.rnn({read}, self.message.reshape(-1, 4))
        self.message = m
        return m
"""


@pytest.mark.parametrize(("read", "how"), [("x", IGNORED), ("x * h", KEPT)])
def test_what_the_core_reads_as_its_input_is_not_replaced(read: str, how: str, tmp_path: Path) -> None:
    net = Written(tmp_path, HEADER + NET.format(read=read)).network("Messages")
    assert [state.how for state in own_states(net)] == [how]
