"""No action that the mask forbids is ever taken, sampled or deterministic.

Experiment: random weights; 40 times act with one to all actions valid, and the deterministic action; evaluate scores
valid actions. Criterion: no forbidden action in any draw, and none that the network takes and then refuses itself.
Pitfalls: a parameter whose name says that True means forbidden is passed inverted; a network may refuse a mask for
reasons of its own (a part of it without an action, an action that must stay open), so an error convicts only where the
same mask is accepted in another draw, or where forbidding one action is refused whichever it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_audit.core.findings import Category, Severity
from esper_audit.probes.contract import Measurement, NotComparable, Probe, judged

if TYPE_CHECKING:
    from torch import Tensor, nn

    from esper_audit.probes.arguments import Inputs
    from esper_audit.probes.subject import Subject


class MaskSemantics(Probe):
    """P-mask of the catalogue."""

    id = "mask-semantics"
    claim = "no action that the mask forbids is taken"
    code, name = "ESP586", "forbidden-action-taken"
    category, severity = Category.INTEGRATION, Severity.CRITICAL
    help = "mask the logits that are sampled from and those that argmax sees, with True for valid"

    def run(self, subject: Subject) -> Measurement:
        """See the module."""
        import torch

        from esper_audit.probes import measuring as m

        facts = subject.method("act")
        roles = subject.roles(facts)
        if "mask" not in roles.values():
            raise NotComparable("act takes no masks")
        network = subject.heated().eval()
        inputs = subject.inputs(batch=16, time=1)
        if not inputs.masks:
            raise NotComparable("what a mask looks like is not known")
        picked = "silent" in roles.values()
        forbidden, drawn = {"sampled": 0, "deterministic": 0}, 0
        with torch.no_grad():
            for number in range(40 + picked):
                how = "deterministic" if number == 40 else "sampled"
                try:
                    reply = subject.act(network, inputs, deterministic=number == 40)
                except NotComparable:
                    raise
                except Exception as error:  # noqa: BLE001 - of the audited code
                    if not (0 < number < 40 or _refuses_itself(subject, network, inputs, how)):
                        raise NotComparable(f"act refuses these masks: {m.sentence(error)}") from None
                    told = f"act refuses its own {how} action: {m.sentence(error)}"
                    return judged(passed=False, measured=told, method=facts.name)
                if not reply.action:
                    raise NotComparable("act returns no action that is understood")
                for head, action in reply.action.items():
                    forbidden[how] += _outside(inputs, head, action)
                    drawn += action.numel()
        if subject.has("evaluate") and _refuses_most("evaluate", subject, network):
            told = "evaluate refuses an action that is valid, whichever other one is forbidden"
            return judged(passed=False, measured=told, method=subject.method("evaluate").name)
        return judged(
            passed=not any(forbidden.values()),
            measured=f"{forbidden['sampled']} of {drawn} sampled actions are forbidden"
            + (f", and {forbidden['deterministic']} deterministic ones" if picked else ""),
            method=facts.name,
        )


def _outside(inputs: Inputs, head: str, action: Tensor) -> int:
    """How many actions the mask of this head forbids."""
    mask = inputs.masks.get(head, next(iter(inputs.masks.values())) if len(inputs.masks) == 1 else None)
    if mask is None or action.is_floating_point() or action.shape != mask.shape[:-1]:
        raise NotComparable("which mask an action belongs to is not known")
    inside = mask.gather(-1, action.clamp(0, mask.shape[-1] - 1).unsqueeze(-1))
    return int((~inside).sum())


def _refuses_itself(subject: Subject, network: nn.Module, inputs: Inputs, how: str) -> bool:
    """Whether act refuses what it took, and not the mask."""
    import torch

    from esper_audit.probes.arguments import unmasked

    if how == "deterministic":  # the same masks were accepted forty times
        return not _raises("act", subject, network, unmasked(inputs), deterministic=True)
    for row in range(16):  # single rows: one action of many that is refused hides how often none is
        one = subject.inputs(1, 1, seed=row)
        answers = set()
        for seed in range(16):
            torch.manual_seed(seed)
            answers.add(_raises("act", subject, network, one))
        if len(answers) == 2:
            return True
    return _refuses_most("act", subject, network)


def _refuses_most(role: str, subject: Subject, network: nn.Module) -> bool:
    """Whether forbidding one action is refused, for most actions, though forbidding none is not."""
    import torch

    from esper_audit.probes.arguments import unmasked

    inputs = unmasked(subject.inputs(1, 1 if role == "act" else 6))
    if not inputs.masks or min(mask.shape[-1] for mask in inputs.masks.values()) < 3:
        return False
    if _raises(role, subject, network, inputs):
        return False
    for head, mask in inputs.masks.items():
        size, refused = mask.shape[-1], 0
        for forbidden in range(size):
            closed = mask.clone()
            closed[..., forbidden] = False
            taken = torch.full_like(inputs.actions[head], (forbidden + 1) % size)
            trial = inputs.but(masks={**inputs.masks, head: closed}, actions={**inputs.actions, head: taken})
            refused += _raises(role, subject, network, trial)
        if refused > size / 2:
            return True
    return False


def _raises(role: str, subject: Subject, network: nn.Module, inputs: Inputs, **words: bool) -> bool:
    """Whether a call raises."""
    import torch

    try:
        with torch.no_grad():
            getattr(subject, role)(network, inputs, **words)
    except NotComparable:
        return False
    except Exception:  # noqa: BLE001 - that is the question
        return True
    return False
