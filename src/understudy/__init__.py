"""Learn by watching: imitation and reward learning on PyTorch, Stable-Baselines3 and Gymnasium.

This is the front door. Its names are looked up on first use, so importing the package alone loads no torch, no NumPy
and no environment: a command that only prints its help, or a worker that needs one submodule, pays for nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.algorithms.adversarial.airl import AIRL as AIRL
    from understudy.algorithms.adversarial.gail import GAIL as GAIL
    from understudy.algorithms.bc import BC as BC
    from understudy.algorithms.checkpoints import Checkpoints as Checkpoints
    from understudy.algorithms.cloning_agent import BehavioralCloningAgent as BehavioralCloningAgent
    from understudy.algorithms.dagger import DAggerTrainer as DAggerTrainer
    from understudy.algorithms.dagger import SimpleDAggerTrainer as SimpleDAggerTrainer
    from understudy.algorithms.pretrain import pretrain as pretrain
    from understudy.data.demonstrations import as_demonstrations as as_demonstrations
    from understudy.data.rollout import flatten_trajectories as flatten_trajectories
    from understudy.data.rollout import make_sample_until as make_sample_until
    from understudy.data.rollout import rollout as rollout
    from understudy.data.types import Trajectory as Trajectory
    from understudy.data.types import TrajectoryWithRew as TrajectoryWithRew
    from understudy.data.types import Transitions as Transitions
    from understudy.evaluation.returns import evaluate_returns as evaluate_returns
    from understudy.policies.serialize import load_policy as load_policy
    from understudy.policies.serialize import load_saved_policy as load_saved_policy
    from understudy.policies.serialize import save_policy as save_policy
    from understudy.rewards.reward_nets import BasicRewardNet as BasicRewardNet
    from understudy.rl.fused_ppo import FusedPPO as FusedPPO
    from understudy.util.util import make_vec_env as make_vec_env

__version__ = "0.1.0"

_DOOR = {
    "AIRL": "understudy.algorithms.adversarial.airl",
    "BC": "understudy.algorithms.bc",
    "BasicRewardNet": "understudy.rewards.reward_nets",
    "BehavioralCloningAgent": "understudy.algorithms.cloning_agent",
    "Checkpoints": "understudy.algorithms.checkpoints",
    "DAggerTrainer": "understudy.algorithms.dagger",
    "FusedPPO": "understudy.rl.fused_ppo",
    "GAIL": "understudy.algorithms.adversarial.gail",
    "SimpleDAggerTrainer": "understudy.algorithms.dagger",
    "Trajectory": "understudy.data.types",
    "TrajectoryWithRew": "understudy.data.types",
    "Transitions": "understudy.data.types",
    "as_demonstrations": "understudy.data.demonstrations",
    "evaluate_returns": "understudy.evaluation.returns",
    "flatten_trajectories": "understudy.data.rollout",
    "load_policy": "understudy.policies.serialize",
    "load_saved_policy": "understudy.policies.serialize",
    "make_sample_until": "understudy.data.rollout",
    "make_vec_env": "understudy.util.util",
    "pretrain": "understudy.algorithms.pretrain",
    "rollout": "understudy.data.rollout",
    "save_policy": "understudy.policies.serialize",
}
_PACKAGES = (
    *("algorithms", "data", "errors", "evaluation", "functional", "policies", "rewards", "rl", "scripts", "testing"),
    "util",
)

__all__ = [*_DOOR, "__version__"]


def __getattr__(name: str) -> Any:
    """Import what ``name`` stands for and keep it, so that this runs once a name."""
    if name in _DOOR:
        value = getattr(import_module(_DOOR[name]), name)
    elif name in _PACKAGES:
        value = import_module(f"understudy.{name}")
    else:
        raise AttributeError(f"module 'understudy' has no attribute {name!r}; it offers {', '.join(sorted(_DOOR))}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOOR, *_PACKAGES})
