"""Recording an expert into the archive of Stable-Baselines 2."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from understudy.data._stable_baselines_images import CHANNELS, EXTENSIONS, ImageWriter
from understudy.data._stable_baselines_recording import Recording, Stage, StageOfMany, StageOfOne, channels_first
from understudy.data.acting import check_policy_spaces, drawing_from
from understudy.data.types import AnyPath
from understudy.errors import ConfigError, DataError, FileWriteError, UnsupportedSpaceError
from understudy.util.files import replacing

_log = logging.getLogger(__name__)

Predict = Callable[..., tuple[Any, Any]]


def generate_expert_traj(
    model: Any,
    save_path: AnyPath | None = None,
    env: gym.Env[Any, Any] | VecEnv | str | None = None,
    n_timesteps: int = 0,
    n_episodes: int = 100,
    image_folder: str = "recorded_images",
    *,
    deterministic: bool | None = None,
    rng: np.random.Generator | None = None,
    image_format: Literal["png", "jpg", "jpeg"] = "png",
    progress_bar: bool = True,
) -> dict[str, np.ndarray]:
    """Train an expert if asked to, then record whole episodes of it.

    Nothing but the archive's name is ever replaced, and that in one step, when all is recorded. When an error or
    Ctrl-C ends the recording, the episodes that had finished are saved as ``….interrupted.npz``, which the log tells.

    Args:
        model: an algorithm or policy of Stable-Baselines3 or anything with such a ``predict``; an algorithm of this
            library; or a callable, which gets one observation of an environment and returns one action, or of a
            ``VecEnv`` those of all its environments.
        save_path: of the archive; ``.npz`` is appended where it is missing. ``None`` saves nothing.
        env: an environment, a ``VecEnv`` (of several environments only the first is recorded), or an id; ``None``
            takes the model's. Observations are recorded as it gives them. It is closed only if it was made here, from
            an id; Stable-Baselines 2 closed it always.
        n_timesteps: if above 0, ``model.learn(n_timesteps)`` comes first.
        n_episodes: how many to record.
        image_folder: where uint8 images with 1, 3 or 4 channels go, below the archive's folder, each into a file whose
            number is still free there. Without ``save_path`` they stay in memory.
        deterministic: whether the model takes its most likely action; a callable decides for itself. ``None`` does
            as Stable-Baselines 2 did: True for off-policy algorithms, False for all others.
        rng: decides the environment's seed and sampled actions, and puts every generator back; ``None`` seeds nothing.
        image_format: ``"png"`` loses nothing; ``"jpg"``, which the older library wrote, does, and has no fourth
            channel.
        progress_bar: shown on the terminal.

    Returns:
        The arrays of the archive by name (see ``understudy.data.stable_baselines``), never of objects. Paths of images
        in it are absolute; those in the archive are relative to it.

    Raises:
        ConfigError: no environment, nothing that acts, nothing that learns although it should, or an argument out of
            its range.
        UnsupportedSpaceError: nested spaces.
        SpaceMismatchError: model or actions do not fit the environment.
        NonFiniteDataError: NaN or infinity from model or environment.
        MissingExtraError: images are to be saved, and Pillow is not installed.
        FileWriteError: archive or images cannot be written; of the archive this is tried before anything else.
        DataError: a folder has the archive's name.
    """
    if n_episodes < 1:
        raise ConfigError(expected="`n_episodes` ≥ 1", got=str(n_episodes), do="ask for at least one")
    if image_format not in EXTENSIONS:
        raise ConfigError(expected="`image_format` as 'png' or 'jpg'", got=repr(image_format), do="pass one of these")
    target = None if save_path is None else _with_suffix(Path(os.fsdecode(save_path)).expanduser())
    target = None if target is None else Path(os.path.realpath(target))  # images go beside the file, not the link
    if target is not None:
        _check_writable(target)
    with _environment(model, env) as found:
        _check_space(found.observation_space, "observation")
        _check_space(found.action_space, "action")
        predict = _predict(model, deterministic)
        if predict is not None and isinstance(owner := getattr(predict, "__self__", None), (BaseAlgorithm, BasePolicy)):
            check_policy_spaces(owner, found.observation_space, found.action_space)
        if n_timesteps > 0:
            _learn(model, n_timesteps, found)
        images = _image_writer(found.observation_space, target, image_folder, EXTENSIONS[image_format])
        recording = Recording(found.observation_space, found.action_space, images)
        try:
            _record(model, predict, found, recording, n_episodes, rng, deterministic, progress_bar)
        except BaseException:
            _save_interrupted(recording, target)
            raise
        finally:
            if isinstance(model, BaseAlgorithm) and (env is None or n_timesteps > 0 or model.get_env() is env):
                model._last_obs = None  # its environment stands elsewhere now: let `learn` reset it first
        arrays = recording.arrays()
        if target is not None:
            _save(target, recording)
    _log.info("recorded %s", ", ".join(f"{name} {array.shape}" for name, array in arrays.items()))
    if images is not None and target is not None:
        for name in ("obs", "terminal_obs"):
            arrays[name] = np.array([str(target.parent / path) for path in arrays[name].tolist()], dtype=str)
    return arrays


def _record(
    model: Any,
    predict: Predict | None,
    env: gym.Env[Any, Any] | VecEnv,
    recording: Recording,
    n_episodes: int,
    rng: np.random.Generator | None,
    deterministic: bool | None,
    progress_bar: bool,
) -> None:
    from tqdm import tqdm

    seed = None if rng is None else int(rng.integers(2**31 - 1))
    stage: Stage
    if isinstance(env, VecEnv):
        stage, n_envs = StageOfMany(env), env.num_envs
    else:
        stage, n_envs = StageOfOne(env, seed), None
    explicit = isinstance(model, OffPolicyAlgorithm) if deterministic is None else deterministic
    drawing = nullcontext() if rng is None else drawing_from(rng, predict or model, _vectorised(env))
    with drawing, tqdm(total=n_episodes, desc="recording", unit="episode", disable=not progress_bar) as bar:
        obs = stage.reset()
        state: Any = None
        starts = np.ones(stage.n_envs, dtype=bool)
        while recording.n_episodes < n_episodes:
            if predict is None:
                raw = model(obs)
            else:
                raw, state = predict(obs, state=state, episode_start=starts, deterministic=explicit)
            act = recording.fitted(raw, n_envs)
            recording.before(stage.first(obs), np.asarray(stage.first(act)))
            step = stage.step(act)
            starts = step.ended
            obs = step.obs
            recording.after(step)
            if step.ended[0]:
                bar.update()


def _vectorised(env: gym.Env[Any, Any] | VecEnv) -> VecEnv:
    """A handle on the spaces of an environment, for what seeds only these."""
    return env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])


def _predict(model: Any, deterministic: bool | None) -> Predict | None:
    """The model's ``predict``, or None for a callable."""
    for owner in (model, getattr(model, "policy", None)):
        found = getattr(owner, "predict", None)
        if callable(found):
            return found  # type: ignore[no-any-return]
    if not callable(model):
        raise ConfigError(
            expected="a model with `predict`, or a callable of observations",
            got=type(model).__name__,
            do="wrap it in a function of the observation that returns an action",
        )
    if deterministic is not None:
        raise ConfigError(
            expected="`deterministic` for a model only",
            got="a callable, which decides for itself",
            do="leave `deterministic` out",
        )
    return None


