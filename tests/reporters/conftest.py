"""A realistic audit, built by hand: one invented recurrent policy, its mask helper, and what an audit says of them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from esper_audit import __version__
from esper_audit.core.findings import (
    Category,
    Confidence,
    Edit,
    Finding,
    Fix,
    Highlight,
    Related,
    Severity,
    Span,
    Verdict,
)
from esper_audit.core.report import (
    AuditReport,
    FileReport,
    HeadCard,
    MethodCard,
    NetworkCard,
    ProbeResult,
    RuleInfo,
)
from esper_audit.reporters import RenderOptions, render

POLICY = "agents/harvest_policy.py"
MASKS = "agents/masking.py"

POLICY_SOURCE = '''\
"""Recurrent policy of the harvest game: where to go and what to plant."""

import torch
from torch import nn

from agents.masking import MaskedChoice


class HarvestPolicy(nn.Module):
    """Linear trunk, LSTM, two masked heads and a value."""

    def __init__(self, observation: int, hidden: int = 128, fields: int = 6, crops: int = 4) -> None:
        super().__init__()
        self.hidden = hidden
        self.trunk = nn.Sequential(nn.Linear(observation, hidden), nn.LayerNorm(hidden), nn.ReLU())
        self.memory = nn.LSTM(hidden, hidden, batch_first=True)
        self.field_head = nn.Linear(hidden, fields)
        self.crop_head = nn.Linear(hidden, crops)
        self.value_head = nn.Linear(hidden, 1)
        self.entropy_ceiling = {"field": fields, "crop": crops}

    def initial_memory(self, batch: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        h = torch.zeros(1, batch, self.hidden, device=device)
        c = torch.zeros(1, batch, self.hidden, device=device)
        return h, c

    def forward(self, view, field_mask, crop_mask, memory=None):
        if memory is None:
            memory = self.initial_memory(view.shape[0], view.device)
        features, memory = self.memory(self.trunk(view), memory)
        field = self.field_head(features).masked_fill(~field_mask, float("-inf"))
        crop = self.crop_head(features).masked_fill(~crop_mask, float("-inf"))
        return {"field": field, "crop": crop, "value": self.value_head(features), "memory": memory}

    @torch.inference_mode()
    def act(self, view, field_mask, crop_mask, memory):
        if field_mask.dim() == 2:
            field_mask = field_mask.unsqueeze(1)
            crop_mask = crop_mask.unsqueeze(1)
        out = self.forward(view, field_mask, crop_mask, memory)
        choices = {name: MaskedChoice(out[name]) for name in ("field", "crop")}
        actions = {name: choice.sample() for name, choice in choices.items()}
        log_probs = {
            name: choice.log_prob(
                actions[name],
            )
            for name, choice in choices.items()
        }
        return actions, log_probs, out["memory"]
'''

MASKS_SOURCE = '''\
"""Distributions over what is allowed."""

import torch


@torch.compiler.disable
def check_choice(logits):
    if not torch.isfinite(logits).any(dim=-1).all():
        raise ValueError("a row without a valid action")
'''

SOURCES = {POLICY: tuple(POLICY_SOURCE.splitlines()), MASKS: tuple(MASKS_SOURCE.splitlines())}

HIDDEN_PAGE = """\
A hidden state made without `dtype=`.

## What it does

Reports a hidden state that is created without a dtype.

## Why it matters

`torch.zeros` makes float32 whatever the network is. A network cast by `.half()`, `.bfloat16()` or `.double()` then
raises at its first step, since an LSTM wants its state in the dtype of its weights.

## Example

```python
## before
h = torch.zeros(1, batch, self.hidden, device=device)
```

## Use instead

Take dtype and device from a weight:

```python
## after
weight = self.memory.weight_hh_l0
h = weight.new_zeros(1, batch, self.hidden)
```

## Evidence

A pure half model raises `mat1 and mat2 must have the same dtype` (torch 2.13.0, CPU). Under autocast nothing happens.

## References

- https://github.com/pytorch/pytorch/issues/45048
"""

INFERENCE_PAGE = """\
Log-probabilities born under `inference_mode`.

## What it does

Reports log-probabilities that are computed under `torch.inference_mode` and returned without a word of warning.

## Why it matters

