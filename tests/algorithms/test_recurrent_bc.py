"""Cloning policies with memory: what they are trained on is what they answer step by step, and they remember."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _memory_task import ACTIONS, SPACE, Recall, demonstrations, venv_of
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn
from torch.utils.data import DataLoader

from understudy.algorithms._sequence_terms import recurrent_terms
from understudy.algorithms.bc import BC, BCResult, reconstruct_policy
from understudy.data.demonstrations import as_demonstrations
from understudy.data.rollout import make_sample_until, rollout
from understudy.data.sequences import SequenceBatch, SequenceBatches
from understudy.data.types import DictObs, Trajectory
from understudy.errors import ConfigError, DataError, TrainingDivergedError
from understudy.policies.recurrent import is_recurrent
from understudy.util.logger import configure

VECTOR = spaces.Box(-3, 3, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
CHOICES = spaces.Discrete(3)
NUMBERS = spaces.Box(-1, 1, (2,), np.float32)
SPACES: dict[str, tuple[spaces.Space[Any], spaces.Space[Any]]] = {
    "vector": (VECTOR, CHOICES),
    "numbers": (VECTOR, NUMBERS),
    "bits": (VECTOR, spaces.MultiBinary(2)),
    "several": (VECTOR, spaces.MultiDiscrete([2, 3])),
    "image": (IMAGE, CHOICES),
    "dict": (spaces.Dict({"place": VECTOR, "phase": spaces.Discrete(4)}), CHOICES),
}
KINDS = {"image": RecurrentActorCriticCnnPolicy, "dict": RecurrentMultiInputActorCriticPolicy}
CPU = torch.device("cpu")


def policy_of(kind: str = "vector", **options: Any) -> RecurrentActorCriticPolicy:
    torch.manual_seed(0)
    sizes = {"lstm_hidden_size": 8, "net_arch": [8], **options}
    return KINDS.get(kind, RecurrentActorCriticPolicy)(*SPACES[kind], lambda _: 1e-3, **sizes)


def episodes(kind: str = "vector", lengths: tuple[int, ...] = (20, 7, 13)) -> list[Trajectory]:
    obs_space, act_space = SPACES[kind]
    obs_space.seed(0)
    act_space.seed(0)
    found = []
    for n in lengths:
        seen: Any = [obs_space.sample() for _ in range(n + 1)]
        if isinstance(obs_space, spaces.Dict):
            obs: Any = DictObs({key: np.array([each[key] for each in seen]) for key in obs_space.spaces})
        else:
            obs = np.array(seen)
        found.append(Trajectory(obs, np.array([act_space.sample() for _ in range(n)]), None, terminal=True))
    return found


def make(kind: str = "vector", policy: Any = None, trajectories: Any = None, **options: Any) -> BC:
    return BC(
        observation_space=SPACES[kind][0],
        action_space=SPACES[kind][1],
        rng=0,
        policy=policy_of(kind) if policy is None else policy,
        demonstrations=episodes(kind) if trajectories is None else trajectories,
        custom_logger=configure(format_strs=[]),
        **options,
    )


def parameters(bc: BC) -> torch.Tensor:
    return nn.utils.parameters_to_vector(bc.policy.parameters()).detach()


def step_by_step(policy: Any, trajectory: Trajectory) -> torch.Tensor:
    """log π of each recorded action, asked as an environment would, one observation after the other."""
    states = tuple(torch.zeros(policy.lstm_hidden_state_shape) for _ in range(2))
    found = []
    for t in range(len(trajectory)):
        seen: Any = trajectory.obs[t]
        obs, _ = policy.obs_to_tensor(seen.unwrap() if isinstance(seen, DictObs) else seen)
        with torch.no_grad():
            distribution, states = policy.get_distribution(obs, states, torch.tensor([float(t == 0)]))
            act = torch.as_tensor(trajectory.acts[t : t + 1])
            found.append(distribution.log_prob(act.float() if act.dtype == torch.int8 else act))
    return torch.cat(found)


def batches_of(bc: BC, **options: Any) -> list[SequenceBatch]:
    """Prepared for the step, in the order of the data."""
    demos: Any = as_demonstrations(bc._demonstrations)
    options = {"sequence_length": None, "sequences": 99, **options}
    source = SequenceBatches(demos, 1, device=CPU, generator=None, **options)
    return [bc._step.prepare(batch) for batch in source.epoch()]  # type: ignore[misc]


# --- equations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SPACES)
def test_a_batch_of_sequences_is_the_policy_stepped_through_the_episodes(kind: str) -> None:
    bc = make(kind)
    [batch] = batches_of(bc)
    bc.policy.set_training_mode(False)
    expected = torch.cat([step_by_step(bc.policy, trajectory) for trajectory in episodes(kind)])
    assert torch.allclose(bc._step.terms(batch).log_prob, expected, atol=1e-5)


def test_padding_changes_nothing() -> None:
    """Side by side with a longer episode, an episode's steps have the likelihoods they have alone."""
    bc = make()
    alone = [bc._step.terms(batch) for batch in batches_of(bc, sequences=1)]
    [together] = [bc._step.terms(batch) for batch in batches_of(bc)]
    assert torch.allclose(torch.cat([terms.log_prob for terms in alone]), together.log_prob, atol=1e-6)
    assert torch.allclose(torch.cat([terms.entropy for terms in alone]), together.entropy, atol=1e-6)


