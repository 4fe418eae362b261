"""What a baseline holds back, what it lets pass, and what may be taken out of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_audit.baseline import Baseline, Entry, Key, digest, page, read
from esper_audit.core.errors import ConfigError
from esper_audit.core.findings import Category, Confidence, Finding, Severity, Span, Verdict, fingerprinted
from esper_audit.core.report import AuditReport

from .toy_auditor import Workbench, codes

NAME = "known.json"


def write(bench: Workbench, *paths: str, prune: bool = False, **request: Any) -> AuditReport:
    """What `esper-audit baseline` does, with the toy auditor: returns the report of the run that it rests on."""
    place = bench.folder / NAME
    if not place.exists():
        place.write_text(page({}))
    report = bench.audit(*paths, baseline=NAME, **request)
    assert bench.plan is not None
    assert bench.plan.baseline is not None
    new = () if prune else report.findings
    entries = bench.plan.baseline.renewed(report.baselined, new, report.gone, bench.plan.cwd)
    place.write_text(page(entries))
    return report


def check(bench: Workbench, *paths: str, **request: Any) -> AuditReport:
    return bench.audit(*paths, baseline=NAME, **request)


def entries(bench: Workbench) -> dict[tuple[str, str], int]:
    """(path, code) -> how many findings the file on disk holds."""
    counts: dict[tuple[str, str], int] = {}
    for (path, _), entry in read(bench.folder / NAME, NAME).entries.items():
        counts[path, entry.code] = counts.get((path, entry.code), 0) + entry.count
    return counts


# --- holding back


def test_what_was_there_is_held_back_and_what_comes_is_not(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n")
    write(bench)
    bench.network("    x = 1  # <- ESP201\n    y = 2  # <- ESP201\n")
    report = check(bench)
    assert codes(report.baselined) == [("ESP201", 4)]
    assert codes(report.findings) == [("ESP201", 5)]
    assert report.summary()["baselined"] == 1
    assert report.baselined[0].reason == "in known.json"


def test_a_second_copy_of_a_known_line_is_new(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n")
    write(bench)
    bench.network("    x = 1  # <- ESP201\n    x = 1  # <- ESP201\n")
    report = check(bench)
    assert (codes(report.baselined), codes(report.findings)) == ([("ESP201", 4)], [("ESP201", 5)])


def test_mending_the_first_of_two_equal_lines_does_not_uncover_the_second(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n    x = 1  # <- ESP201\n")
    write(bench)
    bench.network("    pass\n    x = 1  # <- ESP201\n")
    report = check(bench)
    assert (codes(report.baselined), report.findings) == ([("ESP201", 5)], ())
    assert sum(report.gone.values()) == 1


LINES = st.lists(st.sampled_from(["a = 1", "b = 2", "c = 3  # <- ESP201", "d = 4  # <- ESP301", "e = 5  # <- ESP603"]))


def edited(lines: list[str], data: st.DataObject) -> Iterator[str]:
    """The lines with some that raise nothing added before them, some left out, and all of them indented anew."""
    indent = data.draw(st.sampled_from(["    ", "  ", "\t", "            "]))
    yield from [f"{indent}pass"] * data.draw(st.integers(0, 3))
    for line in lines:
        if data.draw(st.integers(0, 4)) == 0 and "<-" in line:
            continue  # this one was mended
        yield from [""] * data.draw(st.integers(0, 2))
        yield indent + data.draw(st.sampled_from([line, line.replace(" = ", "  =   ")]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(lines=LINES, order=st.randoms(use_true_random=False), data=st.data())
def test_moved_indented_and_mended_lines_raise_nothing_new(
    bench: Workbench, lines: list[str], order: Any, data: st.DataObject
) -> None:
    (bench.folder / NAME).unlink(missing_ok=True)
    bench.network("".join(f"    {line}\n" for line in ["pass", *lines]))
    before = len(write(bench).findings)
    order.shuffle(lines)
    after = list(edited(lines, data))
    bench.network("".join(f"{line}\n" for line in after) or "    pass\n")
    report = check(bench)
    assert report.findings == ()
    assert len(report.baselined) + sum(report.gone.values()) == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(old=LINES, new=LINES)
def test_as_many_findings_stand_as_there_are_more_of_a_line_than_before(
    bench: Workbench, old: list[str], new: list[str]
) -> None:
    (bench.folder / NAME).unlink(missing_ok=True)
    bench.network("".join(f"    {line}\n" for line in ["pass", *old]))
    write(bench)
    bench.network("".join(f"    {line}\n" for line in ["pass", *new]))
    report = check(bench)
    marked = {line for line in (*old, *new) if "<-" in line}
    assert len(report.findings) == sum(max(0, new.count(line) - old.count(line)) for line in marked)
    assert len(report.baselined) == sum(min(new.count(line), old.count(line)) for line in marked)
    assert sum(report.gone.values()) == sum(max(0, old.count(line) - new.count(line)) for line in marked)


def test_a_renamed_file_keeps_its_findings_known(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n", "old.py")
    write(bench, ".")
    (bench.folder / "new").mkdir()
    (bench.folder / "old.py").rename(bench.folder / "new/name.py")
    report = check(bench, ".")
    assert (codes(report.baselined), report.findings) == ([("ESP201", 4)], ())
    assert report.baselined[0].reason == "in known.json, under old.py"
    write(bench, ".", prune=True)
    assert entries(bench) == {("new/name.py", "ESP201"): 1}


def test_a_copied_file_is_new(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n", "old.py")
    write(bench, ".")
    bench.network("    x = 1  # <- ESP201\n", "copy.py")
    report = check(bench, ".")
    assert [finding.span.path for finding in report.findings] == ["copy.py"]


def test_the_current_folder_does_not_matter(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.network("    x = 1  # <- ESP201\n", "sub/deep/net.py")
    bench.write("sub/pyproject.toml", f'[tool.esper-audit]\nbaseline = "../{NAME}"\n')
    write(bench, "sub")
    assert entries(bench) == {("sub/deep/net.py", "ESP201"): 1}
    for folder, path in (("sub/deep", "net.py"), ("sub", "."), (".", "sub/deep/net.py"), ("/", str(bench.folder))):
        monkeypatch.chdir(bench.folder / folder)
        report = bench.audit(path, config=str(bench.folder / "sub/pyproject.toml") if folder == "/" else None)
        assert (len(report.baselined), report.findings) == (1, ())


def test_a_link_on_the_way_does_not_matter(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n", "sub/net.py")
    write(bench, "sub/net.py")
    (bench.folder / "link").symlink_to("sub")
    assert check(bench, "link/net.py").findings == ()


def test_standard_input_is_known_by_its_file_name(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n")
    write(bench)
    text = (bench.folder / "net.py").read_bytes() + b"    y = 2  # <- ESP202\n"
    report = check(bench, "-", stdin=text, stdin_filename="net.py")
    assert (codes(report.baselined), codes(report.findings)) == ([("ESP201", 4)], [("ESP202", 5)])


def test_a_comment_has_the_first_word(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n")
    write(bench)
    bench.network("    # esper: ignore[ESP201] judged\n    x = 1  # <- ESP201\n")
    report = check(bench)
    assert (codes(report.suppressed), report.baselined, report.findings) == ([("ESP201", 5)], (), ())
    assert sum(report.gone.values()) == 1


def test_findings_about_comments_are_held_back_like_others(bench: Workbench) -> None:
    bench.network("    x = 1  # esper: ignore[ESP201] once\n")
    write(bench)
    assert entries(bench) == {("net.py", "ESP901"): 1}
    assert check(bench).findings == ()


def test_a_severity_of_ones_own_changes_nothing(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n")
    write(bench)
    bench.write("pyproject.toml", '[tool.esper-audit.severity]\nESP201 = "critical"\n')
    report = check(bench)
    assert [finding.severity for finding in report.baselined] == [Severity.CRITICAL]
    assert report.findings == ()


def test_thresholds_hide_what_is_held_back_as_well(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP603\n    y = 2  # <- ESP201\n")
    write(bench)
    report = check(bench, min_severity=Severity.HIGH)
    assert codes(report.baselined) == [("ESP201", 5)]
    assert (report.hidden, report.gone) == (0, {})


# --- verdicts


def test_what_an_experiment_confirms_is_not_held_back_and_what_it_refutes_stays_refuted(tmp_path: Path) -> None:
    span = Span("net.py", 1, 1, 1, 2)
    found = Finding("ESP201", "a", Category.DEVICE, Severity.HIGH, Confidence.HIGH, "m", "h", span, "Net")
    (known,) = fingerprinted([found], {})
    baseline = Baseline(tmp_path / NAME, NAME, {("net.py", digest(known)): Entry("ESP201", 1, "Net", "m")})
    for verdict, stands in (
        (Verdict.UNTESTED, False),
        (Verdict.INCONCLUSIVE, False),
        (Verdict.CONFIRMED, True),
        (Verdict.REFUTED, True),
    ):
        match = baseline.match([replace(known, verdict=verdict)], tmp_path)
        assert [each.verdict for each in match.stands] == [verdict] * stands
        assert [each.verdict for each in match.held] == [verdict] * (not stands)
        assert match.left == {}
    (back,) = baseline.match([replace(known, verdict=Verdict.CONFIRMED)], tmp_path).stands
    assert back.reason == "in known.json, which holds back nothing that was confirmed"


# --- taking out


def test_only_what_this_run_would_have_found_is_taken_out(bench: Workbench) -> None:
    for name in ("a.py", "b.py", "sub/c.py", "broken.py", "out.py", "dumb.py"):
        bench.network("    x = 1  # <- ESP201\n    y = 1  # <- ESP301\n", name)
    write(bench, ".")
    before = entries(bench)
    for name in ("a.py", "b.py", "sub/c.py", "out.py"):
        bench.network("    pass\n", name)
    bench.write("broken.py", "import torch\ndef f(:\n")
    bench.write("dumb.py", "x = 1\n")
    bench.write("pyproject.toml", '[tool.esper-audit]\nexclude = ["out.py"]\n')
    write(bench, "a.py", "broken.py", "dumb.py", prune=True, select=("ESP2",))
    expected = dict(before)
    del expected["a.py", "ESP201"]
    assert entries(bench) == expected
    write(bench, ".", prune=True)
    left = {"broken.py", "dumb.py", "out.py"}  # does not parse, has no torch in it, is excluded: nobody looked
    assert entries(bench) == {key: number for key, number in before.items() if key[0] in left}


def test_pruning_adds_nothing_and_writing_does(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n    x = 1  # <- ESP201\n")
    write(bench)
    bench.network("    x = 1  # <- ESP201\n    y = 1  # <- ESP301\n")
    write(bench, prune=True)
    assert entries(bench) == {("net.py", "ESP201"): 1}
    write(bench)
    assert entries(bench) == {("net.py", "ESP201"): 1, ("net.py", "ESP301"): 1}


def test_a_deleted_file_is_taken_out_where_its_folder_was_walked(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201\n", "sub/net.py")
    bench.network("    pass\n", "other/net.py")
    write(bench, ".")
    (bench.folder / "sub/net.py").unlink()
    write(bench, "other", prune=True)
    assert entries(bench) == {("sub/net.py", "ESP201"): 1}
    write(bench, ".", prune=True)
    assert entries(bench) == {}


def test_a_file_that_another_network_leads_to_needs_the_whole_project(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP301 at masks.py:2\n")
    bench.write("masks.py", "import torch\nFILL = 1\n")
    write(bench, ".")
    bench.network("    pass\n")
    write(bench, "masks.py", prune=True)
    assert entries(bench) == {("masks.py", "ESP301"): 1}
    write(bench, ".", prune=True)
    assert entries(bench) == {}


# --- the file


TEXT = st.text(st.characters(), max_size=12)
ENTRIES = st.dictionaries(
    st.tuples(TEXT, TEXT.filter(bool)), st.builds(Entry, TEXT.filter(bool), st.integers(1, 99), TEXT, TEXT)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ENTRIES)
def test_a_page_is_read_as_it_was_written_whatever_the_names_are(tmp_path: Path, wanted: dict[Key, Entry]) -> None:
    text = page(wanted)
    assert text.isascii()
    assert json.loads(text)["schema"] == "esper-audit-baseline/1"
    assert len(text.splitlines()) <= 6 + 2 * len({path for path, _ in wanted}) + len(wanted)  # one line per entry
    (tmp_path / NAME).write_text(text)
    assert read(tmp_path / NAME, NAME).entries == wanted
    assert page(dict(reversed(wanted.items()))) == text


def test_what_a_merge_doubled_is_read_once(tmp_path: Path) -> None:
    row = '{"fingerprint": "ab", "code": "ESP201", "count": %d, "symbol": "", "message": ""}'
    text = '{"schema": "esper-audit-baseline/1", "files": {"a.py": [%s, %s], "a.py": [%s]}}'
    (tmp_path / NAME).write_text(text % (row % 1, row % 2, (row % 3).replace("ab", "cd")))
    found = read(tmp_path / NAME, NAME).entries
    assert {key: entry.count for key, entry in found.items()} == {("a.py", "ab"): 2, ("a.py", "cd"): 3}


HEAD = '{"schema": "esper-audit-baseline/1", "files": '


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "known.json:1:1: is no baseline: not valid JSON: Expecting value"),
        (b"{\n  'a'", "known.json:2:3: is no baseline: not valid JSON: "),
        (b"\xff", "known.json: is no baseline: not UTF-8"),
        (b"[" * 100_000, "known.json: is no baseline: not valid JSON"),
        (b"9" * 10_000, "known.json: is no baseline: not valid JSON"),
        (b"[]", 'known.json: is no baseline: it does not say "schema": "esper-audit-baseline/1"'),
        (b'{"schema": "esper-audit/1"}', "known.json: is no baseline: it does not say"),
        (b'{"schema": 1}', "known.json: is no baseline: it does not say"),
        (b'{"schema": "esper-audit-baseline/2"}', "known.json: is a baseline of another version, 'esper-audit-base"),
        (b'{"schema": "esper-audit-baseline/1"}', "known.json: 'files' must be an object"),
        (HEAD.encode() + b'{"a.py": {}}}', "known.json: 'a.py' must be a list of entries"),
        (HEAD.encode() + b'{"a.py": [1]}}', "known.json: entry 1 of 'a.py' must be an object"),
        (HEAD.encode() + b'{"a.py": [{}]}}', "known.json: entry 1 of 'a.py' must have a 'fingerprint' that is a str"),
        (
            HEAD.encode() + b'{"a.py": [{"fingerprint": "ab", "code": "ESP201", "count": true}]}}',
            "known.json: entry 1 of 'a.py' must have a 'count' that is a positive integer",
        ),
        (b"{\n<<<<<<< HEAD\n", "known.json: holds the marks of a merge conflict; solve it, or delete the file and"),
    ],
)
def test_a_file_that_is_no_baseline_gets_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(ConfigError) as error:
        read(tmp_path / NAME, NAME)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(ConfigError, match=r"^known\.json: is no regular file"):
        read(tmp_path / NAME, NAME)
