"""All that a rule imports: the base class, hits and praise, and the facts about networks.

A rule file begins with `from esper_audit.rulekit import ...` and needs nothing else of the engine.
"""

from esper_audit.core.findings import Category, Confidence, Severity
from esper_audit.rulekit.dead import without_attribute, without_import
from esper_audit.rulekit.masks import axis_of_lift, lifted_in, other_constant
from esper_audit.rulekit.repair import Cut, Delete, Guard, Insert, InsertLines, Repair, Replace
from esper_audit.rulekit.rule import Case, Hit, Note, Praise, Rule
from esper_audit.rulekit.weights import like_the_weight
from esper_audit.semantics.dead_code import dead_attributes, dead_regions
from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.hidden_states import FreshState, fresh_hidden_states
from esper_audit.semantics.left_behind import LeftBehind, left_behind
from esper_audit.semantics.lstm_bias import ForgetBiasWrite, forget_bias_writes
from esper_audit.semantics.masking import MaskStep, masked_logits
from esper_audit.semantics.model import ClassModel, Function, ModuleModel
from esper_audit.semantics.network import HOT_ROLES, Head, NetworkClass, buffer_fields, gradient_free_block, leaves
from esper_audit.semantics.plain_containers import PlainContainer, plain_containers
from esper_audit.semantics.roles import ACT, EVALUATE, FORWARD, INITIAL_STATE, OTHER, VALUE_METHOD, tensor_role
from esper_audit.semantics.tree import descendants, dotted, find, literal_number, literal_string
from esper_audit.semantics.values import UNKNOWN, Made, MaskMark, Val

__all__ = [
    "ACT",
    "EVALUATE",
    "FORWARD",
    "HOT_ROLES",
    "INITIAL_STATE",
    "OTHER",
    "UNKNOWN",
    "VALUE_METHOD",
    "Case",
    "Category",
    "ClassModel",
    "Confidence",
    "Cut",
    "Delete",
    "Event",
    "ForgetBiasWrite",
    "Frame",
    "FreshState",
    "Function",
    "Guard",
    "Head",
    "Hit",
    "Insert",
    "InsertLines",
    "LeftBehind",
    "Made",
    "MaskMark",
    "MaskStep",
    "ModuleModel",
    "NetworkClass",
    "Note",
    "PlainContainer",
    "Praise",
    "Repair",
    "Replace",
    "Rule",
    "Severity",
    "Val",
    "axis_of_lift",
    "buffer_fields",
    "dead_attributes",
    "dead_regions",
    "descendants",
    "dotted",
    "find",
    "forget_bias_writes",
    "fresh_hidden_states",
    "gradient_free_block",
    "leaves",
    "left_behind",
    "lifted_in",
    "like_the_weight",
    "literal_number",
    "literal_string",
    "masked_logits",
    "other_constant",
    "plain_containers",
    "tensor_role",
    "without_attribute",
    "without_import",
]
