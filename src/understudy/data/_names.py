"""What the arrays of demonstrations are called."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from understudy.errors import DataError

_KEYS = {
    "obs",
    "acts",
    "next_obs",
    "dones",
    "terminated",
    "truncated",
    "rews",
    "rew",
    "infos",
    "episode_ends",
    "weights",
}


_MEANT = {
    "observation": "obs",
    "observations": "obs",
    "states": "obs",
    "action": "acts",
    "actions": "acts",
    "next_observations": "next_obs",
    "rewards": "rews",
    "terminals": "dones",
    "terminations": "terminated",
    "truncations": "truncated",
    "timeouts": "truncated",
    "weight": "weights",
}
"""Names that other libraries use for the same things."""

_LONGEST = 40
_MOST = 16
"""Names come from files: a message shows so much of each, and so many."""


def check_names(names: Iterable[str], where: str, *, others_allowed: bool) -> None:
    """A misspelt name must not be dropped without a word; a batch may carry columns of the user's own."""
    given = {str(name) for name in names}
    meant = {name: _MEANT.get(name) or _nearest(name) for name in sorted(given - _KEYS)}
    named = {name: known for name, known in meant.items() if known is not None and known not in given}
    missing = {"obs", "acts"} - given
    if not missing and not named and (others_allowed or not meant):
        return
    shown = {name: name[:_LONGEST] for name in given}
    advice = [f"rename `{shown[name]}` to `{known}`" for name, known in named.items()]
    advice += [f"leave out `{shown[name]}`" for name in meant if name not in named and not others_allowed]
    advice += [f"add `{name}`" for name in sorted(missing - set(named.values()))]
    raise DataError(
        expected=f"{where} to hold `obs` and `acts`, and of the rest only {', '.join(sorted(_KEYS - {'obs', 'acts'}))}",
        got=f"the names {', '.join(_some([shown[name] for name in sorted(given)])) or '(none)'}",
        do=", ".join(_some(advice)),
    )


def _some(texts: list[str]) -> list[str]:
    return texts if len(texts) <= _MOST else [*texts[:_MOST], f"… ({len(texts) - _MOST} more)"]


def _nearest(name: str) -> str | None:
    if len(name) > _LONGEST:
        return None
    close = difflib.get_close_matches(name, _KEYS, n=1, cutoff=0.8)
    return close[0] if close else None
