"""DAgger's environments: steps are labelled by the expert and executed by a mixture of expert and policy."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from understudy.algorithms._dagger_demos import PLAIN, demo_name, record, write_demo
from understudy.algorithms._dagger_learner import Learner
from understudy.data._episodes import EpisodeRecorder
from understudy.data.types import AnyPath, Trajectory, TrajectoryWithRew
from understudy.errors import CallOrderError, ConfigError
from understudy.util.files import names_synced_once
from understudy.util.paths import parse_path
from understudy.util.seeding import make_seeds

Gate = Callable[[Any, np.ndarray], Any]
"""(observations, the policy's actions), batched over environments → who is driven by the expert, booleans (env,)."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is decided about a step before the expert answers."""

    policy_acts: np.ndarray
    drives: np.ndarray
    """Where the expert's action will be executed, shape (env,)."""
    asks: np.ndarray
    """Where the expert's action is needed, shape (env,)."""


class InteractiveTrajectoryCollector(VecEnvWrapper):
    """Takes the expert's actions, executes those or the policy's, and saves every episode with the expert's.

    In each environment and at each step independently, the expert's action is executed with probability β, else the
    policy's; so a state is met as under the paper's mixture. With a ``gate`` (HG-DAgger) that decides instead, and
    steps in which the policy drives need no answer and are not learned from.

    At the end of an episode one file is written to ``save_dir``, complete or not at all. Its infos say of every step
    who acted (``actor``), what the policy (``policy_action``) and what the expert (``expert_action``) would have done.
    Actions outside a Box are executed clipped to it, and kept as they were given.

    Args:
        venv: the environments.
        get_robot_acts: the policy's actions from observations, batched over environments; called once a step, whoever
            drives. A `Learner` remembers, and is told where episodes begin.
        beta: β in [0, 1].
        save_dir: made if missing; episodes that are there stay.
        rng: decides whose action is executed: a generator, a seed, or None for a seed that is drawn and logged.
        gate: who drives; ``beta`` is not used then.
        on_saved: called with the path and the trajectory of each episode written.
        first_number: of the first file; files of that number and above are replaced. None replaces none.

    Raises:
        ConfigError: ``beta`` outside [0, 1].
    """

    traj_accum: EpisodeRecorder | None
    """The running episodes; None before the first reset."""

    def __init__(
        self,
        venv: VecEnv,
        get_robot_acts: Callable[[Any], np.ndarray],
        beta: float,
        save_dir: AnyPath,
        rng: np.random.Generator | int | None = None,
        *,
        gate: Gate | None = None,
        on_saved: Callable[[Path, Trajectory], None] | None = None,
        first_number: int | None = None,
    ) -> None:
        super().__init__(venv)
        if not 0 <= beta <= 1:
            raise ConfigError(expected="`beta` in [0, 1]", got=repr(beta), do="pass a probability")
        self.get_robot_acts = get_robot_acts
        self.beta = beta
        self.save_dir = parse_path(save_dir)
        self.rng = generator_or_drawn(rng, "InteractiveTrajectoryCollector")
        self.gate = gate
        self.traj_accum = None
        self.active = np.ones(venv.num_envs, dtype=bool)
        """Environments whose episodes are wanted; the others are driven by the policy, and forgotten."""
        self.n_steps = 0
        """Steps of all episodes saved."""
        self.returns: list[float] = []
        """Return of each episode saved, in order."""
        self._on_saved = on_saved
        self._overwrites = first_number is not None
        self._number = first_number or 0
        self._obs: Any = None
        self._policy_acts: np.ndarray | None = None
        self._plan: _Plan | None = None
        self._labels: np.ndarray = np.empty(0)
        self._executed: np.ndarray = np.empty(0)
        box = isinstance(venv.action_space, spaces.Box)
        self._bounds = (venv.action_space.low, venv.action_space.high) if box else None  # type: ignore[attr-defined]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the mixture and the environments; None draws a seed.

        Returns:
            Seeds of the environments.
        """
        if seed is None:
            seed = make_seeds(np.random.default_rng())
        self.rng = np.random.default_rng(seed)
        return self.venv.seed(make_seeds(self.rng))

    def reset(self) -> VecEnvObs:
        """First observations of new episodes; what was not saved of the running ones is dropped."""
        self._obs = obs = self.venv.reset()
        if isinstance(self.get_robot_acts, Learner):
            self.get_robot_acts.begin(self.num_envs)
        self.traj_accum = EpisodeRecorder(obs, self.num_envs)
        self.active[:] = True
        self._plan = self._policy_acts = None
        self.save_dir.mkdir(parents=True, exist_ok=True)
        return obs

    @property
    def policy_acts(self) -> np.ndarray:
        """What the policy would do now, shape (env, *act).

        Raises:
            CallOrderError: before the first reset.
        """
        if self.traj_accum is None:
            raise CallOrderError(
                expected="reset() before the first step", got="a step", do="call obs = collector.reset() first"
            )
        if self._policy_acts is None:
            acts = np.asarray(self.get_robot_acts(self._obs))
            self._policy_acts = acts.astype(self.action_space.dtype, copy=False)
        return self._policy_acts

    @property
    def asks(self) -> np.ndarray:
        """In which environments the expert's next action is needed, shape (env,); all, unless there is a gate.

        Raises:
            CallOrderError: before the first reset.
        """
        return self._decide().asks

    def decide(self, drives: np.ndarray | None) -> np.ndarray:
        """Say where the expert drives in the next step (None: as β has it); returns where its action is needed."""
        self._plan = None if drives is None else self._planned(drives)
        return self._decide().asks

    def _decide(self) -> _Plan:
        if self._plan is None:
            acts = self.policy_acts
            if self.gate is not None:
                self._plan = self._planned(checked_gate(self.gate(self._obs, acts), self.num_envs))
            else:
                drives = self.rng.random(self.num_envs) < self.beta
                self._plan = _Plan(acts, drives & self.active, self.active)
        return self._plan

    def _planned(self, drives: np.ndarray) -> _Plan:
        drives = drives & self.active
        return _Plan(self.policy_acts, drives, drives)

    def step_async(self, actions: np.ndarray) -> None:
        """Execute these expert's actions, or the policy's.

        Args:
            actions: the expert's, shape (env, *act); rows where `asks` is False are ignored.

        Raises:
            CallOrderError: before the first reset.
        """
        plan = self._decide()
        actions = np.asarray(actions)
        trailing = (1,) * (actions.ndim - 1)
        executed = actions if plan.drives.all() else _where(plan.drives, trailing, actions, plan.policy_acts)
        self._labels = actions if plan.asks.all() else _where(plan.asks, trailing, actions, plan.policy_acts)
        if self._bounds is not None:
            executed = np.clip(executed, *self._bounds)
        self._executed = executed
        self.venv.step_async(executed)

    def step_wait(self) -> VecEnvStepReturn:
        """The step's outcome; episodes that ended with it are on the disk when this returns.

        Raises:
            FileWriteError: an episode cannot be written.
        """
        plan, recorder = self._plan, self.traj_accum
        assert plan is not None
        assert recorder is not None
        obs, rews, dones, infos = self.venv.step_wait()
        records = []
        columns = zip(
            infos,
            plan.drives.tolist(),
            plan.asks.tolist(),
            plan.policy_acts.tolist(),
            self._labels.tolist(),
            strict=True,
        )
        for info, drives, asks, robot, label in columns:
            kept = record("expert" if drives else "policy", robot, label if asks else None)
            own = info if PLAIN.issuperset(map(type, info.values())) else _plain_part(info)
            records.append({**kept, **own, **kept})  # the record comes first, and wins
            info.update(kept)
        ends = [infos[env]["terminal_observation"] for env in dones.nonzero()[0]] if dones.any() else None
        ended = recorder.add(self._labels, obs, rews, dones, records, ends=ends)
        self._obs, self._plan, self._policy_acts = obs, None, None
        if isinstance(self.get_robot_acts, Learner):
            self.get_robot_acts.stepped(dones)
        wanted = [trajectory for env, trajectory in ended if self.active[env]]
        if wanted:
            with names_synced_once():
                for trajectory in wanted:
                    self._save(trajectory)
        if not self.active.all():
            for idle in np.flatnonzero(~self.active):
                recorder.forget(int(idle))
        return obs, rews, dones, infos

    def retire(self, envs: np.ndarray) -> None:
        """Want no further episodes of these environments, a mask of shape (env,), until the next reset."""
        self.active &= ~envs
        if self.traj_accum is not None:
            for env in np.flatnonzero(envs):
                self.traj_accum.forget(int(env))

    def replace_no_files(self) -> None:
        """From now on, files that are there stay."""
        self._overwrites = False

    def save_running(self) -> int:
        """Save what the running episodes hold so far as fragments, and begin new ones at the current observations.

        For a session that ends in the middle of an episode; returns how many were saved.
        """
        n = 0
        if self.traj_accum is not None:
            lengths = self.traj_accum.lengths()
            for env in np.flatnonzero(self.active & (lengths > 0)):
                self._save(self.traj_accum.cut(int(env)))
                n += 1
        return n

    def _save(self, trajectory: TrajectoryWithRew) -> None:
        path = demo_name(self.save_dir, self._number)
        while not self._overwrites and path.exists():
            self._number += 1
            path = demo_name(self.save_dir, self._number)
        write_demo(path, trajectory, self._on_saved)
        self._number += 1
        self.n_steps += len(trajectory)
        self.returns.append(float(np.sum(trajectory.rews, dtype=np.float64)))


def _plain_part(info: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in info.items() if type(value) in PLAIN}


def _where(rows: np.ndarray, trailing: tuple[int, ...], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(rows.reshape(-1, *trailing), a, b)


def checked_gate(answer: Any, n_envs: int) -> np.ndarray:
    """A gate's answer as booleans, shape (env,).

    Raises:
        ConfigError: it is something else.
    """
    mask = np.asarray(answer)
    if mask.dtype != np.bool_ or mask.shape not in ((), (n_envs,)):
        raise ConfigError(
            expected=f"{n_envs} booleans from the gate, one an environment",
            got=f"{mask.dtype} of shape {mask.shape}",
            do="return for example np.abs(obs[:, 2]) > 0.1",
        )
    return np.broadcast_to(mask, (n_envs,)).copy()


def generator_or_drawn(rng: np.random.Generator | int | None, who: str) -> np.random.Generator:
    """The generator given, or one of the seed given, or of a seed that is drawn and logged."""
    if rng is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
        _log.warning("%s was given no rng: drew the seed %d; pass rng=%d to repeat this run", who, seed, seed)
        return np.random.default_rng(seed)
    return np.random.default_rng(rng)
