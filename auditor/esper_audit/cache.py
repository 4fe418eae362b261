"""What earlier runs found, kept where it is known to hold still: a warm run parses nothing and loads no rule.

A result is kept with its footprint (`semantics.project.Footprint`) and is taken again only when every file in that is
unchanged, every path that was looked for answers as before, and no changed file holds a word that was searched for.
The file is data, sealed with a key of the user's own: what lies in a stranger's repository is not believed. Whatever is
wrong with a cache, the run goes on without it. docs/decisions/0012 has the reasons.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from esper_audit import __version__
from esper_audit.config import Settings
from esper_audit.core.files import LEFT_OVER, replace_file
from esper_audit.core.findings import (
    Category,
    Confidence,
    Edit,
    Finding,
    Fix,
    Highlight,
    Related,
    Severity,
    Span,
    Verdict,
)
from esper_audit.core.report import FileReport, HeadCard, MethodCard, NetworkCard
from esper_audit.semantics.project import Footprint, Project, project_root
from esper_audit.semantics.source import read_bytes

FOLDER = ".esper-audit-cache"
VARIABLE = "ESPER_AUDIT_CACHE_DIR"
_MAGIC = b"esper-audit cache 1 "
_CLOCK_SLACK = 2_000_000_000  # nanoseconds: clocks of file systems are coarse, and not always this machine's
_KEPT = 60 * 86_400  # seconds until a file that no run has used is removed
_OURS = re.compile(rf"[0-9a-f]{{32}}\.json|{LEFT_OVER.pattern}")
_TAG = (
    "Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache of esper-audit: it may be deleted.\n"
    "# See https://bford.info/cachedir/\n"
)


# --- where it lies, and what it is for


def user_folder() -> Path | None:
    """The user's own cache folder for this tool; None where there is none."""
    words = os.environ
    if sys.platform == "win32":
        base = words.get("LOCALAPPDATA", "")
    else:
        base = words.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        home = os.path.expanduser("~")
        if not os.path.isabs(home):
            return None
        base = os.path.join(home, "Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(base, "esper-audit")


def folder_for(settings: Settings, cwd: Path, given: str | None) -> Path | None:
    """Where the cache of a run lies: as told, beside the caller's own configuration, or in the user's folder.

    A configuration below the current folder, or beside it, belongs to a project that is read: nothing is written there.
    """
    named = given or os.environ.get(VARIABLE)
    if named:
        return cwd / named
    if settings.file is not None and settings.root in (cwd, *cwd.parents):
        return settings.root / FOLDER
    base = user_folder()
    return base / hashlib.blake2b(os.fsencode(cwd), digest_size=8).hexdigest() if base is not None else None


def _tree_signature(folder: str, *, content: bool) -> Iterator[str]:
    """What changes when code below a folder does: names with content, or with time and size where that will do."""
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            if name.endswith(".py"):
                path = os.path.join(at, name)
                if content:
                    yield f"{path} {hashlib.blake2b(Path(path).read_bytes()).hexdigest()}"
                else:
                    seen = os.stat(path)
                    yield f"{path} {seen.st_mtime_ns} {seen.st_size}"


def _code_signature(plugins: Sequence[str]) -> Iterator[str]:
    for name in ("esper_audit", "esper_rules"):
        spec = find_spec(name)
        for folder in spec.submodule_search_locations or () if spec is not None else ():
            yield from _tree_signature(folder, content=False)
    libcst = find_spec("libcst")
    if libcst is not None and libcst.origin:
        seen = os.stat(os.path.join(os.path.dirname(libcst.origin), "_version.py"))
        yield f"libcst {libcst.origin} {seen.st_mtime_ns} {seen.st_size}"
    for plugin in plugins:
        spec = find_spec(plugin.partition(".")[0])
        if spec is None or not (spec.submodule_search_locations or spec.has_location):
            raise ValueError(f"the code of plugin {plugin!r} cannot be found without importing it")
        if spec.submodule_search_locations:
            for folder in spec.submodule_search_locations:
                yield from _tree_signature(folder, content=True)
        elif spec.origin:
            yield f"{spec.origin} {hashlib.blake2b(Path(spec.origin).read_bytes()).hexdigest()}"


def _question(settings: Settings, cwd: Path) -> str:
    """A digest of everything but the files that decides what an audit finds and how it calls the places."""
    parts = [
        __version__,
        sys.version,
        sys.platform,
        str(cwd),
        repr((settings.file_selectors, settings.command_selectors)),
        repr(sorted(settings.roles.items())),
        repr((settings.plugins, settings.first_party)),
        *_code_signature(settings.plugins),
    ]
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _key() -> bytes:
    """The user's own secret, made at first need. Raises OSError."""
    folder = user_folder()
    if folder is None:
        raise OSError("no home folder for the key of the cache")
    path = folder / "key"
    with contextlib.suppress(FileNotFoundError):
        if len(key := path.read_bytes()) == 32:
            return key
    folder.mkdir(parents=True, exist_ok=True)
    key = os.urandom(32)
    replace_file(path, key)
    return path.read_bytes()  # of two runs that made one at the same time, the last one's


# --- results as data

_DATA = {
    kind.__name__: kind
    for kind in (FileReport, NetworkCard, HeadCard, MethodCard, Finding, Span, Related, Fix, Edit, Highlight)
}
_ENUMS: dict[str, type[Enum]] = {kind.__name__: kind for kind in (Category, Confidence, Severity, Verdict)}


def encoded(value: object) -> Any:
    """Plain lists for a result. Raises TypeError for what no result holds."""
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, Enum):
        return ["e", type(value).__name__, value.value]
    if isinstance(value, tuple):
        return ["t", *map(encoded, value)]
    if dataclasses.is_dataclass(value) and type(value).__name__ in _DATA:
        fields = (encoded(getattr(value, field.name)) for field in dataclasses.fields(value))
        return ["d", type(value).__name__, *fields]
    raise TypeError(f"{type(value).__name__} is no part of a result")


