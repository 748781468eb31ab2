"""Steps gathered into trajectories one by one, for loops of one's own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from understudy.data.types import DictObs, TrajectoryWithRew, stack_maybe_dictobs
from understudy.errors import DataError, EmptyDataError


class TrajectoryAccumulator:
    """Gathers steps into trajectories, keyed by anything (for instance the environment's index).

    For vectorised sampling use ``generate_trajectories``; this is for loops of your own.
    """

    def __init__(self) -> None:
        self.partial_trajectories: dict[Hashable, list[dict[str, Any]]] = {}

    def add_step(self, step_dict: Mapping[str, Any], key: Hashable = None) -> None:
        """Add a step: the first of an episode holds ``obs`` only, later ones ``acts``, ``rews``, ``obs``, ``infos``."""
        self.partial_trajectories.setdefault(key, []).append(dict(step_dict))

    def finish_trajectory(self, key: Hashable, terminal: bool, *, truncated: bool = False) -> TrajectoryWithRew:
        """Give out the steps gathered under ``key`` as a trajectory and forget them.

        Raises:
            DataError: nothing was gathered under ``key``; EmptyDataError where that is a first observation only.
        """
        steps = self.partial_trajectories.pop(key, None)
        if steps is None:
            raise DataError(
                expected=f"steps gathered under {key!r}", got="none", do="call add_step before finish_trajectory"
            )
        if len(steps) < 2:
            raise EmptyDataError(
                expected=f"at least one action gathered under {key!r}",
                got="a first observation only",
                do="call add_step with `acts`, `rews` and `obs` before finish_trajectory",
            )
        obs = [
            DictObs({name: np.asarray(value) for name, value in o.items()}) if isinstance(o, dict) else o
            for o in (step["obs"] for step in steps)
        ]
        infos = [step["infos"] for step in steps if "infos" in step]
        return TrajectoryWithRew(
            obs=stack_maybe_dictobs(obs),
            acts=np.stack([step["acts"] for step in steps if "acts" in step]),
            infos=np.array(infos, dtype=object) if infos else None,
            terminal=terminal,
            rews=np.stack([step["rews"] for step in steps if "rews" in step]),
            truncated=truncated,
        )

    def add_steps_and_auto_finish(
        self,
        acts: np.ndarray,
        obs: np.ndarray | DictObs | dict[str, np.ndarray],
        rews: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> list[TrajectoryWithRew]:
        """Add a step of each environment; give out the trajectories that ended.

        ``add_step({"obs": …}, key=i)`` must have been called with the first observation of environment ``i``.
        """
        finished = []
        rows = DictObs(obs) if isinstance(obs, dict) else obs
        for env, (act, next_obs, rew, done, info) in enumerate(zip(acts, rows, rews, dones, infos, strict=True)):
            last = info["terminal_observation"] if done else next_obs
            self.add_step({"acts": act, "rews": rew, "obs": last, "infos": info}, env)
            if done:
                finished.append(self.finish_trajectory(env, True, truncated=bool(info.get("TimeLimit.truncated"))))
                self.add_step({"obs": next_obs}, env)
        return finished
