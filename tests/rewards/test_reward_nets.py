"""Reward networks: every space, what is trained and what is predicted, and what stays still."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from _reward_batches import ACTIONS, IMAGE, OBSERVATIONS, SMALL_IMAGE, VECTOR, batch, sampled
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import nn

from understudy.data.types import DictObs
from understudy.errors import ConfigError, DataError, UnsupportedSpaceError, WrongTypeError
from understudy.rewards.reward_nets import (
    AddSTDRewardWrapper,
    BasicPotentialCNN,
    BasicPotentialMLP,
    BasicRewardNet,
    BasicShapedRewardNet,
    CnnRewardNet,
    ForwardWrapper,
    NormalizedRewardNet,
    PredictProcessedWrapper,
    RewardEnsemble,
    RewardNet,
    ShapedRewardNet,
    cnn_transpose,
    wrap_forward,
)
from understudy.testing.reward_nets import MockRewardNet
from understudy.util.networks import EMANorm, RunningNorm

DISCRETE = spaces.Discrete(2)
EVERYTHING = {"use_next_state": True, "use_done": True}


def state_of(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same_state(net: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def check(net: RewardNet, rows: tuple[Any, ...]) -> None:
    """Shapes, types, gradients, and a prediction that changes nothing."""
    n = len(rows[-1])
    net.train()
    rews = net(*net.preprocess(*rows))
    assert rews.shape == (n,)
    assert rews.dtype == torch.float32
    rews.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert any(p.grad.abs().sum() > 0 for p in net.parameters() if p.grad is not None)
    before = state_of(net)
    predicted = net.predict(*rows)
    assert predicted.dtype == np.float32
    assert predicted.shape == (n,)
    assert same_state(net, before)
    assert all(module.training for module in net.modules())
    assert np.array_equal(net.predict_processed(*rows), predicted)
    assert not net.predict_th(*rows).requires_grad
    net.eval()
    assert predicted == pytest.approx(net(*net.preprocess(*rows)).detach().numpy(), abs=1e-6)


# --- spaces -----------------------------------------------------------------------------------------------------


@pytest.mark.defect("B12", "B25")
@pytest.mark.parametrize("act", ACTIONS)
@pytest.mark.parametrize("obs", OBSERVATIONS)
def test_perceptrons_take_every_space(obs: str, act: str) -> None:
    obs_space, act_space = OBSERVATIONS[obs], ACTIONS[act]
    rows = batch(obs_space, act_space)
    net = BasicRewardNet(obs_space, act_space, hid_sizes=(8,), normalize_input_layer=RunningNorm, **EVERYTHING)
    check(net, rows)
    check(BasicShapedRewardNet(obs_space, act_space, reward_hid_sizes=(8,), potential_hid_sizes=(4,)), rows)


@pytest.mark.defect("B25")
@pytest.mark.parametrize("act", ACTIONS)
@pytest.mark.parametrize("obs", [name for name, space in OBSERVATIONS.items() if "image" in name or name == "Dict"])
def test_convolutions_take_images_and_every_action(obs: str, act: str) -> None:
    obs_space, act_space = OBSERVATIONS[obs], ACTIONS[act]
    net = CnnRewardNet(obs_space, act_space, hwc_format=obs != "image CHW", features_dim=8, **EVERYTHING)
    check(net, batch(obs_space, act_space, 3))


@pytest.mark.parametrize("obs", OBSERVATIONS)
def test_a_batch_goes_to_the_networks_device(obs: str) -> None:
    """The meta device computes nothing, but refuses to mix with the CPU as a GPU would."""
    obs_space = OBSERVATIONS[obs]
    for act_space in ACTIONS.values():
        net = NormalizedRewardNet(BasicShapedRewardNet(obs_space, act_space), RunningNorm).to("meta")
        assert net.device.type == "meta"
        rews = net(*net.preprocess(*batch(obs_space, act_space)))
        assert rews.device.type == "meta"
        assert net.standardize(rews.detach(), update_stats=True).device.type == "meta"
        members = [BasicRewardNet(obs_space, act_space) for _ in range(2)]
        ensemble = RewardEnsemble(obs_space, act_space, members).to("meta")
        assert ensemble(*ensemble.preprocess(*batch(obs_space, act_space))).device.type == "meta"


def test_choices_are_one_hot_from_the_spaces_start() -> None:
    net = BasicRewardNet(spaces.Discrete(3, start=4), spaces.MultiDiscrete([2, 3], start=[-1, 5]))
    state, action, _, done = net.preprocess(
        np.array([4, 6]), np.array([[-1, 7], [0, 5]]), np.array([5, 5]), np.array([True, False])
    )
    assert state.tolist() == [[1, 0, 0], [0, 0, 1]]
    assert action.tolist() == [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]]
    assert done.tolist() == [1.0, 0.0]


def test_a_choice_outside_the_space_is_an_error_not_a_zero() -> None:
    net = BasicRewardNet(VECTOR, spaces.Discrete(3, start=1))
    state, _, next_state, done = batch(VECTOR, DISCRETE, 2)
    with pytest.raises(DataError, match=r"choices from \[1\] to \[3\]; got values from 0 to 2"):
        net.preprocess(state, np.array([0, 2]), next_state, done)


def test_images_of_bytes_are_scaled_once() -> None:
    rows = (np.full((1, 8, 6, 3), 255, np.uint8), np.array([0]), np.zeros((1, 8, 6, 3), np.uint8), np.array([False]))
    assert BasicRewardNet(SMALL_IMAGE, DISCRETE).preprocess(*rows)[0].unique().tolist() == [1.0]
    raw = BasicRewardNet(SMALL_IMAGE, DISCRETE, normalize_images=False)
    assert raw.preprocess(*rows)[0].unique().tolist() == [255.0]
    assert rows[0].max() == 255


@pytest.mark.defect("B25")
def test_rows_of_learners_buffers_are_turned_to_the_spaces_layout() -> None:
    """Channels first instead of last, actions flattened, choices with an axis more: the reward is the same."""
    act_space = spaces.Box(-1, 1, (2, 2), np.float32)
    net = CnnRewardNet(SMALL_IMAGE, act_space, features_dim=8)
    state, action, next_state, done = batch(SMALL_IMAGE, act_space)
    turned = [np.ascontiguousarray(np.moveaxis(each, -1, 1)) for each in (state, next_state)]
    expected = net.predict(state, action, next_state, done)
    assert net.predict(turned[0], action.reshape(-1, 4), turned[1], done[:, None]) == pytest.approx(expected, abs=1e-6)
    choices = BasicRewardNet(VECTOR, DISCRETE)
    state, action, next_state, done = batch(VECTOR, DISCRETE)
    expected = choices.predict(state, action, next_state, done)
    tensors = [torch.as_tensor(each) for each in (state, action[:, None], next_state, done)]
    assert choices.predict(*tensors) == pytest.approx(expected, abs=1e-6)


def test_dictionaries_by_name_whatever_their_order_and_container() -> None:
    space = OBSERVATIONS["Dict"]
    net = BasicRewardNet(space, DISCRETE)
    state, action, next_state, done = batch(space, DISCRETE)
    expected = net.predict(state, action, next_state, done)
    reversed_order = {key: state[key] for key in reversed(list(state))} | {"more": np.zeros(6)}
    assert np.array_equal(net.predict(reversed_order, action, DictObs(next_state), done), expected)
    with pytest.raises(DataError, match="camera"):
        net.predict({"pose": state["pose"], "mode": state["mode"]}, action, next_state, done)


@pytest.mark.usefixtures("as_users_run_it")
def test_what_does_not_fit_is_said() -> None:
    net = BasicRewardNet(VECTOR, DISCRETE)
    state, action, next_state, done = batch(VECTOR, DISCRETE)
    with pytest.raises(DataError, match="6, 5, 6 and 6 rows"):
        net.predict(state, action[:5], next_state, done)
    with pytest.raises(DataError, match=r"\(batch, 4\)"):
        net.predict(state[:, :3], action, next_state[:, :3], done)
    with pytest.raises(DataError, match="no entries"):
        net.predict({"a": state}, action, next_state, done)
    with pytest.raises(UnsupportedSpaceError, match="Tuple"):
        BasicRewardNet(spaces.Tuple([VECTOR]), DISCRETE)
    with pytest.raises(ConfigError, match="use_state"):
        BasicRewardNet(VECTOR, DISCRETE, use_state=False, use_action=False)


# --- what is in them --------------------------------------------------------------------------------------------


def test_only_the_inputs_asked_for_count() -> None:
    state, action, next_state, done = batch(VECTOR, DISCRETE)
    other = batch(VECTOR, DISCRETE)
    other = (other[0] + 1, 1 - other[1], other[2] + 1, ~other[3])
    names = ("use_state", "use_action", "use_next_state", "use_done")
    for i, name in enumerate(names):
        net = BasicRewardNet(VECTOR, DISCRETE, **{each: each == name for each in names})
        rows = [state, action, next_state, done]
        expected = net.predict(*rows)
        everything_else = [*other]
        everything_else[i] = rows[i]
        assert np.array_equal(net.predict(*everything_else), expected)
        rows[i] = other[i]
        assert not np.array_equal(net.predict(*rows), expected)


def test_double_precision_stays_double() -> None:
    net = BasicRewardNet(VECTOR, DISCRETE).double()
    assert net.dtype == torch.float64
    assert net.predict(*batch(VECTOR, DISCRETE)).dtype == np.float64
    assert BasicRewardNet(VECTOR, DISCRETE).bfloat16().predict(*batch(VECTOR, DISCRETE)).dtype == np.float32


def test_without_parameters_there_are_a_device_and_a_type() -> None:
    net = MockRewardNet(VECTOR, DISCRETE, value=2.5)
    assert net.device == torch.device("cpu")
    assert net.dtype == torch.float32
    assert net.predict(*batch(VECTOR, DISCRETE, 3)).tolist() == [2.5, 2.5, 2.5]


def test_large_images_go_through_natures_convolutions_and_others_through_their_own() -> None:
    kinds = [
        type(CnnRewardNet(space, DISCRETE, features_dim=4, **options).trunk.extractors[0])
        for space, options in ((IMAGE, {}), (SMALL_IMAGE, {}), (IMAGE, {"hid_channels": (4,)}))
    ]
    assert kinds == [NatureCNN, nn.Sequential, nn.Sequential]


def test_an_image_shifted_is_another_image() -> None:
    """An average over all positions, as in many small stacks, would not see it."""
    torch.manual_seed(0)
    left, right = np.zeros((2, 1, 36, 36, 3), np.uint8)
    left[:, 12:16, 12:16], right[:, 12:16, 20:24] = 255, 255
    rest = (np.array([0]), left, np.array([False]))
    for net in (CnnRewardNet(IMAGE, DISCRETE), CnnRewardNet(IMAGE, DISCRETE, hid_channels=(8, 8))):
        assert abs(net.predict(left, *rest) - net.predict(right, *rest)).item() > 1e-4


class Extractor(BaseFeaturesExtractor):
    """The mean of each channel."""

    def __init__(self, space: spaces.Box, times: float = 1.0) -> None:
        super().__init__(space, space.shape[0])
        self.times = times

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean((2, 3)) * self.times


def test_an_extractor_of_ones_own() -> None:
    net = CnnRewardNet(
        SMALL_IMAGE, DISCRETE, features_extractor_class=Extractor, features_extractor_kwargs={"times": 2.0}
    )
    assert net.trunk.out_size == 3
    check(net, batch(SMALL_IMAGE, DISCRETE))


def test_a_picture_in_the_other_layout_is_noticed() -> None:
    with pytest.raises(ConfigError, match="hwc_format=False"):
        CnnRewardNet(spaces.Box(0, 255, (3, 36, 36), np.uint8), DISCRETE)
    with pytest.raises(ConfigError, match="hwc_format=True"):
        CnnRewardNet(IMAGE, DISCRETE, hwc_format=False)
    with pytest.raises(UnsupportedSpaceError, match="BasicRewardNet"):
        CnnRewardNet(VECTOR, DISCRETE)
    with pytest.raises(ConfigError, match="use_state"):
        CnnRewardNet(IMAGE, DISCRETE, use_state=False)


def test_channels_are_counted_by_the_layout() -> None:
    assert CnnRewardNet(SMALL_IMAGE, DISCRETE).get_num_channels_obs(SMALL_IMAGE) == 3
    first = spaces.Box(0, 255, (4, 8, 6), np.uint8)
    assert CnnRewardNet(first, DISCRETE, hwc_format=False).get_num_channels_obs(first) == 4


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 1), (2, 7, 5), (12, 3, 6)])
def test_pictures_of_any_size(height: int, width: int, channels: int) -> None:
    space = spaces.Box(0, 255, (height, width, channels), np.uint8)
    check(CnnRewardNet(space, DISCRETE, features_dim=4), batch(space, DISCRETE))


def test_convolutions_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="8x6"):
        CnnRewardNet(SMALL_IMAGE, DISCRETE, hid_channels=(2, 2, 2), padding="valid")
    check(CnnRewardNet(SMALL_IMAGE, DISCRETE, hid_channels=(2, 2, 2), padding="same"), batch(SMALL_IMAGE, DISCRETE))


def test_transposing_needs_four_axes() -> None:
    assert cnn_transpose(torch.zeros(2, 8, 6, 3)).shape == (2, 3, 8, 6)
    with pytest.raises(DataError, match=r"\(8, 6, 3\)"):
        cnn_transpose(torch.zeros(8, 6, 3))


def test_spectral_normalisation_bounds_the_slope() -> None:
    """Each layer stretches by at most 1, so the whole does too; a prediction does not move its power iteration."""
    torch.manual_seed(0)
    net = BasicRewardNet(VECTOR, DISCRETE, spectral_norm=True)
    with torch.no_grad():
        for layer in net.mlp:
            if isinstance(layer, nn.Linear):
                layer.parametrizations.weight.original.mul_(10)
    rows = batch(VECTOR, DISCRETE, 64)
    for _ in range(30):
        net(*net.preprocess(*rows))
    before = state_of(net)
    here, there = net.predict(*rows), net.predict(rows[0][::-1], *rows[1:])
    assert same_state(net, before)
    assert (np.abs(here - there) <= np.linalg.norm(rows[0] - rows[0][::-1], axis=1) * 1.01).all()


# --- wrappers ---------------------------------------------------------------------------------------------------


class Halved(RewardNet):
    """A net with a `preprocess` of its own, which counts its calls."""

    calls = 0

    def preprocess(self, state: Any, action: Any, next_state: Any, done: Any) -> Any:
        self.calls += 1
        encoded = super().preprocess(state, action, next_state, done)
        return (encoded[0] / 2, *encoded[1:])

    def forward(self, state: Any, action: Any, next_state: Any, done: Any) -> torch.Tensor:
        return state.sum(1)


@pytest.mark.defect("B7")
@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: net,
        lambda net: PredictProcessedWrapper(net),
        lambda net: NormalizedRewardNet(net, RunningNorm),
        lambda net: ShapedRewardNet(net, lambda state: torch.zeros(len(state)), 0.9),
        lambda net: NormalizedRewardNet(ShapedRewardNet(net, lambda state: torch.zeros(len(state), 1), 0.9), EMANorm),
    ],
)
def test_a_preprocess_of_ones_own_is_called_through_every_wrapper(wrap: Any) -> None:
    inner = Halved(VECTOR, DISCRETE)
    net = wrap(inner)
    rows = batch(VECTOR, DISCRETE)
    expected = rows[0].sum(1) / 2
    assert net.predict(*rows) == pytest.approx(expected, abs=1e-6)
    assert net(*net.preprocess(*rows)).detach().numpy() == pytest.approx(expected, abs=1e-6)
    calls = inner.calls
    net.predict_processed(*rows)
    assert inner.calls == calls + 1


@pytest.mark.defect("B7", "B12")
def test_normalised_by_what_came_before_and_moved_afterwards() -> None:
    inner = Halved(spaces.Box(-9, 9, (1,), np.float32), DISCRETE)
    net = NormalizedRewardNet(inner, RunningNorm)
    rows = (np.array([[2.0], [6.0]], np.float32), np.array([0, 1]), np.zeros((2, 1), np.float32), np.zeros(2, bool))
    first = net.predict_processed(*rows)
    assert first == pytest.approx([1.0, 3.0], rel=1e-4)  # mean 0 and variance 1 until now
    # Now mean 2 and variance 1: (1 − 2) / 1 and (3 − 2) / 1.
    before = state_of(net)
    assert net.predict_processed(*rows, update_stats=False) == pytest.approx([-1.0, 1.0], rel=1e-4)
    assert net.predict(*rows) == pytest.approx([1.0, 3.0])
    net(*net.preprocess(*rows))
    assert same_state(net, before)
    assert net.normalize_output_layer.count.item() == 2
    net.predict_processed(*rows)
    assert net.normalize_output_layer.count.item() == 4


@pytest.mark.defect("B12")
def test_scoring_leaves_normalisers_at_every_depth() -> None:
    inner = NormalizedRewardNet(BasicRewardNet(VECTOR, DISCRETE, normalize_input_layer=RunningNorm), EMANorm)
    net = NormalizedRewardNet(inner, RunningNorm).train()
    rows = batch(VECTOR, DISCRETE)
    net(*net.preprocess(*rows))
    net.predict_processed(*rows)
    before = state_of(net)
    net.predict_processed(*rows, update_stats=False)
    net.predict(*rows)
    assert same_state(net, before)
    assert all(module.training for module in net.modules())


def test_training_forward_moves_the_normaliser_of_the_inputs() -> None:
    net = BasicRewardNet(VECTOR, DISCRETE, normalize_input_layer=RunningNorm)
    rows = batch(VECTOR, DISCRETE)
    net.eval()(*net.preprocess(*rows))
    assert net.mlp.normalize_input.count.item() == 0
    net.train()(*net.preprocess(*rows))
    assert net.mlp.normalize_input.count.item() == 6


def test_submodules_in_other_modes_keep_them() -> None:
    net = BasicRewardNet(VECTOR, DISCRETE, dropout_prob=0.5).train()
    net.mlp.act0.eval()
    modes = [module.training for module in net.modules()]
    rows = batch(VECTOR, DISCRETE)
    assert np.array_equal(net.predict(*rows), net.predict(*rows))  # no dropout
    assert [module.training for module in net.modules()] == modes


@pytest.mark.defect("B5")
def test_shaping_by_hand_drops_the_next_potential_on_termination_only() -> None:
    one = spaces.Box(-9, 9, (1,), np.float32)
    net = ShapedRewardNet(MockRewardNet(one, DISCRETE, value=1.0), lambda state: 10 * state, discount_factor=0.5)
    rows = (np.array([[1.0], [1.0]], np.float32), np.array([0, 1]), np.array([[3.0], [3.0]], np.float32))
    assert net.predict(*rows, np.array([False, True])).tolist() == [1 + 0.5 * 30 - 10, 1 - 10]


def test_a_potential_that_is_a_network_is_trained_and_one_that_is_none_is_not() -> None:
    net = BasicShapedRewardNet(VECTOR, DISCRETE, discount_factor=0.9)
    assert {name.split(".")[0] for name, _ in net.named_parameters()} == {"_base", "potential"}
    assert net.discount_factor == 0.9
    assert isinstance(net.base, BasicRewardNet)
    check(net, batch(VECTOR, DISCRETE))


def test_state_and_next_state_are_seen_by_one_normaliser_state() -> None:
    """In one call: a state has one potential, wherever it stands in the transition, in training mode too."""
    net = BasicShapedRewardNet(VECTOR, DISCRETE, discount_factor=1.0, normalize_input_layer=RunningNorm).train()
    state, action, _, done = batch(VECTOR, DISCRETE)
    encoded = net.preprocess(state, action, state, np.zeros_like(done))
    base = copy.deepcopy(net.base)
    assert torch.allclose(net(*encoded), base(*encoded), atol=1e-6)


@pytest.mark.parametrize("obs", ["image HWC", "image CHW", "small image", "Dict"])
def test_potentials_of_pictures(obs: str) -> None:
    space = OBSERVATIONS[obs]
    potential = BasicPotentialCNN(space, (4, 4), hwc_format=obs != "image CHW")
    net = ShapedRewardNet(BasicRewardNet(space, DISCRETE, hid_sizes=(4,)), potential, 0.99)
    check(net, batch(space, DISCRETE, 3))


def test_a_potential_of_another_length_is_refused() -> None:
    net = ShapedRewardNet(BasicRewardNet(VECTOR, DISCRETE), lambda state: state, 0.99)
    with pytest.raises(ConfigError, match="one number a state"):
        net.predict(*batch(VECTOR, DISCRETE))


def test_a_forward_of_another_shape_is_refused() -> None:
    class Wrong(RewardNet):
        def forward(self, state: Any, action: Any, next_state: Any, done: Any) -> torch.Tensor:
            return state

    with pytest.raises(ConfigError, match=r"shape \(6,\) from Wrong.forward; got shape \(6, 4\)"):
        Wrong(VECTOR, DISCRETE).predict(*batch(VECTOR, DISCRETE))


@pytest.mark.usefixtures("as_users_run_it")
def test_wrappers_know_their_order_and_what_they_wrap() -> None:
    net = BasicRewardNet(VECTOR, DISCRETE)
    with pytest.raises(ConfigError, match="NormalizedRewardNet"):
        ShapedRewardNet(NormalizedRewardNet(net, RunningNorm), BasicPotentialMLP(VECTOR, (4,)), 0.99)
    with pytest.raises(TypeError, match="RewardEnsemble"):
        AddSTDRewardWrapper(net)  # type: ignore[arg-type]
    with pytest.raises(WrongTypeError, match="function"):
        PredictProcessedWrapper(net.predict)  # type: ignore[arg-type]


class Doubled(ForwardWrapper):
    def forward(self, *encoded: Any) -> torch.Tensor:
        return 2 * self.base(*encoded)


@pytest.mark.defect("B7")
def test_wrapping_inside_keeps_the_normaliser_around_it() -> None:
    inner = BasicRewardNet(VECTOR, DISCRETE)
    twice = NormalizedRewardNet(NormalizedRewardNet(inner, RunningNorm), EMANorm)
    rows = batch(VECTOR, DISCRETE)
    made = wrap_forward(twice, Doubled)
    assert [type(each) for each in (made, made.base, made.base.base)] == [NormalizedRewardNet] * 2 + [Doubled]
    assert made.base.base.base is inner
    assert twice.base.base is inner  # as it was
    assert made.predict(*rows) == pytest.approx(2 * inner.predict(*rows), abs=1e-6)
    made.predict_processed(*rows)
    assert twice.base.normalize_output_layer.running_mean.item() == pytest.approx(2 * inner.predict(*rows).mean())
    assert twice.normalize_output_layer.count.item() == 6
    assert isinstance(wrap_forward(inner, Doubled), Doubled)
    members = RewardEnsemble(VECTOR, DISCRETE, [inner, BasicRewardNet(VECTOR, DISCRETE)])
    with pytest.raises(WrongTypeError, match="got Doubled"):
        wrap_forward(AddSTDRewardWrapper(members), Doubled)


def test_copies_are_whole_and_apart() -> None:
    net = NormalizedRewardNet(BasicShapedRewardNet(VECTOR, DISCRETE), RunningNorm)
    other = copy.deepcopy(net)
    rows = batch(VECTOR, DISCRETE)
    assert np.array_equal(net.predict(*rows), other.predict(*rows))
    net.predict_processed(*rows)
    assert other.normalize_output_layer.count.item() == 0
    assert other.constructor_arguments()[0][0] is other.base
    assert other.base is not net.base


def test_the_callers_arrays_are_left_alone() -> None:
    state = sampled(VECTOR, 6)
    state.flags.writeable = False
    before = state.copy()
    net = BasicRewardNet(VECTOR, DISCRETE)
    net.predict(state, np.zeros(6, np.int64), state, np.zeros(6, bool))
    assert np.array_equal(state, before)
    assert not state.flags.writeable
