"""The cloning agent's losses, weights, masks and updates."""

from __future__ import annotations

import functools
import math
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn, tensor
from torch.distributions import Categorical, Independent, Normal

from understudy.algorithms.cloning_agent import BehavioralCloningAgent, Experience
from understudy.data.types import Trajectory, Transitions
from understudy.errors import ConfigError, DataError, TrainingDivergedError, UnsupportedSpaceError
from understudy.util.logger import configure

OBS = spaces.Box(-1, 1, (2,))
FLOATS = spaces.Box(-1, 1, (2,))
CHOICES = spaces.Discrete(2, start=1)
ADAM = functools.partial(torch.optim.Adam, lr=0.01)
INT = np.int64


class Constant(nn.Module):
    """Gives the same output for every observation; learns nothing but that output."""

    def __init__(self, *outputs: float, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.out = nn.Parameter(tensor(outputs).reshape(shape or (len(outputs),)))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.out.expand(len(obs), *self.out.shape)


class Gaussian(Constant):
    """A unit Gaussian around the output."""

    def forward(self, obs: torch.Tensor) -> Any:
        return Independent(Normal(super().forward(obs), 1.0), 1)


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def agent(network: nn.Module, action_space: Any = CHOICES, **kwargs: Any) -> BehavioralCloningAgent:
        kwargs = {"optimizer": ADAM, "rng": 0, "custom_logger": configure(tmp_path, []), **kwargs}
        return BehavioralCloningAgent(kwargs.pop("observation_space", OBS), action_space, network, **kwargs)

    return agent


def mlp(n: int, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, n))


def batch(n: int = 32, action_space: Any = CHOICES, seed: int = 0) -> Experience:
    rng = np.random.default_rng(seed)
    obs = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    if isinstance(action_space, spaces.Discrete):
        return Experience(obs, 1 + (obs[:, 0] > 0))
    return Experience(obs, obs[:, ::-1].copy())


# --- construction ---------------------------------------------------------------------------------------------------

ALLOWED = [
    spaces.Discrete(3),
    spaces.Box(0, 2, (), INT),
    spaces.Box(-1, 1, ()),
    spaces.Box(-1, 1, (1,)),
    spaces.Box(-1, 1, (2, 3)),
    spaces.Tuple((spaces.Discrete(3),)),
    spaces.Dict(a=spaces.Box(-1, 1, (2,))),
    spaces.Dict(a=spaces.Tuple((spaces.Discrete(3),))),
]
REFUSED = [
    spaces.Box(0, 2, (1,), INT),
    spaces.MultiDiscrete([3]),
    spaces.MultiDiscrete([3, 3]),
    spaces.MultiBinary(2),
    spaces.Tuple((FLOATS, FLOATS)),
    spaces.Tuple((spaces.Discrete(3), spaces.Discrete(3))),
    spaces.Dict(a=spaces.Discrete(3), b=FLOATS),
]


@pytest.mark.parametrize("space", ALLOWED, ids=str)
def test_one_scalar_choice_or_one_array_of_numbers_has_a_default_loss(make: Any, space: Any) -> None:
    assert make(mlp(3), space).loss_fn is None


@pytest.mark.parametrize("space", REFUSED, ids=str)
def test_every_other_action_needs_a_loss(make: Any, space: Any) -> None:
    with pytest.raises(ConfigError, match="single, scalar discrete action or a single"):
        make(mlp(3), space)
    assert make(mlp(3), space, loss_fn=lambda experience, training: torch.zeros(1)).loss_fn is not None
    assert make(mlp(3), space, loss_fn="sum_of_parts").loss_fn == "sum_of_parts"


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_outer_dims": 3}, "num_outer_dims"),
        ({"epsilon_greedy": 1.5}, "epsilon_greedy"),
        ({"gradient_clipping": 0.0}, "gradient_clipping"),
        ({"clip": "each"}, "clip"),
        ({"continuous_loss": "mse"}, "continuous_loss"),
        ({"loss_fn": "mse"}, "loss_fn"),
        ({"action_space": spaces.Dict()}, "at least one action"),
        ({"network": nn.Linear(7, 2)}, "takes a batch of the observations"),
        ({"optimizer": torch.optim.Adam(nn.Linear(2, 2).parameters())}, "does not know"),
    ],
)
def test_contradictions_are_told_when_the_agent_is_made(make: Any, options: dict[str, Any], match: str) -> None:
    options = {"network": mlp(2), **options}
    with pytest.raises(ConfigError, match=match):
        make(**options)


