"""Which lines changed since a revision, for `--diff-base`: findings on all other lines are somebody else's past.

The repository belongs to a stranger, and git runs programs that a repository's configuration names: filters, diff
drivers, hooks, monitors, transports. So git is asked for objects and names only, and the comparison happens here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from esper_audit.core.errors import UsageError
from esper_audit.core.findings import Finding
from esper_audit.semantics.source import Source

_TIMEOUT = 60.0  # seconds; git answers within milliseconds, unless somebody put a pipe where it expects a file
_MOST_PAIRS = 4_000_000  # of equal lines: beyond that a comparison takes seconds, and no person wrote such a file
_MERGE_BASE = "..."
_KEPT_VARIABLES = ("GIT_CONFIG_COUNT", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_SYSTEM")
_KEPT_PREFIXES = ("GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_")  # the caller's own settings, `safe.directory` among them
_NO_PROGRAMS = (
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    "core.sshCommand=false",
    "core.pager=cat",
    "protocol.allow=never",
)


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a file that are new or different, as ranges; of lines that were deleted, the two around them."""

    changed: tuple[tuple[int, int], ...] = ()
    deleted: tuple[tuple[int, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.deleted)

    def touch(self, first: int, last: int) -> bool:
        """Whether something changed within the lines `first` to `last`."""
        return any(begin <= last and first <= end for begin, end in self.changed) or any(
            first <= before and after <= last for before, after in self.deleted
        )


@dataclass
class Changes:
    """What changed since `revision`, as its user wrote it, in whichever repository a file belongs to."""

    revision: str
    _repositories: dict[str, _Repository | None] = field(default_factory=dict)
    _roots: dict[str, str | None] = field(default_factory=dict)
    _lines: dict[Path, Lines | None] = field(default_factory=dict)

    def check(self, paths: Iterable[Path]) -> None:
        """Raise UsageError unless every path lies in a repository that knows the revision."""
        for path in paths:
            if self._repository(path) is None:
                raise UsageError(f"--diff-base needs a git repository, and {_shown(path)} is in none")

    def touch(self, finding: Finding, path: Path, source: Source | None) -> bool:
        """Whether a finding stands on a changed line of its file, whose absolute path is given.

        What an experiment alone found is about all of a network and stands at the head of a method: any change of the
        file will do. So it will where nobody can tell.
        """
        lines = self._of(path, source)
        if lines is None:
            return True
        if finding.origin == "probe":
            return bool(lines)
        span = finding.span
        last = span.end_line - (span.end_column == 1 and span.end_line > span.line)
        return lines.touch(span.line, last)

    def _of(self, path: Path, source: Source | None) -> Lines | None:
        if path not in self._lines:
            self._lines[path] = self._compared(path, source)
        return self._lines[path]

    def _compared(self, path: Path, source: Source | None) -> Lines | None:
        if source is None:
            return None
        try:
            repository = self._repository(path)
        except UsageError:  # a file that was only consulted, in another repository
            return None
        before = repository.before(_real(path)) if repository is not None else None
        if before is None:
            return None
        return changed_lines(Source(path, before).data_lines, source.data_lines)

    def _repository(self, path: Path) -> _Repository | None:
        root = self._root(os.path.dirname(_real(path)))
        if root is None:
            return None
        if root not in self._repositories:
            self._repositories[root] = _Repository.opened(root, self.revision)
        return self._repositories[root]

    def _root(self, folder: str) -> str | None:
        """The nearest folder at or above with a `.git`; a worktree and a submodule have a file of that name."""
        if folder not in self._roots:
            above = os.path.dirname(folder)
            if os.path.lexists(os.path.join(folder, ".git")):
                self._roots[folder] = folder
            else:
                self._roots[folder] = self._root(above) if above != folder else None
        return self._roots[folder]


def _real(path: Path) -> str:
    return os.path.realpath(path)


def _shown(path: Path) -> str:
    return repr(str(path))


@dataclass
class _Repository:
    """One repository at one commit."""

    root: str
    commit: str
    revision: str
    _files: dict[bytes, bytes] | None = None
    _renamed: dict[bytes, bytes] | None = None

    @classmethod
    def opened(cls, root: str, revision: str) -> _Repository:
        """The repository at the commit that `revision` names; `main...` is where the current branch left main."""
        name = revision.removesuffix(_MERGE_BASE)
        at_fork = name != revision
        repository = cls(root, "", revision)
        if not name or name.startswith("-") or "\0" in name:  # no revision begins like an option
            raise UsageError(f"--diff-base: {revision!r} is no revision")
        commit = repository._commit(name)
        if commit is None:
            raise UsageError(f"--diff-base: {name!r} is no revision that the repository in {root!r} has")
        if at_fork:
            head = repository._commit("HEAD")
            code, out, _ = repository._git("merge-base", commit, head or commit)
            commit = _object_name(out)
            if code or commit is None:
                raise UsageError(
                    f"--diff-base: {name!r} and HEAD have no common ancestor here; a shallow clone may lack it"
                )
        repository.commit = commit
        return repository

    def _commit(self, name: str) -> str | None:
        code, out, err = self._git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        if code and err:  # with --quiet, git speaks only when more than the name is wrong
            raise UsageError(f"--diff-base: {_first_line(err)}")
        return None if code else _object_name(out)

    def before(self, path: str) -> bytes | None:
        """What a file held, under this name or the one it was renamed from; None when it was not there."""
        name = os.fsencode(os.path.relpath(path, self.root))
        if os.sep != "/":
            name = name.replace(os.fsencode(os.sep), b"/")
        blob = self.files.get(name) or self.files.get(self.renamed.get(name, b""))
        if blob is None:
            return None
        code, out, err = self._git("cat-file", "blob", blob.decode("ascii"))
        if code:
            reason = _first_line(err) or "its content is missing; a partial clone may lack it"
            raise UsageError(f"--diff-base: cannot read {path!r} at {self.revision!r}: {reason}")
        return out

    @property
    def files(self) -> dict[bytes, bytes]:
        """Path -> blob of every file of the commit."""
        if self._files is None:
            out = self._asked("ls-tree", "-r", "-z", "--full-tree", self.commit)
            self._files = {}
            for line in out.split(b"\0"):
                about, _, path = line.partition(b"\t")
                if path and about.split()[1] == b"blob" and not about.startswith(b"120000"):
                    self._files[path] = about.split()[2]
        return self._files

    @property
    def renamed(self) -> dict[bytes, bytes]:
        """New path -> old path of files that git takes for renamed, as `git status` does; no filters.

        Python files alone: git would read every other blob as well, and a partial clone may lack the large ones.
        """
        if self._renamed is None:
            words = ("--cached", "-M", "--diff-filter=R", "--name-status", "-z", "--no-ext-diff", "--no-textconv")
            fields = self._asked("diff-index", *words, "--ignore-submodules", self.commit, "--", "*.py").split(b"\0")
            self._renamed = dict(zip(fields[2::3], fields[1::3], strict=False))
        return self._renamed

    def _asked(self, *words: str) -> bytes:
        code, out, err = self._git(*words)
        if code:
            raise UsageError(f"--diff-base: {_first_line(err) or f'git {words[0]} failed'}")
        return out

    def _git(self, *words: str) -> tuple[int, bytes, bytes]:
        import subprocess

        settings = [word for setting in _NO_PROGRAMS for word in ("-c", setting)]
        command = ["git", "--no-pager", *settings, "-C", self.root, *words]
        try:
            done = subprocess.run(  # noqa: S603 - a list of words, no shell; the revision cannot be an option
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=self._environment(),
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise UsageError(f"--diff-base: git did not answer within {_TIMEOUT:.0f} seconds") from None
        except OSError as error:
            reason = "is it installed?" if isinstance(error, FileNotFoundError) else (error.strerror or str(error))
            raise UsageError(f"--diff-base: cannot run git: {reason}") from None
        return done.returncode, done.stdout, done.stderr

    def _environment(self) -> dict[str, str]:
        """The caller's, less what points git elsewhere: inside a hook, git sets the index and the folder itself."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("GIT_") or name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
        }
        return {
            **kept,
            "GIT_ALLOW_PROTOCOL": "none",  # a partial clone must not fetch what is missing from wherever it says
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_CEILING_DIRECTORIES": os.path.dirname(self.root),
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }


def _object_name(out: bytes) -> str | None:
    word = out.decode("ascii", "replace").strip()
    return word if word and all(char in "0123456789abcdef" for char in word) else None


def _first_line(err: bytes) -> str:
    lines = err.decode("utf-8", "replace").strip().splitlines()
    return next((line.removeprefix("fatal: ") for line in lines if line.startswith("fatal: ")), "".join(lines[:1]))


def changed_lines(before: tuple[bytes, ...], after: tuple[bytes, ...]) -> Lines:
    """The lines of `after` that `before` lacks, and the places where it lost some."""
    head = 0
    while head < min(len(before), len(after)) and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(after)) - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    changed: list[tuple[int, int]] = []
    deleted: list[tuple[int, int]] = []
    for first, last in _differing(old, new):
        if first < last:
            changed.append((head + first + 1, head + last))
        else:
            deleted.append((head + first, head + first + 1))
    return Lines(tuple(changed), tuple(deleted))


def _differing(old: tuple[bytes, ...], new: tuple[bytes, ...]) -> Iterable[tuple[int, int]]:
    """The ranges of `new` that differ from `old`, empty ones where lines were only deleted."""
    if not old or not new:
        return [(0, len(new))] if old or new else []
    from collections import Counter
    from difflib import SequenceMatcher

    counts = Counter(old)
    if sum(counts[line] for line in new) > _MOST_PAIRS:
        return [(0, len(new))]
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    return [(first, last) for tag, _, _, first, last in matcher.get_opcodes() if tag != "equal"]
