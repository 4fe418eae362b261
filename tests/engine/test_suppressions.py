"""Which comments suppress what, and what the audit says about comments that do not work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_audit.semantics.source import Source
from esper_audit.suppressions import OWN_RULES, Comments, read_comments

from .toy_auditor import Workbench, codes


def read(text: str | bytes) -> Comments:
    data = text.encode() if isinstance(text, str) else text
    return read_comments(Source(Path("net.py"), data), "net.py")


def covered(text: str) -> list[tuple[tuple[str, ...], int | None, int]]:
    return [(said.codes, said.first_line, said.last_line) for said in read(text).suppressions]


# --- the grammar


def test_a_trailing_comment_covers_its_line() -> None:
    assert covered("x = 1\ny = 2  # esper: ignore[ESP201] why\nz = 3\n") == [(("ESP201",), 2, 2)]


def test_a_comment_on_its_own_line_covers_the_statement_below() -> None:
    text = "# esper: ignore[ESP201] why\n# another comment\n\nx = (\n    1,\n)\ny = 2\n"
    assert covered(text) == [(("ESP201",), 4, 6)]


def test_a_comment_anywhere_in_a_statement_covers_all_of_it() -> None:
    for text in (
        "x = f(  # esper: ignore[ESP201] why\n    1,\n)\n",
        "x = f(\n    1,  # esper: ignore[ESP201] why\n)\n",
        "x = f(\n    # esper: ignore[ESP201] why\n    1)\n",
        "x = f(\n    1,\n)  # esper: ignore[ESP201] why\n",
    ):
        assert covered(text) == [(("ESP201",), 1, 3)]


def test_a_backslash_does_not_split_a_statement() -> None:
    assert covered("x = 1 + \\\n    2  # esper: ignore[ESP201] why\n") == [(("ESP201",), 1, 2)]


def test_the_head_of_a_block_is_a_statement_of_its_own() -> None:
    assert covered("if x:  # esper: ignore[ESP201] why\n    y = 1\n") == [(("ESP201",), 1, 1)]


def test_a_comment_above_a_decorator_reaches_the_head_of_what_is_decorated() -> None:
    text = "# esper: ignore[ESP201] why\n@a\n@b(\n    1\n)\ndef f(\n    x,\n):\n    pass\n"
    assert covered(text) == [(("ESP201",), 2, 8)]


def test_a_comment_with_nothing_below_covers_nothing_else() -> None:
    assert covered("x = 1\n# esper: ignore[ESP201] why") == [(("ESP201",), 2, 2)]


def test_several_codes_share_a_bracket_and_repeat_once() -> None:
    assert covered("x = 1  # esper: ignore[ESP201, ESP202,ESP201 ESP301] why") == [
        (("ESP201", "ESP202", "ESP301"), 1, 1)
    ]


def test_a_directive_may_share_its_comment() -> None:
    said = read("x = 1  # noqa: E501  # esper: ignore[ESP201] see #12, it is fine  # type: ignore\n").suppressions
    assert [(s.codes, s.reason, s.span.column, s.span.end_column) for s in said] == [
        (("ESP201",), "see #12, it is fine", 22, 65)
    ]


@pytest.mark.parametrize("lead", ["", " ", ": ", " -- ", " \N{EM DASH} "])
def test_a_reason_may_be_set_off(lead: str) -> None:
    assert [said.reason for said in read(f"x = 1  # esper: ignore[ESP201]{lead}why").suppressions] == ["why"]


def test_file_ignore_covers_the_file() -> None:
    for text in (
        "# esper: file-ignore[ESP401] why\nx = 1\n",
        "x = 1  # esper: file-ignore[ESP401] why\n",
        "def f():\n    pass\n# esper: file-ignore[ESP401] why\nx = 1\n",
    ):
        assert covered(text) == [(("ESP401",), None, 0)]


def test_text_in_strings_is_no_suppression() -> None:
    assert read('x = "# esper: ignore[ESP201] why"\n"""\n# esper: ignore[ESP201] why\n"""\n') == Comments()


def test_prose_of_a_project_called_esper_is_no_suppression() -> None:
    text = "# esper: the telemetry of the agent\n# esper: skip the first frame\n# esper: disable it by hand\nx = 1\n"
    assert read(text) == Comments()


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("# esper: ignore", "names no code, so it suppresses nothing: there is no blanket form"),
        ("# esper: ignore ESP201", "there is no blanket form"),
        ("# esper: ignore[]", "there is no blanket form"),
        ("# esper: ignore[ ,]", "there is no blanket form"),
        ("# esper: ignore[ESP201", "its bracket is not closed"),
        ("# esper: file-ignore", "there is no blanket form"),
        ("# esper: ignore-file[ESP201]", "`ignore-file` is no suppression"),
        ("# esper: noqa", "`noqa` is no suppression"),
        ("# esper: disable=ESP201", "`disable` is no suppression"),
        ("# esper: skip", "`skip` is no suppression"),
    ],
)
def test_a_form_that_does_not_exist_is_told_with_the_one_that_does(comment: str, message: str) -> None:
    said = read(f"x = 1  {comment}\n")
    assert said.suppressions == ()
    (malformed,) = said.malformed
    assert message in malformed.message
    assert "# esper: ignore[ESP201] reason" in malformed.help
    assert (malformed.span.line, malformed.span.column, malformed.span.end_column) == (1, 8, 8 + len(comment))