def test_a_space_of_another_kind_is_refused(make: Any) -> None:
    with pytest.raises(UnsupportedSpaceError, match=r"action_space\['a'\]"):
        make(mlp(2), spaces.Dict(a=spaces.Text(3)), loss_fn="sum_of_parts")


def test_a_network_without_variables_is_told_in_train(make: Any) -> None:
    agent = make(nn.Sequential(nn.Tanh()))
    assert agent.loss(batch()).loss > 0
    with pytest.raises(ConfigError, match="No variables in the agent's network"):
        agent.train(batch())


def test_without_an_optimiser_only_train_fails(make: Any) -> None:
    agent = make(mlp(2), optimizer=None)
    assert agent.loss(batch()).loss > 0
    with pytest.raises(ConfigError, match="optimizer=None"):
        agent.train(batch())


def test_lazy_layers_get_their_variables_at_once_and_alike(make: Any) -> None:
    weights = [make(nn.LazyLinear(2), rng=5).cloning_network.weight.detach().clone() for _ in range(2)]
    assert weights[0].shape == (2, 2)
    assert torch.equal(*weights)


# --- losses ---------------------------------------------------------------------------------------------------------


def test_choices_are_counted_from_the_smallest(make: Any) -> None:
    agent = make(Constant(math.log(3.0), 0.0))  # probabilities 3/4 for action 1, 1/4 for action 2
    info = agent.loss(Experience(np.zeros((2, 2)), np.array([1, 2])))
    assert info.extra.loss.tolist() == pytest.approx([math.log(4 / 3), math.log(4)])
    assert info.loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


@pytest.mark.parametrize("action", [0, 3])
def test_an_action_outside_the_space_is_named(make: Any, action: int) -> None:
    with pytest.raises(DataError, match=rf"1 … 2 .* got {action}"):
        make(mlp(2)).loss(Experience(np.zeros((2, 2)), np.array([1, action])))


def test_a_distribution_over_choices_gives_its_logits(make: Any) -> None:
    class Net(Constant):
        def forward(self, obs: torch.Tensor) -> Any:
            return Categorical(logits=super().forward(obs))

    info = make(Net(math.log(3.0), 0.0)).loss(Experience(np.zeros((1, 2)), np.array([2])))
    assert info.loss.item() == pytest.approx(math.log(4))


def test_numbers_have_the_mean_squared_error_over_the_last_axis(make: Any) -> None:
    info = make(Constant(1.0, 3.0), FLOATS).loss(Experience(np.zeros((4, 2)), np.zeros((4, 2))))
    assert info.extra.loss.tolist() == [5.0] * 4
    assert info.loss.item() == 5.0


def test_scalar_numbers_have_one_loss_each(make: Any) -> None:
    info = make(Constant(2.0, shape=()), spaces.Box(-1, 1, ())).loss((np.zeros((3, 2)), np.array([0.0, 1.0, 2.0])))
    assert info.extra.loss.tolist() == [4.0, 1.0, 0.0]


def test_matrices_have_the_mean_over_all_entries(make: Any) -> None:
    network = Constant(1.0, 1.0, 1.0, 3.0, shape=(2, 2))
    info = make(network, spaces.Box(-1, 1, (2, 2))).loss((np.zeros((3, 2)), np.zeros((3, 2, 2))))
    assert info.extra.loss.tolist() == [3.0] * 3


def test_a_gaussian_is_fitted_by_its_likelihood(make: Any) -> None:
    info = make(Gaussian(1.0, 2.0), FLOATS).loss((np.zeros((2, 2)), np.zeros((2, 2))))
    assert info.loss.item() == pytest.approx(math.log(2 * math.pi) + 2.5)


