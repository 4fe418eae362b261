"""Bad input gets one clear line, the right exit code, and the rest of the run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .esper_process import NETWORK, Esper


def audited(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of a concise run, summary and notes aside."""
    lines = (result.stdout + result.stderr).splitlines()
    assert "Traceback" not in result.stdout + result.stderr
    return [line for line in lines if line.startswith("error: ")]


def test_a_missing_path_names_the_nearest_file_and_the_rest_is_audited(esper: Esper) -> None:
    result = esper("falty.py", "faulty.py", "--format", "concise")
    assert audited(result) == ["error: no such file or folder: 'falty.py'; did you mean 'faulty.py'?"]
    assert "faulty.py:11:" in result.stdout
    assert result.returncode == 2


def test_a_misspelt_command_is_told_as_such(esper: Esper) -> None:
    result = esper("chek", "net.py")
    assert audited(result) == ["error: no such file or folder: 'chek'; did you mean the command 'check'?"]
    assert result.returncode == 2


BROKEN = {
    "syntax error": (b"import torch\ndef f(:\n", 2),
    "python 2": (b"import torch\nprint 'hello'\n", 2),
    "null bytes": (b"import torch\n\0\n", None),
    "wrong bytes": (b"import torch\nx = '\xff\xfe'\n", None),
    "unknown coding": (b"# -*- coding: klingon -*-\nimport torch\n", None),
    "bad indentation": (b"import torch\nif x:\n        y\n    z\n", 4),
    "nested parentheses": (b"import torch\nx = " + b"(" * 5000 + b")" * 5000 + b"\n", None),
    "nested brackets of a network": (NETWORK.encode() + b"x = " + b"[" * 5000 + b"]" * 5000 + b"\n", None),
    "no torch in it": (b"def f(:\n", 1),
}


@pytest.mark.parametrize(("content", "line"), BROKEN.values(), ids=BROKEN)
def test_a_named_file_that_is_no_python_is_one_line_and_exit_3(
    esper: Esper, project: Path, content: bytes, line: int | None
) -> None:
    (project / "bad.py").write_bytes(content)
    result = esper("bad.py", "faulty.py", "--format", "concise")
    (error,) = audited(result)
    assert error.startswith(f"error: bad.py:{line}: " if line else "error: bad.py:")
    assert len(error) < 200
    assert "faulty.py:11:" in result.stdout
    assert result.returncode == 3


DEEP = {
    "sum": " + ".join(["1"] * 1500),
    "sum beyond the parser": " + ".join(["1"] * 20_000),
    "calls": "f" + "()" * 500,
    "minus": "-" * 2500 + "1",
    "or": "a or " * 20_000 + "1",  # flat for Python, nested for libcst
    "lambdas": "lambda: " * 1000 + "1",
    "brackets": "[" * 150 + "]" * 150,
}


@pytest.mark.parametrize("expression", DEEP.values(), ids=DEEP)
def test_deep_nesting_does_not_bring_the_interpreter_down(esper: Esper, project: Path, expression: str) -> None:
    (project / "deep.py").write_text(NETWORK + f"x = {expression}\n")
    result = esper("deep.py", "faulty.py", "--format", "concise")
    assert result.returncode in (1, 3)
    assert len(audited(result)) == (result.returncode == 3)
    assert "faulty.py:11:" in result.stdout


HARMLESS = {
    "byte order mark": b"\xef\xbb\xbf" + NETWORK.encode(),
    "latin-1 cookie": b"# -*- coding: latin-1 -*-\n# caf\xe9\n" + NETWORK.encode(),
    "CRLF": NETWORK.replace("\n", "\r\n").encode(),
    "form feeds": NETWORK.replace("\n\n\n", "\n\x0c\n\x0c\n").encode(),
    "tabs": NETWORK.replace("    ", "\t").encode(),
    "empty": b"",
    "only a comment": b"# torch",
    "no last newline": NETWORK.rstrip().encode(),
    "a line of a megabyte": NETWORK.encode() + b"x = '" + b"a" * 1_000_000 + b"'\n",
    "a list of ten thousand": NETWORK.encode() + b"x = [" + b"1, " * 10_000 + b"]\n",
}


@pytest.mark.parametrize("content", HARMLESS.values(), ids=HARMLESS)
def test_unusual_files_are_audited_without_a_word(esper: Esper, project: Path, content: bytes) -> None:
    (project / "odd.py").write_bytes(content)
    result = esper("odd.py", "faulty.py", "--format", "concise")
    assert audited(result) == []
    assert result.stderr == ""
    assert "faulty.py:11:" in result.stdout
    assert result.returncode == 1


def test_lines_and_columns_are_right_behind_marks_feeds_and_tabs(esper: Esper, project: Path) -> None:
    (project / "odd.py").write_bytes("\ufeffimport torch\r\n\x0c\r\nif x:\r\n\ty = 'é'  # esper: noqa\r\n".encode())
    assert esper("odd.py", "--format", "concise").stdout.startswith("odd.py:4:11: ESP903 ")


