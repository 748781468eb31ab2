"""DAgger that is killed or stopped, or whose expert gives up: the same bytes come out, and nothing is asked twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from tools.child import in_child
from tools.kill import boundaries, kill_at
from tools.states import sha_of, sha_state

from understudy.algorithms._dagger_demos import demo_files
from understudy.algorithms.bc import BC
from understudy.algorithms.checkpoints import Checkpoints
from understudy.algorithms.dagger import SimpleDAggerTrainer, reconstruct_trainer
from understudy.data import serialize
from understudy.errors import ConfigError, RunLockedError, TrainingInterrupted
from understudy.policies.base import NonTrainablePolicy
from understudy.util.checkpoint import latest, step_of
from understudy.util.lean_vec_env import LeanDummyVecEnv
from understudy.util.logger import configure
from understudy.util.run_lock import RunLock

SPACE = spaces.Box(-9, 9, (3,), np.float32)
ACTIONS = spaces.Discrete(2)
LENGTH, ENVS, TOTAL = 12, 2, 160


class Walk(gym.Env[Any, Any]):
    """A noisy walk that the actions push; where an episode goes depends on all that was done in it."""

    observation_space, action_space = SPACE, ACTIONS
    on_step: Callable[[], None] = staticmethod(lambda: None)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._x = self.np_random.normal(size=3).astype(np.float32)
        self._t = 0
        return self._x, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        type(self).on_step()
        self._x = np.clip(0.9 * self._x + (0.5 * action - 0.2) + 0.3 * self.np_random.normal(size=3), -9, 9).astype(
            np.float32
        )
        self._t += 1
        return self._x, -float(abs(self._x[0])), False, self._t == LENGTH, {}


def right(obs: np.ndarray) -> np.ndarray:
    return (obs.sum(1) < 0).astype(np.int64)


class Scripted(NonTrainablePolicy):
    """The expert as a policy: it costs nothing to ask it again."""

    def _choose_action(self, obs: Any) -> np.ndarray:
        return right(obs[None])[0]


def venv_of() -> LeanDummyVecEnv:
    return LeanDummyVecEnv([Walk] * ENVS)


def make(folder: Path, expert: Any, seed: int = 0, *, remembers: bool = False) -> SimpleDAggerTrainer:
    venv = venv_of()
    options: dict[str, Any] = {}
    if remembers:
        torch.manual_seed(seed)
        policy = RecurrentActorCriticPolicy(SPACE, ACTIONS, lambda _: 1e-3, lstm_hidden_size=8, net_arch=[8])
        options = {"policy": policy, "sequence_length": 6, "burn_in": 3}
    bc = BC(
        observation_space=SPACE,
        action_space=ACTIONS,
        rng=seed,
        batch_size=8,
        custom_logger=configure(format_strs=[]),
        **options,
    )
    return SimpleDAggerTrainer(venv=venv, scratch_dir=folder / "scratch", expert_policy=expert, rng=seed, bc_trainer=bc)


def rounds(trainer: Any, total: int = TOTAL, **options: Any) -> Any:
    on_batch_end = options.pop("on_batch_end", None)
    return trainer.train(
        total,
        rollout_round_min_episodes=2,
        rollout_round_min_timesteps=30,
        bc_train_kwargs={"log_rollouts_n_episodes": 2, "on_batch_end": on_batch_end},
        **options,
    )


def train(folder: Path, kind: str, **options: Any) -> SimpleDAggerTrainer:
    """Four rounds of four episodes, saved after each."""
    expert = Scripted(SPACE, ACTIONS) if kind == "policy" else right
    trainer = make(folder, expert, remembers=kind == "recurrent")
    rounds(trainer, checkpoints=Checkpoints(folder / "checkpoints", resume=True), **options)
    return trainer


def sum_of(folder: Path, kind: str) -> str:
    """Of everything: the trainer, and the content of every demonstration."""

    def work() -> str:
        trainer = train(folder, kind)
        return sha_of([sha_state(trainer), demos_of(folder)])

    return in_child(work)


def demos_of(folder: Path) -> list[Any]:
    found = []
    for sub in sorted((folder / "scratch" / "demos").iterdir()):
        for path in demo_files(sub):
            (each,) = serialize.load(path)
            infos = [dict(info) for info in each.infos]
            found.append([path.name, each.obs, each.acts, each.rews, each.terminal, each.truncated, infos])
    return found


@pytest.fixture(scope="module", autouse=True)
def _imports_done(tmp_path_factory: pytest.TempPathFactory) -> None:
    train(tmp_path_factory.mktemp("first"), "callable")


def killed_after(folder: Path, kind: str, n: int, where: str) -> bool:
    """Whether it lived long enough to be killed at the ``n``-th step of an environment, or of the optimiser."""

    def work(mark: Callable[[int], None]) -> None:
        left = n

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        if where == "rollout":
            Walk.on_step = staticmethod(count)
        train(folder, kind, on_batch_end=count if where == "training" else None)

    return kill_at(work, seconds=None, boundary=10**9).killed


@pytest.mark.fault("F2", "F24")
@pytest.mark.parametrize("kind", ["policy", "callable", "recurrent"])
def test_killed_three_times_and_resumed_is_unbroken_is_rerun(kind: str, tmp_path: Path) -> None:
    unbroken = sum_of(tmp_path / "unbroken", kind)
    rerun = sum_of(tmp_path / "rerun", kind)
    killed = tmp_path / "killed"
    assert killed_after(killed, kind, 100, "rollout")  # in the second round
    newest = latest(killed / "checkpoints")
    assert newest is not None
    assert step_of(newest) == 48
    assert killed_after(killed, kind, 30, "training")  # in the second round's
    saving = [i for i, name in enumerate(boundaries_of(tmp_path / "plain", kind)) if "step-" in name]
    death = kill_at(lambda mark: train(killed, kind), boundary=saving[len(saving) // 2] // 2)
    assert death.killed
    assert {sum_of(killed, kind), rerun} == {unbroken}


def boundaries_of(folder: Path, kind: str) -> list[str]:
    return boundaries(lambda mark: train(folder, kind))


def killed_before_changes(folder: Path, kind: str, chosen: Callable[[int], list[int]]) -> int:
    expected = sum_of(folder / "unbroken", kind)
    n = len(boundaries_of(folder / "plain", kind))
    for i in chosen(n):
        where = folder / f"at-{i}"
        assert kill_at(lambda mark, where=where: train(where, kind), boundary=i).killed
        assert sum_of(where, kind) == expected, f"killed before change {i} of {n}"
    return n


@pytest.mark.fault("F1", "F2")
def test_killed_before_changes_to_the_file_system(tmp_path: Path) -> None:
    n = killed_before_changes(tmp_path, "policy", lambda n: [3, n // 4, n // 2, 3 * n // 4, n - 2])
    assert n > 100


@pytest.mark.slow
@pytest.mark.fault("F1", "F2")
@pytest.mark.parametrize("kind", ["policy", "callable"])
def test_killed_before_many_changes_to_the_file_system(kind: str, tmp_path: Path) -> None:
    n = killed_before_changes(tmp_path, kind, lambda n: list(range(1, n, max(1, n // 120))))
    print(f"{kind}: killed before about 120 of {n} changes: all resumed to the same bytes")


@pytest.mark.fault("F27")
def test_a_signal_leaves_a_snapshot_and_an_exact_resume(tmp_path: Path) -> None:
    unbroken = sum_of(tmp_path / "unbroken", "callable")
    stopped = tmp_path / "stopped"

    def work() -> int:
        left = 160

        def count() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGTERM)

        Walk.on_step = staticmethod(count)
        try:
            train(stopped, "callable")
        except TrainingInterrupted as error:
            return error.signal
        return 0

    assert in_child(work) == signal.SIGTERM
    again = reconstruct_trainer(
        stopped / "scratch", venv_of(), checkpoint=stopped / "checkpoints" / "snapshot", custom_logger=None
    )
    assert again.round_num == 2
    assert sum_of(stopped, "callable") == unbroken


@pytest.mark.fault("F15")
def test_one_process_a_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with RunLock(tmp_path / "checkpoints"), pytest.raises(RunLockedError):
        train(tmp_path, "callable")


def test_a_finished_run_is_not_made_again(tmp_path: Path) -> None:
    first = train(tmp_path, "callable")
    again = make(tmp_path, lambda obs: pytest.fail("asked"))
    result = rounds(again, checkpoints=Checkpoints(tmp_path / "checkpoints", resume=True))
    assert result.rounds == ()
    assert result.n_timesteps == 192
    assert sha_state(again) == sha_state(first)


def test_other_options_are_refused(tmp_path: Path) -> None:
    train(tmp_path, "callable")
    with pytest.raises(ConfigError, match="total_timesteps=160"):
        rounds(make(tmp_path, right), 200, checkpoints=Checkpoints(tmp_path / "checkpoints", resume=True))


@pytest.mark.fault("F24")
def test_the_callers_generators_are_untouched(tmp_path: Path) -> None:
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    rounds(make(tmp_path, right))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


# --- experts who give up --------------------------------------------------------------------------------------------


class TiredError(Exception):
    pass


class GivesUp:
    """Raises once at each of some questions, counted from 1. What it answers depends on chance, as a person's might."""

    def __init__(self, *at: int) -> None:
        self._at, self.n_answered = set(at), 0

    def __call__(self, obs: np.ndarray) -> np.ndarray:
        if self.n_answered + 1 in self._at:
            self._at.remove(self.n_answered + 1)
            raise TiredError
        self.n_answered += 1
        return np.where(np.random.random(len(obs)) < 0.1, 0, right(obs))  # noqa: NPY002


