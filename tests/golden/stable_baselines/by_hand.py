"""Writes the archives beside it after the layout that Stable-Baselines 2 documents; run once, kept to be read.

    python tests/golden/stable_baselines/by_hand.py

It uses nothing of the library that reads them.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent

# Three episodes of 3, 1 and 2 steps.
STARTS = np.array([True, False, False, True, True, False])
REWARDS = np.array([1.0, 1.0, 1.0, 0.5, 2.0, -1.0])
RETURNS = np.array([3.0, 0.5, 1.0])
OBS = np.arange(24, dtype="<f4").reshape(6, 4) / 4
CHOICES = np.array([[0], [1], [1], [0], [1], [0]], dtype="<i8")
FORCES = np.array([[-2.0], [-1.0], [0.0], [0.5], [1.0], [2.0]], dtype="<f4")
COLOURS = np.array([[200, 40, 90], [10, 20, 30], [0, 0, 255], [255, 0, 0], [0, 255, 0], [128, 128, 128]], np.uint8)


def stacked(step: int) -> np.ndarray:
    """Four frames of 2 x 3 pixels, in the last axis."""
    return (np.arange(24, dtype=np.uint8).reshape(2, 3, 4) * 3 + 40 * step).astype(np.uint8)


def with_pickle(path: Path, plain: dict[str, np.ndarray], objects: dict[str, np.ndarray]) -> None:
    """As an older NumPy wrote arrays of objects: a header, then a pickle that names its former module."""
    np.savez(path, **plain)
    with zipfile.ZipFile(path, "a") as archive:
        for name, array in objects.items():
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": array.shape})
            body = pickle.dumps(array, protocol=2).replace(b"numpy._core", b"numpy.core")
            archive.writestr(f"{name}.npy", head.getvalue() + body)


def main() -> None:
    rest = {"rewards": REWARDS, "episode_returns": RETURNS, "episode_starts": STARTS}
    np.savez(HERE / "discrete.npz", actions=CHOICES, obs=OBS, **rest)
    np.savez(HERE / "box.npz", actions=FORCES, obs=OBS, **rest)

    starts = np.empty(6, dtype=object)
    for row, value in enumerate(STARTS):
        starts[row] = True if row == 0 else np.array([value])
    plain = {"actions": CHOICES, "obs": OBS, "rewards": REWARDS[:, None], "episode_returns": RETURNS}
    with_pickle(HERE / "vec_env.npz", plain, {"episode_starts": starts})

    # Recorded from the folder above, so that the names begin with this one's.
    (HERE / "colours").mkdir(exist_ok=True)
    for step, colour in enumerate(COLOURS):
        Image.fromarray(np.tile(colour, (8, 8, 1))).save(HERE / "colours" / f"{step}.jpg", quality=95, subsampling=0)
    np.savez(
        HERE / "images.npz",
        actions=CHOICES,
        obs=np.array([f"stable_baselines/colours/{step}.jpg" for step in range(6)]),
        **rest,
    )
    # Its picture library takes the first channel for blue, which Pillow reads as the third.
    (HERE / "frames").mkdir(exist_ok=True)
    for step in range(6):
        Image.fromarray(np.ascontiguousarray(stacked(step)[:, :, [2, 1, 0, 3]])).save(HERE / "frames" / f"{step}.png")
    np.savez(
        HERE / "frame_stack.npz", actions=CHOICES, obs=np.array([f"frames/{step}.png" for step in range(6)]), **rest
    )


if __name__ == "__main__":
    main()
