"""Errors typed by what they mean for the caller: wrong use (exit 2) or a failure of the audit itself (exit 3)."""

from __future__ import annotations


class EsperError(Exception):
    """Base of all errors that are told to the user in one line."""

    exit_code = 3


class UsageError(EsperError):
    """The command line asks for something that cannot be done."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration is broken or names something that does not exist."""


class SourceError(EsperError):
    """A file cannot be read or parsed; `line` is 1-based where the place is known, else 0."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line


class RuleCrash(EsperError):
    """A rule raised while it looked at a file."""


class ProbeCrash(EsperError):
    """A probe's worker died."""
