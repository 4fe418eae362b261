"""The settings of a run: defaults, then `[tool.esper-audit]` of the nearest `pyproject.toml`, then the command line.

Every setting knows where it came from, and a key, a type or a value that makes no sense is an error that says what
would.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from esper_audit.collect import display_path
from esper_audit.core.errors import ConfigError, UsageError
from esper_audit.core.findings import Confidence, Severity
from esper_audit.semantics.source import read_bytes

SECTION = "[tool.esper-audit]"
FILE_NAME = "pyproject.toml"
DEFAULT, COMMAND_LINE = "default", "command line"

# These make the audit run code. They are taken only from the configuration of the one who calls the tool, never from
# the project that is being read: auditing a stranger's repository must not execute it.
WITHOUT_EFFECT = ("first-party",)  # reserved: understood, but nothing acts on them yet
CALLER_KEYS = ("plugins", "probe")
# These can make a finding disappear. A project may say what it wants of itself, but who audits it must hear of it.
HIDING_KEYS = (
    "select",
    "ignore",
    "exclude",
    "per-file-ignores",
    "severity",
    "min-severity",
    "min-confidence",
    "fail-on",
    "baseline",
)


@dataclass(frozen=True, slots=True)
class Selectors:
    """Which rules one source of settings asks for; `select` is None where it does not say."""

    select: tuple[str, ...] | None = None
    extend_select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings in force. `origin` says for each key where its value came from."""

    file_selectors: Selectors = Selectors()
    command_selectors: Selectors = Selectors()
    fail_on: Severity = Severity.MEDIUM
    min_severity: Severity = Severity.INFO
    min_confidence: Confidence = Confidence.LOW
    exclude: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    baseline: str = ""
    require_reason: bool = False
    first_party: tuple[str, ...] = ()
    probe: bool | Mapping[str, Any] = False
    roles: Mapping[str, str] = field(default_factory=dict)
    severity: Mapping[str, Severity] = field(default_factory=dict)
    per_file_ignores: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    file: Path | None = None
    file_name: str = ""
    root: Path = Path()
    origin: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def select(self) -> tuple[str, ...]:
        """The rules to run before `extend-select` and `ignore` are applied."""
        for selectors in (self.command_selectors, self.file_selectors):
            if selectors.select is not None:
                return selectors.select
        return ("ALL",)

    @property
    def extend_select(self) -> tuple[str, ...]:
        """Rules to run besides `select`; a `select` on the command line replaces those of the file."""
        command = self.command_selectors
        return (() if command.select is not None else self.file_selectors.extend_select) + command.extend_select

    @property
    def ignore(self) -> tuple[str, ...]:
        """Rules to leave out: the command line adds to the file."""
        return self.file_selectors.ignore + self.command_selectors.ignore

    def rows(self) -> list[tuple[str, str, str]]:
        """Every key with its value as TOML would write it and where it came from."""
        return [
            (key, _toml(getattr(self, key.replace("-", "_"))), self.origin.get(key, DEFAULT)) for key in (*_READERS,)
        ]

    def with_command_line(self, selectors: Selectors, **given: Any) -> Settings:
        """These settings with what the command line gave; None stands for not given."""
        origin = dict(self.origin)
        values = {name: value for name, value in given.items() if value is not None}
        for name in values:
            origin[name.replace("_", "-")] = COMMAND_LINE
        if selectors.select is not None:
            origin["select"] = COMMAND_LINE
            if self.file_selectors.extend_select:
                origin["extend-select"] = f"{COMMAND_LINE} (--select replaces it)"
        for key, added, before in (
            ("extend-select", selectors.extend_select, self.extend_select if selectors.select is None else ()),
            ("ignore", selectors.ignore, self.ignore),
        ):
            if added:
                origin[key] = f"{self.origin[key]} + {COMMAND_LINE}" if before else COMMAND_LINE
        return replace(self, command_selectors=selectors, origin=origin, **values)