def test_the_loss_is_the_mean_over_steps() -> None:
    bc = make(ent_weight=0.1, batch_size=1000, optimizer_cls=torch.optim.SGD, optimizer_kwargs={"lr": 1.0})
    before = parameters(bc)
    policy = copy.deepcopy(bc.policy)
    policy.set_training_mode(True)
    [batch] = batches_of(bc)
    terms = recurrent_terms(policy, batch)
    (-(terms.log_prob + 0.1 * terms.entropy).sum() / 40).backward()
    gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in policy.parameters()])
    bc.train(n_batches=1, progress_bar=False)
    assert torch.allclose(before - parameters(bc), gradient, atol=1e-5)
    assert gradient.abs().max() > 1e-3


def test_burn_in_long_enough_is_the_whole_episode() -> None:
    """Cut every 6 steps with all steps before as burn-in, each step has the likelihood of the whole episode."""
    bc = make()
    [whole], [cut] = batches_of(bc), batches_of(bc, sequence_length=6, burn_in=99)
    assert torch.equal(whole.acts, cut.acts)
    assert torch.allclose(bc._step.terms(whole).log_prob, bc._step.terms(cut).log_prob, atol=1e-5)
    [without] = batches_of(bc, sequence_length=6)
    assert not torch.allclose(bc._step.terms(whole).log_prob, bc._step.terms(without).log_prob, atol=1e-3)


def test_no_gradient_flows_through_burn_in() -> None:
    policy = make().policy
    [batch] = batches_of(make(), sequence_length=6, burn_in=4)
    assert isinstance(batch.obs, torch.Tensor)
    assert isinstance(batch.burn_in_obs, torch.Tensor)
    obs, before = batch.obs.clone().requires_grad_(), batch.burn_in_obs.clone().requires_grad_()
    terms = recurrent_terms(policy, dataclasses.replace(batch, obs=obs, burn_in_obs=before))
    gradient, through = torch.autograd.grad(terms.log_prob.sum(), [obs, before], allow_unused=True)
    assert through is None
    # Sequences of 6, 6, 6, 2 | 6, 1 | 6, 6, 1 steps, each of which has a loss.
    assert bool((gradient.abs().sum(1) > 0).all())


def test_burn_in_carries_the_state_in(monkeypatch: pytest.MonkeyPatch) -> None:
    bc = make()
    [batch] = batches_of(bc, sequence_length=6, burn_in=4)
    assert isinstance(batch.burn_in_obs, torch.Tensor)
    moved = dataclasses.replace(batch, burn_in_obs=batch.burn_in_obs + 1)
    changed = (bc._step.terms(batch).log_prob - bc._step.terms(moved).log_prob).abs() > 1e-7
    begins = np.cumsum([0, *batch.lengths[:-1]])
    assert changed[begins].tolist() == [n > 0 for n in batch.burn_in]