@contextmanager
def _environment(model: Any, env: gym.Env[Any, Any] | VecEnv | str | None) -> Iterator[gym.Env[Any, Any] | VecEnv]:
    """The environment to record in; one made here is closed."""
    found: Any = env
    if env is None:
        found = model.get_env() if hasattr(model, "get_env") else None
        if found is None:
            raise ConfigError(
                expected="an environment, of the model or as `env`", got="neither", do="pass env=gymnasium.make(…)"
            )
    elif isinstance(env, str):
        found = gym.make(env)
    if not isinstance(found, (gym.Env, VecEnv)):
        raise ConfigError(
            expected="a gymnasium.Env or a VecEnv of Stable-Baselines3",
            got=f"a {type(found).__module__}.{type(found).__name__}",
            do="make it with gymnasium.make; the package shimmy wraps environments of the older gym",
        )
    if isinstance(found, VecEnv) and found.num_envs > 1:
        warnings.warn(f"{found.num_envs} environments are stepped, and only the first is recorded", stacklevel=4)
    try:
        yield found
    finally:
        if isinstance(env, str):
            found.close()


def _learn(model: Any, n_timesteps: int, env: gym.Env[Any, Any] | VecEnv) -> None:
    if not hasattr(model, "learn"):
        raise ConfigError(
            expected="a model with `learn`, for n_timesteps > 0",
            got=f"n_timesteps={n_timesteps} with a {type(model).__name__}",
            do="leave n_timesteps at 0",
        )
    if hasattr(model, "get_env") and model.get_env() is None:
        model.set_env(env)
    model.learn(n_timesteps)


def _check_space(space: gym.Space[Any], name: str) -> None:
    arrays = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)
    if isinstance(space, arrays):
        return
    raise UnsupportedSpaceError(
        expected=f"an {name} space of one array of numbers: Box, Discrete, MultiDiscrete or MultiBinary",
        got=str(space),
        do="record with understudy.data.rollout and save with understudy.data.serialize.save, which have any space",
    )


def _with_suffix(path: Path) -> Path:
    return path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")


def _image_writer(space: gym.Space[Any], target: Path | None, folder: str, extension: str) -> ImageWriter | None:
    """Where images go, if these are images that files can hold."""
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 3 or space.dtype != np.uint8:
        return None
    channels = space.shape[0 if channels_first(space) else 2]
    if channels not in CHANNELS:
        warnings.warn(
            f"images with {channels} channels are kept in the archive: files have 1, 3 or 4", UserWarning, stacklevel=3
        )
        return None
    if target is None:
        warnings.warn("without `save_path`, images stay in memory", UserWarning, stacklevel=3)
        return None
    if extension == "jpg" and channels == 4:
        raise ConfigError(
            expected="images with 1 or 3 channels for JPEG", got="4 channels", do="leave image_format at 'png'"
        )
    return ImageWriter(target.parent, folder, extension)


def _check_writable(target: Path) -> None:
    """Before hours of recording, not after them."""
    if target.is_dir():
        raise DataError(expected=f"a file's name at {target}", got="a folder", do="save under another name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as err:
        raise FileWriteError(
            expected=f"to write {target}",
            got=f"{type(err).__name__}: {err}",
            do="choose a place that can be written to",
        ) from err


def _save(target: Path, recording: Recording) -> None:
    arrays = recording.arrays()
    recording.sync_images()
    with replacing(target) as staged, staged.open("xb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _save_interrupted(recording: Recording, target: Path | None) -> None:
    recording.forget_running()
    if target is None or recording.n_episodes == 0:
        return
    place = target.with_name(f"{target.stem}.interrupted.npz")
    _save(place, recording)
    _log.warning("recording was interrupted; the %d episodes that had finished are in %s", recording.n_episodes, place)
