"""Tensors inside tuples, dicts and named tuples, as networks pass their hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn


def is_mapping(value: Any) -> bool:
    """Whether a value holds others by name: a dict, or what a library uses in its place."""
    if isinstance(value, Mapping):
        return True
    return not isinstance(value, Tensor | nn.Module | type) and hasattr(value, "keys") and hasattr(value, "items")


def leaves(value: Any) -> list[Tensor]:
    """All tensors inside a nested value."""
    if isinstance(value, Tensor):
        return [value]
    if is_mapping(value):
        return [leaf for _, item in value.items() for leaf in leaves(item)]
    if isinstance(value, tuple | list):
        return [leaf for item in value for leaf in leaves(item)]
    return []


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A nested value with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if hasattr(value, "batch_size") and hasattr(value, "apply"):  # a TensorDict makes itself anew
        return value.apply(change)
    if is_mapping(value):
        items = {key: mapped(item, change) for key, item in value.items()}
        return items if isinstance(value, Mapping) else type(value)(items)
    if isinstance(value, tuple | list):
        parts = [mapped(item, change) for item in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def alike(left: Any, right: Any) -> bool:
    """Whether two nested values hold tensors of the same shapes."""
    shapes = [leaf.shape for leaf in leaves(left)]
    return bool(shapes) and shapes == [leaf.shape for leaf in leaves(right)]


def words(says: Any) -> Iterator[str]:
    """Every role that is named in what the source says about a returned value."""
    if isinstance(says, str):
        if says:
            yield says
    elif isinstance(says, Mapping):
        for value in says.values():
            yield from words(value)
    elif isinstance(says, list | tuple):
        for value in says:
            yield from words(value)
