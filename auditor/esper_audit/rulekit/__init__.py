"""All that a rule imports: the base class, hits and praise, and the facts about networks.

A rule file begins with `from esper_audit.rulekit import ...` and needs nothing else of the engine.
"""

from esper_audit.core.findings import Category, Confidence, Severity
from esper_audit.rulekit.dead import without_attribute, without_import
from esper_audit.rulekit.masks import axis_of_lift, lifted_in, other_constant
from esper_audit.rulekit.repair import Cut, Delete, Guard, Insert, InsertLines, Repair, Replace
from esper_audit.rulekit.rule import Case, Hit, Note, Praise, Rule
from esper_audit.rulekit.weights import like_the_weight
from esper_audit.semantics.checkpoints import CompiledCheckpoint, compiled_checkpoints
from esper_audit.semantics.compilation import (
    EagerCore,
    Validation,
    eager_cores,
    late_validation,
    validated_distributions,
)
from esper_audit.semantics.cores import CoreCall, as_given, core_calls
from esper_audit.semantics.dead_code import dead_attributes, dead_regions
from esper_audit.semantics.depends import ONLY_LAST, ONLY_PART, Atoms, bare, everything
from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.forward_calls import direct_forward_calls, forward_calls_on_parts
from esper_audit.semantics.hidden_states import FreshState, by_line, fresh_hidden_states
from esper_audit.semantics.initialisation import LostWrite, lost_writes
from esper_audit.semantics.left_behind import LeftBehind, left_behind
from esper_audit.semantics.lstm_bias import ForgetBiasWrite, forget_bias_writes
from esper_audit.semantics.masking import MaskStep, masked_logits, true_is_valid
from esper_audit.semantics.model import ClassModel, Function, ModuleModel
from esper_audit.semantics.modes import on_the_way_to_actions
from esper_audit.semantics.network import HOT_ROLES, Head, NetworkClass, buffer_fields, gradient_free_block, leaves
from esper_audit.semantics.outputs import (
    Method,
    Output,
    acting,
    choice_of,
    first_round,
    has_layers,
    input_atoms,
    is_known,
    names_start,
    returns,
    scored,
    sources_of,
    state_atoms,
    stepping,
)
from esper_audit.semantics.parallel import unreduced_calls
from esper_audit.semantics.plain_containers import PlainContainer, plain_containers
from esper_audit.semantics.precision import other_precision
from esper_audit.semantics.roles import ACT, EVALUATE, FORWARD, INITIAL_STATE, OTHER, VALUE_METHOD, tensor_role
from esper_audit.semantics.run.scope import GRADIENT_FREE
from esper_audit.semantics.scoring import Scoring, act_and_evaluate, head_name, head_size
from esper_audit.semantics.time_loops import TimeLoop, time_loops
from esper_audit.semantics.tree import assigned, descendants, dotted, find, literal_number, literal_string
from esper_audit.semantics.values import UNKNOWN, Made, MaskMark, Step, Val

__all__ = [
    "ACT",
    "EVALUATE",
    "FORWARD",
    "GRADIENT_FREE",
    "HOT_ROLES",
    "INITIAL_STATE",
    "ONLY_LAST",
    "ONLY_PART",
    "OTHER",
    "UNKNOWN",
    "VALUE_METHOD",
    "Atoms",
    "Case",
    "Category",
    "ClassModel",
    "CompiledCheckpoint",
    "Confidence",
    "CoreCall",
    "Cut",
    "Delete",
    "EagerCore",
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
    "LostWrite",
    "Made",
    "MaskMark",
    "MaskStep",
    "Method",
    "ModuleModel",
    "NetworkClass",
    "Note",
    "Output",
    "PlainContainer",
    "Praise",
    "Repair",
    "Replace",
    "Rule",
    "Scoring",
    "Severity",
    "Step",
    "TimeLoop",
    "Val",
    "Validation",
    "act_and_evaluate",
    "acting",
    "as_given",
    "assigned",
    "axis_of_lift",
    "bare",
    "buffer_fields",
    "by_line",
    "choice_of",
    "compiled_checkpoints",
    "core_calls",
    "dead_attributes",
    "dead_regions",
    "descendants",
    "direct_forward_calls",
    "dotted",
    "eager_cores",
    "everything",
    "find",
    "first_round",
    "forget_bias_writes",
    "forward_calls_on_parts",
    "fresh_hidden_states",
    "gradient_free_block",
    "has_layers",
    "head_name",
    "head_size",
    "input_atoms",
    "is_known",
    "late_validation",
    "leaves",
    "left_behind",
    "lifted_in",
    "like_the_weight",
    "literal_number",
    "literal_string",
    "lost_writes",
    "masked_logits",
    "names_start",
    "on_the_way_to_actions",
    "other_constant",
    "other_precision",
    "plain_containers",
    "returns",
    "scored",
    "sources_of",
    "state_atoms",
    "stepping",
    "tensor_role",
    "time_loops",
    "true_is_valid",
    "unreduced_calls",
    "validated_distributions",
    "without_attribute",
    "without_import",
]
