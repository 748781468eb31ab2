"""Run by wheel_smoke.sh inside an environment that holds the wheel and its core dependencies, nothing else."""

from __future__ import annotations

import pkgutil
import socket
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

EXTRAS_ABSENT = [
    "matplotlib",
    "datasets",
    "seals",
    "wandb",
    "tensorboard",
    "sb3_contrib",
    "sklearn",
    "pytest",
    "beartype",
]


def no_network(*args: object, **kwargs: object) -> None:
    raise OSError("the smoke test runs without a network")


def import_everything() -> None:
    import understudy
    from understudy.errors import MissingExtraError

    assert "site-packages" in (understudy.__file__ or ""), understudy.__file__
    found = refused = 0
    for module in pkgutil.walk_packages(understudy.__path__, "understudy."):
        if any(part.startswith("_") for part in module.name.split(".")):
            continue
        try:
            import_module(module.name)
            found += 1
        except MissingExtraError as error:
            if "pip install 'understudy[" not in str(error):
                raise
            refused += 1
            print(f"  {module.name}: {error}")
    for name in understudy.__all__:
        getattr(understudy, name)
    print(f"imported {found} public modules; {refused} named their extra")
    assert found > 10


def extras_name_themselves() -> None:
    from understudy.errors import MissingExtraError
    from understudy.util.logger import make_output_format

    for extra in ("tensorboard", "wandb"):
        try:
            make_output_format(extra, "logs")
        except MissingExtraError as error:
            if f"pip install 'understudy[{extra}]'" not in str(error):
                raise
        else:
            raise AssertionError(f"{extra} is not installed, but asking for it raised nothing")
    print("missing extras name themselves")


def clone() -> None:
    """A sign task: action 1 exactly where the first observation is positive."""
    import gymnasium as gym
    import numpy as np

    from understudy import BC, load_saved_policy

    rng = np.random.default_rng(0)
    obs = rng.uniform(-1, 1, size=(2000, 3)).astype(np.float32)
    acts = (obs[:, 0] > 0).astype(np.int64)
    spaces = {"observation_space": gym.spaces.Box(-1, 1, (3,)), "action_space": gym.spaces.Discrete(2)}
    bc = BC(**spaces, demonstrations={"obs": obs, "acts": acts}, rng=rng)
    bc.train(n_epochs=10, progress_bar=False)
    with tempfile.TemporaryDirectory() as folder:
        bc.save_policy(Path(folder) / "clone.safetensors")
        policy = load_saved_policy(Path(folder) / "clone.safetensors")
    got, _ = policy.predict(obs, deterministic=True)
    share = float((got == acts).mean())
    print(f"smoke clone: {share:.1%} of the actions agree")
    assert share > 0.95


if __name__ == "__main__":
    socket.socket.connect = no_network  # type: ignore[method-assign, assignment]
    present = [name for name in EXTRAS_ABSENT if find_spec(name)]
    assert not present, f"this environment holds extras: {present}"
    import_everything()
    extras_name_themselves()
    clone()
