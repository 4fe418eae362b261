"""What goes to which stream, and what happens when one of them fails."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from .esper_process import FAULTY, NETWORK, Esper, environment


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "esper_audit", *words]


def test_findings_go_to_stdout_and_notes_to_stderr(esper: Esper, project: Path) -> None:
    (project / "docs").mkdir()
    result = esper("faulty.py", "docs")
    assert "ESP903" in result.stdout
    assert "note:" not in result.stdout
    assert result.stderr == "note: no Python files to audit under 'docs'\n"


@pytest.mark.parametrize(
    "words", [("many.py",), ("many.py", "--format", "json"), ("explain", "ESP901"), ("list-rules",)]
)
def test_a_closed_pipe_ends_quietly_with_the_right_code(project: Path, words: tuple[str, ...]) -> None:
    (project / "many.py").write_text(NETWORK + "x = 1  # esper: noqa\n" * 2000)
    process = subprocess.Popen(
        command(*words), cwd=project, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # nobody reads: every write fails
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == (1 if words[0] == "many.py" else 0)
    assert errors == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    "words", [("faulty.py",), ("faulty.py", "--format", "json"), ("explain", "ESP901"), ("--help",), ("--version",)]
)
def test_a_full_disk_at_stdout_is_one_line_and_exit_3(project: Path, words: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            command(*words), cwd=project, env=environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert result.stderr == b"error: cannot write to standard output: no space left on device\n"
    assert result.returncode == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_at_an_output_is_one_line_and_the_findings_are_still_shown(esper: Esper) -> None:
    result = esper("faulty.py", "-o", "json:/dev/full")
    assert result.stderr == "error: cannot write to '/dev/full': no space left on device\n"
    assert "ESP903" in result.stdout
    assert result.returncode == 3


def test_closed_standard_streams_do_not_crash(project: Path) -> None:
    shell = " ".join(command("faulty.py"))
    for redirection, expected in ((">&-", 3), ("2>&-", 1), ("<&-", 1)):
        result = subprocess.run(
            ["sh", "-c", f"exec {shell} {redirection}"],
            cwd=project,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in result.stderr, redirection
        assert result.returncode == expected, redirection
    result = subprocess.run(
        ["sh", "-c", f"exec {' '.join(command('-'))} <&-"],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "cannot be read: standard input is closed" in result.stdout + result.stderr
    assert result.returncode == 3


def test_standard_input_is_audited(esper: Esper) -> None:
    result = esper("-", "--stdin-filename", "agent/net.py", "--format", "concise", input=FAULTY)
    assert result.stdout.startswith("agent/net.py:11:32: ESP903 ")
    assert esper("-", "--format", "concise", input=FAULTY).stdout.startswith("<stdin>:11:32: ESP903 ")


# --- reports in files


def test_a_format_with_an_output_goes_to_the_file_and_a_summary_to_stdout(esper: Esper, project: Path) -> None:
    result = esper("faulty.py", "--format", "markdown", "-o", "AUDIT.md")
    assert (project / "AUDIT.md").read_text().startswith("# ")
    assert result.stdout == "AUDIT.md: 1 finding (1 medium) in 1 file, 1 network\n"
    assert result.returncode == 1
    assert esper("faulty.py", "--format", "markdown", "-o", "AUDIT.md", "-q").stdout == ""


def test_an_output_may_name_its_format_or_show_it_by_its_suffix(esper: Esper, project: Path) -> None:
    result = esper("faulty.py", "-o", "AUDIT.md", "-o", "a.json", "-o", "json:b.txt", "-o", "c.txt")
    assert "ESP903" in result.stdout
    assert "-->" in result.stdout  # the full format, as without -o
    assert (project / "AUDIT.md").read_text().startswith("# ")
    assert json.loads((project / "a.json").read_text())["schema"] == "esper-audit/1"
    assert (project / "b.txt").read_text() == (project / "a.json").read_text()
    assert (project / "c.txt").read_text() == result.stdout


def test_an_output_replaces_a_report_at_once_and_keeps_its_mode(esper: Esper, project: Path) -> None:
    (project / "real.json").write_text("old")
    (project / "real.json").chmod(0o640)
    (project / "link.json").symlink_to("real.json")
    esper("faulty.py", "-o", "link.json")
    assert (project / "link.json").is_symlink()
    assert json.loads((project / "real.json").read_text())["findings"]
    assert (project / "real.json").stat().st_mode & 0o777 == 0o640
    assert not [path for path in project.iterdir() if path.name.endswith(".tmp")]


def test_a_new_report_has_the_mode_of_any_new_file(esper: Esper, project: Path) -> None:
    esper("faulty.py", "-o", "new.json", umask=0o027)
    assert (project / "new.json").stat().st_mode & 0o777 == 0o640


def test_two_runs_write_the_same_bytes(esper: Esper, project: Path) -> None:
    for number in (1, 2):
        esper(".", "-o", f"{number}.json", "-o", f"{number}.md", "-o", f"{number}.txt", "--reproducible",
              env={"PYTHONHASHSEED": str(number)})  # fmt: skip
    for suffix in ("json", "md", "txt"):
        assert (project / f"1.{suffix}").read_bytes() == (project / f"2.{suffix}").read_bytes()


def test_errors_go_to_stderr_when_the_format_has_no_place_for_them(esper: Esper, project: Path) -> None:
    (project / "bad.py").write_text("import torch\ndef f(:\n")
    result = esper("bad.py", "--format", "json")
    assert result.stderr.startswith("error: bad.py:2: does not parse")
    assert json.loads(result.stdout)["files"][0]["status"] == "unparsable"
    assert result.returncode == 3


# --- colour


def test_colour_is_for_terminals_or_on_request(esper: Esper) -> None:
    assert "\x1b[" not in esper("faulty.py").stdout
    assert "\x1b[" in esper("faulty.py", "--color", "always").stdout
    assert "\x1b[" in esper("faulty.py", env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b[" not in esper("faulty.py", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stdout
    assert "\x1b[" not in esper("faulty.py", "--color", "never", env={"FORCE_COLOR": "1"}).stdout
    assert "\x1b[" in esper("faulty.py", "--color", "always", env={"NO_COLOR": "1"}).stdout


def on_a_terminal(project: Path, *words: str, **env: str) -> str:
    main, other = pty.openpty()
    process = subprocess.Popen(
        command(*words), cwd=project, env=environment(**env), stdout=other, stderr=other, stdin=other
    )
    os.close(other)
    read = b""
    try:
        while piece := os.read(main, 65536):
            read += piece
    except OSError:  # the other end is closed
        pass
    os.close(main)
    process.wait()
    return read.decode()


def test_a_terminal_gets_colour_and_rendered_pages(project: Path) -> None:
    assert "\x1b[" in on_a_terminal(project, "faulty.py")
    assert "\x1b[" not in on_a_terminal(project, "faulty.py", NO_COLOR="1")
    assert "\x1b[" not in on_a_terminal(project, "faulty.py", TERM="dumb")
    page = on_a_terminal(project, "explain", "ESP901")
    assert "\x1b[" in page
    assert "## What it does" not in page
    assert "\x1b[" in on_a_terminal(project, "list-rules")
