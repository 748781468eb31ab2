"""Cloning with mixtures, squashed Gaussians and chunks of actions: what each is for, and that all doors take them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from understudy.algorithms._cloning_steps import AutogradStep, LossSettings, cloning_step
from understudy.algorithms.bc import BC, reconstruct_policy
from understudy.algorithms.checkpoints import Checkpoints
from understudy.algorithms.cloning_agent import BehavioralCloningAgent, Experience
from understudy.algorithms.dagger import SimpleDAggerTrainer
from understudy.algorithms.pretrain import pretrain
from understudy.data.batches import Batch
from understudy.data.chunks import ActionChunks
from understudy.data.demonstrations import Demonstrations, as_demonstrations
from understudy.data.types import Trajectory
from understudy.errors import ConfigError, DataError
from understudy.evaluation.returns import evaluate_returns
from understudy.policies._own_head import OwnHeadPolicy
from understudy.policies.chunks import ChunkingPolicy
from understudy.policies.mixture import GaussianMixture, MixturePolicy
from understudy.policies.squashed import SquashedGaussianPolicy
from understudy.util.lean_vec_env import LeanDummyVecEnv
from understudy.util.logger import configure

OBS = spaces.Box(-1, 1, (1,), np.float32)
ACT = spaces.Box(-2, 2, (1,), np.float32)


def make_bc(policy: Any, demonstrations: Any, **options: Any) -> BC:
    spaces_ = {"observation_space": OBS, "action_space": ACT}
    return BC(
        rng=0,
        policy=policy,
        demonstrations=demonstrations,
        custom_logger=configure(format_strs=[]),
        **{**spaces_, **options},
    )


def made(policy_class: type[OwnHeadPolicy], act: spaces.Space[Any] = ACT, **options: Any) -> OwnHeadPolicy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return policy_class(options.pop("obs", OBS), act, **{"net_arch": [16], **options})


# --- two right answers --------------------------------------------------------------------------------------------


def bimodal(n: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Whatever is observed, −1 and 1 are right, and nothing between."""
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (n, 1)).astype(np.float32), rng.choice([-1.0, 1.0], (n, 1)).astype(np.float32)


def test_a_mixture_clones_both_modes_and_a_gaussian_their_mean() -> None:
    obs = np.random.default_rng(1).uniform(-1, 1, (2000, 1)).astype(np.float32)
    answers, likeliest = {}, {}
    for policy in (made(MixturePolicy), None):
        bc = make_bc(policy, bimodal())
        bc.train(n_epochs=20, progress_bar=False)
        torch.manual_seed(0)
        answers[policy is None] = bc.policy.predict(obs)[0].ravel()
        likeliest[policy is None] = bc.policy.predict(obs, deterministic=True)[0].ravel()
    near = np.abs(np.abs(answers[False]) - 1) < 0.2
    assert near.mean() >= 0.95
    assert 0.35 < (answers[False] > 0).mean() < 0.65
    assert (np.abs(np.abs(likeliest[False]) - 1) < 0.2).all()
    # The maximum-likelihood Gaussian is N(0, 1): 58 % of it lie within 0.8, where no demonstration is.
    assert np.abs(likeliest[True]).max() < 0.25
    assert (np.abs(answers[True]) < 0.8).mean() > 0.5


# --- one algorithm, two ways to its gradient ----------------------------------------------------------------------