def test_the_squared_error_of_a_sample_is_on_offer_and_moves_the_mean(make: Any) -> None:
    agent = make(Gaussian(1.0, 2.0), FLOATS, continuous_loss="mse_of_sample")
    rows = 20_000
    info = agent.loss((np.zeros((rows, 2)), np.zeros((rows, 2))))
    assert info.loss.item() == pytest.approx((1 + 4) / 2 + 1, abs=0.05)  # squared mean, and the sample's variance
    info.loss.backward()
    assert agent.cloning_network.out.grad.tolist() == pytest.approx([1.0, 2.0], abs=0.05)


def test_the_squared_error_of_the_mode_is_on_offer(make: Any) -> None:
    agent = make(Gaussian(1.0, 2.0), FLOATS, continuous_loss="mse_of_mode")
    assert agent.loss((np.zeros((2, 2)), np.zeros((2, 2)))).loss.item() == 2.5


def test_a_distribution_of_another_shape_is_not_spread_over_the_actions(make: Any) -> None:
    class Net(Constant):
        def forward(self, obs: torch.Tensor) -> Any:
            return Normal(super().forward(obs)[:, :1], 1.0)

    with pytest.raises(ConfigError, match=r"shape \(3, 2\).*Normal of shape \(3, 1\)"):
        make(Net(1.0), FLOATS).loss((np.zeros((3, 2)), np.zeros((3, 2))))


def test_outputs_of_the_wrong_size_are_told(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"logits of shape \(32, 2\).*\(32, 5\)"):
        make(mlp(5)).loss(batch())
    with pytest.raises(ConfigError, match=r"shape \(32, 2\).*\(32, 5\)"):
        make(mlp(5), FLOATS).loss(batch(action_space=FLOATS))


MIXED = spaces.Dict(
    arm=spaces.Tuple((FLOATS, spaces.Discrete(2, start=5))),
    grip=spaces.MultiBinary(2),
    tool=spaces.MultiDiscrete([2, 3], start=[1, 0]),
)


class MixedNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Parameter(torch.zeros(2 + 2 + 2 + 5))

    def forward(self, obs: torch.Tensor) -> Any:
        floats, choice, bits, choices = self.out.expand(len(obs), -1).split([2, 2, 2, 5], -1)
        return {"arm": (floats, choice), "grip": bits, "tool": choices, "unused": obs}


def test_the_parts_of_a_structured_action_add_up(make: Any) -> None:
    acts = {
        "arm": (np.ones((3, 2)), np.array([5, 6, 5])),
        "grip": np.array([[0, 1]] * 3),
        "tool": np.array([[1, 2], [2, 0], [1, 1]]),
        "extra": np.zeros((3, 9)),
    }
    agent = make(MixedNet(), MIXED, loss_fn="sum_of_parts")
    info = agent.loss({"obs": np.zeros((3, 2)), "acts": acts, "reward": np.zeros(3)})
    log2, log3 = math.log(2), math.log(3)
    assert info.extra.loss.tolist() == pytest.approx([1 + log2 + 2 * log2 + log2 + log3] * 3)
    for other in ({**acts, "arm": acts["grip"]}, {**acts, "arm": (acts["grip"],)}, {**acts, "tool": {}}, [acts]):
        with pytest.raises(DataError, match="structured like"):
            agent.loss({"obs": np.zeros((3, 2)), "acts": other})
    acts.pop("grip")
    with pytest.raises(DataError, match="'grip'"):
        agent.loss({"obs": np.zeros((3, 2)), "acts": acts})


def test_a_loss_of_the_users_own_sees_experience_and_mode(make: Any) -> None:
    seen = []

    def loss_fn(experience: Experience, training: bool) -> torch.Tensor:
        seen.append((type(experience), training))
        return (network(experience.obs) - experience.acts[:, None]).square().mean(-1)

    network = mlp(2)
    agent = make(network, loss_fn=loss_fn)
    before = agent.loss(batch()).loss
    agent.train(batch())
    assert seen == [(Experience, False), (Experience, True)]
    assert agent.loss(batch()).loss < before


@pytest.mark.parametrize("result", [torch.zeros(()), torch.zeros(7), 0.0])
def test_a_loss_function_must_give_one_value_an_element(make: Any, result: Any) -> None:
    with pytest.raises(ConfigError, match=r"one loss for each element, shape \(32,\)"):
        make(mlp(2), loss_fn=lambda experience, training: result).loss(batch())


