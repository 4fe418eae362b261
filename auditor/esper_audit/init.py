"""What `esper-audit init` would write: a configuration table, a pre-commit hook and a CI job, each as text.

Files that exist are only ever appended to or added a block to, as text, so that every byte of theirs stays. Where the
text does not show for certain where the block belongs, nothing is planned and the block is given to be pasted.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

from esper_audit import __version__
from esper_audit.collect import display_path
from esper_audit.config import FILE_NAME, SECTION, load
from esper_audit.console import write_file
from esper_audit.core.errors import UsageError
from esper_audit.reporters.alerts import HOME

HOOKS = ".pre-commit-config.yaml"
WORKFLOW = ".github/workflows/esper-audit.yml"
GITLAB = ".gitlab-ci.yml"

TABLE = """\
[tool.esper-audit]
select = ["ALL"]      # the rules to run; `esper-audit list-rules` tells them
fail-on = "medium"    # the severity from which on a run fails
"""

HOOK = f"""\
- repo: {HOME}
  rev: v{__version__}
  hooks:
    - id: esper-audit
"""

GITHUB_JOB = f"""\
name: esper-audit

on:
  push:
    branches: [main, master]
  pull_request:

permissions: {{}}

concurrency:
  group: ${{{{ github.workflow }}}}-${{{{ github.ref }}}}
  cancel-in-progress: true

jobs:
  esper-audit:
    name: Audit networks
    runs-on: ubuntu-latest
    timeout-minutes: 10
    permissions:
      contents: read # to check the code out
      security-events: write # to upload the SARIF report
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
        with:
          persist-credentials: false
      - uses: esper-audit/esper-audit@v{__version__}
        with:
          path: .
          # code scanning, which pull requests from forks may not write to, and private repositories may not have
          sarif: ${{{{ github.event_name == 'push' && !github.event.repository.private && 'esper-audit.sarif' || '' }}}}
"""

GITLAB_JOB = f"""\
esper-audit:
  image: python:3.13-slim
  variables:
    ESPER_AUDIT: {HOME}/archive/refs/tags/v{__version__}.tar.gz
  before_script:
    - python -m pip install --quiet "esper-audit @ $ESPER_AUDIT"
  script:
    - esper-audit check . -o gitlab:gl-code-quality-report.json
  artifacts:
    when: always
    reports:
      codequality: gl-code-quality-report.json
