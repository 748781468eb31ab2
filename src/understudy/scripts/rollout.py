"""``understudy rollout``: record a policy into a dataset."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.scripts._parts import Compute, Environment, at_least, check_seed, environment_closed, say
from understudy.scripts._policies import Expert, load_any_policy
from understudy.scripts._run_folder import default_path
from understudy.scripts._sources import record

if TYPE_CHECKING:
    from rich.console import Console


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Record a policy in an environment as a dataset of trajectories.

    The dataset is an Arrow directory: understudy, Hugging Face datasets and pyarrow open it; a path ending in .npz
    gets one NumPy file instead.

        understudy rollout CartPole-v1 --policy bundled --n-episodes 50 --out data/cartpole

    Play yourself, in this terminal; the same command goes on where you stopped:

        understudy rollout CartPole-v1 --policy human --n-episodes 3 --out data/mine
    """

    environment: Environment
    compute: Compute = dataclasses.field(default_factory=Compute)

    policy: str = "bundled"
    """Who acts: bundled, random, zero, human, hub:ORG/ALGO-ENV, module:name, or the path of a policy or run folder."""

    keys: tuple[str, ...] = ()
    """With human: KEY=NAME for each action in order, as in a=left d=right. None takes usual ones."""

    n_episodes: int = 50
    """Whole episodes to record."""

    deterministic: bool = True
    """Take the most probable action; sample if not."""

    seed: int = 0
    """Decides everything random in this recording."""

    out: Path | None = None
    """Where to write. None makes output/rollout/ENVIRONMENT/TIME."""

    def run(self, console: Console) -> int:
        """Record, save, print statistics."""
        from understudy.data import serialize
        from understudy.errors import ConfigError
        from understudy.scripts._summary import number, print_table, summarise

        path = self.out or default_path("rollout", self.environment.env_id)
        check_seed(self.seed)
        at_least(1, n_episodes=self.n_episodes)
        if path.exists():
            raise ConfigError("a path that is free", f"{path}, which exists", "choose another --out")
        human = self.policy == "human"
        if self.keys and not human:
            raise ConfigError("--keys with --policy human", f"--keys with --policy {self.policy}", "leave one out")
        environment = Expert(self.policy).where(self.environment)
        # Kept beside the recording until it is complete: the same command goes on there.
        journal = path.with_name(f"{path.name}.answers.jsonl") if human else None
        with environment_closed(environment, self.seed) as venv, self.compute.limited(venv):
            policy = None
            if self.policy != "random":
                policy = load_any_policy(self.policy, venv, environment, keys=self.keys, journal=journal)
            with contextlib.nullcontext() if human else console.status("recording"):
                trajectories = record(policy, venv, self.n_episodes, self.seed, deterministic=self.deterministic)
        serialize.save(path, trajectories)
        if journal is not None:
            journal.unlink(missing_ok=True)
        lengths = [len(trajectory) for trajectory in trajectories]
        returns = [float(trajectory.rews.sum()) for trajectory in trajectories]
        print_table([summarise(self.policy, returns, lengths)], console, "Recorded")
        console.print()
        truncated = sum(trajectory.truncated for trajectory in trajectories)
        say(console, "steps", f"{sum(lengths)} (episodes of {number(min(lengths))} to {number(max(lengths))})")
        say(console, "ends", f"{truncated} by time limit, {len(trajectories) - truncated} by themselves")
        say(console, "dataset", f"[bold]{path}[/bold]")
        say(console, "next", f"understudy train bc {self.environment.env_id} --demonstrations {path}")
        return 0
