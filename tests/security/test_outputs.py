"""What runs write holds nothing of the patient, and means no harm to the program that opens it."""

import ast
import csv
import gzip
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from wsi_umedpt.interop.tables import safe_cell, write_rows, write_table
from wsi_umedpt.testing import tissue_image

PLANTED = "ZEBRA"
"""Begins everything that is planted."""


def _planted(shape: tuple[int, int]) -> np.ndarray:
    """Pixels that hold a text again and again."""
    text, count = f"{PLANTED}PIXELS".encode(), shape[0] * shape[1] * 3
    return np.frombuffer((text * (count // len(text) + 1))[:count], np.uint8).reshape(*shape, 3)


@pytest.fixture
def cohort(tmp_path) -> Path:
    """A CSV of two slides, one broken, with patient data in metadata, label, macro, names of files and folders."""
    folder = tmp_path / f"{PLANTED} JANE"
    folder.mkdir()
    image, tissue = tissue_image(640, 640)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:640, :640]
    for cx, cy in rng.uniform(150, 490, (60, 2)):
        image[(np.hypot(x - cx, y - cy) < 7) & tissue] = (80, 50, 140)
    path = folder / f"{PLANTED}-DOE.svs"
    description = (
        "Aperio Image Library v11.2.1 \r\n640x640 (128x128) JPEG/RGB Q=85|AppMag = 20|MPP = 0.5000"
        + "".join(f"|{name} = {PLANTED}" for name in ("Patient", "Barcode", "ScanScope ID", "Date", "User", "Title"))
        + f"|Filename = {PLANTED}-DOE|ImageID = {PLANTED}1931"
    )  # fmt: skip
    extra = [(code, "s", 0, f"{PLANTED} {code}", True) for code in (269, 285, 305, 315, 316, 33432, 65000, 65421)]
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            image, description=description, extratags=extra, tile=(128, 128), compression="jpeg", photometric="rgb",
            metadata=None, compressionargs={"level": 95},
        )  # fmt: skip
        writer.write(image[::8, ::8].copy(), photometric="rgb", description=f"thumbnail {PLANTED}", metadata=None)
        for kind, name in ((1, "label"), (9, "macro")):
            about = f"Aperio Image Library v11.2.1 \r\n{name} 64x64 {PLANTED}"
            writer.write(_planted((64, 64)), subfiletype=kind, photometric="rgb", description=about, metadata=None)
    (folder / f"{PLANTED}-BROKEN.svs").write_bytes(path.read_bytes()[:6000])
    ring = [[0, 0], [640, 0], [640, 640], [0, 640], [0, 0]]
    mask = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {"name": PLANTED}}
    (folder / f"{PLANTED}-mask.geojson").write_text(json.dumps(mask))
    table = tmp_path / "cohort.csv"
    table.write_text(
        f"slide,slide_id,mask\n{folder.name}/{PLANTED}-DOE.svs,s1,{folder.name}/{PLANTED}-mask.geojson\n"
        f"{folder.name}/{PLANTED}-BROKEN.svs,s2,\n"
    )
    return table


def held(path: Path) -> bytes:
    """All that a file holds, packed or not, and its name."""
    raw = path.read_bytes()
    found = [path.name.encode(), raw]
    if raw[:2] == b"\x1f\x8b":
        found.append(gzip.decompress(raw))
    if path.suffix == ".parquet":
        table = parquet.read_table(path)
        found += [str(table.schema).encode(), str(table.schema.metadata).encode(), str(table.to_pylist()).encode()]
    if path.suffix in (".h5", ".h5ad"):
        with h5py.File(path) as file:
            file.visititems(lambda name, node: found.append(f"{name} {dict(node.attrs)}".encode()))
            file.visititems(lambda _, node: found.append(str(node[()]).encode()) if hasattr(node, "shape") else None)
            found.append(str(dict(file.attrs)).encode())
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as file:
            found += [name.encode() + file.read(name) for name in file.namelist()]
    if path.suffix == ".png":
        with Image.open(path) as image:
            found.append(str(image.info).encode())
    return b"\0".join(found)


