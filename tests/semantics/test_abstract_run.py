"""The abstract run: what is known of a tensor, how far calls are followed, and that every run ends."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from itertools import permutations
from pathlib import Path

import pytest

from esper_audit.semantics.hidden_states import fresh_hidden_states

from .written import HEADER, Written, account, told

TWIN = Path(__file__).parents[1] / "networks" / "twin"


def network(body: str, parameters: str = "x", *, init: str = "pass", more: str = "") -> str:
    """A network with one method of that body, and perhaps more."""
    text = "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    text += textwrap.indent(textwrap.dedent(init), " " * 8) + "\n\n"
    text += f"    def forward(self, {parameters}):\n" + textwrap.indent(textwrap.dedent(body), " " * 8) + "\n\n"
    return HEADER + text + textwrap.indent(textwrap.dedent(more), " " * 4)


def rank_of(tmp_path: Path, source: str) -> int | None:
    return Written(tmp_path, source).frame().result.rank


X = """
    x: Tensor,  # [batch, seq, dim]
    y: Tensor,  # [batch, dim]
    i: int, sizes=None, mask=None, lengths=None"""
LAYERS = """\
self.linear = nn.Linear(4, 4)
self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU())
self.lstm = nn.LSTM(4, 4)
self.cell = nn.GRUCell(4, 4)
self.embed = nn.Embedding(4, 4)
self.flat = nn.Flatten()
"""


# ranks


@pytest.mark.parametrize(
    ("expression", "rank"),
    [
        ("x", 3),
        ("x.unsqueeze(1)", 4),
        ("torch.unsqueeze(x, 1)", 4),
        ("x.squeeze(-1)", 2),
        ("x.squeeze(dim=1)", 2),
        ("x.squeeze()", None),
        ("x.reshape(-1)", 1),
        ("x.reshape(2, -1)", 2),
        ("x.reshape((2, 3, -1, 1))", 4),
        ("x.view(x.shape[0], -1)", 2),
        ("x.view(x.size(0), x.size(1), 2, 2)", 4),
        ("x.view(*sizes)", None),
        ("x.view(sizes)", None),
        ("x.reshape(y.shape)", 2),
        ("x.view_as(y)", 2),
        ("x.flatten()", 1),
        ("x.flatten(1)", 2),
        ("x.flatten(0, 1)", 2),
        ("x.flatten(start_dim=-2)", 2),
        ("torch.flatten(x, 1)", 2),
        ("x.unflatten(0, (2, 2))", 4),
        ("x.expand(4, -1, -1, -1)", 4),
        ("x.repeat(1, 2, 1)", 3),
        ("x.transpose(0, 1)", 3),
        ("x.permute(1, 0, 2)", 3),
        ("x[0]", 2),
        ("x[-1]", 2),
        ("x[i]", 2),
        ("x[:, 0]", 2),
        ("x[:, -1, :]", 2),
        ("x[0, 0]", 1),
        ("x[..., 0]", 2),
        ("x[..., None]", 4),
        ("x[:, None]", 4),
        ("x[None, :, 0]", 3),
        ("x[:, 1:]", 3),
        ("x[:, [0, 1]]", None),
        ("x[mask]", None),
        ("x[lengths]", None),
        ("x[:, 0].unsqueeze(1)", 3),
        ("x + 1", 3),
        ("x + y", 3),
        ("-x", 3),
        ("x > 0", 3),
        ("x.sum()", 0),
        ("x.mean(dim=-1)", 2),
        ("x.sum(-1, keepdim=True)", 3),
        ("x.softmax(-1)", 3),
        ("F.log_softmax(x, dim=-1)", 3),
        ("torch.stack([x, x])", 4),
        ("torch.cat([x, x], dim=-1)", 3),
        ("x.unbind(1)[0]", 2),
        ("x.chunk(2, -1)[1]", 3),
        ("torch.zeros(2, 3)", 2),
        ("torch.zeros((2, 3, 4))", 3),
        ("torch.zeros(sizes)", None),
        ("torch.zeros(x.shape)", 3),
        ("torch.zeros(*x.shape[:-1], 4)", None),
        ("torch.zeros_like(x)", 3),
        ("x.new_zeros(2, 3)", 2),
        ("torch.full((2, 3), 1.0)", 2),
        ("torch.where(x > 0, x, x)", 3),
        ("x.to(torch.float16).clone().detach().contiguous()", 3),
        ("self.linear(x)", 3),
        ("self.body(x)", 3),
        ("self.lstm(x)[0]", 3),
        ("self.lstm(x)[1][0]", 3),
        ("self.cell(y)", 2),
        ("self.embed(x)", 4),
        ("self.flat(x)", None),
        ("unknown(x)", None),
        ("x if i else x[:, 0]", None),
        ("x if i else -x", 3),
    ],
)
def test_the_rank_is_carried_through(expression: str, rank: int | None, tmp_path: Path) -> None:
    assert rank_of(tmp_path, network(f"return {expression}", X, init=LAYERS)) == rank


@pytest.mark.parametrize("expression", ["x.reshape(x.shape[:2])", "torch.zeros(x.shape[:2])", "x.view(x.size()[:-1])"])
def test_a_slice_of_a_shape_is_a_shape(expression: str, tmp_path: Path) -> None:
    assert rank_of(tmp_path, network(f"return {expression}", X)) in (2, None)


@pytest.mark.parametrize(
    ("body", "rank"),
    [
        ("y = unknown()  # [batch, seq]\nreturn y", 2),
        ("b, t, a = x.shape\nreturn x", 3),
        ("assert x.dim() == 4\nreturn x", 4),
        ("if x.ndim != 2:\n    raise ValueError\nreturn x", 2),
        ("if len(x.shape) == 2:\n    x = x.unsqueeze(1)\n    return x\nreturn x.sum()", None),
        ("if x.dim() == 2:\n    return x.unsqueeze(1)\nraise ValueError", 3),
        ("a, (b, c) = torch.zeros(2), (torch.zeros(2, 2), torch.zeros(2, 2, 2))\nreturn c", 3),
        ("parts = {'a': torch.zeros(2, 2)}\nreturn parts['a']", 2),
        ("parts = {}\nparts['a'] = torch.zeros(2, 2)\nreturn parts['a']", 2),
        ("for row in torch.zeros(2, 3):\n    y = row\nreturn y", 1),
        ("rows = [torch.zeros(2) for _ in range(3)]\nreturn torch.stack(rows)", 2),
        ("if (y := torch.zeros(2, 2)) is not None:\n    return y", 2),
        ("with torch.no_grad():\n    y = torch.zeros(2, 2)\nreturn y", 2),
        ("try:\n    y = torch.zeros(2, 2)\nexcept ValueError:\n    raise\nreturn y", 2),
        ("y = torch.zeros(2)\nwhile x:\n    y = torch.zeros(2, 2)\nreturn y", None),
        ("def inner(z):\n    return z.unsqueeze(0)\nreturn inner(torch.zeros(2))", 2),
    ],
)
def test_statements_say_and_change_ranks(body: str, rank: int | None, tmp_path: Path) -> None:
    assert rank_of(tmp_path, network(body)) == rank


@pytest.mark.parametrize(
    ("parameter", "rank"),
    [
        ("x: Tensor,  # [batch, seq]", 2),
        ("x,  # [batch, seq]", 2),
        ("x: Tensor | None = None,  # [batch, seq]", 2),
        ("x: 'Optional[Tensor]' = None,  # [batch, seq]", 2),
        ("x: Tensor,  # [batch, dim] or [batch, 1, dim]", None),
        ("x: Tensor,  # broadcastable to [batch, dim]", None),
        ("x: Float[Tensor, 'b t a'],", 3),
        ("x: Float[Tensor, '*b a'],", None),
        ("x: Tensor,", None),
    ],
)
def test_a_parameter_has_the_rank_that_is_written_beside_it(parameter: str, rank: int | None, tmp_path: Path) -> None:
    source = network("return x", f"\n    {parameter}\n").replace("import torch\n", "from jaxtyping import Float\n", 1)
    assert rank_of(tmp_path, "from typing import Optional\n" + source) == rank


def test_a_docstring_gives_the_rank_of_a_parameter_and_the_comment_has_precedence(tmp_path: Path) -> None:
    body = '"""Score.\n\nArgs:\n    x: [batch, seq, dim]\n    y: [batch, seq, dim]\n"""\nreturn x, y'
    result = Written(tmp_path, network(body, "\n    x: Tensor,\n    y: Tensor,  # [batch, dim]\n")).frame().result
    assert [item.rank for item in result.elements()] == [3, 2]


# dtype and device of fresh hidden states


def open_states(folder: Path, files: dict[str, str] | str, aspect: str) -> int:
    return len(list(fresh_hidden_states(Written(folder, files).network(), aspect)))


def recurrent(body: str) -> str:
    initial = "def get_initial_hidden(self, x, device=None):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    return network("return self.core(x)", init="self.core = nn.GRU(4, 4)", more=initial)


@pytest.mark.parametrize(
    ("body", "dtype", "device"),
    [
        ("return torch.zeros(1, 2, 4)", 1, 1),
        ("return torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)", 2, 2),
        ("return torch.zeros(1, 2, 4, dtype=x.dtype)", 0, 1),
        ("return torch.zeros(1, 2, 4, device=device)", 1, 0),
        ("return torch.zeros(1, 2, 4, device=None)", 1, 1),
        ("return torch.zeros(1, 2, 4, **self.options)", 0, 0),
        ("return torch.zeros(1, 2, 4).to(x)", 0, 0),
        ("return torch.zeros(1, 2, 4).to(device)", 1, 0),
        ("return torch.zeros(1, 2, 4).to('cuda')", 1, 0),
        ("return torch.zeros(1, 2, 4).to(x.device)", 1, 0),
        ("return torch.zeros(1, 2, 4).to(x.dtype)", 0, 1),
        ("return torch.zeros(1, 2, 4).to(torch.float16)", 0, 1),
        ("return torch.zeros(1, 2, 4).to(dtype=x.dtype)", 0, 1),
        ("return torch.zeros(1, 2, 4).to(x.device, x.dtype)", 0, 0),
        ("return torch.zeros(1, 2, 4).type_as(x)", 0, 0),
        ("return torch.zeros(1, 2, 4).half()", 0, 1),
        ("return torch.zeros(1, 2, 4).cuda()", 1, 0),
        ("h = torch.zeros(1, 2, 4)\nh = h.transpose(0, 1).to(x)\nreturn h", 0, 0),
        ("h = torch.zeros(1, 2, 4)\nif x.is_cuda:\n    h = h.cuda()\nreturn h", 1, 0),
        ("h = torch.zeros(1, 2, 4)\nif device is not None:\n    return h.to(device)\nreturn h", 1, 0),
        ("with torch.device('cuda'):\n    return torch.zeros(1, 2, 4)", 1, 0),
        ("return x.new_zeros(1, 2, 4)", 0, 0),
        ("return torch.zeros_like(x)", 0, 0),
        ("return torch.randn(1, 2, 4)", 1, 1),
        ("return tuple(torch.zeros(1, 2, 4) for _ in range(2))", 1, 1),
        ("return {'h': torch.zeros(1, 2, 4)}", 1, 1),
    ],
)
def test_a_fresh_state_is_open_until_something_settles_it(body: str, dtype: int, device: int, tmp_path: Path) -> None:
    source = recurrent(body)
    assert (open_states(tmp_path, source, "dtype"), open_states(tmp_path, source, "device")) == (dtype, device)


CALLER = "import torch\nfrom network import Net\n\ndef train(make, x):\n    net = {0}\n{1}\n"
AT_ONCE = [
    ("hidden = net.get_initial_hidden(x).to('cuda')", 1, 0),
    ("hidden = net.get_initial_hidden(x).to(torch.float16)", 0, 1),
]
LATER = [
    ("hidden = net.get_initial_hidden(x)", 1, 1),
    ("hidden = net.get_initial_hidden(x)\nhidden = hidden.to(x.device, x.dtype)", 0, 0),
    ("hidden = net.get_initial_hidden(x)\nhidden = tuple(part.cuda() for part in hidden)", 1, 0),
    ("hidden = net.get_initial_hidden(x)\nother = torch.zeros(1).cuda()", 1, 1),
    ("torch.set_default_dtype(torch.float16)\nhidden = net.get_initial_hidden(x)", 0, 1),
    ("torch.set_default_device('cuda')\nhidden = net.get_initial_hidden(x)", 1, 0),
]


def left_open_by_caller(folder: Path, builder: str, use: str) -> tuple[int, int]:
    caller = CALLER.format(builder, textwrap.indent(use, " " * 4))
    files = {"network.py": recurrent("return torch.zeros(1, 2, 4)"), "train.py": caller}
    return open_states(folder, files, "dtype"), open_states(folder, files, "device")


@pytest.mark.parametrize(("use", "dtype", "device"), AT_ONCE + LATER)
def test_a_caller_that_builds_the_network_settles_its_state(use: str, dtype: int, device: int, tmp_path: Path) -> None:
    assert left_open_by_caller(tmp_path, "Net()", use) == (dtype, device)


@pytest.mark.parametrize(("use", "dtype", "device"), LATER)
def test_a_caller_that_got_the_network_from_a_builder_settles_its_state(
    use: str, dtype: int, device: int, tmp_path: Path
) -> None:
    assert left_open_by_caller(tmp_path, "make()", use) == (dtype, device)


@pytest.mark.parametrize(("use", "dtype", "device"), AT_ONCE)
def test_such_a_caller_may_move_the_state_at_once(use: str, dtype: int, device: int, tmp_path: Path) -> None:
    assert left_open_by_caller(tmp_path, "make()", use) == (dtype, device)


def test_a_state_given_to_the_core_counts_without_an_initial_state_method(tmp_path: Path) -> None:
    body = "h = torch.zeros(1, 2, 4)\nreturn self.core(x, h)"
    assert open_states(tmp_path, network(body, init="self.core = nn.GRU(4, 4)"), "dtype") == 1


def test_without_a_recurrent_core_nothing_is_a_hidden_state(tmp_path: Path) -> None:
    assert open_states(tmp_path, network("h = torch.zeros(1, 2, 4)\nreturn h"), "dtype") == 0


# calls


FOLLOWED = [
    ("self.lift(x)", "def lift(self, z):\n    return z.unsqueeze(0)"),
    ("self.lift(z=x)", "def lift(self, z):\n    return z.unsqueeze(0)"),
    ("self.lift(x)", "@staticmethod\ndef lift(z):\n    return z.unsqueeze(0)"),
    (
        "self.lift(x)",
        "def lift(self, z, times=1):\n    return self.again(z)\n\ndef again(self, z):\n    return z[None]",
    ),
    ("self.lift(*(x,))", "def lift(self, z):\n    return z.unsqueeze(0)"),
    ("self.wide", "@property\ndef wide(self):\n    return torch.zeros(1, 2, 3, 4)"),
    ("Net.lift(self, x)", "def lift(self, z):\n    return torch.zeros(1, 2, 3, 4)"),
    ("lift(x)", ""),
    ("helpers.lift(x)", ""),
    ("taken(x)", ""),
    ("Box(x).lift()", ""),
    ("Box(x).held.unsqueeze(0)", ""),
    ("super().lift(x)", "def lift(self, z):\n    return z"),
    ("self.from_base(x)", ""),
    ("self.inner(x)", ""),
]


@pytest.mark.parametrize(("expression", "method"), FOLLOWED)
def test_calls_are_followed_with_their_arguments(expression: str, method: str, tmp_path: Path) -> None:
    local = """\
        import helpers
        from helpers import Base, Box, Inner, lift as taken

        def lift(z):
            return z.unsqueeze(0)

        """
    source = network(f"return {expression}", X, init="self.inner = Inner()", more=method)
    source = source.replace("class Net(nn.Module)", textwrap.dedent(local) + "class Net(Base)")
    helpers = """\
        from torch import nn

        def lift(z):
            return z.unsqueeze(0)

        class Box:
            def __init__(self, held):
                self.held = held

            def lift(self):
                return self.held.unsqueeze(0)

        class Base(nn.Module):
            def lift(self, z):
                return z.unsqueeze(0)

            def from_base(self, z):
                return self.lift(z) if False else z.unsqueeze(0)

        class Inner(nn.Module):
            def forward(self, z):
                return z.unsqueeze(0)
        """
    written = Written(tmp_path, {"network.py": source, "helpers.py": helpers})
    assert written.frame().result.rank == 4


BRANCHING = """\
def core(self, z, hidden=None, flat=False):
    if hidden is None:
        z = z.unsqueeze(0)
    if flat:
        return z.flatten()
    return z