def test_file_ignore_inside_a_block_is_told() -> None:
    for text in (
        "def f():\n    # esper: file-ignore[ESP201] why\n    pass\n",
        "if x:\n    y = 1  # esper: file-ignore[ESP201] why\n",
    ):
        said = read(text)
        assert said.suppressions == ()
        assert "speaks for the whole file" in said.malformed[0].message


def test_line_ends_form_feeds_tabs_bom_and_cookies_do_not_shift_lines() -> None:
    assert covered("x = 1\r\n\fy = 2\t# esper: ignore[ESP201] why\r\n") == [(("ESP201",), 2, 2)]
    assert covered("x = 1\ry = 2  # esper: ignore[ESP201] why\r") == [(("ESP201",), 2, 2)]
    bom = read(b"\xef\xbb\xbfx = 1  # esper: ignore[ESP201] why\n").suppressions
    assert [(said.span.column, said.reason) for said in bom] == [(8, "why")]
    latin = read(b"# -*- coding: latin-1 -*-\nx = '\xe9'  # esper: ignore[ESP201] caf\xe9\n").suppressions
    assert [(said.span.column, said.reason) for said in latin] == [(10, "caf\xe9")]


@given(st.binary(max_size=200))
def test_any_bytes_survive(noise: bytes) -> None:
    read(b"# esper: ignore[ESP201] why\n" + noise + b"\n# esper: ignore[ESP201]")


@given(
    st.lists(
        st.sampled_from(
            ["(", ")", "\n", "    ", "\t", "x", "'''", '"', "\\", "@", "if x:", "# esper: ignore[ESP201]", "\f"]
        ),
        max_size=30,
    )
)
def test_any_shape_of_a_file_survives(pieces: list[str]) -> None:
    for said in read("".join(pieces)).suppressions:
        assert said.first_line is not None
        assert 1 <= said.first_line <= said.last_line


def test_a_line_of_a_megabyte_and_deep_nesting_survive() -> None:
    assert covered("x = " + "1 + " * 250_000 + "1  # esper: ignore[ESP201] why\n") == [(("ESP201",), 1, 1)]
    read("x = " + "(" * 5000 + ")" * 5000 + "  # esper: ignore[ESP201] why\n")
    read("# esper: ignore[ESP201]" + " #" * 300_000 + "\n")
    read("#" + " " * 500_000 + "esper: ignore[" + " " * 500_000)


# --- the decisions


