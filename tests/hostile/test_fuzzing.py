"""Whatever stands in a file, the audit ends, says the same twice, and takes no fall."""

from __future__ import annotations

import ast
import tempfile
from pathlib import Path

import hypothesmith
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_audit import fixes
from esper_audit.engine import CheckRequest, audit, prepare

from .auditing import NETWORK, as_json, assert_survived, audited, audited_in, network


def few(examples: int) -> settings:
    """So many examples and no clock: seconds are no claim."""
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
    )


# --- programs of every kind, with a network behind them


@few(20)
@given(hypothesmith.from_node())
def test_no_program_brings_the_audit_down(program: str) -> None:
    assert_survived(audited({"a.py": f"{program}\n{network()}"}))


@few(10)
@given(hypothesmith.from_grammar())
def test_no_program_of_the_grammar_brings_the_audit_down(program: str) -> None:
    assert_survived(audited({"a.py": f"{program}\n{network()}", "b.py": f"from a import *  # torch\n{program}\n"}))


@few(100)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))))
def test_no_bytes_bring_the_audit_down(data: bytes) -> None:
    assert_survived(audited({"a.py": b"import torch\n" + data}))


# --- fixes between programs of every kind


def test_fixes_between_programs_of_every_kind_change_no_other_line() -> None:
    fixed = []

    @few(20)
    @given(hypothesmith.from_node())
    def fix_between(program: str) -> None:
        source = f"{program}\n" + network("self.left_over = 3", after=f"\n\n{program}\n")
        try:
            compile(source, "a.py", "exec")
        except (SyntaxError, ValueError):
            return  # what stands before decides how the rest is read, as a `return` outside of a function does
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "a.py")
            path.write_bytes(source.encode("utf-8", "surrogatepass"))
            plan = prepare(CheckRequest(paths=(str(path),), isolated=True))
            outcome = fixes.fix(plan, audit(plan), unsafe=True)
        assert_survived(outcome.report)
        for change in outcome.changes:
            compile(change.after, "a.py", "exec")
            assert untouched(change.after) == untouched(change.before)
            fixed.append(change)

    fix_between()
    assert len(fixed) > 5


def untouched(data: bytes) -> list[bytes]:
    """The lines that no fix has any business with."""
    lines = data.splitlines(keepends=True)
    return [line for line in lines if not any(word in line for word in (b"torch.zeros(", b"left_over", b"masked_fill"))]


# --- networks as nobody would write them

names = st.sampled_from(["obs", "mask", "hidden", "x", "logits", "self.head", "self.lstm", "self.a", "torch", "nn"])
numbers = st.sampled_from(["0", "-1", "1e9", "float('-inf')", "torch.finfo(x.dtype).min", "10**400", "None", "'text'"])


def _compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    shapes = [
        "({} + {})", "({} * {})", "{}({})", "{}[{}]", "({}, {})", "[{}, {}]", "{{'a': {}, 'b': {}}}",
        "{}.masked_fill(~{}, -1e9)", "torch.where({}, {}, -1e9)", "torch.zeros({}, {})", "({} if {} else 0)",
        "[x for x in {} if {}]", "(x := ({}, {}))", "(lambda a={}: {})(1)", "{}.view({}, -1)", "nn.Linear({}, {})",
        "torch.distributions.Categorical(logits={}, probs={})", "{}.unsqueeze({})", "f(*{}, **{})", "f'{{{}}} {{{}}}'",
        "({} or {})", "({} < {} < 1)", "[self.y := {} for _ in {}]", "torch.cat([{}, {}], -1)", "{}.clamp(min={})",
    ]  # fmt: skip
    return st.builds(lambda shape, a, b: shape.format(a, b), st.sampled_from(shapes), inner, inner)


expressions = st.recursive(names | numbers, _compound, max_leaves=6)


def _block(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for text in lines for line in text.split("\n"))


