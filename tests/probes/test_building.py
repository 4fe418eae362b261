"""A constructor gets what its parameters are called and annotated for, and a failure says what to configure."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import nn

from esper_audit.probes.building import (
    ACTIONS,
    OBSERVATION,
    WIDTH,
    CannotBuild,
    build,
    guess,
    guesses,
    imported,
    layers_of,
    told,
)
from esper_audit.probes.contract import Order

TABLE = '[tool.esper-audit.probe."models/policy.py::Policy"]'
FACTORY = 'or with factory = "module:function"'

POLICY = """
import dataclasses, enum
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Optional, TYPE_CHECKING
import torch
from torch import nn
{top}

class Policy(nn.Module):
    def __init__(self, {parameters}) -> None:
        super().__init__()
        self.given = dict(locals())
        self.layer = nn.Linear(2, 3)
        {body}
"""


@pytest.fixture(autouse=True)
def imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test imports for itself; in a worker, one process imports one network."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two files written in one second would share it
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).endswith(("policy.py", "making.py")) or name.startswith(
            "models"
        ):
            del sys.modules[name]


def order(folder: Path, parameters: str, *, top: str = "", body: str = "", **more: Any) -> Order:
    """An order for a policy with these parameters."""
    file = folder / "models" / "policy.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text(POLICY.format(top=dedent(top), parameters=parameters, body=body), encoding="utf-8")
    return Order(str(file), **{"class_name": "Policy", "root": str(folder), **more})


def given(folder: Path, parameters: str, **more: Any) -> dict[str, Any]:
    """What the constructor was given."""
    network: Any = build(order(folder, parameters, **more))
    return {name: value for name, value in network.given.items() if name not in ("self", "__class__")}


def refusal(wanted: Order) -> str:
    """Why it cannot be built, in one line."""
    with pytest.raises(CannotBuild) as caught:
        build(wanted)
    said = str(caught.value)
    assert said.isprintable()
    return said


# --- guesses


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("obs_dim: int, act_dim: int", {"obs_dim": 17, "act_dim": 5}),
        ("state_dim, action_dim, hidden_dim", {"state_dim": 17, "action_dim": 5, "hidden_dim": 16}),
        (
            "num_inputs: int, num_outputs: int, hidden_size: int",
            {"num_inputs": 17, "num_outputs": 5, "hidden_size": 16},
        ),
        ("input_size: int, num_layers: int, n_actions: int", {"input_size": 17, "num_layers": 1, "n_actions": 5}),
        ("num_slots: int, num_blueprints: int, obs_dim: int", {"num_slots": 5, "num_blueprints": 7, "obs_dim": 17}),
        ("s_dim, a_dim, lr, device", {"s_dim": 17, "a_dim": 5, "lr": 0.1, "device": "cpu"}),
        ("n_obs, n_actions, *rest, width=3, **more", {"n_obs": 17, "n_actions": 5}),
        ("obs_dim: int, *, lstm_hidden: int, dropout: float", {"obs_dim": 17, "lstm_hidden": 16, "dropout": 0.1}),
        ("obs_dim: int, shared: bool, size: Optional[int]", {"obs_dim": 17, "shared": False, "size": 5}),
        ("obs_dim: 'int', heads: 'dict[str, int]'", {"obs_dim": 17, "heads": {"first": 5, "second": 7}}),
        ("obs_shape: tuple[int, ...], nvec: list[int]", {"obs_shape": (17,), "nvec": [5, 7]}),
        ("observation_shape, hidden_sizes, n", {"observation_shape": (17,), "hidden_sizes": [16, 16], "n": 5}),
        ("obs_dim: int, sizes: Sequence[int] | None", {"obs_dim": 17, "sizes": [16, 16]}),
        ("action_space: int, activation: str", {"action_space": 5, "activation": "tanh"}),
        ("kind: Literal['gru', 'lstm']", {"kind": "gru"}),
        ("later: 'Unknown', obs_dim: int = 3", None),
    ],
)
def test_sizes_are_guessed_from_names_and_types(tmp_path: Path, parameters: str, expected: dict[str, Any]) -> None:
    if expected is None:
        assert "cannot guess `later` of Policy ('Unknown'); " in refusal(order(tmp_path, parameters))
        return
    assert {name: given(tmp_path, parameters)[name] for name in expected} == expected


def test_sizes_that_are_guessed_all_differ() -> None:
    assert len({OBSERVATION, WIDTH, *ACTIONS}) == 2 + len(ACTIONS)


def test_more_sizes_than_there_are_is_told(tmp_path: Path) -> None:
    names = [f"num_{number}" for number in range(len(ACTIONS) + 1)]
    assert f"cannot guess `{names[-1]}`" in refusal(order(tmp_path, ", ".join(names)))


def test_activations_come_as_a_class_where_a_class_is_asked_for(tmp_path: Path) -> None:
    found = given(tmp_path, "activation: type[nn.Module], other_activation, torso: nn.Module, act: Callable")
    assert found["activation"] is nn.Tanh
    assert all(isinstance(found[name], nn.Tanh) for name in ("other_activation", "torso", "act"))


def test_a_device_comes_as_a_device_where_one_is_asked_for(tmp_path: Path) -> None:
    assert given(tmp_path, "device: torch.device")["device"] == torch.device("cpu")


def test_an_enumeration_gives_its_first_member(tmp_path: Path) -> None:
    assert given(tmp_path, "kind: Kind", top="Kind = enum.Enum('Kind', 'GRU LSTM')")["kind"].name == "GRU"


def test_a_dataclass_keeps_its_defaults_and_what_it_lacks_is_guessed(tmp_path: Path) -> None:
    top = """
    @dataclasses.dataclass(frozen=True)
    class Head:
        n_actions: int

    @dataclasses.dataclass
    class Config:
        obs_dim: int
        head: Head
        hidden: int = 99
        sizes: list[int] = dataclasses.field(default_factory=lambda: [3])
        seen: int = dataclasses.field(init=False, default=4)
    """
    config = given(tmp_path, "cfg: Config", top=top)["cfg"]
    assert (config.obs_dim, config.head.n_actions, config.hidden, config.sizes) == (17, 5, 99, [3])


def test_spaces_have_shapes_and_sizes(tmp_path: Path) -> None:
    found = given(tmp_path, "observation_space, action_space")
    assert found["observation_space"].shape == (OBSERVATION,)
    assert (found["action_space"].n, found["action_space"].shape) == (ACTIONS[0], ())
    assert not hasattr(found["observation_space"], "n")


def test_environments_have_the_spaces_of_one_and_of_many(tmp_path: Path) -> None:
    envs = given(tmp_path, "envs")["envs"]
    assert envs.single_observation_space.shape == envs.observation_space.shape == (OBSERVATION,)
    assert envs.single_action_space.n == envs.action_space.n == ACTIONS[0]


def test_spaces_are_those_of_gymnasium_where_it_is_installed(tmp_path: Path) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    found = given(tmp_path, "observation_space, action_space")
    assert isinstance(found["observation_space"], gymnasium.spaces.Box)
    assert isinstance(found["action_space"], gymnasium.spaces.Discrete)


@pytest.mark.parametrize("hint", [list[str], dict[str, str], str, nn.Linear, object])
def test_what_nothing_is_known_about_is_not_guessed(hint: Any) -> None:
    with pytest.raises(LookupError):
        guess("thing", hint, iter(ACTIONS))


def test_a_metaclass_that_cannot_be_compared_is_no_obstacle_to_advice(tmp_path: Path) -> None:
    class Meta(type):
        def __eq__(cls, other: object) -> bool:
            raise RuntimeError

        def __hash__(cls) -> int:
            raise RuntimeError

    class Strange(metaclass=Meta):
        pass

    with pytest.raises(CannotBuild, match="has no readable signature"):
        guesses(Strange, order(tmp_path, ""))


def test_a_schedule_is_no_activation(tmp_path: Path) -> None:
    assert "cannot guess `lr_schedule` of Policy" in refusal(order(tmp_path, "lr_schedule: Callable[[float], float]"))


def test_guessed_sizes_that_leave_nothing_to_train_are_told(tmp_path: Path) -> None:
    wanted = order(tmp_path, "obs_dim: int", body="self.layer = nn.Identity()")
    assert refusal(wanted) == f"Policy has no parameters with guessed sizes; configure {TABLE} with args = " + (
        "{obs_dim = ...} " + FACTORY
    )


def test_parameters_that_only_a_call_makes_are_told(tmp_path: Path) -> None:
    assert "makes parameters in its first call" in refusal(
        order(tmp_path, "obs_dim", body="self.last = nn.LazyLinear(3)")
    )


# --- what the configuration says


def test_arguments_replace_all_guesses(tmp_path: Path) -> None:
    arguments = {"obs_dim": 4, "sizes": [2, 3]}
    found = given(tmp_path, "obs_dim, sizes, mystery=None", arguments=arguments)
    assert found == {**arguments, "mystery": None}


def test_a_factory_makes_the_network(tmp_path: Path) -> None:
    making = tmp_path / "making.py"
    making.write_text("from models.policy import Policy\ndef policy(): return Policy(object())\n", encoding="utf-8")
    network: Any = build(order(tmp_path, "mystery", factory="making:policy"))
    assert type(network.given["mystery"]) is object


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("policy = 3", "failed: TypeError: 'int' object is not callable"),
        ("", "failed: AttributeError: module 'making' has no attribute 'policy'"),
        ("raise SystemExit", "failed: SystemExit"),
        ("policy = dict", "gave dict, and not a torch.nn.Module"),
    ],
)
def test_a_factory_that_fails_is_named(tmp_path: Path, source: str, says: str) -> None:
    (tmp_path / "making.py").write_text(source, encoding="utf-8")
    said = refusal(order(tmp_path, "mystery", factory="making:policy"))
    assert said == f'factory = "making:policy" {says}'


# --- advice


def test_what_cannot_be_guessed_is_left_open_in_what_to_configure(tmp_path: Path) -> None:
    said = refusal(
        order(tmp_path, "obs_dim: int, mystery, nvec: list[int], shared: bool, kind: Literal['a'], why: str")
    )
    args = 'obs_dim = 17, mystery = ..., nvec = [5, 7], shared = false, kind = "a", why = ...'
    assert said == f"cannot guess `mystery` of Policy; configure {TABLE} with args = {{{args}}} {FACTORY}"


def test_a_type_that_cannot_be_guessed_is_named(tmp_path: Path) -> None:
    said = refusal(order(tmp_path, "torso: nn.Linear, names: list[str]"))
    args = "torso = ..., names = ..."
    assert said == f"cannot guess `torso` of Policy (Linear); configure {TABLE} with args = {{{args}}} {FACTORY}"


def test_a_constructor_that_fails_says_what_it_was_given(tmp_path: Path) -> None:
    said = refusal(order(tmp_path, "obs_dim: int, envs", body="raise ValueError('one\\ntwo')"))
    args = "obs_dim = ..., envs = ..."
    assert said == (
        "Policy(obs_dim=17, envs=<SimpleNamespace>) failed: ValueError: one two; "
        f"configure {TABLE} with args = {{{args}}} {FACTORY}"
    )


def test_arguments_that_do_not_fit_are_told(tmp_path: Path) -> None:
    said = refusal(order(tmp_path, "obs_dim", arguments={"obs": 3}))
    assert said.startswith("Policy(obs=3) failed: TypeError: ")
    assert said.endswith(f"configure {TABLE} with args = {{obs = ...}} {FACTORY}")


def test_a_class_that_is_not_there_or_no_network_is_told(tmp_path: Path) -> None:
    assert refusal(order(tmp_path, "", class_name="Other")) == "policy.py has no class Other once it is imported"
    top = "class Plain: pass"
    (tmp_path / "models" / "policy.py").unlink()
    assert refusal(order(tmp_path, "", top=top, class_name="TYPE_CHECKING")).startswith("policy.py has no class")


def test_a_class_that_is_no_module_is_told(tmp_path: Path) -> None:
    assert refusal(order(tmp_path, "", top="class Plain: pass", class_name="Plain")) == "Plain is no torch.nn.Module"


def test_a_class_inside_a_class_is_built(tmp_path: Path) -> None:
    network = build(order(tmp_path, "", top="class Outer:\n    class Inner(nn.Linear): pass", class_name="Outer.Inner",
                          arguments={"in_features": 2, "out_features": 3}))  # fmt: skip
    assert layers_of(network, nn.Linear) == [("", network)]


# --- how files are imported


def test_a_package_is_imported_from_above_it_and_only_once(tmp_path: Path) -> None:
    wanted = order(tmp_path, "")
    (tmp_path / "models" / "__init__.py").touch()
    (tmp_path / "models" / "sizes.py").write_text("SIZE = 3", encoding="utf-8")
    policy = Path(wanted.file)
    policy.write_text("from .sizes import SIZE\n" + policy.read_text(encoding="utf-8"), encoding="utf-8")
    module = imported(policy, tmp_path)
    assert module.__name__ == "models.policy"
    assert imported(policy, tmp_path) is module
    assert type(build(wanted)) is module.Policy


@pytest.mark.parametrize("name", ["random.py", "my-policy.py", "2.policy.py"])
def test_a_file_whose_name_is_taken_or_is_none_is_imported_once(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("MINE = object()", encoding="utf-8")
    module = imported(file, tmp_path)
    assert module.MINE
    assert imported(file, tmp_path) is module
    del sys.modules[module.__name__]
    file.write_text("raise ValueError", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^$"):
            imported(file, tmp_path)


def test_a_package_that_is_missing_is_said_to_be_missing_where_the_audit_runs(tmp_path: Path) -> None:
    assert refusal(order(tmp_path, "", top="import no_such_package")) == (
        "importing policy.py failed: ModuleNotFoundError: No module named 'no_such_package' "
        f"(it has to be installed where esper-audit is: {sys.prefix})"
    )


def test_an_error_without_words_is_told_by_its_name() -> None:
    class Silent(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise SystemExit

    assert told(Silent()) == "Silent"
    assert told(ValueError()) == "ValueError"
    assert told(ValueError("a\n b")) == "ValueError: a b"
