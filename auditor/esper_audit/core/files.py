"""Files that change all at once: whoever reads one sees the old content or the new, never half of it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path

LEFT_OVER = re.compile(r"\.esper-audit\.[0-9a-f]{16}\.tmp")  # beside a file, where the process was killed


def replace_file(path: Path, data: bytes, finish: Callable[[Path], object] = lambda _: None) -> None:
    """Put `data` in the place of a file; raises OSError, and then the old file is there.

    It is written beside the old one, readable by its user alone. `finish` gets that name before it takes the place.
    `tempfile` would do the same, and cost each run its import.
    """
    # The name does not hold the file's, which may be as long as the system allows already.
    temporary = path.with_name(f".esper-audit.{os.urandom(8).hex()}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    try:
        with os.fdopen(handle, "wb") as sink:
            sink.write(data)
        finish(temporary)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
