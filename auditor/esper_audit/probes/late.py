"""torch, imported when it is first used: the parent process asks probes what they claim, and must not pay for torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch as torch  # noqa: PLC0414 - a re-export
else:

    class _Late:
        """A module that is imported at the first look at it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("torch"), name)

    torch = _Late()