def test_steps_of_weight_zero_are_seen_and_not_learned_from() -> None:
    def fitted(change: int | None = None, **options: Any) -> torch.Tensor:
        trajectories = episodes()
        obs = np.concatenate([np.asarray(t.obs)[:-1] for t in trajectories])
        acts = np.concatenate([t.acts for t in trajectories])
        if change is not None:
            acts[change] = (acts[change] + 1) % 3
        ends = np.cumsum([len(t) for t in trajectories])
        data = {"obs": obs, "acts": acts, "weights": np.tile([1.0, 0.0, 0.5, 0.0], 10), "episode_ends": ends}
        bc = make(trajectories=data, **options)
        bc.train(n_epochs=2, progress_bar=False)
        return parameters(bc)

    assert torch.equal(fitted(), fitted(change=1))
    assert not torch.equal(fitted(), fitted(change=2))


@pytest.mark.parametrize("burn_in", [0, 4])
def test_minibatches_of_whole_sequences_add_up(burn_in: int) -> None:
    options = {"optimizer_cls": torch.optim.SGD, "optimizer_kwargs": {"lr": 0.5}, "l2_weight": 0.1, "batch_size": 40}
    whole = make(sequence_length=5, burn_in=burn_in, **options)
    parts = make(sequence_length=5, burn_in=burn_in, minibatch_size=10, **options)
    for bc in (whole, parts):
        bc.train(n_batches=2, progress_bar=False)
    assert torch.allclose(parameters(whole), parameters(parts), atol=1e-6)


# --- everything that BC does ------------------------------------------------------------------------------------------


def test_the_recurrent_clone_remembers_and_the_feed_forward_one_guesses() -> None:
    def score(policy: Any, n_epochs: int) -> float:
        bc = BC(
            observation_space=SPACE,
            action_space=ACTIONS,
            rng=0,
            policy=policy,
            demonstrations=demonstrations(64),
            batch_size=128,
            optimizer_kwargs={"lr": 1e-2},
            custom_logger=configure(format_strs=[]),
        )
        bc.train(n_epochs=n_epochs, progress_bar=False)
        enough = make_sample_until(min_episodes=200)
        found = rollout(bc.policy, venv_of(8), enough, np.random.default_rng(1), deterministic_policy=True)
        return float(np.mean([each.rews.sum() for each in found]))

    model = RecurrentPPO(
        "MlpLstmPolicy", venv_of(), n_steps=8, seed=0, policy_kwargs={"lstm_hidden_size": 32, "net_arch": [32]}
    )
    with torch.no_grad():
        model.policy.lstm_actor.bias_hh_l0[32:64] += 3.0  # forget gates open
    assert score(model.policy, 150) >= 0.95
    assert 0.4 <= score(None, 20) <= 0.6
    model.learn(64)  # the clone goes on with reinforcement learning


@pytest.mark.parametrize("kind", SPACES)
def test_policies_are_kept_in_files(kind: str, tmp_path: Path) -> None:
    bc = make(kind, sequence_length=8, burn_in=2)
    bc.train(n_batches=2, progress_bar=False)
    bc.save_policy(tmp_path / "policy")
    again = reconstruct_policy(tmp_path / "policy")
    assert is_recurrent(again)
    assert {k: v.tolist() for k, v in again.state_dict().items()} == {
        k: v.tolist() for k, v in bc.policy.state_dict().items()
    }
    bc.save(tmp_path / "trainer")
    loaded = BC.load(tmp_path / "trainer", episodes(kind), custom_logger=configure(format_strs=[]))
    assert (loaded.sequence_length, loaded.burn_in, loaded.path) == (8, 2, "autograd")
    for each in (bc, loaded):
        each.train(n_batches=3, progress_bar=False)
    assert torch.equal(parameters(bc), parameters(loaded))


@pytest.mark.parametrize(
    "options",
    [{"shared_lstm": True, "enable_critic_lstm": False}, {"enable_critic_lstm": False}, {"n_lstm_layers": 2}],
)
def test_other_ways_to_share_memory(options: dict[str, Any], tmp_path: Path) -> None:
    bc = make(policy=policy_of(**options), sequence_length=6, burn_in=4)
    bc.train(n_batches=2, progress_bar=False)
    bc.save_policy(tmp_path / "policy")
    assert reconstruct_policy(tmp_path / "policy").state_dict().keys() == bc.policy.state_dict().keys()


def test_extractors_that_are_not_shared() -> None:
    policy = policy_of("image", share_features_extractor=False)
    make("image", policy=policy).train(n_batches=1, progress_bar=False)


