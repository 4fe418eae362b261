"""The repository keeps its word: what the documents say, the tool and the settings do."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from esper_audit import __version__
from esper_audit.cli import app
from esper_audit.config import WITHOUT_EFFECT, Settings
from esper_audit.core.report import AuditReport
from esper_audit.reporters import FORMATS
from esper_audit.rulekit import pages

from .check import CHECKS
from .readme import COMMAND, PAGES, README, ROOT, quoted, renewed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def tracked() -> list[Path]:
    """Every file that belongs to the repository."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("only a git checkout knows its files")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    paths = (ROOT / name for name in listing.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


# pyproject.toml


def settings() -> dict[str, Any]:
    document: dict[str, Any] = tomllib.loads(text_of("pyproject.toml"))
    return document


def bare_items(entries: list[str]) -> list[str]:
    """Those of the entries that stand in pyproject.toml without a comment behind them."""
    text = text_of("pyproject.toml")
    found = {entry: re.findall(rf'^ *"{re.escape(entry)}",? *(#? ?.*)$', text, re.MULTILINE) for entry in entries}
    return [entry for entry, comments in found.items() if not any(len(comment) > len("# why") for comment in comments)]


def test_every_dependency_has_its_reason() -> None:
    project = settings()["project"]
    extras = project["optional-dependencies"]
    assert not bare_items(project["dependencies"] + extras["dev"])
    assert re.search(r'^probe = \["torch.*"\] +# \w', text_of("pyproject.toml"), re.MULTILINE)


def test_everything_that_ruff_is_told_to_ignore_has_its_reason() -> None:
    lint = settings()["tool"]["ruff"]["lint"]
    assert lint["select"] == ["ALL"]
    ignored = [code for codes in lint["per-file-ignores"].values() for code in codes]
    assert not bare_items(lint["ignore"] + ignored)


def test_a_static_audit_does_not_install_torch() -> None:
    assert not [name for name in settings()["project"]["dependencies"] if name.startswith("torch")]


# README.md


def code_lines(text: str) -> Iterator[str]:
    """The lines of shell blocks, comments cut off."""
    for block in re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            yield re.sub(r"\s#\s.*", "", line)


def tool_commands(text: str) -> list[str]:
    """Every call of the tool in the text's shell blocks."""
    pieces = [piece.strip() for line in code_lines(text) for piece in re.split(r"&&|\|", line.removeprefix("$ "))]
    calls = (re.match(r"(?:\.venv/bin/)?esper-audit( .*)?$", piece) for piece in pieces)
    return [(call[1] or "").split(" > ", maxsplit=1)[0].strip() for call in calls if call]


def test_the_readme_shows_calls() -> None:
    assert len(tool_commands(text_of("README.md"))) > len(quoted(text_of("README.md")))


@pytest.mark.parametrize("words", tool_commands(README.read_text(encoding="utf-8")))
def test_a_call_in_the_readme_is_understood(words: str) -> None:
    commands: dict[str, Any] = getattr(get_command(app), "commands", {})
    name, *rest = shlex.split(words)
    if name not in commands:
        name, rest = "check", [name, *rest]
    commands[name].make_context(name, rest)


def test_the_readme_names_every_option_of_an_audit() -> None:
    check = getattr(get_command(app), "commands", {})["check"]
    options = {name for parameter in check.params for name in parameter.opts if name.startswith("-")}
    named = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text_of("README.md")))
    assert not options - named


def test_the_readme_names_every_setting_that_has_an_effect() -> None:
    table = text_of("README.md").partition("### Configure it")[2].partition("\n### ")[0]
    rows = dict(re.findall(r"^\| `([\w-]+)` \| `(.+?)` \|", table, re.MULTILINE))
    wanted = {key: value for key, value, _ in Settings().rows() if key not in WITHOUT_EFFECT}
    assert rows == wanted


def test_the_readme_names_every_key_of_the_json_report_and_every_format() -> None:
    text = text_of("README.md")
    table = text.partition("## What the JSON holds")[2].partition("\n## ")[0]
    first_cells = " ".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", first_cells)) == AuditReport().to_json().keys()
    assert re.findall(r"^- `(\w+)`: ", text, re.MULTILINE) == list(FORMATS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_documents_quote_what_the_tool_says_now(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == renewed(text), f"run `{COMMAND}`"


def test_ci_runs_the_second_command_of_the_readme() -> None:
    set_up = [line for line in code_lines(text_of("README.md")) if line.startswith("python3 -m venv")]
    steps = [line for line in text_of(".ci/run").splitlines() if re.match(r"python3|\.venv", line)]
    assert len(set_up) == 2
    assert set_up[1] == " && ".join(steps)
    assert set_up[1] in text_of("CONTRIBUTING.md")


def test_torch_is_pinned_for_tests() -> None:
    assert re.search(r"^torch==[\d.]+$", text_of("constraints.txt"), re.MULTILINE)


# The other documents


def test_every_page_of_a_rule_is_current() -> None:
    assert not pages.stale(ROOT / "docs" / "rules"), f"run `{pages.COMMAND}`"


def test_the_decisions_are_numbered_listed_and_short() -> None:
    folder = ROOT / "docs" / "decisions"
    records = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    assert [path.name[:4] for path in records] == [f"{number:04}" for number in range(1, len(records) + 1)]
    listed = re.findall(r"\]\((\d{4}-.*?\.md)\)", text_of("docs/decisions/README.md"))
    assert listed == [path.name for path in records]
    assert not [path.name for path in records if len(path.read_text(encoding="utf-8").splitlines()) > 50]


def test_the_changelog_knows_this_version() -> None:
    assert re.search(rf"^## .*\b{re.escape(__version__)}\b", text_of("CHANGELOG.md"), re.MULTILINE)


def test_contributors_are_told_every_check() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", text_of("CONTRIBUTING.md"), re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(rows)) == list(CHECKS)


def links(path: Path) -> Iterator[tuple[str, str]]:
    """File and anchor of every link in a document that does not leave the repository."""
    prose = re.sub(r"^(```|~~~).*?^\1", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`\n]*`", "", prose)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:", target):
            name, _, anchor = target.partition("#")
            yield name, anchor


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_no_link_between_documents_is_broken() -> None:
    documents = [path for path in tracked() if path.suffix == ".md" and "__snapshots__" not in path.parts]
    assert documents
    broken = []
    for document in documents:
        for name, anchor in links(document):
            target = (document.parent / name).resolve() if name else document
            if not target.exists() or (anchor and anchor not in anchors(target)):
                broken.append(f"{document.relative_to(ROOT)}: {name}#{anchor}")
    assert not broken


def test_no_file_names_a_path_of_somebody_s_machine() -> None:
    local = re.compile(rb"(?<![\w.~:/-])/(?:home|Users|root|work|workspace|mnt|srv|opt)/[\w.]|\b[A-Z]:\\Users\\")
    found = [path.relative_to(ROOT) for path in tracked() if local.search(path.read_bytes())]
    assert not found
