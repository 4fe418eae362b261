"""The experiments for your own test suite: `check_network(network)` fails with every claim that the network breaks.

The network runs in the process of the test, as your other tests do; nothing is put into a worker.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from esper_audit.config import nearest
from esper_audit.probes.contract import BEHAVIOUR, FAILED, MethodFacts, Order, Outcome, probes
from esper_audit.probes.trying import tried

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ClaimsFailedError", "check_network"]


class ClaimsFailedError(AssertionError):
    """The network breaks claims. `outcomes` holds what failed, each with its number."""

    def __init__(self, name: str, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = tuple(outcomes)
        lines = [f"  {each.id}: {probes()[each.id].claim}\n      measured: {each.measured}" for each in outcomes]
        number = len(outcomes)
        super().__init__(f"{name} breaks {number} claim{'s' * (number != 1)}:\n" + "\n".join(lines))


def check_network(
    network: nn.Module, *, claims: Iterable[str] | None = None, ignore: Iterable[str] = (), seed: int = 0
) -> tuple[Outcome, ...]:
    """Try a network on the claims that hold for a right one.

    Args:
        network: As you would train it. It is copied before anything is changed, and left as it is.
        claims: Ids of experiments, as `docs/probes.md` lists them; default: all but those that compile.
        ignore: Ids to leave out, because the network means to be so.
        seed: Of all random inputs and weights.

    Returns:
        One outcome per experiment. What is undecided says why in `error`: a network that is spoken to in a way that is
        not known breaks no claim.

    Raises:
        ClaimsFailedError: the network breaks claims; all of them are told, each with its number.
        ValueError: an id that no experiment has.

    """
    ids = [name for name, probe in probes().items() if probe.group == BEHAVIOUR and probe.convicts]
    wanted = ids if claims is None else list(claims)
    left_out = list(ignore)
    for name in (*wanted, *left_out):
        if name not in probes():
            raise ValueError(f"no experiment is called {name!r}{nearest(name, list(probes()))}")
    order = order_of(network, tuple(name for name in wanted if name not in left_out), seed)
    outcomes = tuple(tried(order, network))
    failed = [outcome for outcome in outcomes if outcome.result == FAILED]
    if failed:
        raise ClaimsFailedError(type(network).__name__, failed)
    return outcomes


def order_of(network: nn.Module, ids: tuple[str, ...], seed: int) -> Order:
    """What reading the source of a network's class says about its methods; nothing where there is no source."""
    from dataclasses import replace

    from esper_audit.probes.orders import order_for
    from esper_audit.semantics.flow import Interpreter
    from esper_audit.semantics.model import Models
    from esper_audit.semantics.network import NetworkClass
    from esper_audit.semantics.project import Project, project_root

    cls = type(network)
    try:
        path = Path(inspect.getfile(cls)).resolve()
    except (TypeError, OSError):
        path = None
    if path is not None and path.suffix == ".py":
        project = Project(project_root(path))
        name = cls.__qualname__.replace("<locals>.", "")
        if name in project.network_names(path):
            interpreter = Interpreter(Models(project))
            model = interpreter.models.parse_named(path).classes.get(name)
            if model is not None:
                return replace(order_for(NetworkClass(model, interpreter)), probes=ids, seed=seed)
    return Order(str(path or ""), cls.__qualname__, ".", probes=ids, seed=seed, methods=by_name(network))


def by_name(network: nn.Module) -> tuple[MethodFacts, ...]:
    """Methods and parameters by their names alone."""
    from esper_audit.semantics.roles import OTHER, method_role, tensor_role

    found = []
    for name, method in inspect.getmembers(type(network), inspect.isfunction):
        role = method_role(name)
        if role != OTHER and not name.startswith("__"):
            names = list(inspect.signature(method).parameters)[1:]
            found.append(MethodFacts(name, role, {each: tensor_role(each) for each in names}))
    return tuple(found)
