"""Expert datasets of Stable-Baselines 2: archives are read, limits are exact, splits and batches are whole."""

from __future__ import annotations

import io
import logging
import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from understudy.data.demonstrations import as_demonstrations
from understudy.data.stable_baselines import ExpertDataset
from understudy.errors import (
    ConfigError,
    CorruptFileError,
    DataError,
    EmptyDataError,
    MissingExtraError,
    MissingFileError,
    NonFiniteDataError,
    UnderstudyError,
    UntrustedFileError,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "stable_baselines"
OBS = np.arange(24, dtype=np.float32).reshape(6, 4) / 4
CHOICES = [0, 1, 1, 0, 1, 0]
COLOURS = [[200, 40, 90], [10, 20, 30], [0, 0, 255], [255, 0, 0], [0, 255, 0], [128, 128, 128]]


def three_of_five(**changes: Any) -> dict[str, Any]:
    """Three episodes of five steps, with a reward of 1, 2 and 3 a step: returns 5, 10 and 15."""
    row = np.arange(15)
    data = {
        "actions": row[:, None],
        "obs": np.stack([row, -row], axis=1).astype(np.float32),
        "rewards": np.repeat([1.0, 2.0, 3.0], 5),
        "episode_returns": np.array([5.0, 10.0, 15.0]),
        "episode_starts": row % 5 == 0,
    }
    return {name: value for name, value in {**data, **changes}.items() if value is not None}


def dataset(data: dict[str, Any] | None = None, **options: Any) -> ExpertDataset:
    return ExpertDataset(traj_data=three_of_five() if data is None else data, verbose=0, **options)


# Archives of the older library


def test_a_discrete_archive_is_read() -> None:
    found = ExpertDataset(str(GOLDEN / "discrete.npz"), verbose=0)
    np.testing.assert_array_equal(found.observations, OBS)
    np.testing.assert_array_equal(found.actions, np.array(CHOICES)[:, None])
    assert (found.observations.dtype, found.actions.dtype, found.returns.dtype) == ("float32", "int64", "float64")
    assert found.returns.tolist() == [3.0, 0.5, 1.0]
    assert found.avg_ret == 1.5
    assert found.std_ret == pytest.approx(np.sqrt((1.5**2 + 1.0**2 + 0.5**2) / 3))
    assert (found.num_traj, found.num_transition, found.obs_len, len(found)) == (3, 6, 6, 6)


def test_a_box_archive_is_read() -> None:
    found = ExpertDataset(GOLDEN / "box.npz", verbose=0)
    assert (found.actions.dtype, found.actions.shape) == ("float32", (6, 1))
    assert found.actions[:, 0].tolist() == [-2.0, -1.0, 0.0, 0.5, 1.0, 2.0]


def test_the_one_door_takes_an_archive_by_its_path() -> None:
    demos = as_demonstrations(GOLDEN / "discrete.npz", action_space=spaces.Discrete(2))
    assert demos.acts.tolist() == CHOICES
    assert demos.episode_offsets.tolist() == [0, 3, 4, 6]
    assert demos.rews.tolist() == [1.0, 1.0, 1.0, 0.5, 2.0, -1.0]
    np.testing.assert_array_equal(demos.obs, OBS)
    # It does not say how an episode ended, nor what was seen then; nothing is made up.
    assert (demos.dones, demos.truncated, demos.next_obs) == (None, None, None)
    forces = as_demonstrations(str(GOLDEN / "box.npz"), action_space=spaces.Box(-2.0, 2.0, (1,)))
    assert forces.acts.shape == (6, 1)


def test_the_one_door_takes_a_dataset_with_both_of_its_parts() -> None:
    demos = as_demonstrations(dataset(traj_limitation=2))
    assert demos.acts.tolist() == list(range(10))
    assert demos.episode_offsets.tolist() == [0, 5, 10]
    assert demos.episode_returns().tolist() == [5.0, 10.0]


def test_pickled_members_are_refused_by_default_in_one_line() -> None:
    for load in (ExpertDataset, as_demonstrations):
        with pytest.raises(UntrustedFileError, match=r"'episode_starts\.npy'.*trust=\"pickle\"") as caught:
            load(GOLDEN / "vec_env.npz")
        assert "\n" not in str(caught.value)


def test_pickled_members_are_read_with_trust() -> None:
    found = ExpertDataset(GOLDEN / "vec_env.npz", verbose=0, trust="pickle")
    demos = as_demonstrations(found)
    assert demos.episode_offsets.tolist() == [0, 3, 4, 6]
    assert demos.rews.shape == (6,)


@pytest.mark.usefixtures("as_users_run_it")
def test_there_is_one_kind_of_trust() -> None:
    with pytest.raises(ConfigError, match="trust"):
        ExpertDataset(GOLDEN / "vec_env.npz", trust="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["episode_starts", "obs", "actions", "rewards"])
def test_nothing_stored_is_run_without_trust(tmp_path: Path, name: str) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "run"),)

    members = {**three_of_five(), name: np.array([Evil()] * 15, dtype=object)}
    with zipfile.ZipFile(tmp_path / "evil.npz", "w") as archive:
        for key, array in members.items():
            body = io.BytesIO()
            np.save(body, array, allow_pickle=True)
            archive.writestr(f"{key}.npy", body.getvalue())
    for load in (ExpertDataset, as_demonstrations):
        with pytest.raises(UntrustedFileError):
            load(tmp_path / "evil.npz")
    assert not (tmp_path / "run").exists()