HEADS: dict[str, tuple[type[OwnHeadPolicy], spaces.Space[Any], dict[str, Any]]] = {
    "mixture": (MixturePolicy, ACT, {"n_components": 3}),
    "squashed": (SquashedGaussianPolicy, ACT, {}),
    "squashed, free deviation": (SquashedGaussianPolicy, ACT, {"state_dependent_std": False}),
    "chunks of numbers": (ChunkingPolicy, ACT, {"chunk_size": 2}),
    "chunks of choices": (ChunkingPolicy, spaces.MultiDiscrete([2, 3], start=[0, 4]), {"chunk_size": 2}),
    "chunks of bits": (ChunkingPolicy, spaces.MultiBinary(3), {"chunk_size": 2}),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_closed_form_is_autograd(head: str, weighted: bool) -> None:
    policy_class, space, options = HEADS[head]
    policy = made(policy_class, space, **options).double()
    rng = np.random.default_rng(0)
    space.seed(0)
    acts = np.stack([space.sample() for _ in range(12)])
    targets = torch.as_tensor(acts)
    if isinstance(policy, ChunkingPolicy):  # three episodes of four steps: in each, one chunk goes beyond the end
        demos = as_demonstrations({"obs": np.zeros((12, 1)), "acts": acts, "episode_ends": [4, 8, 12]})
        assert isinstance(demos, Demonstrations)
        targets = ActionChunks(demos, policy.chunk_size, space)(np.arange(12))
    weights = torch.as_tensor(rng.random(12)) if weighted else None
    batch = Batch(torch.as_tensor(rng.normal(size=(12, 1))), targets, weights)
    ends = []
    for closed in (True, False):
        own = copy.deepcopy(policy)
        settings = LossSettings(ent_weight=0.1, l2_weight=0.01)
        optimizer = torch.optim.SGD(own.parameters(), lr=0.05)
        step = cloning_step(own, optimizer, settings) if closed else AutogradStep(own, optimizer, settings, None)
        assert step.path == ("closed_form" if closed else "autograd")
        with step.running():
            for _ in range(3):
                step.train(step.prepare(batch))
        ends.append(torch.cat([p.detach().flatten() for p in own.parameters()]))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-10)
    start = torch.cat([p.detach().flatten() for p in policy.parameters()])
    assert not torch.allclose(ends[0], start, atol=1e-3)


# --- chunks -------------------------------------------------------------------------------------------------------


