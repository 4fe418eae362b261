"""The networks that faults are planted into are right, and so is every benign twin of them; and every plant fits."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bases import BASES
from planting import Base, Fault, plant, planted

torch = pytest.importorskip("torch")

B, T = 4, 6
SIZES = (5, 4, 3)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small are faster without help."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def imported(folder: Path) -> Iterator[Callable[[str], Any]]:
    """What imports a module of this folder; afterwards none of them is left."""
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(folder))
        for path in folder.glob("*.py"):
            sys.modules.pop(path.stem, None)


def masks() -> Any:
    """`[B, T, 12]`, at least one valid choice per head, and in the first row only one."""
    drawn = torch.rand(B, T, sum(SIZES)) > 0.5
    first = [0, SIZES[0], SIZES[0] + SIZES[1]]
    drawn[..., first] = True
    drawn[0] = False
    drawn[0][..., first] = True
    return drawn


def starts() -> Any:
    """`[B, T]`, some in the middle; the state before the first step counts where none is at the beginning."""
    begins = torch.zeros(B, T, dtype=torch.bool)
    begins[0, 0] = begins[1, 2] = begins[2, 4] = True
    return begins


class Cleanrl:
    """Speaks to the agent: steps first and flat."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self.net = load("agent").Agent()
        self.train = load("ppo").train
        self.obs_dim = self.net.obs_dim
        self.sharpen(self.net.actor if hasattr(self.net, "actor") else self.net)

    @staticmethod
    def sharpen(module: Any) -> None:
        for parameter in module.parameters():
            if parameter.dim() == 2 and parameter.shape[0] in {*SIZES, sum(SIZES)}:
                parameter.data.normal_(std=0.5)

    def state(self) -> Any:
        return tuple(torch.randn_like(each) for each in self.net.get_initial_state(B))

    def act(self, obs: Any, mask: Any, state: Any, start: Any) -> tuple[Any, Any, Any, Any]:
        with torch.no_grad():
            action, log_prob, _, value, state = self.net.get_action_and_value(obs, state, start.float(), masks=mask)
        return action, log_prob, value, state

    def greedy(self, obs: Any, mask: Any, state: Any, start: Any) -> Any:
        return self.net.get_greedy_action(obs, state, start.float(), mask)[0]

    def evaluate(self, obs: Any, mask: Any, actions: Any, state: Any, start: Any) -> tuple[Any, Any, Any]:
        flat = [each.transpose(0, 1).flatten(0, 1) for each in (obs, mask, actions, start.float())]
        out = self.net.get_action_and_value(flat[0], state, flat[3], action=flat[2], masks=flat[1])
        log_prob, entropy, value = (each.view(obs.shape[1], obs.shape[0]).transpose(0, 1) for each in out[1:4])
        return log_prob, entropy, value

    def first_ratio_errors(self) -> list[float]:
        _, errors = self.train(updates=2, epochs=2, minibatches=2)
        return [float(each) for each in errors[::4]]


class Explicit:
    """Speaks to the actor-critic: environments first, masks by name."""

    def __init__(self, load: Callable[[str], Any]) -> None:
        self.net = load("policy").RecurrentActorCritic()
        self.learner = load("learner")
        self.obs_dim = self.net.obs_dim
        Cleanrl.sharpen(self.net)

    def state(self) -> Any:
        return torch.randn_like(self.net.get_initial_state(B))

    @staticmethod
    def named(mask: Any) -> dict[str, Any]:
        return dict(zip(("move", "aim", "item"), mask.split(SIZES, dim=-1), strict=True))

    def act(self, obs: Any, mask: Any, state: Any, start: Any) -> tuple[Any, Any, Any, Any]:
        actions, values, log_prob, state = self.net.act(obs, self.named(mask), state, start)
        return actions, log_prob, values, state

    def greedy(self, obs: Any, mask: Any, state: Any, start: Any) -> Any:
        return self.net.act(obs, self.named(mask), state, start, deterministic=True)[0]

    def evaluate(self, obs: Any, mask: Any, actions: Any, state: Any, start: Any) -> tuple[Any, Any, Any]:
        values, log_prob, entropy = self.net.evaluate_actions(obs, self.named(mask), actions, state, start)
        return log_prob, entropy, values

    def first_ratio_errors(self) -> list[float]:
        learner = self.learner.Learner(self.net, self.learner.World(8, self.obs_dim))
        return [learner.learn(learner.collect(9))[0] for _ in range(2)]


