"""The parts that methods and tensors play in a policy.

Names are the first hint, behaviour decides, config has the last word.

The vocabulary follows the field: forward, act, evaluate, initial state; logits, mask, hidden state, value, log_prob,
entropy, action, observation. The name lists were counted over about a hundred public repositories.
"""

from __future__ import annotations

import re
from functools import lru_cache

FORWARD, ACT, EVALUATE, INITIAL_STATE, VALUE_METHOD, OTHER = (
    "forward",
    "act",
    "evaluate",
    "initial_state",
    "value",
    "other",
)
METHOD_ROLES = (FORWARD, ACT, EVALUATE, INITIAL_STATE, VALUE_METHOD)

_METHOD_ROLES = (
    (
        INITIAL_STATE,
        re.compile(
            r"_?((get|make|create|reset|zero)_)?(init|initial|initiali[sz]e|zero|default|begin|start)_?"
            r"(rnn_|lstm_|gru_|recurrent_|core_)?(cell_)?(hidden|states?|memory|carry|hxs?|hidden_states?)|"
            r"init_recurrent_cell_states|get_initial_(rnn_|lstm_)?(hidden_)?states?|reset_hidden(_states?)?"
        ),
    ),
    (
        EVALUATE,
        re.compile(
            r"evaluate(_actions?)?|eval_actions?|get_(action_)?log_?probs?(_(and_)?entropy)?|compute_log_?probs?"
        ),
    ),
    (
        ACT,
        re.compile(
            r"act|step|explore|sample|predict|_predict|act_inference|"
            r"(get|sample|select|choose|take|compute|predict)_actions?(_and_\w+)?"
        ),
    ),
    (VALUE_METHOD, re.compile(r"(get_|predict_|compute_)?(state_)?values?|critic|v")),
)


@lru_cache(maxsize=4096)
def method_role(name: str) -> str:
    """The part a method's name suggests; `other` when it suggests none."""
    if name in ("forward", "__call__"):
        return FORWARD
    for role, pattern in _METHOD_ROLES:
        if pattern.fullmatch(name):
            return role
    return OTHER


_NOT_A_TENSOR = re.compile(
    r"(^(num|n|max|min|use|has|is|len|size|dim)_)|(_(dims?|sizes?|layers?|num|count|cls|class|fn|head|net|shapes?|key|keys|names?|coefs?|loss|losses|weights?|bias|lr|eps|spec|space)$)"
)
_OTHER_MASK = re.compile(
    r"attn|attention|causal|pad|src_|tgt_|seq|episode|done|dead|alive|active|loss|bootstrap|key_mask|trunc|^valid_mask$|_valid_mask$|^valid_masks$|tril|triu|terminal|not_reset|reset|drop"
)
_TENSOR_ROLES = (
    (
        "mask",
        re.compile(
            r"(.*_)?masks?(_\w+)?|(available|avail|legal|valid|illegal|unavailable)_actions?(_\w+)?|avails?|invalid_actions?|action_availability|(il)?legal|forbidden|invalid|unavailable"
        ),
    ),
    ("logits", re.compile(r"(.*_)?logits?(_\w+)?")),
    ("log_prob", re.compile(r"(.*_)?(log_?probs?|log_?pis?|logps?|log_pa|action_logp)(_\w+)?")),
    ("entropy", re.compile(r"(.*_)?(entropy|entropies|ent)(_\w+)?")),
    ("probs", re.compile(r"(.*_)?(probs?|probabilities)(_\w+)?")),
    (
        "hidden",
        re.compile(
            r"(.*_)?(hidden|hiddens|hidden_states?|hxs|rnn_states?|lstm_states?|gru_states?|recurrent_states?|core_states?|cell_states?|recurrent_cell|carry|memory|"
            r"rnn_hxs?|hx|cx|h0|c0|initial_states?|init_states?|actor_hidden|critic_hidden)(_(in|out|new|next|h|c|t|state|states|flat|seq))?"
            r"|(new_|next_|prev_|last_|init_)?[hc](_(0|n|t|in|out|new|next|prev|last|init))?"
        ),
    ),
    (
        "value",
        re.compile(
            r"((new|next|state|old|pred|predicted|critic)_)?(values?|v|vf|vpred|v_preds?|value_preds?|critic_out|baseline)(_\w+)?"
        ),
    ),
    ("action", re.compile(r"(.*_)?(actions?|acts?)(_\w+)?")),
    ("obs", re.compile(r"(.*_)?(obs|observations?|inputs?)(_\w+)?|x|states?|state_t|next_states?")),
)


