"""Hidden states, in the layouts in which networks take them. Which one it is, is found by trying."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from esper_audit.probes.sizes import RECURRENT

FORMS = ("layers", "rows", "batch", "joined")  # [L, B, H], [B, H], [B, L, H], and [B, all] in one tensor


def zeros(core: nn.Module, form: str, batch: int) -> Any:
    """The state of one recurrent layer or cell before the first step; None where there is none of this form."""
    weight = next(core.parameters())
    width: Any = core.hidden_size
    layers: Any = 1
    if isinstance(core, RECURRENT):
        layers = core.num_layers * (2 if core.bidirectional else 1)
    elif form != "layers":
        return None  # a cell has no axis of layers that could be anywhere else
    parts = 2 if is_lstm(core) else 1
    if form == "joined":
        return weight.new_zeros(batch, parts * layers * width)
    if form == "rows" and layers > 1:
        return None
    of_layers = {"layers": (layers, batch, width), "rows": (batch, width), "batch": (batch, layers, width)}
    shape = of_layers[form] if isinstance(core, RECURRENT) else (batch, width)
    state = weight.new_zeros(shape)
    return (state, state.clone()) if parts == 2 else state


def is_lstm(core: nn.Module) -> bool:
    """Whether a layer keeps a cell state beside its hidden state."""
    return isinstance(core, nn.LSTMCell) or getattr(core, "mode", "") == "LSTM"


def wrapper(method: Callable[..., Any], parameter: str) -> type | None:
    """The named tuple that a parameter is annotated with: a state for each of its fields."""
    try:
        hint = typing.get_type_hints(inspect.unwrap(method)).get(parameter)
    except Exception:  # noqa: BLE001 - names that exist for type checkers only
        return None
    return hint if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields") else None


def emptied(state: torch.Tensor) -> torch.Tensor:
    """Zeros of the same shape, outside of any graph and of inference mode."""
    return torch.zeros(state.shape, dtype=state.dtype, device=state.device)
