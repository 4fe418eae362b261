"""Draws a network as a Mermaid flowchart: observation, trunk, core with its hidden state, masks and heads."""

from __future__ import annotations

import re
from itertools import pairwise

from esper_audit.core.report import NetworkCard
from esper_audit.reporters.escape import mermaid_label

_RECURRENT = re.compile(r"LSTM|GRU|RNN", re.IGNORECASE)
_PARAMETER_NAME = re.compile(r"\w+")


def flowchart(card: NetworkCard) -> str:
    """The Mermaid text, or nothing when no layer of the network is known."""
    if not (card.trunk or card.core or card.neck or card.heads):
        return ""
    chain = ["observation", *(f"trunk{number}" for number in range(1, len(card.trunk) + 1))]
    lines = ["flowchart LR", _node("observation", _input_name(card), "([{}])")]
    lines.extend(_node(name, layer) for name, layer in zip(chain[1:], card.trunk, strict=True))
    if card.core:
        chain.append("core")
        lines.append(_node("core", card.core, "[[{}]]"))
    for number, layer in enumerate(card.neck, 1):
        chain.append(f"neck{number}")
        lines.append(_node(chain[-1], layer))
    lines.extend(f"    {left} --> {right}" for left, right in pairwise(chain))
    lines.extend(_hidden_state(card))
    lines.extend(_heads(card, chain[-1]))
    return "\n".join(lines)


def _node(name: str, label: str, shape: str = "[{}]") -> str:
    return f"    {name}{shape.format(mermaid_label(label))}"


def _input_name(card: NetworkCard) -> str:
    """The first parameter of `forward`, which is what goes in."""
    for method in card.methods:
        if method.role == "forward":
            names = [match[0] for text in method.parameters if (match := _PARAMETER_NAME.match(text))]
            return next((name for name in names if name != "self"), "observation")
    return "observation"


def _hidden_state(card: NetworkCard) -> list[str]:
    """The loop of a recurrent core: what it hands to itself at the next step."""
    remembers = _RECURRENT.search(card.core) or any(method.role == "initial_state" for method in card.methods)
    if not card.core or not remembers:
        return []
    return [
        _node("hidden", "hidden state", "[({})]"),
        "    hidden -. step t .-> core",
        "    core -. step t+1 .-> hidden",
    ]


def _heads(card: NetworkCard, source: str) -> list[str]:
    """The heads, and the masks that close some of the actions of the policy heads."""
    lines: list[str] = []
    policies = []
    for number, head in enumerate(card.heads, 1):
        name = f"head{number}"
        lines.append(_node(name, f"{head.name} ({head.size})" if head.size else head.name))
        lines.append(f"    {source} --> {name}")
        if head.role == "policy":
            policies.append(name)
    if card.masks and policies:
        lines.append(_node("masks", ", ".join(card.masks), "{{{{{}}}}}"))
        lines.extend(f"    masks -.-> {name}" for name in policies)
    return lines
