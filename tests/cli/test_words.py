"""The words of the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from esper_audit import __version__
from esper_audit.cli import app
from esper_audit.engine import COMMANDS

from .esper_process import Esper, environment


def test_check_may_be_left_out(inside: Esper) -> None:
    bare = inside("faulty.py")
    assert bare.returncode == 1
    for words in (
        ("check", "faulty.py"),
        ("--color", "never", "faulty.py"),
        ("check", "faulty.py", "--color", "never"),
    ):
        result = inside(*words)
        assert (result.stdout, result.stderr, result.returncode) == (bare.stdout, bare.stderr, 1)


def test_the_commands_of_the_help_are_those_the_engine_knows() -> None:
    assert (
        tuple(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)
        == COMMANDS
    )


def test_the_runner_of_the_library_works(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    result = CliRunner().invoke(app, ["faulty.py", "--format", "concise"])
    assert "ESP903" in result.stdout
    assert result.exit_code == 1


def test_completion_completes(esper: Esper) -> None:
    asked = {"_ESPER_AUDIT_COMPLETE": "complete_bash", "COMP_WORDS": "esper-audit net.py --fo", "COMP_CWORD": "2"}
    result = esper("net.py", env=asked)
    assert "--format" in result.stdout
    assert "--force-exclude" in result.stdout


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_the_version_is_told(inside: Esper, word: str) -> None:
    assert inside(word).stdout == f"esper-audit {__version__}\n"


def test_no_words_show_the_help_and_are_wrong_use(inside: Esper) -> None:
    result = inside()
    assert "Usage: esper-audit" in result.stdout
    assert result.returncode == 2


def test_the_help_shows_examples_and_exit_codes(inside: Esper) -> None:
    whole = inside("--help")
    assert "esper-audit explain ESP201" in whole.stdout
    assert "Exit codes: 0" in whole.stdout
    check = inside("check", "-h")
    assert "cat network.py | esper-audit -" in check.stdout
    assert (whole.returncode, check.returncode) == (0, 0)


def test_codes_may_be_separated_by_commas_or_repeated(inside: Esper) -> None:
    assert inside("faulty.py", "--ignore", "ESP901,ESP903").returncode == 0
    assert inside("faulty.py", "--ignore", "ESP901", "--ignore", "invalid-suppression").returncode == 0
    assert inside("faulty.py", "--select", "ESP901, ESP903").returncode == 1
    assert inside("faulty.py", "--select", "ESP901", "--extend-select", "ESP903").returncode == 1
    assert inside("faulty.py", "--select", "ESP901").returncode == 0


def test_thresholds_and_exit_zero(inside: Esper) -> None:
    assert inside("faulty.py", "--fail-on", "high").returncode == 0
    assert inside("faulty.py", "--min-severity", "high").stdout.startswith("No findings")
    assert inside("faulty.py", "--min-confidence", "high").returncode == 1
    assert inside("faulty.py", "--exit-zero").returncode == 0


def test_quiet_says_only_the_findings_and_verbose_says_what_was_skipped(inside: Esper, project: Path) -> None:
    (project / "plain.py").write_text("x = 1\n")
    (project / "docs").mkdir()
    quiet = inside("faulty.py", "docs", "-q", "--format", "concise")
    assert quiet.stderr == ""
    assert len(quiet.stdout.splitlines()) == 1
    assert inside("net.py", "-q").stdout == ""
    assert (
        inside("net.py", "plain.py", "-v", "--no-cache").stderr
        == "note: plain.py: skipped, torch does not occur in it\n"
    )
    assert "note: cache: " in inside("net.py", "plain.py", "-v").stderr


def test_statistics_are_shown_on_request(inside: Esper) -> None:
    assert "1  ESP903" in inside("faulty.py", "--statistics").stdout


def test_force_exclude_leaves_named_files_out(inside: Esper, project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.esper-audit]\nexclude = ["faulty.py"]\n')
    assert inside("faulty.py").returncode == 1
    assert inside("faulty.py", "--force-exclude").returncode == 0
    assert inside(".").returncode == 0
    assert inside("faulty.py", ".", "--isolated", "--force-exclude").returncode == 1


def test_a_configuration_is_found_from_the_first_path(inside: Esper, project: Path) -> None:
    (project / "sub").mkdir()
    (project / "sub/pyproject.toml").write_text('[tool.esper-audit]\nfail-on = "high"\nplugins = ["evil"]\n')
    (project / "sub/faulty.py").write_text((project / "faulty.py").read_text())
    result = inside("sub/faulty.py")
    assert result.returncode == 0
    assert result.stderr.startswith("note: sub/pyproject.toml: 'plugins' is ignored: ")
    assert inside("faulty.py", "--config", "sub/pyproject.toml", "--ignore", "ESP903").returncode == 2  # now it is ours
    assert inside("sub/faulty.py", "--isolated").returncode == 1


def test_plugins_of_the_callers_configuration_are_rules_like_any_other(esper: Esper, project: Path) -> None:
    (project / "house_rules.py").write_text(
        '''
from esper_audit.core.findings import Category, Severity
from esper_audit.rulekit.rule import Hit, Rule

class NoLinear(Rule):
    """## What it does

    Reports every network.
    """

    code = "HOUSE101"
    name = "any-network"
    summary = "A network"
    category = Category.QUALITY
    severity = Severity.HIGH
    help = "write none"

    def check_network(self, net, module):
        yield Hit(net.model.node, "this is a network")
'''
    )
    (project / "pyproject.toml").write_text('[tool.esper-audit]\nplugins = ["house_rules"]\n')
    path = {"PYTHONPATH": f"{project}{os.pathsep}{environment()['PYTHONPATH']}"}
    result = esper("net.py", "--select", "HOUSE", "--format", "concise", env=path)
    assert result.stdout.startswith("net.py:5:1: HOUSE101 this is a network\n")
    assert result.returncode == 1


# --- explain, list-rules, show-config


@pytest.mark.parametrize("word", ["ESP901", "esp901", "unused-suppression"])
def test_explain_prints_the_page_as_markdown(inside: Esper, word: str) -> None:
    result = inside("explain", word)
    assert result.stdout.startswith(
        "# ESP901 unused-suppression\n\nA suppression comment that silences nothing. (severity low"
    )
    assert "## Use instead" in result.stdout
    assert (result.stderr, result.returncode) == ("", 0)


def test_explain_of_an_unknown_code_names_the_nearest(inside: Esper) -> None:
    result = inside("explain", "ESP9O1")
    assert result.stderr == "error: unknown rule 'ESP9O1'; did you mean 'ESP901'?\n"
    assert (result.stdout, result.returncode) == ("", 2)


def test_list_rules_is_plain_when_piped_and_json_on_request(inside: Esper) -> None:
    table = inside("list-rules").stdout.splitlines()
    assert table[0].split() == ["code", "name", "severity", "fix", "probe", "summary"]
    codes = [line.split()[0] for line in table[1:]]
    assert codes == sorted(codes)
    assert {"ESP901", "ESP902", "ESP903"} <= set(codes)
    rows = json.loads(inside("list-rules", "--format", "json").stdout)
    assert [row["code"] for row in rows] == codes
    assert set(rows[0]) == {"code", "name", "summary", "category", "severity", "fixable", "probe"}


def test_show_config_prints_values_and_where_they_came_from(inside: Esper, project: Path) -> None:
    (project / "pyproject.toml").write_text('[tool.esper-audit]\nfail-on = "high"\n')
    lines = inside("show-config", "net.py").stdout.splitlines()
    assert lines[0] == "# settings for net.py; configuration file: pyproject.toml"
    rows = {line.split(" = ")[0]: line.split(" = ")[1].split() for line in lines[1:]}
    assert rows["fail-on"] == ['"high"', "#", "pyproject.toml"]
    assert rows["select"] == ['["ALL"]', "#", "default"]
    assert "none read" in inside("show-config", "--isolated").stdout


def test_a_choice_that_leaves_no_rule_is_an_error(inside: Esper) -> None:
    """An empty variable in a CI job must not turn it green."""
    for words in (("--select", ""), ("--select", "ESP4", "--ignore", "ESP4")):
        done = inside("faulty.py", *words)
        assert done.returncode == 2
        assert "leave none to look with" in done.stderr


def test_an_output_says_its_format_or_is_refused(inside: Esper) -> None:
    for word in ("tap:out.json", "markdwon:AUDIT.md", "out.tap", "summary"):
        done = inside("faulty.py", "-o", word)
        assert done.returncode == 2
        assert "markdown" in done.stderr
