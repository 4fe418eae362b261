"""What `--fix`, `--unsafe-fixes` and `--diff` do to files, and what they leave alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .esper_process import Esper, environment

STATEFUL = """\
import torch
from torch import nn


class Policy(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.gru = nn.GRU(4, size)

    def forward(self, obs, hidden=None):
        if hidden is None:
            hidden = torch.zeros(1, obs.size(1), 8)
        return self.gru(obs, hidden)
"""
WEIGHT = "self.gru.weight_hh_l0"
FIXED = STATEFUL.replace("(1), 8)", f"(1), 8, dtype={WEIGHT}.dtype, device={WEIGHT}.device)")
MASKED = """\
from torch import nn
from torch.distributions import Categorical


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.action_head = nn.Linear(4, 2)

    def act(self, obs, mask):
        logits = self.action_head(obs).masked_fill(~mask, -1e9)
        return Categorical(logits=logits).sample()
"""


@pytest.fixture
def stateful(project: Path) -> Path:
    path = project / "stateful.py"
    path.write_text(STATEFUL)
    return path


def test_safe_fixes_are_made_and_what_remains_is_reported(inside: Esper, project: Path, stateful: Path) -> None:
    (project / "masked.py").write_text(MASKED)
    result = inside(".", "--fix", "--format", "concise", "--select", "ESP2")
    assert stateful.read_text() == FIXED
    assert (project / "masked.py").read_text() == MASKED
    assert "note: fixed 2 findings in 1 file, 1 more with --unsafe-fixes\n" in result.stderr
    assert "ESP203" in result.stdout
    assert "ESP201" not in result.stdout
    assert result.returncode == 0  # ESP203 is low


def test_unsafe_fixes_are_made_on_request(inside: Esper, project: Path) -> None:
    (project / "masked.py").write_text(MASKED)
    result = inside("masked.py", "--fix", "--unsafe-fixes")
    assert (project / "masked.py").read_text() == MASKED.replace("-1e9", "-1e4")
    assert "note: fixed 1 finding in 1 file\n" in result.stderr


def test_unsafe_fixes_alone_are_wrong_use(inside: Esper) -> None:
    result = inside("net.py", "--unsafe-fixes")
    assert (result.returncode, result.stderr) == (
        2,
        "error: --unsafe-fixes says which fixes to make: it needs --fix or --diff\n",
    )


def test_a_second_run_changes_nothing(inside: Esper, stateful: Path) -> None:
    inside("stateful.py", "--fix")
    stamp = stateful.stat().st_mtime_ns
    result = inside("stateful.py", "--fix")
    assert stateful.stat().st_mtime_ns == stamp
    assert "fixed" not in result.stderr


def test_the_exit_code_of_fix_is_about_what_remains(inside: Esper, stateful: Path) -> None:
    assert inside(stateful.name).returncode == 1
    assert inside(stateful.name, "--fix").returncode == 0


def test_a_diff_writes_nothing_and_is_a_patch(esper: Esper, project: Path, stateful: Path) -> None:
    result = esper("stateful.py", "--diff")
    assert result.returncode == 1
    assert stateful.read_text() == STATEFUL
    assert result.stderr == "note: would fix 2 findings in 1 file\n"
    patch = subprocess.run(["git", "apply", "-p0", "-"], cwd=project, input=result.stdout, text=True, check=False)
    assert patch.returncode == 0
    assert stateful.read_text() == FIXED
    after = esper("stateful.py", "--diff")
    assert (after.returncode, after.stdout) == (0, "")


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "mark"])
@pytest.mark.parametrize("end", [True, False], ids=["ended", "unended"])
def test_newlines_marks_and_a_missing_end_stay(
    inside: Esper, stateful: Path, newline: str, mark: bytes, *, end: bool
) -> None:
    def written(text: str) -> bytes:
        return mark + (text if end else text.rstrip("\n")).replace("\n", newline).encode()

    stateful.write_bytes(written(STATEFUL))
    inside("stateful.py", "--fix")
    assert stateful.read_bytes() == written(FIXED)


def test_mixed_newlines_and_another_encoding_stay(inside: Esper, stateful: Path) -> None:
    before = "# coding: latin-1\r\n# \xe9\n" + STATEFUL.replace("\n\n", "\r\n\n").replace("forward", "forward")
    stateful.write_bytes(before.encode("latin-1"))
    inside("stateful.py", "--fix")
    after = before.replace("(1), 8)", f"(1), 8, dtype={WEIGHT}.dtype, device={WEIGHT}.device)")
    assert stateful.read_bytes() == after.encode("latin-1")


def test_the_mode_and_a_link_stay(inside: Esper, project: Path, stateful: Path) -> None:
    stateful.chmod(0o754)
    link = project / "link.py"
    link.symlink_to("stateful.py")
    inside("link.py", "--fix")
    assert link.is_symlink()
    assert stateful.read_text() == FIXED
    assert stateful.stat().st_mode & 0o777 == 0o754
    assert not list(project.glob(".esper-audit*"))


def test_a_file_with_two_names_is_fixed_once(inside: Esper, project: Path, stateful: Path) -> None:
    (project / "alias.py").symlink_to("stateful.py")
    result = inside("alias.py", "stateful.py", "--fix")
    assert stateful.read_text() == FIXED
    assert result.returncode == 0


def test_a_link_out_of_the_folder_is_not_followed_unless_it_is_named(inside: Esper, project: Path) -> None:
    outside = project / "elsewhere" / "net.py"
    outside.parent.mkdir()
    outside.write_text(STATEFUL)
    (project / "src").mkdir()
    (project / "src" / "link.py").symlink_to(outside)
    inside("src", "--fix")
    assert outside.read_text() == STATEFUL
    inside("src/link.py", "--fix")
    assert outside.read_text() == FIXED


def test_suppressed_findings_are_left_alone(inside: Esper, stateful: Path) -> None:
    quiet = STATEFUL.replace("(1), 8)", "(1), 8)  # esper: ignore[ESP201, ESP202] the CPU alone")
    stateful.write_text(quiet)
    inside("stateful.py", "--fix", "--unsafe-fixes")
    assert stateful.read_text() == quiet


def test_files_that_were_not_named_are_left_alone(inside: Esper, project: Path) -> None:
    base = project / "base.py"
    base.write_text(MASKED)
    (project / "heir.py").write_text(
        "from base import Policy\nfrom torch import nn\n\n\nclass Heir(Policy):\n    pass\n"
    )
    inside("heir.py", "--fix", "--unsafe-fixes")
    assert base.read_text() == MASKED


@pytest.mark.parametrize("words", [("--ignore", "ESP2"), ("--min-severity", "critical"), ("--select", "ESP3")])
def test_what_is_not_reported_is_not_fixed(inside: Esper, stateful: Path, words: tuple[str, ...]) -> None:
    inside("stateful.py", "--fix", *words)
    assert stateful.read_text() == STATEFUL


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("    # esper: ignore[ESP203] small\n    return 1\n", "    return 1\n"),
        ("    return 1  # esper: ignore[ESP203] small\n", "    return 1\n"),
        ("    return 1  # esper: ignore[ESP203, ESP302] small\n", "    return 1\n"),
        ("    return 1  # noqa: X1  # esper: ignore[ESP203] small\n", "    return 1  # noqa: X1\n"),
        ("    return 1  # esper: ignore[ESP203] small # noqa\n", "    return 1  # noqa\n"),
        ("    return 1  # esper: ignore[ESP203] small", "    return 1"),
        ('    return """\n# esper: ignore[ESP203]\n"""  # esper: ignore[ESP203]\n',
         '    return """\n# esper: ignore[ESP203]\n"""\n'),
    ],
)  # fmt: skip
def test_an_unused_suppression_goes_and_other_comments_stay(
    inside: Esper, project: Path, before: str, after: str
) -> None:
    path = project / "quiet.py"
    path.write_text(MASKED.replace("-1e9", "-1e4") + "\n\ndef one():\n" + before)
    inside("quiet.py", "--fix")
    assert path.read_text() == MASKED.replace("-1e9", "-1e4") + "\n\ndef one():\n" + after


