"""Nothing that is read can run a program: pickles, and codecs that are pickles, are refused before they are read."""

import json
import pickle
import re
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import zarr

from tests.support.pickle_bomb import Bomb
from wsi_umedpt.errors import CheckpointError, EncoderError, InteropError, StoreError, UnsupportedSlideError
from wsi_umedpt.interop.feature_banks import open_source
from wsi_umedpt.models.weights import read_weights
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.store.label_pyramid import read_labels
from wsi_umedpt.store.zarr_io import read_array


def test_the_bomb_is_one(tmp_path):
    """Unpickling it runs a program, or the other tests would mean nothing."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark"))).close()  # noqa: S301 - what is shown
    assert (tmp_path / "mark").exists()


def _torch_zip(path, mark):
    torch.save({"features": Bomb(mark)}, path)


def _torch_old(path, mark):
    torch.save(Bomb(mark), path, _use_new_zipfile_serialization=False)


def _bare(path, mark):
    path.write_bytes(pickle.dumps(Bomb(mark)))


def _protocol_0(path, mark):
    path.write_bytes(pickle.dumps(Bomb(mark), protocol=0))


BOMBS = {"zip": _torch_zip, "before-1.6": _torch_old, "bare": _bare, "protocol-0": _protocol_0}


@pytest.mark.parametrize("write", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("allow_pt", [False, True])
def test_a_pt_file_never_runs_a_program(tmp_path, mark, write, allow_pt):
    """Without the flag it is not opened at all; with it, what is not a tensor is refused unrun."""
    write(tmp_path / "s.pt", mark)
    with pytest.raises(InteropError, match="programs"):
        open_source(tmp_path / "s.pt", allow_pt=allow_pt)


def test_a_pt_file_of_features_needs_the_flag(tmp_path):
    """Also an honest one: whoever reads pickles is to know it."""
    torch.save(torch.zeros(3, 4), tmp_path / "s.pt")
    with pytest.raises(InteropError, match="`allow_pt`"):
        open_source(tmp_path / "s.pt")
    assert open_source(tmp_path / "s.pt", allow_pt=True).tiles == 3


@pytest.mark.parametrize("write", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("name", ["w.pth", "w.bin", "w.safetensors"])
def test_weights_never_run_a_program(tmp_path, mark, write, name):
    """Whatever a file of weights is called, and whatever it is."""
    write(tmp_path / name, mark)
    with pytest.raises(EncoderError, match="cannot be read as weights"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("write", BOMBS.values(), ids=BOMBS)
def test_models_never_run_a_program(tmp_path, mark, write):
    """Tensors beside a model's JSON are safetensors; what is not is refused, its checksum right or not."""
    import hashlib

    from wsi_umedpt.io.checkpoint import load

    write(tmp_path / "m.0.safetensors", mark)
    digest = hashlib.sha256((tmp_path / "m.0.safetensors").read_bytes()).hexdigest()
    (tmp_path / "m.json").write_text(json.dumps({"tensors": "m.0.safetensors", "tensors_sha256": digest}))
    with pytest.raises(CheckpointError, match="no tensors"):
        load(tmp_path / "m.json")


def test_npz_objects_are_refused(tmp_path, mark):
    """An archive with an array of objects is refused by its header, and so is a pickle in an array's place."""
    np.savez(tmp_path / "a.npz", features=np.array([[Bomb(mark)]], object))
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("features.npy", pickle.dumps(Bomb(mark)))
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("features.pkl", pickle.dumps(Bomb(mark)))
    (tmp_path / "d.npz").write_bytes(pickle.dumps(Bomb(mark)))
    for path in sorted(tmp_path.glob("*.npz")):
        with pytest.raises(InteropError):
            open_source(path)


def test_h5_objects_are_refused(tmp_path, mark):
    """Arrays of opaque values, of text and of references are never read; nor is what lies in another file."""
    text = h5py.string_dtype()
    for name, make in {
        "opaque": lambda f: f.create_dataset("features", data=np.frombuffer(pickle.dumps(Bomb(mark)), "V1")),
        "text": lambda f: f.create_dataset("features", data=["x"], dtype=text),
        "reference": lambda f: f.create_dataset("features", data=[f.ref], dtype=h5py.ref_dtype),
        "external-link": lambda f: f.__setitem__("features", h5py.ExternalLink("/etc/hostname", "/x")),
        "external-storage": lambda f: f.create_dataset("features", (1, 4), "f4", external=[("/etc/hostname", 0, 16)]),
    }.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            make(file)
            file["coords"] = np.zeros((1, 2), np.int32)
        with pytest.raises(InteropError):
            open_source(tmp_path / f"{name}.h5")


def _ome_v2(folder, mark, **array):
    """An OME-Zarr 0.4 slide whose level's metadata was made by somebody who means ill."""
    level = folder / "0"
    level.mkdir(parents=True)
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")]
    transform = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    multiscales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": transform}]}]
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / ".zattrs").write_text(json.dumps({"multiscales": multiscales}))
    about = {
        "zarr_format": 2, "shape": [3, 64, 64], "chunks": [3, 64, 64], "dtype": "|u1", "compressor": None,
        "fill_value": 0, "order": "C", "filters": None, **array,
    }  # fmt: skip
    (level / ".zarray").write_text(json.dumps(about))
    for name in ("0.0.0", "0"):
        (level / name).write_bytes(pickle.dumps(Bomb(mark)))


