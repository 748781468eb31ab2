"""Which spaces behavioural cloning covers: all that a Stable-Baselines3 policy takes, each trained and asked here."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy

from understudy.algorithms import bc
from understudy.data.types import DictObs
from understudy.errors import UnsupportedSpaceError
from understudy.util import logger

IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
OBSERVATIONS: dict[str, gym.Space[Any]] = {
    "Box": spaces.Box(-1, 1, (4,), np.float32),
    "Box float64": spaces.Box(-1, 1, (2, 3), np.float64),
    "Discrete": spaces.Discrete(5),
    "MultiDiscrete": spaces.MultiDiscrete([3, 4]),
    "MultiBinary": spaces.MultiBinary(4),
    "image CHW": IMAGE,
    "image HWC": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "Dict": spaces.Dict({"pose": spaces.Box(-1, 1, (3,), np.float32), "mode": spaces.Discrete(3), "camera": IMAGE}),
}
ACTIONS: dict[str, gym.Space[Any]] = {
    "Discrete": spaces.Discrete(3),
    "Discrete start 2": spaces.Discrete(3, start=2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiDiscrete start -1": spaces.MultiDiscrete([2, 3], start=[-1, 5]),
    "MultiBinary": spaces.MultiBinary(3),
    "Box": spaces.Box(-2, 2, (2,), np.float32),
    "Box 2-D": spaces.Box(-1, 1, (2, 2), np.float64),
}


def sampled(space: gym.Space[Any], n: int) -> Any:
    space.seed(0)
    rows = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return DictObs({key: np.stack([np.asarray(row[key]) for row in rows]) for key in space.spaces})
    return np.stack(rows)


def clone(obs_space: gym.Space[Any], act_space: gym.Space[Any], policy: Any = None) -> tuple[str, float, float, bc.BC]:
    """(path, loss before, loss after 30 steps on 16 samples, trainer)."""
    n = 16
    obs, acts = sampled(obs_space, n), sampled(act_space, n)
    trainer = bc.BC(
        observation_space=obs_space,
        action_space=act_space,
        rng=0,
        policy=policy,
        demonstrations={"obs": obs, "acts": acts},
        batch_size=8,
        ent_weight=0.0,
        optimizer_kwargs={"lr": 3e-3},
        custom_logger=logger.configure(format_strs=[]),
    )

    def loss() -> float:
        with torch.no_grad():
            tensors, _ = trainer.policy.obs_to_tensor(obs.unwrap() if isinstance(obs, DictObs) else obs)
            return float(trainer.loss_calculator(trainer.policy, tensors, acts).neglogp)

    before = loss()
    trainer.train(n_batches=30, progress_bar=False)
    raw = obs.unwrap() if isinstance(obs, DictObs) else obs
    for deterministic in (True, False):
        answers, _ = trainer.policy.predict(raw, deterministic=deterministic)
        assert all(act_space.contains(a.astype(act_space.dtype)) for a in answers)
    return trainer.path, before, loss(), trainer


def test_space_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    """Every pair of spaces trains, its loss falls, and the policy answers inside the space. The table is printed."""
    lines = [f"{'observation':<14}" + "".join(f"{name:>24}" for name in ACTIONS)]
    for obs_name, obs_space in OBSERVATIONS.items():
        cells = []
        for act_space in ACTIONS.values():
            path, before, after, _ = clone(obs_space, act_space)
            assert after < before, (obs_name, act_space)
            cells.append(f"{path} {before:.2f}→{after:.2f}")
        lines.append(f"{obs_name:<14}" + "".join(f"{cell:>24}" for cell in cells))
    with capsys.disabled():
        print("\nBC, negative log-likelihood before → after 30 steps\n" + "\n".join(lines))


@pytest.mark.parametrize("obs_name", ["image CHW", "image HWC", "Dict"])
def test_convolutional_policies(obs_name: str) -> None:
    space = OBSERVATIONS[obs_name]
    act = ACTIONS["Discrete"]
    if obs_name == "Dict":
        policy: ActorCriticPolicy = MultiInputActorCriticPolicy(space, act, lambda _: 1e-3)  # type: ignore[arg-type]
    else:
        policy = ActorCriticCnnPolicy(IMAGE, act, lambda _: 1e-3)  # channels-first, as Stable-Baselines3 makes it
    path, before, after, _ = clone(space, act, policy)
    assert path == "autograd"
    assert after < before


def test_shifted_choices_are_learned_as_they_are() -> None:
    """The expert always picks the last of {2, 3, 4}: so does the clone."""
    space = spaces.Discrete(3, start=2)
    trainer = bc.BC(
        observation_space=OBSERVATIONS["Box"],
        action_space=space,
        rng=0,
        demonstrations={"obs": sampled(OBSERVATIONS["Box"], 64), "acts": np.full(64, 4)},
        optimizer_kwargs={"lr": 1e-2},
        custom_logger=logger.configure(format_strs=[]),
    )
    trainer.train(n_epochs=20, progress_bar=False)
    assert (trainer.policy.predict(sampled(OBSERVATIONS["Box"], 10), deterministic=True)[0] == 4).all()


@pytest.mark.parametrize(
    ("obs_space", "act_space"),
    [
        (spaces.Discrete(3, start=1), ACTIONS["Discrete"]),
        (spaces.Tuple([IMAGE]), ACTIONS["Discrete"]),
        (OBSERVATIONS["Box"], spaces.Tuple([ACTIONS["Discrete"]])),
        (OBSERVATIONS["Box"], spaces.MultiBinary([2, 2])),
        (OBSERVATIONS["Box"], spaces.MultiDiscrete([[2, 3], [2, 3]])),
        (OBSERVATIONS["Box"], spaces.Text(3)),
    ],
)
def test_what_cannot_work_says_so_at_construction(obs_space: gym.Space[Any], act_space: gym.Space[Any]) -> None:
    with pytest.raises(UnsupportedSpaceError, match="Do this"):
        bc.BC(observation_space=obs_space, action_space=act_space, rng=0)


def test_a_policy_that_counts_from_zero_is_refused_for_shifted_actions() -> None:
    space = spaces.Discrete(3, start=2)
    policy = ActorCriticPolicy(OBSERVATIONS["Box"], space, lambda _: 1e-3)
    with pytest.raises(UnsupportedSpaceError, match="start at 0"):
        bc.BC(observation_space=OBSERVATIONS["Box"], action_space=space, rng=0, policy=policy)
