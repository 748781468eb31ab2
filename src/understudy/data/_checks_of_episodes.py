"""The data doctor's checks of episodes: where they end and how, odd returns, steps out of order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from understudy.data._dataset import Demonstrations
from understudy.data._findings import Finding, found, numbered, place


def findings(demos: Demonstrations, obs: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """All findings about episodes."""
    yield from _ends(demos)
    yield from _order(demos, obs)
    yield from _returns(demos)
    short = np.flatnonzero(demos.episode_lengths < 2)
    if len(short) and demos.n_episodes > 1:
        yield found(
            "note",
            "short-episodes",
            f"{numbered('episode', short)} {'has' if len(short) == 1 else 'have'} a single step",
            "check that recording did not start too late or stop at once",
        )


def _ends(demos: Demonstrations) -> Iterator[Finding]:
    if not demos.episodes_known:
        yield found(
            "warning",
            "unknown-episodes",
            f"nothing says where episodes end: all {len(demos)} steps count as one",
            "add `episode_ends` (numpy.cumsum of the lengths) or `dones`; a validation split by episode needs it",
        )
        return
    last = demos.episode_offsets[1:] - 1
    if demos.dones is None and demos.truncated is None:
        yield found(
            "note",
            "missing-terminations",
            "nothing says how episodes end (no `dones`, no `truncated`); cloning does not ask",
            "for rewards and critics, add `dones` for real ends and `truncated` for time limits",
        )
        return
    zeros = np.zeros(len(demos), dtype=bool)
    dones = zeros if demos.dones is None else demos.dones
    truncated = zeros if demos.truncated is None else demos.truncated
    inside = dones | truncated
    inside = inside & ~np.isin(np.arange(len(demos)), last)
    if inside.any():
        yield found(
            "error",
            "end-inside-episode",
            f"{int(inside.sum())} steps inside an episode are marked as its end, first "
            f"{place(int(np.argmax(inside)), demos)}",
            "`episode_ends` and `dones` disagree: correct one of them",
        )
    unfinished = np.flatnonzero(~(dones[last] | truncated[last]))
    if len(unfinished):
        severity = "note" if len(unfinished) < demos.n_episodes else "warning"
        yield found(
            severity,
            "missing-terminations",
            f"{len(unfinished)} of {demos.n_episodes} episodes have no end: {numbered('episode', unfinished)}",
            "if they were cut by a time limit, mark them truncated; if the recording broke off, they are fragments",
        )
    lengths = demos.episode_lengths
    longest = lengths == lengths.max()
    if longest.sum() > max(2, 0.3 * len(lengths)) and lengths.max() > 1 and dones[last][longest].all():
        yield found(
            "warning",
            "time-limit-as-termination",
            f"{int(longest.sum())} of {len(lengths)} episodes end as terminated at exactly {lengths.max()} steps",
            "this looks like a time limit: mark it `truncated`, not `dones`, or critics learn that nothing follows",
        )


def _order(demos: Demonstrations, obs: Mapping[str, np.ndarray]) -> Iterator[Finding]:
    """Where next observations are stored, each should be the next step's observation."""
    if not isinstance(demos.next_frames, np.ndarray) or "obs" not in obs or len(demos) < 2:
        return
    inner = np.ones(len(demos), dtype=bool)
    inner[demos.episode_offsets[1:] - 1] = False
    rows = np.flatnonzero(inner)
    if not len(rows) or demos.next_frames.shape != obs["obs"].shape:
        return
    differs = (demos.next_frames[rows] != obs["obs"][rows + 1]).reshape(len(rows), -1).any(axis=1)
    if differs.any():
        yield found(
            "warning",
            "out-of-order",
            f"{int(differs.sum())} of {len(rows)} steps are not followed by their `next_obs`, first "
            f"{place(int(rows[np.argmax(differs)]), demos)}",
            "the rows were shuffled or episode ends are missing: returns and time steps mean nothing then",
        )


def _returns(demos: Demonstrations) -> Iterator[Finding]:
    returns = demos.episode_returns()
    if returns is None:
        yield found(
            "note",
            "no-rewards",
            "no rewards",
            "add `rews` to see the returns of the demonstrations beside the clone's",
        )
        return
    if len(returns) < 4 or not np.isfinite(returns).all():
        return
    lower, median, upper = np.quantile(returns, [0.25, 0.5, 0.75])
    low = np.flatnonzero(returns < lower - 3 * max(upper - lower, 1e-9 + 0.01 * abs(median)))
    if len(low):
        yield found(
            "note",
            "low-returns",
            f"{len(low)} of {len(returns)} episodes earn far less than the rest, {numbered('episode', low)}: down to "
            f"{returns.min():.4g} where the median is {median:.4g}",
            "look at them: a clone imitates failures as faithfully as successes",
        )