def _compound_statement(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    heads = [
        "if {}:", "while {}:", "for x in {}:", "with torch.no_grad():", "with torch.inference_mode(), {} as x:",
        "def act(self, obs, mask={}, *args, **kwargs):", "async def f(x={}):", "class Inner(nn.Module):",
        "try:\n    pass\nexcept* ValueError:" , "try:\n    pass\nfinally:", "match {}:\n    case [x, *_] | {{'a': x}}:",
        "@torch.compile\n@property\ndef forward(self, obs):", "for self.a, *self.b in {}:",
        "class A(A, nn.Module, x={}):",
    ]  # fmt: skip
    return st.builds(
        lambda head, value, lines: (
            head.format(value)
            + "\n"
            + _block([f"    {line}" if "case" in head else line for text in lines for line in text.split("\n")])
        ),
        st.sampled_from(heads),
        expressions,
        st.lists(inner, min_size=1, max_size=3),
    )


simple = st.one_of(
    st.builds("{} = {}".format, names, expressions),
    st.builds("self.a, *self.b = {}".format, expressions),
    st.builds("{} += {}".format, names, expressions),
    st.builds("return {}".format, expressions),
    st.builds("yield {}".format, expressions),
    st.builds("assert {}, 'because'".format, expressions),
    st.sampled_from(
        ["pass", "global x", "nonlocal x", "del x", "import torch as nn", "raise", "break", "x: 'int' = 1"]
    ),
)
statements = st.recursive(simple, _compound_statement, max_leaves=5)


@few(80)
@given(st.lists(statements, min_size=1, max_size=6), st.lists(statements, max_size=2))
def test_no_network_brings_the_audit_down_and_twice_is_the_same(inside: list[str], around: list[str]) -> None:
    body = "\n".join("        " + line for text in inside for line in text.split("\n")).lstrip()
    source = network(body, before="\n".join(around) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        first = audited_in(Path(folder), {"a.py": source})
        assert_survived(first)
        assert as_json(audited_in(Path(folder), {"a.py": source})) == as_json(first)


# --- single oddities

ODD_SOURCES: dict[str, dict[str, str | bytes]] = {
    "classes that inherit from each other across files": {
        "a.py": "import torch\nfrom b import B\nclass A(B):\n    pass\n",
        "b.py": "import torch\nfrom a import A\nclass B(A):\n    pass\n",
    },
    "a class that is its own base": {"a.py": network(after="\nX = Policy\nclass Policy(X, nn.Module):\n    pass\n")},
    "aliases in a circle": {"a.py": "import torch\nA = B\nB = C\nC = A\nclass D(A):\n    pass\n"},
    "bodies of classes with conditions": {
        "a.py": network(
            after="    if torch.cuda:\n        def act(self): return self.head\n    else:\n        act = 1\n"
        )
    },
    "unicode names": {"a.py": network("größe = ℌ = obs; ﬁ = fi = größe")},
    "form feeds and tabs": {"a.py": network().replace("    ", "\t").replace("\n\n", "\n\x0c\n")},
    "CRLF": {"a.py": network().replace("\n", "\r\n")},
    "lone carriage returns": {"a.py": network().replace("\n", "\r")},
    "mixed line ends": {"a.py": network().replace("):\n", "):\r\n").replace("\n\n", "\r\n")},
    "byte order mark": {"a.py": b"\xef\xbb\xbf" + network().encode()},
    "byte order mark against cookie": {"a.py": b"\xef\xbb\xbf# coding: latin-1\n" + network().encode()},
    "latin-1": {"a.py": b"# coding: latin-1\nname = '\xe9'\n" + network().encode()},
    "utf-7": {"a.py": b"# coding: utf-7\nname = '+AGE-'\n" + network().encode()},
    "utf-16 in name only": {"a.py": b"# coding: utf-16\n" + network().encode()},
    "a codec that gives no text": {"a.py": b"# coding: hex\n" + network().encode()},
    "unknown coding": {"a.py": b"# coding: klingon\n" + network().encode()},
    "null bytes": {"a.py": network().encode() + b"\0"},
    "wrong utf-8": {"a.py": network().encode() + b"x = '\xed\xa0\x80'\n"},
    "no last newline": {"a.py": network().rstrip()},
    "a backslash at the end": {"a.py": network() + "\\"},
    "type parameters": {
        "a.py": network(after="\nclass G[T: int](nn.Module):\n    def f[U](self): pass\ntype X = int\n")
    },
    "try-star": {"a.py": network("try: pass\n        except* OSError: hidden = None")},
    "a number without end": {"a.py": network(mask=f"-0x{'f' * 5000}")},
    "a number of ten thousand digits": {"a.py": network(mask="-" + "9" * 10_000)},
    "a call on a number without end": {"a.py": f"X = f[0x{'f' * 5000}](len)\n" + network("X(obs)", mask="X")},
    "arithmetic without end": {"a.py": network("9 ** 9 ** 9 ** 9; 1 << 10 ** 10; 'a' * 10 ** 10; [0] * 10 ** 10")},
    "a statement that libcst refuses, although Python takes it": {"a.py": network(before="(pars): int = 1\n")},
    "an empty class in an empty class": {
        "a.py": "import torch\n" + "".join(" " * i + f"class C{i}:\n" for i in range(90))
    },
}


@pytest.mark.parametrize("files", ODD_SOURCES.values(), ids=ODD_SOURCES)
def test_odd_sources_are_audited_or_refused(files: dict[str, str | bytes]) -> None:
    report = audited(files)
    assert_survived(report)
    for file in report.files:
        assert file.status in ("audited", "unparsable")
        assert "\n" not in file.error


# --- what would take forever if it were computed the obvious way; each took more than half a minute once

ENDLESS: dict[str, dict[str, str | bytes]] = {
    "constants that double": {
        "a.py": network(
            before="".join(f"K{i} = {' + '.join([f'K{i + 1}'] * 30)}\n" for i in range(12)) + "K12 = 1\n", mask="K0"
        )
    },
    "a variable squared again and again": {
        "a.py": network("d = 2\n" + "        d = d * d\n" * 60 + "        obs = obs.view(d)")
    },
    "products of a huge constant": {
        "a.py": network(
            before=f"A = 0x{'f' * 200_000}\nB = {' * '.join('A' * 9)}\nC = {' * '.join('B' * 9)}\n", mask="C"
        )
    },
    "files that import everything from each other": {
        f"m{i}.py": "".join(f"from m{j} import *\n" for j in range(14) if j != i)
        + (network("nowhere(obs)") if i == 0 else "import torch\nclass B(Nowhere): pass\n")
        for i in range(14)
    },
    "calls that double": {
        "a.py": network("self.m0(obs)")
        + "".join(
            f"    def m{i}(self, x):\n        return {' + '.join([f'self.m{i + 1}(x)'] * 6)}\n" for i in range(10)
        )
        + "    def m10(self, x): return x\n"
    },
    "an index behind an index": {"a.py": network("obs" + "[0]" * 3000)},
    "an attribute of an attribute": {"a.py": network("obs" + ".a" * 3000)},
    "not not not": {"a.py": network("not " * 3000 + "obs")},
    "a chain of ors": {"a.py": network("a or " * 20_000 + "obs")},
    "an expression of ten thousand lines": {"a.py": network("(\n" + "1 +\n" * 10_000 + "1)")},
    "types that hold themselves": {
        "a.py": "from __future__ import annotations\n"
        + network(
            before="Deep = tuple['Deep', ...] | list['Deep'] | dict[str, 'Deep'] | tuple['Deep', 'Deep'] | int\n"
        ).replace("obs, mask=None", "obs: Deep, mask: Deep = None")
    },
    "types that double": {
        "a.py": network(
            before="T0 = int\n" + "".join(f"T{i} = tuple[T{i - 1}, T{i - 1}]\n" for i in range(1, 60))
        ).replace("obs, mask", "obs: T59, mask")
    },
    "containers that double": {"a.py": network("d = (obs, obs)\n" + "        d = d + d\n" * 60 + "        return d")},
    "diamonds of bases": {
        "a.py": "from torch import nn\nclass A0(nn.Module): pass\nclass B0(nn.Module): pass\n"
        + "".join(f"class A{i}(A{i - 1}, B{i - 1}): pass\nclass B{i}(A{i - 1}, B{i - 1}): pass\n" for i in range(1, 60))
    },
}


@pytest.mark.parametrize("files", ENDLESS.values(), ids=ENDLESS)
def test_what_grows_without_end_is_cut_off(files: dict[str, str | bytes]) -> None:
    assert_survived(audited(files))


def test_generated_networks_are_python_often_enough_to_mean_something() -> None:
    parsed = []

    @few(60)
    @given(statements)
    def parse(text: str) -> None:
        source = NETWORK.replace("MASK", "1").replace("BODY", text.replace("\n", "\n        "))
        try:
            ast.parse(source)
        except SyntaxError:
            return
        parsed.append(source)

    parse()
    assert len(parsed) > 20