def decoded(value: Any) -> Any:
    """The result again. Raises LookupError, TypeError or ValueError for anything else."""
    if not isinstance(value, list):
        return value
    kind, *rest = value
    if kind == "t":
        return tuple(map(decoded, rest))
    if kind == "e":
        return _ENUMS[rest[0]](rest[1])
    if kind != "d":
        raise ValueError(f"unknown kind {kind!r}")
    return _DATA[rest[0]](*map(decoded, rest[1:]))


# --- the cache


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """What became of one file. `root` is that of its project, empty for a file in which torch does not occur."""

    root: str
    explicit: bool
    marked: bool  # whether a suppression comment may stand in it
    report: FileReport
    findings: tuple[Finding, ...] = ()
    highlights: tuple[Highlight, ...] = ()
    consulted: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """What a run looked up in one project, as plain data that another process can hand over."""

    root: str
    listing: frozenset[str] | None
    ground: Mapping[str, bool]
    prints: Mapping[str, Footprint]  # as in `_Known`
    digests: Mapping[str, str]  # of the files as they were read

    @classmethod
    def of(cls, project: Project) -> Trace:
        """The trace that a project holds now."""
        groups = (("f", project.facts), ("a", project.audits), ("t", project.targets))
        return cls(
            str(project.root),
            frozenset(map(str, project.listing)) if project.listing is not None else None,
            dict(project.ground.probes),
            {f"{letter} {path}": each for letter, group in groups for path, each in group.items()},
            {str(path): _digest_of(source.data) for path, source in project.known_sources.items()},
        )


@dataclasses.dataclass(slots=True)
class _Known:
    """One project as the file tells it, and which of it still holds."""

    listing: frozenset[str] | None
    ground: dict[str, bool]
    prints: dict[str, Footprint]  # "f path", "a path" and "t path": facts, audits and targets
    stale: set[str]


