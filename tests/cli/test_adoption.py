"""Bringing the tool into an old codebase: `esper-audit baseline`, `--baseline`, `--diff-base`, ignores, `--fail-on`."""

from __future__ import annotations

import json
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from esper_audit import __version__
from esper_audit.baseline import Entry, page

from .esper_process import NETWORK, Esper, environment

DEFAULT = "esper-audit-baseline.json"
CONFIG = f'[tool.esper-audit]\nbaseline = "{DEFAULT}"\n'
WRITTEN = "note: audits read it when `baseline` under [tool.esper-audit] names it, or with --baseline\n"


@pytest.fixture
def configured(project: Path) -> Path:
    (project / "pyproject.toml").write_text(CONFIG)
    return project


# --- writing


def test_write_a_baseline_name_it_and_only_new_findings_fail(inside: Esper, project: Path) -> None:
    assert inside("faulty.py").returncode == 1
    done = inside("baseline", ".")
    assert (done.stdout, done.stderr, done.returncode) == (
        f"{DEFAULT}: 1 finding in 1 file; 1 new, 0 taken out\n", WRITTEN, 0,
    )  # fmt: skip
    assert inside("faulty.py").returncode == 1  # a baseline that no setting names is a file like any other
    (project / "pyproject.toml").write_text(CONFIG)
    done = inside(".")
    assert (done.stdout, done.stderr, done.returncode) == (
        "No findings in 2 files, 2 networks (1 in the baseline).\n",
        "",
        0,
    )
    (project / "net.py").write_text(NETWORK.replace("self.head(obs)", "self.head(obs)  # esper: noqa"))
    done = inside(".", "--format", "concise")
    assert done.stdout.startswith("net.py:11:")
    assert "faulty.py" not in done.stdout
    assert done.returncode == 1


def test_the_file_reads_well(inside: Esper, project: Path) -> None:
    inside("baseline", ".", "-q")
    words = "this suppression names no code, so it suppresses nothing: there is no blanket form"
    row = f'{{"fingerprint": "FFFF", "code": "ESP903", "count": 1, "symbol": "", "message": "{words}"}}'
    assert re.sub('"[0-9a-f]{16}"', '"FFFF"', (project / DEFAULT).read_text()).splitlines() == [
        "{",
        '  "schema": "esper-audit-baseline/1",',
        f'  "tool": "esper-audit {__version__}",',
        '  "files": {',
        '    "faulty.py": [',
        f"      {row}",
        "    ]",
        "  }",
        "}",
    ]


def test_writing_twice_changes_no_byte_and_pruning_nothing_does_not_either(inside: Esper, configured: Path) -> None:
    inside("baseline", ".")
    place = configured / DEFAULT
    text = place.read_text().replace('"esper-audit 0', '"esper-audit 99')  # as another version left it
    place.write_text(text)
    assert inside("baseline", ".").stdout == f"{DEFAULT}: 1 finding in 1 file; 0 new, 0 taken out\n"
    assert inside("baseline", "--prune", ".").stdout == f"{DEFAULT}: 1 finding in 1 file; 0 taken out\n"
    assert place.read_text() == text


def test_what_is_mended_is_told_and_pruned(inside: Esper, configured: Path) -> None:
    inside("baseline", ".")
    (configured / "faulty.py").write_text(NETWORK)
    assert inside(".").stderr == (
        f"note: {DEFAULT}: 1 known finding not found any more;"
        " `esper-audit baseline --prune PATH...` takes out what is gone\n"
    )
    done = inside("baseline", "--prune", ".")
    assert (done.stdout, done.stderr, done.returncode) == (f"{DEFAULT}: 0 findings in 0 files; 1 taken out\n", "", 0)
    assert inside(".").stderr == ""


def test_an_empty_baseline_is_written_too(inside: Esper, configured: Path) -> None:
    assert inside("baseline", "net.py").stdout == f"{DEFAULT}: 0 findings in 0 files; 0 new, 0 taken out\n"
    assert inside("net.py").returncode == 0
    assert json.loads((configured / DEFAULT).read_text())["files"] == {}


def test_a_baseline_of_ones_own_name_lies_where_it_is_told_to(inside: Esper, project: Path) -> None:
    (project / "ci").mkdir()
    assert inside("baseline", "faulty.py", "--baseline", "ci/known.json").returncode == 0
    assert list(json.loads((project / "ci/known.json").read_text())["files"]) == ["../faulty.py"]
    assert inside("faulty.py", "--baseline", "ci/known.json").returncode == 0
    assert not (project / DEFAULT).exists()


