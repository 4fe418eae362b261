"""Findings that were there when the tool came: a file that holds them, so that a run fails for new ones only.

An entry is a file, the digest of a finding (code, symbol, words of its line) and how many such findings there are.
Counts, and not ordinals, because mending the first of two equal lines makes the second the first.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from esper_audit import __version__
from esper_audit.core.errors import ConfigError
from esper_audit.core.findings import Finding, Verdict

SCHEMA = "esper-audit-baseline/1"
FILE_NAME = "esper-audit-baseline.json"
AGAIN = "`esper-audit baseline PATH...`"

Key = tuple[str, str]  # the file, relative to the baseline's folder, and the digest
_CONFLICT = re.compile(rb"^(<{7}|={7}|>{7})( |\r?$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Entry:
    """Equal findings of one file. Code and count decide, symbol and message are there for people."""

    code: str
    count: int
    symbol: str
    message: str


@dataclass(frozen=True, slots=True)
class Match:
    """A run's findings held against a baseline.

    `stands` holds what the baseline does not know, and what it must not hold back: what an experiment confirmed, or
    refuted. `held` is what it holds back, `left` what it knows and the run did not find.
    """

    stands: tuple[Finding, ...]
    held: tuple[Finding, ...]
    left: Mapping[Key, int]


@dataclass(frozen=True)
class Baseline:
    """The entries of a baseline file, `name` as people wrote it; empty when there is no such file yet."""

    path: Path
    name: str
    entries: Mapping[Key, Entry] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(entry.count for entry in self.entries.values())

    @cached_property
    def folder(self) -> str:
        """Where the paths of the entries begin. Links on the way are resolved, so that the current folder is free."""
        return os.path.realpath(self.path.parent)

    def key_path(self, path: Path) -> str:
        """An absolute path as entries write it: from the baseline's folder, with slashes."""
        place = Path(os.path.realpath(path.parent)) / path.name
        try:
            return Path(os.path.relpath(place, self.folder)).as_posix()
        except ValueError:  # another drive
            return place.as_posix()

    def place(self, key_path: str) -> Path:
        """The absolute path of an entry."""
        return Path(os.path.normpath(Path(self.folder) / key_path))

    def match(self, findings: Iterable[Finding], cwd: Path) -> Match:
        """Tell known findings from new ones; the paths of findings are relative to `cwd`.

        A file that is not there any more may have been moved: its entries then count for whichever file has the same
        findings now.
        """
        left = Counter({key: entry.count for key, entry in self.entries.items()})
        paths: dict[str, str] = {}
        ordered = sorted(findings, key=lambda finding: finding.sort_key)
        origins: dict[int, str] = {}
        for number, finding in enumerate(ordered):
            path = finding.span.path
            if path not in paths:
                paths[path] = self.key_path(cwd / path)
            key = (paths[path], digest(finding))
            if left[key] > 0:
                left[key] -= 1
                origins[number] = paths[path]
        moved = self._moved(left) if len(origins) < len(ordered) else {}
        for number, finding in enumerate(ordered):
            homeless = moved.get(digest(finding))
            if number not in origins and homeless:
                path = homeless.pop()
                left[path, digest(finding)] -= 1
                origins[number] = path
        stands, held = [], []
        for number, finding in enumerate(ordered):
            if number not in origins or finding.verdict is Verdict.REFUTED:
                stands.append(finding)
                continue
            origin = origins[number]
            where = self.name if origin == paths[finding.span.path] else f"{self.name}, under {origin}"
            if finding.verdict is Verdict.CONFIRMED:
                stands.append(replace(finding, reason=f"in {where}, which holds back nothing that was confirmed"))
            else:
                held.append(replace(finding, reason=f"in {where}"))
        return Match(tuple(stands), tuple(held), +left)

    def _moved(self, left: Mapping[Key, int]) -> dict[str, list[str]]:
        """Digest -> the files that had such a finding and are gone, once for each of them."""
        paths = {path for (path, _), number in left.items() if number > 0}
        gone = {path for path in paths if not os.path.lexists(self.place(path))}
        moved: dict[str, list[str]] = {}
        for (path, mark), number in sorted(left.items(), reverse=True):
            if number > 0 and path in gone:
                moved.setdefault(mark, []).extend([path] * number)
        return moved

    def renewed(
        self, held: Iterable[Finding], new: Iterable[Finding], gone: Mapping[Key, int], cwd: Path
    ) -> dict[Key, Entry]:
        """The entries after a run that found `held` and `new` and knows that `gone` are no more.

        What the run could not judge stays as it is.
        """
        held, new = list(held), list(new)
        left = Counter(self.match([*held, *new], cwd).left)
        left.subtract(gone)
        entries = {key: replace(self.entries[key], count=number) for key, number in (+left).items()}
        for finding in [*held, *new]:
            key = (self.key_path(cwd / finding.span.path), digest(finding))
            # words that are known stay, so that a newer version of the tool does not turn the whole file over
            known = entries.get(key) or replace(self.entries.get(key, _entry_of(finding)), count=0)
            entries[key] = replace(known, count=known.count + 1)
        return entries


