"""What the worker may not do: limits of the operating system, and refusals where Python can refuse.

This keeps accidents small; it is no prison. ctypes, native extensions and `torch.save` to a path go past an audit hook.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

MEMORY = 8 << 30  # bytes of address space beyond what torch has mapped, which on a CUDA build is more than it uses
FILE_SIZE = 256 << 20

_REFUSED = frozenset({
    "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg",
    "subprocess.Popen", "os.system", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.startfile",
    "pty.spawn",
})  # fmt: skip

# What changes files: which arguments are paths, and which one, if any, tells the folder that each is relative to. The
# first kind changes entries of a folder, the second one what lies behind them: there, links count as what they lead to.
# What a symbolic link leads to is not changed when it is made, so only the place of the link counts.
_ENTRIES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "shutil.rmtree": ((0, 1),),
}
_CONTENTS: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.truncate": ((0, None),),
    "os.utime": ((0, 3),),
    "os.setxattr": ((0, None),),
    "os.removexattr": ((0, None),),
}
_CHANGES = _ENTRIES | _CONTENTS


class Refused(PermissionError):  # noqa: N818 - audited code that catches an OSError goes on, as it would without rights
    """The worker does not let audited code do this."""


def limit(seconds: int) -> None:
    """Processor time, memory, file size and core dumps; nothing where the platform has no limits.

    The parent ends the worker after `seconds` of wall time. What is limited here lies far above that, so that it is
    reached where many threads are busy, or where there is no parent any more.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError):  # where memory runs out, it is this process that the system should end
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    # Should the parent be killed, nobody else ends a worker that sleeps.
    signal.alarm(2 * seconds + 10)
    for kind, value in (
        (resource.RLIMIT_CPU, 4 * seconds),
        (resource.RLIMIT_AS, MEMORY + _mapped()),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(OSError, ValueError):  # macOS knows RLIMIT_AS and does not take it
            resource.setrlimit(kind, (allowed, hard))


def _mapped() -> int:
    """Bytes of address space in use; 4 GiB where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 4 << 30


def refuse(folder: Path) -> None:
    """From now on: no sockets, no other processes, no signals to them, and no changes to files outside `folder`."""
    inside = os.path.realpath(folder) + os.sep
    own = (0, os.getpid())  # of the process and, for it leads one, of its group

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if _writes(mode, flags) and not _is_within(path, inside):
                raise Refused(f"a probe's worker refuses to write to {os.fsdecode(path)!r}")
        elif event in _REFUSED:
            raise Refused(f"a probe's worker refuses {event}")
        elif event in _CHANGES:
            for number, at in _CHANGES[event]:
                path, relative_to = arguments[number], arguments[at] if at is not None and at < len(arguments) else None
                if not _is_within(path, inside, relative_to, entry=event in _ENTRIES):
                    raise Refused(f"a probe's worker refuses {event} of {os.fsdecode(path)!r}")
        elif event in ("os.kill", "os.killpg") and arguments[0] not in own:
            raise Refused(f"a probe's worker refuses {event} of another process")

    sys.addaudithook(hook)


def _writes(mode: object, flags: object) -> bool:
    """Whether `open` was told by its mode, or `os.open` by its flags, that the file may change."""
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def _is_within(path: object, inside: str, relative_to: object = None, *, entry: bool = False) -> bool:
    """Whether a path leads into the folder. A descriptor does: opening its file has been allowed.

    Args:
        path: The path, as the audited code gave it.
        inside: The folder, with a separator at its end.
        relative_to: The descriptor of the folder that the path is relative to; the current folder without one.
        entry: The last part of the path is taken as it stands, and not followed if it is a link.

    """
    if not isinstance(path, str | bytes | os.PathLike):
        return True
    name = os.fsdecode(path)
    if isinstance(relative_to, int) and relative_to >= 0 and not Path(name).is_absolute():
        folder = Path(f"/proc/self/fd/{relative_to}")
        if not folder.is_dir():  # no Linux; `shutil.rmtree` has told of the whole tree before it goes down into it
            return True
        name = str(folder / name)
    head, last = os.path.split(name)
    whole = os.path.realpath(head) + os.sep + last if entry and last not in ("", "..", ".") else os.path.realpath(name)
    return whole == os.devnull or (whole + os.sep).startswith(inside)
