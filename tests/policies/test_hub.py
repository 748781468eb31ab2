"""The hub, played by a server on this machine: downloads, uploads, and what is said when something is missing."""

from __future__ import annotations

import builtins
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from understudy.errors import ConfigError, MissingExtraError, MissingFileError, UntrustedFileError
from understudy.policies.hub import download_from_hub, push_policy_to_hub, repository_of
from understudy.policies.serialize import load_policy
from understudy.policies.vec_normalize import load_vec_normalize
from understudy.util.vec_env import make_vec_env

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Answers what ``hf_hub_download`` asks: HEAD and GET of ``/{repository}/resolve/{revision}/{file}``."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.repositories: set[str] = set()
        self.asked: list[str] = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                hub.asked.append(f"{self.command} {self.path}")
                repository, _, rest = self.path.partition("?")[0].lstrip("/").partition("/resolve/")
                revision, _, name = rest.partition("/")
                content = hub.files.get((repository, name))
                if content is None or revision not in {"main", COMMIT}:
                    self.send_response(404)
                    error = "EntryNotFound" if repository in hub.repositories else "RepoNotFound"
                    if revision not in {"main", COMMIT}:
                        error = "RevisionNotFound"
                    self.send_header("X-Error-Code", error)
                    self.send_header("X-Repo-Commit", COMMIT)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def put(self, repository: str, name: str, content: bytes) -> None:
        self.repositories.add(repository)
        self.files[repository, name] = content


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    served = Hub()
    thread = threading.Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield served
    served.server.shutdown()
    served.server.server_close()
    thread.join()


@pytest.fixture
def ppo(cartpole_venv) -> PPO:
    return PPO("MlpPolicy", cartpole_venv, n_steps=16, batch_size=16, policy_kwargs={"net_arch": [8]}, device="cpu")


@pytest.fixture
def options(hub, tmp_path) -> dict[str, object]:
    return {"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache", "token": False}


def saved(model, tmp_path) -> bytes:
    model.save(tmp_path / "saved.zip")
    return (tmp_path / "saved.zip").read_bytes()


def same_actions(first, second, space) -> bool:
    obs = np.stack([space.sample() for _ in range(50)])
    return np.array_equal(first.predict(obs, deterministic=True)[0], second.predict(obs, deterministic=True)[0])


def test_names_of_repositories():
    assert repository_of("ppo", "seals/CartPole-v0") == "HumanCompatibleAI/ppo-seals-CartPole-v0"
    assert repository_of("sac", "Pendulum-v1", "sb3") == "sb3/sac-Pendulum-v1"
    with pytest.raises(ConfigError, match="repo_id"):
        repository_of("ppo", "../x y")


def test_a_model_by_convention(hub, ppo, cartpole_venv, options, tmp_path):
    """The environments' own id and the usual organisation, then what the caller says instead."""
    zip_bytes = saved(ppo, tmp_path)
    hub.put("HumanCompatibleAI/ppo-CartPole-v1", "ppo-CartPole-v1.zip", zip_bytes)
    loaded = load_policy("ppo-huggingface", cartpole_venv, device="cpu", **options)
    assert same_actions(ppo.policy, loaded, cartpole_venv.observation_space)
    hub.put("me/ppo-seals-CartPole-v0", "ppo-seals-CartPole-v0.zip", zip_bytes)
    load_policy("ppo-huggingface", cartpole_venv, organization="me", env_name="seals/CartPole-v0", **options)
    hub.put("me/own", "other.zip", zip_bytes)
    load_policy("ppo-huggingface", cartpole_venv, repo_id="me/own", filename="other.zip", revision=COMMIT, **options)
    assert any(f"/me/own/resolve/{COMMIT}/other.zip" in each for each in hub.asked)
    trusted = load_policy("ppo-huggingface", cartpole_venv, trust="pickle", device="cpu", **options)
    assert same_actions(ppo.policy, trusted, cartpole_venv.observation_space)


def test_a_second_load_comes_from_the_cache(hub, ppo, cartpole_venv, options, tmp_path):
    hub.put("HumanCompatibleAI/ppo-CartPole-v1", "ppo-CartPole-v1.zip", saved(ppo, tmp_path))
    for _ in range(2):
        load_policy("ppo-huggingface", cartpole_venv, **options)
    assert sum(each.startswith("GET") for each in hub.asked) == 1


def test_what_is_missing_is_said(hub, cartpole_venv, options, ppo, tmp_path):
    with pytest.raises(MissingFileError, match=r"HumanCompatibleAI/ppo-CartPole-v1.*organization="):
        load_policy("ppo-huggingface", cartpole_venv, **options)
    hub.put("HumanCompatibleAI/ppo-CartPole-v1", "README.md", b"")
    with pytest.raises(MissingFileError, match=r"ppo-CartPole-v1\.safetensors"):
        load_policy("ppo-huggingface", cartpole_venv, **options)
    hub.put("HumanCompatibleAI/ppo-CartPole-v1", "ppo-CartPole-v1.zip", saved(ppo, tmp_path))
    with pytest.raises(MissingFileError, match="'old'"):
        load_policy("ppo-huggingface", cartpole_venv, revision="old", **options)
    hub.put("HumanCompatibleAI/dqn-CartPole-v1", "dqn-CartPole-v1.zip", saved(ppo, tmp_path))
    with pytest.raises(ConfigError, match="load it as"):
        load_policy("dqn-huggingface", cartpole_venv, **options)


