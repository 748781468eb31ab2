"""A Stable-Baselines3 model by name or from its zip: what `understudy pretrain` trains."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from understudy.errors import ConfigError, UnderstudyError
from understudy.scripts._parts import assignment, nearest

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

    from understudy.policies._stable_zip import StableZip

AlgoName = Literal[
    "ppo", "a2c", "dqn", "sac", "td3", "ddpg", "trpo", "recurrent_ppo", "maskable_ppo", "qrdqn", "tqc"
]  # fmt: skip
_LOADERS_NAMES = {"recurrent_ppo": "ppo_lstm", "maskable_ppo": "ppo_mask"}
_ON_POLICY = {"n_steps": 128, "batch_size": 128}
_OFF_POLICY = {"learning_starts": 0}
_CAREFUL = {**_OFF_POLICY, "exploration_initial_eps": 0.05}
_GENTLE: dict[str, dict[str, Any]] = {
    "ppo": {**_ON_POLICY, "target_kl": 0.01},
    "maskable_ppo": {**_ON_POLICY, "target_kl": 0.01},
    "recurrent_ppo": {**_ON_POLICY, "target_kl": 0.01},
    "trpo": _ON_POLICY,
    "dqn": _CAREFUL,
    "qrdqn": _CAREFUL,
    "sac": _OFF_POLICY,
    "tqc": _OFF_POLICY,
    "td3": _OFF_POLICY,
    "ddpg": _OFF_POLICY,
}
"""Settings under which learning goes on from the clone instead of unlearning it; --set has the last word."""


@dataclasses.dataclass(frozen=True)
class Learner:
    """The model."""

    algo: AlgoName | None = None
    """Which algorithm. None: ppo, or that of --model where its zip tells."""

    model: Path | None = None
    """Zip of a Stable-Baselines3 model, or the folder of one, to go on with; nothing in it is run."""

    policy: str | None = None
    """MlpPolicy, CnnPolicy, MultiInputPolicy, … None takes the one for these observations."""

    set: tuple[str, ...] = ()
    """Further arguments of the algorithm as name=value, values in JSON; linear:0.001 is a schedule falling to 0."""

    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, …"""

    def check(self) -> None:
        """Raise ConfigError for options at odds with each other, and for a device that this machine does not have."""
        from understudy.util.devices import resolve_device

        if self.model is not None and self.policy is not None:
            raise ConfigError("--policy for a new model", "--model too, which has its policy", "leave one out")
        resolve_device(self.device)

    def make(self, venv: VecEnv, seed: int) -> tuple[str, BaseAlgorithm]:
        """Its name and the model.

        Raises:
            ConfigError: the algorithm takes no such arguments or spaces, or the zip is of another one.
            MissingExtraError: it is one of sb3-contrib's, which is not installed.
        """
        options = {name: _value(name, value) for name, value in map(assignment, self.set)}
        own = sorted({"seed", "device", "policy", "env"} & options.keys())
        if own:
            raise ConfigError(f"--set without {own[0]}", f"--set {own[0]}=…", f"pass --{own[0]}, or leave it out")
        return self._loaded(venv, seed, options) if self.model is not None else self._new(venv, seed, options)

    def _new(self, venv: VecEnv, seed: int, options: dict[str, Any]) -> tuple[str, BaseAlgorithm]:
        name = self.algo or "ppo"
        cls = _class_of(name)
        arguments = {**_GENTLE.get(name, {}), **options, "seed": seed, "device": self.device}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return name, cls(self.policy or _usual_policy(name, venv), venv, **arguments)
        except UnderstudyError:
            raise
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(
                f"arguments and spaces that {cls.__name__} takes",
                f"{type(error).__name__}: {' '.join(str(error).split())}"[:300],
                "correct --set or choose another --algo; the arguments are those of the Stable-Baselines3 class",
            ) from error

    def _loaded(self, venv: VecEnv, seed: int, options: dict[str, Any]) -> tuple[str, BaseAlgorithm]:
        from understudy.policies._algorithms import check_algorithm
        from understudy.policies._stable_zip import read_stable_zip
        from understudy.policies.serialize import load_stable_baselines_model

        assert self.model is not None
        archive = _archive(self.model)
        contents = read_stable_zip(archive, policy_only=True)
        name = self.algo or _algorithm_of(contents)
        known = inspect.signature(_class_of(name)).parameters.keys() - {"policy_kwargs", "_init_setup_model"}
        strange = sorted(options.keys() - known)
        if strange:
            raise ConfigError(
                f"arguments that {_class_of(name).__name__} takes for a model that is there",
                f"--set {strange[0]}=… with --model",
                f"did you mean {nearest(strange[0], known)}?" if nearest(strange[0], known) else "correct --set",
            )
        check_algorithm(contents, _LOADERS_NAMES.get(name, name))
        model = load_stable_baselines_model(_class_of(name), archive, venv, device=self.device, **options)
        model.set_random_seed(seed)
        return name, model


def _archive(path: Path) -> Path:
    for found in (path, path / "model.zip", path / "policies/final/model.zip", path / "policies/clone/model.zip"):
        if found.is_file():
            return found
    raise ConfigError(
        "--model with the zip of a Stable-Baselines3 model, or a folder of one",
        f"{path}, {'a folder without one' if path.exists() else 'which does not exist'}",
        "check the path; model.save(path) and `understudy train rl` write such zips",
    )


def _class_of(name: str) -> type[BaseAlgorithm]:
    from understudy.policies._algorithms import algorithm_class

    return algorithm_class(_LOADERS_NAMES.get(name, name))


def _algorithm_of(contents: StableZip) -> str:
    """By its tensors and, where several algorithms have the same, by the names of its options."""
    from understudy.policies._stable_zip import algorithms_of

    found, options = algorithms_of(contents.policy), contents.data
    tells = {
        "ppo_lstm": "recurrent_ppo",
        "dqn": "dqn",
        "qrdqn": "qrdqn",
    }
    for name, algo in tells.items():
        if name in found:
            return algo
    if "ppo" in found:
        if "cg_max_steps" in options:
            return "trpo"
        if "clip_range" not in options:
            return "a2c"
        return "maskable_ppo" if "Maskable" in str(options.get("policy_class"))[:2000] else "ppo"
    if "sac" in found:
        return "tqc" if "top_quantiles_to_drop_per_net" in options else "sac"
    if "td3" in found and options.get("policy_delay") != 1:
        return "td3"
    raise ConfigError(
        "a zip that tells its algorithm",
        f"{contents.path}, of {' or '.join(sorted(found)) or 'an unknown one'}",
        "name it with --algo",
    )


def _usual_policy(name: str, venv: VecEnv) -> str:
    from gymnasium import spaces
    from stable_baselines3.common.preprocessing import is_image_space

    from understudy.util.image_spaces import channels_first

    space = channels_first(venv.observation_space)
    kind = "MultiInput" if isinstance(space, spaces.Dict) else "Cnn" if is_image_space(space) else "Mlp"
    return f"{kind}{'Lstm' if name == 'recurrent_ppo' else ''}Policy"


def _value(name: str, value: Any) -> Any:
    from understudy.rl.training import _plain_to_object

    if name == "policy_kwargs" and not isinstance(value, dict):
        example = "write for example --set 'policy_kwargs={\"net_arch\": [32, 32]}'"
        raise ConfigError("--set policy_kwargs=… with an object in JSON", repr(value)[:80], example)
    return _plain_to_object(name, value)
