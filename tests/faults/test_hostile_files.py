"""No loader runs, imports or opens what a hostile file names; each refusal is one typed line (F6)."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.audit import audit_no_exec
from tools.good import good_files
from tools.hostile import CANARY, Hostile, Workshop, corpus
from tools.hostile_pickles import by_hand, register_extension
from tools.loaders import LOADERS

from understudy.errors import UnderstudyError

pytestmark = pytest.mark.fault("F6")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    made = Workshop(tmp_path_factory.mktemp("hostile"))
    off_the_path = made.importable()
    yield made
    off_the_path()


@pytest.fixture(scope="module")
def hostile_files(shop: Workshop) -> list[Hostile]:
    made = corpus(shop)
    warm_up(shop.place("good"))
    return made


def warm_up(folder: Path) -> None:
    """Load what is good, so that everything is imported: only then is an import, or code that runs, a payload's."""
    for good in good_files(folder):
        for load in LOADERS.values():
            outcome(load, good)


def outcome(load, path: Path) -> BaseException | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that pickled infos or options were left out
            load(path)
    except Exception as err:
        return err
    return None


def test_the_audit_sees_what_it_is_there_for(shop: Workshop, tmp_path: Path) -> None:
    """Each of these, obeyed by Python's own unpickler, is noticed."""
    with audit_no_exec(forbidden_modules=[CANARY], secrets=[shop.secret]) as seen:
        eval("1 + 1")
        shop.secret.read_bytes()
        (tmp_path / "written").write_text("x")
        pickle.loads(by_hand(f"touch {tmp_path}/obeyed")["global-reduce"])
        __import__(CANARY)
    events = [event for event, _ in seen.events]
    for expected in ("exec", "open", "pickle.find_class", "os.system", "import"):
        assert expected in events, expected
    assert (tmp_path / "obeyed").exists()
    assert shop.obeyed == ["imported"]
    shop.mark("imported").unlink()


def test_the_corpus_is_as_wide_as_promised(hostile_files: list[Hostile]) -> None:
    assert len(hostile_files) >= 45
    assert len(LOADERS) >= 20


@pytest.mark.parametrize("loader", LOADERS)
def test_nothing_in_a_hostile_file_is_executed(loader: str, shop: Workshop, hostile_files: list[Hostile]) -> None:
    wrong, refused, loaded = [], 0, 0
    register_extension()
    for hostile in hostile_files:
        with audit_no_exec(forbidden_modules=[CANARY], secrets=[shop.secret], writable=[".lock"]) as seen:
            error = outcome(LOADERS[loader], hostile.path)
        if seen.events:
            wrong.append(f"{hostile.name}: {seen.events[:3]}")
        if error is None:
            loaded += 1
            if not hostile.may_be_taken_by(loader):
                wrong.append(f"{hostile.name}: loaded")
        elif not isinstance(error, UnderstudyError):
            wrong.append(f"{hostile.name}: untyped {type(error).__name__}: {str(error)[:300]}")
        elif "\n" in str(error):
            wrong.append(f"{hostile.name}: several lines: {str(error)[:300]!r}")
        else:
            refused += 1
    assert shop.obeyed == []
    assert not wrong, f"{len(wrong)} of {len(hostile_files)}:\n" + "\n".join(wrong)
    print(f"{loader}: {refused} refused, {loaded} read as plain data, 0 executed")