def load(first: Path, *, cwd: Path, config: str | None = None, isolated: bool = False) -> Settings:
    """The settings for a run whose first path is `first`; raises ConfigError."""
    if isolated:
        if config is not None:
            raise UsageError("--config and --isolated exclude each other")
        return Settings(root=cwd)
    if config is not None:
        path = cwd / config
        table = _section(path, display_path(path, cwd))
        if table is None:
            raise ConfigError(f"{display_path(path, cwd)}: has no {SECTION} table")
        return _settings(path, table, cwd)
    near = _nearest(first, cwd)
    own = _nearest(cwd, cwd)
    if near is None:
        return Settings(root=cwd)
    settings = _settings(*near, cwd)
    if own is not None and own[0] == near[0]:
        return settings
    return _without_caller_keys(settings, _settings(*own, cwd) if own else Settings())


def _without_caller_keys(settings: Settings, caller: Settings) -> Settings:
    """The settings of a foreign project, with the keys that make code run taken from the caller's own configuration."""
    origin = dict(settings.origin)
    notes = [note for note in settings.notes if not any(repr(key) in note for key in CALLER_KEYS)]
    for key in CALLER_KEYS:
        if key in origin:
            notes.append(
                f"{origin.pop(key)}: {key!r} is ignored: only the configuration of the current folder or --config may"
                " make the audit run code"
            )
        if key in caller.origin:
            origin[key] = caller.origin[key]
    hiding = [key for key in HIDING_KEYS if key in settings.origin]
    if hiding:
        notes.append(f"{settings.file_name} decides what is shown ({', '.join(hiding)}); --isolated reads no settings")
    return replace(settings, plugins=caller.plugins, probe=caller.probe, origin=origin, notes=tuple(notes))


def _nearest(start: Path, cwd: Path) -> tuple[Path, Mapping[str, Any]] | None:
    """The nearest pyproject.toml at or above `start` that configures this tool."""
    folder = start if start.is_dir() else start.parent
    for candidate in (folder, *folder.parents):
        path = candidate / FILE_NAME
        if path.is_file():
            table = _section(path, display_path(path, cwd))
            if table is not None:
                return path, table
    return None


