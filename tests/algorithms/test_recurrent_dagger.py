"""DAgger with a learner that remembers: it sees every observation, whoever acts, and learns from sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _memory_task import ACTIONS, DELAY, SPACE, RecallExpert, answers, demonstrations, venv_of
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms._dagger_demos import demo_files
from understudy.algorithms.bc import BC
from understudy.algorithms.dagger import DAggerTrainer, SimpleDAggerTrainer, reconstruct_trainer
from understudy.data import serialize
from understudy.data.demonstrations import Demonstrations
from understudy.data.rollout import make_sample_until, rollout
from understudy.util.logger import configure


def bc_of(size: int = 8, seed: int = 0, **options: Any) -> BC:
    torch.manual_seed(seed)
    policy = RecurrentActorCriticPolicy(SPACE, ACTIONS, lambda _: 1e-3, lstm_hidden_size=size, net_arch=[size])
    with torch.no_grad():
        policy.lstm_actor.bias_hh_l0[size : 2 * size] += 3.0  # forget gates open
    options = {"sequence_length": 12, "burn_in": 12, **options}
    return BC(
        observation_space=SPACE,
        action_space=ACTIONS,
        rng=seed,
        policy=policy,
        custom_logger=configure(format_strs=[]),
        **options,
    )


def step_by_step(policy: Any, obs: np.ndarray) -> list[int]:
    """The most likely action at each step of one episode."""
    state, acts = None, []
    for t, each in enumerate(obs):
        (act,), state = policy.predict(each[None], state, np.array([t == 0]), deterministic=True)
        acts.append(int(act))
    return acts


class Greedy(RecurrentActorCriticPolicy):
    """Takes the most likely action always."""

    def predict(self, *args: Any, **options: Any) -> Any:
        return super().predict(*args, **{**options, "deterministic": True})


def greedy_bc() -> BC:
    bc = bc_of()
    torch.manual_seed(1)
    policy = Greedy(SPACE, ACTIONS, lambda _: 1e-3, lstm_hidden_size=8, net_arch=[8])
    with torch.no_grad():
        policy.action_net.weight.normal_(std=3)  # so that what it does depends on what it remembers
    return BC(
        observation_space=SPACE, action_space=ACTIONS, rng=0, policy=policy, custom_logger=bc.logger, sequence_length=12
    )


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_learner_sees_every_observation_whoever_acts(beta: float, tmp_path: Path) -> None:
    """What the record says the policy would have done is what it does when stepped through the episode."""
    bc = greedy_bc()
    venv = venv_of(3)
    trainer = DAggerTrainer(venv=venv, scratch_dir=tmp_path, rng=0, bc_trainer=bc, beta_schedule=lambda _: beta)
    collector = trainer.create_trajectory_collector()
    obs, starts, expert = collector.reset(), np.ones(3, bool), RecallExpert(SPACE, ACTIONS)
    state = None
    for _ in range(3 * (DELAY + 1)):
        acts, state = expert.predict(obs, state, starts)
        obs, _, starts, _ = collector.step(acts)
    trainer.demos.take_round(0)
    found = [t for path in demo_files(trainer.demos.folder_of(0)) for t in serialize.load(path)]
    assert len(found) == 9
    said = [[info["policy_action"] for info in t.infos] for t in found]
    assert said == [step_by_step(bc.policy, np.asarray(t.obs)[:-1]) for t in found]
    assert len({str(each) for each in said}) > 1  # the cue makes a difference to it


def test_a_new_episode_is_a_new_memory_in_simple_dagger_too(tmp_path: Path) -> None:
    trainer = SimpleDAggerTrainer(
        venv=venv_of(2),
        scratch_dir=tmp_path,
        expert_policy=RecallExpert(SPACE, ACTIONS),
        rng=0,
        bc_trainer=greedy_bc(),
        beta_schedule=lambda _: 0.5,
    )
    before = {name: value.clone() for name, value in trainer.policy.state_dict().items()}
    trainer.train(60, progress_bar=False, bc_train_kwargs={"n_batches": 1, "log_rollouts_venv": None})
    trainer.policy.load_state_dict(before)
    files = demo_files(trainer.demos.folder_of(0))
    found = [t for path in files for t in serialize.load(path)]
    assert len(found) >= 3
    for each in found:
        assert [info["policy_action"] for info in each.infos] == step_by_step(trainer.policy, np.asarray(each.obs)[:-1])
        cue = int(np.asarray(each.obs)[0, 0] > 0)
        assert each.acts.tolist() == [0] * DELAY + [1 + cue]  # the expert remembers too


def test_gated_dagger_learns_only_where_the_expert_drove_and_remembers_the_rest(tmp_path: Path) -> None:
    """The expert drives at the last step only; what it does there depends on the first."""

    def asked(obs: np.ndarray, acts: np.ndarray) -> np.ndarray:
        return obs[:, 1] > 0

    trainer = SimpleDAggerTrainer(
        venv=venv_of(4),
        scratch_dir=tmp_path,
        expert_policy=RecallExpert(SPACE, ACTIONS),
        rng=0,
        bc_trainer=bc_of(sequence_length=None, burn_in=0),
        gate=asked,
    )
    result = trainer.train(8 * (DELAY + 1), progress_bar=False, bc_train_kwargs={"n_batches": 1})
    assert result.n_timesteps >= 8 * (DELAY + 1)
    demos = trainer.bc_trainer._demonstrations
    assert isinstance(demos, Demonstrations)
    assert demos.weights is not None
    assert demos.weights.reshape(-1, DELAY + 1).tolist() == [[0.0] * DELAY + [1.0]] * demos.n_episodes
    assert len(trainer.demos) == demos.n_episodes  # one step of each to learn from
    cues = (np.asarray(demos.obs)[:: DELAY + 1, 0] > 0).astype(int)
    assert demos.acts[DELAY :: DELAY + 1].tolist() == (1 + cues).tolist()


def test_dagger_teaches_to_remember(tmp_path: Path) -> None:
    venv: VecEnv = venv_of(8)
    trainer = SimpleDAggerTrainer(
        venv=venv,
        scratch_dir=tmp_path,
        expert_policy=RecallExpert(SPACE, ACTIONS),
        rng=0,
        bc_trainer=bc_of(32, optimizer_kwargs={"lr": 1e-2}, sequence_length=None, burn_in=0, batch_size=128),
    )
    few = {"n_epochs": 50, "log_rollouts_venv": None}
    trainer.train(4 * 32 * (DELAY + 1), rollout_round_min_episodes=32, progress_bar=False, bc_train_kwargs=few)
    found = rollout(
        trainer.policy, venv, make_sample_until(min_episodes=100), np.random.default_rng(1), deterministic_policy=True
    )
    assert np.mean([each.rews.sum() for each in found]) >= 0.95
    trainer.save_trainer()
    loaded = reconstruct_trainer(tmp_path, venv, expert_policy=RecallExpert(SPACE, ACTIONS))
    inner = loaded.bc_trainer
    assert (inner.sequence_length, inner.burn_in) == (trainer.bc_trainer.sequence_length, trainer.bc_trainer.burn_in)
    assert all(torch.equal(a, b) for a, b in zip(inner.policy.parameters(), trainer.policy.parameters(), strict=True))


def test_an_expert_that_remembers_relabels_step_by_step(tmp_path: Path) -> None:
    trainer = SimpleDAggerTrainer(
        venv=venv_of(2), scratch_dir=tmp_path, expert_policy=RecallExpert(SPACE, ACTIONS), rng=0, bc_trainer=bc_of()
    )
    recorded = demonstrations(2)
    expected = [t.acts.tolist() for t in recorded]
    for t in recorded:
        t.acts[:] = 0
    trainer.relabel(recorded)
    trainer.demos.take_round(0)
    demos = trainer.demos.demonstrations()
    assert demos.acts.reshape(2, -1).tolist() == expected
    assert answers(np.asarray(demos.obs)[[DELAY]], np.array([0])).tolist() == [1]
