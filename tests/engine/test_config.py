"""Where settings come from, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper_audit.config import COMMAND_LINE, Selectors, Settings, load
from esper_audit.core.errors import ConfigError, UsageError
from esper_audit.core.findings import Confidence, Severity
from esper_audit.engine import CheckRequest


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """An empty folder; a configuration above it would be a fault of the machine."""
    return tmp_path


def configured(folder: Path, body: str, name: str = "pyproject.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(body, encoding="utf-8")
    return path


def refusal(here: Path, body: str) -> str:
    configured(here, body)
    with pytest.raises(ConfigError) as error:
        load(here, cwd=here)
    return str(error.value)


def test_without_a_configuration_the_defaults_hold(here: Path) -> None:
    settings = load(here / "net.py", cwd=here)
    assert settings == Settings(root=here)
    assert (settings.select, settings.fail_on, settings.min_severity) == (("ALL",), Severity.MEDIUM, Severity.INFO)
    assert {origin for _, _, origin in settings.rows()} == {"default"}


def test_every_key_is_read(here: Path) -> None:
    configured(
        here,
        """
        [tool.esper-audit]
        select = ["ESP2"]
        extend-select = ["ESP301"]
        ignore = ["ESP202"]
        fail-on = "high"
        min-severity = "low"
        min-confidence = "medium"
        exclude = ["legacy/"]
        plugins = ["my_rules"]
        baseline = "audit.json"
        require-reason = true
        first-party = ["agents"]
        probe = { "agent.py::Policy" = { args = { obs_dim = 8 } } }
        [tool.esper-audit.roles]
        choose = "act"
        [tool.esper-audit.severity]
        ESP201 = "critical"
        [tool.esper-audit.per-file-ignores]
        "tests/*" = ["ESP6"]
        """,
    )
    settings = load(here, cwd=here)
    assert settings.file_selectors == Selectors(("ESP2",), ("ESP301",), ("ESP202",))
    assert (settings.fail_on, settings.min_severity, settings.min_confidence) == (
        Severity.HIGH,
        Severity.LOW,
        Confidence.MEDIUM,
    )
    assert (settings.exclude, settings.plugins, settings.baseline) == (("legacy/",), ("my_rules",), "audit.json")
    assert (settings.require_reason, settings.first_party) == (True, ("agents",))
    assert settings.probe == {"agent.py::Policy": {"args": {"obs_dim": 8}}}
    assert (settings.roles, settings.severity) == ({"choose": "act"}, {"ESP201": Severity.CRITICAL})
    assert settings.per_file_ignores == {"tests/*": ("ESP6",)}
    assert {origin for _, _, origin in settings.rows()} == {"pyproject.toml"}


def test_the_nearest_configuration_that_speaks_of_us_wins(here: Path) -> None:
    configured(here, '[tool.esper-audit]\nfail-on = "low"\n')
    configured(here / "a", '[tool.esper-audit]\nfail-on = "high"\n')
    configured(here / "a/b", '[project]\nname = "b"\n')
    assert load(here / "a/b/net.py", cwd=here).fail_on is Severity.HIGH
    assert load(here / "a/b/net.py", cwd=here).file_name == "a/pyproject.toml"
    assert load(here / "net.py", cwd=here).fail_on is Severity.LOW


def test_a_named_configuration_replaces_the_nearest(here: Path) -> None:
    configured(here, '[tool.esper-audit]\nfail-on = "low"\n')
    configured(here, '[tool.esper-audit]\nfail-on = "high"\nplugins = ["p"]\n', "strict.toml")
    settings = load(here / "a/net.py", cwd=here, config="strict.toml")
    assert (settings.fail_on, settings.plugins) == (Severity.HIGH, ("p",))


def test_isolated_reads_nothing(here: Path) -> None:
    configured(here, "this is no TOML")
    assert load(here, cwd=here, isolated=True) == Settings(root=here)


def test_a_named_configuration_must_exist_and_speak_of_us(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"^nope.toml: cannot be read: no such file or directory$"):
        load(here, cwd=here, config="nope.toml")
    configured(here, "[tool.other]\n", "other.toml")
    with pytest.raises(ConfigError, match=r"^other.toml: has no \[tool.esper-audit\] table$"):
        load(here, cwd=here, config="other.toml")
    with pytest.raises(UsageError, match="exclude each other"):
        load(here, cwd=here, config="other.toml", isolated=True)


def test_only_the_callers_configuration_may_make_the_audit_run_code(here: Path) -> None:
    configured(here / "mine", '[tool.esper-audit]\nplugins = ["my_rules"]\n')
    configured(here / "theirs", '[tool.esper-audit]\nplugins = ["evil"]\nprobe = true\nfail-on = "high"\n')
    settings = load(here / "theirs/net.py", cwd=here / "mine")
    assert (settings.fail_on, settings.plugins, settings.probe) == (Severity.HIGH, ("my_rules",), False)
    *ignored, hiding = settings.notes
    assert [note.partition(": ")[2].split(":")[0] for note in ignored] == ["'plugins' is ignored", "'probe' is ignored"]
    assert hiding.endswith("decides what is shown (fail-on); --isolated reads no settings")
    origins = {key: origin for key, _, origin in settings.rows()}
    assert origins["plugins"] == "pyproject.toml"
    assert origins["probe"] == "default"
    assert load(here / "theirs/net.py", cwd=here / "theirs").plugins == ("evil",)


def test_a_project_below_the_current_folder_cannot_bring_plugins(here: Path) -> None:
    configured(here / "vendor", '[tool.esper-audit]\nplugins = ["evil"]\n')
    settings = load(here / "vendor", cwd=here)
    assert settings.plugins == ()
    assert "vendor/pyproject.toml" in settings.notes[0]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "[tool.esper-audit]\nselct = []\n",
            "pyproject.toml: unknown key 'selct' in [tool.esper-audit]; did you mean 'select'?",
        ),
        ("[tool.esper-audit]\nqqq = 1\n", "pyproject.toml: unknown key 'qqq' in [tool.esper-audit]"),
        ("[tool.esper-audit]\nselect = 'ESP1'\n", "pyproject.toml: 'select' must be a list of strings, not a string"),
        (
            "[tool.esper-audit]\nignore = [1]\n",
            "pyproject.toml: 'ignore' must be a list of strings, but holds an integer",
        ),
        (
            "[tool.esper-audit]\nrequire-reason = 'yes'\n",
            "pyproject.toml: 'require-reason' must be true or false, not a string",
        ),
        ("[tool.esper-audit]\nbaseline = 1.5\n", "pyproject.toml: 'baseline' must be a string, not a float"),
        (
            "[tool.esper-audit]\nprobe = 2024-01-01\n",
            "pyproject.toml: 'probe' must be true, false or a table, not a date or time",
        ),
        (
            "[tool.esper-audit.probe]\ntimeout = 5\n",
            "pyproject.toml: 'probe' must name networks as 'path/to/file.py::Class', not 'timeout'",
        ),
        (
            '[tool.esper-audit.probe."a.py::Net"]\nfactori = "m:f"\n',
            "pyproject.toml: 'probe' 'a.py::Net': unknown key 'factori'; did you mean 'factory'?",
        ),
        (
            '[tool.esper-audit.probe."a.py::Net"]\nfactory = "make"\n',
            "pyproject.toml: 'probe' 'a.py::Net' 'factory' must be 'module:function', not 'make'",
        ),
        ("[tool.esper-audit]\nroles = true\n", "pyproject.toml: 'roles' must be a table, not a boolean"),
        (
            "[tool.esper-audit]\nfail-on = 'hgh'\n",
            (
                "pyproject.toml: 'fail-on' must be one of critical, high, medium, low, info, not 'hgh';"
                " did you mean 'high'?"
            ),
        ),
        (
            "[tool.esper-audit.severity]\nESP201 = 'bad'\n",
            "pyproject.toml: 'severity' 'ESP201' must be one of critical, high, medium, low, info, not 'bad'",
        ),
        (
            "[tool.esper-audit.roles]\nchoose = 'acting'\n",
            (
                "pyproject.toml: 'roles' 'choose' must be one of forward, act, evaluate, initial_state, value,"
                " not 'acting'; did you mean 'act'?"
            ),
        ),
        (
            "[tool.esper-audit.per-file-ignores]\n'a.py' = 'ESP1'\n",
            "pyproject.toml: 'per-file-ignores' 'a.py' must be a list of strings, not a string",
        ),
        ("[tool]\nesper-audit = 3\n", "pyproject.toml: 'tool.esper-audit' must be a table, not an integer"),
    ],
)
def test_a_wrong_setting_names_the_file_the_key_and_what_would_do(here: Path, body: str, message: str) -> None:
    assert refusal(here, body) == message


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ("[tool.esper-audit\nselect = []\n", "pyproject.toml:1:18: not valid TOML: "),
        ("[tool.esper-audit]\nselect = [\n", "pyproject.toml:3:1: not valid TOML: "),
        ("x = = 1\n", "pyproject.toml:1:5: not valid TOML: "),
    ],
)
def test_broken_toml_names_line_and_column_in_one_line(here: Path, body: str, place: str) -> None:
    message = refusal(here, body)
    assert message.startswith(place)
    assert "\n" not in message
    assert "(at " not in message


def test_toml_that_is_no_utf8_or_nests_without_end_is_one_line(here: Path) -> None:
    (here / "pyproject.toml").write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigError, match=r"^pyproject.toml:2:6: not valid TOML: not UTF-8$"):
        load(here, cwd=here)
    assert "not valid TOML" in refusal(here, "a = " + "[" * 5000)


def test_a_table_of_tools_that_is_none_is_nobodys_configuration(here: Path) -> None:
    configured(here, "tool = 3\n")
    assert load(here, cwd=here) == Settings(root=here)


def test_the_command_line_has_the_last_word_and_provenance_says_so(here: Path) -> None:
    configured(
        here, '[tool.esper-audit]\nselect = ["ESP2"]\nextend-select = ["ESP3"]\nignore = ["ESP201"]\nfail-on = "high"\n'
    )
    settings = load(here, cwd=here)
    over = settings.with_command_line(Selectors(None, ("ESP6",), ("ESP202",)), fail_on=Severity.LOW, min_severity=None)
    rows = {key: (value, origin) for key, value, origin in over.rows()}
    assert rows["select"] == ('["ESP2"]', "pyproject.toml")
    assert rows["extend-select"] == ('["ESP3", "ESP6"]', f"pyproject.toml + {COMMAND_LINE}")
    assert rows["ignore"] == ('["ESP201", "ESP202"]', f"pyproject.toml + {COMMAND_LINE}")
    assert rows["fail-on"] == ('"low"', COMMAND_LINE)
    assert rows["min-severity"] == ('"info"', "default")
    replaced = settings.with_command_line(Selectors(("ESP1",)))
    rows = {key: (value, origin) for key, value, origin in replaced.rows()}
    assert rows["select"] == ('["ESP1"]', COMMAND_LINE)
    assert rows["extend-select"] == ("[]", f"{COMMAND_LINE} (--select replaces it)")


def test_rows_are_toml(here: Path) -> None:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    configured(
        here, '[tool.esper-audit]\nexclude = ["a \\"b\\" \\\\"]\nprobe = true\n[tool.esper-audit.roles]\nf = "act"\n'
    )
    settings = load(here, cwd=here)
    data = tomllib.loads("\n".join(f"{key} = {value}" for key, value, _ in settings.rows()))
    assert data["exclude"] == ['a "b" \\']
    assert data["roles"] == {"f": "act"}
    assert data["probe"] is True
    assert data["fail-on"] == "medium"


def test_a_request_says_nothing_by_default() -> None:
    request = CheckRequest()
    assert (request.select, request.fail_on, request.min_severity, request.min_confidence) == (None, None, None, None)
