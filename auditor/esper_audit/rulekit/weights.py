"""The repair that two rules share: a fresh hidden state takes what it lacks from the weight it will meet."""

from __future__ import annotations

from dataclasses import replace

from esper_audit.rulekit.repair import Insert, Repair
from esper_audit.semantics.hidden_states import FreshState
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.weights import doubts_about_moving, weight_at_hand

_TAKE_KEYWORDS = frozenset(f"torch.{name}" for name in ("zeros", "ones", "empty", "rand", "randn"))


def like_the_weight(net: NetworkClass, states: tuple[FreshState, ...], aspect: str) -> Repair | None:
    """`dtype=` or `device=` of the recurrent layer's weight, added to the factory calls of one line.

    None when it is not certain for each of them.
    """
    repairs = [repair for state in states if (repair := _one_like_the_weight(net, state, aspect)) is not None]
    if len(repairs) < len(states):
        return None
    return replace(repairs[0], changes=tuple(change for repair in repairs for change in repair.changes))


def _one_like_the_weight(net: NetworkClass, state: FreshState, aspect: str) -> Repair | None:
    made = state.made
    args = made.node.args
    if made.function not in _TAKE_KEYWORDS or made.module is not net.module or not args:
        return None
    if any(arg.star == "**" or (arg.keyword is not None and arg.keyword.value == aspect) for arg in args):
        return None
    weight = weight_at_hand(net, made)
    if not weight:
        return None
    text = f"{aspect}={weight}.{aspect}"
    return Repair(f"add `{text}`", (Insert(args[-1], f", {text}"),), doubts_about_moving(net))
