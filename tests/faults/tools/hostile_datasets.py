"""Dataset folders: what jsonpickle would build, pickles in columns and metadata, links and names that lead outside."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tools.hostile import CANARY, Calls, Hostile, Workshop
from understudy.data import serialize
from understudy.data.types import TrajectoryWithRew
from understudy.util.manifest import MANIFEST, HashingFile, write_manifest

STREAM = "data-00000-of-00001.arrow"


def jsonpickled(shop: Workshop) -> dict[str, dict[str, Any]]:
    """What jsonpickle turns into objects and calls."""
    command = f"touch {shop.mark('jsonpickle')}"
    return {
        "reduce": {"py/reduce": [{"py/function": "posix.system"}, {"py/tuple": [command]}]},
        "reduce-type": {"py/reduce": [{"py/type": "subprocess.Popen"}, {"py/tuple": [["touch", command[6:]]]}]},
        "object": {"py/object": f"{CANARY}.Evil", "x": 1},
        "object-state": {"py/object": f"{CANARY}.Evil", "py/state": {"x": 1}},
        "object-new": {"py/object": f"{CANARY}.Evil", "py/newargs": {"py/tuple": [1]}},
        "object-init": {"py/object": f"{CANARY}.Evil", "py/initargs": {"py/tuple": [1]}},
        "type": {"py/type": f"{CANARY}.Evil"},
        "module": {"py/mod": f"{CANARY}/{CANARY}"},
        "function": {"py/function": f"{CANARY}.touch"},
        "repr": {"py/repr": f"os/os.system('{command}')"},
        "bytes": {"py/b64": "gANjcG9zaXgKc3lzdGVtCnEAWAEAAABhcQGFcQJScQMu"},
        "iterator": {"py/iterator": [{"py/function": f"{CANARY}.touch"}]},
        "property": {"py/property": {"py/function": f"{CANARY}.touch"}},
        "numpy": {"py/object": "numpy.ndarray", "dtype": f"{CANARY}.Evil", "values": [{"py/id": 10**9}]},
        "nested": {"a": [{"b": {"py/reduce": [{"py/function": "builtins.eval"}, {"py/tuple": ["1/0"]}]}}]},
        "factory": {"py/object": "collections.defaultdict", "default_factory": {"py/function": f"{CANARY}.touch"}},
        "json-key": {'json://{"py/reduce": [{"py/function": "posix.system"}, {"py/tuple": ["id"]}]}': 1},
    }


def episode(info: Mapping[str, Any]) -> TrajectoryWithRew:
    """Two steps, with the info on the first."""
    obs = np.zeros((3, 3), np.float32)
    infos = np.array([info, {}], dtype=object)
    return TrajectoryWithRew(obs, np.zeros(2, np.int64), infos, True, np.zeros(2))


def build(shop: Workshop) -> Iterator[Hostile]:
    """Our own layout, the hub's, and others."""
    yield from _infos(shop)
    yield from _crooked_folders(shop)
    yield from _streams(shop)


def _infos(shop: Workshop) -> Iterator[Hostile]:
    for name, info in jsonpickled(shop).items():
        for suffix in ("", ".npz"):
            path = shop.place(f"infos-{name}{suffix}")
            serialize.save(path, [episode(info)])
            yield Hostile(path.name, path, may_load=True)
        path = shop.place(f"hub-infos-{name}")
        _hub_folder(path, {"infos": pa.array([[json.dumps(info), "{}"]])})
        yield Hostile(path.name, path, may_load=True)


def _hub_folder(
    folder: Path,
    columns: Mapping[str, pa.Array],
    *,
    metadata: Mapping[str, str] | None = None,
    fields: Mapping[str, pa.Field] | None = None,
    state: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
    stream: str = STREAM,
) -> None:
    """A dataset as the library `datasets` saves trajectories of earlier libraries."""
    every = {
        "obs": pa.array([[[0.0, 0.0, 0.0]] * 3]),
        "acts": pa.array([[0, 1]]),
        "infos": pa.array([["{}", "{}"]]),
        "terminal": pa.array([True]),
        "rews": pa.array([[0.0, 1.0]]),
        **columns,
    }
    kinds = [(fields or {}).get(name, pa.field(name, column.type)) for name, column in every.items()]
    schema = pa.schema(kinds, metadata=metadata)
    folder.mkdir()
    target = folder / stream
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        arrays = [column.cast(kind.type) for column, kind in zip(every.values(), kinds, strict=True)]
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    folder.joinpath("state.json").write_text(
        json.dumps({"_data_files": [{"filename": stream}], "_fingerprint": "0", "_split": None, **(state or {})})
    )
    folder.joinpath("dataset_info.json").write_text(json.dumps({"description": "", **(info or {})}))


