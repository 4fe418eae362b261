"""What the flow knows of networks behind torch.compile and DistributedDataParallel, and of their state dicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper_audit.semantics.compilation import compiled_methods

from .written import HEADER, Written

NETWORK = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(x)

    def act(self, x):
        return self.head(x)

"""


@pytest.mark.parametrize(
    ("statement", "covered"),
    [
        ("torch.compile(Net())", {"forward"}),
        ("torch.compile(model=Net())", {"forward"}),
        ("Net().compile()", {"forward"}),
        ("torch.compile(Net().act)", {"act"}),
        ("torch.compile(nn.parallel.DistributedDataParallel(Net()))", {"forward"}),
        ("torch.compile(print)", set()),
    ],
)
def test_what_a_compile_call_covers(statement: str, covered: set[str], tmp_path: Path) -> None:
    written = Written(tmp_path, f"{HEADER}{NETWORK}def main():\n    net = {statement}\n    return net\n")
    assert set(compiled_methods(written.network())) == covered
