"""Paints the lines of `plain` for a terminal.

Only rich `Text` objects are used: markup strings would let a file that is audited choose its own colours and links.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console
from rich.text import Text

from esper_audit.core.report import AuditReport
from esper_audit.reporters.layout import Line, trimmed
from esper_audit.reporters.options import RenderOptions
from esper_audit.reporters.plain import concise_lines, experiment_lines, full_lines

_STYLES = {
    "critical": "bold magenta",
    "high": "bold red",
    "medium": "bold yellow",
    "low": "bold cyan",
    "info": "bold blue",
    "error": "bold red",
    "message": "bold",
    "summary": "bold",
    "gutter": "bright_blue",
    "label": "cyan",
    "help": "green",
    "note": "bold",
    "confirmed": "bold red",
    "refuted": "bold green",
    "inconclusive": "bold yellow",
    "dim": "dim",
}


def render_full(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """`plain.render_full` in colour."""
    sink.write(_painted(full_lines(report, options), options))


def render_concise(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """`plain.render_concise` in colour."""
    sink.write(_painted(concise_lines(report, options), options))


def render_experiments(report: AuditReport, sink: TextIO, *, options: RenderOptions) -> None:
    """`plain.render_experiments` in colour."""
    sink.write(_painted(experiment_lines(report, options), options))


def _painted(lines: Iterable[Line], options: RenderOptions) -> str:
    """The lines with colour codes; sixteen colours, so that the terminal's own theme decides what is readable."""
    canvas = io.StringIO()
    console = Console(
        file=canvas,
        force_terminal=True,
        color_system="standard",
        legacy_windows=False,
        no_color=False,
        width=max(1, options.width),
    )
    for line in lines:
        # soft_wrap: the layout is done, and a line that is too long is the terminal's to break
        console.print(_text(line), soft_wrap=True, highlight=False, markup=False, emoji=False)
    return canvas.getvalue()


def _text(line: Line) -> Text:
    text = Text()
    for segment in trimmed(line):
        text.append(segment.text, _STYLES.get(segment.tone))
    return text