def raising_at_each_of(n_queries: int, total: int, folder: Path) -> int:
    """How many answers an expert gave more than one that never raised; ``train`` is called again each time."""
    whole, tired = GivesUp(), GivesUp(*range(1, n_queries + 1))
    straight = make(folder / "whole", whole)
    rounds(straight, total)
    trainer = make(folder / "tired", tired)
    for _ in range(n_queries):
        with pytest.raises(TiredError):
            rounds(trainer, total - 48 * trainer.round_num)
    rounds(trainer, total - 48 * trainer.round_num)
    assert sha_of(demos_of(folder / "tired")) == sha_of(demos_of(folder / "whole"))
    assert sha_of(trainer.policy.state_dict()) == sha_of(straight.policy.state_dict())
    return tired.n_answered - whole.n_answered


@pytest.mark.fault("F14")
def test_an_expert_who_raises_at_each_of_the_first_queries(tmp_path: Path) -> None:
    assert raising_at_each_of(10, 48, tmp_path) == 0


@pytest.mark.slow
@pytest.mark.fault("F14")
def test_an_expert_who_raises_at_each_of_the_first_200_queries(tmp_path: Path) -> None:
    lost = raising_at_each_of(200, 400, tmp_path)
    print(f"raised at each of the first 200 queries: {lost} answers lost")
    assert lost == 0


