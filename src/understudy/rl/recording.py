"""Environments that remember what happened in them while a learner acts.

A learner's own buffer does not tell it: its actions are not clipped yet, its observations are already transposed or
normalised, and the last observation of an episode, and why it ended, are nowhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, unwrap_vec_normalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from understudy.data.dict_obs import DictObs, Observation
from understudy.errors import CallOrderError

_FIRST_CAPACITY = 256


@dataclasses.dataclass(frozen=True)
class RecordedSteps:
    """Steps of vectorised environments, as those saw them; every array is of shape (time, env, …)."""

    obs: Observation
    acts: np.ndarray
    """Executed: clipped to the space, in the environment's scale."""
    next_obs: Observation
    """At the end of an episode its last observation, not the first of the next."""
    terminated: np.ndarray
    """The episode ended in a terminal state."""
    truncated: np.ndarray
    """The episode was cut off, by a time limit for example."""
    rews: np.ndarray
    """The environment's own rewards, float32."""

    @property
    def n_steps(self) -> int:
        """Of each environment."""
        return len(self.acts)

    def flat(self) -> dict[str, Any]:
        """All steps in one row after the other, time by time: the fields of a ``Transitions``, and ``truncated``.

        Returns:
            ``obs``, ``acts``, ``next_obs``, ``dones`` (terminated) and ``truncated``, each of shape (time · env, …).
        """
        return {
            "obs": _flat(self.obs),
            "acts": _flat(self.acts),
            "next_obs": _flat(self.next_obs),
            "dones": _flat(self.terminated),
            "truncated": _flat(self.truncated),
        }

    def last(self, n_steps: int) -> RecordedSteps:
        """The newest ``n_steps`` of each environment."""
        cut = {field.name: getattr(self, field.name)[self.n_steps - n_steps :] for field in dataclasses.fields(self)}
        return RecordedSteps(**cut)


def _flat(rows: Any) -> Any:
    if isinstance(rows, DictObs):
        return rows.map_arrays(_flat)
    return rows.reshape(-1, *rows.shape[2:])


class StepRecorder(VecEnvWrapper):
    """Passes everything through and keeps a copy of each step until it is taken.

    Of environments in a ``VecNormalize`` it keeps the observations before that, as demonstrations have them.

    Args:
        venv: the environments.
        pays: give the environments' rewards to the learner; else zeros, for a learner that is paid otherwise.
    """

    def __init__(self, venv: VecEnv, *, pays: bool = True) -> None:
        super().__init__(venv)
        self.pays = pays
        self.n_resets = 0
        """How often the environments were reset as a whole, which ends running episodes unseen."""
        self._normalizer = unwrap_vec_normalize(venv)
        self._columns: dict[str, np.ndarray] = {}
        self._n = 0
        self._ends: list[tuple[int, int, dict[str, np.ndarray], bool]] = []
        self._obs: Any = None
        self._acts: np.ndarray = np.empty(0)
        self._nothing = np.zeros(venv.num_envs, dtype=np.float32)

    def __len__(self) -> int:
        """Steps of each environment that wait to be taken."""
        return self._n

    def reset(self) -> VecEnvObs:
        """Reset the environments; what was recorded stays to be taken, and the running episodes end unrecorded."""
        obs = self.venv.reset()
        self._obs = self._original(obs)
        self.n_resets += 1
        return obs

    def _original(self, obs: VecEnvObs) -> VecEnvObs:
        return obs if self._normalizer is None else self._normalizer.get_original_obs()

    def step_async(self, actions: np.ndarray) -> None:
        """Execute these actions.

        Raises:
            CallOrderError: before the first reset.
        """
        if self._obs is None:
            raise CallOrderError(
                expected="reset() before the first step", got="a step", do="call obs = venv.reset() first"
            )
        self._acts = np.array(actions)  # an environment may scale its action in place
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """The step's outcome, recorded."""
        obs, rews, dones, infos = self.venv.step_wait()
        row = self._n
        seen = self._original(obs)
        now = {**_named("obs", self._obs), **_named("next_obs", seen)}
        now.update(acts=self._acts, dones=dones, rews=np.asarray(rews, dtype=np.float32))
        self._write(row, now)
        if dones.any():
            for env in dones.nonzero()[0].tolist():
                info = infos[env]  # read now: wrappers further out write to it
                last = _named("next_obs", self._unnormalized(info["terminal_observation"]))
                self._ends.append((row, env, last, bool(info.get("TimeLimit.truncated", False))))
        self._n += 1
        self._obs = seen
        return obs, rews if self.pays else self._nothing.copy(), dones, infos

    def _unnormalized(self, last: Any) -> Any:
        # VecNormalize overwrote it, with the statistics that it still has.
        return last if self._normalizer is None else self._normalizer.unnormalize_obs(last)

    def _write(self, row: int, now: Mapping[str, np.ndarray]) -> None:
        if not self._columns:
            self._columns = {key: np.empty((_FIRST_CAPACITY, *x.shape), x.dtype) for key, x in now.items()}
        elif row == len(self._columns["acts"]):
            self._columns = {key: np.concatenate([x, np.empty_like(x)]) for key, x in self._columns.items()}
        for key, value in now.items():
            self._columns[key][row] = value

    def forget(self) -> None:
        """Drop what was recorded."""
        self._n, self._ends = 0, []

    def take(self) -> RecordedSteps:
        """All steps since the last call; they are forgotten here, and what is returned is the caller's.

        Raises:
            CallOrderError: there were none.
        """
        if not self._n:
            raise CallOrderError(expected="steps since the last take()", got="none", do="step the environments first")
        rows = {key: column[: self._n].copy() for key, column in self._columns.items()}
        truncated = np.zeros_like(rows["dones"])
        for row, env, last, cut_off in self._ends:
            truncated[row, env] = cut_off
            for key, value in last.items():
                rows[key][row, env] = value
        self._n, self._ends = 0, []
        return RecordedSteps(
            obs=_whole("obs", rows),
            acts=rows["acts"],
            next_obs=_whole("next_obs", rows),
            terminated=rows["dones"] & ~truncated,
            truncated=truncated,
            rews=rows["rews"],
        )


def _named(name: str, obs: Any) -> dict[str, np.ndarray]:
    if isinstance(obs, Mapping):
        return {f"{name}/{key}": np.asarray(value) for key, value in obs.items()}
    return {name: np.asarray(obs)}


def _whole(name: str, rows: Mapping[str, np.ndarray]) -> Observation:
    if name in rows:
        return rows[name]
    return DictObs({key[len(name) + 1 :]: x for key, x in rows.items() if key.startswith(f"{name}/")})