def test_every_truncation_of_an_archive_is_one_typed_error(tmp_path: Path) -> None:
    whole = (GOLDEN / "discrete.npz").read_bytes()
    for length in range(0, len(whole), 37):
        path = tmp_path / "cut.npz"
        path.write_bytes(whole[:length])
        with pytest.raises(UnderstudyError):
            ExpertDataset(path)


def test_a_flipped_bit_in_a_member_is_found(tmp_path: Path) -> None:
    damaged = bytearray((GOLDEN / "box.npz").read_bytes())
    damaged[damaged.find(OBS.tobytes()) + 5] ^= 1
    (tmp_path / "box.npz").write_bytes(damaged)
    with pytest.raises(CorruptFileError, match="CRC"):
        ExpertDataset(tmp_path / "box.npz")


# Images in files


def test_jpegs_named_from_another_folder_are_found_beside_the_archive(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "moved")
    found = ExpertDataset(tmp_path / "moved" / "images.npz", train_fraction=1, randomize=False, verbose=0)
    assert found.observations.dtype.kind == "U"
    obs, acts = found.get_next_batch("train")
    assert (obs.shape, obs.dtype) == ((6, 8, 8, 3), "uint8")
    assert np.abs(obs.astype(int) - np.array(COLOURS)[:, None, None, :]).max() <= 3  # what JPEG does to one colour
    assert acts[:, 0].tolist() == CHOICES


def test_four_stacked_frames_come_back_exactly() -> None:
    demos = as_demonstrations(GOLDEN / "frame_stack.npz")
    expected = (np.arange(24).reshape(2, 3, 4) * 3 + 40 * np.arange(6)[:, None, None, None]).astype(np.uint8)
    np.testing.assert_array_equal(demos.obs, expected)


def with_names(path: Path, names: list[str]) -> Path:
    n = len(names)
    np.savez(path, actions=np.zeros((n, 1), int), obs=np.array(names), rewards=np.zeros(n), episode_starts=[True] * n)
    return path


@pytest.mark.parametrize(
    "name", ["../0.jpg", "/etc/hostname", "link.jpg", "away/0.jpg", "0.jpg/", "a\tb", "", "x" * 5000]
)
def test_only_files_below_the_archive_are_read(tmp_path: Path, name: str) -> None:
    shutil.copy(GOLDEN / "colours" / "0.jpg", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link.jpg").symlink_to(tmp_path / "0.jpg")
    (tmp_path / "data" / "away").symlink_to(tmp_path)
    with pytest.raises(MissingFileError, match="images"):
        ExpertDataset(with_names(tmp_path / "data" / "a.npz", [name]))


def test_an_absolute_name_of_an_older_archive_leads_to_the_folder_beside_it(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "colours", tmp_path / "pictures")
    path = with_names(tmp_path / "a.npz", ["/home/bob/pictures/3.jpg", "C:\\work\\pictures\\4.jpg"])
    assert ExpertDataset(path, verbose=0).observations.tolist() == [
        str(tmp_path / "pictures" / "3.jpg"),
        str(tmp_path / "pictures" / "4.jpg"),
    ]


def test_a_missing_image_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "copy")
    (tmp_path / "copy" / "frames" / "4.png").unlink()
    with pytest.raises(MissingFileError, match=r"frames/4\.png"):
        ExpertDataset(tmp_path / "copy" / "frame_stack.npz")


