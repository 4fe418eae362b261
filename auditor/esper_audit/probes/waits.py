"""Where the host waits for the device: which line of the audited project asked for the value of a tensor."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):
    """Where the host reads the value of a tensor: `file.py:12`, the innermost line of the audited project."""

    _READS = ("_local_scalar_dense", "is_nonzero", "item", "nonzero", "equal")

    def __init__(self, root: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._root = root
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note the line and go on."""
        if func.overloadpacket.__name__ in self._READS:
            frame = sys._getframe(1)  # noqa: SLF001 - the cheapest look at who asked
            place = "inside PyTorch"
            while frame is not None:
                name = frame.f_code.co_filename
                if name.startswith(self._root) and "site-packages" not in name:
                    place = f"{Path(name).name}:{frame.f_lineno}"
                    break
                frame = frame.f_back  # type: ignore[assignment]
            self.places.append(place)
        return func(*args, **(kwargs or {}))
