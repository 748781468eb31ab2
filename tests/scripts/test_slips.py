from __future__ import annotations

from pathlib import Path

import pytest

from understudy.scripts import cli


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("trani bc", "understudy train bc"),
        ("trani", "understudy train"),
        ("train bc cartpole-v1", "did you mean CartPole-v1?"),
        ("train bc CartPole-v7", "did you mean CartPole-v1?"),
        ("train bc CartPole-v1 --expert bundeld", "did you mean bundled?"),
        ("evaluate CartPole-v1 --policy randm", "did you mean random?"),
        ("train bc CartPole-v1 --n-epochs 0", "--n-epochs of at least 1"),
        ("train bc CartPole-v1 --validation-fraction 1", "--validation-fraction in [0, 1)"),
        ("train bc CartPole-v1 --patience 2", "--validation-fraction above 0 with --patience"),
        ("train bc CartPole-v1 --learning-rate -1", "--learning-rate above 0"),
        ("train bc CartPole-v1 --ent-weight nan", "--ent-weight of at least 0"),
        ("train bc CartPole-v1 --batch-size 0", "--batch-size of at least 1"),
        ("train bc CartPole-v1 --minibatch-size 5", "--minibatch-size to divide --batch-size 32"),
        ("train bc CartPole-v1 --net-arch 0", "--net-arch"),
        ("train bc CartPole-v1 --seed -1", "--seed of at least 0"),
        ("train bc CartPole-v1 --n-envs 0", "--n-envs of at least 1"),
        ("train bc CartPole-v1 --n-demonstrations 1 --validation-fraction 0.5", "at least two episodes"),
        ("train bc CartPole-v1 --device nonsense", "the name of a device"),
        ("evaluate CartPole-v1 --policy", "at least one --policy"),
        ("train rl CartPole-v1 --set foo=3", "arguments that PPO takes"),
        ("train rl CartPole-v1 --set learning_rate=-1", "arguments that PPO takes"),
        ("train rl CartPole-v1 --total-timesteps 0", "--total-timesteps of at least 1"),
    ],
)
def test_a_slip_is_answered_with_what_was_meant(
    arguments: str, hint: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments.split()) == 2
    assert hint in " ".join(capsys.readouterr().err.split())
    assert not list(in_tmp.iterdir())