def test_a_suppressed_finding_keeps_its_reason_and_no_longer_stands(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201  # esper: ignore[ESP201] only on the CPU\n    y = 1  # <- ESP201\n")
    report = bench.audit()
    assert codes(report.findings) == [("ESP201", 5)]
    assert [(finding.span.line, finding.reason) for finding in report.suppressed] == [(4, "only on the CPU")]


def test_a_rule_may_be_named_instead_of_coded(bench: Workbench) -> None:
    bench.network(
        "    x = 1  # <- ESP201  # esper: ignore[hidden-on-cpu] why\n"
        "    y = 1  # <- ESP202  # esper: ignore[esp202] why\n"
    )
    report = bench.audit()
    assert report.findings == ()
    assert codes(report.suppressed) == [("ESP201", 4), ("ESP202", 5)]


def test_a_suppression_of_one_code_leaves_the_others_standing(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201 # <- ESP202  # esper: ignore[ESP202] why\n")
    report = bench.audit()
    assert codes(report.findings) == [("ESP201", 4)]
    assert codes(report.suppressed) == [("ESP202", 4)]


def test_a_finding_in_another_file_is_suppressed_there(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP301 at masks.py:2\n")
    bench.write("masks.py", "import torch\nFILL = 1  # esper: ignore[ESP301] agreed\n")
    report = bench.audit()
    assert report.findings == ()
    assert [(finding.span.path, finding.reason) for finding in report.suppressed] == [("masks.py", "agreed")]


def test_an_unused_suppression_is_esp901(bench: Workbench) -> None:
    bench.network("    x = 1  # esper: ignore[ESP201, ESP202] why  # <- ESP202\n# esper: file-ignore[ESP603] why\n")
    report = bench.audit()
    assert codes(report.suppressed) == [("ESP202", 4)]
    first, second = report.findings
    assert (first.code, first.span.line, first.severity.value) == ("ESP901", 4, "low")
    assert first.message == "nothing on this line raises ESP201 (hidden-on-cpu)"
    assert first.help == "take ESP201 out of the brackets"
    assert (second.code, second.message, second.help) == (
        "ESP901",
        "nothing on this file raises ESP603 (dead-attribute)",
        "delete the comment",
    )


@pytest.mark.parametrize(
    "request_", [{"ignore": ("ESP201",)}, {"select": ("ESP202", "ESP9")}], ids=["ignored", "not selected"]
)
def test_a_suppression_of_a_rule_that_did_not_run_is_not_called_unused(
    bench: Workbench, request_: dict[str, Any]
) -> None:
    bench.network("    x = 1  # esper: ignore[ESP201] why\n")
    assert bench.audit(**request_).findings == ()


def test_per_file_ignores_do_not_make_a_suppression_unused(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201  # esper: ignore[ESP201] why\n")
    bench.write("pyproject.toml", '[tool.esper-audit.per-file-ignores]\n"net.py" = ["ESP201"]\n')
    assert bench.audit().findings == ()


def test_a_hidden_finding_still_uses_its_suppression(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP603  # esper: ignore[ESP603] why\n")
    bench.write("pyproject.toml", '[tool.esper-audit]\nmin-severity = "medium"\n')
    report = bench.audit()
    assert (report.findings, report.suppressed) == ((), ())


def test_without_a_network_only_an_audit_of_the_whole_project_may_call_a_suppression_unused(bench: Workbench) -> None:
    bench.write("agent.py", "import torch\nx = 1  # esper: ignore[ESP201] the network elsewhere raises it\n")
    bench.network("    x = 1  # <- ESP201 at agent.py:2\n")
    assert bench.audit("agent.py").findings == ()
    assert bench.audit("agent.py", "net.py").findings == ()
    bench.network("    x = 1\n")
    assert bench.audit("agent.py").findings == ()
    assert codes(bench.audit(".").findings) == [("ESP901", 2)]


def test_a_reason_is_asked_for_only_when_the_configuration_demands_one(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP201  # esper: ignore[ESP201]\n")
    assert bench.audit().findings == ()
    bench.write("pyproject.toml", "[tool.esper-audit]\nrequire-reason = true\n")
    (finding,) = bench.audit().findings
    assert (finding.code, finding.severity.value) == ("ESP902", "medium")
    assert finding.message == "the suppression of ESP201 gives no reason"
    assert finding.help == "say why: `# esper: ignore[ESP201] reason`"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ESP604", "no rule is called 'ESP604', so it suppresses nothing; did you mean 'ESP680'?"),
        ("hiden-on-cpu", "no rule is called 'hiden-on-cpu', so it suppresses nothing; did you mean 'hidden-on-cpu'?"),
        ("ESP2", "'ESP2' stands for a whole family, and there is no blanket form: it suppresses nothing"),
        ("all", "'all' stands for a whole family, and there is no blanket form: it suppresses nothing"),
        ("ESP901", "ESP901 is about suppressions and cannot be suppressed by one"),
    ],
)
def test_a_code_that_cannot_be_suppressed_is_esp903(bench: Workbench, word: str, message: str) -> None:
    bench.network(f"    x = 1  # <- ESP201  # esper: ignore[{word}] why\n")
    found = {finding.code: finding for finding in bench.audit().findings}
    assert set(found) == {"ESP201", "ESP903"}
    assert found["ESP903"].message == message
    assert found["ESP903"].severity.value == "medium"


def test_a_malformed_suppression_is_esp903_with_a_fingerprint(bench: Workbench) -> None:
    bench.network("    x = 1  # esper: ignore\n")
    (finding,) = bench.audit().findings
    assert finding.code == "ESP903"
    assert finding.fingerprint.endswith(":0")


def test_the_audits_own_codes_obey_the_settings(bench: Workbench) -> None:
    bench.network("    x = 1  # esper: ignore\n")
    assert bench.audit(ignore=("ESP903",)).findings == ()
    assert bench.audit(select=("ESP2",)).findings == ()
    bench.write("pyproject.toml", '[tool.esper-audit.severity]\nESP9 = "info"\n')
    assert [finding.severity.value for finding in bench.audit().findings] == ["info"]


def test_comments_in_files_that_were_only_consulted_are_not_criticised(bench: Workbench) -> None:
    bench.network("    x = 1  # <- ESP301 at masks.py:2\n")
    bench.write("masks.py", "import torch\nFILL = 1\ny = 2  # esper: ignore\nz = 3  # esper: ignore[ESP999] why\n")
    assert codes(bench.audit().findings) == [("ESP301", 2)]


def test_a_suppression_does_not_change_the_fingerprints_of_its_neighbours(bench: Workbench) -> None:
    body = "    x = f()  # <- ESP201\n    def g(self):\n        x = f()  # <- ESP201\n"
    bench.network(body)
    before = [finding.fingerprint for finding in bench.audit().findings]
    bench.network("    # esper: ignore[ESP201] why\n" + body)
    report = bench.audit()
    assert [report.suppressed[0].fingerprint, report.findings[0].fingerprint] == before


def test_every_code_of_the_audits_own_has_a_page() -> None:
    for info in OWN_RULES:
        assert "## What it does" in info.page
        assert "## Use instead" in info.page
