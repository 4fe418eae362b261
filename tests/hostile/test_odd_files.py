"""Links, pipes, devices, huge files and other things called `*.py`, and what a stranger's configuration may do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from esper_audit.core.errors import SourceError
from esper_audit.engine import CheckRequest, audit, prepare
from esper_audit.semantics.project import Project
from esper_audit.semantics.source import MAX_BYTES, Source

from .auditing import as_json, assert_survived, audited_in, network

Esper = Callable[..., "subprocess.CompletedProcess[str]"]

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".git").mkdir()
    (folder / "net.py").write_text(network(before="from pipe import P\nfrom zero import Z\nfrom out import O\n"))
    return folder


@pytest.fixture
def esper(project: Path) -> Esper:
    """Run the tool in the folder above the project; a hang fails the test."""

    def run(*words: str, cwd: Path = project.parent, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "esper_audit", *words],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@posix
def test_pipes_and_devices_in_a_project_are_never_opened(esper: Esper, project: Path) -> None:
    """Neither when they are found, nor when a file imports them, nor where git would look for what it ignores."""
    os.mkfifo(project / "pipe.py")
    (project / "zero.py").symlink_to("/dev/zero")
    os.mkfifo(project / ".gitignore")
    os.mkfifo(project / "pyproject.toml")
    done = esper("project", "--format", "concise")
    assert "project/net.py:15:" in done.stdout
    assert (done.stderr, done.returncode) == ("", 1)


@posix
def test_a_device_that_is_named_is_refused(esper: Esper) -> None:
    done = esper("/dev/zero")
    assert (done.stdout.count("larger than"), done.returncode) == (1, 3)


@posix
def test_no_link_leads_the_audit_out_of_the_project(project: Path) -> None:
    """A project may hold a link to any file of the one who audits it: nothing of that may come to stand in a report."""
    secret = project.parent / "secret.py"
    secret.write_text("import torch\nO = 'password'\n")
    (project / "out.py").symlink_to(secret)
    (project / "pkg").symlink_to(project.parent)
    report = audited_in(project, {"other.py": network(before="from pkg.secret import O\n", mask="O")})
    assert_survived(report)
    assert "password" not in as_json(report)
    assert all(Path(file.path).name in ("net.py", "other.py") for file in report.files)
    assert Project(project).module_path(project / "net.py", "out") is None
    assert Project(project).module_path(project / "net.py", "pkg.secret") is None


@posix
def test_a_link_inside_the_project_is_followed_by_imports(project: Path) -> None:
    (project / "real.py").write_text("K = 1\n")
    (project / "alias.py").symlink_to("real.py")
    assert Project(project).module_path(project / "net.py", "alias") == project / "alias.py"


def test_a_file_that_is_too_large_is_refused_in_one_line(project: Path) -> None:
    with open(project / "big.py", "wb") as file:
        file.write(b"import torch\n")
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(SourceError, match=r"cannot be read: it is larger than 16 mb"):
        Source.read(project / "big.py")
    report = audited_in(project, {})
    assert [file.status for file in report.files] == ["unparsable", "audited"]


def test_a_million_lines_are_read(project: Path) -> None:
    assert_survived(audited_in(project, {"long.py": network() + "\n" * 1_000_000}))


def test_a_file_that_vanishes_or_changes_during_the_audit_costs_nothing_else(project: Path) -> None:
    names = [project / f"f{number}.py" for number in range(3)]
    for path in names:
        path.write_text(network())
    plan = prepare(CheckRequest(paths=(str(project),), isolated=True))

    def meddle(done: int, total: int, path: str) -> None:
        del done, total
        if path.endswith("f1.py") and names[1].exists():  # before it is read
            names[1].unlink()
            names[2].write_text("import torch\ndef f(:\n")

    report = audit(plan, progress=meddle)
    assert_survived(report)
    assert {Path(file.path).name: file.status for file in report.files} == {
        "f0.py": "audited",
        "f1.py": "unparsable",
        "f2.py": "unparsable",
        "net.py": "audited",
    }
    as_json(report)


# --- the configuration of a stranger

EVIL = """\
[tool.esper-audit]
plugins = ["evil_rules"]
{more}
"""


def code_runs(project: Path) -> Path:
    """Arm the project: whatever of its code is run leaves a mark."""
    mark = project.parent / "it_ran"
    boom = f"open({str(mark)!r}, 'w').close()\n"
    for name in ("evil_rules", "conftest", "setup", "sitecustomize", "torch", "libcst", "rich", "__init__"):
        (project / f"{name}.py").write_text(boom)
    (project / "net.py").write_text(boom + network())
    return mark


@pytest.mark.parametrize(
    "more",
    [
        "probe = true",
        '[tool.esper-audit.probe."net.py::Policy"]\nfactory = "evil_rules:make"',
        '[tool.esper-audit.probe."project/net.py::Policy"]\nargs = {size = 8}',
    ],
)
def test_nothing_of_an_audited_project_is_run(esper: Esper, project: Path, more: str) -> None:
    mark = code_runs(project)
    (project / "pyproject.toml").write_text(EVIL.format(more=more))
    done = esper("project", "-v")
    assert done.returncode == 1, done.stderr
    assert "'plugins' is ignored" in done.stderr
    assert "'probe' is ignored" in done.stderr
    assert not mark.exists()


def test_nothing_is_run_either_where_one_stands_in_the_project(project: Path) -> None:
    """As the installed command runs. That `python -m` puts the current folder first is the interpreter's affair."""
    mark = code_runs(project)
    words = "import sys; sys.path[:] = [p for p in sys.path if p]; from esper_audit.__main__ import main; main()"
    subprocess.run(
        [sys.executable, "-c", words, "."],
        cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=False,
        capture_output=True,
    )
    assert not mark.exists()


@pytest.mark.parametrize(
    "setting",
    ['exclude = ["*"]', 'per-file-ignores = {"*" = ["ESP"]}', 'severity = {ESP201 = "info"}', 'ignore = ["ESP2"]'],
)
def test_a_stranger_who_hides_findings_is_told(esper: Esper, project: Path, setting: str) -> None:
    (project / "pyproject.toml").write_text(f"[tool.esper-audit]\n{setting}\n")
    key = setting.partition(" ")[0]
    note = f"note: project/pyproject.toml decides what is shown ({key}); --isolated reads no settings"
    assert note in esper("project").stderr.splitlines()
    assert "ESP201" in esper("project", "--isolated").stdout


def test_ones_own_settings_are_no_news(esper: Esper, project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.esper-audit]\nignore = ["ESP2"]\n')
    assert "decides what is shown" not in esper(".", cwd=project).stderr


@pytest.mark.parametrize("toml", ["x = " + "1" * 5000, "x = " + "[" * 5000, "\x00", "a.a.a" + ".a" * 5000 + " = 1"])
def test_an_odd_configuration_is_one_line(esper: Esper, project: Path, toml: str) -> None:
    (project / "pyproject.toml").write_text(toml + "\n")
    done = esper("project")
    assert "itself failed" not in done.stderr
    assert done.stderr.count("error: ") == done.stderr.count("\n") == (done.returncode == 2)