def test_a_dangling_link_is_unreadable(esper: Esper, project: Path) -> None:
    (project / "gone.py").symlink_to("nowhere.py")
    result = esper("gone.py", "faulty.py", "--format", "concise")
    assert audited(result) == ["error: gone.py: cannot be read: no such file or directory"]
    assert "faulty.py:11:" in result.stdout
    assert result.returncode == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_unreadable(esper: Esper, project: Path) -> None:
    (project / "net.py").chmod(0)
    result = esper("net.py", "faulty.py", "--format", "concise")
    assert audited(result) == ["error: net.py: cannot be read: permission denied"]
    assert result.returncode == 3


def test_a_folder_called_like_a_file_is_a_folder(esper: Esper, project: Path) -> None:
    (project / "x.py").mkdir()
    (project / "x.py/net.py").write_text(NETWORK)
    result = esper("x.py")
    assert (result.stderr, result.returncode) == ("", 0)


def test_a_broken_file_in_a_folder_is_told_but_does_not_fail_the_run(esper: Esper, project: Path) -> None:
    (project / "pkg").mkdir()
    (project / "pkg/old.py").write_text("import torch\nprint 'hello'\n")
    (project / "pkg/net.py").write_text(NETWORK)
    result = esper("pkg")
    assert len(audited(result)) == 1
    assert result.returncode == 0


def test_a_link_loop_ends(esper: Esper, project: Path) -> None:
    (project / "loop").symlink_to(".", target_is_directory=True)
    (project / "self").symlink_to("self")
    result = esper(".", "--format", "concise")
    assert result.stdout.count("ESP903") == 1
    assert (result.stderr, result.returncode) == ("", 1)


def test_a_folder_without_python_is_a_note(esper: Esper, project: Path) -> None:
    (project / "docs").mkdir()
    result = esper("docs")
    assert result.stderr == "note: no Python files to audit under 'docs'\n"
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[tool.esper-audit\n", "pyproject.toml:1:18: not valid TOML: "),
        (
            "[tool.esper-audit]\nselct = []\n",
            "pyproject.toml: unknown key 'selct' in [tool.esper-audit]; did you mean 'select'?",
        ),
        (
            "[tool.esper-audit]\nselect = ['ESP9O1']\n",
            "pyproject.toml: 'select': unknown rule 'ESP9O1'; did you mean 'ESP901'?",
        ),
        ("[tool.esper-audit]\nplugins = ['no_such_rules']\n", "the rule package 'no_such_rules' cannot be imported: "),
    ],
)
def test_a_wrong_configuration_is_one_line_and_exit_2(esper: Esper, project: Path, body: str, message: str) -> None:
    (project / "pyproject.toml").write_text(body)
    result = esper("net.py")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {message}")
    assert (result.stdout, result.returncode) == ("", 2)


def test_an_unknown_code_on_the_command_line_is_exit_2(esper: Esper) -> None:
    result = esper("net.py", "--select", "ESP9O1")
    assert result.stderr == "error: --select: unknown rule 'ESP9O1'; did you mean 'ESP901'?\n"
    assert (result.stdout, result.returncode) == ("", 2)


@pytest.mark.parametrize(
    "words",
    [
        ("--frmat", "json", "net.py"),
        ("check",),
        ("net.py", "--format", "yaml"),
        ("net.py", "--fail-on", "terrible"),
        ("net.py", "-q", "-v"),
        ("explain",),
        ("explain", "ESP201", "ESP202"),
        ("net.py", "--config", "nope.toml"),
        ("net.py", "-o", "no/such/folder.md"),
        ("net.py", "-o", ".git"),
        ("net.py", "-o", "json:"),
        ("show-config", "nope"),
    ],
    ids=" ".join,
)
def test_wrong_words_are_one_line_and_exit_2(esper: Esper, words: tuple[str, ...]) -> None:
    result = esper(*words)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert (result.stdout, result.returncode) == ("", 2)


def test_names_that_are_no_utf8_or_hold_control_characters_are_shown_safely(esper: Esper, project: Path) -> None:
    for name in (b"caf\xe9.py", b"esc\x1b[31m.py"):
        Path(os.fsdecode(os.path.join(os.fsencode(project), name))).write_text("import torch\ndef f(:\n")
    result = esper(".", "--format", "json")
    assert "\x1b" not in result.stdout + result.stderr
    assert len(audited(result)) == 2
    concise = esper(".", "--format", "concise")
    assert "\x1b" not in concise.stdout + concise.stderr
    assert len(audited(concise)) == 2


def test_an_encoding_that_lacks_a_letter_does_not_lose_the_findings(esper: Esper, project: Path) -> None:
    (project / "smile.py").write_text("import torch\nx = '\u263a'  # esper: noqa\n")
    result = esper("smile.py", env={"PYTHONIOENCODING": "ascii"})
    assert "ESP903" in result.stdout
    assert result.returncode == 1
