"""Who labels: anything that acts, asked for the observations that need an answer, and never twice for the same."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from understudy.algorithms._dagger_collector import Gate, checked_gate
from understudy.data.acting import AnyPolicy, HasPolicy, policy_in_a_loop
from understudy.data.dict_obs import maybe_unwrap_dictobs
from understudy.errors import DataError, NonFiniteDataError
from understudy.util.files import sync
from understudy.util.journal import Journal
from understudy.util.seeding import globals_put_back, seed_globals

_log = logging.getLogger(__name__)


def is_machine(expert: AnyPolicy) -> bool:
    """Whether asking it again costs nothing: a policy, and no person behind it."""
    kind = isinstance(expert, (BaseAlgorithm, BasePolicy, HasPolicy))
    return kind and not getattr(expert, "asks_a_person", False)


class Expert:
    """Answers for some of the environments' observations; the answers are checked against the action space.

    Make it inside ``drawing_from``, which puts a policy into evaluation mode.

    Args:
        source: see AnyPolicy; a policy answers with its most likely action.
        venv: where it acts.
    """

    def __init__(self, source: AnyPolicy, venv: VecEnv) -> None:
        self._act = policy_in_a_loop(source, venv, deterministic_policy=True)
        self.is_machine = is_machine(source)
        self._one_by_one = bool(getattr(source, "asks_a_person", False))
        self._state: Any = None
        self._remembers: bool | None = None
        self._space = venv.action_space
        self._n_envs = venv.num_envs

    def queries(self, asks: np.ndarray) -> list[np.ndarray]:
        """The environments that are asked about together, as indices; a person is asked about one at a time."""
        envs = np.flatnonzero(asks)
        return [envs[i : i + 1] for i in range(len(envs))] if self._one_by_one else [envs]

    def answer(self, obs: Any, starts: np.ndarray, envs: np.ndarray) -> np.ndarray:
        """Its actions for these environments, shape (len(envs), *act).

        Raises:
            DataError: an answer that is no action of the space.
        """
        if self.is_machine:  # all, so that a recurrent one remembers each of them
            acts, self._state = self._act(obs, self._state, starts)
            self._remembers = self._state is not None
            return checked_actions(np.asarray(acts)[envs], self._space, len(envs))
        whole = len(envs) == self._n_envs
        acts, _ = self._act(obs if whole else rows_of(obs, envs), None, starts if whole else starts[envs])
        return checked_actions(acts, self._space, len(envs))

    def watch(self, obs: Any, starts: np.ndarray) -> None:
        """See observations that it is not asked about, if it is a policy that remembers them."""
        if self.is_machine and self._remembers is not False:
            _, self._state = self._act(obs, self._state, starts)
            self._remembers = self._state is not None


def rows_of(obs: Any, rows: np.ndarray) -> Any:
    """Some rows of batched observations."""
    if isinstance(obs, Mapping):
        return {key: value[rows] for key, value in obs.items()}
    return obs[rows]


def checked_actions(acts: Any, space: spaces.Space[Any], n: int) -> np.ndarray:
    """Actions in the type of the space, shape (n, *act).

    Raises:
        DataError: another shape, or choices that the space does not have.
        NonFiniteDataError: NaN or infinity.
    """
    shape = (n, *(space.shape or ()))
    given = np.asarray(acts)
    if given.shape != shape and given.size == np.prod(shape) and n == 1:
        given = given.reshape(shape)
    if given.shape != shape or given.dtype.kind not in "biuf":
        raise DataError(
            expected=f"actions of shape {shape} from the expert, for {space}",
            got=f"{given.dtype} of shape {given.shape}",
            do="let it return one action for each observation it is given",
        )
    if isinstance(space, spaces.Box):
        if not np.isfinite(given).all():
            raise NonFiniteDataError(
                expected="finite actions from the expert", got=repr(given.tolist())[:80], do="check its inputs"
            )
        return given.astype(space.dtype, copy=False)
    low: Any = getattr(space, "start", 0)
    high = low + (space.n if isinstance(space, spaces.Discrete) else getattr(space, "nvec", 2)) - 1
    fractions = given.dtype.kind == "f" and (given != np.round(given)).any()
    if fractions or ((given < low) | (given > high)).any():
        raise DataError(
            expected=f"actions of {space} from the expert",
            got=repr(given.tolist())[:80],
            do="return whole numbers from the action space",
        )
    return given.astype(space.dtype or np.int64, copy=False)


class Answers:
    """An expert's answers in one round; each is in the journal before it is used, and comes from there after a crash.

    Args:
        expert: who is asked.
        gate: who says where the expert drives; None for nobody.
        journal: where answers are kept; None where asking again costs nothing.
        seed: whatever the expert draws at random comes from this and the number of the query.
    """

    def __init__(
        self, expert: Expert, gate: Gate | None, journal: RoundJournal | None, seed: tuple[int, int], space: Any
    ) -> None:
        self._expert = expert
        self._gate = gate
        self._journal = journal
        self._replayed = iter(()) if journal is None else journal.answers()
        self._seed = seed
        self._space = space
        self._n_queries = 0
        self.n_replayed = 0
        """Answers that came from the journal."""
        self.diverged = False
        """Whether the environment came to other observations than those that were answered."""

    def gate(self, obs: Any, policy_acts: np.ndarray) -> np.ndarray | None:
        """Where the expert drives, shape (env,); None where β decides."""
        if self._gate is None:
            return None
        n = len(policy_acts)

        def ask() -> Any:
            assert self._gate is not None
            return checked_gate(self._gate(obs, policy_acts), n).tolist()

        drives = np.array(self._answered(obs, None, ask), dtype=bool)
        if hasattr(self._gate, "remember"):  # also of what was replayed
            self._gate.remember(drives)
        return drives

    def actions(self, obs: Any, starts: np.ndarray, asks: np.ndarray, policy_acts: np.ndarray) -> np.ndarray:
        """The expert's actions, shape (env, *act); the policy's where it is not asked."""
        if self._journal is None or self._expert.is_machine:
            if asks.all():
                return self._expert.answer(obs, starts, np.arange(len(asks)))
            acts = np.array(policy_acts)
            envs = np.flatnonzero(asks)
            if len(envs):
                acts[envs] = self._expert.answer(obs, starts, envs)
            else:
                self._expert.watch(obs, starts)
            return acts
        acts = np.array(policy_acts)
        for envs in self._expert.queries(asks):
            if len(envs):
                acts[envs] = self._asked(obs, starts, envs)
        return acts

    def _asked(self, obs: Any, starts: np.ndarray, envs: np.ndarray) -> np.ndarray:
        answer = self._answered(obs, envs, lambda: self._expert.answer(obs, starts, envs).tolist())
        return np.array(answer, dtype=self._space.dtype)

    def _answered(self, obs: Any, envs: np.ndarray | None, ask: Any) -> Any:
        number, self._n_queries = self._n_queries, self._n_queries + 1
        if self._journal is None:
            return ask()
        asked = {"obs": sum_of(obs), "envs": None if envs is None else envs.tolist()}
        kept = next(self._replayed, None)
        if kept is not None:
            if {key: kept.get(key) for key in asked} == asked:
                self.n_replayed += 1
                return kept["answer"]
            self._replayed = iter(())
            self.diverged = True
            self._journal.set_aside(asked_before=number)
        with globals_put_back():
            seed_globals(np.random.default_rng(np.random.SeedSequence([*self._seed, number])))
            answer = ask()
        self._journal.append({**asked, "answer": answer})
        return answer


def sum_of(obs: Any) -> int:
    """CRC-32 of observations."""
    obs = maybe_unwrap_dictobs(obs)
    if isinstance(obs, Mapping):
        total = 0
        for key in sorted(obs):
            total = zlib.crc32(np.ascontiguousarray(obs[key]).data, total)
        return total
    return zlib.crc32(np.ascontiguousarray(obs).data)


class RoundJournal:
    """The first line says how a round began, the others what was answered in it.

    Args:
        folder: of the round.
    """

    NAME = "answers.jsonl"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._journal = Journal(folder / self.NAME)

    def header(self) -> dict[str, Any] | None:
        """How the round began: ``round``, ``seed``, ``first_number``; None if it did not.

        Raises:
            CorruptFileError: the journal was altered.
        """
        return next(iter(self._journal), None)

    def begin(self, round_num: int, seed: int, first_number: int) -> dict[str, Any]:
        """Write the first line."""
        header = {"round": round_num, "seed": seed, "first_number": first_number}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._journal.append(header)
        return header

    def remove(self) -> None:
        """Forget that the round began."""
        self._journal.path.unlink(missing_ok=True)

    def answers(self) -> Iterator[dict[str, Any]]:
        """What was answered before now."""
        kept = list(self._journal)[1:]
        return iter(kept)

    def append(self, answer: Mapping[str, Any]) -> None:
        """Keep one answer; when this returns, it is on the disk."""
        self._journal.append(answer)

    def set_aside(self, *, asked_before: int) -> None:
        """The environment did not come back to the same observations: keep what was answered under another name."""
        lines = list(self._journal)
        path, number = self._journal.path, 0
        while (aside := path.with_name(f"answers-unused-{number:03d}.jsonl")).exists():
            number += 1
        path.rename(aside)
        for line in lines[: 1 + asked_before]:
            self._journal.append(line)
        sync(self.folder)
        _log.warning(
            "the environment does not repeat itself under the same seed: from query %d on, the expert is asked anew; "
            "what was answered is kept in %s",
            asked_before,
            aside,
        )
