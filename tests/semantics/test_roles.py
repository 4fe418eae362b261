"""Names hint at the part that a method or a tensor plays, and some names must not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_audit.semantics.roles import (
    ACT,
    EVALUATE,
    FORWARD,
    INITIAL_STATE,
    METHOD_ROLES,
    OTHER,
    VALUE_METHOD,
    is_inverted_mask,
    method_role,
    names_hidden_state,
    names_other_mask,
    tensor_role,
)

METHODS = {
    FORWARD: "forward __call__",
    ACT: "act get_action get_actions sample_action select_action choose_action predict step get_action_and_value",
    EVALUATE: "evaluate evaluate_actions eval_action get_log_prob compute_log_probs get_action_log_prob",
    INITIAL_STATE: "initial_state get_initial_state get_initial_hidden init_hidden zero_state initialize_hidden "
    "init_rnn_hidden begin_state reset_hidden make_initial_carry",
    VALUE_METHOD: "value get_value predict_values critic state_value",
    OTHER: "train_step _init_weights reset_parameters save actor_loss initialize extra_repr update step_size "
    "values_from_disk acting reset",
}
TENSORS = {
    "mask": "mask masks action_mask machine_mask job_masks legal_actions available_actions avail_actions valid_actions "
    "invalid_mask illegal_actions unavailable forbidden action_mask_t",
    "logits": "logits policy_logits machine_logits flat_logits",
    "log_prob": "log_prob log_probs old_log_probs logp log_pi action_logp",
    "entropy": "entropy entropies dist_entropy",
    "probs": "probs action_probs probabilities",
    "hidden": "hidden hidden_state hx rnn_hxs lstm_states h c h_0 core_state new_hidden carry recurrent_state",
    "value": "value values state_value v value_preds old_values baseline",
    "action": "action actions next_action act",
    "obs": "obs observation next_obs x state inputs",
    "": "num_actions action_dim hidden_size n_masks mask_shape value_head log_std action_space use_mask is_mask "
    "value_loss entropy_coef obs_dim layer loss reward mask_fn action_names",
}
OTHER_MASKS = (
    "attention_mask attn_mask pad_mask padding_mask key_padding_mask causal_mask src_mask tgt_mask seq_mask "
    "episode_mask done_mask dones_mask dead_mask alive_mask active_masks loss_mask bootstrap_mask terminal_mask "
    "truncation_mask dropout_mask reset_mask valid_mask"
).split()


def pairs(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, role) for role, names in table.items() for name in names.split()]


@pytest.mark.parametrize(("name", "role"), pairs(METHODS))
def test_the_name_of_a_method_gives_its_role(name: str, role: str) -> None:
    assert method_role(name) == role


@pytest.mark.parametrize(("name", "role"), pairs(TENSORS))
def test_the_name_of_a_tensor_gives_its_role(name: str, role: str) -> None:
    assert tensor_role(name) == role


@pytest.mark.parametrize("name", OTHER_MASKS)
def test_masks_of_attention_padding_and_episodes_mask_no_actions(name: str) -> None:
    assert tensor_role(name) == ""
    assert names_other_mask(name)


@pytest.mark.parametrize("name", ["action_mask", "invalid_mask", "legal_actions"])
def test_masks_of_actions_are_not_called_other_masks(name: str) -> None:
    assert not names_other_mask(name)


@pytest.mark.parametrize("name", ["invalid_mask", "illegal_actions", "unavailable", "forbidden_mask", "job_blocked"])
def test_some_masks_say_what_is_forbidden(name: str) -> None:
    assert is_inverted_mask(name)


@pytest.mark.parametrize("name", ["valid_mask", "action_mask", "legal_actions", "invalid_action_mask"])
def test_others_say_what_is_allowed(name: str) -> None:
    assert not is_inverted_mask(name)


def test_a_letter_alone_is_no_sure_name_of_a_hidden_state() -> None:
    assert tensor_role("c") == "hidden"
    assert not names_hidden_state("c")
    assert names_hidden_state("rnn_state")


@given(st.text(max_size=30))
def test_every_name_has_a_role_of_the_vocabulary(name: str) -> None:
    assert method_role(name) in (*METHOD_ROLES, OTHER)
    assert tensor_role(name) in TENSORS


@given(st.sampled_from([name for name, _ in pairs(TENSORS)]))
def test_a_role_knows_neither_case_nor_leading_underscores(name: str) -> None:
    assert tensor_role(f"_{name.upper()}") == tensor_role(name)