"""


@dataclass(frozen=True, slots=True)
class Change:
    """A file as it is (None where there is none) and as it would be."""

    name: str
    path: Path
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What would be written, and what is to be said about the rest."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]


class LeftAlone(Exception):  # noqa: N818 - no error: the reason why a file stays as it is
    """A file stays as it is; the message says why."""


class Paste(LeftAlone):
    """A block belongs into the file, and the text does not show for certain where: it is for a person to paste."""


_Edit = Callable[["str | None"], str]
_Wanted = tuple[str, _Edit, str]  # a file, what makes the new text of the old one, and the block that this adds


def plan(word: str, cwd: Path) -> Plan:
    """What `init` would do in the folder `word`; raises UsageError for a folder that is no project, and ConfigError."""
    folder = cwd / word
    if not folder.is_dir():
        state = "is a file" if folder.exists() else "does not exist"
        raise UsageError(f"init takes the folder of a project, but {word!r} {state}")
    repository = (folder / ".git").exists()
    if not repository and not (folder / FILE_NAME).exists():
        raise UsageError(f"{word!r} is no project: it holds neither {FILE_NAME} nor .git; name the folder that does")
    configured = load(folder, cwd=cwd).file
    wanted: list[_Wanted] = []
    notes = []
    if configured is None:
        wanted.append((FILE_NAME, _with_table, TABLE))
    else:  # a table of its own would put that of a folder above out of force
        notes.append(f"{display_path(configured, cwd)}: configures esper-audit already, left alone")
    if repository:
        wanted.append((HOOKS, with_hook, HOOK))
        jobs = _jobs(folder)
        wanted += jobs
        if not jobs:
            notes.append("no CI job: neither GitHub nor GitLab shows in the repository; the README has a shell script")
    else:
        notes.append("no hook and no CI job: they belong into the root of the repository, which holds .git")
    changes = []
    for name, edit, block in wanted:
        path = folder / name
        shown = display_path(path, cwd)
        try:
            before = _text(path, folder)
            changes.append(Change(shown, path, before, edit(before)))
        except Paste as reason:
            notes.append(f"{shown}: left alone, {reason}; paste this yourself:\n{block}".rstrip("\n"))
        except LeftAlone as reason:
            notes.append(f"{shown}: {reason}")
    return Plan(tuple(changes), tuple(notes))


def _text(path: Path, folder: Path) -> str | None:
    """The text of a file byte for byte, None where there is none; raises LeftAlone."""
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    if not inside:
        raise LeftAlone("left alone: a link leads out of the project")
    if not os.path.lexists(path):
        return None
    if not path.is_file():
        raise LeftAlone("left alone: no regular file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LeftAlone(f"left alone: cannot be read: {(error.strerror or str(error)).lower()}") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise LeftAlone("left alone: not UTF-8") from None


def _jobs(folder: Path) -> list[_Wanted]:
    """The CI that the repository uses: by its files, and where there are none by the remote of its clone."""
    github = (WORKFLOW, lambda before: _with_workflow(before, folder), GITHUB_JOB)
    gitlab = (GITLAB, _with_job, GITLAB_JOB)
    found = [job for job, sign in ((github, ".github"), (gitlab, GITLAB)) if (folder / sign).exists()]
    if found:
        return found
    try:
        remotes = re.findall(
            r"^\s*url\s*=\s*(\S+)", (folder / ".git/config").read_text("utf-8", "replace"), re.MULTILINE
        )
    except OSError:  # no remote, or .git is a file, as in a worktree
        return []
    return [job for job, host in ((github, "github"), (gitlab, "gitlab")) if any(host in url for url in remotes)][:1]


def _newline(text: str) -> str:
    """What ends the lines of a text."""
    return "\r\n" if text.count("\r\n") * 2 > text.count("\n") else "\n"


def _appended(before: str, block: str) -> str:
    """The text with a block at its end, after one empty line."""
    newline = _newline(before)
    gap = "" if not before else newline if before.endswith("\n") else newline * 2
    return before + gap + block.replace("\n", newline)


# --- pyproject.toml


def _with_table(before: str | None) -> str:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    if before is None:
        raise LeftAlone("there is none, so the defaults are in force")
    known = tomllib.loads(before)
    after = _appended(before, TABLE)
    try:
        known.setdefault("tool", {}).update(tomllib.loads(TABLE)["tool"])
        right = tomllib.loads(after) == known
    except (AttributeError, tomllib.TOMLDecodeError):  # `tool` is closed, or is no table
        right = False
    if not right:
        raise Paste(f"{SECTION} cannot be appended")
    return after


# --- YAML, without a parser: a plain shape is known, any other is not touched

_KEY = re.compile(r"[A-Za-z_.][^:#\"'\[\]{}]*:(\s|$)")
_KEEPS_EMPTY_LINES = re.compile(r"[|>]\d?\+")
_BLOCK_TEXT = re.compile(r"[|>][-\d]*[ \t]*(#.*)?\r?$", re.MULTILINE)
_HOOK_ID = re.compile(r"^[^#\n]*\bid:\s*[\"']?esper-audit", re.MULTILINE)
_MENTION = re.compile(r"^[^#\n]*esper-audit", re.MULTILINE)


def _top_level(text: str) -> list[str]:
    """The lines of a YAML file that is one mapping in block style; raises Paste for every other shape."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    begun = False
    for line in lines:
        if line[0] in " #\r\n":
            continue
        starts = line.rstrip() == "---" and not begun
        begun = True
        if not starts and not _KEY.match(line) and not line.startswith("- "):
            raise Paste("it is not written as one key per line")
    if _KEEPS_EMPTY_LINES.search(text):
        raise Paste("a text in it keeps the empty lines that follow")
    if not text.endswith("\n") and _BLOCK_TEXT.search(text):
        raise Paste("a text in it may end without a line end, and would get one")
    return lines


