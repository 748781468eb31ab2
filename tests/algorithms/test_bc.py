"""Behavioural cloning as its users know it."""

from __future__ import annotations

import copy
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv
from torch.utils.data import DataLoader, IterableDataset

from understudy.algorithms import _bc_training, bc
from understudy.algorithms._supervised import FitResult
from understudy.data import rollout
from understudy.data.batches import BatchSource
from understudy.data.types import Transitions, TransitionsMinimal, transitions_collate_fn
from understudy.errors import (
    ConfigError,
    DataError,
    EmptyDataError,
    NonFiniteDataError,
    SpaceMismatchError,
    TrainingDivergedError,
)
from understudy.policies.base import NormalizeFeaturesExtractor
from understudy.policies.serialize import load_policy
from understudy.util import logger

OBS = gym.make("CartPole-v1").observation_space
ACT = spaces.Discrete(2)


def linear_expert(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    obs = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    return obs, (obs.sum(1) > 0).astype(np.int64)


def make_bc(demonstrations: Any = None, **kwargs: Any) -> bc.BC:
    kwargs.setdefault("custom_logger", logger.configure(format_strs=[]))
    kwargs.setdefault("rng", np.random.default_rng(0))
    kwargs.setdefault("observation_space", OBS)
    kwargs.setdefault("action_space", ACT)
    return bc.BC(demonstrations=demonstrations, **kwargs)


def arrays(n: int = 256, **more: Any) -> dict[str, Any]:
    obs, acts = linear_expert(n)
    return {"obs": obs, "acts": acts, **more}


def accuracy(policy: ActorCriticPolicy) -> float:
    obs, acts = linear_expert(500, seed=1)
    return float((policy.predict(obs, deterministic=True)[0] == acts).mean())


def sha(policy: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in policy.state_dict().items():
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()


# --- it clones --------------------------------------------------------------------------------------------------


def test_clones_the_bundled_expert_of_cartpole(cartpole_venv: VecEnv, rng: np.random.Generator) -> None:
    expert = load_policy("bundled", cartpole_venv)
    rollouts = rollout.rollout(expert, cartpole_venv, rollout.make_min_episodes(10), rng=rng)
    trainer = make_bc(
        rollout.flatten_trajectories(rollouts),
        observation_space=cartpole_venv.observation_space,
        action_space=cartpole_venv.action_space,
        rng=rng,
    )
    before, _ = evaluate_policy(trainer.policy, cartpole_venv, 5)
    trainer.train(n_epochs=8, progress_bar=False)
    after, _ = evaluate_policy(trainer.policy, cartpole_venv, 5)
    assert before < 100
    assert after > 450


def test_the_loss_falls_and_held_out_choices_are_right() -> None:
    trainer = make_bc(arrays(1000))
    assert trainer.path == "closed_form"
    trainer.train(n_epochs=20, progress_bar=False)
    assert accuracy(trainer.policy) > 0.95


def test_autograd_clones_too() -> None:
    policy = ActorCriticPolicy(OBS, ACT, lambda _: 1e-3, net_arch=[32, 32])
    policy.mlp_extractor.policy_net.append(torch.nn.Dropout(0.1))
    trainer = make_bc(arrays(1000), policy=policy)
    assert trainer.path == "autograd"
    trainer.train(n_epochs=20, progress_bar=False)
    assert accuracy(trainer.policy) > 0.95


def test_every_form_of_data_trains_and_whole_sets_agree(tmp_path: Path) -> None:
    obs, acts = linear_expert(100)
    dones = np.zeros(100, dtype=bool)
    infos = np.array([{}] * 100)
    transitions = Transitions(obs=obs, acts=acts, infos=infos, next_obs=obs, dones=dones)
    np.savez(tmp_path / "demos.npz", obs=obs, acts=acts)
    forms = {
        "arrays": {"obs": obs, "acts": acts},
        "pair": (obs, acts),
        "minimal": TransitionsMinimal(obs=obs, acts=acts, infos=infos),
        "transitions": transitions,
        "batches": [{"obs": obs[:37], "acts": acts[:37]}, {"obs": obs[37:], "acts": acts[37:]}],
        "generator": ({"obs": obs[i : i + 50], "acts": acts[i : i + 50]} for i in (0, 50)),
        "path": tmp_path / "demos.npz",
    }
    digests = set()
    for demonstrations in forms.values():
        trainer = make_bc(demonstrations)
        trainer.train(n_epochs=2, progress_bar=False)
        digests.add(sha(trainer.policy))
    assert len(digests) == 1


@pytest.mark.defect("B23")
@pytest.mark.parametrize("n", [1, 5, 31])
def test_fewer_samples_than_a_batch(n: int) -> None:
    trainer = make_bc(arrays(n), batch_size=32)
    before = sha(trainer.policy)
    result = trainer.train(n_epochs=3, progress_bar=False)
    assert (result.fit.n_batches, result.fit.n_samples) == (3, 3 * n)
    assert sha(trainer.policy) != before


@pytest.mark.defect("B23")
def test_minimal_transitions_train() -> None:
    obs, acts = linear_expert(40)
    trainer = make_bc(TransitionsMinimal(obs=obs, acts=acts, infos=np.array([{}] * 40)))
    assert trainer.train(n_epochs=1, progress_bar=False).fit.n_samples == 40


@pytest.mark.defect("B23")
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_data_loader_trains_with_and_without_drop_last(drop_last: bool) -> None:
    obs, acts = linear_expert(63)
    rows = TransitionsMinimal(obs=obs, acts=acts, infos=np.array([{}] * 63))
    loader = DataLoader(rows, batch_size=32, drop_last=drop_last, collate_fn=transitions_collate_fn)  # type: ignore[arg-type]
    result = make_bc(loader).train(n_epochs=2, progress_bar=False)
    assert result.fit.n_samples == (64 if drop_last else 126)


def test_an_endless_loader_trains_for_a_number_of_batches() -> None:
    class Endless(IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Any:
            while True:
                yield arrays(16)

    result = make_bc(DataLoader(Endless(), batch_size=None)).train(n_batches=5, progress_bar=False)
    assert result.fit.n_batches == 5


@pytest.mark.defect("B18")
def test_63_samples_at_batch_32_are_all_seen() -> None:
    assert make_bc(arrays(63)).train(n_epochs=1, progress_bar=False).fit.n_samples == 63


@pytest.mark.defect("C1")
def test_batches_ask_no_item_one_by_one() -> None:
    class Unreadable(TransitionsMinimal):  # type: ignore[type-arg]
        def __getitem__(self, key: Any) -> Any:
            raise AssertionError("rows are selected by index, never fetched one by one")

    obs, acts = linear_expert(64)
    make_bc(Unreadable(obs=obs, acts=acts, infos=None)).train(n_epochs=1, progress_bar=False)


@pytest.mark.defect("B19")
def test_the_callers_arrays_keep_their_flags_and_bytes() -> None:
    obs, acts = linear_expert(64)
    flags, content = (obs.flags.writeable, acts.flags.writeable), (obs.tobytes(), acts.tobytes())
    trainer = make_bc({"obs": obs, "acts": acts})
    trainer.train(n_epochs=1, progress_bar=False)
    assert (obs.flags.writeable, acts.flags.writeable) == flags
    assert (obs.tobytes(), acts.tobytes()) == content
    assert trainer._demonstrations is not None
    assert np.shares_memory(trainer._demonstrations.obs, obs)  # type: ignore[union-attr, arg-type]


def source_of(trainer: bc.BC, monkeypatch: pytest.MonkeyPatch) -> BatchSource:
    """What the training loop is given to draw from."""
    seen: list[BatchSource] = []

    def look(step: object, source: BatchSource, **options: object) -> FitResult:
        seen.append(source)
        return FitResult(0, 0, 0, False)

    with monkeypatch.context() as patch:
        patch.setattr(_bc_training, "fit", look)
        trainer.train(n_epochs=1, progress_bar=False)
    return seen[0]


def test_images_stay_bytes_until_they_are_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    obs = np.random.default_rng(0).integers(0, 256, (20, 3, 36, 36), dtype=np.uint8)
    from stable_baselines3.common.policies import ActorCriticCnnPolicy

    policy = ActorCriticCnnPolicy(space, ACT, lambda _: 1e-3)
    trainer = make_bc({"obs": obs, "acts": np.arange(20) % 2}, observation_space=space, policy=policy, batch_size=8)
    chunk = next(iter(source_of(trainer, monkeypatch).epoch()))
    assert isinstance(chunk.obs, torch.Tensor)
    assert chunk.obs.dtype == torch.uint8
    assert chunk.obs.is_contiguous(memory_format=torch.channels_last)
    trainer.train(n_epochs=1, progress_bar=False)


# --- options ----------------------------------------------------------------------------------------------------


@pytest.mark.defect("B17")
def test_minibatches_equal_the_full_batch() -> None:
    policies = []
    for minibatch_size in (None, 8):
        trainer = make_bc(arrays(100), batch_size=32, minibatch_size=minibatch_size)
        trainer.train(n_epochs=3, progress_bar=False)
        policies.append(trainer.policy)
    for p, q in zip(policies[0].parameters(), policies[1].parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        (torch.optim.AdamW, {"lr": 1e-2}),
        (torch.optim.RMSprop, {"lr": 1e-2}),
        (torch.optim.Adam, {"lr": 1e-2, "amsgrad": True}),
    ],
)
def test_any_optimiser(cls: type[torch.optim.Optimizer], kwargs: dict[str, Any]) -> None:
    trainer = make_bc(arrays(512), optimizer_cls=cls, optimizer_kwargs=kwargs)
    trainer.train(n_epochs=15, progress_bar=False)
    assert accuracy(trainer.policy) > 0.9


def test_an_l2_penalty_shrinks_all_weights_the_critics_too() -> None:
    trainer = make_bc(arrays(64), l2_weight=10.0)
    hidden = [*trainer.policy.mlp_extractor.parameters()]
    before = [p.detach().norm().item() for p in hidden if p.ndim > 1]
    trainer.train(n_batches=100, progress_bar=False)
    after = [p.detach().norm().item() for p in hidden if p.ndim > 1]
    assert len(after) == 4
    assert all(b < 0.8 * a for a, b in zip(before, after, strict=True))


def test_without_a_penalty_the_critic_is_left_alone() -> None:
    trainer = make_bc(arrays(64))
    before = copy.deepcopy(trainer.policy.value_net.state_dict())
    trainer.train(n_batches=10, progress_bar=False)
    assert all(torch.equal(v, before[k]) for k, v in trainer.policy.value_net.state_dict().items())


def test_entropy_weight_keeps_the_policy_undecided() -> None:
    entropies = []
    for ent_weight in (0.0, 2.0):
        trainer = make_bc(arrays(512), ent_weight=ent_weight)
        trainer.train(n_epochs=20, progress_bar=False)
        entropies.append(trainer.loss_calculator(trainer.policy, *linear_expert(100)).entropy)
    assert entropies[0] < 0.3 < 0.6 < entropies[1]  # type: ignore[operator]


def test_weights_decide_between_contradicting_experts() -> None:
    obs = np.zeros((64, 4), np.float32)
    acts = np.arange(64) % 2
    trainer = make_bc(
        {"obs": obs, "acts": acts, "weights": np.where(acts == 1, 3.0, 1.0)},
        ent_weight=0.0,
        batch_size=64,
        optimizer_kwargs={"lr": 0.05},
    )
    trainer.train(n_epochs=200, progress_bar=False)
    probability = trainer.policy.get_distribution(torch.zeros(1, 4)).distribution.probs[0, 1].item()
    assert probability == pytest.approx(0.75, abs=0.01)


def test_learning_rate_schedule_ends_at_its_last_value() -> None:
    trainer = make_bc(arrays(64), lr_schedule=lambda remaining: 1e-2 * remaining)
    trainer.train(n_batches=4, progress_bar=False)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.25e-2)


def test_optimiser_state_carries_on_between_calls() -> None:
    """Two calls go on with the optimiser's moments, and its state is torch's own."""
    trainer = make_bc(arrays(64))
    trainer.train(n_batches=3, progress_bar=False)
    trainer.train(n_batches=4, progress_bar=False)
    state = trainer.optimizer.state_dict()["state"]
    assert {float(s["step"]) for s in state.values()} == {7.0}
    fresh = torch.optim.Adam(trainer.policy.parameters())
    fresh.load_state_dict(trainer.optimizer.state_dict())


# --- validation -------------------------------------------------------------------------------------------------


def noisy_episodes(n_episodes: int = 10) -> dict[str, Any]:
    g = np.random.default_rng(3)
    obs = g.normal(size=(n_episodes * 10, 4)).astype(np.float32)
    return {
        "obs": obs,
        "acts": g.integers(0, 2, n_episodes * 10),
        "episode_ends": np.arange(10, n_episodes * 10 + 1, 10),
    }


def test_early_stop_keeps_the_best_epoch() -> None:
    """Labels are noise, so the held-out loss rises as the training loss falls."""
    trainer = make_bc(noisy_episodes(), ent_weight=0.0, optimizer_kwargs={"lr": 1e-2})
    result = trainer.train(n_epochs=200, validation_fraction=0.3, patience=5, progress_bar=False)
    losses = result.validation_neglogp
    assert result.fit.stopped_early
    assert result.best_epoch == int(np.argmin(losses))
    assert len(losses) == result.best_epoch + 6
    assert result.fit.n_epochs == len(losses)
    assert len(set(result.held_out_episodes)) == 3
    assert set(result.held_out_episodes) <= set(range(10))


def test_the_split_is_by_episode() -> None:
    from understudy.algorithms._early_stopping import split_episodes
    from understudy.data.demonstrations import read_demonstrations

    demos = read_demonstrations(noisy_episodes(7))
    train, held_out = split_episodes(demos, 0.3, np.random.default_rng(0))
    assert train is not None
    assert held_out is not None
    rows, kept_apart = np.asarray(train), np.asarray(held_out)
    assert sorted([*rows, *kept_apart]) == list(range(70))
    assert not {r // 10 for r in rows} & {r // 10 for r in kept_apart}
    assert len(held_out) == len(kept_apart) == 20


def test_validation_is_measured_even_if_no_epoch_ends() -> None:
    result = make_bc(noisy_episodes(20)).train(n_batches=2, validation_fraction=0.2, progress_bar=False)
    assert len(result.validation_neglogp) == 1
    assert result.fit.n_epochs == 0


@pytest.mark.parametrize("closed", [True, False])
def test_a_policy_in_double_precision_trains(closed: bool) -> None:
    policy = ActorCriticPolicy(OBS, ACT, lambda _: 1e-3)
    if not closed:
        policy.mlp_extractor.policy_net.append(torch.nn.Dropout(0.1))
    trainer = make_bc(arrays(64), policy=policy.double())
    assert (trainer.path == "closed_form") == closed
    assert trainer.train(n_epochs=1, progress_bar=False).fit.n_samples == 64


def test_validation_needs_episodes() -> None:
    with pytest.raises(DataError, match="episode"):
        make_bc(arrays(64)).train(n_epochs=1, validation_fraction=0.2, progress_bar=False)


# --- logging and callbacks --------------------------------------------------------------------------------------


def test_log_has_the_documented_keys_at_the_documented_batches(tmp_path: Path, cartpole_venv: VecEnv) -> None:
    log = logger.configure(tmp_path, ["csv"])
    trainer = make_bc(arrays(320), custom_logger=log)
    trainer.train(
        n_epochs=2, log_interval=5, progress_bar=False, log_rollouts_venv=cartpole_venv, log_rollouts_n_episodes=2
    )
    log.close()
    import pandas as pd

    rows = pd.read_csv(tmp_path / "progress.csv")
    keys = {
        "batch_size",
        *(
            f"bc/{k}"
            for k in (
                [
                    "epoch",
                    "batch",
                    "samples_so_far",
                    "neglogp",
                    "entropy",
                    "ent_loss",
                    "prob_true_act",
                    "l2_norm",
                    "l2_loss",
                    "loss",
                ]
            )
        ),
        *(f"rollout/return_{k}" for k in ("min", "mean", "std", "max")),
    }
    assert keys <= set(rows.columns)
    assert rows["bc/batch"].tolist() == [0, 5, 10, 15]
    assert rows["bc/samples_so_far"].tolist() == [32, 192, 352, 512]
    assert rows["bc/epoch"].tolist() == [0, 0, 1, 1]
    first = rows.iloc[0]
    assert first["bc/loss"] == pytest.approx(first["bc/neglogp"] + first["bc/ent_loss"] + first["bc/l2_loss"], abs=1e-5)
    assert first["bc/prob_true_act"] == pytest.approx(0.5, abs=0.02)


def test_logging_rollouts_changes_nothing_that_is_learned(cartpole_venv: VecEnv) -> None:
    digests = set()
    for venv in (None, cartpole_venv):
        trainer = make_bc(arrays(128))
        trainer.train(n_epochs=2, log_interval=2, progress_bar=False, log_rollouts_venv=venv)
        digests.add(sha(trainer.policy))
    assert len(digests) == 1


@pytest.mark.defect("B6")
@pytest.mark.parametrize("rollouts", [False, True])
@pytest.mark.parametrize("closed", [True, False])
def test_the_policy_is_in_training_mode_at_every_update(rollouts: bool, closed: bool, cartpole_venv: VecEnv) -> None:
    policy = ActorCriticPolicy(OBS, ACT, lambda _: 1e-3, features_extractor_class=NormalizeFeaturesExtractor)
    if not closed:
        policy.mlp_extractor.policy_net.append(torch.nn.Dropout(0.1))
    trainer = make_bc(arrays(96), policy=policy)
    modes: list[bool] = []
    original = trainer._step.train

    def watched(batch: Any) -> None:
        modes.append(all(m.training for m in policy.modules()))
        original(batch)

    trainer._step.train = watched  # type: ignore[method-assign]
    trainer.train(
        n_epochs=3,
        log_interval=2,
        progress_bar=False,
        log_rollouts_venv=cartpole_venv if rollouts else None,
        on_batch_end=lambda: policy.predict(np.zeros(4, np.float32)),  # type: ignore[arg-type, return-value]
    )
    assert modes == [True] * 9
    assert policy.features_extractor.normalize.count > 0


def test_callbacks_and_documented_call_order() -> None:
    calls: list[str] = []
    make_bc(arrays(64)).train(
        n_epochs=2,
        progress_bar=False,
        on_batch_end=lambda: calls.append("batch"),
        on_epoch_end=lambda: calls.append("epoch"),
    )
    assert calls == ["batch", "batch", "epoch"] * 2


def test_fewer_batches_than_an_epoch_call_no_epoch_end() -> None:
    calls: list[int] = []
    make_bc(arrays(64)).train(n_batches=1, progress_bar=False, on_epoch_end=lambda: calls.append(1))
    assert not calls


def test_the_progress_bar_tells_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    make_bc(arrays(320)).train(n_epochs=10, progress_bar=True)
    error = capsys.readouterr().err
    assert "100/100" in error
    make_bc(arrays(64)).train(n_epochs=1, progress_bar=False)
    assert capsys.readouterr().err == ""


def test_reset_tensorboard_starts_again_at_zero(tmp_path: Path) -> None:
    log = logger.configure(tmp_path, [])
    steps: list[int] = []
    log.default_logger.output_formats.append(_Recorder(steps))
    trainer = make_bc(arrays(64), custom_logger=log)
    trainer.train(n_batches=2, log_interval=1, progress_bar=False)
    trainer.train(n_batches=1, log_interval=1, progress_bar=False)
    trainer.train(n_batches=2, log_interval=1, progress_bar=False, reset_tensorboard=True)
    assert steps == [0, 1, 2, 0, 1]


class _Recorder(KVWriter):
    def __init__(self, steps: list[int]) -> None:
        self._steps = steps

    def write(self, key_values: Any, key_excluded: Any, step: int = 0) -> None:
        self._steps.append(step)

    def close(self) -> None: ...


# --- reproducible -----------------------------------------------------------------------------------------------

_RUN = """
import hashlib, numpy as np
from gymnasium import spaces
from understudy.algorithms import bc
from understudy.data import rollout
from understudy.policies.serialize import load_policy
from understudy.util import logger
from understudy.util.util import make_vec_env
rng = np.random.default_rng(7)
venv = make_vec_env("CartPole-v1", rng=rng, n_envs=2)
demos = rollout.rollout(load_policy("bundled", venv), venv, rollout.make_min_episodes(3), rng=rng)
trainer = bc.BC(observation_space=venv.observation_space, action_space=venv.action_space, rng=rng,
                demonstrations=demos, custom_logger=logger.configure(format_strs=[]))
trainer.train(n_epochs=2, log_interval=10, log_rollouts_venv=venv, log_rollouts_n_episodes=1, progress_bar=False)
digest = hashlib.sha256()
for value in trainer.policy.state_dict().values():
    digest.update(value.numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.defect("B29")
@pytest.mark.fault("F24")
def test_one_seed_gives_the_same_bytes_in_fresh_processes() -> None:
    """Any PYTHONHASHSEED, whatever the global generators hold."""
    digests = []
    for hash_seed in ("1", "4242"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, "-c", _RUN], env=env, capture_output=True, text=True, check=True)
        digests.append(done.stdout.strip())
    assert digests[0] == digests[1]
    assert len(digests[0]) == 64


def test_the_callers_global_generators_are_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    make_bc(arrays(64)).train(n_epochs=1, progress_bar=False)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # type: ignore[index]  # noqa: NPY002


def test_without_rng_a_seed_is_drawn_and_told(caplog: pytest.LogCaptureFixture) -> None:
    make_bc(arrays(8), rng=None)
    assert "drew the seed" in caplog.text


# --- the policy afterwards --------------------------------------------------------------------------------------


def test_after_training_the_policy_is_an_ordinary_one(tmp_path: Path) -> None:
    trainer = make_bc(arrays(64))
    trainer.train(n_epochs=1, progress_bar=False)
    policy = trainer.policy
    obs, _ = linear_expert(10)
    expected, _ = policy.predict(obs, deterministic=True)
    policy.save(str(tmp_path / "policy"))
    loaded = type(policy).load(str(tmp_path / "policy"))
    assert (loaded.predict(obs, deterministic=True)[0] == expected).all()
    trainer.save_policy(tmp_path / "clone.safetensors")
    again = bc.reconstruct_policy(str(tmp_path / "clone.safetensors"))
    assert (again.predict(obs, deterministic=True)[0] == expected).all()
    assert (copy.deepcopy(policy).predict(obs, deterministic=True)[0] == expected).all()
    assert len({p.untyped_storage().data_ptr() for p in policy.parameters()}) == len(list(policy.parameters()))
    assert (policy.to("cpu").predict(obs, deterministic=True)[0] == expected).all()
    policy.double()
    assert {p.dtype for p in policy.parameters()} == {torch.float64}
    assert trainer.train(n_epochs=1, progress_bar=False).fit.n_samples == 64


def test_a_ppo_policy_is_trained_in_place_and_goes_on_with_rl(cartpole_venv: VecEnv) -> None:
    model = PPO("MlpPolicy", cartpole_venv, n_steps=32, batch_size=32, seed=0)
    trainer = make_bc(arrays(256), policy=model.policy, observation_space=cartpole_venv.observation_space)
    assert trainer.policy is model.policy
    before = sha(model.policy)
    trainer.train(n_epochs=2, progress_bar=False)
    cloned = sha(model.policy)
    assert cloned != before
    model.learn(64)
    assert sha(model.policy) != cloned
    assert model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(3e-4)


def test_the_default_policy_has_a_finite_learning_rate() -> None:
    rates = {group["lr"] for group in make_bc(arrays(8)).policy.optimizer.param_groups}
    assert all(0 < rate < 1 for rate in rates)


# --- met at the door --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"batch_size": 0}, ConfigError),
        ({"minibatch_size": 5}, ConfigError),
        ({"minibatch_size": 64}, ConfigError),
        ({"optimizer_kwargs": {"weight_decay": 0.1}}, ConfigError),
        ({"optimizer_cls": torch.optim.LBFGS}, ConfigError),
        ({"ent_weight": -1.0}, ConfigError),
        ({"l2_weight": float("nan")}, ConfigError),
        ({"action_space": spaces.Dict({"a": ACT})}, ValueError),
        ({"observation_space": spaces.Tuple([OBS, OBS])}, ValueError),
        ({"observation_space": spaces.Dict({"a": spaces.Dict({"b": OBS})})}, ValueError),
        ({"policy": torch.nn.Linear(2, 2)}, ConfigError),
    ],
)
def test_bad_options_are_refused_at_construction(kwargs: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"expected .* got .* Do this: "):
        make_bc(**kwargs)


_BOX3 = spaces.Box(-1, 1, (3,), np.float32)


@pytest.mark.fault("F9")
@pytest.mark.parametrize(
    ("policy_spaces", "own_spaces"),
    [
        ((OBS, ACT), (_BOX3, ACT)),
        ((OBS, ACT), (OBS, spaces.Discrete(3))),
        ((OBS, ACT), (OBS, spaces.MultiBinary(2))),
        ((OBS, _BOX3), (OBS, ACT)),
        ((OBS, _BOX3), (OBS, spaces.Box(-2, 2, (3,), np.float32))),
        ((spaces.Discrete(4), ACT), (OBS, ACT)),
        ((spaces.Box(0, 255, (3, 36, 36), np.uint8), ACT), (spaces.Box(0, 255, (3, 40, 40), np.uint8), ACT)),
    ],
)
def test_a_policy_for_other_spaces_is_refused_showing_both(policy_spaces: Any, own_spaces: Any) -> None:
    policy = ActorCriticPolicy(*policy_spaces, lambda _: 1e-3)
    with pytest.raises(SpaceMismatchError) as caught:
        make_bc(policy=policy, observation_space=own_spaces[0], action_space=own_spaces[1])
    differing = 0 if policy_spaces[0] != own_spaces[0] else 1
    assert str(policy_spaces[differing]) in str(caught.value)
    assert str(own_spaces[differing]) in str(caught.value)


@pytest.mark.fault("F9")
@pytest.mark.parametrize(
    ("obs_shape", "acts"),
    [
        ((5,), [0, 1]),
        ((), [0, 1]),
        ((4, 1), [0, 1]),
        ((4,), [0, 2]),
        ((4,), [-1, 0]),
        ((4,), [[0, 1], [1, 0]]),
        ((4,), [0.5, 1.0]),
    ],
)
def test_demonstrations_for_other_spaces_are_refused(obs_shape: tuple[int, ...], acts: list[Any]) -> None:
    with pytest.raises(SpaceMismatchError):
        make_bc({"obs": np.zeros((2, *obs_shape), np.float32), "acts": np.array(acts)})


@pytest.mark.fault("F9")
def test_rollout_environments_with_other_spaces_are_refused() -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    venv = DummyVecEnv([lambda: gym.make("Pendulum-v1")])
    with pytest.raises(SpaceMismatchError, match="log_rollouts_venv"):
        make_bc(arrays(8), observation_space=OBS).train(n_epochs=1, log_rollouts_venv=venv, progress_bar=False)
    venv.close()


@pytest.mark.fault("F8")
@pytest.mark.parametrize("field", ["obs", "weights"])
def test_nan_is_found_before_training(field: str) -> None:
    data = arrays(8, weights=np.ones(8))
    data[field] = data[field].copy()
    data[field][5] = np.nan
    with pytest.raises(NonFiniteDataError, match=rf"`{field}`.*step 5"):
        make_bc(data)


@pytest.mark.fault("F8")
@pytest.mark.parametrize("closed", [True, False])
def test_a_diverging_run_stops_with_the_last_finite_parameters(closed: bool) -> None:
    policy = ActorCriticPolicy(OBS, ACT, lambda _: 1e-3, net_arch=[8], activation_fn=torch.nn.ReLU)
    if not closed:
        policy.mlp_extractor.policy_net.append(torch.nn.Dropout(0.0))
    trainer = make_bc(arrays(64), policy=policy, optimizer_cls=torch.optim.SGD, optimizer_kwargs={"lr": 1e30})
    with pytest.raises(TrainingDivergedError, match="learning rate"):
        trainer.train(n_epochs=100, progress_bar=False)
    assert all(bool(torch.isfinite(p).all()) for p in trainer.policy.parameters())


@pytest.mark.fault("F10")
@pytest.mark.parametrize("nothing", [[], {"obs": np.zeros((0, 4)), "acts": np.zeros(0, int)}, iter([])])
def test_nothing_to_learn_from(nothing: Any) -> None:
    with pytest.raises(EmptyDataError):
        make_bc(nothing)


def test_a_layer_replaced_behind_the_optimisers_back_is_noticed() -> None:
    trainer = make_bc(arrays(8))
    trainer.policy.action_net = torch.nn.Linear(32, 2)
    with pytest.raises(ConfigError, match=r"action_net\.weight"):
        trainer.train(n_epochs=1, progress_bar=False)


def test_training_without_demonstrations_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="set_demonstrations"):
        make_bc().train(n_epochs=1)


def test_a_used_up_loader_says_so() -> None:
    batches = iter([arrays(8)])
    trainer = make_bc(DataLoader(list(batches), batch_size=None))
    trainer.train(n_epochs=2, progress_bar=False)

    class Once(IterableDataset):  # type: ignore[type-arg]
        rows = iter([arrays(8)])

        def __iter__(self) -> Any:
            return self.rows

    with pytest.raises(EmptyDataError, match="no batch in this epoch"):
        make_bc(DataLoader(Once(), batch_size=None)).train(n_epochs=2, progress_bar=False)


@pytest.mark.fault("F25")
def test_small_networks_give_the_same_bytes_for_any_number_of_threads() -> None:
    before = torch.get_num_threads()
    digests = set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            trainer = make_bc(arrays(256))
            trainer.train(n_epochs=3, progress_bar=False)
            digests.add(sha(trainer.policy))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


def test_a_missing_gpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="device"):
        make_bc(device=f"cuda:{torch.cuda.device_count()}")


@pytest.mark.usefixtures("as_users_run_it")
def test_an_algorithm_acts_in_a_rollout_and_a_single_environment_does_not(cartpole_venv: VecEnv) -> None:
    trainer = make_bc()
    episodes = rollout.rollout(trainer, cartpole_venv, rollout.make_min_episodes(1), np.random.default_rng(0))
    assert len(episodes) >= 1
    with pytest.raises(ConfigError, match="make_vec_env"):
        rollout.rollout(trainer.policy, gym.make("CartPole-v1"), rollout.make_min_episodes(1), np.random.default_rng(0))


@pytest.mark.parametrize("plain", [True, False])
def test_layers_frozen_after_bc_was_made_stay_as_they_are(plain: bool) -> None:
    trainer = make_bc(arrays(), l2_weight=0.1)
    if not plain:
        trainer.policy.mlp_extractor.policy_net.append(torch.nn.Dropout(0.0))
        trainer = make_bc(arrays(), l2_weight=0.1, policy=trainer.policy)
    first = trainer.policy.mlp_extractor.policy_net[0].requires_grad_(False)
    before = first.weight.detach().clone()
    head = trainer.policy.action_net.weight.detach().clone()
    trainer.train(n_batches=5, progress_bar=False)
    assert trainer.path == "autograd"
    assert torch.equal(first.weight, before)
    assert not torch.equal(trainer.policy.action_net.weight, head)


def test_freezing_in_the_middle_of_a_closed_form_is_refused() -> None:
    trainer = make_bc(arrays())
    with pytest.raises(ConfigError, match="between two calls of `train`"):
        trainer.train(
            n_batches=5,
            progress_bar=False,
            on_batch_end=lambda: trainer.policy.action_net.requires_grad_(False) and None,
        )
    assert all(p.grad is None for p in trainer.policy.parameters())


def test_after_divergence_training_can_go_on() -> None:
    """The optimiser's moments, born since the last good state, go with the parameters that were spoilt."""
    policy = make_bc(arrays()).policy
    policy.mlp_extractor.policy_net.append(torch.nn.Dropout(0.0))
    trainer = make_bc(arrays(), policy=policy)
    assert trainer.path == "autograd"
    with pytest.raises(TrainingDivergedError):
        trainer.train(n_batches=5, progress_bar=False, on_batch_end=lambda: policy.action_net.bias.data.fill_(np.nan))
    trainer.train(n_batches=5, progress_bar=False)
    assert all(bool(torch.isfinite(p).all()) for p in policy.parameters())


def test_validation_sees_the_epoch_that_ends_with_the_last_batch() -> None:
    """Three of four episodes of 32 rows are three batches of 32."""
    trainer = make_bc(arrays(128, episode_ends=np.array([32, 64, 96, 128])))
    result = trainer.train(n_batches=3, progress_bar=False, validation_fraction=0.25)
    assert (result.fit.n_epochs, len(result.validation_neglogp), result.best_epoch) == (1, 1, 0)


def test_a_scheduler_of_torchs_sees_the_steps() -> None:
    trainer = make_bc(arrays(64), optimizer_kwargs={"lr": 1e-3})
    scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 1, 0.5)
    trainer.train(n_epochs=2, progress_bar=False, on_epoch_end=scheduler.step)  # no warning
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(2.5e-4)


def test_policies_with_memory_are_refused() -> None:
    class Remembering(ActorCriticPolicy):
        def get_distribution(self, obs: Any, states: Any, starts: Any) -> Any:  # type: ignore[override]
            raise NotImplementedError

    with pytest.raises(ConfigError, match="recurrent state"):
        make_bc(policy=Remembering(OBS, ACT, lambda _: 1e-3))


def test_optimisers_that_need_a_closure_are_refused() -> None:
    with pytest.raises(ConfigError, match="LBFGS"):
        make_bc(optimizer_cls=torch.optim.LBFGS)


@pytest.mark.parametrize(("rows", "options"), [(33, {}), (63, {"minibatch_size": 2, "batch_size": 32})])
def test_batch_norm_with_a_last_batch_of_one_row_is_refused_at_once(rows: int, options: dict[str, int]) -> None:
    policy = make_bc().policy
    policy.mlp_extractor.policy_net.insert(1, torch.nn.BatchNorm1d(32))
    with pytest.raises(ConfigError, match="another batch size"):
        make_bc(arrays(rows), policy=policy, **options).train(n_epochs=1, progress_bar=False)
    make_bc(arrays(rows - 1), policy=policy, **options).train(n_epochs=1, progress_bar=False)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_long_unsigned_actions(dtype: type) -> None:
    obs, acts = linear_expert(64)
    trainer, wide = make_bc({"obs": obs, "acts": acts}), make_bc({"obs": obs, "acts": acts.astype(dtype)})
    for each in (trainer, wide):
        each.train(n_epochs=1, progress_bar=False)
    assert torch.equal(trainer.policy.action_net.weight, wide.policy.action_net.weight)


def test_bfloat16_from_a_loader_is_named() -> None:
    rows = [{"obs": torch.zeros(4, dtype=torch.bfloat16), "acts": torch.tensor(0)}] * 4
    with pytest.raises(DataError, match="bfloat16"):
        make_bc(DataLoader(rows, batch_size=2)).train(n_epochs=1, progress_bar=False)  # type: ignore[arg-type]


def test_chunks_of_one_hot_observations_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 500 choices each row becomes 2,000 bytes: chunks of 4 MiB hold 2,080 rows in batches of 32."""
    data = {"obs": np.arange(10_000) % 500, "acts": np.arange(10_000) % 2}
    trainer = make_bc(data, observation_space=spaces.Discrete(500))
    source = source_of(trainer, monkeypatch)
    assert max(len(chunk) for chunk in source.epoch()) == 4 * 2**20 // (2_000 * 32) * 32 == 2_080