"""


@pytest.mark.parametrize(
    ("call", "rank"),
    [
        ("self.core(x)", 4),
        ("self.core(x, None)", 4),
        ("self.core(x, hidden=None)", 4),
        ("self.core(x, torch.zeros(1))", 3),
        ("self.core(x, (torch.zeros(1), torch.zeros(1)))", 3),
        ("self.core(x, unknown())", None),
        ("self.core(x, torch.zeros(1) if i else None)", None),
        ("self.core(x, mask)", None),
        ("self.core(x, None, True)", 1),
        ("self.core(x, None, flat=not True)", None),
        ("self.core(x, None, flat=i)", None),
    ],
)
def test_branches_that_the_arguments_decide_are_pruned(call: str, rank: int | None, tmp_path: Path) -> None:
    assert rank_of(tmp_path, network(f"return {call}", X, more=BRANCHING)) == rank


def test_a_pruned_branch_leaves_no_events(tmp_path: Path) -> None:
    more = "def core(self, mask=None):\n    if mask is not None:\n        return mask.any()\n    return torch.zeros(1)"
    frame = Written(tmp_path, network("return self.core()", more=more)).frame()
    names = [event.name for event, _ in frame.walk() if event.kind == "call"]
    assert sorted(names) == ["core", "torch.zeros"]


def test_a_mask_is_known_by_what_it_does_across_files(tmp_path: Path) -> None:
    files = {
        "network.py": network(
            "return block(self.head(x), action_mask)", "x, action_mask", init="self.head = nn.Linear(4, 4)"
        ).replace("class Net", "from masks import block\n\nclass Net"),
        "masks.py": "from limits import CLOSED\n\ndef block(x, legal):\n    return x.masked_fill(~legal, CLOSED)\n",
        "limits.py": "CLOSED = -1e4\n",
    }
    frame = Written(tmp_path, files).frame()
    masking = next(event for event, _ in frame.walk() if event.kind == "mask")
    assert masking.module.path == tmp_path / "masks.py"
    assert "action_mask" in masking.other.origins
    assert [mark.constant for mark in frame.result.masked] == [-1e4]


def test_recursion_ends(tmp_path: Path) -> None:
    more = "def a(self, z):\n    return self.b(z)\n\ndef b(self, z):\n    return self.a(z) + self(z)"
    assert rank_of(tmp_path, network("return self.a(x)", X, more=more)) is None


def test_nothing_of_the_audited_code_is_executed(tmp_path: Path) -> None:
    source = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n" + network("return x.unsqueeze(0)", X)
    assert rank_of(tmp_path, source) == 4
    assert not (tmp_path / "ran").exists()


# facts do not depend on the order of questions


STATEFUL = (
    HEADER
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.core = nn.GRU(4, 4)
        self.head = nn.Linear(4, 3)
        self.hidden = None

    def act(self, obs, mask=None):
        if self.hidden is None:
            self.hidden = self.init_hidden(obs)
        self.step_count = torch.zeros(1, 1)
        with torch.inference_mode():
            logits, self.hidden = self(obs, mask)
        return logits.argmax(-1)

    def forward(self, obs, mask=None):
        features, hidden = self.core(obs, self.hidden)
        logits = self.block(self.head(features), mask)
        return logits, hidden

    def evaluate_actions(self, obs, actions, mask):
        self.reset()
        logits, _ = self.forward(obs, mask)
        return torch.distributions.Categorical(logits=logits).log_prob(actions), self.step_count

    def init_hidden(self, obs):
        return torch.zeros(1, 2, 4)

    def reset(self):
        self.hidden = torch.zeros(1, 2, 4, dtype=torch.float16)

    def block(self, logits, mask):
        return logits if mask is None else logits.masked_fill(~mask, -1e9)
"""
)
METHODS = ["act", "forward", "evaluate_actions", "init_hidden", "reset"]