def test_no_baseline_shows_all_of_it(inside: Esper, configured: Path) -> None:
    del configured
    inside("baseline", ".")
    assert inside(".").returncode == 0
    assert inside(".", "--no-baseline").returncode == 1
    assert inside(".", "--isolated").returncode == 1
    shown = inside(".", "--show-baselined", "--format", "concise")
    assert f"[baselined: in {DEFAULT}]" in shown.stdout
    assert shown.returncode == 0
    (finding,) = json.loads(inside(".", "--format", "json").stdout)["baselined"]
    assert (finding["code"], finding["reason"]) == ("ESP903", f"in {DEFAULT}")


def test_a_broken_file_keeps_its_entries_and_is_told(inside: Esper, configured: Path) -> None:
    inside("baseline", ".")
    before = (configured / DEFAULT).read_text()
    (configured / "faulty.py").write_text("import torch\ndef f(:\n")
    done = inside("baseline", "faulty.py", "zzz.py")
    assert done.stderr.splitlines()[0] == "error: no such file or folder: 'zzz.py'"
    assert "error: faulty.py: does not parse" in done.stderr
    assert done.returncode == 2
    assert inside("baseline", "faulty.py").returncode == 3
    assert (configured / DEFAULT).read_text() == before


# --- wrong use


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.stdout, done.returncode) == ("", 2)
    (line,) = done.stderr.splitlines()
    return line.removeprefix("error: ")


def test_a_baseline_that_is_not_there_says_how_to_get_one(inside: Esper, configured: Path) -> None:
    del configured
    assert one_error(inside(".")) == (
        f"pyproject.toml: 'baseline': there is no {DEFAULT!r} yet: run `esper-audit baseline PATH...`"
    )
    assert one_error(inside(".", "--baseline", "x.json")) == (
        "--baseline: there is no 'x.json' yet: run `esper-audit baseline PATH...`"
    )
    assert one_error(inside("baseline", "--prune", ".")) == (
        f"there is no {DEFAULT!r} to prune; `esper-audit baseline PATH...` writes one"
    )


def test_a_file_that_is_no_baseline_is_neither_read_nor_overwritten(inside: Esper, configured: Path) -> None:
    for text in ("", "{}", '{"schema": "esper-audit-baseline/2", "files": {}}'):
        (configured / DEFAULT).write_text(text)
        for words in ((".",), ("baseline", "."), ("baseline", "--prune", ".")):
            assert one_error(inside(*words)).startswith(DEFAULT)
        assert (configured / DEFAULT).read_text() == text


def test_a_link_that_leads_nowhere_is_not_written_through(inside: Esper, configured: Path, tmp_path: Path) -> None:
    (configured / DEFAULT).symlink_to(tmp_path / "out/of/the/tree")
    assert one_error(inside("baseline", ".")) == f"{DEFAULT}: cannot be read: no such file or directory"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((".", "--baseline", ""), "give either --baseline FILE or --no-baseline"),
        ((".", "--baseline", "x", "--no-baseline"), "give either --baseline FILE or --no-baseline"),
        (("baseline", "-"), "a baseline is about files; standard input is none"),
        (("baseline", ".", "--baseline", ""), "--baseline names no file"),
        (("baseline", ".", "--baseline", "no/such/x.json"), "cannot write to 'no/such/x.json': no such folder"),
        (("baseline", ".", "--baseline", "."), "cannot write to '.': it is a folder"),
        ((".", "--diff-base", "-x"), "--diff-base: '-x' is no revision"),
        ((".", "--diff-base=--output=x"), "--diff-base: '--output=x' is no revision"),
        ((".", "--diff-base", "HEAD"), "--diff-base: not a git repository"),
    ],
)
def test_wrong_words_get_one_line(inside: Esper, words: tuple[str, ...], message: str) -> None:
    assert one_error(inside(*words)).startswith(message)


def test_a_full_disk_fails_with_3_and_leaves_what_was_there(esper: Esper, configured: Path) -> None:
    esper("baseline", "net.py")
    before = (configured / DEFAULT).read_text()
    full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))}
    done = esper("baseline", ".", **full)
    assert (done.stdout, done.stderr) == ("", f"error: cannot write to {DEFAULT!r}: file too large\n")
    assert done.returncode == 3
    assert (configured / DEFAULT).read_text() == before
    assert not list(configured.glob(".*.tmp"))


