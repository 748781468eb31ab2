"""Which workloads there are, what each must reach, and when two results count as the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

Result = Mapping[str, float | int | str]

PEER = "imitation"
OURS = "understudy"


@dataclass(frozen=True)
class Close:
    """Both medians lie within ``tolerance`` (absolute, in the unit of ``key``) of each other."""

    key: str
    tolerance: float

    def failure(self, peer: Result, ours: Result) -> str | None:
        """What is wrong, or None."""
        if key_missing := _missing(self.key, peer, ours):
            return key_missing
        gap = abs(float(peer[self.key]) - float(ours[self.key]))
        return None if gap <= self.tolerance else f"{self.key} differs by {gap:.3g} (allowed {self.tolerance:g})"

    def shown(self, peer: Result, ours: Result) -> str:
        """The two values, for the table."""
        return f"{self.key} {_number(peer.get(self.key))} / {_number(ours.get(self.key))}"


@dataclass(frozen=True)
class AtLeast:
    """Both values reach ``least``."""

    key: str
    least: float

    def failure(self, peer: Result, ours: Result) -> str | None:
        """What is wrong, or None."""
        if key_missing := _missing(self.key, peer, ours):
            return key_missing
        low = min(float(peer[self.key]), float(ours[self.key]))
        return None if low >= self.least else f"{self.key} is {low:.4g} (at least {self.least:g})"

    def shown(self, peer: Result, ours: Result) -> str:
        """The two values, for the table."""
        return f"{self.key} {_number(peer.get(self.key))} / {_number(ours.get(self.key))}"


@dataclass(frozen=True)
class Same:
    """Both values are equal; not shown in the table unless they differ."""

    key: str

    def failure(self, peer: Result, ours: Result) -> str | None:
        """What is wrong, or None."""
        if key_missing := _missing(self.key, peer, ours):
            return key_missing
        return None if peer[self.key] == ours[self.key] else f"{self.key}: {peer[self.key]} against {ours[self.key]}"

    def shown(self, peer: Result, ours: Result) -> str:
        """Nothing."""
        return ""


Check = Close | AtLeast | Same


@dataclass(frozen=True)
class Side:
    """One way to run a workload: the library and the variant of the script."""

    library: str
    case: str | None = None
    script: str | None = None


@dataclass(frozen=True)
class Workload:
    """``target`` is the least ratio wanted (peer's median over ours), None where the figure is information only."""

    name: str
    what: str
    script: str
    peer: Side
    ours: Side
    checks: tuple[Check, ...] = ()
    target: float | None = None
    repeats: int = 5
    references: Mapping[str, Side] = field(default_factory=dict)


def _missing(key: str, peer: Result, ours: Result) -> str | None:
    absent = [library for library, result in ((PEER, peer), (OURS, ours)) if key not in result]
    return f"{key} is missing from {' and '.join(absent)}" if absent else None


def _number(value: float | int | str | None) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    return str(value)


def _both(case: str | None = None) -> tuple[Side, Side]:
    return Side(PEER, case), Side(OURS, case)


_SAME_DATA = Same("demonstrations_sha256")
_SAME_FILES = (Same("arrays_sha256"), Same("n_transitions"), Same("n_infos"), Close("infos_sum", 0.01))
_SAME_WORK = (_SAME_DATA, Same("optimiser_steps"))

WORKLOADS: tuple[Workload, ...] = (
    Workload(
        "bc_small",
        "BC, default policy [32, 32], batch 32, 28,000 CartPole samples, 4 epochs",
        "bc_small.py",
        *_both("short"),
        checks=(*_SAME_WORK, Close("neglogp", 0.02), AtLeast("return_mean", 475.0)),
        target=12.0,
        references={"bare SB3 evaluate_actions loop": Side("stable_baselines3", script="sb3_loop.py")},
    ),
    Workload(
        "bc_long",
        "the same, 40 epochs",
        "bc_small.py",
        *_both("long"),
        checks=(*_SAME_WORK, Close("neglogp", 0.02), AtLeast("return_mean", 475.0)),
        target=15.0,
        repeats=3,
    ),
    Workload(
        "bc_wide",
        "BC, 17 → [256, 256] → 6 Gaussian, batch 256, 100,000 samples, 2 epochs",
        "bc_wide.py",
        *_both(),
        # 100,000 is no multiple of 256: understudy takes the last, smaller batch of each epoch too, the peer does not.
        checks=(_SAME_DATA, Close("optimiser_steps", 2), Close("neglogp", 0.1)),
        target=2.5,
    ),
    Workload(
        "bc_images",
        "BC, NatureCNN on 4x84x84 uint8, batch 64, 2,048 samples, 1 epoch",
        "bc_images.py",
        *_both(),
        checks=(*_SAME_WORK, Close("neglogp", 0.1)),
        target=2.0,
    ),
    Workload(
        "rollout",
        "rollout of 40,000 CartPole steps in 8 environments, both with RolloutInfoWrapper",
        "rollout.py",
        *_both("wrapped"),
        checks=(Same("n_steps"), Same("n_trajectories"), Close("return_mean", 0.0)),
        target=1.8,
    ),
    Workload(
        "rollout_bare",
        "the same; understudy without the wrapper, which it does not need",
        "rollout.py",
        Side(PEER, "wrapped"),
        Side(OURS, "bare"),
        checks=(Same("n_steps"), Same("n_trajectories"), Close("return_mean", 0.0)),
        target=1.8,
    ),
    Workload(
        "dagger",
        "DAgger, 8,000 steps of seals/CartPole in 8 environments, everything by default",
        "dagger.py",
        *_both("documented"),
        checks=(Same("rounds"), AtLeast("return", 500.0)),
        target=10.0,
    ),
    Workload(
        "dagger_learning",
        "the same without returns measured along the way",
        "dagger.py",
        *_both("learning"),
        checks=(Same("rounds"), AtLeast("return", 500.0)),
    ),
    Workload(
        "gail",
        "GAIL, 49,152 steps of seals/CartPole in 8 environments; understudy with its FusedPPO",
        "adversarial.py",
        Side(PEER, "gail"),
        Side(OURS, "gail-fused"),
        checks=(Same("n_timesteps"), Same("updates")),
        target=4.0,
        repeats=3,
        references={
            "bare SB3 PPO, paid by the environment": Side("stable_baselines3", "gail"),
            "understudy, with Stable-Baselines3's PPO": Side(OURS, "gail"),
        },
    ),
    Workload(
        "airl",
        "AIRL, the same",
        "adversarial.py",
        Side(PEER, "airl"),
        Side(OURS, "airl-fused"),
        checks=(Same("n_timesteps"), Same("updates")),
        target=4.0,
        repeats=3,
        references={"understudy, with Stable-Baselines3's PPO": Side(OURS, "airl")},
    ),
    Workload(
        "gail_long",
        "GAIL, 491,520 steps",
        "adversarial.py",
        Side(PEER, "gail-long"),
        Side(OURS, "gail-fused-long"),
        checks=(Same("n_timesteps"), Same("updates")),
        target=5.0,
        repeats=1,
    ),
    Workload(
        "save",
        "saving 500 trajectories of 1,000 steps, 17 + 6 float32 and rewards; understudy's with sync and SHA-256",
        "dataset_files.py",
        *_both("save"),
        checks=_SAME_FILES,
        target=20.0,
        repeats=3,
    ),
    Workload(
        "load_flatten",
        "the same read back into flat arrays; understudy verifies the sums first",
        "dataset_files.py",
        *_both("load_flatten"),
        checks=_SAME_FILES,
        target=50.0,
        repeats=3,
    ),
    Workload(
        "save_infos",
        "saving, with five entries in the info of each step",
        "dataset_files.py",
        *_both("save_infos"),
        checks=_SAME_FILES,
        repeats=3,
    ),
    Workload(
        "load_flatten_infos",
        "the same read back into flat arrays, all infos decoded",
        "dataset_files.py",
        *_both("load_flatten_infos"),
        checks=_SAME_FILES,
        repeats=3,
    ),
    Workload("import_package", "a fresh interpreter: `import LIBRARY`", "import_time.py", *_both("package")),
    Workload("import_bc", "a fresh interpreter: `from LIBRARY.algorithms import bc`", "import_time.py", *_both("bc")),
)
