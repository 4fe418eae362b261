"""A network computed a second time, from its weights and inputs alone, in float64 and one cell step after the other.

No name is asked for. Hooks record what goes into each layer and what comes out; a layer's input is explained by the
output of an earlier one, by the numbers. What is recorded says only how the layers hang together: every number is then
computed anew, from the observations and the first hidden state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from esper_audit.probes.contract import NotComparable
from esper_audit.probes.nested import leaves
from esper_audit.probes.sizes import CELLS, RECURRENT

if TYPE_CHECKING:
    from esper_audit.probes.arguments import Inputs
    from esper_audit.probes.replies import Reply

_BETWEEN: tuple[Callable[[Tensor], Tensor], ...] = (  # what may stand between two layers as a plain function
    lambda tensor: tensor,
    torch.relu,
    torch.tanh,
    functional.elu,
    functional.gelu,
    lambda tensor: functional.gelu(tensor, approximate="tanh"),
    functional.silu,
    functional.leaky_relu,
    torch.sigmoid,
)
_SAME = 1e-6  # of numbers that one tensor gave to the next layer: they are copies, or one rounding apart
State = tuple[Tensor, ...]  # (h, c) or (h,), each [L, B, H]


@dataclass(eq=False)
class Layer:
    """One layer in one run: readings of its input and output as `[B, T, ...]`, and what its input comes from."""

    name: str
    module: nn.Module
    given: list[Tensor]
    gave: list[Tensor]
    state: State  # before the first step, of a recurrent layer
    source: Layer | None = None  # None: the observations; where they do not explain it either, what was given
    between: Callable[[Tensor], Tensor] = _BETWEEN[0]
    explained: bool = True

    @property
    def recurrent(self) -> bool:
        """Whether it has a hidden state."""
        return isinstance(self.module, RECURRENT + CELLS)


@dataclass
class Recomputed:
    """The outputs of the last layers, and the hidden state of each recurrent one after the last step."""

    ends: dict[str, Tensor]  # {layer: [B, T, n]}, float64
    hidden: dict[str, State]
    taken: list[str]  # layers whose input was taken as it was: what is before them was not computed anew


def recomputed(
    network: nn.Module, call: Callable[[nn.Module, Inputs], Reply], inputs: Inputs
) -> tuple[Reply, Recomputed]:
    """What the network replies, and what its weights say.

    Raises:
        NotComparable: a layer runs more than once, or is of a kind that is not computed here.

    """
    reply, layers = _recorded(network, call, inputs)
    _link(layers, inputs.observations)
    values: dict[str, Tensor] = {}
    hidden: dict[str, State] = {}
    for layer in layers:
        if layer.source is not None:
            before = layer.between(values[layer.source.name])
        elif layer.explained:
            before = layer.between(inputs.observations.double())
        else:
            before = layer.given[0].double()
        if layer.recurrent:
            values[layer.name], hidden[layer.name] = _remembered(layer, before, _first_state(layer, layers, inputs))
        else:
            values[layer.name] = copy.deepcopy(layer.module).double()(before)
    sources = {layer.source.name for layer in layers if layer.source is not None}
    ends = {layer.name: values[layer.name] for layer in layers if layer.name not in sources and not layer.recurrent}
    return reply, Recomputed(ends, hidden, [layer.name for layer in layers if not layer.explained])


def _recorded(
    network: nn.Module, call: Callable[[nn.Module, Inputs], Reply], inputs: Inputs
) -> tuple[Reply, list[Layer]]:
    """One call, and the layers that ran in it, in their order."""
    seen: dict[str, list[tuple[Any, Any]]] = {}
    modules: dict[str, nn.Module] = {}
    hooks = []
    for name, module in network.named_modules():
        if not list(module.children()):
            modules[name] = module

            def note(_: nn.Module, given: Any, gave: Any, *, name: str = name) -> None:
                seen.setdefault(name, []).append((given, gave))

            hooks.append(module.register_forward_hook(note))
    try:
        reply = call(network, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    batch, time = inputs.starts.shape
    layers = []
    for name, calls in seen.items():
        module = modules[name]
        first = calls[0][0]
        state = first[1] if isinstance(module, RECURRENT + CELLS) and len(first) > 1 else None
        if not first or (len(first) > 1 and state is None):
            raise NotComparable(f"`{name}` takes more than one tensor")
        given, gave = ([_main(each[side]) for each in calls] for side in (0, 1))
        layer = Layer(name, module, readings(given, batch, time), readings(gave, batch, time), _stacked(state))
        if not layer.given or len(layer.given) != len(layer.gave):
            raise NotComparable(f"`{name}` is not called once per step or once per sequence")
        layers.append(layer)
    if not layers:
        raise NotComparable("no layer runs that could be computed anew")
    return reply, layers


def _main(value: Any) -> Tensor:
    """The tensor that goes from layer to layer, of all that one takes or returns."""
    while isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise NotComparable("a layer takes or returns something else than numbers")
    return value.detach().clone()


def readings(tensors: Sequence[Tensor], batch: int, time: int) -> list[Tensor]:
    """What the tensors of one call, or of one per step, may mean as `[B, T, ...]`; empty where they mean nothing."""
    first, shape = tensors[0], tensors[0].shape
    if len(tensors) == time and shape[:1] == (batch,) and shape[:2] != (batch, time):
        return [torch.cat(list(tensors), 1) if first.dim() > 2 and shape[1] == 1 else torch.stack(list(tensors), 1)]
    if len(tensors) == time and shape[:2] == (1, batch) and time > 1:
        return [torch.cat(list(tensors)).transpose(0, 1)]
    if len(tensors) == 1 and shape[:2] in ((batch, time), (time, batch)):
        return [first if shape[:2] == (batch, time) else first.transpose(0, 1)]
    if len(tensors) == 1 and shape[:1] == (batch * time,):
        rest = shape[1:]
        return [first.view(time, batch, *rest).transpose(0, 1), first.view(batch, time, *rest)]
    return []


def _link(layers: Sequence[Layer], observations: Tensor) -> None:
    """Find for each layer what its input comes from; of two readings of its tensors, the one that fits stays."""
    for number, layer in enumerate(layers):
        found = next(_explanations(layer, layers[:number], observations), None)
        layer.explained = found is not None
        if found is not None:
            reading, layer.source, layer.between = found
            layer.given, layer.gave = [layer.given[reading]], [layer.gave[reading]]
        elif len(layer.given) > 1:
            raise NotComparable(f"it is not clear how the input of `{layer.name}` is laid out")


def _explanations(layer: Layer, before: Sequence[Layer], observations: Tensor) -> Any:
    """Reading, source and function between, for all that explains the input of a layer.

    The same numbers in another order come last: whoever mixes up two axes moves numbers, and changes none.
    """
    for alike in (_close, _rearranged):
        for reading, given in enumerate(layer.given):
            for source in (*reversed(before), None):
                gave = observations if source is None else source.gave[0]
                for between in _BETWEEN if gave.shape == given.shape else ():
                    if alike(between(gave), given):
                        yield reading, source, between


def _close(left: Tensor, right: Tensor) -> bool:
    return bool(((left - right).abs() <= _SAME * (1 + right.abs())).all())


def _rearranged(left: Tensor, right: Tensor) -> bool:
    return _close(left.flatten().sort().values, right.flatten().sort().values)


# --- memory


def _stacked(state: Any) -> State:
    """A hidden state as PyTorch takes it, with the layer axis that a cell does not have."""
    tensors = leaves(state)
    return tuple((each.unsqueeze(0) if each.dim() == 2 else each).detach().clone() for each in tensors)


def as_layers(tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """A state of `[L, B, H]`, `[B, L, H]` or `[B, H]` as `[L, B, H]`; None where it is none of these."""
    if tensor.dim() == 2:
        tensor = tensor.unsqueeze(0)
    if tensor.shape == shape:
        return tensor
    if tensor.dim() == 3 and tensor.transpose(0, 1).shape == shape:
        return tensor.transpose(0, 1)
    return None


def _first_state(layer: Layer, layers: Sequence[Layer], inputs: Inputs) -> State:
    """The state before the first step: what was passed in, even where the layer got something else."""
    if not layer.state:
        return ()
    passed = [as_layers(each, layer.state[0].shape) for each in leaves(inputs.hidden)]
    fitting = [each for each in passed if each is not None]
    if len(fitting) == len(layer.state) and sum(each.recurrent for each in layers) == 1:
        same = all(torch.equal(each, got) for each, got in zip(reversed(fitting), layer.state, strict=True))
        return tuple(reversed(fitting)) if same else tuple(fitting)  # (c, h) where the layer says so
    return layer.state


def _remembered(layer: Layer, features: Tensor, state: State) -> tuple[Tensor, State]:
    """Run a recurrent layer over `[B, T, F]`, step by step."""
    module: Any = layer.module
    if getattr(module, "bidirectional", False) or getattr(module, "proj_size", 0):
        raise NotComparable(f"`{layer.name}` is bidirectional or has projections")
    batch, time, _ = features.shape
    depth = getattr(module, "num_layers", 1)
    zeros = features.new_zeros(depth, batch, module.hidden_size)
    current = [list(each.double().unbind(0)) for each in (state or (zeros,) * (2 if _is_lstm(module) else 1))]
    steps = []
    for t in range(time):
        value = features[:, t]
        for number in range(depth):
            after = _cell(module, number, value, tuple(each[number] for each in current))
            for part, new in zip(current, after, strict=True):
                part[number] = new
            value = after[0]
        steps.append(value)
    return torch.stack(steps, dim=1), tuple(torch.stack(each) for each in current)


def _is_lstm(module: nn.Module) -> bool:
    return isinstance(module, nn.LSTM | nn.LSTMCell)


def _cell(module: nn.Module, number: int, value: Tensor, state: State) -> State:
    """One step of one layer, as the documentation of PyTorch writes it."""
    end = f"_l{number}" if isinstance(module, RECURRENT) else ""

    def product(which: str, tensor: Tensor) -> Tensor:
        bias = getattr(module, f"bias_{which}{end}", None)
        weight: Tensor = getattr(module, f"weight_{which}{end}").detach().double()
        return tensor @ weight.T + (0.0 if bias is None else bias.detach().double())

    inner, outer = product("ih", value), product("hh", state[0])
    if _is_lstm(module):
        i, f, g, o = (inner + outer).chunk(4, dim=-1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if isinstance(module, nn.GRU | nn.GRUCell):
        (r, z, n), (r_outer, z_outer, n_outer) = inner.chunk(3, dim=-1), outer.chunk(3, dim=-1)
        z = (z + z_outer).sigmoid()
        return ((1 - z) * (n + (r + r_outer).sigmoid() * n_outer).tanh() + z * state[0],)
    if getattr(module, "nonlinearity", "tanh") == "relu":
        return ((inner + outer).relu(),)
    return ((inner + outer).tanh(),)