def with_hook(before: str | None) -> str:
    """The text of .pre-commit-config.yaml with the hook in it; None where there is no such file yet."""
    if not (before or "").strip():
        return (before or "") + "repos:\n" + indent(HOOK, "  ")
    assert before is not None
    if _HOOK_ID.search(before):
        raise LeftAlone("has the hook already, left alone")
    lines = _top_level(before)
    starts = [number for number, line in enumerate(lines) if re.match(r"repos:\s*(#.*)?$", line)]
    if len(starts) != 1:
        raise Paste("it has no `repos:` with one entry per line")
    first = starts[0] + 1
    end = next((number for number in range(first, len(lines)) if _KEY.match(lines[number])), len(lines))
    entry = next((line for line in lines[first:end] if line.strip() and not line.lstrip().startswith("#")), "")
    margin = re.match(r"( *)- ", entry)
    if margin is None:
        raise Paste("it has no `repos:` with one entry per line")
    if any(line.strip() and line.lstrip()[0] != "#" and not line.startswith(margin[1]) for line in lines[first:end]):
        raise Paste("its entries are not equally indented")
    if end < len(lines):  # what stands above the next key belongs to that key
        while lines[end - 1][0] in "#\r\n":
            end -= 1
    newline = _newline(before)
    head = "".join(lines[:end])
    if not head.endswith("\n"):
        head += newline
    block = "".join(f"{margin[1]}{line}{newline}" for line in HOOK.splitlines())
    return head + block + "".join(lines[end:])


def _with_job(before: str | None) -> str:
    if not (before or "").strip():
        return (before or "") + GITLAB_JOB
    assert before is not None
    if _MENTION.search(before):
        raise LeftAlone("has the job already, left alone")
    lines = _top_level(before)
    first = next((number for number, line in enumerate(lines) if line.startswith("stages:")), len(lines))
    end = next((number for number in range(first + 1, len(lines)) if _KEY.match(lines[number])), len(lines))
    if lines[first:end] and not re.search(r"(?<![\w-])test(?![\w-])", "".join(lines[first:end])):
        raise Paste("its `stages` hold no `test`: the job needs a `stage:` of yours")
    return _appended(before, GITLAB_JOB)


def _with_workflow(before: str | None, folder: Path) -> str:
    if before is not None:
        raise LeftAlone("exists, left alone")
    workflows = sorted((folder / WORKFLOW).parent.glob("*.y*ml"))
    for path in workflows:
        if path.is_file() and _MENTION.search(path.read_text("utf-8", "replace")):
            raise LeftAlone(f"not needed, {path.name} runs esper-audit already")
    return GITHUB_JOB


# --- showing and writing


def diff(changes: Sequence[Change], *, color: bool = False) -> str:
    """The changes as a unified diff; what stands in the files is a stranger's text and made visible."""
    import difflib

    from esper_audit.reporters.escape import visible

    paint = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"} if color else {}
    shown = []
    for change in changes:
        before = (change.before or "").split("\n")
        after = change.after.split("\n")
        if after[-1] == "":
            before, after = before[: -1 if before[-1] == "" else None], after[:-1]
        origin = "/dev/null" if change.before is None else change.name
        for line in difflib.unified_diff(before, after, origin, change.name, lineterm=""):
            text = visible(line.removesuffix("\r"))
            shown.append(f"{paint[line[0]]}{text}\x1b[0m" if line[0] in paint else text)
    return "".join(f"{line}\n" for line in shown)


def write(change: Change) -> None:
    """Write one file; raises OSError, and UsageError when the file is not any more what was shown."""
    now = change.path.read_bytes() if change.path.exists() else None
    if now != (None if change.before is None else change.before.encode("utf-8")):
        raise UsageError(f"{change.name!r} has changed in the meantime: run init again")
    change.path.parent.mkdir(parents=True, exist_ok=True)
    write_file(change.path, lambda sink: sink.write(change.after))
