"""The JSON report keeps the promise of `esper-audit/1`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode

from esper_audit.core.report import AuditReport

Show = Callable[..., str]


class JsonFile(SingleFileSnapshotExtension):
    """A snapshot that is itself a report."""

    _file_extension = file_extension = "json"
    _write_mode = write_mode = WriteMode.TEXT


@pytest.fixture(scope="session")
def schema() -> Any:
    """The contract, as other programs would check it."""
    return json.loads(Path(__file__).with_name("esper-audit-1.schema.json").read_text(encoding="utf-8"))


def test_json_report(report: AuditReport, show: Show, snapshot: SnapshotAssertion) -> None:
    """The whole object."""
    assert show("json", report) == snapshot.use_extension(JsonFile)


@pytest.mark.parametrize("sample", ["report", "static_report", "clean_report"])
def test_json_follows_the_schema(sample: str, show: Show, schema: Any, request: pytest.FixtureRequest) -> None:
    """Not one key more or less."""
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(show("json", request.getfixturevalue(sample))))


def test_an_empty_report_follows_the_schema(show: Show, schema: Any) -> None:
    """Readers need no special case for it."""
    jsonschema.Draft202012Validator(schema).validate(json.loads(show("json", AuditReport())))


def test_every_object_of_the_schema_is_closed(schema: Any) -> None:
    """A strict schema is the only one that notices a new key."""

    def objects(node: Any) -> Any:
        if isinstance(node, dict):
            if node.get("type") == "object":
                yield node
            for child in node.values():
                yield from objects(child)

    assert all("additionalProperties" in node for node in objects(schema))


def test_json_holds_all_that_the_report_holds(report: AuditReport, show: Show) -> None:
    """Refuted findings stay among the findings, with their verdict."""
    data = json.loads(show("json", report))
    assert [finding["code"] for finding in data["findings"]] == [finding.code for finding in report.findings]
    assert "refuted" in {finding["verdict"] for finding in data["findings"]}
    assert data["suppressed"][0]["reason"] == report.suppressed[0].reason


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters()))
def test_json_is_pure_ascii_and_says_what_the_report_says(report: AuditReport, show: Show, text: str) -> None:
    """Safe to print, safe to parse."""
    written = show("json", replace(report, findings=(replace(report.findings[0], message=text),)))
    assert written.endswith("}\n")
    assert all(char == "\n" or " " <= char <= "~" for char in written)
    told = json.loads(written)["findings"][0]["message"]
    assert told == text or any("\ud800" <= char <= "\udfff" for char in text)


def test_a_path_that_is_no_unicode_does_not_break_strict_parsers(report: AuditReport, show: Show) -> None:
    """A lone surrogate is spelled out."""
    finding = replace(report.findings[0], message="\udc80")
    assert json.loads(show("json", replace(report, findings=(finding,))))["findings"][0]["message"] == r"\udc80"
