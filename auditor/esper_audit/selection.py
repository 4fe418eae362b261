"""Which rules are in force: selectors (ALL, a family like ESP2, a code, a name) weighed against each other.

The more exact selector wins; on a tie the command line beats the file and `ignore` beats `select`. What `--ignore`
names is gone whatever the file selects.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from esper_audit.collect import Patterns
from esper_audit.config import Selectors, Settings, nearest
from esper_audit.core.errors import ConfigError
from esper_audit.core.findings import Finding, Severity

_FAMILY = re.compile(r"[A-Z]+\d*")
_EXACT = 1000

_Weight = tuple[int, bool]  # how exact the selector is, and whether it stands on the command line


def spelled(selector: str) -> str:
    """Codes are told in upper case, however they were typed; names stay as they are."""
    return selector.upper() if _FAMILY.fullmatch(selector.upper()) else selector


def exactness(selector: str, code: str, name: str) -> int | None:
    """How exactly a selector names a rule, or None when it does not."""
    selector = spelled(selector)
    if selector in (code, name):
        return _EXACT
    if selector == "ALL":
        return 0
    letters = code.rstrip("0123456789")
    return len(selector) if code.startswith(selector) and selector.startswith(letters) else None


class Selection:
    """The settings applied to the known rules, given as code -> name. Raises ConfigError for an unknown selector."""

    def __init__(self, settings: Settings, known: Mapping[str, str]) -> None:
        self._known = known
        for where, selectors in _named(settings):
            for selector in selectors:
                self._check(selector, where)
        self._selects = [*self._weighed(settings.file_selectors, settings), *self._command_selects(settings)]
        self._ignores = [(selector, False) for selector in settings.file_selectors.ignore]
        self._ignores += [(selector, True) for selector in settings.command_selectors.ignore]
        self._severity = settings.severity
        self._names = tuple(settings.per_file_ignores)
        self._per_file = [
            (Patterns([pattern], settings.root, "per-file-ignores"), selectors)
            for pattern, selectors in settings.per_file_ignores.items()
        ]

    @staticmethod
    def _weighed(selectors: Selectors, settings: Settings) -> list[tuple[str, bool]]:
        if settings.command_selectors.select is not None:
            return []
        chosen = ("ALL",) if selectors.select is None else selectors.select
        return [(selector, False) for selector in (*chosen, *selectors.extend_select)]

    @staticmethod
    def _command_selects(settings: Settings) -> list[tuple[str, bool]]:
        command = settings.command_selectors
        return [(selector, True) for selector in (*(command.select or ()), *command.extend_select)]

    def _check(self, selector: str, where: str) -> None:
        if selector == "ALL" or any(exactness(selector, code, name) is not None for code, name in self._known.items()):
            return
        words = [*self._known, *self._known.values()]
        raise ConfigError(f"{where}: unknown rule {selector!r}{nearest(spelled(selector), words)}")

    def _weights(self, selectors: Iterable[tuple[str, bool]], code: str) -> list[_Weight]:
        found = []
        for selector, command in selectors:
            exact = exactness(selector, code, self._known.get(code, ""))
            if exact is not None:
                found.append((exact, command))
        return found

    def enabled(self, code: str) -> bool:
        """Whether a rule is in force at all."""
        ignores = self._weights(self._ignores, code)
        return any(
            all(select > ignore and not (ignore[1] and not select[1]) for ignore in ignores)
            for select in self._weights(self._selects, code)
        )

    def ignored_in(self, path: Path, code: str) -> bool:
        """Whether `per-file-ignores` switches a rule off in a file."""
        return any(
            patterns.match(path) and self._weights([(selector, False) for selector in selectors], code)
            for patterns, selectors in self._per_file
        )

    def idle_patterns(self, paths: Sequence[Path]) -> list[str]:
        """The patterns of `per-file-ignores` that match none of the files."""
        return [
            name
            for name, (patterns, _) in zip(self._names, self._per_file, strict=True)
            if not any(patterns.match(path) for path in paths)
        ]

    def severity(self, finding: Finding) -> Severity:
        """The finding's severity after the `severity` table; the most exact entry decides."""
        best, severity = -1, finding.severity
        for selector, wanted in self._severity.items():
            exact = exactness(selector, finding.code, finding.name)
            if exact is not None and exact > best:
                best, severity = exact, wanted
        return severity


def names_rules(settings: Settings) -> bool:
    """Whether the settings name any rule, so that the catalogue has to be at hand to check them."""
    empty = () in (settings.file_selectors.select, settings.command_selectors.select)
    return empty or any(selectors for _, selectors in _named(settings))


def _named(settings: Settings) -> list[tuple[str, tuple[str, ...]]]:
    file, in_file, command = settings.file_name, settings.file_selectors, settings.command_selectors
    return [
        (f"{file}: 'select'", in_file.select or ()),
        (f"{file}: 'extend-select'", in_file.extend_select),
        (f"{file}: 'ignore'", in_file.ignore),
        (f"{file}: 'severity'", tuple(settings.severity)),
        *((f"{file}: 'per-file-ignores' {pattern!r}", codes) for pattern, codes in settings.per_file_ignores.items()),
        ("--select", command.select or ()),
        ("--extend-select", command.extend_select),
        ("--ignore", command.ignore),
    ]
