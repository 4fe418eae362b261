"""Refusals that name what was expected and what came: of shapes and dtypes at once, of values without a device wait."""

from __future__ import annotations

import torch
from torch import Tensor


def expect(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Refuse a tensor of another shape or dtype.

    Both are known to Python, so the check runs no kernel and torch.compile turns it into a guard. It is never switched
    off: broadcasting would make numbers out of most wrong shapes, and none of them the right ones.

    Raises:
        ValueError: another shape, `"slot mask: expected shape (4, 25, 6), got (4, 6)"`.
        TypeError: another dtype, `"slot mask: expected torch.bool, got torch.float32"`.

    """
    if tensor.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype}, got {tensor.dtype}")
    if tensor.shape != torch.Size(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(tensor.shape)}")


def expect_all(condition: Tensor, message: str) -> None:
    """Refuse values: `condition` is bool of any shape, and has to hold everywhere.

    `if not condition.all(): raise` would make the host wait for the device and end a compiled graph. The asynchronous
    assertion does neither. Its price: on CUDA it fails when the kernel runs, which may be some lines later, and the
    process cannot use the device any more. On a CPU it raises at once, and on the meta device it does nothing.

    Raises:
        RuntimeError: with `message`, which should name what was expected and what came.

    """
    torch._assert_async(condition.all(), message)  # noqa: SLF001 - it has no public name
