"""What values are said to depend on: never less than they do."""

from __future__ import annotations

from esper_audit.semantics.depends import STRANGE, adding, bare, cut, everything, resolved, with_gradient
from esper_audit.semantics.values import Val, sequence, tensor


def nested(depth: int) -> Val:
    """A tensor that came out of a mask, in lists within lists."""
    value = tensor(deps=frozenset({"mask"}))
    for _ in range(depth):
        value = sequence("list", [value])
    return value


def test_a_container_depends_on_what_it_holds() -> None:
    assert everything(nested(3)) == {"mask"}


def test_what_lies_too_deep_is_an_unknown_source_and_not_forgotten() -> None:
    assert everything(nested(9)) == STRANGE


def test_what_is_added_reaches_every_tensor_of_a_container() -> None:
    assert everything(adding(nested(2), frozenset({"start"}))) == {"mask", "start"}


def test_what_is_cut_is_a_source_without_gradient() -> None:
    assert bare(cut(frozenset({"hidden#0", "@pi"}))) == {"hidden", "@pi"}
    assert with_gradient(cut(frozenset({"@pi"})) | {"@v"}) == {"@v"}


def test_rounds_of_a_loop_hand_on_what_they_left_without_gradient_where_that_was_cut() -> None:
    carried = {"^h@0": frozenset({"^c@1", "start"}), "^c@1": frozenset({"^h@0", "hidden#1"})}
    assert resolved(frozenset({"^h@0"}), carried) == {"start", "hidden#1"}
    assert resolved(frozenset({"^h@0~"}), carried) == {"start~", "hidden#1~"}
