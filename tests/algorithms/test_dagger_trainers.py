"""DAgger's trainers: rounds, budgets, logs, files, and saving."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _dagger_small import ACTIONS, SMALL, asked_for, bc_of, simple, told_in, venv_of
from stable_baselines3 import PPO
from stable_baselines3.common.policies import BasePolicy

from understudy.algorithms import dagger
from understudy.algorithms._dagger_demos import demo_files
from understudy.data import rollout, serialize
from understudy.errors import ConfigError, CorruptFileError, DataError, MissingFileError, SpaceMismatchError
from understudy.evaluation.returns import evaluate_returns
from understudy.policies.serialize import load_policy, load_saved_policy
from understudy.util.logger import HierarchicalLogger, configure
from understudy.util.util import make_vec_env


class Told(BasePolicy):
    """The right actions, as a policy."""

    def _predict(self, obs: Any, deterministic: bool = False) -> torch.Tensor:
        return obs[:, :3].argmax(1)

    def forward(self, *args: Any) -> None:
        raise NotImplementedError


def all_demos(folder: Path) -> list[Any]:
    return [serialize.load(file)[0] for sub in sorted((folder / "demos").iterdir()) for file in demo_files(sub)]


# --- a round by hand ------------------------------------------------------------------------------------------------


def trainer_of(folder: Path, **options: Any) -> dagger.DAggerTrainer:
    venv = venv_of()
    return dagger.DAggerTrainer(venv=venv, scratch_dir=folder, rng=0, bc_trainer=bc_of(venv), **options)


def one_round(trainer: dagger.DAggerTrainer, steps: int = 10) -> None:
    collector = trainer.create_trajectory_collector()
    obs = collector.reset()
    for _ in range(steps):
        obs, _, _, _ = collector.step(asked_for(told_in(obs), trainer.venv.action_space))


def test_rounds_by_hand(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    assert trainer.DEFAULT_N_EPOCHS == 4
    assert trainer.batch_size == 32
    assert trainer.policy is trainer.bc_trainer.policy
    with pytest.raises(dagger.NeedsDemosException, match="round 0"):
        trainer.extend_and_update()
    assert trainer.round_num == 0
    one_round(trainer)
    epochs: list[int] = []
    quiet = {"progress_bar": False, "on_epoch_end": lambda: epochs.append(1)}
    assert trainer.extend_and_update(quiet) == 1
    assert len(epochs) == 4
    with pytest.raises(dagger.NeedsDemosException, match="round 1"):
        trainer.extend_and_update(quiet)
    one_round(trainer)
    assert trainer.create_trajectory_collector().beta == pytest.approx(14 / 15)
    assert trainer.extend_and_update({**quiet, "n_batches": 3}) == 2
    assert len(trainer.demos) == 40


def test_returns_are_logged_in_the_trainers_environments_unless_told(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path)
    given: list[Any] = []
    trainer.bc_trainer.train = lambda **options: given.append(options)  # type: ignore[method-assign,assignment,return-value]
    one_round(trainer)
    trainer.extend_and_update()
    one_round(trainer)
    trainer.extend_and_update({"log_rollouts_venv": None, "n_batches": 7})
    assert given == [
        {"log_rollouts_venv": trainer.venv, "n_epochs": 4},
        {"log_rollouts_venv": None, "n_batches": 7},
    ]


def test_demonstrations_of_a_process_that_is_gone_are_learned_from(tmp_path: Path) -> None:
    one_round(trainer_of(tmp_path))
    trainer = trainer_of(tmp_path)
    assert trainer.extend_and_update({"progress_bar": False}) == 1
    assert len(trainer.demos) == 20


def test_another_environments_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceMismatchError):
        dagger.DAggerTrainer(venv=venv_of(), scratch_dir=tmp_path, rng=0, bc_trainer=bc_of(venv_of(act="MultiBinary")))


def test_without_rng_a_seed_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    venv = venv_of()
    dagger.DAggerTrainer(venv=venv, scratch_dir=tmp_path, bc_trainer=bc_of(venv))
    dagger.InteractiveTrajectoryCollector(venv, lambda obs: np.zeros(2, int), 1.0, tmp_path)
    assert [record.message.split(" was given no rng")[0] for record in caplog.records] == [
        "DAggerTrainer",
        "InteractiveTrajectoryCollector",
    ]


# --- with an expert -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize(("episodes", "steps"), [(1, 1), (5, 30)])
@pytest.mark.defect("B15")
def test_steps_counted_are_steps_stored_are_steps_trained_on(
    n_envs: int, episodes: int, steps: int, tmp_path: Path
) -> None:
    trainer = simple(tmp_path, venv_of(n_envs))
    options = {"rollout_round_min_timesteps": steps, "rollout_round_min_episodes": episodes}
    result = trainer.train(150, **options, bc_train_kwargs=SMALL["bc_train_kwargs"])
    stored = all_demos(tmp_path)
    assert result.n_timesteps == sum(map(len, stored)) == len(trainer.demos) == len(trainer.bc_trainer._demonstrations)
    assert result.n_timesteps == sum(each.n_timesteps for each in result.rounds)
    assert sum(each.n_episodes for each in result.rounds) == len(stored)
    for each in result.rounds:
        assert each.n_episodes >= episodes
        assert each.n_timesteps >= max(steps, 32)  # at least a batch
    # Whole rounds only, the last one as late as it can begin.
    assert result.n_timesteps - result.rounds[-1].n_timesteps < 150 <= result.n_timesteps


@pytest.mark.defect("B15")
def test_the_expert_is_asked_about_what_is_stored_and_nothing_else(tmp_path: Path) -> None:
    asked: list[np.ndarray] = []

    def expert(obs: np.ndarray) -> np.ndarray:
        asked.extend(np.array(obs))
        return asked_for(obs, ACTIONS["Discrete"])

    from _dagger_small import Told as Env

    from understudy.util.lean_vec_env import LeanDummyVecEnv

    venv = LeanDummyVecEnv([lambda n=n: Env(length=n) for n in (4, 9)])
    simple(tmp_path, venv, expert=expert).train(60, **SMALL)
    stored = np.concatenate([each.obs[:-1] for each in all_demos(tmp_path)])
    assert len(asked) == len(stored)
    assert np.array_equal(np.unique(asked, axis=0), np.unique(stored, axis=0))


def test_the_scratch_folder(tmp_path: Path) -> None:
    trainer = simple(tmp_path)
    trainer.train(90, **SMALL)
    checkpoint, policy = trainer.save_trainer()
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    demos = {f"demos/round-{r:03d}/demos_round_{r:03d}_{i:03d}.npz" for r in range(3) for i in range(4)}
    assert demos <= names
    assert (checkpoint, policy) == (tmp_path / "checkpoint-latest", tmp_path / "policy-latest.safetensors")
    assert {"checkpoint-003", "checkpoint-latest", "policy-003.safetensors"} <= names
    for name in demos:
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert "acts.npy" in archive.namelist()
        arrays = np.load(tmp_path / name, allow_pickle=False)
        assert all(arrays[key].dtype != object for key in arrays)


@pytest.mark.defect("C7")
def test_what_was_written_here_is_never_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serialize, "load", lambda *args, **options: pytest.fail("read a file"))
    trainer = simple(tmp_path)
    trainer.train(120, **SMALL)
    assert (trainer.demos.files_read, trainer.demos.n_episodes) == (0, 12)


class Recording(HierarchicalLogger):
    """Keeps what is dumped."""

    def __init__(self) -> None:
        super().__init__(configure(format_strs=[]).default_logger)
        self.lines: list[dict[str, Any]] = []
        self._line: dict[str, Any] = {}

    def record(self, key: str, val: Any, exclude: Any = None) -> None:
        self._line[key] = val

    def dump(self, step: int = 0) -> None:
        self.lines.append(self._line)
        self._line = {}


@pytest.mark.defect("B16")
def test_one_run_has_one_logger(tmp_path: Path) -> None:
    logger = Recording()
    trainer = simple(tmp_path, custom_logger=logger)
    assert trainer.logger is trainer.bc_trainer.logger is logger
    trainer.train(60, **{**SMALL, "bc_train_kwargs": None})
    wanted = {
        *("dagger/total_timesteps", "dagger/round_num", "dagger/round_episode_count", "dagger/round_timestep_count"),
        *("dagger/mean_episode_reward", "dagger/beta", "bc/loss", "bc/neglogp", "rollout/return_mean", "batch_size"),
    }
    firsts = [line for line in logger.lines if "dagger/round_num" in line]
    assert [line["dagger/round_num"] for line in firsts] == [0, 1]
    assert [line["dagger/total_timesteps"] for line in firsts] == [40, 80]
    assert all(wanted <= line.keys() for line in firsts)
    other = Recording()
    trainer.logger = other
    trainer.train(40, **SMALL)
    assert other.lines


def test_without_a_logger_it_is_the_inner_trainers(tmp_path: Path) -> None:
    venv = venv_of()
    logger = Recording()
    trainer = simple(tmp_path, venv, bc_trainer=bc_of(venv, custom_logger=logger))
    assert trainer.logger is logger


@pytest.mark.defect("B17")
def test_minibatches_give_the_full_batch(tmp_path: Path) -> None:
    policies = []
    for minibatch in (None, 8):
        venv = venv_of()
        bc = bc_of(venv, batch_size=32, minibatch_size=minibatch)
        trainer = simple(tmp_path / str(minibatch), venv, bc_trainer=bc)
        trainer.train(60, **SMALL)
        policies.append(trainer.policy.state_dict())
    assert all(torch.allclose(policies[0][name], policies[1][name], atol=1e-5) for name in policies[0])
    assert policies[0].keys()


def test_it_learns_what_the_expert_does(tmp_path: Path) -> None:
    trainer = simple(tmp_path)
    trainer.train(800, rollout_round_min_timesteps=200, bc_train_kwargs={"log_rollouts_n_episodes": 0, "n_epochs": 20})
    obs = np.random.default_rng(1).uniform(-1, 1, (500, 4)).astype(np.float32)
    acts, _ = trainer.policy.predict(obs, deterministic=True)
    assert (acts == asked_for(obs, ACTIONS["Discrete"])).mean() > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_cartpole_in_8000_steps(seed: int, tmp_path: Path) -> None:
    """Fixed horizon, eight environments, all settings as they come."""
    pytest.importorskip("seals")
    rng = np.random.default_rng(seed)
    venv = make_vec_env("seals:seals/CartPole-v0", rng=rng)
    expert = load_policy("bundled", venv)
    trainer = dagger.SimpleDAggerTrainer(
        venv=venv, scratch_dir=tmp_path, expert_policy=expert, bc_trainer=bc_of(venv), rng=rng
    )
    assert trainer.train(8_000).n_timesteps == 8_000
    returns = evaluate_returns(trainer.policy, venv, n_episodes=16, seed=seed).returns
    print(f"seed {seed}: return {returns.mean():.1f}")
    assert returns.mean() == 500


def experts() -> dict[str, Any]:
    venv = venv_of()
    space = venv.action_space
    return {
        "callable": lambda obs: asked_for(told_in(obs), space),
        "with state": lambda obs, state, starts: (asked_for(told_in(obs), space), state),
        "policy": Told(venv.observation_space, space),
        "model": PPO("MlpPolicy", venv, n_steps=2, batch_size=4, seed=0),
        "trainer": bc_of(venv),
    }


@pytest.mark.parametrize("kind", ["callable", "with state", "policy", "model", "trainer"])
def test_anything_that_acts_is_an_expert(kind: str, tmp_path: Path) -> None:
    expert = experts()[kind]
    simple(tmp_path, expert=expert).train(40, **SMALL)
    journal = (tmp_path / "demos" / "round-000" / "answers.jsonl").read_text().splitlines()
    assert len(journal) == (21 if kind in ("callable", "with state") else 1)  # 20 steps of both environments
    if kind in ("model", "trainer"):
        policy = expert.policy
        for each in all_demos(tmp_path):
            assert np.array_equal(each.acts, policy.predict(each.obs[:-1], deterministic=True)[0])


def test_what_cannot_be_an_expert(tmp_path: Path) -> None:
    venv = venv_of()
    with pytest.raises(ConfigError, match="expert_policy"):
        dagger.SimpleDAggerTrainer(venv=venv, scratch_dir=tmp_path, expert_policy=3, rng=0, bc_trainer=bc_of(venv))
    with pytest.raises(SpaceMismatchError):
        simple(tmp_path, expert=Told(venv.observation_space, ACTIONS["Box"]))


@pytest.mark.parametrize("name", ["total", "rollout_round_min_episodes"])
def test_budgets_below_one(name: str, tmp_path: Path) -> None:
    options = {"rollout_round_min_episodes": 0} if name != "total" else {}
    with pytest.raises(ConfigError, match="≥ 1"):
        simple(tmp_path).train(0 if name == "total" else 10, **options)


def test_trajectories_to_begin_with(tmp_path: Path, rng: np.random.Generator) -> None:
    venv = venv_of()
    expert = Told(venv.observation_space, venv.action_space)
    given = rollout.generate_trajectories(expert, venv, rollout.make_min_episodes(3), rng)
    trainer = simple(tmp_path, expert_trajs=given)
    assert len(demo_files(tmp_path / "demos" / "round-000")) == len(given)
    result = trainer.train(40, **SMALL)
    assert result.n_timesteps == 40
    assert len(trainer.demos) == 40 + sum(map(len, given))
    again = simple(tmp_path, expert_trajs=given)  # finds them there
    assert len(demo_files(again.demos.folder_of(0))) == len(given) + 4


def test_relabelled_trajectories_join_the_round(tmp_path: Path, rng: np.random.Generator) -> None:
    venv = venv_of()
    recorded = rollout.generate_trajectories(
        lambda obs: np.zeros(len(obs), int), venv, rollout.make_min_episodes(4), rng
    )
    trainer = simple(tmp_path)
    files = trainer.relabel(recorded)
    assert files == demo_files(tmp_path / "demos" / "round-000")
    trainer.extend_and_update({"progress_bar": False})
    assert len(trainer.demos) == sum(map(len, recorded))
    demos = trainer.demos.demonstrations()
    assert np.array_equal(demos.acts, asked_for(told_in(demos.obs), venv.action_space))


def test_hg_dagger_learns_from_takeovers_only(tmp_path: Path) -> None:
    asked: list[np.ndarray] = []

    def expert(obs: np.ndarray) -> np.ndarray:
        asked.extend(np.array(obs))
        return asked_for(obs, ACTIONS["Discrete"])

    trainer = simple(tmp_path, expert=expert, gate=lambda obs, acts: obs[:, 3] > 0)
    result = trainer.train(80, **SMALL)
    assert result.n_timesteps == 80
    demos = trainer.demos.demonstrations()
    assert len(demos) == len(asked) < 80
    assert (demos.obs[:, 3] > 0).all()
    assert trainer.demos.n_steps == 80


def test_a_gate_that_never_opens_leaves_nothing_to_learn(tmp_path: Path) -> None:
    trainer = simple(tmp_path, gate=lambda obs, acts: np.zeros(len(obs), bool))
    with pytest.raises(dagger.NeedsDemosException, match="asked"):
        trainer.train(40, **SMALL)


def test_a_round_of_another_run_is_not_mixed_in(tmp_path: Path) -> None:
    venv = venv_of()
    expert = Told(venv.observation_space, venv.action_space)
    simple(tmp_path, expert=expert).train(40, **SMALL)
    with pytest.raises(ConfigError, match="empty scratch folder"):
        simple(tmp_path, expert=expert, seed=1).train(40, **SMALL)


@pytest.mark.defect("B29")
def test_one_seed_decides_everything(tmp_path: Path) -> None:
    policies, files = [], []
    for run, seed in enumerate((0, 0, 1)):
        trainer = simple(tmp_path / str(run), seed=seed)
        np.random.seed(run)  # noqa: NPY002 - must not matter
        torch.manual_seed(run)
        trainer.train(80, **SMALL)
        policies.append(torch.cat([p.flatten() for p in trainer.policy.parameters()]))
        files.append([each.obs.tobytes() for each in all_demos(tmp_path / str(run))])
    assert torch.equal(policies[0], policies[1])
    assert not torch.equal(policies[0], policies[2])
    assert files[0] == files[1] != files[2]


# --- saved and made again -------------------------------------------------------------------------------------------


def test_saved_and_reconstructed(tmp_path: Path) -> None:
    trainer = simple(tmp_path, beta_schedule=dagger.ExponentialBetaSchedule(0.5))
    trainer.train(80, **SMALL)
    _, policy = trainer.save_trainer()
    logger = configure(format_strs=[])
    again = dagger.reconstruct_trainer(tmp_path, venv_of(), custom_logger=logger)
    assert type(again) is dagger.DAggerTrainer
    assert again.logger is logger
    assert again.round_num == 2
    assert again.beta_schedule(2) == 0.25
    assert len(again.demos) == 80
    for name, tensor in trainer.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[name], tensor)
        assert torch.equal(load_saved_policy(policy).state_dict()[name], tensor)
    one_round(again)
    assert again.extend_and_update({"progress_bar": False}) == 3


def test_reconstructed_with_an_expert_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    ends = []
    for run in ("straight", "saved"):
        venv = venv_of()
        expert = Told(venv.observation_space, venv.action_space)
        trainer = simple(tmp_path / run, venv, expert=expert)
        trainer.train(80, **SMALL)
        if run == "saved":
            trainer.save_trainer()
            trainer = dagger.reconstruct_trainer(
                tmp_path / run, venv_of(), expert_policy=expert, custom_logger=configure(format_strs=[])
            )
            assert isinstance(trainer, dagger.SimpleDAggerTrainer)
        trainer.train(40, **SMALL)
        ends.append(torch.cat([p.flatten() for p in trainer.policy.parameters()]))
    assert torch.equal(*ends)


def test_save_policy(tmp_path: Path) -> None:
    trainer = simple(tmp_path)
    trainer.save_policy(tmp_path / "mine.safetensors")
    loaded = load_saved_policy(tmp_path / "mine.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), trainer.policy.parameters(), strict=True))


def test_nothing_to_reconstruct(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        dagger.reconstruct_trainer(tmp_path, venv_of())


def test_altered_files_are_told(tmp_path: Path) -> None:
    trainer = simple(tmp_path)
    trainer.train(40, **SMALL)
    trainer.save_trainer()
    demo_files(tmp_path / "demos" / "round-000")[0].unlink()
    with pytest.raises(DataError, match="demonstrations"):
        dagger.reconstruct_trainer(tmp_path, venv_of())
    tensors = tmp_path / "checkpoint-latest" / "policy.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-3])
    with pytest.raises(CorruptFileError):
        dagger.reconstruct_trainer(tmp_path, venv_of())


def test_a_schedule_of_ones_own_must_be_given_again(tmp_path: Path) -> None:
    trainer = simple(tmp_path, beta_schedule=lambda i: 0.5)
    trainer.save_trainer()
    with pytest.raises(ConfigError, match="beta_schedule"):
        dagger.reconstruct_trainer(tmp_path, venv_of())
    assert dagger.reconstruct_trainer(tmp_path, venv_of(), beta_schedule=lambda i: 0.25).beta_schedule(0) == 0.25
