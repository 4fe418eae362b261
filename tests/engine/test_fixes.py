"""A fix stays only when it cures: what does not, or does harm, is taken back, and the others stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from esper_audit import fixes
from esper_audit.engine import CheckRequest, prepare

from .toy_auditor import TOY_RULES, ToyAuditor, Workbench

HEAD = "import torch\nfrom torch import nn\nclass Net(nn.Module):\n"


def make(rules: Sequence[Any], display: Callable[[Path], str], roles: Mapping[str, str]) -> ToyAuditor:
    return ToyAuditor(rules, display, roles)


def mended(bench: Workbench, *, unsafe: bool = False) -> fixes.Outcome:
    """The fixes of the files, made in memory."""
    report = bench.audit("net.py")
    plan = bench.plan
    assert plan is not None
    return fixes.fix(plan, report, unsafe=unsafe, auditor=make)


def texts(outcome: fixes.Outcome) -> dict[str, str]:
    return {change.target.display: change.after.decode().removeprefix(HEAD) for change in outcome.changes}


def test_a_fix_that_cures_stays(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201 fix [    x = 2]\n")
    outcome = mended(bench)
    assert texts(outcome) == {"net.py": "    x = 2\n"}
    assert (outcome.fixed, outcome.more, outcome.notes, outcome.report.findings) == (1, 0, (), ())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("    x = 2  # <- ESP201", "ESP201 would still be there"),
        ("    x = 2  # <- ESP301", "ESP301 would come up in net.py"),
        ("    x = (", "the file would not compile"),
        ("    return 2", "the file would not compile"),
    ],
)
def test_a_fix_that_does_harm_is_taken_back_and_the_others_stand(bench: Workbench, text: str, why: str) -> None:
    bench.network(f"    a = 1  # <- ESP202 fix [    a = 2]\n    x = 1  # <- ESP201 fix [{text}]\n    b = 1\n")
    outcome = mended(bench)
    assert texts(outcome) == {"net.py": f"    a = 2\n    x = 1  # <- ESP201 fix [{text}]\n    b = 1\n"}
    assert outcome.notes == (f"net.py:5: the fix of ESP201 was taken back: {why}",)
    assert outcome.fixed == 1


def test_fixes_that_overlap_are_not_made_together(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201 fix [    x = 2]  # <- ESP202 fix [    x = 3]\n")
    outcome = mended(bench)
    assert texts(outcome) == {"net.py": "    x = 2\n"}
    assert outcome.fixed == 2  # one fix has cured both


def test_unsafe_fixes_wait_until_they_are_asked_for(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201 unsafe [    x = 2]\n")
    waiting = mended(bench)
    assert (waiting.changes, waiting.more) == ((), 1)
    assert fixes.summary(waiting, written=True) == "nothing to fix safely, 1 more with --unsafe-fixes"
    assert texts(mended(bench, unsafe=True)) == {"net.py": "    x = 2\n"}


def test_a_finding_in_a_file_that_was_not_named_is_not_fixed(bench: Workbench) -> None:
    bench.write("other.py", "y = 1\n")
    bench.network("    x = 1  # <- ESP201 at other.py:1 fix [y = 2]\n")
    assert mended(bench).changes == ()
    assert mended(bench).more == 0


def test_a_file_that_changed_meanwhile_is_left_alone(bench: Workbench) -> None:
    path = bench.network("    x = 1  # <- ESP201 fix [    x = 2]\n")
    outcome = mended(bench)
    path.write_text("somebody else was here\n")
    assert fixes.write(outcome.changes) == ["net.py: not fixed, it has changed since it was audited"]
    assert path.read_text() == "somebody else was here\n"


def test_a_patch_keeps_bytes_and_says_where_no_newline_is() -> None:
    target = prepare(CheckRequest(paths=("-",)), rules=lambda _: TOY_RULES).collection.targets[0]
    change = fixes.Change(target, b"a\xff\r\nb", b"a\xff\r\nc")
    assert fixes.unified_diff(change) == (
        b"--- <stdin>\n+++ <stdin>\n@@ -1,2 +1,2 @@\n a\xff\r\n-b\n\\ No newline at end of file\n"
        b"+c\n\\ No newline at end of file\n"
    )