def accounts(folder: Path, source: str, order: list[str]) -> dict[str, list[object]]:
    """What each method's run finds when the methods are asked for in that order."""
    flow = Written(folder, source).network().flow
    found = {}
    for name in order:
        frame = flow.frame(name)
        assert frame is not None
        found[name] = account(frame)
    return found


def test_facts_do_not_depend_on_which_method_was_asked_first(tmp_path: Path) -> None:
    first = accounts(tmp_path, STATEFUL, METHODS)
    for order in permutations(METHODS, 5):
        assert accounts(tmp_path, STATEFUL, list(order)) == first


def test_what_another_method_stored_is_not_known(tmp_path: Path) -> None:
    flow = Written(tmp_path, STATEFUL).network().flow
    flow.frame("act")
    assert flow.attribute("step_count") is None
    hidden = flow.attribute("hidden")
    assert hidden is not None
    assert hidden.kind == "none"


CIRCLE = """\
def first(self, x):
    return self.second() if x is None else self.kept

def second(self):
    return self.third(None), self.fourth(torch.zeros(1))

def third(self, x):
    with torch.no_grad():
        return self.first(x)

def fourth(self, x):
    self.kept = x
    return self.first(x), self.kept
"""


def test_facts_of_methods_that_call_each_other_in_circles_depend_on_no_order(tmp_path: Path) -> None:
    source = network("return x", more=CIRCLE)
    alone = accounts(tmp_path, source, ["first"])
    assert accounts(tmp_path, source, ["second", "first"])["first"] == alone["first"]


