"""Colour adds colour and nothing else, and costs nothing when it is not wanted."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_audit.core.report import AuditReport
from esper_audit.reporters import RenderOptions, render

Show = Callable[..., str]

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("style", ["full", "concise"])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_coloured_text_without_its_colours_is_the_plain_text(
    report: AuditReport, show: Show, style: str, width: int
) -> None:
    """There is one layout."""
    options = {"width": width, "show_refuted": True, "show_suppressed": True, "statistics": True}
    coloured = show(style, report, color=True, **options)
    assert COLOUR.sub("", coloured) == show(style, report, **options)
    assert COLOUR.search(coloured)


def test_severities_have_colours_of_their_own(report: AuditReport, show: Show) -> None:
    """The eye finds the high ones."""
    text = show("full", report, color=True)
    assert "\x1b[1;31mhigh[ESP301]" in text
    assert "\x1b[1;33mmedium[ESP201]" in text


def test_colour_follows_the_option_and_not_the_environment(
    report: AuditReport, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line has already looked at `NO_COLOR` and the terminal."""
    expected = show("concise", report, color=True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    assert show("concise", report, color=True) == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="[]/boldred link=\x1b\x9b:smile:\\\u202e漢", min_size=1, max_size=30))
def test_a_file_cannot_choose_its_own_colours(one_finding: Callable[..., AuditReport], show: Show, text: str) -> None:
    """Neither by rich markup nor by escape sequences nor by emoji names."""
    report = one_finding(text, (1, 1, 1, 2), message=text, help=text)
    coloured = show("full", report, color=True)
    assert COLOUR.sub("", coloured) == show("full", report)


@pytest.mark.parametrize("module", ["rich", "libcst", "torch", "json"])
def test_importing_the_reporters_imports_no_heavy_module(module: str) -> None:
    """Start-up is paid by every run of a pre-commit hook."""
    code = f"import sys, esper_audit.reporters; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("style", ["full", "concise", "markdown"])
def test_reports_without_colour_never_import_rich(style: str) -> None:
    """Rich is for a terminal that is there to see it."""
    code = (
        "import io, sys; from esper_audit.core.report import AuditReport; from esper_audit.reporters import render;"
        f"render({style!r}, AuditReport(), io.StringIO()); sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_pipe_that_knows_few_characters_gets_escapes_instead_of_a_crash(
    one_finding: Callable[..., AuditReport],
) -> None:
    """Windows pipes speak cp1252."""
    raw = io.BytesIO()
    sink = io.TextIOWrapper(raw, encoding="ascii")
    render("concise", one_finding("a", (1, 1, 1, 2), message="naïve 漢"), sink, options=RenderOptions())
    sink.flush()
    assert rb"na\xefve \u6f22" in raw.getvalue()
