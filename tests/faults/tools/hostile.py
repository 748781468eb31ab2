"""Files that would run code, reach outside their folder or name what to import, if a reader let them.

Each of them, were it obeyed, leaves a mark: a file in ``marks``, an import of the module ``canary_of_understudy``, or
an opened secret. Sums and manifests are right, as an attacker's would be.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CANARY = "canary_of_understudy"


@dataclasses.dataclass(frozen=True)
class Hostile:
    """One payload."""

    name: str
    path: Path
    """What a loader is given."""

    may_load: bool | frozenset[str] = False
    """Whether a reader may take it as plain data, since what is dangerous in it is text that nobody interprets; or
    which readers may."""

    def may_be_taken_by(self, loader: str) -> bool:
        """Whether that loader need not refuse it."""
        return self.may_load if isinstance(self.may_load, bool) else loader in self.may_load


class Workshop:
    """A folder to build payloads in, and what shows that one was obeyed."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        self.marks = folder / "marks"
        self.secret = folder / "secret.arrow"
        self._modules = folder / "modules"
        for each in (self.files, self.marks, self._modules):
            each.mkdir(parents=True)
        self.secret.write_bytes(b"not yours")
        self._modules.joinpath(f"{CANARY}.py").write_text(
            f"from pathlib import Path\nPath({str(self.marks)!r}, 'imported').touch()\n"
            f"def touch(*args, **kwargs):\n    Path({str(self.marks)!r}, 'called').touch()\n"
            "class Evil:\n    def __init__(self, *args, **kwargs):\n        touch()\n"
            "    def __setstate__(self, state):\n        touch()\n"
        )

    def place(self, name: str) -> Path:
        """A path of that name in a folder of its own: loaders look at what lies beside a file."""
        folder = self.files / f"{len(list(self.files.iterdir())):03}"
        folder.mkdir()
        return folder / name

    def mark(self, name: str) -> Path:
        """The file that the payload ``name`` leaves if it is obeyed."""
        return self.marks / name

    @property
    def obeyed(self) -> list[str]:
        """Marks that were left."""
        return sorted(each.name for each in self.marks.iterdir())

    def importable(self) -> Callable[[], None]:
        """Put the canary on the import path; returns what takes it off again."""
        sys.path.insert(0, str(self._modules))
        return lambda: sys.path.remove(str(self._modules))


class Calls:
    """Pickled, a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


def corpus(shop: Workshop) -> list[Hostile]:
    """All payloads, written."""
    from tools import (
        hostile_archives,
        hostile_checkpoints,
        hostile_datasets,
        hostile_pickles,
        hostile_policies,
        hostile_rewards,
    )

    makers: list[Callable[[Workshop], Iterator[Hostile]]] = [
        hostile_pickles.build,
        hostile_archives.build,
        hostile_datasets.build,
        hostile_policies.build,
        hostile_rewards.build,
        hostile_checkpoints.build,
    ]
    made = [hostile for maker in makers for hostile in maker(shop)]
    assert len({each.name for each in made}) == len(made)
    assert shop.obeyed == [], "building the corpus must not set it off"
    return made