SPEAKERS: dict[str, Callable[[Callable[[str], Any]], Any]] = {"cleanrl": Cleanrl, "explicit": Explicit}
HEALTHY = [
    fault
    for name in SPEAKERS
    for fault in planted(BASES[name])
    if not fault.number and (fault.edits or fault.operator == "none")
]


@pytest.mark.parametrize("fault", HEALTHY, ids=lambda fault: f"{fault.base.name}: {fault.spelling}")
def test_a_healthy_network_does_what_it_says(fault: Fault, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with imported(plant(fault, tmp_path)) as load:
        broken = list(broken_claims(SPEAKERS[fault.base.name](load)))
    assert not broken


def broken_claims(net: Any) -> Iterator[str]:
    """Act and evaluate agree from any state on, masks hold, resets forget, losses train, rollouts fit updates."""
    obs, mask, begins, state = torch.randn(B, T, net.obs_dim), masks(), starts(), net.state()
    first, acted = state, []
    for t in range(T):
        chosen = net.greedy(obs[:, t], mask[:, t], state, begins[:, t])
        action, log_prob, value, state = net.act(obs[:, t], mask[:, t], state, begins[:, t])
        if not all(allowed(each, mask[:, t]) for each in (chosen, action)):
            yield "masks"
        acted.append((action, log_prob, value))
    actions, log_probs, values = (torch.stack(each, dim=1) for each in zip(*acted, strict=True))
    log_prob, entropy, value = net.evaluate(obs, mask, actions, first, begins)
    if not (torch.allclose(log_prob, log_probs, atol=1e-5) and torch.allclose(value, values, atol=1e-5)):
        yield "act and evaluate"
    bounds = torch.stack([each.sum(-1).log() for each in mask.split(SIZES, dim=-1)]).sum(0)
    if not ((entropy > -1e-5) & (entropy < bounds + 1e-4)).all() or log_prob[0].abs().max() > 1e-4:
        yield "entropy"
    if not forgets(net, obs, mask, actions, first, begins):
        yield "resets"
    (log_prob.mean() + entropy.mean() + value.mean()).backward()
    if not all(p.grad is not None and p.grad.isfinite().all() for p in net.net.parameters()):
        yield "gradients"
    if max(net.first_ratio_errors()) > 1e-5:
        yield "ratio of the update"


def allowed(action: Any, mask: Any) -> bool:
    """No head takes what its mask forbids."""
    heads = zip(action.unbind(-1), mask.split(SIZES, dim=-1), strict=True)
    return all(bool(valid.gather(-1, each.unsqueeze(-1)).all()) for each, valid in heads)


def forgets(net: Any, obs: Any, mask: Any, actions: Any, state: Any, begins: Any) -> bool:
    """What comes before a start matters until then, and not after it; where none is, it matters to the end."""
    with torch.no_grad():
        before = net.evaluate(obs, mask, actions, state, begins)[2]
        other = obs.clone()
        other[:, :2] *= -1.0
        moved = (net.evaluate(other, mask, actions, state, begins)[2] - before).abs() > 1e-6
    return bool(moved[:, :2].all() and not moved[1, 2:].any() and moved[2, 2:4].all() and not moved[2, 4:].any())


@pytest.mark.parametrize("base", BASES.values(), ids=lambda base: base.name)
def test_every_plant_fits_once_and_is_python(base: Base) -> None:
    sources = {path.name: path.read_text(encoding="utf-8") for path in base.folder.glob("*.py")}
    titles = set()
    for fault in planted(base):
        titles.add((fault.title, fault.group))
        changed = dict(sources)
        for file, old, new in fault.edits:
            assert changed[file].count(old) == 1, f"{fault.title}: {old}"
            changed[file] = changed[file].replace(old, new)
        for file in {edit[0] for edit in fault.edits}:
            assert changed[file] != sources[file], fault.title
            ast.parse(changed[file])
    assert len(titles) == len(list(planted(base)))


@pytest.mark.parametrize("name", SPEAKERS)
def test_a_style_has_many_faults_and_twins(name: str) -> None:
    faults = [fault for fault in planted(BASES[name]) if fault.edits]
    assert len({fault.number for fault in faults if fault.number}) > 50
    assert sum(not fault.number for fault in faults) >= 10
