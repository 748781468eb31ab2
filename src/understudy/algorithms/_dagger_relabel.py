"""Asking an expert about trajectories that were recorded before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms._dagger_demos import record
from understudy.algorithms._dagger_expert import RoundJournal, checked_actions, is_machine, rows_of, sum_of
from understudy.data.acting import AnyPolicy, policy_to_callable
from understudy.data.dict_obs import map_maybe_dict, maybe_unwrap_dictobs
from understudy.data.types import AnyPath, Trajectory, TrajectoryWithRew
from understudy.util.journal import Journal
from understudy.util.paths import parse_path


def relabel(
    trajectories: Iterable[Trajectory], expert: AnyPolicy, venv: VecEnv, *, journal_folder: AnyPath | None = None
) -> Iterator[Trajectory]:
    """The same trajectories with the expert's actions; their infos keep the recorded ones as ``policy_action``.

    Args:
        trajectories: any, with observations of ``venv``.
        expert: see ``understudy.data.rollout.AnyPolicy``; asked about a trajectory at once, a person step by step.
        venv: for its spaces; it is not stepped.
        journal_folder: keeps the answers of functions and persons, so that none is asked for again after a crash.

    Raises:
        SpaceMismatchError: the expert was made for other spaces.
        DataError: an answer that is no action of the space.
    """
    ask = _Asked(expert, venv, None if journal_folder is None else parse_path(journal_folder))
    for number, trajectory in enumerate(trajectories):
        obs = maybe_unwrap_dictobs(map_maybe_dict(lambda column: column[:-1], trajectory.obs))
        acts = ask(number, obs, len(trajectory))
        taken, labels = np.asarray(trajectory.acts).tolist(), acts.tolist()
        infos = np.array([record("policy", *pair) for pair in zip(taken, labels, strict=True)], dtype=object)
        rest: dict[str, Any] = {"truncated": trajectory.truncated}
        if isinstance(trajectory, TrajectoryWithRew):
            rest["rews"] = trajectory.rews
        yield type(trajectory)(obs=trajectory.obs, acts=acts, infos=infos, terminal=trajectory.terminal, **rest)


class _Asked:
    def __init__(self, expert: AnyPolicy, venv: VecEnv, folder: Path | None) -> None:
        self._space: spaces.Space[Any] = venv.action_space
        self._act = policy_to_callable(expert, venv, deterministic_policy=True)
        self._step_by_step = bool(getattr(expert, "asks_a_person", False))
        self._journal: Journal | None = None
        self._kept: dict[tuple[int, int, int], Any] = {}
        if folder is not None and not is_machine(expert):
            folder.mkdir(parents=True, exist_ok=True)
            self._journal = Journal(folder / RoundJournal.NAME)
            self._kept = {(kept["trajectory"], kept["step"], kept["obs"]): kept["answer"] for kept in self._journal}

    def __call__(self, number: int, obs: Any, length: int) -> np.ndarray:
        if not self._step_by_step:
            return self._answer(number, 0, obs, length)
        steps = (np.array([step]) for step in range(length))
        return np.concatenate([self._answer(number, int(step[0]), rows_of(obs, step), 1) for step in steps])

    def _answer(self, number: int, step: int, obs: Any, n: int) -> np.ndarray:
        ask: Callable[[], np.ndarray] = lambda: self._ask(obs, n)  # noqa: E731
        if self._journal is None:
            return ask()
        key = (number, step, sum_of(obs))
        if key not in self._kept:
            answer = ask().tolist()
            self._journal.append({"trajectory": key[0], "step": key[1], "obs": key[2], "answer": answer})
            self._kept[key] = answer
        return np.array(self._kept[key], dtype=self._space.dtype)

    def _ask(self, obs: Any, n: int) -> np.ndarray:
        starts = np.zeros(n, dtype=bool)
        starts[:1] = True
        acts, state = self._act(obs, None, starts)
        if state is not None and n > 1:  # it remembers: rows are not environments then, but steps of one
            state, answers = None, []
            for step in range(n):
                rows = np.array([step])
                answer, state = self._act(rows_of(obs, rows), state, starts[rows])
                answers.append(np.asarray(answer))
            acts = np.concatenate(answers)
        return checked_actions(acts, self._space, n)
