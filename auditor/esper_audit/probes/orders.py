"""What a worker is told about a network: the roles that reading found, so that the worker need not guess from names."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from esper_audit.probes.contract import MethodFacts, Order
from esper_audit.semantics.roles import OTHER, tensor_role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from esper_audit.config import Settings
    from esper_audit.semantics.flow import Frame
    from esper_audit.semantics.network import NetworkClass
    from esper_audit.semantics.values import Val

_ROLES = ("action", "log_prob", "entropy", "value", "hidden", "logits", "probs", "mask", "obs")
_DEPTH = 4
_COMMENT = re.compile(r"\s*#\s*esper:\s*probe\((.*)\)")


def order_for(net: NetworkClass) -> Order:
    """An order without probes: the network, its project and its methods."""
    methods = []
    masks = set(net.masks)
    for name, role in net.roles.items():
        if role == OTHER and name != "forward":
            continue
        function = net.model.methods[name]
        frame = net.flow.frame(name)
        parameters = {
            param.name: "mask" if param.name in masks else tensor_role(param.name)
            for param in function.params[1:]
            if param.kind in ("positional", "keyword")
        }
        returned = _roles_in(frame.result) if frame is not None else None
        keys, columns = _looked_up(frame, parameters) if frame is not None else ({}, 0)
        methods.append(MethodFacts(name, role, parameters, returned, keys, columns))
    order = Order(
        file=str(net.module.path),
        class_name=net.name,
        root=str(net.project.root),
        methods=tuple(methods),
        heads=tuple(head.name for head in net.policy_heads),
    )
    index = net.project.index(net.module.path)
    return _commented(order, net.module.source.lines, index.classes[net.name].line) if index is not None else order


def configured(order: Order, settings: Settings) -> Order:
    """The order with what `[tool.esper-audit.probe."path::Class"]` says about its network."""
    for key, entry in settings.probe.items() if not isinstance(settings.probe, bool) else ():
        path, _, name = key.rpartition("::")
        if name == order.class_name and str((settings.root / path).resolve()) == order.file:
            factory, arguments = entry.get("factory", ""), entry.get("args", {})
            return replace(order, factory=factory, arguments=arguments, problem="")
    return order


def _commented(order: Order, lines: tuple[str, ...], line: int) -> Order:
    """The order with the arguments of a `# esper: probe(state_dim=32)` above the class, or above its decorators."""
    for text in reversed(lines[: line - 1]):
        if found := _COMMENT.match(text):
            try:
                call = ast.parse(f"f({found[1]})", mode="eval").body
                assert isinstance(call, ast.Call)
                arguments = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
            except (SyntaxError, ValueError):
                return replace(order, problem=f"expected `# esper: probe(name=literal, ...)`, got `{text.strip()}`")
            if call.args or "None" in arguments:
                return replace(order, problem=f"expected keyword arguments, got `{text.strip()}`")
            return replace(order, arguments=arguments)
        if not text.lstrip().startswith(("#", "@")):
            break
    return order


def _looked_up(frame: Frame, parameters: Mapping[str, str]) -> tuple[dict[str, list[str]], int]:
    """What is written where masks and actions come apart: `masks["move"]`, `actions[..., 2]`.

    Returns:
        The keys of each parameter, in their order; and how many columns the actions have.

    """
    keys: dict[str, list[str]] = {}
    columns = 0
    for event, _ in frame.walk():
        if event.kind != "lookup":
            continue
        for name in sorted(event.value.origins & set(parameters)):
            key, role = event.other.const, parameters[name]
            if isinstance(key, str) and role in ("mask", "action") and key not in keys.get(name, ()):
                keys.setdefault(name, []).append(key)
            elif isinstance(key, int) and role == "action":
                columns = max(columns, key + 1)
    return keys, columns


def _roles_in(value: Val, depth: int = 0) -> Any:
    """The roles of a returned value, nested as the value is; None where nothing is known."""
    if value.kind == "dist":
        return "dist"
    if value.items and (value.kind in ("tuple", "list", "dict") or "record" in value.tags) and depth < _DEPTH:
        inner = {str(key): _roles_in(item, depth + 1) for key, item in value.items}
        if value.kind == "dict" or "record" in value.tags:
            return {"dict": inner}
        return {"tuple": list(inner.values())}
    known = [role for role in _ROLES if role in value.roles]
    return known[0] if known else None