def test_losses_of_the_network_itself_are_added(make: Any) -> None:
    network = Constant(0.0, 0.0)
    network.losses = lambda: [network.out.sum() + 2.0]  # type: ignore[assignment]
    assert make(network).loss(batch()).loss.item() == pytest.approx(math.log(2) + 2)


# --- weights and masks ----------------------------------------------------------------------------------------------


def test_weights_multiply_and_do_not_divide(make: Any) -> None:
    agent = make(Constant(1.0, 3.0), FLOATS)
    rows = (np.zeros((4, 2)), np.zeros((4, 2)))
    assert agent.loss(rows, 2.0).loss.item() == 10.0
    assert agent.loss(rows, [1, 0, 0, 0]).loss.item() == 1.25
    steps = make(Constant(1.0, 3.0), FLOATS, num_outer_dims=2)
    sequences = (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))
    assert steps.loss(sequences, np.array([2.0, 0.0])).loss.item() == 5.0
    assert steps.loss(sequences, [[1, 0], [0, 0]]).loss.item() == 1.25


@pytest.mark.parametrize("weights", [[1.0, 2.0], [[1.0] * 32], [-1.0] * 32, [math.nan] * 32])
def test_other_weights_are_refused(make: Any, weights: Any) -> None:
    with pytest.raises(DataError, match="weights"):
        make(mlp(2)).loss(batch(), weights)


@pytest.mark.parametrize("action_space", [CHOICES, FLOATS], ids=str)
def test_weight_zero_beats_nan_in_loss_and_gradient(make: Any, action_space: Any) -> None:
    rows = batch(8, action_space)
    weights = np.array([1.0] * 6 + [0.0] * 2)
    clean, spoilt = make(mlp(2), action_space), make(mlp(2), action_space)
    obs, acts = rows.obs.copy(), rows.acts.copy()
    obs[6:] = math.nan
    acts[6:] = 77 if action_space is CHOICES else math.inf
    first, second = clean.train(rows, weights).loss, spoilt.train(Experience(obs, acts), weights).loss
    assert first.item() == second.item()
    for a, b in zip(clean.cloning_network.parameters(), spoilt.cloning_network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_boundary_steps_count_nothing_unless_asked(make: Any) -> None:
    obs, acts = np.zeros((1, 4, 2)), np.array([[[0.0, 0.0], [0.0, 0.0], [9.0, 9.0], [0.0, 0.0]]])
    step_type = np.array([[0, 1, 2, 0]])
    experience = {"observation": obs, "action": acts, "step_type": step_type}
    masked = make(Constant(1.0, 1.0), FLOATS, num_outer_dims=2)
    assert masked.loss(experience).loss.item() == 0.75  # (1 + 1 + 0 + 1) / 4
    counted = make(Constant(1.0, 1.0), FLOATS, num_outer_dims=2, mask_boundary=False)
    assert counted.loss(experience).loss.item() == (1 + 1 + 64 + 1) / 4
    assert counted.loss(experience, ~(step_type == 2)).loss.item() == 0.75


def test_weights_and_masks_multiply(make: Any) -> None:
    boundary = np.array([[0, 1], [0, 0]], bool)
    agent = make(Constant(1.0, 1.0), FLOATS, num_outer_dims=2)
    steps = Experience(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), boundary=boundary)
    assert agent.loss(steps).loss.item() == 3 / 4
    assert agent.loss(steps, 2.0).loss.item() == 6 / 4
    assert agent.loss(steps, [4.0, 1.0]).loss.item() == (4 + 0 + 1 + 1) / 4
    assert agent.loss(steps, [[4.0, 4.0], [0.0, 1.0]]).loss.item() == (4 + 0 + 0 + 1) / 4


# --- shapes and types of experience ---------------------------------------------------------------------------------


