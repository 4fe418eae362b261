"""Brings the verdicts of experiments onto findings, and convicts what no rule saw.

One worker per network runs the behaviour probes, a second one those that compile: torch.compile switches the validation
of distributions off for its process. A finding whose rule names a probe gets the verdict of that probe. A probe that
fails where no rule found anything becomes a finding of its own, under the code of its rule or ESPx70 to ESPx89.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from esper_audit.core.findings import Confidence, Finding, Span, Verdict
from esper_audit.core.report import NetworkCard, ProbeResult, RuleInfo
from esper_audit.probes.contract import BEHAVIOUR, COMPILE, FAILED, PASSED, Order, Outcome, probes
from esper_audit.probes.launch import carry_out

TIMEOUT = 60.0  # seconds for each worker
Tell = Callable[[str], None]
_CLAIM = {PASSED: Verdict.CONFIRMED, FAILED: Verdict.REFUTED}


@dataclass(frozen=True, slots=True)
class Case:
    """One network on trial: what to build, and how reports speak of it."""

    order: Order
    card: NetworkCard

    @property
    def subject(self) -> str:
        """`path::Class`."""
        return f"{self.card.path}::{self.card.name}"


@dataclass(slots=True)
class Trial:
    """What the court decided."""

    findings: list[Finding] = field(default_factory=list)
    probes: list[ProbeResult] = field(default_factory=list)
    torch_version: str = ""


def trial(
    cases: Sequence[Case],
    findings: Iterable[Finding],
    rules: Mapping[str, RuleInfo],
    *,
    enabled: Callable[[str], bool],
    reference: Order | None = None,
    everything: bool = False,
    timeout: float = TIMEOUT,
    tell: Tell = lambda _: None,
) -> Trial:
    """Try every case.

    Args:
        cases: The networks.
        findings: Of the rules; those about other networks pass through.
        rules: By code: they say which probe can try their findings.
        enabled: Whether a code is selected; a probe without any enabled code is left out.
        reference: The reference implementation, tried beside the first case on the same experiments.
        everything: Run what decides no finding, too.
        timeout: Seconds for each worker.
        tell: Called with a line of words when an experiment begins.

    """
    decided = Trial()
    rest = list(findings)
    wanted = {group: _wanted(group, rules, enabled, everything=everything) for group in (BEHAVIOUR, COMPILE)}
    beside = _Beside(reference if cases else None, wanted[BEHAVIOUR], timeout)
    for case in cases:
        mine = [finding for finding in rest if finding.network == case.subject]
        rest = [finding for finding in rest if finding.network != case.subject]
        outcomes = _outcomes(case, wanted, decided, timeout=timeout, tell=tell)
        decided.findings += [_judged(finding, rules, outcomes) for finding in mine]
        tried = {info.probe for finding in mine if (info := rules.get(finding.code)) is not None}
        decided.findings += _convictions(case, tried, outcomes, enabled)
        right = beside.measured()
        decided.probes += [_result(case, outcome, right.get(outcome.id, "")) for outcome in outcomes.values()]
    decided.findings += rest
    return decided


class _Beside:
    """The reference implementation on trial in a thread of its own, while the first network is."""

    def __init__(self, order: Order | None, ids: tuple[str, ...], timeout: float) -> None:
        self._outcomes: list[Outcome] = []
        self._thread: threading.Thread | None = None
        if order is not None and ids:
            order = replace(order, probes=ids)
            self._thread = threading.Thread(
                target=lambda: self._outcomes.extend(carry_out(order, timeout=timeout)[1]), daemon=True
            )
            self._thread.start()

    def measured(self) -> dict[str, str]:
        """By probe, what was measured on the reference."""
        if self._thread is not None:
            self._thread.join()
        return {outcome.id: outcome.measured for outcome in self._outcomes}


def _wanted(
    group: str, rules: Mapping[str, RuleInfo], enabled: Callable[[str], bool], *, everything: bool
) -> tuple[str, ...]:
    """The probes of a group that try an enabled rule, or convict or tell under an enabled code."""
    asked = {info.probe for code, info in rules.items() if info.probe and enabled(code)}
    return tuple(
        name
        for name, probe in probes().items()
        if probe.group == group
        and (everything or name in asked or ((probe.convicts or probe.tells) and enabled(probe.code)))
    )


def _outcomes(
    case: Case, wanted: Mapping[str, tuple[str, ...]], decided: Trial, *, timeout: float, tell: Tell
) -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    for ids in wanted.values():
        if not ids:
            continue
        order = replace(case.order, probes=ids)
        about, found = carry_out(order, timeout=timeout, tell=lambda name: tell(f"{name} on {case.subject}"))
        decided.torch_version = decided.torch_version or str(about.get("torch", ""))
        outcomes.update({outcome.id: outcome for outcome in found})
        if about.get("failed"):
            break  # what could not be built once cannot be built for compiling
    return outcomes


def _judged(finding: Finding, rules: Mapping[str, RuleInfo], outcomes: Mapping[str, Outcome]) -> Finding:
    """A finding with the verdict of its probe."""
    info = rules.get(finding.code)
    outcome = outcomes.get(info.probe) if info is not None and info.probe else None
    if outcome is None:
        return finding
    if outcome.result == FAILED:
        return replace(finding, verdict=Verdict.CONFIRMED, evidence=outcome.measured, confidence=Confidence.HIGH)
    if outcome.result == PASSED and probes()[outcome.id].acquits:
        return replace(finding, verdict=Verdict.REFUTED, evidence=outcome.measured)
    return replace(finding, verdict=Verdict.INCONCLUSIVE, evidence=outcome.error or outcome.measured)


def _convictions(
    case: Case, tried: AbstractSet[str | None], outcomes: Mapping[str, Outcome], enabled: Callable[[str], bool]
) -> list[Finding]:
    """A finding for each failed probe that tried no finding of a rule: what nobody had seen."""
    lines = {method.name: method.line for method in case.card.methods}
    convicted = []
    for outcome in outcomes.values():
        probe = probes()[outcome.id]
        if outcome.result != FAILED or not probe.convicts or outcome.id in tried or not enabled(probe.code):
            continue
        line = lines.get(outcome.method, case.card.line)
        symbol = f"{case.card.name}.{outcome.method}" if outcome.method in lines else case.card.name
        convicted.append(
            Finding(
                code=probe.code,
                name=probe.name,
                category=probe.category,
                severity=probe.severity,
                confidence=Confidence.HIGH,
                message=f"this does not hold: {probe.claim}",
                help=probe.help,
                span=Span(case.card.path, line, 1, line, 2),
                symbol=symbol,
                verdict=Verdict.CONFIRMED,
                evidence=outcome.measured,
                origin="probe",
                network=case.subject,
            )
        )
    return convicted


def _result(case: Case, outcome: Outcome, reference: str) -> ProbeResult:
    """An experiment as reports tell it; its verdict is about the claim."""
    return ProbeResult(
        id=outcome.id,
        subject=case.subject,
        verdict=_CLAIM.get(outcome.result, Verdict.INCONCLUSIVE),
        claim=probes()[outcome.id].claim,
        measured=outcome.measured,
        seconds=outcome.seconds,
        error=outcome.error,
        decisive=probes()[outcome.id].convicts,
        reference=reference,
        table=outcome.table,
    )
