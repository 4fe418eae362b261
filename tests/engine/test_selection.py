"""Which selector wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper_audit.config import Selectors, Settings
from esper_audit.core.errors import ConfigError
from esper_audit.core.findings import Category, Confidence, Finding, Severity, Span
from esper_audit.selection import Selection, exactness

KNOWN = {"ESP201": "hidden-on-cpu", "ESP202": "mask-on-cpu", "ESP301": "infinite-mask", "ACME1": "house-style"}


NOTHING = Selectors()


def enabled(file: Selectors = NOTHING, command: Selectors = NOTHING) -> set[str]:
    selection = Selection(Settings(file_selectors=file, command_selectors=command, file_name="pyproject.toml"), KNOWN)
    return {code for code in KNOWN if selection.enabled(code)}


def test_everything_is_in_force_by_default_plugins_too() -> None:
    assert enabled() == set(KNOWN)


@pytest.mark.parametrize(
    ("file", "command", "expected"),
    [
        (Selectors(select=("ESP2",)), Selectors(), {"ESP201", "ESP202"}),
        (Selectors(select=("ESP",)), Selectors(), {"ESP201", "ESP202", "ESP301"}),
        (Selectors(select=("infinite-mask",)), Selectors(), {"ESP301"}),
        (Selectors(select=("esp301",)), Selectors(), {"ESP301"}),
        (Selectors(select=()), Selectors(), set()),
        (Selectors(select=("ESP2",), extend_select=("ESP301",)), Selectors(), {"ESP201", "ESP202", "ESP301"}),
        (Selectors(ignore=("ESP2",)), Selectors(), {"ESP301", "ACME1"}),
        (Selectors(select=("ESP201",), ignore=("ESP2",)), Selectors(), {"ESP201"}),
        (Selectors(select=("ESP2",), ignore=("ESP2",)), Selectors(), set()),
        (Selectors(select=("ESP3",), extend_select=("ACME",)), Selectors(select=("ESP201",)), {"ESP201"}),
        (Selectors(select=("ESP3",)), Selectors(extend_select=("ESP201",)), {"ESP301", "ESP201"}),
        (Selectors(ignore=("ESP201",)), Selectors(select=("ESP2",)), {"ESP202"}),
        (Selectors(ignore=("ESP201",)), Selectors(select=("ESP201",)), {"ESP201"}),
        (Selectors(select=("ESP201", "ESP3")), Selectors(ignore=("ESP2",)), {"ESP301"}),
        (Selectors(), Selectors(select=("ESP201",), ignore=("ESP2",)), {"ESP201"}),
        (Selectors(ignore=("ALL",), extend_select=("ESP3",)), Selectors(), {"ESP301"}),
    ],
)
def test_the_more_exact_selector_wins_then_the_command_line(
    file: Selectors, command: Selectors, expected: set[str]
) -> None:
    assert enabled(file, command) == expected


def test_a_family_needs_all_its_letters() -> None:
    assert exactness("ES", "ESP201", "hidden-on-cpu") is None
    assert exactness("ESP", "ESP201", "hidden-on-cpu") == 3
    assert exactness("ESP20", "ESP201", "hidden-on-cpu") == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            Settings(file_selectors=Selectors(select=("ESP2O1",)), file_name="p.toml"),
            "p.toml: 'select': unknown rule 'ESP2O1'; did you mean 'ESP201'?",
        ),
        (
            Settings(file_selectors=Selectors(ignore=("mask-on-gpu",)), file_name="p.toml"),
            "p.toml: 'ignore': unknown rule 'mask-on-gpu'; did you mean 'mask-on-cpu'?",
        ),
        (
            Settings(command_selectors=Selectors(extend_select=("ESP4",))),
            "--extend-select: unknown rule 'ESP4'; did you mean 'ESP301'?",
        ),
        (Settings(severity={"zzz": Severity.LOW}, file_name="p.toml"), "p.toml: 'severity': unknown rule 'zzz'"),
        (
            Settings(per_file_ignores={"a.py": ("zzz",)}, file_name="p.toml"),
            "p.toml: 'per-file-ignores' 'a.py': unknown rule 'zzz'",
        ),
    ],
)
def test_an_unknown_selector_names_its_place_and_the_nearest_rule(settings: Settings, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Selection(settings, KNOWN)
    assert str(error.value) == message


def test_the_most_exact_severity_wins() -> None:
    finding = Finding(
        "ESP201", "hidden-on-cpu", Category.DEVICE, Severity.HIGH, Confidence.HIGH, "m", "h", Span("a.py", 1, 1, 1, 2)
    )
    table = {"hidden-on-cpu": Severity.INFO, "ESP": Severity.LOW, "ESP2": Severity.MEDIUM}
    assert Selection(Settings(severity=table), KNOWN).severity(finding) is Severity.INFO
    assert Selection(Settings(severity={"ESP3": Severity.LOW}), KNOWN).severity(finding) is Severity.HIGH


def test_per_file_ignores_are_patterns_from_the_folder_of_the_configuration() -> None:
    settings = Settings(per_file_ignores={"tests/": ("ESP2",), "*_old.py": ("ALL",)}, root=Path("/p"))
    selection = Selection(settings, KNOWN)
    assert selection.ignored_in(Path("/p/tests/a.py"), "ESP201")
    assert not selection.ignored_in(Path("/p/tests/a.py"), "ESP301")
    assert selection.ignored_in(Path("/p/x/net_old.py"), "ESP301")
    assert not selection.ignored_in(Path("/p/net.py"), "ESP201")
