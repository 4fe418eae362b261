"""`esper-audit init` shows, asks, writes, and leaves alone what is there."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from esper_audit import __version__, init
from esper_audit.core.errors import UsageError

from .esper_process import Esper, environment

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HOOK = {
    "repo": "https://github.com/esper-audit/esper-audit",
    "rev": f"v{__version__}",
    "hooks": [{"id": "esper-audit"}],
}
PYPROJECT = b'[project]\nname = "x"  # a comment\n\n[tool.ruff]\nline-length = 79\n'


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, less what the fixture put there."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    return {name: data for name, data in names.items() if name not in ("net.py", "faulty.py")}


def test_without_a_terminal_it_shows_what_it_would_write_and_writes_nothing(inside: Esper, project: Path) -> None:
    (project / "pyproject.toml").write_bytes(PYPROJECT)
    (project / ".github").mkdir()
    result = inside("init")
    assert "+[tool.esper-audit]\n" in result.stdout
    assert "+      - id: esper-audit\n" in result.stdout
    assert "+++ .github/workflows/esper-audit.yml\n" in result.stdout
    assert result.stderr == "note: nothing is written: there is no terminal to ask on; --yes writes these 3 files\n"
    assert result.returncode == 0
    assert files(project) == {"pyproject.toml": PYPROJECT}


def test_yes_writes_and_a_second_run_changes_nothing(inside: Esper, project: Path) -> None:
    (project / "pyproject.toml").write_bytes(PYPROJECT)
    (project / ".github").mkdir()
    first = inside("init", "--yes")
    assert first.stdout.endswith(
        "wrote pyproject.toml\nwrote .pre-commit-config.yaml\nwrote .github/workflows/esper-audit.yml\n"
    )
    assert (first.stderr, first.returncode) == ("", 0)
    written = files(project)
    assert written["pyproject.toml"].startswith(PYPROJECT)
    assert yaml.safe_load(written[".pre-commit-config.yaml"]) == {"repos": [HOOK]}
    assert written[".github/workflows/esper-audit.yml"].decode() == init.GITHUB_JOB
    second = inside("init", "--yes")
    assert (second.stdout, second.returncode) == ("", 0)
    assert second.stderr.splitlines() == [
        "note: pyproject.toml: configures esper-audit already, left alone",
        "note: .pre-commit-config.yaml: has the hook already, left alone",
        "note: .github/workflows/esper-audit.yml: exists, left alone",
    ]
    assert files(project) == written


def test_what_it_writes_changes_no_setting(inside: Esper, project: Path) -> None:
    before = inside("show-config").stdout
    (project / "pyproject.toml").write_bytes(PYPROJECT)
    inside("init", "-y")
    after = inside("show-config").stdout
    values = [[line.split("#")[0].strip() for line in text.splitlines()[1:]] for text in (before, after)]
    assert values[0] == values[1]
    assert "# pyproject.toml" in after


def test_the_folder_may_be_another_one(inside: Esper, project: Path) -> None:
    (project / "sub" / ".git").mkdir(parents=True)
    result = inside("init", "sub", "--yes")
    assert "wrote sub/.pre-commit-config.yaml\n" in result.stdout
    assert "note: sub/pyproject.toml: there is none, so the defaults are in force\n" in result.stderr
    assert [*files(project)] == ["sub/.pre-commit-config.yaml"]


# --- pyproject.toml


@pytest.mark.parametrize(
    "before",
    [
        b"",
        PYPROJECT,
        PYPROJECT.rstrip(),
        PYPROJECT.replace(b"\n", b"\r\n"),
        '[project]\nname = "\N{LATIN SMALL LETTER U WITH DIAERESIS}"\n\n\n'.encode(),
        b"[tool]\nother = {a = 1}\n",
        b'text = """\n[tool.esper-audit]\n"""\n',
    ],
    ids=["empty", "plain", "no last newline", "CRLF", "not ASCII", "tool as a table", "looks configured"],
)
def test_the_table_is_appended_and_every_byte_before_it_stays(inside: Esper, project: Path, before: bytes) -> None:
    (project / "pyproject.toml").write_bytes(before)
    assert inside("init", "--yes").returncode == 0
    after = (project / "pyproject.toml").read_bytes()
    assert after.startswith(before)
    document = tomllib.loads(after.decode())
    assert document["tool"].pop("esper-audit") == {"select": ["ALL"], "fail-on": "medium"}
    if not document["tool"]:
        del document["tool"]
    assert document == tomllib.loads(before.decode())
    assert after.count(b"\r\n") in (0, after.count(b"\n"))


def test_where_no_table_can_be_appended_it_is_given_to_be_pasted(inside: Esper, project: Path) -> None:
    (project / "pyproject.toml").write_bytes(b"tool = {other = {}}\n")
    result = inside("init", "--yes")
    assert (
        "note: pyproject.toml: left alone, [tool.esper-audit] cannot be appended; paste this yourself:\n"
        in result.stderr
    )
    assert "note: [tool.esper-audit]\n" in result.stderr
    assert (project / "pyproject.toml").read_bytes() == b"tool = {other = {}}\n"


def test_a_table_of_a_folder_above_stays_in_force(inside: Esper, project: Path) -> None:
    (project / "pyproject.toml").write_bytes(b"[tool.esper-audit]\n")
    (project / "sub").mkdir()
    (project / "sub/pyproject.toml").write_bytes(PYPROJECT)
    result = inside("init", "sub", "--yes")
    assert result.stderr.startswith("note: pyproject.toml: configures esper-audit already, left alone\n")
    assert (project / "sub/pyproject.toml").read_bytes() == PYPROJECT


# --- .pre-commit-config.yaml

OTHER = {"repo": "https://example.org/other", "rev": "v1", "hooks": [{"id": "other"}]}
PLAIN = "repos:\n- repo: https://example.org/other\n  rev: v1\n  hooks:\n  - id: other\n"
INDENTED = "repos:\n  - repo: https://example.org/other\n    rev: v1\n    hooks:\n      - id: other  # why\n"


@pytest.mark.parametrize(
    "before",
    [
        PLAIN,
        INDENTED,
        PLAIN.rstrip(),
        INDENTED.replace("\n", "\r\n"),
        "# ours\n---\nfail_fast: true\n" + INDENTED + "\n# about the next\ndefault_stages: [pre-commit]\n",
        PLAIN + "\n# about the next\nci:\n  skip: [other]\n",
        INDENTED + "  # - repo: https://example.org/old\n",
        PLAIN + "# the end\n",
        "repos:  # all of them\n\n  # first\n" + INDENTED.partition("\n")[2],
        INDENTED.replace(
            "other  # why", "other\n        files: |\n          (?x)^(\n          # esper-audit\n          )"
        ),
    ],
)
def test_the_hook_is_added_to_those_that_are_there(inside: Esper, project: Path, before: str) -> None:
    path = project / ".pre-commit-config.yaml"
    path.write_bytes(before.encode())
    assert inside("init", "--yes").returncode == 0
    after = path.read_bytes().decode()
    wanted = yaml.safe_load(before)
    wanted["repos"].append(HOOK)
    assert yaml.safe_load(after) == wanted
    assert after.partition("# about the next")[2] == before.partition("# about the next")[2]
    kept = iter(after.splitlines())
    assert all(line in kept for line in before.splitlines())  # every line is still there, in its order
    assert after.count("\r\n") in (0, after.count("\n"))


@pytest.mark.parametrize(
    "before",
    [
        "repos: []\n",
        "repos:\n",
        '{"repos": []}\n',
        "fail_fast: true\n",
        "repos:\n" + INDENTED.partition("\n")[2] + "---\nrepos: []\n",
        "repos:\n\t- repo: local\n",
        "repos: &all\n- repo: local\n",
        PLAIN + "text: |+\n  kept\n\n",
        PLAIN.rstrip("\n") + "\n    text: |\n      # no line end",
        '"repos":\n- repo: local\n',
        "repos:\n  - repo: local\n    hooks: [\n]\n",
    ],
)
def test_what_is_written_otherwise_is_left_alone_and_the_hook_is_given_to_be_pasted(
    inside: Esper, project: Path, before: str
) -> None:
    path = project / ".pre-commit-config.yaml"
    path.write_text(before)
    result = inside("init", "--yes")
    assert "note: .pre-commit-config.yaml: left alone, " in result.stderr
    assert "note:     - id: esper-audit\n" in result.stderr
    assert (path.read_text(), result.returncode) == (before, 0)


LINES = st.sampled_from(
    [
        *INDENTED.splitlines(),
        *PLAIN.splitlines(),
        "",
        "# a comment",
        "    # deeper",
        "ci:",
        "  skip: [other]",
        "fail_fast: true",
        "---",
        "      text: |",
        "      text: |+",
        "          # esper-audit",
        "          - more",
        '      quoted: "a',
        '    b"',
        "      - {id: other}",
        "      flow: [a,",
        "        b]",
        "...",
        "    <<: *base",
    ]
)


@settings(max_examples=400, deadline=None)
@given(
    before=st.sampled_from([PLAIN, INDENTED]).map(str.splitlines),
    added=st.lists(st.tuples(st.integers(0, 8), LINES), max_size=5),
    newline=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
def test_the_hook_is_added_rightly_or_not_at_all(
    before: list[str], added: list[tuple[int, str]], newline: str, *, last: bool
) -> None:
    lines = [*before]
    for place, line in added:
        lines.insert(place, line)
    text = newline.join([*lines, ""] if last else lines)
    try:
        wanted = yaml.safe_load(text)
        valid = isinstance(wanted["repos"], list)
    except (yaml.YAMLError, TypeError, KeyError):
        valid = False
    assume(valid)
    try:
        after = init.with_hook(text)
    except init.LeftAlone:
        return
    wanted["repos"].append(HOOK)
    assert yaml.safe_load(after) == wanted


def test_a_file_that_cannot_be_read_as_text_is_left_alone(inside: Esper, project: Path) -> None:
    (project / ".pre-commit-config.yaml").write_bytes(b"# caf\xe9\nrepos:\n")
    assert "note: .pre-commit-config.yaml: left alone: not UTF-8\n" in inside("init", "--yes").stderr


# --- CI


def test_the_job_is_for_what_the_repository_uses(inside: Esper, project: Path) -> None:
    assert "note: no CI job: neither GitHub nor GitLab shows in the repository" in inside("init").stderr
    (project / ".git/config").write_text('[remote "origin"]\n\turl = git@gitlab.com:us/it.git\n')
    assert "+++ .gitlab-ci.yml\n" in inside("init").stdout
    (project / ".github").mkdir()
    assert ".gitlab-ci.yml" not in inside("init").stdout
    assert "+++ .github/workflows/esper-audit.yml\n" in inside("init").stdout


def test_a_workflow_that_runs_the_tool_is_enough(inside: Esper, project: Path) -> None:
    (project / ".github/workflows").mkdir(parents=True)
    (project / ".github/workflows/lint.yaml").write_text("steps: [{run: esper-audit src}]\n")
    result = inside("init", "--yes")
    assert "note: .github/workflows/esper-audit.yml: not needed, lint.yaml runs esper-audit already\n" in result.stderr
    assert "esper-audit.yml" not in result.stdout


@pytest.mark.parametrize(
    "before",
    [
        "test:\n  script: [make]\n",
        "stages: [build, test]\n\nbuild it:\n  stage: build\n  script:\n    - make",
        "stages:\n  - test\n\n.base/1:\n  image: x\n",
    ],
)
def test_the_job_for_gitlab_is_appended(inside: Esper, project: Path, before: str) -> None:
    path = project / ".gitlab-ci.yml"
    path.write_text(before)
    inside("init", "--yes")
    assert path.read_text().startswith(before)
    job = yaml.safe_load(init.GITLAB_JOB)
    assert yaml.safe_load(path.read_text()) == yaml.safe_load(before) | job
    assert "has the job already, left alone" in inside("init", "--yes").stderr


@pytest.mark.parametrize(
    "before", ["stages: [build]\n", "stages: [build]", "stages:\n- build\n- test-all\n", "{}\n", "a: 1\n---\nb: 1\n"]
)
def test_the_job_for_gitlab_is_given_to_be_pasted_where_it_does_not_fit(
    inside: Esper, project: Path, before: str
) -> None:
    (project / ".gitlab-ci.yml").write_text(before)
    result = inside("init", "--yes")
    assert "note: .gitlab-ci.yml: left alone, " in result.stderr
    assert (project / ".gitlab-ci.yml").read_text() == before


# --- what can be wrong


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nowhere", "init takes the folder of a project, but 'nowhere' does not exist"),
        ("net.py", "init takes the folder of a project, but 'net.py' is a file"),
        ("empty", "'empty' is no project: it holds neither pyproject.toml nor .git; name the folder that does"),
    ],
)
def test_a_wrong_folder_is_told_in_one_line(inside: Esper, project: Path, word: str, message: str) -> None:
    (project / "empty").mkdir()
    result = inside("init", word, "--yes")
    assert (result.stdout, result.stderr, result.returncode) == ("", f"error: {message}\n", 2)


def test_a_broken_pyproject_is_told_in_one_line_and_nothing_is_written(inside: Esper, project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool\n")
    result = inside("init", "--yes")
    assert result.stderr.startswith("error: pyproject.toml:1:6: not valid TOML: ")
    assert (result.stderr.count("\n"), result.returncode) == (1, 2)
    assert [*files(project)] == ["pyproject.toml"]


def test_a_project_that_is_no_repository_gets_its_table_only(inside: Esper, project: Path) -> None:
    (project / "sub").mkdir()
    (project / "sub/pyproject.toml").write_bytes(PYPROJECT)
    result = inside("init", "sub", "--yes")
    assert (
        "note: no hook and no CI job: they belong into the root of the repository, which holds .git\n" in result.stderr
    )
    assert [*files(project)] == ["sub/pyproject.toml"]


def test_one_file_that_cannot_be_written_does_not_keep_back_the_others(inside: Esper, project: Path) -> None:
    (project / "pyproject.toml").write_bytes(PYPROJECT)
    (project / ".github").write_text("")  # a file where a folder has to be
    result = inside("init", "--yes")
    assert result.stderr == "error: cannot write to '.github/workflows/esper-audit.yml': not a directory\n"
    assert result.stdout.endswith("wrote pyproject.toml\nwrote .pre-commit-config.yaml\n")
    assert result.returncode == 3


def test_a_link_that_leads_out_of_the_project_is_not_followed(
    inside: Esper, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "theirs.yaml"
    outside.write_text(PLAIN)
    (project / ".pre-commit-config.yaml").symlink_to(outside)
    result = inside("init", "--yes")
    assert "note: .pre-commit-config.yaml: left alone: a link leads out of the project\n" in result.stderr
    assert outside.read_text() == PLAIN


def test_what_a_file_of_a_stranger_says_cannot_act_on_the_terminal(inside: Esper, project: Path) -> None:
    (project / "pyproject.toml").write_bytes("# \N{RIGHT-TO-LEFT OVERRIDE}evil\n".encode())
    shown = inside("init").stdout
    assert r"# \u202eevil" in shown
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in shown


def test_a_file_that_changed_since_it_was_shown_is_not_written(project: Path) -> None:
    (project / "pyproject.toml").write_bytes(PYPROJECT)
    change = init.plan(".", project).changes[0]
    (project / "pyproject.toml").write_bytes(b"# new\n")
    with pytest.raises(UsageError, match="has changed in the meantime: run init again"):
        init.write(change)
    assert (project / "pyproject.toml").read_bytes() == b"# new\n"


# --- the question


def asked(project: Path, answer: bytes) -> tuple[str, int]:
    """What a person at a terminal sees, and the exit code."""
    (project / "pyproject.toml").write_bytes(PYPROJECT)
    controller, terminal = pty.openpty()
    os.write(controller, answer)
    process = subprocess.Popen(
        [sys.executable, "-m", "esper_audit", "init", "--color", "never"],
        cwd=project,
        env=environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    seen = b""
    while True:
        try:
            piece = os.read(controller, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        seen += piece
    os.close(controller)
    return seen.decode().replace("\r\n", "\n"), process.wait()


@pytest.mark.parametrize("answer", [b"y\n", b"YES\n"])
def test_yes_on_a_terminal_writes(project: Path, answer: bytes) -> None:
    seen, code = asked(project, answer)
    assert "Write these 2 files? [y/N] " in seen
    assert "wrote pyproject.toml\n" in seen
    assert code == 0
    assert b"[tool.esper-audit]" in (project / "pyproject.toml").read_bytes()


@pytest.mark.parametrize("answer", [b"\n", b"n\n", b"what?\n", b"\x04"], ids=["nothing", "no", "else", "end"])
def test_anything_else_on_a_terminal_writes_nothing(project: Path, answer: bytes) -> None:
    seen, code = asked(project, answer)
    assert "note: nothing is written\n" in seen
    assert code == 0
    assert files(project) == {"pyproject.toml": PYPROJECT}
