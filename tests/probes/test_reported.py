"""Bugs that others reported are seen in networks rebuilt from their descriptions, by a rule or by an experiment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from esper_audit.audit import Auditor
from esper_audit.probes.contract import FAILED, probes
from esper_audit.probes.launch import carry_out
from esper_audit.rulekit.registry import load_rules

NETWORKS = Path(__file__).parent.parent / "networks"
CODES = re.compile(r"ESP\d{3}")


def table() -> Iterator[tuple[str, list[str]]]:
    """The rows of the page: file, and the codes that are to see the bug."""
    page = (NETWORKS / "README.md").read_text(encoding="utf-8").partition("## What was reported")[2]
    for line in page.splitlines():
        if line.startswith("| `"):
            file, _, seen = line.strip("| ").split(" | ")
            yield file.strip("`"), CODES.findall(seen)


@pytest.mark.parametrize(("file", "codes"), list(table()))
def test_a_reported_bug_is_seen_by_what_the_page_names(file: str, codes: list[str]) -> None:
    path = NETWORKS / "reported" / file
    auditor = Auditor(list(load_rules().values()), display=str)
    found = {finding.code for finding in auditor.audit_file(path).findings}
    ids = tuple(name for name, probe in probes().items() if probe.code in codes)
    for case in auditor.cases(path):
        _, outcomes = carry_out(replace(case.order, probes=ids), timeout=120)
        found |= {probes()[outcome.id].code for outcome in outcomes if outcome.result == FAILED}
    assert found.issuperset(codes)


def test_the_page_tells_all_of_them() -> None:
    assert sorted(file for file, _ in table()) == sorted(path.name for path in (NETWORKS / "reported").glob("*.py"))
