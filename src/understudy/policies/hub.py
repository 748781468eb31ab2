"""Policies from the Hugging Face hub, and to it. What is downloaded is read as safely as any other file."""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv

from understudy.errors import ConfigError, MissingExtraError, MissingFileError
from understudy.policies._algorithms import CONTRIB_CLASSES, STABLE_BASELINES_CLASSES
from understudy.util.versions import library_versions

DEFAULT_ORGANIZATION = "HumanCompatibleAI"
_PART = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}")


def repository_of(algo: str, env_name: str, organization: str = DEFAULT_ORGANIZATION) -> str:
    """``"organization/algo-environment"``, the convention of huggingface_sb3; a slash in the id becomes a dash."""
    return f"{organization}/{_model_name(algo, env_name)}"


def download_from_hub(
    algo: str,
    env_name: str,
    *,
    organization: str = DEFAULT_ORGANIZATION,
    repo_id: str | None = None,
    filename: str | None = None,
    revision: str | None = None,
    **options: Any,
) -> Path:
    """Download a model's zip, or another file of its repository, to the local cache.

    Args:
        algo: as in the name of the repository, such as ``"ppo"``.
        env_name: the environment's id.
        organization: who made it; a user's name will do.
        repo_id: instead of the conventional one.
        filename: instead of the conventional one; ``"vec_normalize.pkl"`` for `load_vec_normalize`.
        revision: a branch, tag or commit. Name a commit to get the same bytes for ever.
        options: for ``huggingface_hub.hf_hub_download``: ``token=``, ``cache_dir=``, ``endpoint=`` …

    Returns:
        Where the file is now. It has been opened by nobody yet.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        MissingFileError: no such repository, revision or file.
    """
    hub = _hub()
    repository = repo_id if repo_id is not None else repository_of(algo, env_name, organization)
    name = filename if filename is not None else f"{_model_name(algo, env_name)}.zip"
    try:
        return Path(hub.hf_hub_download(repo_id=repository, filename=name, revision=revision, **options))
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError, hub.errors.EntryNotFoundError) as err:
        raise MissingFileError(
            f"{name!r} in the repository {repository!r} of the hub, revision {revision or 'main'!r}",
            f"{type(err).__name__}",
            "pass organization=, repo_id= or filename=; a private repository needs token=",
        ) from err


def push_policy_to_hub(
    policy: BaseAlgorithm | BasePolicy,
    repo_id: str,
    *,
    algo: str,
    env_name: str,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | bool | None = None,
    mean_reward: tuple[float, float] | None = None,
    api: Any = None,
) -> str:
    """Upload a model or a policy under the names that `load_policy` looks for.

    A model goes up as Stable-Baselines3's zip, with its policy free of pickles and the statistics of its VecNormalize
    beside it; a policy goes up as the latter alone. A short model card is added where there is none.

    Args:
        policy: what to upload.
        repo_id: made if it is missing; `repository_of` gives the conventional one.
        algo: such as ``"ppo"``.
        env_name: the environment's id.
        private: for a new repository.
        revision: the branch to commit to.
        commit_message: one line.
        token: of the hub, if it is not stored on this machine.
        mean_reward: mean and standard deviation of the returns, for the model card.
        api: a ``huggingface_hub.HfApi`` of your own.

    Returns:
        The repository's id.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        ConfigError: an unknown algorithm.
    """
    from understudy.policies.serialize import save_policy, save_stable_model

    if algo not in {*STABLE_BASELINES_CLASSES, *CONTRIB_CLASSES}:
        known = ", ".join([*STABLE_BASELINES_CLASSES, *CONTRIB_CLASSES])
        raise ConfigError(f"an algorithm among {known}", repr(algo), "name the one that load_policy is to read it as")
    connection = api if api is not None else _hub().HfApi(token=token)
    name = _model_name(algo, env_name)
    connection.create_repo(repo_id=repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(policy, BaseAlgorithm):
            save_stable_model(folder, policy, f"{name}.zip")
        else:
            save_policy(policy, Path(folder) / f"{name}.safetensors")
        for file in sorted(Path(folder).iterdir()):
            connection.upload_file(
                path_or_fileobj=str(file),
                path_in_repo=file.name,
                repo_id=repo_id,
                revision=revision,
                commit_message=commit_message or f"{name}: {file.suffix[1:]}",
            )
    if not connection.file_exists(repo_id=repo_id, filename="README.md", revision=revision):
        connection.upload_file(
            path_or_fileobj=io.BytesIO(_card(repo_id, algo, env_name, mean_reward).encode()),
            path_in_repo="README.md",
            repo_id=repo_id,
            revision=revision,
            commit_message=commit_message or "Model card",
        )
    return repo_id


def load_from_hub(algo: str, venv: VecEnv, load: Any, env_name: str | None = None, **kwargs: Any) -> BasePolicy:
    """Download and load.

    Args:
        algo: the name of the algorithm.
        venv: the environments.
        load: the loader of files of that algorithm.
        env_name: else the environments' own id.
        kwargs: for ``load`` what it takes; the rest for `download_from_hub`.
    """
    known = env_name if env_name is not None else _env_id(venv)
    if known is None and "repo_id" not in kwargs:
        raise ConfigError("env_name=, since these environments have no id", "no name", "pass env_name= or repo_id=")
    for_loader = {name: kwargs.pop(name) for name in ("trust", "device", "custom_objects") if name in kwargs}
    try:
        path = download_from_hub(algo, known or "", **kwargs)
    except MissingFileError:
        if known is None or "filename" in kwargs:
            raise
        path = download_from_hub(algo, known, filename=f"{_model_name(algo, known)}.safetensors", **kwargs)
    _fetch_statistics(algo, known or "", path, kwargs)
    loaded: BasePolicy = load(venv, path=path, **for_loader)
    return loaded


def _fetch_statistics(algo: str, env_name: str, archive: Path, options: dict[str, Any]) -> None:
    """Put the statistics of a VecNormalize, if the repository has any, beside the model, so that they are missed."""
    for name in (f"{archive.stem}.vec_normalize.safetensors", "vec_normalize.pkl"):
        try:
            download_from_hub(algo, env_name, **{**options, "filename": name})
        except MissingFileError:
            continue
        return


def _env_id(venv: VecEnv) -> str | None:
    spec = venv.get_attr("spec", 0)[0]
    return None if spec is None else str(spec.id)


def _model_name(algo: str, env_name: str) -> str:
    name = f"{algo}-{env_name.replace('/', '-')}"
    if not _PART.fullmatch(name):
        raise ConfigError(
            "an environment's id of letters, digits, '-', '_', '.' and '/'", repr(env_name), "pass repo_id="
        )
    return name


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ModuleNotFoundError as err:
        raise MissingExtraError("huggingface_hub", "hf") from err
    return huggingface_hub


def _card(repo_id: str, algo: str, env_name: str, mean_reward: tuple[float, float] | None) -> str:
    versions = "\n".join(f"- {package} {version}" for package, version in library_versions().items())
    reached = "" if mean_reward is None else f"\nMean return: {mean_reward[0]:.2f} ± {mean_reward[1]:.2f}.\n"
    return f"""---
library_name: stable-baselines3
tags:
- {env_name}
- reinforcement-learning
- stable-baselines3
- understudy
---

# {algo.upper()} on {env_name}
{reached}
```python
from understudy.policies.serialize import load_policy

policy = load_policy("{algo}-huggingface", venv, repo_id="{repo_id}", env_name="{env_name}")
```

Made with

{versions}
"""