def _section(path: Path, name: str) -> Mapping[str, Any] | None:
    """The tool's table in a TOML file, or None when it has none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        data = read_bytes(path)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}:{_place(data[: error.start])}: not valid TOML: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        where = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
        place = f"{where[1]}:{where[2]}" if where and where[1] else _place(data)
        text = str(error)[: where.start()] if where else str(error)
        raise ConfigError(f"{name}:{place}: not valid TOML: {text}") from None
    except RecursionError:
        raise ConfigError(f"{name}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # a number of ten thousand digits
        raise ConfigError(f"{name}: not valid TOML: {str(error).partition(';')[0]}") from None
    tool = document.get("tool")
    if not isinstance(tool, dict) or "esper-audit" not in tool:
        return None
    table = tool["esper-audit"]
    if not isinstance(table, dict):
        raise ConfigError(f"{name}: 'tool.esper-audit' must be a table, not {_kind(table)}")
    return table


def _place(before: bytes) -> str:
    """Line and column, 1-based, of what follows `before`."""
    last = before.rpartition(b"\n")[2]
    return f"{before.count(bytes([10])) + 1}:{len(last) + 1}"


def _settings(path: Path, table: Mapping[str, Any], cwd: Path) -> Settings:
    name = display_path(path, cwd)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _READERS:
            raise ConfigError(f"{name}: unknown key {key!r} in {SECTION}{nearest(key, _READERS)}")
        values[key.replace("-", "_")] = _READERS[key](value, f"{name}: {key!r}")
    names = [attribute.name for attribute in fields(Selectors)]
    selectors = {key: values.pop(key) for key in names if key in values}
    return Settings(
        file_selectors=Selectors(**selectors),
        file=path,
        file_name=name,
        root=path.parent,
        origin=dict.fromkeys(table, name),
        notes=tuple(f"{name}: {key!r} has no effect in this version" for key in table if key in WITHOUT_EFFECT),
        **values,
    )


def nearest(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """`; did you mean 'x'?` for the nearest known word, or nothing when none is near."""
    import difflib  # only mistakes need it

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


# --- readers: one per type, each raising a ConfigError that names what it expected and what it got

_Member = TypeVar("_Member", bound=Enum)


def _kind(value: object) -> str:
    kinds = {bool: "a boolean", int: "an integer", float: "a float", str: "a string", list: "a list", dict: "a table"}
    return kinds.get(type(value), "a date or time")


def _wrong(where: str, expected: str, value: object) -> ConfigError:
    return ConfigError(f"{where} must be {expected}, not {_kind(value)}")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a string", value)
    return value


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(where, "true or false", value)
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _wrong(where, "a list of strings", value)
    for item in value:
        if not isinstance(item, str):
            raise ConfigError(f"{where} must be a list of strings, but holds {_kind(item)}")
    return tuple(value)


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(where, "a table", value)
    return value


def _probe(value: object, where: str) -> bool | Mapping[str, Any]:
    """`true`, or a table of networks: `"path/to/file.py::Class" = {args = {...}}` or `{factory = "module:name"}`."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, dict):
        raise _wrong(where, "true, false or a table", value)
    for key, entry in value.items():
        if "::" not in key:
            raise ConfigError(f"{where} must name networks as 'path/to/file.py::Class', not {key!r}")
        table = _table(entry, f"{where} {key!r}")
        for name in table:
            if name not in ("args", "factory"):
                raise ConfigError(f"{where} {key!r}: unknown key {name!r}{nearest(name, ('args', 'factory'))}")
        _table(table.get("args", {}), f"{where} {key!r} 'args'")
        if ":" not in _text(table.get("factory", ":"), f"{where} {key!r} 'factory'"):
            raise ConfigError(f"{where} {key!r} 'factory' must be 'module:function', not {table['factory']!r}")
    return value


def _member(kind: type[_Member]) -> Callable[[object, str], _Member]:
    words = [str(member.value) for member in kind]

    def read(value: object, where: str) -> _Member:
        word = _text(value, where)
        if word not in words:
            raise ConfigError(f"{where} must be one of {', '.join(words)}, not {word!r}{nearest(word, words)}")
        return kind(word)

    return read


def _severities(value: object, where: str) -> Mapping[str, Severity]:
    read = _member(Severity)
    return {key: read(item, f"{where} {key!r}") for key, item in _table(value, where).items()}


def _roles(value: object, where: str) -> Mapping[str, str]:
    from esper_audit.semantics.roles import METHOD_ROLES  # its patterns cost more to compile than most runs need

    roles = {key: _text(item, f"{where} {key!r}") for key, item in _table(value, where).items()}
    for key, role in roles.items():
        if role not in METHOD_ROLES:
            known = ", ".join(METHOD_ROLES)
            raise ConfigError(f"{where} {key!r} must be one of {known}, not {role!r}{nearest(role, METHOD_ROLES)}")
    return roles


def _ignores(value: object, where: str) -> Mapping[str, tuple[str, ...]]:
    return {key: _texts(item, f"{where} {key!r}") for key, item in _table(value, where).items()}


_READERS: Mapping[str, Callable[[object, str], Any]] = {
    "select": _texts,
    "extend-select": _texts,
    "ignore": _texts,
    "fail-on": _member(Severity),
    "min-severity": _member(Severity),
    "min-confidence": _member(Confidence),
    "exclude": _texts,
    "per-file-ignores": _ignores,
    "severity": _severities,
    "roles": _roles,
    "first-party": _texts,
    "require-reason": _flag,
    "plugins": _texts,
    "baseline": _text,
    "probe": _probe,
}


def _toml(value: object) -> str:
    """A setting as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return _toml(value.value)
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)
