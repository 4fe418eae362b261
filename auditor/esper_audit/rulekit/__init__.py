"""All that a rule imports: the base class, hits and praise, and the facts about networks.

A rule file begins with `from esper_audit.rulekit import ...` and needs nothing else of the engine.
"""

from esper_audit.core.findings import Category, Confidence, Severity
from esper_audit.rulekit.dead import without_attribute, without_import
from esper_audit.rulekit.masks import axis_of_lift, lifted_in, other_constant
from esper_audit.rulekit.repair import Cut, Delete, Guard, Insert, InsertLines, Repair, Replace
from esper_audit.rulekit.rule import Case, Hit, Note, Praise, Rule
from esper_audit.rulekit.weights import like_the_weight
from esper_audit.semantics.axes import ends_in_one, gap, named_axes
from esper_audit.semantics.carried_states import CarriedState, carried_states
from esper_audit.semantics.checkpoints import CompiledCheckpoint, compiled_checkpoints
from esper_audit.semantics.compilation import (
    EagerCore,
    Silenced,
    Validation,
    eager_cores,
    late_validation,
    silenced_validation,
    validated_distributions,
)
from esper_audit.semantics.cores import CoreCall, as_given, core_calls
from esper_audit.semantics.dead_code import dead_attributes, dead_regions
from esper_audit.semantics.depends import Atoms, bare, everything
from esper_audit.semantics.flow import Event, Frame
from esper_audit.semantics.forward_calls import direct_forward_calls, forward_calls_on_parts
from esper_audit.semantics.gate_weights import FusedWrite, fused_writes
from esper_audit.semantics.handed_in import hands_in_copies
from esper_audit.semantics.head_gains import HeadGain, head_gains
from esper_audit.semantics.hidden_states import FreshState, by_line, fresh_hidden_states, pinned_states
from esper_audit.semantics.host import Interruption, counters, host_reads, side_effects, tensor_branches
from esper_audit.semantics.initialisation import LostWrite, lost_writes
from esper_audit.semantics.kept_results import KeptGraph, kept_graphs
from esper_audit.semantics.left_behind import LeftBehind, left_behind
from esper_audit.semantics.lstm_bias import GateBiasWrite, gate_bias_writes
from esper_audit.semantics.masking import MaskStep, masked_logits, true_is_valid
from esper_audit.semantics.model import ClassModel, Function, ModuleModel
from esper_audit.semantics.modes import never_back_to_training, on_the_way_to_actions
from esper_audit.semantics.network import HOT_ROLES, Head, NetworkClass, buffer_fields, gradient_free_block, leaves
from esper_audit.semantics.optimizers import SharedLayers, shared_layers
from esper_audit.semantics.outputs import (
    LEFT_OUT,
    Method,
    Output,
    acting,
    choice_of,
    choosing,
    first_round,
    has_layers,
    input_atoms,
    is_known,
    returns,
    scored,
    sources_of,
    state_atoms,
    stepping,
)
from esper_audit.semantics.own_states import OwnState, own_states
from esper_audit.semantics.parallel import unreduced_calls
from esper_audit.semantics.plain_calls import called_without_gradient
from esper_audit.semantics.plain_containers import PlainContainer, plain_containers
from esper_audit.semantics.precision import other_precision
from esper_audit.semantics.returned_axes import Returned, returned
from esper_audit.semantics.roles import (
    ACT,
    EVALUATE,
    FORWARD,
    INITIAL_STATE,
    OTHER,
    VALUE_METHOD,
    names_episode_ends,
    names_start,
    tensor_role,
)
from esper_audit.semantics.row_checks import RowCheck, row_checks, rows_say, somebody_cares
from esper_audit.semantics.run.scope import GRADIENT_FREE
from esper_audit.semantics.scoring import (
    Scoring,
    act_and_evaluate,
    head_name,
    head_size,
    means_over_heads,
    optional_action,
    scores_actions,
)
from esper_audit.semantics.time_loops import TimeLoop, time_loops
from esper_audit.semantics.torch_facts import ELEMENTWISE_DISTRIBUTIONS as ELEMENTWISE
from esper_audit.semantics.tree import assigned, descendants, dotted, find, literal_number, literal_string
from esper_audit.semantics.unsaved import Unsaved, unsaved
from esper_audit.semantics.values import UNKNOWN, Made, MaskMark, Step, Val

__all__ = [
    "ACT",
    "ELEMENTWISE",
    "EVALUATE",
    "FORWARD",
    "GRADIENT_FREE",
    "HOT_ROLES",
    "INITIAL_STATE",
    "LEFT_OUT",
    "OTHER",
    "UNKNOWN",
    "VALUE_METHOD",
    "Atoms",
    "CarriedState",
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
    "Frame",
    "FreshState",
    "Function",
    "FusedWrite",
    "GateBiasWrite",
    "Guard",
    "Head",
    "HeadGain",
    "Hit",
    "Insert",
    "InsertLines",
    "Interruption",
    "KeptGraph",
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
    "OwnState",
    "PlainContainer",
    "Praise",
    "Repair",
    "Replace",
    "Returned",
    "RowCheck",
    "Rule",
    "Scoring",
    "Severity",
    "SharedLayers",
    "Silenced",
    "Step",
    "TimeLoop",
    "Unsaved",
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
    "called_without_gradient",
    "carried_states",
    "choice_of",
    "choosing",
    "compiled_checkpoints",
    "core_calls",
    "counters",
    "dead_attributes",
    "dead_regions",
    "descendants",
    "direct_forward_calls",
    "dotted",
    "eager_cores",
    "ends_in_one",
    "everything",
    "find",
    "first_round",
    "forward_calls_on_parts",
    "fresh_hidden_states",
    "fused_writes",
    "gap",
    "gate_bias_writes",
    "gradient_free_block",
    "hands_in_copies",
    "has_layers",
    "head_gains",
    "head_name",
    "head_size",
    "host_reads",
    "input_atoms",
    "is_known",
    "kept_graphs",
    "late_validation",
    "leaves",
    "left_behind",
    "lifted_in",
    "like_the_weight",
    "literal_number",
    "literal_string",
    "lost_writes",
    "masked_logits",
    "means_over_heads",
    "named_axes",
    "names_episode_ends",
    "names_start",
    "never_back_to_training",
    "on_the_way_to_actions",
    "optional_action",
    "other_constant",
    "other_precision",
    "own_states",
    "pinned_states",
    "plain_containers",
    "returned",
    "returns",
    "row_checks",
    "rows_say",
    "scored",
    "scores_actions",
    "shared_layers",
    "side_effects",
    "silenced_validation",
    "somebody_cares",
    "sources_of",
    "state_atoms",
    "stepping",
    "tensor_branches",
    "tensor_role",
    "time_loops",
    "true_is_valid",
    "unreduced_calls",
    "unsaved",
    "validated_distributions",
    "without_attribute",
    "without_import",
]