def _streams(shop: Workshop) -> Iterator[Hostile]:
    pickled = pickle.dumps(Calls(os.system, f"touch {shop.mark('arrow')}"))
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickled}
    feature = {"_type": f"{CANARY}.Evil", "dtype": "float32"}
    folders: dict[str, dict[str, Any]] = {
        "infos-are-pickles": {"columns": {"infos": pa.array([[pickled, pickled]])}},
        "extension-type": {
            "columns": {"infos": pa.array([["{}", "{}"]])},
            "fields": {"infos": pa.field("infos", pa.list_(pa.string()), metadata=extension)},
        },
        "schema-metadata-pickle": {"columns": {}, "metadata": {"understudy": pickled, "pandas": "{}"}},
        "schema-metadata-huggingface": {
            "columns": {},
            "metadata": {"huggingface": json.dumps({"info": {"features": {"obs": feature}}})},
        },
        "schema-metadata-names": {"columns": {}, "metadata": {"understudy": json.dumps({"layout": CANARY})}},
        "features-by-class": {"columns": {}, "info": {"features": {"obs": feature}, "builder_name": CANARY}},
        "format-by-name": {"columns": {}, "state": {"_format_type": CANARY, "_format_kwargs": {"dtype": "os.system"}}},
        "data-file-outside": {"columns": {}, "state": {"_data_files": [{"filename": "../../../secret.arrow"}]}},
        "data-file-absolute": {"columns": {}, "state": {"_data_files": [{"filename": str(shop.secret)}]}},
        "data-files-no-list": {"columns": {}, "state": {"_data_files": {"filename": str(shop.secret)}}},
    }
    harmless = {"schema-metadata-huggingface", "features-by-class", "format-by-name", "extension-type"}
    for name, options in folders.items():
        path = shop.place(f"hub-{name}")
        _hub_folder(path, **options)
        yield Hostile(path.name, path, may_load=name in harmless)
    path = shop.place("hub-loading-script")
    _hub_folder(path, {})
    for script in (f"{path.name}.py", "dataset.py", "__init__.py", "conftest.py", "sitecustomize.py"):
        path.joinpath(script).write_text(f"open({str(shop.mark('script'))!r}, 'w')")
    path.joinpath("dataset_infos.json").write_text(json.dumps({"default": {"builder_name": CANARY}}))
    yield Hostile(path.name, path, may_load=True)
    path = shop.place("hub-link")
    _hub_folder(path, {})
    _link(path / STREAM, shop.secret)
    yield Hostile(path.name, path)


def _link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def resum(folder: Path, **facts: Any) -> None:
    """Write the manifest anew, with right sums of whatever is there now."""
    path = folder / MANIFEST
    old = json.loads(path.read_text())
    kept = {key: value for key, value in old.items() if key not in {"files", "sha256", "understudy"}}
    entries = facts.pop("files", None)
    if entries is None:
        entries = {each.name: sum_of(each) for each in sorted(folder.iterdir()) if each != path and each.is_file()}
    path.unlink()
    write_manifest(folder, entries, **{**kept, **facts})


def sum_of(path: Path) -> dict[str, Any]:
    """The manifest entry of a file as it stands."""
    copy = path.with_name(".sum")
    file = HashingFile(copy)
    file.write(path.read_bytes())
    file.close()
    copy.unlink()
    return file.entry


def _crooked_folders(shop: Workshop) -> Iterator[Hostile]:
    outside = sum_of(shop.secret)

    def data_outside(folder: Path) -> None:
        _link(folder / STREAM, shop.secret)
        resum(folder)

    def script(folder: Path) -> None:
        folder.joinpath("dataset.py").write_text(f"open({str(shop.mark('script'))!r}, 'w')")

    def pickle_for_stream(folder: Path) -> None:
        (folder / STREAM).write_bytes(pickle.dumps(Calls(os.system, f"touch {shop.mark('stream')}")))
        resum(folder)

    def names(name: str) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            resum(folder, files={**json.loads((folder / MANIFEST).read_text())["files"], name: outside})

        return change

    def state_outside(folder: Path) -> None:
        state = json.loads((folder / "state.json").read_text())
        state["_data_files"] = [{"filename": "../../../secret.arrow"}]
        (folder / "state.json").write_text(json.dumps(state))
        resum(folder)

    changes: dict[str, Callable[[Path], object]] = {
        "link": data_outside,
        "script": script,
        "pickle-for-stream": pickle_for_stream,
        "manifest-outside": names("../../../secret.arrow"),
        "manifest-absolute": names(str(shop.secret)),
        "manifest-dots": names(".."),
        "manifest-nul": names("a\0b"),
        "manifest-newline": names("a\nb"),
        "manifest-itself": names(MANIFEST),
        "manifest-kind": lambda folder: resum(folder, kind=f"{CANARY}:Evil"),
        "manifest-list": lambda folder: (folder / MANIFEST).write_text("[1, 2]"),
        "manifest-nan": lambda folder: resum(folder, n_trajectories=float("nan")),
        "manifest-huge-number": lambda folder: resum(folder, n_trajectories=10**4000),
        "state-outside": state_outside,
    }
    for name, change in changes.items():
        path = shop.place(f"dataset-{name}")
        serialize.save(path, [episode({})])
        change(path)
        yield Hostile(path.name, path, may_load=name in {"script", "state-outside"})
    path = shop.place("dataset-whole-folder-is-a-link")
    elsewhere = shop.place("elsewhere")
    serialize.save(elsewhere, [episode(jsonpickled(shop)["reduce"])])
    path.symlink_to(elsewhere)
    yield Hostile(path.name, path, may_load=True)
