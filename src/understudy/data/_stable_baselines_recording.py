"""Steps of one environment, alone or the first of several, as the columns of an expert dataset."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import gymnasium as gym
import numpy as np
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv

from understudy.data._stable_baselines_images import CHANNELS, ImageWriter
from understudy.errors import NonFiniteDataError, SpaceMismatchError


class Step(NamedTuple):
    """What one step of the environment gave."""

    obs: Any
    """For acting next: of one environment, or of all."""
    rew: Any
    """Of the recorded environment."""
    ended: np.ndarray
    """Shape (env,)."""
    last_obs: Any
    """Of the recorded environment, where its episode ended."""
    truncated: bool
    """A time limit ended its episode."""


class Stage(Protocol):
    """An environment, or several in step, that begin the next episode by themselves."""

    n_envs: int

    def reset(self) -> Any:
        """First observations, for acting."""

    def step(self, act: np.ndarray) -> Step:
        """Act."""

    def first(self, values: Any) -> Any:
        """What of observations or actions belongs to the recorded environment."""


class StageOfOne:
    """One environment; observations and actions have no batch axis."""

    n_envs = 1

    def __init__(self, env: gym.Env[Any, Any], seed: int | None) -> None:
        self._env = env
        self._seed = seed

    def reset(self) -> Any:
        """The first episode is seeded."""
        obs, _ = self._env.reset(seed=self._seed)
        return obs

    def step(self, act: np.ndarray) -> Step:
        """Act; where that ends the episode, reset."""
        obs, rew, terminated, truncated, _ = self._env.step(act[()])
        if not (terminated or truncated):
            return Step(obs, rew, np.array([False]), None, False)
        following, _ = self._env.reset()
        return Step(following, rew, np.array([True]), obs, bool(truncated and not terminated))

    def first(self, values: Any) -> Any:
        """All of it."""
        return values


class StageOfMany:
    """Vectorised environments, of which the first is recorded."""

    def __init__(self, venv: VecEnv) -> None:
        self._venv = venv
        self.n_envs = venv.num_envs

    def reset(self) -> Any:
        """Of all environments, shape (env, *obs)."""
        return self._venv.reset()

    def step(self, act: np.ndarray) -> Step:
        """Act in all of them."""
        obs, rews, dones, infos = self._venv.step(act)
        ended, info = np.asarray(dones, dtype=bool), infos[0]
        last = info["terminal_observation"] if ended[0] else None
        return Step(obs, rews[0], ended, last, bool(ended[0] and info.get("TimeLimit.truncated", False)))

    def first(self, values: Any) -> Any:
        """The first row."""
        return values[0]


def channels_first(space: gym.Space[Any]) -> bool:
    """Whether images of this space have their channels first, as policies of Stable-Baselines3 take them."""
    return isinstance(space, gym.spaces.Box) and space.shape[2] not in CHANNELS and is_image_space_channels_first(space)


class Recording:
    """Finished episodes, and the running one; images go to files as they come, where there is a writer."""

    def __init__(
        self, observation_space: gym.Space[Any], action_space: gym.Space[Any], images: ImageWriter | None
    ) -> None:
        self._obs_space, self._act_space = observation_space, action_space
        self._images = images
        self._channels_first = images is not None and channels_first(observation_space)
        self._obs: list[Any] = []
        self._acts: list[np.ndarray] = []
        self._rews: list[Any] = []
        self._stops: list[int] = []
        self._last: list[Any] = []
        self._truncated: list[bool] = []

    @property
    def n_episodes(self) -> int:
        """Finished ones."""
        return len(self._stops)

    def fitted(self, act: Any, n_envs: int | None) -> np.ndarray:
        """An action, or actions of ``n_envs`` environments, in the shape of the space; a copy.

        Raises:
            SpaceMismatchError: they do not fit.
        """
        shape = (*(() if n_envs is None else (n_envs,)), *(self._act_space.shape or ()))
        array = np.array(act)
        kinds = "biuf" if isinstance(self._act_space, gym.spaces.Box) else "biu"
        if array.dtype.kind not in kinds or array.size != np.prod(shape, dtype=np.int64):
            raise SpaceMismatchError(
                expected=f"actions of shape {shape} from {self._act_space}",
                got=f"{array.dtype} of shape {array.shape}",
                do="return one action an environment: a VecEnv has a batch axis, a gymnasium.Env has none",
            )
        self._check_finite("action", array)
        return array.reshape(shape)

    def before(self, obs: Any, act: np.ndarray) -> None:
        """What the expert saw, and did."""
        self._obs.append(self._kept(obs))
        self._acts.append(np.array(act))

    def after(self, step: Step) -> None:
        """What came of it."""
        self._check_finite("reward", np.asarray(step.rew))
        self._rews.append(step.rew)
        if step.ended[0]:
            self._last.append(self._kept(step.last_obs))
            self._truncated.append(step.truncated)
            self._stops.append(len(self._rews))

    def _kept(self, obs: Any) -> Any:
        array = np.array(obs)
        self._check_finite("observation", array)
        if self._images is None:
            return array
        return self._images.add(array.transpose(1, 2, 0) if self._channels_first else array)

    def _check_finite(self, name: str, values: np.ndarray) -> None:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            start = self._stops[-1] if self._stops else 0
            raise NonFiniteDataError(
                expected=f"a finite {name}",
                got=f"NaN or infinity in episode {self.n_episodes}, step {len(self._rews) - start}",
                do="check the expert and the environment; episodes that had finished are kept",
            )

    def forget_running(self) -> None:
        """Drop the episode that has not finished, and its images."""
        n = self._stops[-1] if self._stops else 0
        dropped = [*self._obs[n:], *self._last[self.n_episodes :]]
        if self._images is not None:
            for name in dropped:
                self._images.remove(name)
        del self._obs[n:], self._acts[n:], self._rews[n:]
        del self._last[self.n_episodes :], self._truncated[self.n_episodes :]

    def sync_images(self) -> None:
        """Wait until they are on the disk."""
        if self._images is not None:
            self._images.sync()

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns of the archive. Only whole episodes may have been recorded."""
        rews = np.array([float(rew) if isinstance(rew, int | float) else rew for rew in self._rews]).reshape(-1)
        starts = np.zeros(len(rews), dtype=bool)
        first = [0, *self._stops[:-1]]
        starts[first] = True
        return {
            "actions": _rows(self._acts),
            "obs": self._obs_rows(self._obs),
            "rewards": rews,
            "episode_returns": np.add.reduceat(rews.astype(np.float64), first),
            "episode_starts": starts,
            "terminal_obs": self._obs_rows(self._last),
            "truncated": np.array(self._truncated, dtype=bool),
        }

    def _obs_rows(self, values: list[Any]) -> np.ndarray:
        return np.array(values, dtype=str) if self._images is not None else _rows(values)


def _rows(values: list[np.ndarray]) -> np.ndarray:
    """Stacked; scalars get an axis of one, as the layout has it."""
    stacked = np.stack(values)
    return stacked[:, None] if stacked.ndim == 1 else stacked