- a direct `backward` raises, which is loud;
- added to another loss that is differentiable, the policy silently gets **no** gradient.

## Use instead

```python
with torch.no_grad():
    ...
```
"""


def at(path: str, line_has: str, text: str, *, last_line_has: str = "", last_text: str = "") -> Span:
    """The span of `text` in the first line of `path` that contains `line_has`."""
    lines = SOURCES[path]
    number = next(i for i, line in enumerate(lines, 1) if line_has in line)
    column = lines[number - 1].index(text) + 1
    if not last_line_has:
        return Span(path, number, column, number, column + len(text))
    last = next(i for i, line in enumerate(lines, 1) if i > number and line.startswith(last_line_has))
    return Span(path, number, column, last, lines[last - 1].index(last_text) + 1 + len(last_text))


def _rules() -> tuple[RuleInfo, ...]:
    def rule(code: str, name: str, category: Category, severity: Severity, probe: str = "", page: str = "") -> RuleInfo:
        return RuleInfo(
            code,
            name,
            name.replace("-", " "),
            category,
            severity,
            probe or None,
            "safe" if code == "ESP201" else None,
            page,
        )

    return (
        rule("ESP101", "compile-inside-network", Category.COMPILE, Severity.INFO),
        rule("ESP102", "graph-break-by-disabled-helper", Category.COMPILE, Severity.MEDIUM, "graph-breaks"),
        rule("ESP201", "hidden-state-without-dtype", Category.DEVICE, Severity.MEDIUM, "hidden-dtype", HIDDEN_PAGE),
        rule("ESP301", "log-probs-in-inference-mode", Category.GRADIENT, Severity.HIGH, "inference", INFERENCE_PAGE),
        rule("ESP302", "infinite-mask", Category.GRADIENT, Severity.MEDIUM, "mask-entropy"),
        rule("ESP501", "mask-rank-unchecked", Category.INTEGRATION, Severity.MEDIUM, "mask-rank"),
        rule("ESP601", "attribute-never-read", Category.QUALITY, Severity.LOW),
    )


def _findings() -> tuple[Finding, ...]:
    dtype_fix = Fix(
        "pass `dtype=self.memory.weight_hh_l0.dtype`",
        safe=False,
        edits=(Edit(Span(POLICY, 23, 61, 23, 61), ", dtype=self.memory.weight_hh_l0.dtype"),),
    )
    state = Finding(
        code="ESP201",
        name="hidden-state-without-dtype",
        category=Category.DEVICE,
        severity=Severity.MEDIUM,
        confidence=Confidence.HIGH,
        message="`initial_memory` creates `h` without a dtype, so it is float32 whatever the network is",
        help="Take the dtype from a weight: `self.memory.weight_hh_l0.dtype`.",
        span=at(POLICY, "h = torch.zeros", "torch.zeros(1, batch, self.hidden, device=device)"),
        symbol="HarvestPolicy.initial_memory",
        related=(Related(at(POLICY, "self.memory = nn.LSTM", "nn.LSTM"), "the state goes into this LSTM"),),
        fix=dtype_fix,
        verdict=Verdict.CONFIRMED,
        evidence="`.bfloat16()` raises at the first step with `memory=None`",
        fingerprint="0f3c8a5e21d94b67:0",
    )
    cell = replace(
        state,
        message="`initial_memory` creates `c` without a dtype, so it is float32 whatever the network is",
        span=at(POLICY, "c = torch.zeros", "torch.zeros(1, batch, self.hidden, device=device)"),
        related=(),
        fix=None,
        fingerprint="77c1e0aa90b3d215:0",
    )
    log_probs = Finding(
        code="ESP301",
        name="log-probs-in-inference-mode",
        category=Category.GRADIENT,
        severity=Severity.HIGH,
        confidence=Confidence.HIGH,
        message="`act` returns log-probabilities computed under `inference_mode`, and nothing says so",
        help=(
            "Say in the docstring that they carry no gradient, and compute those of the update anew:\n"
            "```python\n_, log_probs, _ = policy.evaluate(view, masks, memory, actions)\n```"
        ),
        span=at(POLICY, "log_probs = {", "log_probs = {", last_line_has="        }", last_text="}"),
        symbol="HarvestPolicy.act",
        related=(
            Related(
                at(POLICY, "@torch.inference_mode", "@torch.inference_mode()"), "no gradient is recorded from here"
            ),
            Related(at(POLICY, "return actions, log_probs", "log_probs"), "returned here"),
        ),
        fingerprint="5d0c9be2f8a16c43:0",
    )
    infinite = Finding(
        code="ESP302",
        name="infinite-mask",
        category=Category.GRADIENT,
        severity=Severity.MEDIUM,
        confidence=Confidence.MEDIUM,
        message="logits of `field` are masked with -inf",
        help="Mask with a finite constant such as -1e4 and keep its reason beside it.",
        span=at(POLICY, "field = self.field_head", 'float("-inf")'),
        symbol="HarvestPolicy.forward",
        verdict=Verdict.REFUTED,
        evidence="entropy and its gradient are finite for 4096 rows with at least one valid action",
        fingerprint="a19be0377cd8e254:0",
    )
    helper = Finding(
        code="ESP102",
        name="graph-break-by-disabled-helper",
        category=Category.COMPILE,
        severity=Severity.MEDIUM,
        confidence=Confidence.MEDIUM,
        message="`act` builds `MaskedChoice`, whose check is kept out of the compiler: a graph break per head",
        help="Check the logits once, outside the compiled method.",
        span=at(POLICY, "choices = {name", "MaskedChoice(out[name])"),
        symbol="HarvestPolicy.act",
        related=(Related(at(MASKS, "@torch.compiler.disable", "@torch.compiler.disable"), "disabled here"),),
        verdict=Verdict.INCONCLUSIVE,
        evidence="`nn.LSTM` already sends the whole frame to eager, so this break is never reached",
        fingerprint="c4d2f01b6a7e9938:0",
    )
    rank = Finding(
        code="ESP501",
        name="mask-rank-unchecked",
        category=Category.INTEGRATION,
        severity=Severity.MEDIUM,
        confidence=Confidence.HIGH,
        message="`act` lifts 2-D masks to 3-D, `forward` neither lifts nor checks them",
        help="Check the rank of every mask where it enters `forward`.",
        span=at(POLICY, "if field_mask.dim()", "field_mask.dim() == 2"),
        symbol="HarvestPolicy.act",
        related=(Related(at(POLICY, "def forward", "field_mask, crop_mask"), "used here as they come"),),
        fingerprint="e2b7480c9915fd06:0",
    )
    unread = Finding(
        code="ESP601",
        name="attribute-never-read",
        category=Category.QUALITY,
        severity=Severity.LOW,
        confidence=Confidence.HIGH,
        message="`self.entropy_ceiling` is written and never read",
        help="Remove it.",
        span=at(POLICY, "self.entropy_ceiling", "self.entropy_ceiling"),
        symbol="HarvestPolicy.__init__",
        fingerprint="90ac3b5d17e8f462:0",
    )
    found = (state, cell, log_probs, infinite, helper, rank, unread)
    return tuple(sorted(found, key=lambda finding: finding.sort_key))


def _network() -> NetworkCard:
    return NetworkCard(
        name="HarvestPolicy",
        path=POLICY,
        line=9,
        kind="recurrent actor-critic",
        bases=("torch.nn.Module",),
        core="LSTM(hidden, hidden)",
        trunk=("Linear(observation, hidden)", "LayerNorm(hidden)", "ReLU()"),
        heads=(
            HeadCard("field_head", "policy", "fields"),
            HeadCard("crop_head", "policy", "crops"),
            HeadCard("value_head", "value", "1"),
        ),
        methods=(
            MethodCard("initial_memory", "initial_state", 22, ("batch", "device")),
            MethodCard("forward", "forward", 27, ("view", "field_mask", "crop_mask", "memory")),
            MethodCard("act", "act", 36, ("view", "field_mask", "crop_mask", "memory")),
        ),
        masks=("field_mask", "crop_mask"),
        sizes=(("hidden", "128"), ("fields", "6"), ("crops", "4")),
    )


def _muted() -> tuple[Finding, Finding]:
    template = next(finding for finding in _findings() if finding.code == "ESP302")
    crop = replace(
        template,
        message="logits of `crop` are masked with -inf",
        span=at(POLICY, "crop = self.crop_head", 'float("-inf")'),
        verdict=Verdict.UNTESTED,
        evidence="",
        fingerprint="1b6e92d0c57fa384:0",
    )
    suppressed = replace(crop, reason="`Categorical` copes, and every row has a valid action")
    baselined = replace(
        crop,
        code="ESP601",
        name="attribute-never-read",
        category=Category.QUALITY,
        severity=Severity.LOW,
        message="`self.hidden` is written and read once",
        span=at(POLICY, "self.hidden = hidden", "self.hidden"),
        fingerprint="d83f6c20b9a1e574:0",
    )
    return suppressed, baselined


def _highlights() -> tuple[Highlight, ...]:
    return (
        Highlight(
            "ESP202",
            "device-hardcoded",
            Category.DEVICE,
            "the hidden state is created on the device of the input",
            POLICY,
            29,
            "HarvestPolicy.forward",
        ),
        Highlight(
            "ESP302",
            "infinite-mask",
            Category.GRADIENT,
            "`nn.LayerNorm` keeps the input of the LSTM in range",
            POLICY,
            15,
            "HarvestPolicy",
        ),
    )


def build_report() -> AuditReport:
    """The audit of the harvest policy, with experiments."""
    suppressed, baselined = _muted()
    return AuditReport(
        files=(
            FileReport("agents/broken.py", "unparsable", error="expected ':' after the class name", error_line=7),
            FileReport(POLICY, "audited", networks=(_network(),)),
            FileReport(MASKS, "consulted"),
            FileReport("agents/settings.py", "skipped"),
        ),
        findings=_findings(),
        highlights=_highlights(),
        suppressed=(suppressed,),
        baselined=(baselined,),
        probes=(
            ProbeResult(
                "hidden-dtype",
                f"{POLICY}::HarvestPolicy",
                Verdict.REFUTED,
                "a cast network runs with `memory=None`",
                "`.bfloat16()` raises at the first step with `memory=None`",
                0.125,
            ),
            ProbeResult(
                "mask-entropy",
                f"{POLICY}::HarvestPolicy",
                Verdict.CONFIRMED,
                "entropy is finite with an infinite mask",
                "0 of 4096 rows are NaN",
                0.5,
            ),
        ),
        notes=("who calls `HarvestPolicy` is unknown: the tree holds more files than are looked through",),
        rules=_rules(),
        sources=dict(SOURCES),
        torch_version="2.13.0+cpu",
    )


def rendered(format_name: str, report: AuditReport, **options: object) -> str:
    """What a reporter writes, with the tool's version taken out so that a release does not change the snapshots."""
    sink = io.StringIO()
    render(format_name, report, sink, options=RenderOptions(**options))  # type: ignore[arg-type]
    return re.sub(rf'(esper-audit |"version": "){re.escape(__version__)}', r"\g<1>0.0.0", sink.getvalue())


