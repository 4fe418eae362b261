"""The front door. When the words are only paths they go straight to the engine, past the command line library."""

from __future__ import annotations

import gc
import os
import sys

_COMPLETION = "_ESPER_AUDIT_COMPLETE"  # set while a shell asks for completions


def main() -> int:
    """Run the words of the command line; returns the exit code."""
    words = sys.argv[1:]
    gc.disable()  # trees and facts live until the end; collecting would walk millions of live nodes again and again
    try:
        if words in (["--version"], ["-V"]):
            return _version()
        paths = express_paths(words)
        if paths is not None and _COMPLETION not in os.environ:
            from esper_audit.commands import check
            from esper_audit.engine import CheckRequest

            return check(CheckRequest(paths=paths, jobs=None))
        from esper_audit.cli import run

        return run(words)
    except KeyboardInterrupt:  # while modules are imported; the commands see to it themselves
        return 130


def express_paths(words: list[str]) -> tuple[str, ...] | None:
    """The paths when the words are nothing but paths, with or without `check` before them; else None."""
    from esper_audit.engine import COMMANDS

    if any(word.startswith("-") and word != "-" for word in words):
        return None
    if words[:1] == ["check"]:
        words = words[1:]
    elif words and words[0] in COMMANDS:
        return None
    return tuple(words) or None


def _version() -> int:
    from esper_audit import __version__
    from esper_audit.console import deliver_text

    return deliver_text(f"esper-audit {__version__}\n")


if __name__ == "__main__":
    sys.exit(main())
