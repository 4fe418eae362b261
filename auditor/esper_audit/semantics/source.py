"""Bytes to text, the way Python itself reads a source file, with errors that one line can tell."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from functools import cached_property
from pathlib import Path

from esper_audit.core.errors import SourceError


class Source:
    """One file: its bytes, decoded lazily by its BOM or coding cookie (PEP 263)."""

    def __init__(self, path: Path, data: bytes) -> None:
        self.path = path
        self.data = data

    @classmethod
    def read(cls, path: Path) -> Source:
        """Read a file; raises SourceError with the system's own reason."""
        try:
            return cls(path, path.read_bytes())
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
