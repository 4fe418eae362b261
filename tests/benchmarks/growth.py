"""How the cost of an audit grows with the number of files, cold and warm, on a tree that is made for it.

    python tests/benchmarks/growth.py [--files 100,1000,10000] [--draw docs/speed-growth.png]

Each tree holds packages of fifty files: a network with a base class in another file, a trainer that builds it, a test
that names it, and the rest without torch, as in most repositories. Measured is CPU time, user and system, of whole
processes: once with an empty cache, whose writing is included, and twice with a full one, of which the second counts
(the first still reads anew what is younger than two seconds). Run by hand and never a test.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from speed import CACHE, must_run

NETWORK = """\
import torch
from torch import nn
from package{number:05}.base import Base{number}


class Network{number}(Base{number}):
    def __init__(self, obs_dim, actions):
        super().__init__()
        self.lstm = nn.LSTM(obs_dim, 64)
        self.policy = nn.Linear(64, actions)
        self.value = nn.Linear(64, 1)

    def initial_state(self, batch):
        return torch.zeros(1, batch, 64), torch.zeros(1, batch, 64)

    def forward(self, x, mask, hidden):
        x, hidden = self.lstm(x, hidden)
        logits = self.policy(x).masked_fill(~mask, -1e9)
        return logits, self.value(x), hidden
"""
BASE = "from torch import nn\n\n\nclass Base{number}(nn.Module):\n    def size(self):\n        return 64\n"
TRAINER = """\
import torch
from package{number:05}.network import Network{number}


def train{number}(obs):
    network = torch.compile(Network{number}(8, 4))
    return network(obs, obs > 0, None)
"""
TEST = (
    "from package{number:05}.network import Network{number}\n\n\n"
    "def test_network():\n    assert Network{number}(8, 4)\n"
)
PLAIN = "def function{number}(value):\n    return value + {number}\n" * 20
FILES = {"__init__": "", "network": NETWORK, "base": BASE, "trainer": TRAINER, "test_network": TEST}


def plant(root: Path, files: int) -> None:
    """Write a tree of that many files."""
    (root / "pyproject.toml").write_text("[tool.esper-audit]\n", encoding="utf-8")
    for number in range(files // 50):
        package = root / f"package{number:05}"
        package.mkdir()
        contents = {**FILES, **{f"plain{at}": PLAIN for at in range(45)}}
        for name, text in contents.items():
            (package / f"{name}.py").write_text(text.format(number=number), encoding="utf-8")


def costs(files: int) -> tuple[float, float]:
    """CPU seconds of a cold and of a warm run."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "tree")
        root.mkdir()
        plant(root, files)
        os.environ[CACHE] = str(Path(folder, "cache"))
        command = [sys.executable, "-m", "esper_audit", str(root)]
        cold, _, warm = (must_run(command).seconds for _ in range(3))
        return cold, warm


def draw(rows: list[tuple[int, float, float]], path: str) -> None:
    """The figure of docs/speed.md."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    files, cold, warm = zip(*rows, strict=True)
    axes.plot(files, cold, marker="o", label="cold")
    axes.plot(files, warm, marker="s", label="warm")
    axes.set(xlabel="files", ylabel="CPU seconds", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print a table, draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", default="500,1000,2000,4000,6000,8000,10000", help="how many files each tree holds")
    parser.add_argument("--draw", metavar="FILE", help="draw the figure there")
    options = parser.parse_args()
    rows = []
    print("| files | cold, CPU s | warm, CPU s | cold per 1,000 | warm per 1,000 |\n|---:|---:|---:|---:|---:|")
    for files in map(int, options.files.split(",")):
        cold, warm = costs(files)
        rows.append((files, cold, warm))
        per = 1000 / files
        print(f"| {files:,} | {cold:.2f} | {warm:.2f} | {cold * per:.2f} | {warm * per:.2f} |", flush=True)
    if options.draw:
        draw(rows, options.draw)


if __name__ == "__main__":
    main()
