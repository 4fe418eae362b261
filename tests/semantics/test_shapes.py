"""Ranks are read where people write them, and nowhere else."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_audit.semantics.shapes import documented_rank, documented_ranks, jaxtyping, rank_in, ranks_in

AXES = ["batch", "seq", "seq_len", "B", "T", "num_envs", "obs_dim", "hidden_size", "n_heads_dim", "time", "layers"]


@pytest.mark.parametrize(
    ("comment", "rank"),
    [
        ("# [batch]", 1),
        ("# (batch,)", 1),
        ("# [batch, dim]", 2),
        ("# [batch, seq, dim]", 3),
        ("# (B, T, A)", 3),
        ("# (B,T,A,)", 3),
        ("# [B x T x A]", 3),
        ("# [B × T]", 2),
        ("# [T + 1, B]", 2),
        ("# [batch * seq, num_actions]", 2),
        ("# [2, batch, hidden]", 3),
        ("# bool, [batch, seq, num_machines]; True where allowed", 3),
        ("# float tensor of shape (5, 7)", 2),
        ("# shape: (n_agents, n_things)", 2),
        ("# each [layers, batch, dim]", 3),
        ("# [batch, seq] and again [batch, seq]", 2),
    ],
)
def test_a_comment_states_a_rank(comment: str, rank: int) -> None:
    assert rank_in(comment) == rank


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "# the mask",
        "# (see below)",
        "# (unused, kept for the old checkpoints)",
        "# only at training (not when evaluating, batch by batch)",
        "# seconds (time in seconds, steps of ten)",
        "# [0, 1]",
        "# in (-1, 1)",
        "# masks[head]",
        "# []",
    ],
)
def test_prose_and_numbers_in_parentheses_are_no_shape(comment: str) -> None:
    assert ranks_in(comment) == ()


@pytest.mark.parametrize("comment", ["# [..., dim]", "# [*batch, dim]", "# (B, ..., A)"])
def test_axes_without_a_number_give_no_rank(comment: str) -> None:
    assert ranks_in(comment) == ()


def test_a_shape_or_another_gives_both_and_no_single_rank() -> None:
    comment = "# [batch, obs_dim] or [batch, 1, obs_dim]"
    assert ranks_in(comment) == (2, 3)
    assert rank_in(comment) is None


@pytest.mark.parametrize("comment", ["# broadcastable to [batch, seq]", "# [batch, seq] (broadcasts over heads)"])
def test_what_may_be_broadcast_has_no_rank(comment: str) -> None:
    assert ranks_in(comment) == ()


@pytest.mark.parametrize("comment", ["# one mask per agent (agents)", "# grows with every step (time)"])
def test_a_single_word_in_round_parentheses_is_prose(comment: str) -> None:
    assert ranks_in(comment) == ()


def test_the_pair_of_an_lstm_is_no_shape() -> None:
    assert ranks_in("# (h, c)") == ()


@given(
    axes=st.lists(st.sampled_from(AXES), min_size=1, max_size=6),
    brackets=st.sampled_from(["[]", "()"]),
    separator=st.sampled_from([", ", ",", " x ", " × "]),
    before=st.sampled_from(["# ", "# bool ", "# legal moves, ", "# of shape "]),
)
def test_a_comment_of_n_axes_gives_rank_n(axes: list[str], brackets: str, separator: str, before: str) -> None:
    text = separator.join(axes) + ("," if len(axes) == 1 else "")  # (batch,) is a tuple, (batch) a remark
    assert ranks_in(f"{before}{brackets[0]}{text}{brackets[1]}") == (len(axes),)


@given(st.text(max_size=60))
def test_no_text_breaks_the_reader(text: str) -> None:
    assert all(rank > 0 for rank in ranks_in(text))
    assert isinstance(documented_ranks(text), dict)


GOOGLE = """
    Score actions.

    Args:
        obs: Features, ``[batch, seq, obs_dim]``.
        job_mask, tool_mask: Feasible choices ``[batch, seq, num_choices]``.
        action (torch.Tensor): Chosen, of shape (batch, seq).
        free: anything (really, anything).

    Returns:
        obs: Something else, ``[batch]``.
        logits: ``[batch, seq, num_choices]``.
    """
NUMPY = """
    Score actions.

    Parameters
    ----------
    obs : torch.Tensor, shape (B, T, D)
    job_mask, tool_mask : Tensor [batch, seq, num_choices]
    action : (B, T)
    free : int

    Returns
    -------
    logits : (B, T, A)
    """
SPHINX = """
    Score actions.

    :param obs: features [batch, seq, obs_dim]
    :param torch job_mask: feasible choices, [batch, seq, num_choices]
    :param tool_mask: feasible choices, [batch, seq, num_choices]
    :param action: of shape (batch, seq)
    :param free: anything
    """


@pytest.mark.parametrize("docstring", [GOOGLE, NUMPY, SPHINX], ids=["google", "numpy", "sphinx"])
def test_docstrings_state_the_ranks_of_parameters(docstring: str) -> None:
    stated = documented_ranks(inspect.cleandoc(docstring))
    assert stated == {"obs": (3,), "job_mask": (3,), "tool_mask": (3,), "action": (2,)}


def test_a_wildcard_speaks_for_all_parameters_of_that_ending() -> None:
    stated = documented_ranks("*_mask: [batch, seq, num_choices]")
    assert documented_rank(stated, "job_mask") == 3
    assert documented_rank(stated, "job") is None


def test_a_documented_or_gives_no_single_rank() -> None:
    stated = documented_ranks("obs: [batch, dim] or [batch, 1, dim]")
    assert stated["obs"] == (2, 3)
    assert documented_rank(stated, "obs") is None


@pytest.mark.parametrize("summary", ["Return the logits.", "Returns the logits of each head."])
def test_a_summary_is_not_the_section_returns(summary: str) -> None:
    assert documented_ranks(f"{summary}\n\nArgs:\n    mask: [batch, seq, n]\n") == {"mask": (3,)}


@pytest.mark.parametrize(
    ("name", "spec", "known"),
    [
        ("Float", "b t a", (3, "float")),
        ("Bool", "batch actions", (2, "bool")),
        ("Float32", "", (0, "float32")),
        ("Int", "b", (1, "int64")),
        ("Shaped", "b t", (2, None)),
        ("Float", "*batch dim", (None, "float")),
        ("Float", "... dim", (None, "float")),
        ("Annotated", "b t", None),
    ],
)
def test_jaxtyping_gives_rank_and_dtype(name: str, spec: str, known: tuple[int | None, str | None] | None) -> None:
    assert jaxtyping(name, spec) == known
