"""The tasks can be solved in every episode, by no guess, and the network learns to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from esper_reference.__main__ import main
from esper_reference.experiments import Run, carry_out
from esper_reference.ppo import Settings
from esper_reference.rollout import Observed
from esper_reference.tasks import BEST_RETURN, TASKS, CueTask, FactoredTask, RecallTask


def knowing(task: CueTask) -> dict[str, Tensor]:
    """What an agent does that remembers the cue: any legal step, and the right answer when asked."""
    actions = {head: mask.int().argmax(dim=1) for head, mask in task.masks.items()}
    asked = task.remaining == 0
    if isinstance(task, RecallTask):
        return {"answer": torch.where(asked, task.cue, actions["answer"])}
    return {**actions, "slot": torch.where(asked, (task.cue + 2 * actions["tool"]) % 5, actions["slot"])}


def play(task: CueTask, steps: int, choose: object = knowing) -> tuple[float, int, list[Observed]]:
    """Total reward, number of episodes that ended, and everything that was seen."""
    seen, total, ended = [task.reset()], 0.0, 0
    for _ in range(steps):
        observed, reward = task.step(choose(task))  # type: ignore[operator]
        seen.append(observed)
        total += float(reward.sum())
        ended += int(observed.episode_start.sum())
    return total, ended, seen


@pytest.mark.parametrize("task", TASKS.values())
def test_whoever_remembers_and_heeds_masks_gets_the_best_return_in_every_episode(task: type[CueTask]) -> None:
    total, ended, _ = play(task(100, seed=0), 200)
    assert ended > 1000
    assert total == BEST_RETURN * ended


@pytest.mark.parametrize("task", TASKS.values())
def test_a_step_that_the_mask_forbids_ends_the_episode_with_nothing(task: type[CueTask]) -> None:
    environments = task(100, seed=0)
    environments.reset()
    for _ in range(30):
        forbidden = {head: mask.int().argmin(dim=1) for head, mask in environments.masks.items()}
        illegal = torch.stack([~mask.all(dim=1) for mask in environments.masks.values()]).any(dim=0)
        observed, reward = environments.step(forbidden)
        assert observed.episode_start[illegal].all()
        assert not reward[illegal].any()


@pytest.mark.parametrize("task", TASKS.values())
def test_the_cue_is_seen_at_the_first_step_alone_and_masks_change(task: type[CueTask]) -> None:
    _, _, seen = play(task(50, seed=0), 60)
    for observed in seen:
        shown = observed.observation[:, : task.cues].sum(dim=1)
        assert torch.equal(shown, observed.episode_start.float())
        assert all(mask.any(dim=1).all() for mask in observed.masks.values())
    for head in task.head_sizes:
        assert len({tuple(observed.masks[head][0].tolist()) for observed in seen}) > 3


@pytest.mark.parametrize("task", TASKS.values())
def test_the_same_seed_gives_the_same_episodes_and_another_seed_others(task: type[CueTask]) -> None:
    first, second, third = (play(task(20, seed=seed), 20)[2][-1] for seed in (3, 3, 4))
    assert torch.equal(first.observation, second.observation)
    assert all(torch.equal(mask, second.masks[head]) for head, mask in first.masks.items())
    assert not torch.equal(first.observation, third.observation)


def test_the_question_of_the_factored_task_leaves_two_tools_and_both_their_slots_open() -> None:
    task = FactoredTask(200, seed=0)
    task.reset()
    masks = task.question_masks()
    assert (masks["tool"].sum(dim=1) == 2).all()
    assert (masks["slot"].sum(dim=1) == 4).all()
    for tool in range(3):
        slot = (task.cue + 2 * tool) % 5
        is_open = masks["tool"][:, tool]
        assert masks["slot"].gather(1, slot.unsqueeze(1)).squeeze(1)[is_open].all()


def test_the_network_learns_the_recall_task_and_its_controls_do_not() -> None:
    settings = Settings(updates=25)
    returns = {agent: carry_out(Run("recall", agent, 0), settings).greedy for agent in ("reference", "without-memory")}
    assert returns["reference"] >= 0.8
    assert returns["without-memory"] <= 0.5


def test_the_same_run_gives_the_same_numbers() -> None:
    left, right = (carry_out(Run("factored", "reference", 5), Settings(updates=2)) for _ in range(2))
    assert left == right


# The command


def test_the_command_trains_prints_a_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "curves.png"
    words = ["train", "--task", "recall", "--agent", "all", "--seeds", "1", "--updates", "2", "--plot", str(plot)]
    assert main(words) == 0
    out, err = capsys.readouterr()
    rows = [line for line in out.splitlines() if line.startswith("| recall")]
    assert [row.split(" | ")[1] for row in rows] == ["reference", "without-memory", "without-masks"]
    assert "6/6" in err
    assert plot.read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--seeds", "0"], "argument --seeds: expected a whole number of at least 1, got '0'"),
        (["train", "--updates", "x"], "argument --updates: expected a whole number of at least 1, got 'x'"),
        (["train", "--task", "chess"], "argument --task: invalid choice: 'chess'"),
        (["train", "--plot", "nowhere/at/all.png"], "--plot: expected a file in a folder that exists, got nowhere"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_words_are_told_in_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("missing", "words", "message"),
    [
        ("torch", ["train"], "esper_reference needs torch: pip install 'esper-audit[probe]'"),
        ("matplotlib", ["train", "--plot", "x.png"], "pip install 'esper-audit[curves]'"),
    ],
)
def test_what_is_not_installed_is_named(
    missing: str, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == missing else found(name, *rest))
    try:
        code: object = main(words)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert message in capsys.readouterr().err