class Cache:
    """One file of results: those of one question, asked in one folder. Never raises but for a KeyboardInterrupt."""

    def __init__(self, path: Path | None, key: bytes, trouble: str = "") -> None:
        self.path = path
        self.trouble = trouble  # why nothing is kept, for those who ask
        self.hits = 0
        self.names: dict[str, str] = {}
        self._key = key
        self._began = time.time_ns()
        self._files: dict[str, list[Any]] = {}
        self._entries: dict[str, Any] = {}
        self._new: dict[str, Entry] = {}
        self._projects: dict[str, Any] = {}
        self._known: dict[str, _Known] = {}
        self._changed: dict[str, bool] = {}
        self._roots: dict[Path, str] = {}
        self._refreshed = False
        if path is not None:
            try:
                self._load(path)
            except FileNotFoundError:
                pass
            except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
                self.trouble = f"the cache is damaged or not ours and is made anew: {error}"
                self._files, self._entries, self._projects, self.names = {}, {}, {}, {}

    @classmethod
    def open(cls, settings: Settings, cwd: Path, given: str | None) -> Cache:
        """The cache for a run. Where there can be none, it is empty and keeps nothing."""
        folder = folder_for(settings, cwd, given)
        if folder is None:
            return cls(None, b"", "no cache: there is no home folder")
        try:
            return cls(folder / f"{_question(settings, cwd)}.json", _key())
        except (OSError, ValueError, ImportError) as error:
            return cls(None, b"", f"no cache: {error}")

    def _seal(self, body: bytes) -> bytes:
        return hashlib.blake2b(body, key=self._key, digest_size=32).hexdigest().encode()

    def _load(self, path: Path) -> None:
        head, _, body = path.read_bytes().partition(b"\n")
        if head != _MAGIC + self._seal(body):
            raise ValueError("its seal does not fit")
        data = json.loads(body)
        self.names, self._files = data["names"], data["files"]
        self._entries, self._projects = data["entries"], data["projects"]

    # --- taking out

    def get(self, path: Path, *, explicit: bool) -> Entry | None:
        """What is known about a file, if that still holds."""
        data = self._entries.get(str(path))
        if data is None:
            return None
        try:
            entry = self._entry(path, data)
        except (OSError, ValueError, LookupError, TypeError) as error:
            self.trouble = f"the cache is damaged: {error}"
            return None
        if entry is None or (not entry.root and explicit and not entry.explicit):
            return None  # who names a file hears when it is no Python, and that was not looked at
        self.hits += 1
        return entry

    def _entry(self, path: Path, data: Any) -> Entry | None:
        root = data[0]
        if root:
            if self._root_of(path) != root or f"t {path}" in self._project(root).stale:
                return None
        elif self._has_changed(str(path)):
            return None
        return Entry(root, data[1], data[2], *map(decoded, data[3:]))

    def _root_of(self, path: Path) -> str:
        root = self._roots.get(path.parent)
        if root is None:
            root = self._roots[path.parent] = str(project_root(path))
        return root

    def _has_changed(self, path: str) -> bool:
        known = self._changed.get(path)
        if known is None:
            known = self._changed[path] = self._look_for_change(path)
        return known

    def _look_for_change(self, path: str) -> bool:
        before = self._files.get(path)
        if before is None:
            return True
        seen = _stat(path)
        if seen == before[:4] and not before[4]:
            return False
        if _digest(path) != before[5]:
            return True
        self._files[path] = [*seen, self._racy(seen), before[5]]
        self._refreshed = True
        return False

    def _racy(self, seen: Sequence[int]) -> bool:
        """Whether the file may change again without its times telling: they are not older than this run."""
        return max(seen[:2]) >= self._began - _CLOCK_SLACK

    def _project(self, root: str) -> _Known:
        if root not in self._known:
            data = self._projects[root]
            paths = data["paths"]
            listing = frozenset(paths[number] for number in data["listing"]) if data["listing"] is not None else None
            prints = {name: _footprint(rest, paths) for name, rest in data["prints"].items()}
            known = _Known(listing, data["ground"], prints, set())
            known.stale = self._stale(root, known)
            self._known[root] = known
        return self._known[root]

    def _stale(self, root: str, known: _Known) -> set[str]:
        """The names of the footprints that hold no longer."""
        found = Project(Path(root)).listing
        listing = frozenset(map(str, found)) if found is not None else None
        if (listing is None) != (known.listing is None) or any(
            os.path.exists(probe) is not answer for probe, answer in known.ground.items()
        ):
            return set(known.prints)
        listing, before = listing or frozenset(), known.listing or frozenset()
        rested = {str(path) for each in known.prints.values() for path in each.files}
        changed = {path for path in rested | listing | before if self._has_changed(path)}
        changed |= before - listing
        texts = [_bytes(path) or b"" for path in changed | (listing - before) if path in listing]
        words = {word for each in known.prints.values() for word in each.words} if texts else set()
        said = {word for word in words if any(word.encode() in text for text in texts)}
        probes = {probe: answer for each in known.prints.values() for probe, answer in each.probes.items()}
        moved = {probe for probe, answer in probes.items() if os.path.isfile(probe) is not answer}
        stale = {
            name
            for name, each in known.prints.items()
            if not changed.isdisjoint(map(str, each.files))
            or not said.isdisjoint(each.words)
            or not moved.isdisjoint(each.probes)
            or (each.listing and listing != before)
        }
        users: dict[str, list[str]] = {}
        for name, each in known.prints.items():
            for path in each.facts:
                users.setdefault(f"f {path}", []).append(name)
            for path in each.audits:
                users.setdefault(f"a {path}", []).append(name)
        missing = [name for name in users if name not in known.prints]
        pending = [*stale, *missing]
        while pending:
            for name in users.get(pending.pop(), ()):
                if name not in stale:
                    stale.add(name)
                    pending.append(name)
        return stale

    # --- putting in

    def put(self, path: Path, entry: Entry) -> None:
        """Keep what became of a file; a file that failed is audited again."""
        if self.path is not None and not entry.report.error:
            self._new[str(path)] = entry

    def save(self, traces: Sequence[Trace], names: Mapping[str, str] | None) -> None:
        """Write what is known now, if it is more or other than before."""
        if self.path is None or not (self._new or self._refreshed):
            return
        try:
            body = json.dumps(self._data(traces, names), separators=(",", ":")).encode()
            _make_folder(self.path.parent)
            replace_file(self.path, _MAGIC + self._seal(body) + b"\n" + body)
            _tidy(self.path)
        except (OSError, ValueError, LookupError, TypeError) as error:
            self.trouble = f"the cache was not written: {error}"

    def _data(self, traces: Sequence[Trace], names: Mapping[str, str] | None) -> dict[str, Any]:
        files, entries, kept = dict(self._files), dict(self._entries), dict(self._projects)
        for root in sorted({*self._known, *(trace.root for trace in traces)}):
            known = self._project(root) if root in self._projects else _Known(None, {}, {}, set())
            for name in known.stale:
                entries.pop(name.removeprefix("t "), None)
            holding = {name: each for name, each in known.prints.items() if name not in known.stale}
            known = _Known(known.listing, known.ground, holding, set())
            for trace in traces:
                if trace.root == root:
                    known = _with_trace(known, trace)
                    for at, digest in trace.digests.items():
                        self._enter(files, at, digest)
            for path in {str(path) for each in known.prints.values() for path in each.files} | (known.listing or set()):
                self._enter(files, path)
            kept[root] = _project_data(known)
        for path in [path for path, row in self._files.items() if files[path][5] != row[5]]:
            if path in entries and not entries[path][0]:
                del entries[path]  # without torch when it was looked at, and nobody has asked for it since
        for path, entry in self._new.items():
            self._enter(files, path)
            entries[path] = [
                entry.root,
                entry.explicit,
                entry.marked,
                *map(encoded, (entry.report, entry.findings, entry.highlights, entry.consulted)),
            ]
        return {"names": dict(names or self.names), "files": files, "entries": entries, "projects": kept}

    def _enter(self, files: dict[str, list[Any]], path: str, digest: str | None = None) -> None:
        """Take down the file as this run saw it. Its times are read late, but what changed since the start is racy."""
        if self._changed.get(path) is False:
            return
        self._changed[path] = False
        seen = _stat(path)
        files[path] = [*seen, self._racy(seen), _digest(path) if digest is None else digest]