def test_validation_by_episode_and_the_log_of_returns() -> None:
    bc = BC(
        observation_space=SPACE,
        action_space=ACTIONS,
        rng=0,
        policy=RecurrentActorCriticPolicy(SPACE, ACTIONS, lambda _: 1e-3, lstm_hidden_size=8, net_arch=[8]),
        demonstrations=demonstrations(20),
        custom_logger=configure(format_strs=[]),
    )
    result: BCResult = bc.train(
        n_epochs=3, progress_bar=False, validation_fraction=0.25, patience=2, log_rollouts_venv=venv_of(2)
    )
    assert len(result.held_out_episodes) == 5
    assert len(result.validation_neglogp) == 3
    [batch] = batches_of(bc)
    held_out = torch.zeros(20, 21, dtype=torch.bool)
    held_out[list(result.held_out_episodes)] = True
    neglogp = -bc._step.terms(batch).log_prob[held_out.flatten()].mean()
    assert result.best_epoch == 2
    assert neglogp.item() == pytest.approx(result.validation_neglogp[-1], rel=1e-4)


def test_returns_are_logged_with_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment sees the actions of a policy that is told where its episodes begin."""
    starts: list[list[bool]] = []
    policy = RecurrentActorCriticPolicy(SPACE, ACTIONS, lambda _: 1e-3, lstm_hidden_size=8, net_arch=[8])
    predict = policy.predict

    def watched(obs: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False) -> Any:
        starts.append(np.asarray(episode_start).tolist())
        return predict(obs, state, episode_start, deterministic)

    monkeypatch.setattr(policy, "predict", watched)
    found = rollout(policy, venv_of(1), make_sample_until(min_episodes=2), np.random.default_rng(0))
    assert [len(each) for each in found] == [21, 21]
    assert [t for t, each in enumerate(starts) if each[0]] == [0, 21]


def test_numbers_that_diverge_are_put_back() -> None:
    bc = make()
    before = parameters(bc)

    def spoil() -> None:
        with torch.no_grad():
            bc.policy.action_net.weight[0] = torch.nan

    with pytest.raises(TrainingDivergedError):
        bc.train(n_epochs=2, progress_bar=False, on_batch_end=spoil)
    assert torch.equal(parameters(bc), before)


def test_the_same_seed_gives_the_same_bytes() -> None:
    class Dropping(FlattenExtractor):
        def __init__(self, space: spaces.Space[Any]) -> None:
            super().__init__(space)
            self.dropout = nn.Dropout(0.3)

        def forward(self, observations: torch.Tensor) -> torch.Tensor:
            return self.dropout(super().forward(observations))  # type: ignore[no-any-return]

    def fitted() -> torch.Tensor:
        bc = make(policy=policy_of(features_extractor_class=Dropping), sequence_length=6, burn_in=2)
        bc.train(n_epochs=2, progress_bar=False)
        return parameters(bc)

    assert torch.equal(fitted(), fitted())


def test_what_cannot_be_learned_in_sequences_is_refused() -> None:
    rows = {"obs": np.zeros((8, 3), np.float32), "acts": np.zeros(8, np.int64)}
    with pytest.raises(DataError, match=r"where episodes begin.*rows that do not.*episode_ends"):
        make(trajectories=rows)
    make(trajectories={**rows, "episode_ends": np.array([3, 8])}).train(n_batches=1, progress_bar=False)
    loader: Any = DataLoader([{"obs": rows["obs"][i], "acts": rows["acts"][i]} for i in range(8)])
    with pytest.raises(DataError, match="DataLoader"):
        make(trajectories=loader)
    for options in ({"sequence_length": 8}, {"burn_in": 2}):
        with pytest.raises(ConfigError, match="policy with memory"):
            BC(observation_space=VECTOR, action_space=CHOICES, rng=0, **options)
    with pytest.raises(ConfigError, match="compile"):
        make(compile=True)
    with pytest.raises(ConfigError, match="sequence_length"):
        make(sequence_length=0)


def test_the_task_needs_memory() -> None:
    env = Recall()
    first = {tuple(env.reset(seed=seed)[0]) for seed in range(20)}
    assert first == {(-1.0, 0.0), (1.0, 0.0)}
    later = {tuple(env.step(0)[0]) for _ in range(20)}
    assert later == {(0.0, 0.0), (0.0, 1.0)}
