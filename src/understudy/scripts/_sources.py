"""Demonstrations by name or path: recorded, read, cut, described, and looked over."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.errors import ConfigError, DataError
from understudy.scripts._parts import Environment, absolute_if_a_path, at_least
from understudy.scripts._summary import counted

if TYPE_CHECKING:
    import numpy as np
    from stable_baselines3.common.vec_env import VecEnv

    from understudy.data.acting import AnyPolicy
    from understudy.data.demonstrations import Demonstrations
    from understudy.data.types import Trajectory

_DOCTORS_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class DemonstrationSource:
    """What to learn from."""

    demonstrations: str = "expert"
    """"expert" (roll it out), or the path of a dataset, or of a .npz with obs and acts (and episode_ends or dones)."""

    n_demonstrations: int | None = None
    """Episodes to roll out (50 if not given), or to take from the start of the dataset (all if not given)."""

    @property
    def own(self) -> bool:
        """Whether the user brings the demonstrations."""
        return self.demonstrations != "expert"

    def absolute(self) -> DemonstrationSource:
        """The same, from any working directory."""
        if not self.own:
            return self
        return dataclasses.replace(self, demonstrations=absolute_if_a_path(self.demonstrations))

    def check(self) -> None:
        """Raise ConfigError or DataError for what can be known before anything is made."""
        at_least(1, n_demonstrations=self.n_demonstrations)
        if self.own and not Path(self.demonstrations).exists():
            raise DataError(
                'an existing path, or "expert", for --demonstrations',
                self.demonstrations,
                "check the path; understudy rollout records a dataset",
            )

    def load(self, environment: Environment, expert: AnyPolicy, venv: VecEnv, seed: int) -> Demonstrations:
        """Roll out or read, checked against the environment's spaces.

        Raises:
            ConfigError: no expert to roll out.
            DataError: data that cannot be used, or not as many episodes as asked for.
        """
        from understudy.data.demonstrations import read_demonstrations

        spaces = {"observation_space": venv.observation_space, "action_space": venv.action_space}
        if not self.own:
            if expert is None:
                raise ConfigError(
                    "demonstrations, or an expert to record some of",
                    f"neither for {environment.env_id}",
                    "pass --demonstrations PATH or --expert PATH (understudy train rl trains one)",
                )
            n = 50 if self.n_demonstrations is None else self.n_demonstrations
            return read_demonstrations(record(expert, venv, n, seed), **spaces)
        demos = read_demonstrations(self.demonstrations, **spaces)
        return demos if self.n_demonstrations is None else first_episodes(demos, self.n_demonstrations)


@dataclasses.dataclass(frozen=True)
class StartingData:
    """What to begin with, besides asking."""

    demonstrations: str | None = None
    """Demonstrations for the first round: a dataset, or a .npz as for train bc. They do not count as steps."""

    n_demonstrations: int | None = None
    """Episodes to take from the start of them. None takes all."""

    def absolute(self) -> StartingData:
        """The same, from any working directory."""
        if self.demonstrations is None:
            return self
        return dataclasses.replace(self, demonstrations=absolute_if_a_path(self.demonstrations))

    def check(self) -> None:
        """Raise ConfigError or DataError for what can be known before anything is made."""
        at_least(1, n_demonstrations=self.n_demonstrations)
        if self.demonstrations is not None:
            DemonstrationSource(self.demonstrations).check()
        elif self.n_demonstrations is not None:
            raise ConfigError("--demonstrations with --n-demonstrations", "none", "pass --demonstrations PATH")

    def load(self, venv: VecEnv) -> list[Trajectory] | None:
        """Whole episodes, checked against the environment's spaces; None without.

        Raises:
            DataError: data that cannot be used, or not as many episodes as asked for.
        """
        from understudy.data.demonstrations import read_demonstrations

        if self.demonstrations is None:
            return None
        spaces = {"observation_space": venv.observation_space, "action_space": venv.action_space}
        demos = read_demonstrations(self.demonstrations, **spaces)
        return trajectories_of(demos if self.n_demonstrations is None else first_episodes(demos, self.n_demonstrations))


def record(policy: AnyPolicy, venv: VecEnv, n_episodes: int, seed: int, *, deterministic: bool = True) -> Any:
    """Exactly ``n_episodes`` trajectories with rewards."""
    import numpy as np

    from understudy.data import rollout

    trajectories = rollout.rollout(
        policy,
        venv,
        rollout.make_sample_until(min_episodes=n_episodes),
        np.random.default_rng(seed),
        verbose=False,
        deterministic_policy=deterministic and policy is not None,
    )
    return list(trajectories)[:n_episodes]


def first_episodes(demos: Demonstrations, n: int) -> Demonstrations:
    """The first ``n`` episodes.

    Raises:
        DataError: there are fewer.
    """
    import numpy as np

    if n > demos.n_episodes:
        unknown = "" if demos.episodes_known else " (the data does not say where episodes end)"
        raise DataError(
            f"at least {n} episodes, as asked for by --n-demonstrations",
            f"{demos.n_episodes}{unknown}",
            "ask for fewer, or leave the option out for all",
        )
    return episodes(demos, np.arange(n))


def episodes(demos: Demonstrations, which: np.ndarray) -> Demonstrations:
    """Some of the episodes, in the order given."""
    import numpy as np

    from understudy.data.demonstrations import read_demonstrations

    rows = demos.rows_of_episodes(which)
    columns = {name: getattr(demos, name) for name in ("next_obs", "dones", "truncated", "rews", "weights")}
    arrays = {name: column[rows] for name, column in columns.items() if column is not None}
    ends = np.cumsum(demos.episode_lengths[which])
    return read_demonstrations({"obs": demos.obs_at(rows), "acts": demos.acts[rows], "episode_ends": ends, **arrays})


def trajectories_of(demos: Demonstrations) -> list[Trajectory]:
    """One trajectory an episode, for learners that take in whole ones.

    Raises:
        DataError: weighted steps, which a trajectory cannot hold, or no word on where episodes end.
    """
    import numpy as np

    from understudy.data.dict_obs import DictObs
    from understudy.data.types import Trajectory

    if demos.weights is not None or not demos.episodes_known:
        raise DataError(
            "demonstrations as whole episodes, without weights",
            "weights" if demos.weights is not None else "no word on where episodes end",
            "leave the weights out" if demos.weights is not None else "add episode_ends, or dones, to the data",
        )
    made = []
    following = demos.next_obs
    for start, stop in itertools.pairwise(demos.episode_offsets.tolist()):
        obs = demos.obs_at(np.arange(start, stop))
        # The observation after the last action is not learned from: the one before will do where it is not known.
        last = obs[-1:] if following is None else following[stop - 1 : stop]
        parts = (obs, last)
        join: Any = DictObs.concatenate if isinstance(obs, DictObs) else np.concatenate
        frames = join(parts)
        cut = demos.truncated is not None and bool(demos.truncated[stop - 1])
        made.append(Trajectory(frames, demos.acts[start:stop], None, terminal=True, truncated=cut))
    return made


def doctors_line(demos: Demonstrations, venv: VecEnv, source: DemonstrationSource | None, env_id: str) -> str | None:
    """What the data doctor warns of, in one line; None if nothing. Of very large data, only the start is looked at."""
    import numpy as np

    from understudy.data.inspection import Severity, inspect_demonstrations

    if demos.acts.nbytes + demos.frames.nbytes > _DOCTORS_BYTES:
        share = _DOCTORS_BYTES / (demos.acts.nbytes + demos.frames.nbytes)
        demos = episodes(demos, np.arange(max(1, int(share * demos.n_episodes))))
    inspection = inspect_demonstrations(demos, observation_space=venv.observation_space, action_space=venv.action_space)
    counts = [(inspection.count(severity), severity) for severity in (Severity.ERROR, Severity.WARNING)]
    if not any(n for n, _ in counts):
        return None
    said = " and ".join(counted(n, str(severity)) for n, severity in counts if n)
    if source is not None and source.own:
        return f"{said} in the demonstrations: understudy inspect {source.demonstrations} --env {env_id}"
    return f"{said} in the demonstrations: {inspection.findings[0].what}"


def data_facts(demos: Demonstrations, source: str) -> dict[str, Any]:
    """What a run folder says about its data: size, origin, and SHA-256 over dtypes, shapes and bytes."""
    from understudy.data.inspection import observations

    digest = hashlib.sha256()
    arrays: dict[str, np.ndarray | None] = {**observations(demos), "acts": demos.acts, "rews": demos.rews}
    for name, array in {**arrays, "episode_offsets": demos.episode_offsets}.items():
        if array is not None:
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            for start in range(0, len(array), 65536):  # a memory map larger than RAM is hashed piece by piece
                digest.update(array[start : start + 65536].tobytes())
    return {
        "source": source,
        "episodes": demos.n_episodes,
        "transitions": len(demos),
        "sha256": digest.hexdigest(),
    }
