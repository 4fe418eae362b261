"""What a tensor certainly is: a linear layer's output, a softmax's, or nothing of the kind where branches differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from .written import HEADER, Written

INIT = """
        self.head = nn.Linear(4, 4)
        self.gate = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())
        self.drop = nn.Dropout(0.1)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("mean", torch.zeros(4))
        self.alike = nn.ModuleList([nn.Linear(4, n) for n in (2, 3)])
        self.various = nn.ModuleList([nn.Linear(4, 4), nn.Softmax(-1)])
        self.named = nn.ModuleDict({name: nn.Linear(4, 4) for name in "ab"})
        self.added = nn.ModuleList()
        for _ in range(2):
            self.added.append(nn.Linear(4, 4))
        self.unknown = nn.ModuleList(make())
"""


@pytest.mark.parametrize(
    ("body", "tags"),
    [
        ("return self.head(x)", {"affine"}),
        ("return self.head(x).unsqueeze(0)[0] / 2.0", {"affine"}),
        ("return self.head(x).masked_fill(mask, -1e9)", {"affine"}),
        ("return self.head(x).exp()", set()),
        ("return self.head(x).clamp(min=0.1)", set()),
        ("y = self.head(x)\n        y.exp_()\n        return y", set()),
        ("return self.head(x).softmax(-1)", {"squashed"}),
        ("return self.gate(x)", {"squashed"}),
        ("return self.head(x).softmax(-1) if flag else self.head(x)", set()),
        ("return self.head(x) if flag else self.head(-x)", {"affine"}),
        ("return self.head(x) * mask", {"times_mask"}),
        ("return (self.head(x) * mask).masked_fill(mask, -1e9)", set()),
        ("return self.head(x).softmax(-1) * mask + 1e-8", {"p_times_mask"}),
        ("return self.head(self.drop(x))", {"affine", "dropped"}),
        ("return self.head(self.norm(x)).exp()", {"batch_mixed"}),
        ("return torch.cat([self.drop(x), x], -1)", {"dropped"}),
        ("return x.float() - x.mean(0)", {"batch_mixed"}),
        ("return x.float() - x.mean((0, 1), keepdim=True)", {"batch_mixed"}),
        ("return x.float() - x.mean((1, 2), keepdim=True)", set()),
        ("return F.batch_norm(x, None, None, training=True)", {"batch_mixed"}),
        ("return F.batch_norm(x, self.mean, None)", set()),
        ("return F.gelu(self.drop(x))", {"dropped"}),
        ("self.mean.mul_(0.9).add_(0.1 * x.mean(0))\n        return x.float() - self.mean", {"batch_mixed"}),
        ("self.mean = 0.9 * self.mean + 0.1 * x.mean(0)\n        return x.float() - self.mean", {"batch_mixed"}),
        ("return x.float() - self.mean", set()),
        ("return self.alike[flag](x)", {"affine"}),
        ("return [head(x) for head in self.alike][0]", {"affine"}),
        ("return [head(x) for _, head in zip(x, self.alike)][0]", {"affine"}),
        ("return self.various[0](x)", {"affine"}),
        ("return self.various[-1](x)", {"squashed"}),
        ("return self.various[flag](x)", set()),
        ("return self.named['a'](x)", {"affine"}),
        ("return {name: head(x) for name, head in self.named.items()}['a']", {"affine"}),
        ("return [head(x) for head in self.named.values()][0]", {"affine"}),
        ("return self.added[flag](x)", {"affine"}),
        ("return [head(x) for head in self.unknown][0]", set()),
        ("return functools.partial(torch.softmax, dim=-1)(self.head(x))", {"squashed"}),
    ],
)
def test_what_an_expression_certainly_gives(body: str, tags: set[str], tmp_path: Path) -> None:
    source = (
        f"import functools\n{HEADER}class Net(nn.Module):\n    def __init__(self):\n        super().__init__(){INIT}\n"
    )
    source += f"    def forward(self, x, mask, flag):\n        {body}\n"
    certain = {"affine", "squashed", "times_mask", "p_times_mask", "dropped", "batch_mixed"}
    assert Written(tmp_path, source).frame().result.tags & certain == tags


@pytest.mark.parametrize(
    ("masking", "fills_true"),
    [
        ("logits.masked_fill(mask, -1e9)", True),
        ("logits.masked_fill(~mask, -1e9)", False),
        ("logits.masked_fill(mask == 0, -1e9)", False),
        ("torch.where(mask, logits, -1e9)", False),
        ("torch.where(mask, -1e9, logits)", True),
        ("logits + (1 - mask) * -1e9", False),
        ("logits + (mask - 1) * 1e9", False),
        ("logits + mask * -1e9", True),
        ("logits + torch.log(mask)", False),
        ("logits.masked_fill(mask if flag else ~mask, -1e9)", None),
    ],
)
def test_where_a_masking_step_fills(masking: str, fills_true: bool | None, tmp_path: Path) -> None:
    source = f"{HEADER}class Net(nn.Module):\n    def forward(self, logits, mask, flag):\n        return {masking}\n"
    frame = Written(tmp_path, source).frame()
    assert [event.fills_true for event, _ in frame.walk() if event.kind == "mask"] == [fills_true]
