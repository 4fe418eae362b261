"""Bytes to text, the way Python itself reads a source file, with errors that one line can tell."""

from __future__ import annotations

import ast
import errno
import io
import os
import stat
import tokenize
import warnings
from functools import cached_property
from pathlib import Path

from esper_audit.core.errors import SourceError

MAX_BYTES = 16_000_000  # trees take some hundred times the memory of their text


def read_bytes(path: Path, limit: int = MAX_BYTES, *, pipes: bool = False) -> bytes:
    """The bytes of a regular file; raises OSError for anything else and for more than `limit` bytes.

    A pipe would keep the audit waiting for a writer, a device would feed it without end. Only one that the caller named
    himself is waited for (`pipes`), as shells hand them over with `<(command)`.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | (0 if pipes else getattr(os, "O_NONBLOCK", 0)))
    with open(handle, "rb") as file:  # noqa: PTH123  # a handle: what the path means may change meanwhile
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not (pipes or stat.S_ISREG(mode)):
            raise OSError(errno.EINVAL, "no regular file")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit / 1e6:.0f} MB")
    return data


class Source:
    """One file: its bytes, decoded lazily by its BOM or coding cookie (PEP 263)."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self.data = data

    @classmethod
    def read(cls, path: Path, *, pipes: bool = False) -> Source:
        """Read a file; raises SourceError with the system's own reason."""
        try:
            return cls(path, read_bytes(path, pipes=pipes))
        except OSError as error:
            raise SourceError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None

    @cached_property
    def text(self) -> str:
        """The decoded text; line ends are kept as they are."""
        if b"\0" in self.data:
            raise SourceError(
                "is no Python source: it contains null bytes", self.data[: self.data.index(b"\0")].count(b"\n") + 1
            )
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(self.data).readline)
            return self.data.decode(encoding)
        except (SyntaxError, UnicodeDecodeError, LookupError) as error:
            reason = str(error).split("\n", 1)[0]
            raise SourceError(f"cannot be decoded: {reason}") from None

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The lines without their ends, split where Python splits them (form feeds do not end a line)."""
        return tuple(self.text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))

    @cached_property
    def data_lines(self) -> tuple[bytes, ...]:
        """The raw lines, for looking at a part of the file without decoding it."""
        return tuple(self.data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))

    @cached_property
    def ast(self) -> ast.Module:
        """The standard library's tree: ten times cheaper than a concrete one, enough to see what a file defines."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a stranger's invalid escape is no business of the audit
                return ast.parse(self.data)
        except SyntaxError as error:
            raise SourceError(f"does not parse: {error.msg}", error.lineno or 0) from None
        except (RecursionError, MemoryError):
            raise SourceError("is nested too deeply to parse") from None
        except (ValueError, UnicodeDecodeError, LookupError) as error:
            raise SourceError(f"does not parse: {error}") from None