class Pauses(gym.Env[np.ndarray, int]):
    """A light shows every fourth step; the right action is 1 three steps after it, else 0. Nothing else is seen."""

    observation_space = OBS
    action_space: Any = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._t = 0
        return self._light(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        right = float(action == (self._t % 4 == 3))
        self._t += 1
        return self._light(), right, False, self._t == 12, {}

    def _light(self) -> np.ndarray:
        return np.array([self._t % 4 == 0], np.float32)


def pauses(n: int) -> list[Trajectory]:
    obs = np.tile([1.0, 0, 0, 0], 4)[:13, None].astype(np.float32)
    return [Trajectory(obs, np.tile([0, 0, 0, 1], 3), None, True) for _ in range(n)]


@pytest.fixture
def venv() -> Iterator[LeanDummyVecEnv]:
    made = LeanDummyVecEnv([Pauses for _ in range(3)])
    yield made
    made.close()


def test_a_chunk_holds_a_pause_that_single_steps_cannot(venv: LeanDummyVecEnv) -> None:
    """In the dark two of three actions are 0: single steps never act, and get 9 of 12; four steps at once get all."""
    returns = {}
    for k in (1, 4):
        policy = made(ChunkingPolicy, Pauses.action_space, chunk_size=k, open_loop=k)
        bc = make_bc(policy, pauses(40), action_space=Pauses.action_space, optimizer_kwargs={"lr": 0.01})
        bc.train(n_epochs=12, progress_bar=False)
        returns[k] = evaluate_returns(bc.policy, venv, n_episodes=6).returns
    assert returns[1].tolist() == [9.0] * 6
    assert returns[4].tolist() == [12.0] * 6


def test_joined_chunks_match_single_steps_on_cartpole(cartpole_venv: Any) -> None:
    from understudy.data.rollout import make_sample_until, rollout
    from understudy.policies.serialize import load_policy

    expert = load_policy("bundled", cartpole_venv)
    demonstrations = rollout(expert, cartpole_venv, make_sample_until(min_episodes=10), np.random.default_rng(0))
    box = cartpole_venv.observation_space
    policy = made(ChunkingPolicy, cartpole_venv.action_space, obs=box, net_arch=[32, 32], chunk_size=3)
    bc = make_bc(policy, demonstrations, observation_space=box, action_space=cartpole_venv.action_space)
    bc.train(n_epochs=8, progress_bar=False)
    assert bc.path == "closed_form"
    assert evaluate_returns(bc, "CartPole-v1", n_episodes=8).returns.mean() > 450


def test_chunks_never_cross_an_episode() -> None:
    """Episodes of one step each, in order 0, 1, 0, 1: what follows in the array is never learned."""
    obs = np.tile([0.0, 1.0], 100)[:, None].astype(np.float32)
    data = {"obs": obs, "acts": np.tile([0, 1], 100), "episode_ends": np.arange(1, 201)}
    policy = made(ChunkingPolicy, spaces.Discrete(2), chunk_size=2, ortho_init=True)
    before = policy.action_net.weight.detach().clone()  # type: ignore[operator]
    bc = make_bc(policy, data, action_space=spaces.Discrete(2), ent_weight=0.0)
    bc.train(n_epochs=3, progress_bar=False)
    after = policy.action_net.weight.detach()  # type: ignore[operator]
    assert torch.equal(after[2:], before[2:])
    assert not torch.allclose(after[:2], before[:2])


def test_data_without_episodes_is_refused_at_the_door() -> None:
    rows = (np.zeros((8, 1), np.float32), np.zeros((8, 1), np.float32))
    sources: list[Any] = [rows, torch.utils.data.DataLoader([])]  # type: ignore[arg-type]
    for data in sources:
        with pytest.raises(DataError, match="foresees actions"):
            make_bc(made(ChunkingPolicy), data)


def test_choices_may_start_anywhere() -> None:
    space = spaces.Discrete(2, start=5)
    trajectories = [Trajectory(t.obs, t.acts + 5, None, True) for t in pauses(20)]
    bc = make_bc(made(ChunkingPolicy, space, chunk_size=4), trajectories, action_space=space)
    bc.train(n_epochs=2, progress_bar=False)
    assert set(bc.policy.predict(np.zeros((50, 1), np.float32))[0].tolist()) <= {5, 6}


# --- every door ---------------------------------------------------------------------------------------------------


def episodes(space: spaces.Space[Any], n: int = 6) -> list[Trajectory]:
    space.seed(0)
    rng = np.random.default_rng(0)
    return [
        Trajectory(
            rng.uniform(-1, 1, (9, 1)).astype(np.float32), np.stack([space.sample() for _ in range(8)]), None, True
        )
        for _ in range(n)
    ]


@pytest.mark.parametrize("head", HEADS)
def test_killed_and_resumed_is_unbroken(head: str, tmp_path: Path) -> None:
    """With validation; the same bytes in every parameter, and the same result."""
    policy_class, space, options = HEADS[head]

    def train(folder: Path, kill_at: int | None, resume: bool) -> tuple[BC, Any]:
        bc = make_bc(made(policy_class, space, **options), episodes(space), action_space=space, batch_size=4)
        count = iter(range(1, 1000))

        def on_batch_end() -> None:
            if next(count) == kill_at:
                raise RuntimeError("killed")

        checkpoints = Checkpoints(folder, every=7, resume=resume)
        return bc, bc.train(
            n_epochs=4,
            validation_fraction=0.3,
            progress_bar=False,
            checkpoints=checkpoints,
            on_batch_end=on_batch_end,
        )

    whole, result = train(tmp_path / "whole", None, False)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "cut", 19, False)
    resumed, result_again = train(tmp_path / "cut", None, True)
    assert result_again == result
    assert len(result.validation_neglogp) == 4
    for (name, p), q in zip(whole.policy.named_parameters(), resumed.policy.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize("head", HEADS)
def test_trainer_and_policy_go_to_files_and_back(head: str, tmp_path: Path) -> None:
    policy_class, space, options = HEADS[head]
    bc = make_bc(made(policy_class, space, **options), episodes(space), action_space=space)
    bc.train(n_epochs=1, progress_bar=False)
    obs = np.random.default_rng(0).uniform(-1, 1, (30, 1)).astype(np.float32)
    expected, _ = bc.policy.predict(obs, deterministic=True)
    bc.save_policy(tmp_path / "policy.safetensors")
    bc.save(tmp_path / "trainer")
    again = BC.load(tmp_path / "trainer", episodes(space), custom_logger=configure(format_strs=[]))
    for policy in (reconstruct_policy(tmp_path / "policy.safetensors"), again.policy):
        assert type(policy) is policy_class
        np.testing.assert_array_equal(policy.predict(obs, deterministic=True)[0], expected)
    again.train(n_epochs=1, progress_bar=False)


@pytest.mark.parametrize(("policy_class", "options"), [(MixturePolicy, {}), (ChunkingPolicy, {"chunk_size": 3})])
def test_dagger_learns_with_them(policy_class: type[OwnHeadPolicy], options: dict[str, Any], tmp_path: Path) -> None:
    """The expert turns the observation round; after two rounds so does the policy, roughly."""

    class Mirror(gym.Env[np.ndarray, np.ndarray]):
        observation_space, action_space = OBS, ACT

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
            super().reset(seed=seed)
            self._t, self._obs = 0, np.zeros(1, np.float32)
            return self._seen(), {}

        def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            self._t += 1
            error = float(np.abs(action + self._obs).sum())
            return self._seen(), -error, False, self._t == 8, {}

        def _seen(self) -> np.ndarray:
            self._obs = self.np_random.uniform(-1, 1, 1).astype(np.float32) if self._t % 8 == 0 else self._obs
            return self._obs

    venv = LeanDummyVecEnv([Mirror for _ in range(4)])
    bc = make_bc(made(policy_class, **options), None, optimizer_kwargs={"lr": 0.01})
    trainer = SimpleDAggerTrainer(
        venv=venv, scratch_dir=tmp_path, expert_policy=lambda obs: -obs, bc_trainer=bc, rng=np.random.default_rng(0)
    )
    result = trainer.train(
        400, rollout_round_min_episodes=4, rollout_round_min_timesteps=100, bc_train_kwargs={"n_epochs": 10}
    )
    assert result is not None
    obs = np.linspace(-1, 1, 21, dtype=np.float32)[:, None]
    acts, _ = trainer.policy.predict(obs, deterministic=True)
    assert np.abs(acts + obs).mean() < 0.2


def test_pretraining_takes_a_mixture_and_refuses_chunks() -> None:
    class Still(gym.Env[np.ndarray, np.ndarray]):
        observation_space, action_space = OBS, ACT

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
            return np.zeros(1, np.float32), {}

    model = PPO(MixturePolicy, Still(), seed=0, policy_kwargs={"net_arch": [16]})
    pretrain(model, bimodal(), n_epochs=30, learning_rate=1e-2, rng=0)
    acts, _ = model.predict(np.zeros((100, 1), np.float32))
    assert (np.abs(np.abs(acts) - 1) < 0.2).mean() >= 0.95
    model = PPO(ChunkingPolicy, Still(), seed=0)
    with pytest.raises(ConfigError, match="train a ChunkingPolicy with BC"):
        pretrain(model, bimodal(), n_epochs=1, rng=0)


class MixtureNetwork(nn.Module):
    """Two Gaussians; as torch's own mixture, or as ours, which has a mode."""

    def __init__(self, ours: bool) -> None:
        super().__init__()
        self.logits, self.mean = nn.Linear(1, 2), nn.Linear(1, 2)
        self.log_std = nn.Parameter(torch.zeros(2))
        self._ours = ours
        with torch.no_grad():
            self.mean.bias.copy_(torch.tensor([-0.5, 0.5]))

    def forward(self, obs: torch.Tensor) -> Any:
        mean = self.mean(obs)[..., None]
        std = (0.02 + self.log_std.exp())[:, None].expand_as(mean)
        if self._ours:
            return GaussianMixture(self.logits(obs), mean, std)
        return MixtureSameFamily(Categorical(logits=self.logits(obs)), Independent(Normal(mean, std), 1))


@pytest.mark.parametrize("ours", [True, False])
def test_the_cloning_agent_fits_mixtures_by_likelihood(ours: bool) -> None:
    torch.manual_seed(0)
    agent = BehavioralCloningAgent(
        OBS,
        ACT,
        MixtureNetwork(ours),
        optimizer=functools.partial(torch.optim.Adam, lr=0.02),
        rng=0,
        custom_logger=configure(format_strs=[]),
    )
    obs, acts = bimodal()
    agent.fit(Experience(obs, acts), n_epochs=10, progress_bar=False)
    sampled, _ = agent.collect_policy.predict(obs)
    assert (np.abs(np.abs(sampled) - 1) < 0.2).mean() >= 0.95
    assert 0.35 < (sampled > 0).mean() < 0.65
    if ours:
        greedy, _ = agent.policy.predict(obs)
        assert (np.abs(np.abs(greedy) - 1) < 0.2).all()
