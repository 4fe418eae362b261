"""What a reader may ask of a report. Defaults suit a file or a pipe; the command line fills in the rest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How to show a report; nothing in here changes what the audit found."""

    color: bool = False
    width: int = 100
    show_suppressed: bool = False
    show_baselined: bool = False
    show_refuted: bool = False
    statistics: bool = False
    quiet: bool = False
    reproducible: bool = False
    date: str = ""
    folder: str = ""  # where the run stands below the checkout of a CI job, whose readers count from its root
