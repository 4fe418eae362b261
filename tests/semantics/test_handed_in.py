"""What callers pass: tensors that they keep, or copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper_audit.semantics.handed_in import hands_in_copies

from .written import HEADER, Written

NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def act(self, x, mask=None, *, hidden=None):
        return self.layer(x)
"""


@pytest.mark.parametrize(
    ("calls", "name", "copies"),
    [
        ("net.act(obs)", "mask", False),
        ("net.act(obs)\nnet.act(obs, masks[minibatch_ind])", "mask", True),
        ("net.act(obs, mask=masks[indices])", "mask", True),
        ("net.act(obs, masks[step])", "mask", False),
        ("net.act(obs, masks[indices])\nnet.act(obs, masks)", "mask", False),
        ("net.act(*batch)", "mask", False),
        ("net.act(obs, **batch)", "mask", False),
        ("net.act(obs, hidden=states[idx])", "hidden", True),
        ("act(obs, masks[indices])", "mask", False),
    ],
)
def test_a_copy_is_what_indices_pick(calls: str, name: str, copies: bool, tmp_path: Path) -> None:
    written = Written(tmp_path, {"network.py": HEADER + NET, "train.py": f"from network import Net\n\n{calls}\n"})
    net = written.network()
    assert hands_in_copies(net, net.model.methods["act"], name) is copies
