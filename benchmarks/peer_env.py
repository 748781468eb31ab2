"""The peer's own virtual environment, ``.venv-peer``: built once, rebuilt when a pin below changes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".venv-peer"
STAMP = HOME / "pins.json"

#: Installed first, so that nothing chooses another torch, and so that NumPy and setuptools stay on the last releases
#: that the rest still imports with.
FIRST = ("torch==2.13.0", "numpy<2", "setuptools<81", "wheel")
PINS = (
    "imitation==1.0.1",
    "gymnasium[classic-control,mujoco]~=0.29",
    "stable-baselines3==2.2.1",
    "seals==0.2.1",
    # Reading and writing data sets: the last pyarrow that works with NumPy 1, and a `datasets` that takes it.
    "pyarrow==21.0.0",
    "datasets==5.0.1",
    "huggingface_hub<1",
    *FIRST,
)
SMOKE_TEST = "import imitation; from imitation.algorithms import bc; from imitation.data import rollout, serialize"


def python_of(home: Path) -> Path:
    """The interpreter of the virtual environment at ``home``."""
    return home / "Scripts" / "python.exe" if sys.platform == "win32" else home / "bin" / "python"


def peer_python(say: Callable[[str], None] = print, *, rebuild: bool = False) -> Path:
    """The peer's interpreter; its environment is made when it is absent, half made, or made from other pins.

    Raises:
        subprocess.CalledProcessError: pip failed, or the peer does not import.
    """
    python = python_of(HOME)
    stamp = json.dumps({"python": sys.version.split()[0], "pins": PINS}, indent=1)
    if not rebuild and python.exists() and STAMP.exists() and STAMP.read_text() == stamp:
        return python
    if HOME.exists():
        shutil.rmtree(HOME)
    say("building the peer's environment in .venv-peer (once; some minutes and 2 GB)")
    venv.create(HOME, with_pip=True)
    for step, requirements in (("torch and NumPy", FIRST), ("imitation and what it needs", PINS)):
        say(f"  installing {step}")
        subprocess.run([str(python), "-m", "pip", "install", "-qq", *requirements], check=True)
    say("  importing it once")
    subprocess.run([str(python), "-W", "ignore", "-c", SMOKE_TEST], check=True)
    STAMP.write_text(stamp)
    return python


if __name__ == "__main__":
    print(peer_python(rebuild="--rebuild" in sys.argv).relative_to(ROOT))