def test_images_that_a_caller_names_start_at_the_working_directory(in_tmp: Path) -> None:
    shutil.copy(GOLDEN / "frames" / "0.png", in_tmp)
    data = three_of_five(obs=["0.png"] * 15)
    assert dataset(data).observations[0] == str(in_tmp / "0.png")
    (in_tmp / "0.png").unlink()
    with pytest.raises(MissingFileError, match=r"0\.png and 14 more"):
        dataset(data)


def test_an_image_that_goes_missing_later_is_named(in_tmp: Path) -> None:
    shutil.copy(GOLDEN / "frames" / "0.png", in_tmp)
    found = dataset(three_of_five(obs=["0.png"] * 15))
    (in_tmp / "0.png").unlink()
    with pytest.raises(MissingFileError, match=r"0\.png"):
        found.get_next_batch("train")


def test_names_in_very_many_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at most 64 folders"):
        ExpertDataset(with_names(tmp_path / "a.npz", [f"{n}/0.png" for n in range(65)]))


def test_a_damaged_image_is_a_typed_error(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "copy")
    image = tmp_path / "copy" / "frames" / "4.png"
    whole = image.read_bytes()
    for content in (b"", whole[:40], whole[:-30], b"no picture at all", b"GIF89a" + whole):
        image.write_bytes(content)
        with pytest.raises(CorruptFileError, match=r"4\.png"):
            as_demonstrations(tmp_path / "copy" / "frame_stack.npz")


def test_an_image_of_another_size_or_kind_is_an_error(tmp_path: Path) -> None:
    from PIL import Image

    shutil.copytree(GOLDEN, tmp_path / "copy")
    path = tmp_path / "copy" / "frame_stack.npz"
    Image.new("RGBA", (5, 2)).save(tmp_path / "copy" / "frames" / "2.png")
    with pytest.raises(DataError, match=r"\(2, 5, 4\)"):
        as_demonstrations(path)
    Image.new("P", (3, 2)).save(tmp_path / "copy" / "frames" / "2.png")
    with pytest.raises(DataError, match="mode 'P'"):
        as_demonstrations(path)


def test_a_picture_bomb_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("1", (9000, 9000)).convert("L").save(tmp_path / "0.png")
    with pytest.raises(CorruptFileError, match="9000 x 9000"):
        as_demonstrations(with_names(tmp_path / "a.npz", ["0.png"]))


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    found = ExpertDataset(GOLDEN / "images.npz", verbose=0)
    with pytest.raises(MissingExtraError, match="pillow"):
        found.get_next_batch("train")


# How much is used