def test_a_hostile_download_is_not_run(hub, cartpole_venv, options):
    hub.put("HumanCompatibleAI/ppo-CartPole-v1", "ppo-CartPole-v1.zip", b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    with pytest.raises((UntrustedFileError, ValueError), match="zip"):
        load_policy("ppo-huggingface", cartpole_venv, **options)


def test_without_the_package(monkeypatch, cartpole_venv):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("huggingface_hub"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"understudy\[hf\]"):
        load_policy("ppo-huggingface", cartpole_venv)


class FakeApi:
    """Puts uploads straight into the stand-in."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.commits: list[dict[str, object]] = []

    def create_repo(self, *, repo_id, private, exist_ok):
        assert exist_ok
        self.hub.repositories.add(repo_id)

    def file_exists(self, *, repo_id, filename, revision):
        return (repo_id, filename) in self.hub.files

    def upload_file(self, *, path_or_fileobj, path_in_repo, repo_id, revision, commit_message):
        if isinstance(path_or_fileobj, str):
            content = Path(path_or_fileobj).read_bytes()
        else:
            content = path_or_fileobj.read()
        self.commits.append({"name": path_in_repo, "message": commit_message})
        self.hub.put(repo_id, path_in_repo, content)


def test_the_fake_has_the_signatures_of_the_real_one():
    import inspect

    for name in ("create_repo", "file_exists", "upload_file"):
        real = inspect.signature(getattr(HfApi, name)).parameters
        fake = inspect.signature(getattr(FakeApi, name)).parameters
        assert set(fake) <= set(real)


@pytest.mark.parametrize("what", ["model", "policy"])
def test_up_and_down_again(what, hub, ppo, cartpole_venv, options):
    repository = repository_of("ppo", "CartPole-v1", "me")
    api = FakeApi(hub)
    given = ppo if what == "model" else ppo.policy
    pushed = push_policy_to_hub(
        given, repository, algo="ppo", env_name="CartPole-v1", mean_reward=(480.0, 12.5), api=api
    )
    assert pushed == repository
    names = [str(commit["name"]) for commit in api.commits]
    assert names == (["ppo-CartPole-v1.safetensors"] + ["ppo-CartPole-v1.zip"] * (what == "model") + ["README.md"])
    card = hub.files[repository, "README.md"].decode()
    assert 'load_policy("ppo-huggingface"' in card
    assert "480.00 ± 12.50" in card
    loaded = load_policy("ppo-huggingface", cartpole_venv, organization="me", device="cpu", **options)
    assert same_actions(ppo.policy, loaded, cartpole_venv.observation_space)
    push_policy_to_hub(given, repository, algo="ppo", env_name="CartPole-v1", api=api)
    assert [commit["name"] for commit in api.commits].count("README.md") == 1  # a card that is there is kept


def test_statistics_go_up_with_the_model(hub, options, rng):
    venv = make_vec_env("CartPole-v1", rng=rng, n_envs=1)
    normalized = VecNormalize(venv)
    model = PPO("MlpPolicy", normalized, n_steps=16, batch_size=16, policy_kwargs={"net_arch": [8]}, device="cpu")
    model.learn(16)
    push_policy_to_hub(model, "me/ppo-CartPole-v1", algo="ppo", env_name="CartPole-v1", api=FakeApi(hub))
    name = "ppo-CartPole-v1.vec_normalize.safetensors"
    file = download_from_hub("ppo", "CartPole-v1", organization="me", filename=name, **options)
    loaded = load_vec_normalize(file, venv)
    np.testing.assert_array_equal(loaded.obs_rms.mean, normalized.obs_rms.mean)
    with pytest.raises(ConfigError, match=r"load_vec_normalize\(.*ppo-CartPole-v1\.zip"):
        load_policy("ppo-huggingface", venv, organization="me", **options)
    policy = load_policy("ppo-huggingface", loaded, organization="me", device="cpu", **options)
    assert same_actions(model.policy, policy, venv.observation_space)
    venv.close()


def test_statistics_in_the_layout_of_the_zoo(hub, options, rng, tmp_path):
    venv = make_vec_env("CartPole-v1", rng=rng, n_envs=1)
    normalized = VecNormalize(venv)
    model = PPO("MlpPolicy", normalized, n_steps=16, batch_size=16, policy_kwargs={"net_arch": [8]}, device="cpu")
    normalized.save(str(tmp_path / "s.pkl"))
    hub.put("sb3/ppo-CartPole-v1", "ppo-CartPole-v1.zip", saved(model, tmp_path))
    hub.put("sb3/ppo-CartPole-v1", "vec_normalize.pkl", (tmp_path / "s.pkl").read_bytes())
    with pytest.raises(ConfigError, match="load_vec_normalize"):
        load_policy("ppo-huggingface", venv, organization="sb3", **options)
    path = download_from_hub("ppo", "CartPole-v1", organization="sb3", **options)
    load_policy("ppo-huggingface", load_vec_normalize(path, venv), organization="sb3", **options)
    venv.close()


def test_an_unknown_algorithm_is_not_uploaded(ppo):
    with pytest.raises(ConfigError, match="reinforce"):
        push_policy_to_hub(ppo, "me/x", algo="reinforce", env_name="CartPole-v1", api=object())
