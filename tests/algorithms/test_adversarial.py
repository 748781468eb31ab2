"""GAIL and AIRL: rounds, what the learner is paid, what the discriminator sees."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from understudy.algorithms.adversarial._samples import ExpertRows, LearnerRows
from understudy.algorithms.adversarial.airl import AIRL
from understudy.algorithms.adversarial.common import AdversarialTrainer, compute_train_stats
from understudy.algorithms.adversarial.gail import GAIL, RewardNetFromDiscriminatorLogit
from understudy.data import rollout
from understudy.data.dict_obs import DictObs
from understudy.data.types import TrajectoryWithRew
from understudy.errors import CallOrderError, ConfigError, DataError, TrainingDivergedError
from understudy.rewards.reward_nets import BasicRewardNet, BasicShapedRewardNet, NormalizedRewardNet
from understudy.util.logger import HierarchicalLogger, configure
from understudy.util.networks import RunningNorm

HORIZON = 16


class Walk(gym.Env[Any, Any]):
    """A point pushed about, for ``HORIZON`` steps; in the given form of observations and actions."""

    def __init__(self, obs: str = "vector", act: str = "box", terminates: bool = False) -> None:
        box = spaces.Box(-10, 10, (2,), np.float32)
        image = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        self.observation_space = {"vector": box, "image": image, "dict": spaces.Dict({"at": box, "t": image})}[obs]
        self.action_space = {
            "box": spaces.Box(-2, 2, (2,), np.float32),
            "discrete": spaces.Discrete(4),
            "multidiscrete": spaces.MultiDiscrete([3, 3]),
            "multibinary": spaces.MultiBinary(2),
        }[act]
        self._form, self._terminates = obs, terminates

    def _obs(self) -> Any:
        image = np.full((36, 36, 1), 10 * self._t % 256, np.uint8)
        at = np.clip(self._at, -10, 10).astype(np.float32)
        return {"vector": at, "image": image, "dict": {"at": at, "t": image}}[self._form]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._t, self._at = 0, self.np_random.normal(size=2)
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), f"{action!r} is no action of {self.action_space}"
        push = np.eye(4)[int(action)][:2] if isinstance(self.action_space, spaces.Discrete) else np.asarray(action)
        self._at = self._at + 0.1 * push
        self._t += 1
        over = self._t == HORIZON
        return self._obs(), -float(np.abs(self._at).sum()), over and self._terminates, over and not self._terminates, {}


def walks(n_envs: int = 2, **kwargs: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: Walk(**kwargs)] * n_envs)


def episodes(venv: VecEnv, n: int = 8) -> Any:
    venv.action_space.seed(0)
    return rollout.rollout(None, venv, rollout.make_min_episodes(n), np.random.default_rng(0), verbose=False)


def quiet(folder: Path) -> HierarchicalLogger:
    return configure(folder, ["csv"])


def ppo(venv: VecEnv, policy: str = "MlpPolicy", **kwargs: Any) -> PPO:
    return PPO(policy, venv, **{"n_steps": 32, "batch_size": 32, "n_epochs": 1, "device": "cpu", "seed": 0, **kwargs})


def made(folder: Path, kind: Any = GAIL, venv: VecEnv | None = None, learner: Any = None, **kwargs: Any) -> Any:
    venv = walks() if venv is None else venv
    net = kwargs.pop("reward_net", None) or BasicRewardNet(venv.observation_space, venv.action_space)
    return kind(
        demonstrations=kwargs.pop("demonstrations", None) or episodes(venv),
        venv=venv,
        gen_algo=ppo(venv) if learner is None else learner,
        reward_net=net,
        custom_logger=quiet(folder),
        rng=0,
        **{"demo_batch_size": 32, **kwargs},
    )


@pytest.mark.parametrize("kind", [GAIL, AIRL])
def test_rounds_of_learner_and_discriminator(kind: type[AdversarialTrainer], tmp_path: Path) -> None:
    trainer = made(tmp_path, kind, n_disc_updates_per_round=3)
    before = [p.clone() for p in trainer._reward_net.parameters()]
    rounds: list[int] = []
    trainer.train(3 * 64 + 20, callback=rounds.append)
    assert rounds == [0, 1, 2]
    assert trainer.n_disc_updates == 9
    assert trainer.gen_algo.num_timesteps == 192
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer._reward_net.parameters(), strict=True))


@pytest.mark.defect("B1")
def test_the_learners_schedules_fall_once_over_the_whole_training(tmp_path: Path) -> None:
    venv, rates = walks(), []

    class Watches(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            rates.append(self.model.lr_schedule(self.model._current_progress_remaining))

    made(tmp_path, venv=venv, learner=ppo(venv, learning_rate=lambda left: left)).train(
        4 * 64, learner_callback=Watches()
    )
    np.testing.assert_allclose(rates, [1.0, 0.75, 0.5, 0.25])


@pytest.mark.defect("C2")
def test_rewards_are_asked_for_once_a_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = made(tmp_path)
    asked: list[int] = []
    original = type(trainer.reward_train).predict_processed

    def counted(self: Any, state: Any, action: Any, next_state: Any, done: Any, **kwargs: Any) -> np.ndarray:
        asked.append(len(action))
        return np.asarray(original(self, state, action, next_state, done, **kwargs))

    monkeypatch.setattr(type(trainer.reward_train), "predict_processed", counted)
    trainer.train(3 * 64)
    assert asked == [64, 64, 64]


@pytest.mark.defect("B3")
def test_both_see_executed_actions(tmp_path: Path) -> None:
    venv = walks()
    trainer = made(tmp_path, venv=venv, learner=ppo(venv, policy_kwargs={"log_std_init": 1.0}))
    trainer.train(128)
    rows = trainer._payment.rows.rows
    assert np.abs(rows["acts"]).max() == 2.0, "some were clipped"
    assert (np.abs(rows["acts"]) == 2.0).mean() < 0.9


@pytest.mark.defect("B5")
@pytest.mark.parametrize("terminates", [False, True])
def test_done_means_terminated(terminates: bool, tmp_path: Path) -> None:
    trainer = made(tmp_path, venv=walks(terminates=terminates))
    trainer.train(128)
    assert trainer._payment.rows.rows["dones"].sum() == (4 if terminates else 0)
    assert trainer._expert.rows["dones"].any() == terminates


@pytest.mark.defect("B7")
@pytest.mark.parametrize("kind", [GAIL, AIRL])
def test_the_wrapped_nets_own_preprocess_and_normaliser_are_used(kind: Any, tmp_path: Path) -> None:
    venv = walks()

    class Halves(BasicRewardNet):
        calls = 0

        def preprocess(self, *rows: Any) -> Any:
            type(self).calls += 1
            return super().preprocess(*rows)

    inner = Halves(venv.observation_space, venv.action_space, normalize_input_layer=RunningNorm)
    net = NormalizedRewardNet(inner, RunningNorm)
    trainer = made(tmp_path, kind, venv=venv, reward_net=net)
    trainer.train(128)
    assert Halves.calls >= 2 * (2 + 1)
    assert inner.mlp.normalize_input.count > 0
    assert net.normalize_output_layer.count > 0


@pytest.mark.defect("B8")
def test_no_environment_is_left_out_of_a_small_buffer() -> None:
    rows = {
        "obs": np.arange(400).reshape(-1, 1),
        "acts": np.arange(400) % 4,
        "next_obs": np.arange(400).reshape(-1, 1),
        "dones": np.zeros(400, bool),
    }
    kept = LearnerRows(100)
    kept.store(rows, np.random.default_rng(0))
    assert len(kept) == 100
    assert np.bincount(kept.rows["acts"]).min() > 10  # type: ignore[index]
    assert (kept.rows["obs"] < 200).mean() == pytest.approx(0.5, abs=0.15)  # type: ignore[index]


def test_a_large_buffer_keeps_the_newest() -> None:
    def of(start: int, n: int) -> dict[str, Any]:
        x = np.arange(start, start + n)
        return {"obs": x[:, None], "acts": x, "next_obs": x[:, None], "dones": np.zeros(n, bool)}

    kept = LearnerRows(10)
    for start in (0, 4, 8):
        kept.store(of(start, 4), np.random.default_rng(0))
    np.testing.assert_array_equal(kept.rows["acts"], np.arange(2, 12))  # type: ignore[index]


@pytest.mark.defect("B18")
def test_each_of_the_experts_rows_comes_once_a_pass() -> None:
    x = np.arange(10)
    expert = ExpertRows({"obs": x, "acts": x, "next_obs": x, "dones": x}, 4)
    rng = np.random.default_rng(0)
    seen = np.concatenate([expert.next_batch(rng)["acts"] for _ in range(5)])
    np.testing.assert_array_equal(np.bincount(seen), np.full(10, 2))


@pytest.mark.defect("B25")
@pytest.mark.parametrize("kind", [GAIL, AIRL])
@pytest.mark.parametrize("act", ["box", "discrete", "multidiscrete", "multibinary"])
@pytest.mark.parametrize("obs", ["vector", "image", "dict"])
def test_space_matrix(kind: Any, obs: str, act: str, tmp_path: Path) -> None:
    venv = walks(obs=obs, act=act)
    policy = {"vector": "MlpPolicy", "image": "CnnPolicy", "dict": "MultiInputPolicy"}[obs]
    if obs == "image":
        from understudy.rewards.reward_nets import CnnRewardNet

        net: Any = CnnRewardNet(venv.observation_space, venv.action_space)
    else:
        net = BasicRewardNet(venv.observation_space, venv.action_space)
    trainer = made(tmp_path, kind, venv, ppo(venv, policy), reward_net=net)
    trainer.train(128)
    assert trainer.n_disc_updates == 4


@pytest.mark.defect("B27")
def test_demonstrations_of_different_lengths_are_refused_at_construction(tmp_path: Path) -> None:
    found = episodes(walks())
    first = found[0]
    cut = TrajectoryWithRew(first.obs[:9], first.acts[:8], None, True, first.rews[:8])
    with pytest.raises(DataError, match="one length"):
        made(tmp_path, demonstrations=[*found, cut])


@pytest.mark.defect("B27")
@pytest.mark.parametrize("learner", ["PPO", "SAC"])
def test_environments_of_another_length_are_refused_before_they_teach_anything(learner: str, tmp_path: Path) -> None:
    venv = DummyVecEnv([lambda: gym.wrappers.TimeLimit(Walk(), 12)] * 2)
    model: Any = ppo(venv) if learner == "PPO" else SAC("MlpPolicy", venv, learning_starts=23, device="cpu")
    trainer = made(tmp_path, venv=venv, demonstrations=episodes(walks()), learner=model)
    before = torch.nn.utils.parameters_to_vector(trainer.policy.parameters()).clone()
    with pytest.raises(DataError, match="the environment"):
        trainer.train(640)
    assert trainer.gen_algo.num_timesteps == (64 if learner == "PPO" else 24)
    torch.testing.assert_close(torch.nn.utils.parameters_to_vector(trainer.policy.parameters()), before)


@pytest.mark.defect("B30")
def test_figures_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    whole, pieces = (made(tmp_path / str(n), demo_minibatch_size=n) for n in (32, 8))
    pieces._reward_net.load_state_dict(whole._reward_net.state_dict())
    samples = {name: rows[:32] for name, rows in whole._expert.rows.items()}
    other = {name: rows[32:64] for name, rows in whole._expert.rows.items()}
    first = whole.train_disc(expert_samples=samples, gen_samples=other)
    second = pieces.train_disc(expert_samples=samples, gen_samples=other)
    assert first == pytest.approx(second, abs=1e-5)
    assert first["n_expert"] == first["n_generated"] == 32
    for a, b in zip(whole._reward_net.parameters(), pieces._reward_net.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_figures_by_hand() -> None:
    logits, labels = torch.tensor([2.0, -1.0, -3.0, 5.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    stats = compute_train_stats(logits, labels, torch.tensor(0.5))
    assert stats["disc_loss"] == 0.5
    assert stats["disc_acc"] == stats["disc_acc_expert"] == stats["disc_acc_gen"] == 0.5
    assert stats["disc_proportion_expert_pred"] == stats["disc_proportion_expert_true"] == 0.5
    assert stats["disc_saturation"] == 0.25  # of |l| > log 99 = 4.595, only 5


@pytest.mark.parametrize(
    ("form", "expected"), [("-log(1-D)", 1.3132617), ("log D", -0.3132617), ("log D - log(1-D)", 1.0)]
)
def test_reward_forms_of_a_logit_of_one(form: Any, expected: float, tmp_path: Path) -> None:
    venv = walks()
    net = BasicRewardNet(venv.observation_space, venv.action_space)
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    list(net.parameters())[-1].data.fill_(1.0)
    trainer = made(tmp_path, venv=venv, reward_net=net, reward_form=form)
    rows = trainer._expert.rows
    paid = trainer.reward_train.predict(rows["obs"], rows["acts"], rows["next_obs"], rows["dones"])
    np.testing.assert_allclose(paid, expected, rtol=1e-5)
    assert isinstance(trainer.reward_test, RewardNetFromDiscriminatorLogit)


def test_airls_logits_are_the_net_less_the_log_probability(tmp_path: Path) -> None:
    trainer = made(tmp_path, AIRL)
    rows = {name: value[:5] for name, value in trainer._expert.rows.items()}
    ready = trainer._reward_net.preprocess(rows["obs"], rows["acts"], rows["next_obs"], rows["dones"])
    log_probs = trainer._log_probs(rows)
    policy = trainer.policy
    by_hand = policy.get_distribution(torch.as_tensor(rows["obs"])).log_prob(torch.as_tensor(rows["acts"]))
    torch.testing.assert_close(log_probs, by_hand.detach())
    logits = trainer.logits_expert_is_high(*ready, log_probs)
    torch.testing.assert_close(logits, trainer._reward_net(*ready) - by_hand.detach())
    with pytest.raises(ConfigError, match="log_policy_act_prob"):
        trainer.logits_expert_is_high(*ready)


def test_airls_reward_for_others_has_no_shaping(tmp_path: Path) -> None:
    venv = walks()
    net = BasicShapedRewardNet(venv.observation_space, venv.action_space)
    trainer = made(tmp_path, AIRL, venv=venv, reward_net=net)
    assert trainer.reward_train is net
    assert trainer.reward_test is net.base


@pytest.mark.parametrize("learner", ["SAC", "TD3", "DQN", "A2C"])
def test_other_learners(learner: str, tmp_path: Path) -> None:
    venv = walks(act="discrete" if learner == "DQN" else "box")
    options: dict[str, Any] = {"device": "cpu", "seed": 0}
    model: Any = {
        "SAC": lambda: SAC("MlpPolicy", venv, learning_starts=20, **options),
        "TD3": lambda: TD3("MlpPolicy", venv, learning_starts=20, **options),
        "DQN": lambda: DQN("MlpPolicy", venv, learning_starts=20, **options),
        "A2C": lambda: A2C("MlpPolicy", venv, n_steps=8, **options),
    }[learner]()
    trainer = made(tmp_path, venv=venv, learner=model, gen_train_timesteps=32)
    trainer.train(128)
    assert trainer.n_disc_updates == 8


@pytest.mark.defect("B2")
def test_an_off_policy_learners_rows_are_as_many_as_its_replay_holds(tmp_path: Path) -> None:
    venv = walks()
    model = SAC("MlpPolicy", venv, learning_starts=20, buffer_size=100, device="cpu", seed=0)
    trainer = made(tmp_path, venv=venv, learner=model, gen_train_timesteps=32)
    trainer.train(128)
    assert len(trainer._payment.rows) == 100
    assert len(np.unique(trainer._payment.rows.rows["obs"], axis=0)) >= 90


def test_airl_refuses_learners_without_probabilities(tmp_path: Path) -> None:
    venv = walks()
    with pytest.raises(ConfigError, match="GAIL"):
        made(tmp_path, AIRL, venv=venv, learner=TD3("MlpPolicy", venv, device="cpu"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"demo_batch_size": 10_000}, "at least `demo_batch_size`"),
        ({"demo_minibatch_size": 5}, "divides"),
        ({"demo_batch_size": 0}, "≥ 1"),
        ({"gen_replay_buffer_capacity": 0}, "≥ 1"),
        ({"gen_train_timesteps": 0}, "≥ 1"),
    ],
)
def test_contradictory_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        made(tmp_path, **options)


def test_less_than_a_round_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a round, 64 steps"):
        made(tmp_path).train(63)


def test_the_discriminator_needs_steps_of_the_learner_first(tmp_path: Path) -> None:
    trainer = made(tmp_path)
    with pytest.raises(CallOrderError, match="train_gen"):
        trainer.train_disc()
    trainer.train_gen()
    assert trainer.train_disc()["n_generated"] == 32
    with pytest.raises(ConfigError, match="gen_samples"):
        trainer.train_disc(gen_samples={k: v[:5] for k, v in trainer._payment.rows.rows.items()})


def test_a_discriminator_that_is_not_a_number_stops_with_its_parameters_as_they_were(tmp_path: Path) -> None:
    trainer = made(tmp_path)
    trainer.train_gen()
    rows = {name: value[:32].copy() for name, value in trainer._expert.rows.items()}
    rows["obs"][0] = np.nan
    before = [p.clone() for p in trainer._reward_net.parameters()]
    with pytest.raises(TrainingDivergedError):
        trainer.train_disc(expert_samples=rows)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer._reward_net.parameters(), strict=True))


def test_the_environments_reward_on_request(tmp_path: Path) -> None:
    trainer = made(tmp_path, debug_use_ground_truth=True)
    trainer.train(128)
    assert trainer.gen_algo.rollout_buffer.rewards.max() < 0, "the environment never pays more than 0"
    assert trainer.n_disc_updates == 4


def test_everything_is_logged_under_its_names(tmp_path: Path) -> None:
    made(tmp_path).train(128)
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for key in (
        "mean/disc/disc_loss",
        "mean/disc/disc_acc",
        "mean/gen/rollout/ep_rew_wrapped_mean",
        "mean/gen/train/loss",
    ):
        assert rows[-1][key], key
    assert (tmp_path / "raw" / "disc" / "progress.csv").exists()
    assert (tmp_path / "raw" / "gen" / "progress.csv").exists()


@pytest.mark.defect("B29")
def test_one_seed_decides_everything(tmp_path: Path) -> None:
    found = []
    for n in range(2):
        torch.manual_seed(0)
        trainer = made(tmp_path / str(n))
        trainer.train(192)
        parts = [*trainer.policy.parameters(), *trainer._reward_net.parameters()]
        found.append(torch.nn.utils.parameters_to_vector(parts).detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("learner", ["PPO", "SAC"])
def test_a_second_training_begins_with_new_episodes(learner: str, tmp_path: Path) -> None:
    venv = walks()
    model: Any = ppo(venv, n_steps=20, batch_size=20) if learner == "PPO" else SAC("MlpPolicy", venv, device="cpu")
    trainer = made(tmp_path, venv=venv, learner=model, gen_train_timesteps=40)
    for _ in range(2):
        trainer.train(40)  # 20 steps an environment: an episode of 16 and 4 steps of another, which the reset ends
    assert trainer.n_rounds == 2


def test_steps_of_a_rollout_that_a_callback_broke_off_are_kept(tmp_path: Path) -> None:
    trainer = made(tmp_path, gen_replay_buffer_capacity=1000)
    trainer.train(192, learner_callback=lambda found, _: found["self"].num_timesteps < 74)
    assert trainer.gen_algo.num_timesteps == len(trainer._payment.rows) == 74
    trainer.train(64)
    assert len(trainer._payment.rows) == 138


def test_behind_a_normaliser_both_see_the_environments_observations(tmp_path: Path) -> None:
    seen: list[np.ndarray] = []

    class Watched(Walk):
        def _obs(self) -> Any:
            seen.append(super()._obs())
            return seen[-1].copy()

    venv = VecNormalize(DummyVecEnv([Watched]), clip_obs=100.0)
    trainer = made(tmp_path, venv=venv, learner=ppo(venv), demonstrations=episodes(walks()))
    seen.clear()
    trainer.train_gen()
    rows = trainer._payment.rows.rows
    ours = np.array(seen)[[n for n in range(len(seen)) if n % (HORIZON + 1) != HORIZON][:32]]
    np.testing.assert_array_equal(rows["obs"], ours)
    np.testing.assert_allclose(rows["next_obs"][HORIZON - 1], seen[HORIZON], atol=1e-5)  # an episode's last


def test_rounds_are_whole_rollouts_within_the_budget(tmp_path: Path) -> None:
    trainer, rounds = made(tmp_path, gen_train_timesteps=100), list[int]()
    assert trainer.gen_train_timesteps == 128
    trainer.train(300, callback=rounds.append)
    assert rounds == [0, 1]
    assert trainer.gen_algo.num_timesteps == 256
    venv = walks(act="discrete")
    assert made(tmp_path, venv=venv, learner=DQN("MlpPolicy", venv, device="cpu")).gen_train_timesteps == 8


def test_airl_refuses_recurrent_learners(tmp_path: Path) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    venv = walks()
    learner = contrib.RecurrentPPO("MlpLstmPolicy", venv, n_steps=32, batch_size=32, device="cpu")
    with pytest.raises(ConfigError, match="GAIL"):
        made(tmp_path, AIRL, venv=venv, learner=learner)


def test_sacs_log_probabilities_are_densities_of_the_environments_actions(tmp_path: Path) -> None:
    venv = walks(act="box")  # in [-2, 2]
    trainer = made(tmp_path, AIRL, venv=venv, learner=SAC("MlpPolicy", venv, device="cpu", seed=0))
    grid = np.linspace(-1.999, 1.999, 301, dtype=np.float32)
    acts = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    obs = np.zeros((len(acts), 2), np.float32)
    rows = {"obs": obs, "acts": acts, "next_obs": obs, "dones": np.zeros(len(acts), bool)}
    total = trainer._log_probs(rows).exp().sum() * (grid[1] - grid[0]) ** 2
    assert float(total) == pytest.approx(1.0, abs=0.05)
    rows["acts"] = np.where(acts > 0, 2.0, -2.0).astype(np.float32)
    assert torch.isfinite(trainer._log_probs(rows)).all(), "at the bounds too"


def test_normalisers_do_not_move_in_an_update_that_fails(tmp_path: Path) -> None:
    venv = walks()
    net = BasicRewardNet(venv.observation_space, venv.action_space, normalize_input_layer=RunningNorm)
    trainer = made(tmp_path, venv=venv, reward_net=net)
    trainer.train(64)
    rows = {name: value[:32].copy() for name, value in trainer._expert.rows.items()}
    rows["obs"][0] = np.nan
    before = [buffer.clone() for buffer in net.buffers()]
    with pytest.raises(TrainingDivergedError):
        trainer.train_disc(expert_samples=rows)
    assert before
    assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))


def test_without_any_seed_one_is_drawn_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    venv = walks()
    net = BasicRewardNet(venv.observation_space, venv.action_space)
    options: dict[str, Any] = {"demonstrations": episodes(venv), "demo_batch_size": 8, "venv": venv, "reward_net": net}
    trainer = GAIL(**options, gen_algo=ppo(venv, seed=None), custom_logger=quiet(tmp_path))
    seed = int(caplog.text.split("rng=")[1].split(" ")[0])
    assert np.random.default_rng(seed).bit_generator.state == trainer.rng.bit_generator.state


@pytest.mark.parametrize("as_dict", [False, True])
def test_a_ring_of_rows_gives_what_a_list_would(as_dict: bool) -> None:
    kept, told, rng = LearnerRows(13), np.empty(0, int), np.random.default_rng(0)
    for size in [3, 1, 4, 2, 5, 12, 1, 13, 2, 6]:
        x = np.arange(size) + (told[-1] + 1 if len(told) else 0)
        obs: Any = DictObs({"a": x[:, None]}) if as_dict else x[:, None]
        kept.store({"obs": obs, "acts": x, "next_obs": obs, "dones": x < 0}, rng)
        told = np.concatenate([told, x])[-13:]
        rows: Any = kept.rows
        np.testing.assert_array_equal(rows["acts"], told)
        np.testing.assert_array_equal((rows["obs"].get("a") if as_dict else rows["obs"])[:, 0], told)
        other = LearnerRows(13)
        other.restore(kept.state())
        drawn = [each.sample(50, np.random.default_rng(1))["acts"] for each in (kept, other)]
        np.testing.assert_array_equal(*drawn)
        assert set(drawn[0]) <= set(told.tolist())