def test_facts_of_a_real_network_do_not_depend_on_the_order() -> None:
    found: list[dict[str, list[object]]] = []
    order = ["get_initial_hidden", "forward", "get_action", "evaluate_actions"]
    for turn in range(2):
        written = Written(TWIN, {}, marker="")
        flow = written.network("SchedulerActorCritic").flow
        frames = {name: flow.frame(name) for name in (order if turn else reversed(order))}
        found.append({name: account(frame) for name, frame in sorted(frames.items()) if frame is not None})
    assert found[0] == found[1]


def result_when_asked_after(folder: Path, source: str, before: str) -> object:
    flow = Written(folder, source).network().flow
    if before:
        flow.frame(before)
    frame = flow.frame("forward")
    assert frame is not None
    return told(frame.result)


def test_the_depth_of_a_run_does_not_depend_on_what_was_asked_before(tmp_path: Path) -> None:
    chain = [f"def m{n}(self):\n    return self.m{n + 1}()" for n in range(9)] + [
        "def m9(self):\n    return torch.ones(1)"
    ]
    source = network("return self.m0()", more="\n\n".join(chain))
    fresh = result_when_asked_after(tmp_path, source, "")
    assert result_when_asked_after(tmp_path, source, "m4") == fresh


def test_the_budget_of_a_run_does_not_depend_on_what_was_asked_before(tmp_path: Path) -> None:
    long = f"({', '.join(['1'] * 5000)})"
    more = "\n\n".join(f"def {name}(self):\n    {long}\n    return torch.ones(1)" for name in ("one", "two"))
    more += "\n\ndef before(self):\n    return self.one()"
    source = network("self.one()\nself.two()\nreturn torch.ones(1, 1)", more=more)
    fresh = result_when_asked_after(tmp_path, source, "")
    assert result_when_asked_after(tmp_path, source, "before") == fresh