@pytest.mark.parametrize(("k", "rows"), [(1, 5), (2, 10), (3, 15), (7, 15), (-1, 15)])
def test_a_limit_is_exact(k: int, rows: int) -> None:
    found = dataset(traj_limitation=k)
    assert (found.num_transition, found.num_traj) == (rows, rows // 5)
    assert found.returns.tolist() == [5.0, 10.0, 15.0][: rows // 5]
    assert found.avg_ret == np.mean(found.returns)


@pytest.mark.parametrize(("k", "rows", "num_traj"), [(1, 8, 1), (2, 13, 2), (3, 15, 3), (-1, 15, -1)])
def test_legacy_counts_as_the_older_library_did(k: int, rows: int, num_traj: int) -> None:
    found = dataset(traj_limitation=k, legacy=True)
    assert (found.num_transition, found.num_traj) == (rows, num_traj)
    assert found.avg_ret == 10.0  # of all three episodes, whichever are used
    demos = as_demonstrations(found)
    assert demos.episode_offsets.tolist() == [0, 5, 8] if k == 1 else len(demos) == rows


@pytest.mark.parametrize("k", [0, -2])
def test_other_limits_are_refused(k: int) -> None:
    with pytest.raises(ConfigError, match="traj_limitation"):
        dataset(traj_limitation=k)


def test_a_legacy_limit_that_leaves_nothing_is_refused() -> None:
    data = three_of_five(episode_starts=np.ones(15, dtype=bool), episode_returns=None)
    with pytest.raises(EmptyDataError, match="legacy"):
        dataset(data, traj_limitation=1, legacy=True)


def test_rows_of_several_axes_are_flattened_only_in_legacy() -> None:
    data = three_of_five(obs=np.zeros((15, 2, 3, 1), np.uint8), actions=np.zeros((15, 2, 2), np.float32))
    found, older = dataset(data), dataset(data, legacy=True)
    assert (found.observations.shape, found.actions.shape) == ((15, 2, 3, 1), (15, 2, 2))
    assert (older.observations.shape, older.actions.shape) == ((15, 6), (15, 4))


# Splits and batches


def test_a_split_by_transition_is_disjoint_and_whole() -> None:
    found = dataset(rng=np.random.default_rng(0))
    assert (len(found.train_indices), len(found.val_indices)) == (10, 5)  # int(0.7 * 15)
    assert sorted([*found.train_indices, *found.val_indices]) == list(range(15))
    assert sorted(found.train_indices) != list(range(10))


def test_a_split_by_episode_keeps_episodes_together() -> None:
    sides = []
    for seed in range(20):
        found = dataset(split="episode", rng=np.random.default_rng(seed))
        train, val = set(found.train_indices // 5), set(found.val_indices // 5)
        assert (len(train), len(val)) == (2, 1)
        assert not train & val
        assert len(found.train_indices) == 10
        sides.append(val.pop())
    assert set(sides) == {0, 1, 2}


def test_without_randomizing_the_first_rows_train_in_order() -> None:
    found = dataset(randomize=False, batch_size=4)
    batches = [found.get_next_batch("train")[1][:, 0].tolist() for _ in range(4)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3]]
    assert found.get_next_batch("val")[1][:, 0].tolist() == [10, 11, 12, 13]


def test_the_fraction_of_a_hundred_is_not_rounded_down_by_floating_point() -> None:
    data = three_of_five(
        **{name: np.zeros((100, 1)) for name in ("obs", "actions", "rewards")},
        episode_starts=np.ones(100),
        episode_returns=None,
    )
    assert len(dataset(data, train_fraction=0.29).train_indices) == 29


@pytest.mark.usefixtures("as_users_run_it")
def test_all_rows_can_train() -> None:
    found = dataset(train_fraction=1.0, batch_size=15)
    assert found.val_loader is None
    assert sorted(found.get_next_batch("train")[1][:, 0]) == list(range(15))
    with pytest.raises(ConfigError, match="validation"):
        found.get_next_batch("val")
    with pytest.raises(ConfigError, match="'test'"):
        found.get_next_batch("test")  # type: ignore[arg-type]


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize("batch_size", [5, 15, 4, 64])
def test_no_batch_is_ever_empty_and_each_pass_holds_each_row_once(batch_size: int, sequential: bool) -> None:
    found = dataset(batch_size=batch_size, sequential_preprocessing=sequential)
    found.init_dataloader(batch_size)
    for _ in range(3):
        batches = [found.get_next_batch() for _ in range(-(-15 // batch_size))]
        assert all(len(obs) == len(acts) > 0 for obs, acts in batches)
        assert sorted(np.concatenate([acts[:, 0] for _, acts in batches])) == list(range(15))
        np.testing.assert_array_equal(
            np.concatenate([obs[:, 0] for obs, _ in batches]), np.concatenate([a[:, 0] for _, a in batches])
        )


def test_all_rows_are_given_in_batches_of_the_constructor_without_a_loader_of_ones_own() -> None:
    found = dataset(batch_size=6)
    assert found.dataloader is None
    assert len(found.get_next_batch()[0]) == 6


@pytest.mark.defect("B29")
def test_one_generator_decides_all_and_no_global_one_is_read() -> None:
    before = np.random.get_state()[1].tobytes()  # type: ignore[union-attr]  # noqa: NPY002
    one, two, other = (dataset(rng=np.random.default_rng(seed), batch_size=4) for seed in (3, 3, 4))
    two.get_next_batch("val")  # how often one loader is asked does not change what another gives
    seen = [[found.get_next_batch("train")[1].tolist() for _ in range(9)] for found in (one, two, other)]
    assert seen[0] == seen[1] != seen[2]
    assert np.random.get_state()[1].tobytes() == before  # type: ignore[union-attr]  # noqa: NPY002


def test_a_pickled_dataset_goes_on_where_it_was() -> None:
    found = dataset(batch_size=4, rng=np.random.default_rng(0))
    found.init_dataloader(4)
    found.get_next_batch("train")
    found.get_next_batch()
    found.prepare_pickling()
    again = pickle.loads(pickle.dumps(found))
    for split in ("train", "val", None) * 5:
        for mine, theirs in zip(found.get_next_batch(split), again.get_next_batch(split), strict=True):
            np.testing.assert_array_equal(mine, theirs)


# What is refused


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_fractions_out_of_range_are_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="train_fraction"):
        dataset(train_fraction=fraction)


def test_one_source_is_needed() -> None:
    for sources, said in (({}, "neither"), ({"expert_path": "a.npz", "traj_data": three_of_five()}, "both")):
        with pytest.raises(ConfigError, match=said):
            ExpertDataset(**sources)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train_fraction": 0.05}, "transition to train on"),
        ({"train_fraction": 0.3, "split": "episode"}, "episode to train on"),
        ({"split": "step"}, "split="),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        dataset(**options)


@pytest.mark.parametrize("name", ["obs", "actions", "rewards", "episode_returns", "terminal_obs"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_none_are_met_at_the_door(name: str, value: float) -> None:
    data = three_of_five(actions=np.zeros((15, 1)), terminal_obs=np.zeros((3, 2), np.float32))
    data[name] = data[name].copy()
    data[name][2] = value
    with pytest.raises(NonFiniteDataError, match=name):
        dataset(data)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"obs": None}, r"without \['obs'\]"),
        ({"obs": np.zeros((14, 2))}, "14 rows of 'obs'"),
        ({"rewards": np.zeros(14)}, "14 rows of 'rewards'"),
        ({"episode_starts": np.ones(14)}, "14 rows of 'episode_starts'"),
        ({"episode_starts": np.zeros(15)}, "first row is False"),
        ({"episode_starts": [[True, False]] * 15}, "no flags"),
        ({"episode_returns": np.zeros(2)}, "2 rows of 'episode_returns'"),
        ({"episode_returns": None, "rewards": None}, "neither"),
        ({"terminal_obs": np.zeros((3, 5), np.float32)}, "terminal_obs"),
        ({"truncated": np.zeros(15)}, "15 rows of 'truncated'"),
        ({"actions": np.array(["a"] * 15)}, "'actions' that is no array"),
        ({"obs": np.array([[1], [1, 2]] * 7 + [[1]], dtype=object)}, "'obs' that is no array"),
        ({"obs": np.array([["a"]] * 15)}, "names of images"),
        ({name: np.zeros((0, 1)) for name in ("obs", "actions", "episode_starts")}, "at least one step"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        dataset(three_of_five(**changes))


def test_no_file_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="expert dataset"):
        ExpertDataset(tmp_path / "none.npz")


def test_an_npz_of_something_else_is_told_what_is_missing(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", states=np.zeros(3), actions=np.zeros(3))
    with pytest.raises(DataError, match=r"without \['obs', 'episode_starts'\]"):
        ExpertDataset(tmp_path / "a.npz")


# Telling about itself


def test_returns_are_summed_where_they_are_not_told() -> None:
    assert dataset(three_of_five(episode_returns=None)).returns.tolist() == [5.0, 10.0, 15.0]


def test_a_summary_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    dataset()
    assert not caplog.records
    ExpertDataset(traj_data=three_of_five())
    assert "3 trajectories, 15 transitions, returns 10 ± 4.08248" in caplog.text


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(MissingExtraError, match="plots"):
        dataset().plot()


def test_returns_are_plotted() -> None:
    import matplotlib.pyplot as plt

    figure = dataset().plot()
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 3
    plt.close(figure)