V2 = {
    "object-dtype": {"dtype": "|O", "filters": [{"id": "pickle"}]},
    "pickle-filter": {"filters": [{"id": "pickle"}]},
    "pickle-compressor": {"compressor": {"id": "pickle"}},
    "msgpack-filter": {"filters": [{"id": "msgpack2"}]},
    "json-filter": {"filters": [{"id": "json2"}]},
    "vlen": {"filters": [{"id": "vlen-bytes"}]},
    "one-strange-of-two": {"compressor": {"id": "zlib", "level": 1}, "filters": [{"id": "delta"}, {"id": "pickle"}]},
    "filter-is-text": {"filters": ["pickle"]},
    "filter-in-a-list": {"filters": [[{"id": "pickle"}]]},
    "structured-object": {"dtype": [["a", "|O"]]},
}


@pytest.mark.parametrize("array", V2.values(), ids=V2)
def test_an_ome_zarr_that_needs_a_pickle_is_not_a_slide(tmp_path, mark, array, monkeypatch):
    """Zarr v2 unpickles whatever its filters say while it reads: such arrays are refused before zarr sees them."""
    _ome_v2(tmp_path / "s.zarr", mark, **array)
    monkeypatch.setattr(zarr, "open_array", lambda *_, **__: pytest.fail("zarr saw it"))
    with pytest.raises(UnsupportedSlideError):
        open_slide(tmp_path / "s.zarr")


def test_the_honest_ome_zarr_beside_them_is_a_slide(tmp_path, mark):
    """The layout of these tests is one that is read where nothing is wrong with it."""
    _ome_v2(tmp_path / "s.zarr", mark)
    with open_slide(tmp_path / "s.zarr") as slide:
        assert slide.size == (64, 64)


def test_a_store_is_read_without_zarrs_codecs(tmp_path, mark):
    """Arrays of a store are bytes of numbers; any other codec or dtype is refused, and nothing of it is read."""
    path = tmp_path / "xy"
    for change in (
        {"codecs": [{"name": "bytes"}, {"name": "numcodecs.pickle"}]},
        {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]},
        {"codecs": ["pickle"]},
        {"data_type": "O"},
        {"data_type": "object"},
        {"data_type": {"name": "numpy.void"}},
    ):
        node = {
            "zarr_format": 3, "node_type": "array", "shape": [4, 2], "data_type": "int32", "attributes": {},
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 2]}},
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}], **change,
        }  # fmt: skip
        (path / "c" / "0").mkdir(parents=True, exist_ok=True)
        (path / "zarr.json").write_text(json.dumps(node))
        (path / "c" / "0" / "0").write_bytes(pickle.dumps(Bomb(mark)).ljust(32, b"."))
        with pytest.raises(StoreError):
            read_array(path)


def test_a_label_image_with_another_codec_is_refused(tmp_path, mark):
    """Label images are the only part of a store that zarr decodes, and only as bytes and zstd."""
    from wsi_umedpt.store.label_info import LabelInfo
    from wsi_umedpt.store.label_pyramid import LabelWriter

    info = LabelInfo(
        name="n", shape=(8, 8), mpp=0.5, scale=1.0, classes=("a",), colours=((1, 2, 3),), source={}, made_by={}
    )
    writer = LabelWriter(tmp_path / "n", info)
    writer.append(np.zeros((8, 8), np.uint8))
    writer.finish()
    assert read_labels(tmp_path / "n").info.name == "n"
    node = json.loads((tmp_path / "n" / "0" / "zarr.json").read_text())
    node["codecs"] = [{"name": "bytes"}, {"name": "numcodecs.pickle"}]
    (tmp_path / "n" / "0" / "zarr.json").write_text(json.dumps(node))
    with pytest.raises(StoreError):
        read_labels(tmp_path / "n").levels[0].array[:]


def test_nothing_that_we_ship_imports_an_unpickler():
    """Only the reader of tensors names pickle, and that for its errors; no module loads with weights_only off."""
    import wsi_umedpt

    root = Path(wsi_umedpt.__file__).parent
    texts = {p.relative_to(root).as_posix(): p.read_text() for p in root.rglob("*.py")}
    naming = {name for name, text in texts.items() if re.search(r"import pickle\b|cPickle|\bdill\b", text)}
    assert naming <= {"interop/pt.py"}
    assert "pickle.load" not in texts["interop/pt.py"]
    for name, text in texts.items():
        for forbidden in ("allow_pickle=True", "weights_only=False", "yaml.load(", "joblib.load", "eval(", "exec("):
            found = [line for line in text.splitlines() if forbidden in line and f".{forbidden}" not in line]
            assert not found, f"{name}: {found}"
    loads = [line for text in texts.values() for line in text.splitlines() if "torch.load(" in line and "=" in line]
    assert loads
    assert all("weights_only=True" in line or "``" in line or "that" in line for line in loads)
    assert sys.modules["torch"].__version__ >= "2.6"