def test_the_wrong_number_of_outer_axes_shows_all_shapes(make: Any) -> None:
    with pytest.raises(DataError, match=r"one outer dimension.*obs: \(3, 4, 2\).*acts: \(3, 4\).*num_outer_dims=2"):
        make(mlp(2)).loss((np.zeros((3, 4, 2)), np.ones((3, 4))))
    with pytest.raises(DataError, match=r"two outer dimensions.*obs: \(3, 2\).*num_outer_dims=1"):
        make(mlp(2), num_outer_dims=2).loss((np.zeros((3, 2)), np.ones(3)))
    with pytest.raises(DataError, match=r"obs: \(3, 2\).*acts: \(4,\)"):
        make(mlp(2)).loss((np.zeros((3, 2)), np.ones(4)))
    with pytest.raises(DataError, match="not supported"):
        make(mlp(2)).loss(42)
    with pytest.raises(DataError, match="boundary"):
        make(mlp(2)).loss(Experience(np.zeros((3, 2)), np.ones(3), boundary=np.zeros(4)))


def test_all_forms_of_the_same_rows_have_the_same_loss(make: Any) -> None:
    obs, acts, *_ = batch(6)
    agent, steps = make(mlp(2)), make(mlp(2), num_outer_dims=2)
    expected = agent.loss(Experience(obs, acts)).loss.item()
    longer = np.concatenate([obs, obs[:1]])
    named = namedtuple("Frames", ["observation", "action"])
    forms = [
        (obs, acts),
        {"obs": torch.as_tensor(obs, dtype=torch.float64), "acts": torch.as_tensor(acts), "extra": None},
        named(obs, acts),
        Trajectory(longer, acts, None, terminal=True),
        [Trajectory(longer[:3], acts[:2], None, terminal=True), Trajectory(longer[2:], acts[2:], None, terminal=True)],
        Transitions(obs=obs, acts=acts, infos=None, next_obs=obs, dones=np.zeros(6, bool)),
    ]
    for form in forms:
        assert agent.loss(form).loss.item() == pytest.approx(expected)
    assert steps.loss(forms[3]).loss.item() == pytest.approx(expected)
    # 2 and 4 steps side by side take 8 places; the two that are filled up are no elements.
    assert steps.loss(forms[4]).loss.item() == pytest.approx(expected)


def test_structured_observations_lose_entries_that_the_space_does_not_have(make: Any) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.seen: list[Any] = []

        def forward(self, obs: Any) -> torch.Tensor:
            self.seen.append((sorted(obs), obs["goal"].dtype))
            return self.layer(obs["pose"][0])

    space = spaces.Dict(pose=spaces.Tuple((OBS,)), goal=spaces.Discrete(4))
    network = Net()
    agent = make(network, observation_space=space)
    agent.train({"obs": {"pose": (np.zeros((3, 2)),), "goal": np.arange(3), "more": 1}, "acts": np.ones(3)})
    assert network.seen[-1] == (["goal", "pose"], torch.int64)


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action_space", [CHOICES, FLOATS], ids=str)
def test_train_returns_the_loss_before_the_update_and_the_loss_falls(make: Any, action_space: Any) -> None:
    agent, rows = make(mlp(2), action_space), batch(32, action_space)
    before = agent.loss(rows)
    assert agent.loss(rows).loss.item() == before.loss.item()  # looking changes nothing
    first = agent.train(rows)
    assert first.loss.item() == before.loss.item()
    assert torch.equal(first.extra.loss, before.extra.loss)
    assert not first.loss.requires_grad
    agent.train(rows)
    assert agent.loss(rows).loss < before.loss


def test_loss_in_training_mode_foretells_train_with_dropout_and_batch_norm(make: Any) -> None:
    network = nn.Sequential(nn.Linear(2, 64), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 2))
    agent, rows = make(network), batch()
    statistics = network[1].running_mean.clone()
    told = agent.loss(rows, training=True).loss.item()
    assert torch.equal(network[1].running_mean, statistics)
    assert told != agent.loss(rows).loss.item()
    assert agent.train(rows).loss.item() == told
    assert not torch.equal(network[1].running_mean, statistics)


def test_the_counter_counts_each_train_once(make: Any) -> None:
    agent = make(mlp(2))
    agent.loss(batch())
    assert agent.train_step_counter == 0
    agent.train(batch())
    agent.train(batch())
    assert agent.train_step_counter == 2
    shared = torch.tensor(40)
    make(mlp(2), train_step_counter=shared).train(batch())
    assert shared.item() == 41


