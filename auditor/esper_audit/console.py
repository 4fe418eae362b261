"""Where a run writes, and what a full disk or a closed pipe means.

Findings go to standard output, notes to standard error, reports to files that appear all at once.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from esper_audit.core.errors import EsperError, UsageError
from esper_audit.core.files import replace_file


def tell(kind: str, text: str) -> None:
    """`error: ...` or `note: ...` on standard error, one line per line of `text`; nobody listening is no error."""
    from esper_audit.reporters.escape import visible

    if sys.stderr is None:
        return
    with contextlib.suppress(OSError, ValueError):
        for line in text.split("\n"):
            sys.stderr.write(f"{kind}: {visible(line)}\n")
        sys.stderr.flush()


def deliver(write: Callable[[TextIO], object]) -> int:
    """Let `write` fill standard output; 0 when it did or when the reader had enough, 3 when it could not be written."""
    sink = sys.stdout
    if sink is None:
        tell("error", "cannot write to standard output: it is closed")
        return 3
    try:
        write(sink)
        sink.flush()
    except BrokenPipeError:
        _drain(sink)
    except OSError as error:
        _drain(sink)
        tell("error", f"cannot write to standard output: {system_reason(error)}")
        return 3
    return 0


def deliver_text(text: str) -> int:
    """`deliver` for a finished text; what the encoding of standard output lacks is spelled out."""

    def write(sink: TextIO) -> None:
        encoding = sink.encoding or "utf-8"
        sink.write(text.encode(encoding, "backslashreplace").decode(encoding))

    return deliver(write)


def _drain(sink: TextIO) -> None:
    """Send what is still buffered nowhere, or the interpreter would try again at exit and print a traceback."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sink.fileno())
        os.close(nowhere)


def guarded(work: Callable[[], int], *, verbose: bool = False) -> int:
    """The exit code of `work`, with every error told in one line. A fault of the tool must not look like findings."""
    try:
        return work()
    except EsperError as error:
        tell("error", str(error))
        return error.exit_code
    except KeyboardInterrupt:
        tell("error", "interrupted")
        return 130
    except Exception as error:  # noqa: BLE001 - the last guard: a traceback would exit with 1, as findings do
        if verbose:
            import traceback

            traceback.print_exc()
        words = str(error).partition("\n")[0]
        more = "" if verbose else " (-v tells more)"
        tell("error", f"esper-audit itself failed: {type(error).__name__}: {words}{more}")
        return 3


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person sees the stream."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def wants_color(choice: str, stream: TextIO | None) -> bool:
    """`--color` decides; for `auto` NO_COLOR, then FORCE_COLOR, then whether the stream is a terminal."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def width_of(stream: TextIO | None, default: int = 100) -> int:
    """The columns of a terminal; COLUMNS and then the terminal itself say how many."""
    columns = os.environ.get("COLUMNS", "")
    if is_terminal(stream) and columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or default if stream is not None else default
    except (OSError, ValueError):
        return default


def system_reason(error: OSError) -> str:
    """The system's words for an error, without number and path."""
    return (error.strerror or str(error)).lower()


def check_writable(path: Path, name: str) -> None:
    """Refuse an output that cannot come to be, before the audit is run for nothing."""
    if path.is_dir():
        raise UsageError(f"cannot write to {name!r}: it is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write to {name!r}: no such folder: {os.path.dirname(name)!r}")


def write_file(path: Path, write: Callable[[TextIO], object]) -> None:
    """Write a text file all at once: who reads it sees the old report or the new one, never half of one."""
    page = io.StringIO()
    write(page)
    write_bytes(path, page.getvalue().encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file all at once, with the mode and the owner it had. Raises OSError, and then the old file is there."""
    path = Path(os.path.realpath(path))  # through a link, the file it leads to is replaced, not the link
    try:
        before = path.stat()
    except OSError:
        before = None
    if before is not None and not stat.S_ISREG(before.st_mode):  # a device or a pipe: there is nothing to replace
        with open(path, "wb") as sink:
            sink.write(data)
        return

    def keep_mode_and_owner(temporary: Path) -> None:
        if before is not None and hasattr(os, "chown"):
            with contextlib.suppress(OSError):
                os.chown(temporary, before.st_uid, before.st_gid)
        os.chmod(temporary, stat.S_IMODE(before.st_mode) if before is not None else 0o666 & ~_umask())

    replace_file(path, data, keep_mode_and_owner)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
