"""One store that is damaged, empty or without objects costs itself: the others are done, it is listed, exit code 1."""

import json
import shutil
from pathlib import Path

import pyarrow.csv
import pytest
from pyarrow import parquet

from tests.support import GOLDEN
from wsi_umedpt.batch.reporting.catalog import NAME
from wsi_umedpt.interop.feature_banks import find_sources

WITHOUT = "without_objects"
BAD = {
    "root_cut": lambda s: (s / "zarr.json").write_text("{"),
    "root_edited": lambda s: (s / "zarr.json").write_text((s / "zarr.json").read_text().replace("0.5", "0.25")),
    "no_root": lambda s: (s / "zarr.json").unlink(),
    "lost": lambda s: [shutil.rmtree(s / part) for part in ("detections/nuclei/measures", "grids")],
    "chunks_lost": lambda s: [p.unlink() for p in s.rglob("c/0*") if p.is_file()],
    "a_file": lambda s: (shutil.rmtree(s), s.write_text("")),
    "a_dangling_link": lambda s: (shutil.rmtree(s), s.symlink_to("nowhere")),
    "nested": lambda s: (s / "zarr.json").write_text("[" * 100_000),
    "slide_is_text": lambda s: _old(s, slide="x"),
    "slide_says_little": lambda s: _old(s, slide={"fingerprint": 1, "size": None, "mpp": "x", "mpp_source": 2}),
}


def _old(store: Path, **attrs) -> None:
    """A store of the first schema, whose root nothing sums, with other attributes."""
    tree = json.loads((store / "zarr.json").read_text())
    tree["attributes"] |= {"schema": 1, **attrs}
    del tree["attributes"]["contents"], tree["attributes"]["sha256"]
    (store / "zarr.json").write_text(json.dumps(tree))


@pytest.fixture
def stores(tmp_path) -> Path:
    """Two good stores, one without objects, and one of each kind of damage between them."""
    folder = tmp_path / "out"
    for name in ("a_good", "z_good", *BAD):
        shutil.copytree(GOLDEN / "store_v2.zarr", folder / f"{name}.zarr")
    shutil.copytree(GOLDEN / "store_v1.zarr", folder / f"{WITHOUT}.zarr")
    for name, damage in BAD.items():
        damage(folder / f"{name}.zarr")
    return folder


def listed(err: str) -> set[str]:
    """Stores that the list of failures names; each has a reason."""
    head, *lines = err.splitlines()
    assert head == f"{len(lines)} failed:"
    assert all(len(line.partition(": ")[2]) > 10 for line in lines), err
    return {Path(line.strip().partition(":")[0]).stem for line in lines}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("rows", ["slides", "tiles"])
def test_counts_are_written_of_all_that_can_be_counted(say, stores, rows, suffix):
    """A row for each good slide or tile; the others are listed and none of them stops the table."""
    code, out, err = say("export", stores, "-o", f"t{suffix}", "--table", rows)
    assert code == 1
    assert out == f"t{suffix}: 2 of {len(BAD) + 3} slides\n"
    assert listed(err) == {*BAD, WITHOUT}
    assert "holds 0 kinds of objects" in err
    path = stores.parent / f"t{suffix}"
    table = pyarrow.csv.read_csv(path) if suffix == ".csv" else parquet.read_table(path)
    assert {*table["slide_id"].to_pylist()} == {"a_good", "z_good"}


def test_without_a_store_that_can_be_counted_nothing_is_written(say, stores):
    """Not an empty table."""
    code, out, err = say("export", stores / f"{WITHOUT}.zarr", "-o", "t.csv", "--table", "slides")
    assert (code, out) == (1, "")
    assert listed(err) == {WITHOUT}
    assert not (stores.parent / "t.csv").exists()


def test_features_are_written_of_all_that_can_be_read(say, stores):
    """Objects need not be there; each line says at once what failed."""
    code, out, err = say("export", stores, "-o", "clam", "--features", "clam", "-m", "mean")
    assert code == 1
    assert listed(err) == {*BAD}
    assert out.count("FAILED") == len(BAD)
    assert sorted(find_sources([Path("clam")])) == ["a_good", WITHOUT, "z_good"]


def test_verify_goes_on(say, stores):
    """Every store that is damaged is named, with what is wrong."""
    code, out, _ = say("verify", stores)
    assert code == 1
    assert f"3 of {len(BAD) + 3} stores are whole and undamaged" in out
    for name in BAD:
        assert f"{name}.zarr: " in out, name


def test_the_report_lists_what_it_could_not_read(say, stores):
    """The page and the catalog have a row of each, and the exit code says that somebody must look."""
    code, out, err = say("report", stores, "-o", "page.html")
    assert code == 1
    assert "page.html: " in out
    found = listed(err)
    assert found <= {*BAD}
    rows = {row["slide_id"]: row for row in parquet.read_table(stores / NAME).to_pylist()}
    assert {name for name, row in rows.items() if row["status"] == "damaged"} == found
    assert {name for name, row in rows.items() if row["status"] == "whole"} == {"a_good", "z_good", WITHOUT}
    assert all(rows[name]["error"] for name in found)
    page = (stores.parent / "page.html").read_text()
    assert all(name in page for name in (*found, "a_good", "z_good", WITHOUT))