# --- never half a file


def test_a_killed_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    pages = [
        page({("a.py", f"{n:016x}"): Entry("ESP201", 1, "Net", f"{which} {n}") for n in range(3000)}) for which in "ab"
    ]
    for number, text in enumerate(pages):
        (tmp_path / f"{number}.txt").write_text(text)
    place = tmp_path / DEFAULT
    writer = (
        "import itertools, sys; from pathlib import Path; from esper_audit.console import write_file\n"
        "pages = [Path(sys.argv[1], f'{n}.txt').read_text() for n in range(2)]\n"
        f"place = Path(sys.argv[1], {DEFAULT!r})\n"
        "for text in itertools.cycle(pages): write_file(place, lambda sink: sink.write(text)); print(flush=True)\n"
    )
    dice = random.Random(7)  # noqa: S311 - moments, not secrets
    for _ in range(8):
        place.write_text("old")
        process = subprocess.Popen(
            [sys.executable, "-c", writer, str(tmp_path)], env=environment(), stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()  # it has written once, and goes on
        time.sleep(dice.random() / 20)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert place.read_text() in pages


# --- the rest of adoption


def test_only_findings_on_changed_lines_fail(inside: Esper, project: Path) -> None:
    (project / ".git").rmdir()
    for words in (("init", "-q"), ("add", "."), ("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a")):
        subprocess.run(["git", *words], cwd=project, check=True)
    done = inside(".", "--diff-base", "HEAD")
    assert done.stdout == "No findings in 2 files, 2 networks (1 on lines that did not change).\n"
    assert done.returncode == 0
    (project / "net.py").write_text(NETWORK.replace("self.head(obs)", "self.head(obs)  # esper: noqa"))
    done = inside(".", "--diff-base", "HEAD", "--format", "concise")
    assert done.stdout.startswith("net.py:11:")
    assert "1 on lines that did not change" in done.stdout
    assert done.returncode == 1


def test_an_ignore_for_files_that_do_not_exist_is_told(inside: Esper, project: Path) -> None:
    (project / "pyproject.toml").write_text(
        '[tool.esper-audit.per-file-ignores]\n"faulty.py" = ["ESP903"]\n"legacy/*" = ["ESP4"]\n'
    )
    done = inside(".")
    assert done.stderr == "note: pyproject.toml: 'per-file-ignores': no file matches 'legacy/*'\n"
    assert done.returncode == 0
    assert inside("faulty.py").stderr == ""  # the others were not looked for


def test_an_ignore_for_a_code_that_does_not_exist_is_wrong_use(inside: Esper, project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.esper-audit.per-file-ignores]\n"*.py" = ["ESP9O3"]\n')
    assert one_error(inside("net.py")) == (
        "pyproject.toml: 'per-file-ignores' '*.py': unknown rule 'ESP9O3'; did you mean 'ESP903'?"
    )
    (project / "pyproject.toml").write_text('[tool.esper-audit.per-file-ignores]\n"!" = ["ESP903"]\n')
    assert one_error(inside("faulty.py")) == "per-file-ignores: '!' is not a valid pattern"


def test_what_the_baseline_holds_back_fails_no_threshold(inside: Esper, configured: Path) -> None:
    del configured
    inside("baseline", ".")
    assert inside(".", "--fail-on", "info").returncode == 0
    assert inside(".", "--fail-on", "info", "--no-baseline").returncode == 1
    assert inside(".", "--fail-on", "high", "--no-baseline").returncode == 0


def test_a_baselined_finding_that_a_probe_confirms_comes_back(inside: Esper, project: Path) -> None:
    pytest.importorskip("torch")
    for name in ("network.py", "masks.py"):
        shutil.copy(Path(__file__).parents[1] / "networks/twin" / name, project)
    words = ("network.py", "--baseline", DEFAULT, "--select", "ESP602", "--format", "concise")
    inside("baseline", "network.py", "--select", "ESP602")
    assert inside(*words).returncode == 0
    done = inside(*words, "--probe", "--fail-on", "low")
    assert done.stdout.startswith("network.py:110:17: ESP602 ")
    assert done.stdout.splitlines()[0].endswith(f" [in {DEFAULT}, which holds back nothing that was confirmed]")
    assert done.stderr == f"note: {DEFAULT}: 1 known finding confirmed by an experiment, and not held back\n"
    assert done.returncode == 1