@pytest.fixture
def report() -> AuditReport:
    """An audit with a bit of everything."""
    return build_report()


@pytest.fixture
def static_report(report: AuditReport) -> AuditReport:
    """The same audit without experiments: no verdicts, no torch."""
    untested = tuple(replace(finding, verdict=Verdict.UNTESTED, evidence="") for finding in report.findings)
    return replace(report, findings=untested, probes=(), torch_version="", notes=())


@pytest.fixture
def clean_report() -> AuditReport:
    """An audit that found nothing."""
    networks = (_network(), replace(_network(), name="Critic"))
    files = (
        FileReport("a.py", "audited", networks=networks),
        FileReport("b.py", "cached"),
        FileReport("c.py", "audited"),
    )
    return AuditReport(files=files, suppressed=(_muted()[0],) * 2, rules=_rules())


@pytest.fixture
def show() -> Callable[..., str]:
    """Render a report in a format and give back the text."""
    return rendered


@pytest.fixture
def one_finding() -> Callable[..., AuditReport]:
    """An audit of one file with one finding whose span and fields the test chooses."""

    def build(source: str, span: tuple[int, int, int, int], *, path: str = "net.py", **fields: object) -> AuditReport:
        template = next(finding for finding in _findings() if finding.code == "ESP601")
        finding = replace(template, span=Span(path, *span), **fields)  # type: ignore[arg-type]
        return AuditReport(
            files=(FileReport(path, "audited"),),
            findings=(finding,),
            sources={path: tuple(source.split("\n"))},
        )

    return build