def _stat(path: str) -> list[int]:
    try:
        seen = os.stat(path)
    except OSError:
        return [0, 0, 0, 0]
    return [seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size, seen.st_ino]


def _digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _digest(path: str) -> str:
    data = _bytes(path)
    return "" if data is None else _digest_of(data)


def _bytes(path: str) -> bytes | None:
    """What stands in a file, None for what an audit does not read either: a pipe may have taken a file's place."""
    try:
        return read_bytes(Path(path))
    except OSError:
        return None


def _union(one: Footprint, two: Footprint) -> Footprint:
    return Footprint(
        one.files | two.files,
        one.facts | two.facts,
        one.audits | two.audits,
        one.words | two.words,
        {**one.probes, **two.probes},
        one.listing or two.listing,
    )


def _with_trace(known: _Known, trace: Trace) -> _Known:
    """What is known with what a run found out. What it found out in part is added to what still holds."""
    prints = dict(known.prints)
    for name, each in trace.prints.items():
        old = prints.get(name) if not name.startswith("t ") else None
        prints[name] = each if old is None else _union(old, each)
    return _Known(trace.listing, {**known.ground, **trace.ground}, prints, set())


def _project_data(known: _Known) -> dict[str, Any]:
    """Plain data, with a number for each path."""
    numbers: dict[str, int] = {}

    def number(paths: Iterable[object]) -> list[int]:
        return [numbers.setdefault(str(path), len(numbers)) for path in paths]

    rows = {
        name: [
            number(each.files),
            number(each.facts),
            number(each.audits),
            sorted(each.words),
            [probe for probe, answer in each.probes.items() if answer],
            [probe for probe, answer in each.probes.items() if not answer],
            each.listing,
        ]
        for name, each in known.prints.items()
    }
    listing = number(sorted(known.listing)) if known.listing is not None else None
    return {"listing": listing, "ground": dict(known.ground), "prints": rows, "paths": list(numbers)}


def _footprint(data: Any, paths: list[Any]) -> Footprint:
    files, facts, audits, words, there, missing, listing = data
    return Footprint(
        {paths[number] for number in files},
        {paths[number] for number in facts},
        {paths[number] for number in audits},
        set(words),
        {**dict.fromkeys(there, True), **dict.fromkeys(missing, False)},
        listing,
    )


def _make_folder(folder: Path) -> None:
    """Make the folder, known to git and to backups as a cache. Raises OSError for one that is a link to elsewhere."""
    if folder.is_symlink():
        raise OSError(f"{folder} is a link")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    (folder / "CACHEDIR.TAG").write_text(_TAG, encoding="utf-8")


def _tidy(path: Path) -> None:
    """Remove the answers to questions that nobody has asked for long, other versions' among them."""
    with contextlib.suppress(OSError):
        for other in path.parent.iterdir():
            if other != path and _OURS.fullmatch(other.name) and time.time() - other.lstat().st_mtime > _KEPT:
                other.unlink()
