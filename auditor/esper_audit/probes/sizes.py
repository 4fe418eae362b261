"""How wide observations are and how many actions there are: from spaces, numbers and layers that the network keeps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from esper_audit.probes.arguments import head_of

RECURRENT = (nn.RNNBase,)
CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
_HEAD_NAMES = (
    r"(.*[._])?(actor|policy|pi|action)(_head|_net|_mean|_logits)?",
    r"(.*_)?(logits|head|out|fc_out|actor_.*)",
)
_CRITIC = re.compile(r"value|critic|vf|baseline")
_OBSERVATIONS = re.compile(r"_?(obs|observation|state)_?(dim|size|shape)|_?num_(obs|observations)")
_ACTIONS = re.compile(r"_?(act|action)_?(dim|size)|_?(num|n)_actions?")
_SPREAD = re.compile(r"(.*\.)?_?((actor|action|policy|pi)_)?(log_?std|std_log|sigma)(_.*)?")


def space_of(network: nn.Module, what: str) -> Any:
    """The space of `observation` or `action` that a network keeps, None where it keeps none."""
    for name in (f"{what}_space", f"single_{what}_space", f"{what[:3]}_space"):
        if (space := getattr(network, name, None)) is not None:
            return space
    return None


def shape_of(space: Any) -> tuple[int, ...]:
    """The shape of a box, or of the only box in a dict; empty where there is no such shape."""
    parts = getattr(space, "spaces", None)
    if isinstance(parts, dict) and len(parts) == 1:
        space = next(iter(parts.values()))
    shape = getattr(space, "shape", None)
    if isinstance(shape, tuple) and all(isinstance(size, int) for size in shape):
        return shape
    return ()


def observation_shapes(network: nn.Module) -> list[tuple[int, ...]]:
    """The shapes that one observation may have, the surest first; one alone where the network says it."""
    if (space := space_of(network, "observation")) is not None and (shape := shape_of(space)):
        return [shape]
    widths = list(dict.fromkeys((*_inputs(network), *_columns(network))))
    told: list[tuple[int, ...]] = [(size,) for size in _numbers(network, _OBSERVATIONS)]
    # Of two state sizes, one may be that of something else: a width that a layer takes is meant.
    wider = _numbers(network, _ACTIONS)
    sure = [shape for shape in told if shape in widths or any((shape[0] + more,) in widths for more in wider)]
    return sure[:1] or widths


def _numbers(network: nn.Module, pattern: re.Pattern[str]) -> list[int]:
    """The sizes that a network keeps under names like these, as a number or as a shape with one axis."""
    found = []
    for name, value in vars(network).items():
        size = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
        if pattern.fullmatch(name) and type(size) is int and size > 0:
            found.append(size)
    return found


def _inputs(network: nn.Module) -> Iterator[tuple[int, ...]]:
    """What each layer takes."""
    for _, module in network.named_modules():
        if isinstance(module, nn.Linear):
            yield (module.in_features,)
        elif isinstance(module, RECURRENT + CELLS):
            yield (module.input_size,)
        elif isinstance(module, nn.Conv2d):
            yield (module.in_channels, 84, 84)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm1d):
            yield tuple(getattr(module, "normalized_shape", ())) or (module.num_features,)  # type: ignore[misc]


def _columns(network: nn.Module) -> Iterator[tuple[int, ...]]:
    """What each weight matrix takes that belongs to no layer with a name, as after torch.jit.script."""
    for name, parameter in network.named_parameters():
        if name.endswith("weight") and parameter.dim() == 2:
            yield (parameter.shape[1],)


def continuous_shape(network: nn.Module) -> tuple[int, ...] | None:
    """The shape of one action where actions are numbers with a spread, or a box; None where nothing says so."""
    if (space := space_of(network, "action")) is not None:
        is_box = shape_of(space) and not hasattr(space, "n") and not hasattr(space, "nvec")
        return shape_of(space) if is_box else None
    names = [name for name, _ in (*network.named_parameters(), *network.named_modules())]
    if any(_SPREAD.fullmatch(name) for name in names):
        return next(((size,) for size in (*_numbers(network, _ACTIONS), *_by_name(network).values())), None)
    return None


def number_of_actions(network: nn.Module) -> int | None:
    """An attribute such as `n_actions`; whether actions are discrete has to be known already."""
    return next((size for size in _numbers(network, _ACTIONS) if size > 1), None)


def heads_of(network: nn.Module, masks: Iterable[str], layers: Sequence[str] = ()) -> dict[str, int]:
    """Policy heads and how many actions each has, as far as a space, masks, numbers or module names tell.

    `layers` are those that are known to be heads, one for each column of the actions.
    """
    if (space := space_of(network, "action")) is not None:
        return _by_space(space)
    if isinstance(several := getattr(network, "nvec", None), list | tuple):
        return {str(number): int(size) for number, size in enumerate(several)}
    known = _by_mask(network, masks) or _by_numbers(network) or _by_container(network)
    return known or _by_layer(network, layers) or _by_name(network)


def _by_space(space: Any) -> dict[str, int]:
    """One head for a discrete space, one for each dimension of a multi-discrete one."""
    if (several := getattr(space, "nvec", None)) is not None:
        return {str(number): int(size) for number, size in enumerate(several)}
    size = getattr(space, "n", None)
    return {"action": int(size)} if size is not None and not shape_of(space) else {}


def _by_mask(network: nn.Module, masks: Iterable[str]) -> dict[str, int]:
    """`slot_mask` goes with `slot_head`."""
    found: dict[str, int] = {}
    for mask in masks:
        head = head_of(mask)
        size = _size_of(network, head) if head else None
        if size is not None:
            found.setdefault(head, size)
    return found


def _by_numbers(network: nn.Module) -> dict[str, int]:
    """An attribute such as `head_sizes`, {name: number of actions}."""
    for name, value in vars(network).items():
        if not isinstance(value, dict) or not value or not re.search(r"head|action", name):
            continue
        if all(isinstance(head, str) and type(size) is int and size > 1 for head, size in value.items()):
            return dict(value)
    return {}


def _by_container(network: nn.Module) -> dict[str, int]:
    """A dict or list of modules that is called heads."""
    for name, children in _containers(network):
        if re.search(r"heads?|actors?|policy|policies", name) and not _CRITIC.search(name):
            sizes = {key: _out_features(child) for key, child in children.items()}
            if sizes and all(sizes.values()):
                return {key: int(size or 0) for key, size in sizes.items()}
    return {}


def _by_layer(network: nn.Module, layers: Sequence[str]) -> dict[str, int]:
    """What each of these layers gives; nothing where one of them is none."""
    modules = dict(network.named_children())
    sizes = {name: _out_features(modules[name]) or 0 for name in layers if name in modules}
    return sizes if len(sizes) == len(layers) and all(sizes.values()) else {}


def _by_name(network: nn.Module) -> dict[str, int]:
    """A single head."""
    modules = sorted(network.named_modules(), key=lambda each: each[0].count("."))  # what lies inside serves a part
    for pattern in _HEAD_NAMES:
        for name, module in modules:
            if re.fullmatch(pattern, name) and not _CRITIC.search(name) and (size := _out_features(module)):
                return {"action": size}
    return {}


def _containers(network: nn.Module) -> Iterator[tuple[str, dict[str, nn.Module]]]:
    """Groups of modules under one name: also those in plain containers, which PyTorch does not see."""
    for name, module in network.named_modules():
        if isinstance(module, nn.ModuleDict | nn.ModuleList):
            yield name, {str(key): child for key, child in module.named_children()}
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or not isinstance(value, dict | list | tuple):
                continue
            items = value.items() if isinstance(value, dict) else enumerate(value)
            children = {str(key): child for key, child in items if isinstance(child, nn.Module)}
            if children and len(children) == len(value):
                yield attribute, children


def _size_of(network: nn.Module, head: str) -> int | None:
    for name, module in network.named_modules():
        last = name.rpartition(".")[2]
        known = (f"{head}{end}" for end in ("", "_head", "_logits", "_net", "_actor"))
        if last in (*known, f"head_{head}", f"actor_{head}") and (size := _out_features(module)):
            return size
    return None


def _out_features(module: nn.Module) -> int | None:
    """The width of what the last Linear inside gives."""
    linear = [each for each in module.modules() if isinstance(each, nn.Linear)]
    return linear[-1].out_features if linear else None
