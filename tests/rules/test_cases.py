"""Every rule convicts its invalid cases at the marked lines, spares its valid ones, and keeps its page's promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from esper_audit.rulekit.harness import RuleCase, cases_of, todos_of
from esper_audit.rulekit.registry import load_rules
from esper_audit.rulekit.rule import PAGE_SECTIONS, Case, Rule

RULES = [type(rule) for rule in load_rules().values()]


@pytest.mark.parametrize("case", [case for rule in RULES for case in cases_of(rule)], ids=str)
def test_a_rule_keeps_the_promise_of_its_case(case: RuleCase, tmp_path: Path) -> None:
    case.check(tmp_path)


@pytest.mark.parametrize("case", [case for rule in RULES for case in todos_of(rule)], ids=str)
def test_a_known_miss_is_still_missed(case: RuleCase, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        case.check(tmp_path)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_page_has_all_its_sections(rule: type[Rule]) -> None:
    missing = [title for title in PAGE_SECTIONS if not rule.section(title)]
    assert not missing


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_code_stands_in_the_family_of_its_category(rule: type[Rule]) -> None:
    families = {"compile": "1", "device": "2", "gradient": "3", "memory": "4", "integration": "5", "quality": "6"}
    assert rule.code[3] == families[rule.category.value]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_lives_in_a_file_of_its_own_name(rule: type[Rule]) -> None:
    family, stem = rule.__module__.split(".")[1:]
    assert family == rule.category.value
    assert rule.name.replace("-", "_").startswith(stem) or stem == rule.name.replace("-", "_")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_with_fixes_shows_one_and_says_on_its_page_what_it_changes(rule: type[Rule]) -> None:
    shown = any(isinstance(case, Case) and case.fixed is not None for case in rule.INVALID)
    assert shown is (rule.fixable is not None)
    said = rule.section("Fix").partition(":")[0].lower()
    assert said == (rule.fixable or "")