def digest(finding: Finding) -> str:
    """The fingerprint of a finding without its ordinal."""
    return finding.fingerprint.partition(":")[0]


def _entry_of(finding: Finding) -> Entry:
    return Entry(finding.code, 1, finding.symbol, " ".join(finding.message.split()))


# --- the file


def page(entries: Mapping[Key, Entry]) -> str:
    """A baseline as text: sorted, one line per entry, and pure ASCII whatever the names in it are."""
    files: dict[str, list[tuple[Entry, str]]] = {}
    for (path, mark), entry in entries.items():
        files.setdefault(path, []).append((entry, mark))
    blocks = []
    for path, found in sorted(files.items()):
        ordered = sorted(found, key=lambda item: (item[0].code, item[0].symbol, item[1]))
        lines = ",\n".join(f"      {json.dumps(_row(entry, mark))}" for entry, mark in ordered)
        blocks.append(f"    {json.dumps(path)}: [\n{lines}\n    ]")
    body = "{\n" + ",\n".join(blocks) + "\n  }" if blocks else "{}"
    head = f'  "schema": {json.dumps(SCHEMA)},\n  "tool": {json.dumps(f"esper-audit {__version__}")},\n'
    return f'{{\n{head}  "files": {body}\n}}\n'


def _row(entry: Entry, mark: str) -> dict[str, Any]:
    return {
        "fingerprint": mark,
        "code": entry.code,
        "count": entry.count,
        "symbol": entry.symbol,
        "message": entry.message,
    }


def read(path: Path, name: str) -> Baseline:
    """The baseline in a file; raises ConfigError with one line when there is none that this version can read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device might never end
            raise ConfigError(f"{name}: is no regular file, so it holds no baseline")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    if _CONFLICT.search(data):
        raise ConfigError(f"{name}: holds the marks of a merge conflict; solve it, or delete the file and run {AGAIN}")
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_Pairs)
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: is no baseline: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}:{error.lineno}:{error.colno}: is no baseline: not valid JSON: {error.msg}") from None
    except (RecursionError, ValueError):  # nested without end, or a number with more digits than Python reads
        raise ConfigError(f"{name}: is no baseline: not valid JSON") from None
    return Baseline(path, name, _entries(document, name))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object. A merge may leave one key twice, and the second must not swallow the first."""

    def get(self, key: str) -> Any:
        """The last value of a key, or None."""
        return next((value for name, value in reversed(self) if name == key), None)


def _entries(document: object, name: str) -> dict[Key, Entry]:
    schema = document.get("schema") if isinstance(document, _Pairs) else None
    if not isinstance(schema, str) or not schema.startswith("esper-audit-baseline/"):
        raise ConfigError(f'{name}: is no baseline: it does not say "schema": "{SCHEMA}"')
    if schema != SCHEMA:
        raise ConfigError(f"{name}: is a baseline of another version, {schema!r}; this one reads {SCHEMA!r}")
    assert isinstance(document, _Pairs)
    files = document.get("files")
    if not isinstance(files, _Pairs):
        raise ConfigError(f"{name}: 'files' must be an object")
    entries: dict[Key, Entry] = {}
    for path, rows in files:
        if not isinstance(rows, list) or isinstance(rows, _Pairs):
            raise ConfigError(f"{name}: {path!r} must be a list of entries")
        for number, row in enumerate(rows, 1):
            mark, entry = _entry(row, f"{name}: entry {number} of {path!r}")
            before = entries.get((path, mark))
            if before is None or before.count < entry.count:  # two branches may both have brought it
                entries[path, mark] = entry
    return entries


def _entry(row: object, where: str) -> tuple[str, Entry]:
    if not isinstance(row, _Pairs):
        raise ConfigError(f"{where} must be an object")
    for key in ("fingerprint", "code"):
        if not isinstance(row.get(key), str) or not row.get(key):
            raise ConfigError(f"{where} must have a {key!r} that is a string")
    count = row.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ConfigError(f"{where} must have a 'count' that is a positive integer")
    words = (row.get("symbol"), row.get("message"))
    symbol, message = (word if isinstance(word, str) else "" for word in words)
    return row.get("fingerprint"), Entry(row.get("code"), count, symbol, message)


# --- what a run can tell to be gone


def gone(
    baseline: Baseline,
    left: Mapping[Key, int],
    *,
    judged: Callable[[Path, str], bool],
    walked: Sequence[Path],
    wanted: Callable[[Path, str], bool],
) -> dict[Key, int]:
    """Of what a run did not find, that which it would have found.

    `judged(path, code)` says so for a file that was audited. A file that is not there any more counts where the folder
    it lay in was walked and `wanted(path, code)`: the rule was in force for it.
    """
    folders = [os.path.realpath(folder) for folder in walked]
    places = {path: baseline.place(path) for path, _ in left}
    there = {path for path, place in places.items() if os.path.lexists(place)}
    found = {}
    for (path, mark), number in left.items():
        place, code = places[path], baseline.entries[path, mark].code
        if path in there:
            known = judged(place, code)
        else:
            known = wanted(place, code) and any(place.is_relative_to(folder) for folder in folders)
        if known:
            found[path, mark] = number
    return found