@lru_cache(maxsize=16384)
def tensor_role(name: str) -> str:
    """The part a variable's name suggests for a tensor, or an empty string."""
    name = name.lower().strip("_")
    if not name or _NOT_A_TENSOR.search(name):
        return ""
    if name.startswith(("log_std", "logstd", "std", "mean")):
        return ""
    for role, pattern in _TENSOR_ROLES:
        if pattern.fullmatch(name):
            if role == "mask" and _OTHER_MASK.search(name):
                return ""
            return role
    return ""


_GREEDY = re.compile(r"(get|sample|select|choose|take|compute|predict)_(greedy|deterministic|best)_actions?")


def names_greedy_choice(name: str) -> bool:
    """Whether a method's name says that it takes the best action, for evaluation and not for a rollout."""
    return _GREEDY.fullmatch(name) is not None


def names_hidden_state(name: str) -> bool:
    """Whether an attribute's name says without doubt that it keeps a hidden state; `c` alone may be anything."""
    return tensor_role(name) == "hidden" and len(name.strip("_")) > 3


def names_other_mask(name: str) -> bool:
    """Whether a mask's name says that it masks something else than actions: attention, padding, episode ends."""
    return bool(_OTHER_MASK.search(name.lower()))


_STARTS = re.compile(r"((episode|ep|seq|sequence)_)?(starts?|begins?|firsts?|resets?)|is_(first|start|init|begin)\w*")
_ENDS = re.compile(r"((prev|last|previous|episode|env)_)?(dones?|terminals?|terminated|not_dones?|done_mask|end_mask)")
_EPISODE_ENDS = re.compile(
    r"(^|_)(dones?|starts?|firsts?|is_first|terminals?|terminat(ed|ions?)|truncat(ed|ions?)|resets?|finished|over)(_|$)"
)
_PLACES = re.compile(r"(^|_)(ids?|idxs?|ind(ex|exes|ices|s)?|rows?|envs?|positions?|at|steps?|time)$")


def names_start(name: str) -> bool:
    """Whether a parameter's name says that True marks the first step of an episode, and nothing else."""
    return _STARTS.fullmatch(name) is not None


def names_end(name: str) -> bool:
    """Whether a parameter's name says that it marks the ends of episodes, and nothing else."""
    return _ENDS.fullmatch(name) is not None


def names_episode_ends(name: str) -> bool:
    """Whether a name says that it tells for each environment if an episode begins or ends: a flag, and no list."""
    return bool(_EPISODE_ENDS.search(name.lower())) and not _PLACES.search(name.lower())


def is_inverted_mask(name: str) -> bool:
    """Whether a mask's name says that True means *invalid*."""
    return bool(
        re.search(r"(^|_)(invalid|illegal|unavailable|forbidden|blocked|disallowed|not_)", name.lower())
    ) and not re.search(
        r"invalid_action_masks?$",
        name.lower(),  # True means *valid* in the projects that use this name
    )


_VALID = re.compile(r"(?<![a-z])(valid|legal|allowed|permitted|feasible|avail(able|s)?)(?![a-z])")


def is_upright_mask(name: str) -> bool:
    """Whether a mask's name says that True means *valid*."""
    return bool(_VALID.search(name.lower())) and not is_inverted_mask(name)


def named_kind(name: str) -> str:
    """`device` or `dtype` where a name says that it holds one."""
    last = name.lower().rsplit("_", 1)[-1]
    return last if last in ("device", "dtype") else ""
