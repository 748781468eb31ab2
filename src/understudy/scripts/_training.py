"""What follows training in every verb that trains: evaluation, action errors, report, table."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from understudy.scripts._parts import Environment, Evaluation, environment_closed, say
from understudy.scripts._run_folder import RunFolder
from understudy.scripts._sources import episodes, record
from understudy.scripts._summary import counted, few_episodes, print_table, summarise_all

if TYPE_CHECKING:
    import gymnasium as gym
    from rich.console import Console

    from understudy.data.demonstrations import Demonstrations

_FRESH_EPISODES = 30
_SCATTER_POINTS = 1500
_CONFUSION_ACTIONS = 40


@dataclasses.dataclass(frozen=True)
class Seeds:
    """Independent seeds for the parts of a run, all from the one that the user gave."""

    demonstrations: int
    training: int
    evaluation: int
    fresh: int

    @classmethod
    def spawn(cls, seed: int) -> Seeds:
        """Seeds below 2³¹."""
        import numpy as np

        return cls(*(int(word) >> 1 for word in np.random.SeedSequence(seed).generate_state(4)))


def evaluate_all(
    policies: dict[str, Any], environment: Environment, evaluation: Evaluation, seed: int, *, progress_bar: bool
) -> dict[str, Any]:
    """Returns of each policy as ``results.json`` has them; all meet the same seeds."""
    returns = {}
    for name, policy in policies.items():
        result = evaluation.returns(policy, environment, seed, progress_bar=progress_bar)
        returns[name] = {"returns": result.returns, "lengths": result.lengths, "truncated": result.truncated}
    return returns


def compare_actions(
    clone: Any,
    teacher: Any,
    environment: Environment,
    demos: Demonstrations,
    held_out: Sequence[int],
    seed: int,
) -> dict[str, Any]:
    """``action_error`` and ``actions`` of ``results.json``.

    Against the teacher where it is at hand, on fresh episodes of it; else against what was recorded, on the held-out
    episodes if there are any.
    """
    import numpy as np

    from understudy.evaluation.action_error import action_errors, error_curve

    compared: Any
    with environment_closed(environment, seed) as venv:
        action_space: gym.Space[Any] = venv.action_space
        if teacher is not None:
            compared, source = record(teacher, venv, _FRESH_EPISODES, seed), "fresh expert episode"
        elif len(held_out):
            compared, source = episodes(demos, np.array(held_out)), "held-out episode"
        else:
            compared, source = demos, "training episode"
    errors = action_errors(clone, compared, action_space)
    curve = error_curve(errors.per_step)
    return {
        "action_error": {
            "unit": errors.unit,
            "against": "demonstrations" if teacher is None else "expert",
            "source": source + "s",
            "measured_on": counted(len(errors.per_step), source)
            if demos.episodes_known or teacher is not None
            else "all training steps, taken as one episode",
            "episodes": len(errors.per_step),
            "overall": float(np.nanmean(errors.per_step)),
            "steps": curve.steps,
            "mean": curve.mean,
            "low": curve.low,
            "high": curve.high,
        },
        "actions": _actions(errors.recorded, errors.predicted, action_space),
    }


def _actions(recorded: Any, predicted: Any, space: gym.Space[Any]) -> dict[str, Any] | None:
    import numpy as np
    from gymnasium import spaces

    if isinstance(space, spaces.Discrete) and space.n <= _CONFUSION_ACTIONS:
        counts = np.zeros((space.n, space.n), dtype=int)
        np.add.at(counts, (recorded - space.start, predicted - space.start), 1)
        return {"kind": "confusion", "labels": [str(space.start + i) for i in range(space.n)], "counts": counts}
    if isinstance(space, spaces.Box):
        rows = np.linspace(0, len(recorded) - 1, min(len(recorded), _SCATTER_POINTS)).astype(int)
        flat = [np.asarray(acts)[rows].reshape(len(rows), -1).round(5) for acts in (recorded, predicted)]
        return {"kind": "scatter", "recorded": flat[0], "predicted": flat[1]}
    return None


def conclude(folder: RunFolder, results: dict[str, Any], console: Console, paths: dict[str, Path]) -> None:
    """Write results and report, print the table and where everything is."""
    from understudy.scripts._report import write_report

    folder.save_results(results)
    if folder.config["status"] == "running":
        folder.save_config(status="finished")
    report = write_report(folder.path)
    rows = summarise_all(results.get("returns", {}))
    if rows:
        console.print()
        print_table(rows, console, "Returns of whole episodes")
        console.print()
        for note in (*results.get("notes", ()), *few_episodes(rows)):
            say(console, "note", note)
    for label, path in {**paths, "report": report}.items():
        say(console, label, f"[bold]{escape(str(path))}[/bold]")
    if importlib.util.find_spec("matplotlib") is None:
        say(console, "pictures", escape("none in the report without matplotlib: pip install 'understudy[plots]'"))
