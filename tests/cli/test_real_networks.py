"""The whole way on networks with real faults: rules, suppressions, reports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from .esper_process import Esper

TWIN = Path(__file__).parents[1] / "networks" / "twin"


@pytest.fixture
def twin(project: Path) -> Path:
    """A copy of the twin of the audited design, all its faults included, to write into."""
    shutil.copytree(TWIN, project / "twin")
    return project / "twin"


def test_one_file_is_named_and_what_it_leads_to_is_consulted(inside: Esper, twin: Path) -> None:
    assert twin.is_dir()
    result = inside("twin/network.py", "--format", "json")
    report = json.loads(result.stdout)
    statuses = {file["path"]: file["status"] for file in report["files"]}
    assert statuses["twin/network.py"] == "audited"
    assert {status for path, status in statuses.items() if path != "twin/network.py"} == {"consulted"}
    assert report["findings"]
    assert result.returncode == 1


def test_naming_more_files_tells_no_finding_twice(inside: Esper, twin: Path) -> None:
    assert twin.is_dir()
    one = json.loads(inside("twin/network.py", "--format", "json").stdout)
    all_of_them = json.loads(inside("twin", "--format", "json").stdout)
    places = [(f["code"], f["path"], f["line"], f["column"]) for f in all_of_them["findings"]]
    assert len(places) == len(set(places))
    assert {(f["code"], f["path"], f["line"], f["column"]) for f in one["findings"]} <= set(places)


def test_every_finding_can_be_suppressed_where_it_stands(inside: Esper, twin: Path) -> None:
    found = json.loads(inside("twin", "--format", "json").stdout)["findings"]
    by_file: dict[str, dict[int, set[str]]] = {}
    for finding in found:
        by_file.setdefault(finding["path"], {}).setdefault(finding["line"], set()).add(finding["code"])
    for path, by_line in by_file.items():
        file = twin.parent / path
        lines = file.read_text().split("\n")
        for line in by_line:
            lines[line - 1] += f"  # esper: ignore[{', '.join(sorted(by_line[line]))}] judged"
        file.write_text("\n".join(lines))
    result = inside("twin", "--format", "json")
    report = json.loads(result.stdout)
    assert report["findings"] == []
    assert {finding["reason"] for finding in report["suppressed"]} == {"judged"}
    assert len(report["suppressed"]) == len(found)
    assert result.returncode == 0
    shown = inside("twin", "--show-suppressed", "--format", "concise").stdout
    assert shown.count("judged") == len(found)