def test_a_code_that_is_needed_stays_in_the_brackets(inside: Esper, project: Path) -> None:
    path = project / "masked.py"
    path.write_text(MASKED.replace("-1e9)", "-1e9)  # esper: ignore[ESP302,ESP203] float32 only"))
    inside("masked.py", "--fix")
    assert path.read_text() == MASKED.replace("-1e9)", "-1e9)  # esper: ignore[ESP203] float32 only")


def test_standard_input_comes_back_fixed_and_the_report_goes_to_stderr(esper: Esper) -> None:
    result = esper("-", "--fix", "--format", "concise", input=STATEFUL + "\n\nx = 1  # esper: ignore\n")
    assert result.stdout == FIXED + "\n\nx = 1  # esper: ignore\n"
    assert "ESP903" in result.stderr
    assert result.returncode == 1


def test_standard_input_that_needs_nothing_comes_back_as_it_was(esper: Esper) -> None:
    for text in (FIXED, "x = 1\n", "def f(:\n"):
        assert esper("-", "--fix", input=text).stdout == text


def test_standard_input_has_a_diff(esper: Esper) -> None:
    result = esper("-", "--diff", "--stdin-filename", "agent/net.py", input=STATEFUL)
    assert result.returncode == 1
    assert result.stdout.startswith("--- agent/net.py\n+++ agent/net.py\n@@ ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_not_be_written_is_told(inside: Esper, stateful: Path) -> None:
    stateful.chmod(0o444)
    result = inside("stateful.py", "--fix")
    assert result.returncode == 3
    assert "error: stateful.py: cannot be fixed: permission denied\n" in result.stderr
    assert stateful.read_text() == STATEFUL


def test_probes_and_reports_see_what_was_fixed(inside: Esper, project: Path, stateful: Path) -> None:
    inside("stateful.py", "--fix", "-o", "json:audit.json")
    assert stateful.read_text() == FIXED
    assert '"findings": []' in (project / "audit.json").read_text()


def test_a_kill_at_any_moment_leaves_each_file_old_or_new(project: Path) -> None:
    files = [project / "many" / f"net{number}.py" for number in range(16)]
    files[0].parent.mkdir()
    padding = "# " + "x" * 100_000 + "\n"  # a torn write would show
    old, new = padding + STATEFUL, padding + FIXED
    moments = 0
    delay = 0.0
    while moments < 4:
        for path in files:
            path.write_text(old)
        process = subprocess.Popen(
            [sys.executable, "-m", "esper_audit", "many", "--fix", "-q", "--select", "ESP2"],
            cwd=project,
            env=environment(),
            stdout=subprocess.DEVNULL,
        )
        while process.poll() is None and files[0].stat().st_size == len(old):
            time.sleep(0.0005)
        time.sleep(delay)
        ended = process.poll() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        texts = [path.read_text() for path in files]
        assert all(text in (old, new) for text in texts)
        assert new in texts
        if ended:
            break
        moments += 1
        delay += 0.002
    assert moments
