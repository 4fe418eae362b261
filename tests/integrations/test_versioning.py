"""The default set of rules changes only as docs/versioning.md says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from esper_audit import __version__
from esper_audit.config import Settings
from esper_audit.core.findings import Severity
from esper_audit.engine import Catalogue
from esper_audit.selection import Selection

PAGE = Path(__file__).parents[2] / "docs" / "versioning.md"
FIRST = (0, 1, 0)


class Row(NamedTuple):
    version: tuple[int, ...]
    severity: str
    codes: list[str]


def record() -> list[Row]:
    """The table of the page."""
    rows = re.findall(r"^\| (\d+\.\d+\.\d+) \| (\w+) \| ([-\w ]+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [Row(tuple(map(int, version.split("."))), severity, codes.split()) for version, severity, codes in rows]


def replayed(rows: list[Row]) -> dict[str, str]:
    """Code -> severity after all rows."""
    rules: dict[str, str] = {}
    for row in rows:
        for code in row.codes:
            if code.startswith("-"):
                del rules[code[1:]]
            else:
                rules[code] = row.severity
    return rules


def test_the_page_records_every_rule_of_the_default_set_with_its_severity() -> None:
    catalogue = Catalogue()
    selection = Selection(Settings(), catalogue.names)
    shipped = {code: info.severity.value for code, info in catalogue.infos.items() if selection.enabled(code)}
    assert replayed(record()) == shipped, f"record the change in {PAGE.name}, in a version that may make it"


def test_the_set_changes_in_minor_versions_and_none_is_recorded_before_its_time() -> None:
    versions = [row.version for row in record()]
    assert versions == sorted(versions)
    assert versions[0] == FIRST
    assert all(version[2] == 0 for version in versions)
    assert versions[-1] <= tuple(int(number) for number in re.findall(r"\d+", __version__))


def test_a_new_rule_or_a_severity_that_rises_is_a_preview_first() -> None:
    """Above `low` comes only what an earlier version had as `low` or `info`, or what was above already."""
    rows = record()
    for number, row in enumerate(rows):
        if row.version == FIRST or not Severity(row.severity).at_least(Severity.MEDIUM):
            continue
        before = replayed([earlier for earlier in rows[:number] if earlier.version < row.version])
        came_at_once = [code for code in row.codes if not code.startswith("-") and code not in before]
        assert not came_at_once, f"{came_at_once} must first come as low or info"