def test_without_a_generator_a_seed_is_drawn_and_named(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    make(mlp(2), rng=None)
    assert "pass rng=" in caplog.text


def test_same_seed_same_weights_and_no_global_generator(make: Any) -> None:
    def trained() -> list[float]:
        torch.manual_seed(3)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        state = torch.random.get_rng_state()
        agent = make(network, rng=11)
        for _ in range(3):
            agent.train(batch())
        assert torch.equal(torch.random.get_rng_state(), state)
        return nn.utils.parameters_to_vector(network.parameters()).tolist()

    assert trained() == trained()


@pytest.mark.parametrize(("clip", "norms"), [("variable", (1.0, 1.0)), ("global", (0.6, 0.8))])
def test_gradients_are_clipped_by_variable_or_globally(make: Any, clip: str, norms: tuple[float, float]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))
            self.idle = nn.Parameter(torch.zeros(1))

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.a, self.b]).expand(len(obs), 2)

    network = Net()
    sgd = torch.optim.SGD(network.parameters(), lr=1.0)
    agent = make(network, FLOATS, optimizer=sgd, gradient_clipping=1.0, clip=clip)
    agent.train((np.zeros((4, 2)), np.zeros((4, 2))))  # the gradient is (3, 4)
    assert (3 - network.a.item(), 4 - network.b.item()) == pytest.approx(norms)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(make: Any, value: float) -> None:
    network = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    agent = make(network, FLOATS)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    with pytest.raises(TrainingDivergedError, match="Loss is inf or nan"):
        agent.train((np.full((4, 2), value), np.zeros((4, 2))))
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())
    assert agent.train_step_counter == 0


def test_a_gradient_that_is_not_finite_stops_before_the_update(make: Any) -> None:
    network = Constant(0.0, 0.0)
    agent = make(network, FLOATS, loss_fn=lambda experience, training: network(experience.obs).sum(-1).abs().sqrt())
    with pytest.raises(TrainingDivergedError, match="Gradient"):
        agent.train((np.zeros((4, 2)), np.zeros((4, 2))))
    assert network.out.tolist() == [0.0, 0.0]


def test_summaries_go_to_the_logger(make: Any, tmp_path: Path) -> None:
    logger = configure(tmp_path / "log", ["csv"])
    network = Constant(0.0, 0.0)
    options = {"summarize_grads_and_vars": True, "debug_summaries": True, "name": "clone", "log_interval": 2}
    agent = make(network, custom_logger=logger, **options)
    for _ in range(3):
        agent.train(batch(), [0.0] * 16 + [1.0] * 16)
    logger.close()
    header, *rows = (tmp_path / "log" / "progress.csv").read_text().splitlines()
    assert len(rows) == 2
    row = dict(zip(header.split(","), rows[0].split(","), strict=True))
    assert float(row["clone/Losses/total_loss"]) == pytest.approx(math.log(2) / 2)
    assert float(row["clone/Losses/reg_loss"]) == 0
    assert float(row["clone/Debug/share_that_counts"]) == 0.5
    assert {"clone/summarize_vars/out_value_norm", "clone/summarize_grads/out_norm"} <= row.keys()


def test_specs_describe_the_data(make: Any) -> None:
    agent = make(mlp(2))
    assert agent.action_spec is CHOICES
    assert agent.time_step_spec.obs is OBS
    assert agent.collect_data_spec == agent.training_data_spec
    assert agent.collect_data_spec.acts is CHOICES
    assert agent.data_context.action_spec is agent.collect_data_context.action_spec
    assert agent.train_sequence_length is None
    assert agent.summaries_enabled
    assert (agent.name, agent.debug_summaries) == ("BehavioralCloningAgent", False)
    agent.initialize()
    rows = batch()
    assert agent.preprocess_sequence(rows) is rows
    assert agent.post_process_policy() is agent.policy


def test_ordered_dictionaries_are_read_by_name(make: Any) -> None:
    agent = make(MixedNet(), MIXED, loss_fn="sum_of_parts")
    tool, grip = np.ones((1, 2), INT), np.zeros((1, 2))
    acts = OrderedDict(tool=tool, grip=grip, arm=[np.zeros((1, 2)), np.array([5])])
    assert agent.loss((np.zeros((1, 2)), acts)).loss.item() == pytest.approx(4 * math.log(2) + math.log(3))