@pytest.mark.fault("F14")
@pytest.mark.parametrize("at", [1, 13, 30])
def test_a_new_process_asks_on_where_the_expert_raised(at: int, tmp_path: Path) -> None:
    whole, expert = GivesUp(), GivesUp(at)
    straight = make(tmp_path / "whole", whole)
    rounds(straight, 96)
    with pytest.raises(TiredError):
        rounds(make(tmp_path / "parts", expert), 96)
    again = make(tmp_path / "parts", expert)
    done = rounds(again, 96)
    assert sum(each.n_replayed for each in done.rounds) == at - 1
    assert expert.n_answered == whole.n_answered == 48
    assert sha_of(demos_of(tmp_path / "parts")) == sha_of(demos_of(tmp_path / "whole"))
    assert sha_state(again) == sha_state(straight)


@pytest.mark.fault("F14")
def test_a_process_that_dies_loses_at_most_the_answer_under_way(tmp_path: Path) -> None:
    def work(mark: Callable[[int], None]) -> None:
        expert = GivesUp()

        def dies(obs: np.ndarray) -> np.ndarray:
            mark(expert.n_answered)
            if expert.n_answered == 40:
                os.kill(os.getpid(), signal.SIGKILL)
            return expert(obs)

        rounds(make(tmp_path / "killed", dies))

    answering = GivesUp()
    whole = make(tmp_path / "whole", answering)
    rounds(whole)
    death = kill_at(work, boundary=10**9)
    assert (death.killed, death.marked) == (True, 40)
    expert = GivesUp()
    again = make(tmp_path / "killed", expert)
    rounds(again)
    assert expert.n_answered == answering.n_answered - 40
    assert sha_of(demos_of(tmp_path / "killed")) == sha_of(demos_of(tmp_path / "whole"))
    assert sha_state(again) == sha_state(whole)


def test_an_environment_that_does_not_repeat_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The answers that no longer fit are kept beside the journal, and every episode that was saved stays."""
    trainer = make(tmp_path, GivesUp(20))
    with pytest.raises(TiredError):
        rounds(trainer)
    before = demo_files(trainer.demos.folder_of(0))
    contents = [path.read_bytes() for path in before]
    trainer.venv.seed = lambda seed=None: [None] * ENVS  # type: ignore[method-assign]
    rounds(trainer)
    assert "does not repeat itself" in caplog.text
    folder = trainer.demos.folder_of(0)
    assert len((folder / "answers-unused-000.jsonl").read_text().splitlines()) == 20  # how it began, and 19
    assert [path.read_bytes() for path in before] == contents
    assert len(trainer.demos) == sum(len(each[2]) for each in demos_of(tmp_path))
