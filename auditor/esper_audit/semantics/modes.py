"""Layers that act otherwise in training mode, on the way from what a policy sees to its actions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import libcst as cst

from esper_audit.semantics import torch_facts as facts
from esper_audit.semantics.flow import Event
from esper_audit.semantics.network import NetworkClass
from esper_audit.semantics.roles import ACT, EVALUATE, FORWARD
from esper_audit.semantics.run.containers import layers_in
from esper_audit.semantics.scoring import acting_frames, optional_action
from esper_audit.semantics.tree import dotted
from esper_audit.semantics.values import Val

_EVAL = re.compile(rb"\.eval\(\)")
_BACKWARD = re.compile(rb"\.backward\(")
_CUDA = re.compile(rb"cuda|device")
_NO_CUDNN = re.compile(rb"cudnn\.(enabled|flags)")
_TRAIN = re.compile(rb"\.train\(|set_training_mode|\.training\s*=")


def on_the_way_to_actions(net: NetworkClass, habit: str) -> Iterator[Event]:
    """The steps with a habit (`dropped`, `batch_mixed`) that reach the action distribution of an evaluate method.

    Each is a call of a layer or of a function of torch, or a difference from a mean, once. Only networks that act and
    evaluate count: others compare no log-probs. Nothing where the project switches to eval mode and never back.
    """
    scoring = {function.name for function in net.with_role(EVALUATE)}
    scoring |= {function.name for function in net.with_role(ACT, FORWARD) if optional_action(function)}
    if not scoring or not (ACT in net.roles.values() or any(acting_frames(net))) or _never_trains(net):
        return
    told: set[cst.CSTNode] = set()
    steps: list[Event] = []
    frame_now = None
    for frame, event, _ in net.hot_events("call", "centre", "dist"):
        if frame is not frame_now:
            frame_now, steps = frame, []
        if event.kind == "dist":
            if habit in event.target.tags and frame.function.name in scoring:
                for step in steps:
                    if step.node not in told:
                        told.add(step.node)
                        yield step
        elif _has(habit, event) and not _is_value_head(net, event):
            steps.append(event)


def _has(habit: str, event: Event) -> bool:
    """Whether a step itself has the habit: its layer, or the function, whose argument had not met it before."""
    if event.kind == "centre":
        return habit == "batch_mixed"
    if event.callee == "layer":
        return habit in event.target.tags and "either" not in event.target.tags
    before = event.args[0].tags if event.args else frozenset()
    return event.name.startswith("torch.nn.functional.") and habit in event.value.tags - before


def _is_value_head(net: NetworkClass, event: Event) -> bool:
    """Whether a step calls a value head: by its name, or by its layer where no policy head has the same."""
    if isinstance(event.node, cst.Call) and isinstance(event.node.func, cst.Attribute):
        name = event.node.func.attr.value
        if any(head.name == name and head.role == "value" for head in net.heads):
            return True
    layer = event.target
    roles = {head.role for head in net.heads if layer.ref is not None and layer.ref in _made_by(net.layers[head.name])}
    return roles == {"value"}


def _made_by(layer: Val) -> list[Any]:
    """What makes a layer, and those in a container of layers."""
    held = layers_in(layer)
    return [layer.ref, *(part.ref for part in held.elements())] if held is not None else [layer.ref]


def _never_trains(net: NetworkClass) -> bool:
    said = net.project.says
    files = net.caller_files
    return any(said(path, _EVAL) for path in files) and not any(said(path, _TRAIN) for path in files)


def never_back_to_training(net: NetworkClass) -> Iterator[Event]:
    """Where a network with a layer that runs in cuDNN is put into eval mode for good, and trained afterwards.

    That is where it acts or is evaluated itself, or, in a caller, before a backward pass. Nothing where any file
    that knows the network says `train(`, by whatever it is called, or nobody speaks of a device.
    """
    if not facts.RECURRENT.intersection(net.recurrent.values()):
        return
    files = (*net.caller_files, *(model.module.path for model in net.model.lineage))
    said = [{pattern for pattern in _WORDS if net.project.says(path, pattern)} for path in dict.fromkeys(files)]
    words = set().union(*said)
    if not {_EVAL, _BACKWARD, _CUDA} <= words or words & {_TRAIN, _NO_CUDNN}:
        return
    for _, event, _ in net.hot_events("call"):
        if event.name == ".eval" and event.target.ref is net.flow:
            yield event
    for caller in net.callers_saying(_EVAL):
        yield from _before_backward(net, [event for event, _ in caller.frame.walk()])


_WORDS = (_EVAL, _BACKWARD, _CUDA, _TRAIN, _NO_CUDNN)


def _before_backward(net: NetworkClass, events: list[Event]) -> Iterator[Event]:
    """Calls of `net.eval()` that a backward pass follows, of what an optimizer was given."""
    for position, event in enumerate(events):
        if event.name != ".eval" or not net.builds(event.target) or any(event.branches_around):
            continue  # under an `if`, it may be what is done instead of training
        if _is_optimised(event) and any(later.name == ".backward" for later in events[position:]):
            yield event


def _is_optimised(event: Event) -> bool:
    """Whether the file hands the parameters of just this expression to somebody: no copy, and no target network."""
    assert isinstance(event.node, cst.Call)
    assert isinstance(event.node.func, cst.Attribute)
    name = dotted(event.node.func.value)
    return bool(name) and f"{name}.parameters()" in event.module.source.text