@pytest.mark.slow
def test_no_output_holds_what_was_planted(cohort, say, tmp_path):
    """Stores, records, catalog, exports for every tool, heatmaps, pictures, models: every byte of every file."""
    slide = tmp_path / f"{PLANTED} JANE" / f"{PLANTED}-DOE.svs"
    assert held(slide).count(PLANTED.encode()) > 15
    on_cpu = ["--device", "cpu", "--readers", "1"]
    code, _, err = say("embed", cohort, "-o", "out", "--heads", "nuclei", *on_cpu)
    assert code == 1, "one slide is broken"
    out, store = tmp_path / "out", tmp_path / "out" / "s1.zarr"
    made = tmp_path / "made"
    made.mkdir()
    lines = [f"s1,{x},{y},{'top' if y < 320 else 'bottom'},{PLANTED}" for x in (250, 300, 350) for y in (150, 450)]
    (tmp_path / "labels.csv").write_text("\n".join(["slide_id,x,y,label,patient", *lines]))
    for words in (
        ["status", "out", "--once"],
        ["report", "out", "-o", made / "page.html"],
        ["verify", "out"],
        ["export", store, "-o", made / "objects.geojson.gz"],
        ["export", store, "-o", made / "objects.parquet"],
        ["export", "out", "--table", "slides", "-o", made / "slides.csv"],
        ["export", "out", "--table", "tiles", "-o", made / "tiles.parquet"],
        *(["export", store, "--features", name, "-o", made / name] for name in ("clam", "trident", "stamp", "anndata")),
        ["probe", "fit", "out", "-l", "labels.csv", "-o", made / "half.json"],
        ["probe", "predict", "out", "-p", made / "half.json"],
        *(["heatmap", store, "--scores", "half", "-o", made / f"h{end}"] for end in (".ome.tif", ".geojson", ".csv")),
        ["heatmap", store, "--scores", "half", "--column", "top", "-o", made / "h.png"],
        ["picture", store, "-o", made / "p.png"],
        ["picture", store, "--objects", "nuclei", "--slide", slide, "-o", made / "o.png"],
    ):  # fmt: skip
        code, text, err = say(*words)
        assert (code, words[0]) in ((0, words[0]), (1, "status")), text + err
    files = [path for folder in (out, made) for path in folder.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert {".html", ".json", ".csv", ".gz", ".parquet", ".h5", ".h5ad", ".tif", ".png", ".safetensors"} <= kinds
    assert (out / ".runs" / "s2.json").exists(), "the failure left a record"
    for path in files:
        assert PLANTED.encode() not in held(path), path
        assert PLANTED not in path.relative_to(tmp_path).as_posix()


@pytest.mark.slow
def test_no_slide_classifier_holds_what_was_planted(cohort, say, tmp_path):
    """A study of copies of the slide, with its report of tiles, models, predictions, scores and maps."""
    slide = tmp_path / f"{PLANTED} JANE" / f"{PLANTED}-DOE.svs"
    say("embed", cohort, "-o", "out", "--device", "cpu", "--readers", "1")
    (tmp_path / "slides").mkdir()
    rows = [f"slide,patient,grade,{PLANTED}"]
    for n in range(8):
        shutil.copytree(tmp_path / "out" / "s1.zarr", tmp_path / "bank" / f"S{n}.zarr")
        shutil.copyfile(slide, tmp_path / "slides" / f"S{n}.svs")
        rows.append(f"S{n},P{n},{'high' if n % 2 else 'low'},{PLANTED}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    small = ["--folds", "2", "--inner-folds", "2", "--seeds", "0", "--epochs", "2", "--jobs", "1", "--device", "cpu"]
    model = tmp_path / "run" / "model.json"
    for words in (
        ["mil", "train", "labels.csv", "bank", "-t", "grade", "-o", "run", "--slides", "slides", *small],
        ["mil", "predict", model, "bank", "-o", "run/new.csv"],
        ["mil", "explain", model, "bank/S0.zarr", "-o", "run/maps"],
    ):
        code, text, err = say(*words)
        assert code == 0, text + err
    assert (tmp_path / "run" / "report.html").read_text().count("data:image") > 2
    files = [path for folder in ("run", "bank") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert {".html", ".json", ".csv", ".gz", ".tif", ".png", ".npz", ".safetensors"} <= {path.suffix for path in files}
    for path in files:
        assert PLANTED.encode() not in held(path), path


FORMULAS = ("=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0")


@given(st.text(max_size=30) | st.sampled_from(FORMULAS))
def test_no_cell_is_a_formula(text):
    """A cell begins as a formula only if it is a number."""
    made = safe_cell(text)
    if made.strip("\t\r\n")[:1] in ("=", "+", "-", "@"):
        float(made)


def test_tables_of_hostile_names(tmp_path):
    """Headers and cells of tables and of rows, read as a spreadsheet reads them."""
    write_table(tmp_path / "a.csv", {"slide_id": [*FORMULAS], FORMULAS[0]: [1.5] * len(FORMULAS)})
    write_rows(
        tmp_path / "b.csv", [["slide_id", FORMULAS[0]], *([text, "-1.5"] for text in FORMULAS if text[0] != "\n")]
    )
    for name in ("a.csv", "b.csv"):
        with (tmp_path / name).open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert len(cells) > 15
        assert {cell for cell in cells if cell[0] in "=+-@\t\r\n"} <= {"-1.5"}


def test_every_writer_of_csv_is_known():
    """A module that writes CSV on its own would not be looked at here."""
    import wsi_umedpt

    root = Path(wsi_umedpt.__file__).parent
    writing = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("writer", "DictWriter", "to_csv", "savetxt"):
                if node.attr != "writer" or (isinstance(node.value, ast.Name) and node.value.id == "csv"):
                    writing.add(path.relative_to(root).as_posix())
    assert writing == {"interop/tables.py"}
