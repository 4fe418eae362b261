"""Paths to files: what the words on the command line name, and which files of a folder an audit looks at.

A file that is named is always audited; a folder is walked, minus what git ignores, what the configuration excludes and
what is nobody's source (virtual environments, build results, hidden folders).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from esper_audit.core.errors import ConfigError
from esper_audit.semantics.source import read_bytes

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

STDIN = "-"

# Folders that hold no source of the project. `env` is missing on purpose: RL projects keep their environments there, so
# an environment folder is known by the files that venv and conda leave in it, not by its name.
SKIPPED_FOLDERS = frozenset({
    "__pycache__", "__pypackages__", "build", "dist", "node_modules", "site-packages", "venv", "wheels",
})  # fmt: skip
_ENVIRONMENT_MARKS = ("pyvenv.cfg", "conda-meta")


@dataclass(frozen=True, slots=True)
class Target:
    """One file to audit: where it is, how reports call it, and whether it was named itself or found in a folder."""

    path: Path
    display: str
    explicit: bool
    stdin: bool = False


@dataclass(frozen=True, slots=True)
class Collection:
    """What the paths came to, sorted by display path.

    `problems` are faults of the command line that leave the rest of the run possible (exit 2); `notes` are worth a
    line; `details` only for those who ask for more.
    """

    targets: tuple[Target, ...] = ()
    excluded: tuple[str, ...] = ()
    walked: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


def display_path(path: Path, cwd: Path) -> str:
    """The path as reports write it: posix, relative below the current folder, else absolute."""
    absolute = Path(os.path.abspath(cwd / path))
    for candidate in (absolute, Path(os.path.realpath(absolute))):
        try:
            return candidate.relative_to(cwd).as_posix()
        except ValueError:
            continue
    return absolute.as_posix()


class Patterns:
    """Gitignore-style patterns of the configuration, relative to the folder of the configuration file."""

    def __init__(self, patterns: Sequence[str], base: Path, origin: str = "exclude") -> None:
        self._patterns = tuple(patterns)
        self._base = base
        self._origin = origin

    def __bool__(self) -> bool:
        return bool(self._patterns)

    @cached_property
    def _spec(self) -> GitIgnoreSpec:
        for pattern in self._patterns:
            if not _valid_pattern(pattern):
                raise ConfigError(f"{self._origin}: {pattern!r} is not a valid pattern")
        return _spec(self._patterns)

    def match(self, path: Path, *, folder: bool = False) -> bool:
        """Whether the patterns name the path or a folder above it."""
        if not self._patterns:
            return False
        try:
            relative = path.relative_to(self._base).as_posix()
        except ValueError:
            relative = path.as_posix().lstrip("/")  # patterns without a slash still apply
        return self._spec.match_file(f"{relative}/" if folder else relative)


def _spec(lines: Iterable[str]) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec  # 30 ms: only when a folder brings patterns along

    return GitIgnoreSpec.from_lines(lines)


def _valid_pattern(line: str) -> bool:
    try:
        _spec([line])
    except ValueError:
        return False
    return True


class _GitIgnores:
    """The .gitignore files in force in one folder, outermost first; the innermost that has an opinion decides."""

    def __init__(self, specs: tuple[tuple[Path, GitIgnoreSpec], ...] = ()) -> None:
        self._specs = specs

    def entering(self, folder: Path) -> _GitIgnores:
        """The rules inside `folder`: these and those of its own .gitignore."""
        try:
            text = read_bytes(folder / ".gitignore", limit=1_000_000).decode(errors="replace")
        except OSError:
            return self
        lines = text.splitlines()
        try:
            spec = _spec(lines)
        except ValueError:  # git passes over a line it cannot read; so do we
            spec = _spec([line for line in lines if _valid_pattern(line)])
        return _GitIgnores((*self._specs, (folder, spec)))

    def ignores(self, path: Path, *, folder: bool) -> bool:
        for base, spec in reversed(self._specs):
            relative = path.relative_to(base).as_posix()
            verdict = spec.check_file(f"{relative}/" if folder else relative).include
            if verdict is not None:
                return verdict
        return False

    @classmethod
    def above(cls, root: Path) -> _GitIgnores:
        """The rules that reach `root` from the repository around it; none when that repository ignores `root` itself.

        Who names an ignored folder wants it audited.
        """
        folders = [root, *root.parents]
        repository = next((number for number, folder in enumerate(folders) if (folder / ".git").exists()), 0)
        ignores = cls()
        for outer, inner in zip(reversed(folders[: repository + 1]), reversed(folders[:repository]), strict=False):
            ignores = ignores.entering(outer)
            if ignores.ignores(inner, folder=True):
                return cls()
        return ignores


class _Walk:
    """One walk through a folder. Links are not followed.

    A link into the tree leads to what the walk finds anyway, a link out of it to what nobody asked for, and a link to a
    folder above would never end.
    """

    def __init__(self, root: Path, exclude: Patterns) -> None:
        self._root = root
        self._exclude = exclude
        self.links: list[Path] = []
        self.closed: list[tuple[Path, str]] = []

    def files(self) -> Iterator[Path]:
        pending = [(self._root, _GitIgnores.above(self._root))]
        while pending:
            folder, outer = pending.pop()
            try:
                with os.scandir(folder) as entries:
                    listing = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                self.closed.append((folder, _reason(error)))
                continue
            ignores = outer.entering(folder)
            for entry in listing:
                path = folder / entry.name
                if entry.is_symlink():
                    if entry.name.endswith(".py") or os.path.isdir(path):
                        self.links.append(path)
                elif entry.is_dir(follow_symlinks=False):
                    if not _is_foreign(path) and not self._leaves_out(path, ignores, folder=True):
                        pending.append((path, ignores))
                elif (
                    entry.name.endswith(".py")
                    and entry.is_file(follow_symlinks=False)  # no pipes, no devices
                    and not self._leaves_out(path, ignores, folder=False)
                ):
                    yield path

    def _leaves_out(self, path: Path, ignores: _GitIgnores, *, folder: bool) -> bool:
        return self._exclude.match(path, folder=folder) or ignores.ignores(path, folder=folder)


def _is_foreign(folder: Path) -> bool:
    """Whether a folder is hidden or holds installed or built files."""
    name = folder.name
    if name.startswith(".") or name in SKIPPED_FOLDERS or name.endswith(".egg-info"):
        return True
    return any((folder / mark).exists() for mark in _ENVIRONMENT_MARKS)


def collect(
    paths: Sequence[str],
    *,
    cwd: Path,
    exclude: Patterns,
    force_exclude: bool = False,
    stdin_filename: str = "<stdin>",
    commands: Sequence[str] = (),
) -> Collection:
    """The files that `paths` name. Nothing is read but folders and .gitignore files."""
    targets: dict[str, Target] = {}
    excluded: list[str] = []
    walked: list[Path] = []
    problems: list[str] = []
    notes: list[str] = []
    details: list[str] = []

    for number, word in enumerate(paths):
        path = Path(os.path.abspath(cwd / word))
        if word == STDIN:
            path = Path(os.path.abspath(cwd / stdin_filename))
            targets.setdefault(STDIN, Target(path, display_path(path, cwd), explicit=True, stdin=True))
        elif not word or not os.path.lexists(path):  # an empty word is a forgotten variable, not the current folder
            problems.append(missing(word, path, commands if number == 0 else ()))
        elif force_exclude and _is_excluded(path, exclude, cwd):
            excluded.append(display_path(path, cwd))
        elif os.path.isdir(path):
            walk = _Walk(path, exclude)
            found = False
            for file in walk.files():
                found = True
                _add(targets, file, cwd, explicit=False)
            walked.append(path)
            notes.extend(f"cannot look into {display_path(at, cwd)!r}: {why}" for at, why in walk.closed)
            details.extend(f"link not followed: {display_path(link, cwd)}" for link in walk.links)
            if not found and not walk.closed:
                notes.append(f"no Python files to audit under {word!r}")
        else:
            _add(targets, path, cwd, explicit=True)
    return Collection(
        targets=tuple(sorted(targets.values(), key=lambda target: target.display)),
        excluded=tuple(sorted(set(excluded))),
        walked=tuple(walked),
        problems=tuple(problems),
        notes=tuple(notes),
        details=tuple(details),
    )


def _add(targets: dict[str, Target], path: Path, cwd: Path, *, explicit: bool) -> None:
    """Take in a file once, under whichever of its names comes first."""
    key = os.path.realpath(path)
    known = targets.get(key)
    if known is None:
        targets[key] = Target(path, display_path(path, cwd), explicit)
    elif explicit:
        targets[key] = replace(known, explicit=True)


def _is_excluded(path: Path, exclude: Patterns, cwd: Path) -> bool:
    """Whether a walk from the current folder would have left the named path out."""
    if exclude.match(path, folder=os.path.isdir(path)):
        return True
    inner = [folder for folder in (path, *path.parents) if cwd in folder.parents and os.path.isdir(folder)]
    return any(_is_foreign(folder) for folder in inner)


def missing(word: str, path: Path, commands: Sequence[str] = ()) -> str:
    """One line on a path that is not there, with the command or the file that was probably meant."""
    message = f"no such file or folder: {word!r}"
    if not word:
        return message
    import difflib  # only mistakes need it

    command = difflib.get_close_matches(word, commands, n=1, cutoff=0.7)
    if command:
        return f"{message}; did you mean the command {command[0]!r}?"
    try:
        neighbours = sorted(os.listdir(path.parent))
    except OSError:
        return message
    near = difflib.get_close_matches(path.name, neighbours, n=1, cutoff=0.6)
    if near:
        return f"{message}; did you mean {os.path.join(os.path.dirname(word), near[0])!r}?"
    return message


def _reason(error: OSError) -> str:
    if error.errno == errno.EACCES:
        return "permission denied"
    return (error.strerror or str(error)).lower()
