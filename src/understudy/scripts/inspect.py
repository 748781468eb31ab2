"""``understudy inspect``: the data doctor."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from understudy.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

    from understudy.data.inspection import Inspection

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Look demonstrations over before training on them.

    Shows what is there (shapes, dtypes, episodes, returns) and what is wrong with it, each finding with one thing to
    do. Exits with 1 if there is an error that training would refuse.

        understudy inspect mine.npz --env CartPole-v1
    """

    path: Positional[Annotated[Path, arg(metavar="PATH")]]
    """A dataset, or a .npz with obs and acts, one row a step (and next_obs, dones, truncated, rews, episode_ends)."""

    env: str | None = None
    """Id of the environment, so that its spaces can be compared. None judges by the data alone."""

    json: bool = False
    """Print one JSON object instead of tables."""

    def run(self, console: Console) -> int:
        """Inspect and print; 1 if an error was found."""
        from understudy.data.inspection import inspect_demonstrations
        from understudy.scripts._parts import Environment, environment_closed
        from understudy.scripts._run_folder import plain

        if not self.path.exists():
            raise DataError("a path that exists", str(self.path), "check the path")
        spaces = {}
        if self.env is not None:
            with environment_closed(Environment(env_id=self.env, n_envs=1), 0) as venv:
                spaces = {"observation_space": venv.observation_space, "action_space": venv.action_space}
        inspection = inspect_demonstrations(self.path, **spaces)
        if self.json:
            print(json.dumps(plain({"path": self.path, "ok": inspection.ok, "inspection": inspection})))
        else:
            _print(inspection, console, str(self.path))
        return 0 if inspection.ok else 1


def _print(inspection: Inspection, console: Console, path: str) -> None:
    from rich.markup import escape
    from rich.table import Table

    from understudy.scripts._parts import say
    from understudy.scripts._summary import number

    say(console, "data", f"[bold]{escape(path)}[/bold]")
    say(console, "episodes", f"{inspection.n_episodes}, {inspection.n_transitions} steps")
    for label, spread in (("lengths", inspection.lengths), ("returns", inspection.returns)):
        if spread is not None:
            low, median, high = (number(value) for value in (spread.low, spread.median, spread.high))
            say(console, label, f"{low} to {high}, median {median}")
    table = Table(header_style="dim")
    for column, justify in (("array", "left"), ("dtype", "left"), ("shape", "left"), ("MB", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for field in inspection.fields:
        table.add_row(escape(field.name), field.dtype, str(field.shape), f"{field.n_bytes / 1e6:.1f}")
    console.print(table)
    console.print()
    findings = Table.grid(padding=(0, 2))
    for finding in inspection.findings:
        colour = _COLOURS[finding.severity]
        findings.add_row(f"[{colour}]{finding.severity}[/{colour}]", escape(finding.what))
        findings.add_row("", f"[dim]do this: {escape(finding.do)}[/dim]")
    console.print(findings, highlight=False)
    if not inspection.findings:
        console.print("[green]healthy[/green]  nothing to mend", highlight=False)