# every run ends


def many_branches() -> str:
    return "\n".join(f"if self.flag_{n}:\n    x = x + {n}\nelse:\n    x = (x, {n})" for n in range(300)) + "\nreturn x"


DOUBLING = {
    "branches": many_branches(),
    "nested-branches": "\n".join("    " * n + f"if self.flag_{n}:" for n in range(80)) + "\n" + "    " * 80 + "x = 1",
    "tuples": "x = (x, x)\n" * 60 + "return x",
    "lists": "x = [x] + [x]\n" * 60 + "return x",
    "sums": "x = [x, x]\n" + "x = x + x\n" * 60 + "return x",
    "dicts": "x = {'a': x, 'b': x}\n" * 60 + "return x",
    "merged-dicts": "x = {**{'a': x}, 'b': x}\n" * 60 + "return x",
    "strings": "x = 'ab'\n" + "x = x + x\n" * 60 + "return x",
    "attributes": "self.kept = x\n" + "self.kept = (self.kept, self.kept)\n" * 60 + "return self.kept",
    "items": "x = {}\n" + "x['a'] = {'a': x, 'b': x}\n" * 60 + "return x",
    "unpacked": "a = b = x\n" + "a, b = (a, b), (b, a)\n" * 60 + "return a",
    "in-place": "x = [x]\n" + "x += x\n" * 60 + "return x",
    "powers": "x = 9\n" + "x = x ** x\n" * 60 + "return x",
    "loops": "".join("    " * n + f"for i{n} in x:\n" for n in range(15)) + "    " * 15 + "x = (x, i0)",
    "helpers": "x = self.pair(x)\n" * 60 + "return x",
    "comprehensions": "x = [x for _ in range(4)]\n" * 40 + "return x",
}
PAIR = "def pair(self, z):\n    return (z, z)\n"


@pytest.mark.parametrize("body", DOUBLING.values(), ids=DOUBLING.keys())
def test_a_run_over_what_doubles_ends(body: str, tmp_path: Path) -> None:
    frame = Written(tmp_path, network(body, more=PAIR)).frame()
    account(frame)


def test_helpers_that_call_each_other_twice_end(tmp_path: Path) -> None:
    more = "\n\n".join(f"def m{n}(self, z):\n    return self.m{n + 1}(z + {n}), self.m{n + 1}(z)" for n in range(40))
    Written(tmp_path, network("return self.m0(x)", more=more)).frame()


def test_a_run_that_is_out_of_budget_knows_nothing_more(tmp_path: Path) -> None:
    assert rank_of(tmp_path, network("x = x + 1\n" * 5000 + "return x", X)) is None


NESTED = "from pathlib import Path\nfrom tests.semantics.written import Written\nWritten(Path({0!r}), {1!r}).frame()\n"


def test_nested_calls_of_a_helper_that_doubles_end(tmp_path: Path) -> None:
    call = "self.pair(" * 30 + "x" + ")" * 30
    script = NESTED.format(str(tmp_path), network(f"return {call}", more=PAIR))
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], timeout=3, check=True)
