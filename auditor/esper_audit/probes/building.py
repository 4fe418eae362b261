"""Builds the network that is to be tried: from the configuration, from a comment above the class, or by a guess.

A guess uses prime sizes that all differ, so that an axis can be told by its length. Where it fails, the message says
what to write into the configuration.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import importlib.util
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from esper_audit.probes.contract import Order

OBSERVATION, ACTIONS, WIDTH = 17, (5, 7, 3, 11, 13, 19, 23, 29, 31, 37, 41), 16
_OBSERVATION = re.compile(
    r"((num|n)_)?(obs?|observations?|states?|s|inputs?|in|features?)(_?(dim|size|shape|features?|channels|space|n|len))?s?"
)
_ACTION = re.compile(r"(.*_)?(act|actions?|acs?|a|out|outputs?)(_?(dim|size|shape|space|n|num|features))?s?")
_WIDTH = re.compile(r"(?!num_|n_).*(hidden|width|embed|latent|units|core|trunk|lstm|gru|rnn|d_model|channels).*")
_COUNT = re.compile(r"(num|n)_.*|.*_(dims?|size|n)|n")
_LAYERS = re.compile(r".*(layers?|depth)")
_FRACTION = re.compile(r".*dropout.*|p|lr|.*_(rate|std|coef|scale)|gain|gamma|alpha|temperature|eps(ilon)?")


class CannotBuild(Exception):  # noqa: N818 - what could not be done is its name
    """The network could not be built; one sentence, with what to write into the configuration."""


def build(order: Order) -> nn.Module:
    """The network of an order, in training mode, as its constructor leaves it."""
    try:
        module = imported(Path(order.file), Path(order.root))
    except BaseException as error:  # noqa: BLE001 - audited code may raise anything, SystemExit not excepted
        where = f" (it has to be installed where esper-audit is: {sys.prefix})" if _is_missing(error) else ""
        raise CannotBuild(f"importing {Path(order.file).name} failed: {told(error)}{where}") from None
    if order.factory:
        return _by_factory(order)
    cls: Any = module
    for part in order.class_name.split("."):
        cls = getattr(cls, part, None)
    if not isinstance(cls, type):
        raise CannotBuild(f"{Path(order.file).name} has no class {order.class_name} once it is imported")
    arguments = dict(order.arguments) or guesses(cls, order)
    try:
        network = cls(**arguments)
    except BaseException as error:  # noqa: BLE001 - the same
        shown = ", ".join(f"{name}={_shown(value)}" for name, value in arguments.items())
        raise CannotBuild(
            f"{order.class_name}({shown}) failed: {told(error)}; {advice(order, dict.fromkeys(arguments))}"
        ) from None
    if not isinstance(network, nn.Module):
        raise CannotBuild(f"{order.class_name} is no torch.nn.Module")
    if not order.arguments and arguments and not any(True for _ in network.parameters()):
        raise CannotBuild(
            f"{order.class_name} has no parameters with guessed sizes; {advice(order, dict.fromkeys(arguments))}"
        )
    return _made(network, order)


def _made(network: nn.Module, order: Order) -> nn.Module:
    """The network, if all of it is there."""
    if any(torch.nn.parameter.is_lazy(parameter) for parameter in network.parameters()):
        raise CannotBuild(
            f"{order.class_name} makes parameters in its first call: configure a factory that calls it once before it "
            "returns it"
        )
    return network


def imported(path: Path, root: Path) -> types.ModuleType:
    """The module of a file, imported the way its project imports it."""
    folder = path.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    places = [str(place) for place in (folder, root, root / "src") if place.is_dir()]
    sys.path[:0] = [place for place in dict.fromkeys(places) if place not in sys.path[: len(places)]]
    parts = path.relative_to(folder).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    if all(part.isidentifier() for part in parts):
        module = importlib.import_module(".".join(parts))
        if (file := getattr(module, "__file__", None)) and Path(file).resolve() == path.resolve():
            return module
    # The name is none, or another module's. Loaded once: of a second loading, the class would be another one.
    name = f"_audited_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _is_missing(error: BaseException) -> bool:
    """Whether a package is missing: relative imports without a package raise the same error, but name no package."""
    return isinstance(error, ModuleNotFoundError) and "No module named" in told(error)


def _by_factory(order: Order) -> nn.Module:
    name, _, attribute = order.factory.partition(":")
    try:
        made: object = getattr(importlib.import_module(name), attribute)()
    except BaseException as error:  # noqa: BLE001 - audited code may raise anything, SystemExit not excepted
        raise CannotBuild(f'factory = "{order.factory}" failed: {told(error)}') from None
    if not isinstance(made, nn.Module):
        raise CannotBuild(f'factory = "{order.factory}" gave {type(made).__name__}, and not a torch.nn.Module')
    return _made(made, order)


def advice(order: Order, arguments: Mapping[str, Any]) -> str:
    """What to write so that the network can be built, with those arguments that are known."""
    path = Path(order.file)
    path = path.relative_to(order.root) if path.is_relative_to(order.root) else path
    table = f'[tool.esper-audit.probe."{path.as_posix()}::{order.class_name}"]'
    args = ", ".join(f"{name} = {_toml(value)}" for name, value in arguments.items())
    return f'configure {table} with args = {{{args}}} or with factory = "module:function"'


def _toml(value: object) -> str:
    """A value as it is written into the configuration, where one can be."""
    if isinstance(value, bool | int | float | str):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return "..."


def told(error: BaseException) -> str:
    """An error in one line."""
    try:
        words = " ".join(str(error).split())
    except BaseException:  # noqa: BLE001 - an error of the audited code may not even be able to say what it is
        words = ""
    return f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except BaseException:  # noqa: BLE001 - the same goes for its values
        text = "object at"
    return text if len(text) <= 40 and "object at" not in text else f"<{type(value).__name__}>"


# --- guesses


def guesses(cls: type, order: Order) -> dict[str, Any]:
    """An argument for each parameter of the constructor that has no default."""
    try:
        signature = inspect.signature(cls)
    except Exception:  # noqa: BLE001 - it compares the class, with whatever its metaclass makes of that
        raise CannotBuild(f"{order.class_name} has no readable signature; {advice(order, {})}") from None
    hints = _hints(cls.__init__)  # type: ignore[misc]
    sizes = iter(ACTIONS)
    found: dict[str, Any] = {}
    unknown: list[tuple[str, Any]] = []
    for name, parameter in signature.parameters.items():
        if (
            parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            or parameter.default is not parameter.empty
        ):
            continue
        hint = hints.get(name, parameter.annotation)
        found[name] = None
        try:
            found[name] = guess(name, hint, sizes)
        except Exception:  # noqa: BLE001 - a type of the audited code may fail in whatever way it is used
            unknown.append((name, hint))
    if unknown:
        name, hint = unknown[0]
        raise CannotBuild(f"cannot guess `{name}` of {order.class_name}{_said(hint)}; {advice(order, found)}")
    return found


def _hints(target: object) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target)
    except Exception:  # noqa: BLE001 - names that exist for type checkers only
        return {}


def _said(hint: object) -> str:
    return "" if hint is inspect.Parameter.empty else f" ({hint.__name__ if isinstance(hint, type) else _shown(hint)})"


def guess(name: str, hint: Any, sizes: Iterator[int]) -> Any:
    """A value for one parameter; LookupError where nothing is known about it."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
    low = name.lower().strip("_")
    for guesser in _GUESSERS:
        if (value := guesser(low, hint, sizes)) is not None:
            return value
    raise LookupError(name)


def _space(low: str, hint: Any, sizes: Iterator[int]) -> Any:
    """A space, or environments with spaces, for a parameter that is called so."""
    if hint is int:
        return None
    if low in ("observation_space", "obs_space", "ob_space"):
        return _box()
    if low in ("action_space", "act_space", "ac_space"):
        return _discrete(next(sizes))
    if low in ("env", "envs"):
        actions = _discrete(next(sizes))
        return types.SimpleNamespace(
            single_observation_space=_box(),
            single_action_space=actions,
            observation_space=_box(),
            action_space=actions,
            num_envs=5,
        )
    return None


def _switch(low: str, hint: Any, _sizes: Iterator[int]) -> Any:
    """A device, a flag, a fraction, or the first of the values that are allowed."""
    if "device" in low:
        return torch.device("cpu") if hint is torch.device else "cpu"
    if hint is bool:
        return False
    if hint is float or (hint is inspect.Parameter.empty and _FRACTION.fullmatch(low)):
        return 0.1
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)[0]
    if isinstance(hint, enum.EnumMeta):
        return next(iter(hint))
    return None


def _configuration(_low: str, hint: Any, sizes: Iterator[int]) -> Any:
    """A dataclass: what has no default in it is guessed like a parameter."""
    if not (dataclasses.is_dataclass(hint) and isinstance(hint, type)):
        return None
    hints = _hints(hint)
    return hint(
        **{
            field.name: guess(field.name, hints.get(field.name, field.type), sizes)
            for field in dataclasses.fields(hint)
            if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
    )


def _activation(low: str, hint: Any, _sizes: Iterator[int]) -> Any:
    text = str(hint)
    named = re.search(r"activation|nonlinearity|(^|_)act(_fn|ivation)?$", low)
    if hint in (int, float, bool) or re.search(r"schedule|lr|_size|_dim|feature", low):
        return None
    if not (named or hint is nn.Module or "Callable" in text or ("ype[" in text and "Module" in text)):
        return None
    if hint is str:
        return "tanh" if named else None
    return nn.Tanh if "ype[" in text or text == "type" else nn.Tanh()


def _several(low: str, hint: Any, sizes: Iterator[int]) -> Any:
    """Sizes in a dict, in a list, or in the shape of a space."""
    if hint in (int, str):
        return None
    if _mentions(hint, "Mapping", "MutableMapping", "dict", "Dict"):
        of_sizes = typing.get_args(hint)[1:] == (int,) or re.search(r"heads?|action|size|dims?", low)
        return {"first": next(sizes), "second": next(sizes)} if of_sizes else None
    if _mentions(hint, "Sequence", "Iterable", "list", "List", "tuple", "Tuple"):
        if any(each not in (int, ...) for each in typing.get_args(hint)):
            return None
        return _sequence(low, sizes)
    if hint is inspect.Parameter.empty and re.fullmatch(r".*(shape|nvec)|(.*_)?hidden_(sizes|dims)", low):
        return _sequence(low, sizes)
    return None


def _sequence(low: str, sizes: Iterator[int]) -> Any:
    if re.search(r"action|nvec|head", low):
        return [next(sizes), next(sizes)]
    return (OBSERVATION,) if re.search(r"obs|shape|input", low) else [WIDTH, WIDTH]


def _number(low: str, hint: Any, sizes: Iterator[int]) -> Any:
    if hint is not inspect.Parameter.empty and not _mentions(hint, "int"):
        return None
    if _LAYERS.fullmatch(low):
        return 1
    if _OBSERVATION.fullmatch(low):
        return OBSERVATION
    if _WIDTH.fullmatch(low):
        return WIDTH
    if hint is not inspect.Parameter.empty or _ACTION.fullmatch(low) or _COUNT.fullmatch(low):
        return next(sizes)
    return None


def _mentions(hint: Any, *words: str) -> bool:
    """Whether one of these names is in a type. A type that only exists for type checkers is still a text."""
    return bool(set(words) & set(re.findall(r"\w+", str(hint))))


_Guesser = Callable[[str, Any, Iterator[int]], Any]  # None where the guesser knows nothing
_GUESSERS: tuple[_Guesser, ...] = (_space, _switch, _configuration, _activation, _several, _number)


class _Space:
    """As much of a gymnasium space as a constructor asks for, where gymnasium is not installed."""

    def __init__(self, shape: tuple[int, ...], n: int | None = None) -> None:
        self.shape, self.dtype = shape, None
        if n is not None:
            self.n = n


def _box() -> Any:
    try:
        spaces: Any = importlib.import_module("gymnasium.spaces")
    except ImportError:
        return _Space((OBSERVATION,))
    return spaces.Box(-10.0, 10.0, (OBSERVATION,))


def _discrete(n: int) -> Any:
    try:
        spaces: Any = importlib.import_module("gymnasium.spaces")
    except ImportError:
        return _Space((), n)
    return spaces.Discrete(n)


def layers_of(network: nn.Module, *kinds: type[nn.Module]) -> list[tuple[str, nn.Module]]:
    """The layers of these kinds with their names, in the order in which they were registered."""
    return [(name, module) for name, module in network.named_modules() if isinstance(module, kinds)]
