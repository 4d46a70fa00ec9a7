"""The catalog: a row a slide, made of stores and records alone, whatever state they are in."""

import json
import os
import shutil

import numpy as np
import pytest
from pyarrow import parquet

from tests.support.drawn_stores import ENCODER, SPEC, add_features, draw_store, record
from wsi_umedpt.batch.reporting import catalog
from wsi_umedpt.batch.reporting.catalog import COLUMNS, NAME, read_catalog, refresh
from wsi_umedpt.store.zarr_io import array_sha256


@pytest.fixture
def out(tmp_path):
    """Two whole slides, one of them without a record, and one that failed."""
    folder = tmp_path / "out"
    draw_store(folder / "a.zarr", unreadable=2)
    draw_store(folder / "b.zarr", seed=1, colour=(10, 20, 30), tissue=0.25)
    record(folder, "a", tiles=6, unreadable=2, seconds=3.5)
    record(folder, "c", "failed", error="no reader opens it", failures=1, attempts=1)
    return folder


def test_a_row_says_what_the_store_and_the_record_say(out):
    """Every number of a row is that of the store, or of the record where only that knows it."""
    rows = {row.slide_id: row for row in refresh(out)}
    assert [*rows] == ["a", "b", "c"]
    a, b, c = rows.values()
    assert (a.status, b.status, c.status) == ("whole", "whole", "failed")
    assert (a.width_px, a.height_px, a.mpp, a.mpp_source, a.vendor, a.objective) == (
        1120,
        560,
        0.5,
        "vendor",
        "drawn",
        20,
    )
    assert (a.tiles, a.unreadable, a.tissue_share) == (6, 2, 0.5)
    assert a.tissue_mm2 == pytest.approx(100 * (56 * 0.5 / 1000) ** 2)
    assert (b.red, b.green, b.blue) == (10, 20, 30)
    [features] = a.features
    assert (features.encoder, features.grid, features.tiles, features.dim) == (ENCODER, SPEC.grid_id, 6, 8)
    stored = np.fromfile(out / "a.zarr" / "grids" / SPEC.grid_id / "features" / ENCODER / "c" / "0" / "0", np.float16)
    assert features.sha256 == array_sha256(stored.reshape(6, 8))
    assert (a.attempts, a.seconds, a.host) == (1, 3.5, "elsewhere")
    assert b.attempts is None
    assert (c.error, c.failures, c.tiles) == ("no reader opens it", 1, None)


def test_the_catalog_is_a_cache(out):
    """Read back it is what was computed; deleted, damaged or of another version it is made anew, the same."""
    rows = refresh(out)
    assert read_catalog(out / NAME) == rows
    assert parquet.read_schema(out / NAME).names == COLUMNS.names
    for content in (None, b"", b"PAR1 no table", (out / NAME).read_bytes()[:-9]):
        (out / NAME).unlink()
        if content is not None:
            (out / NAME).write_bytes(content)
        assert refresh(out) == rows
        assert read_catalog(out / NAME) == rows


def test_a_catalog_of_other_columns_is_made_anew(out):
    """A column that came with a newer version has its values at once, though no store has changed."""
    rows = refresh(out)
    parquet.write_table(parquet.read_table(out / NAME).drop_columns("vendor"), out / NAME)
    assert read_catalog(out / NAME) == []
    assert refresh(out) == rows
    assert parquet.read_schema(out / NAME).names == COLUMNS.names


def test_columns_have_the_types_of_their_fields():
    """Numbers are numbers, also where they may be missing, and lists have the fields of their entries."""
    kinds = {name: str(COLUMNS.field(name).type) for name in ("slide_id", "status", "tiles", "mpp", "objects")}
    assert kinds == {
        "slide_id": "string", "status": "string", "tiles": "int64", "mpp": "double",
        "objects": "list<item: struct<name: string, count: int64, model: string>>",
    }  # fmt: skip


def test_only_what_changed_is_read_again(out, monkeypatch):
    """A store is opened when it is new, replaced, or when something entered it; its record is read for itself."""
    refresh(out)
    opened = []
    real = catalog.SlideStore.open
    monkeypatch.setattr(catalog.SlideStore, "open", lambda path: opened.append(path.name) or real(path))
    refresh(out)
    assert opened == []
    add_features(out / "a.zarr", "second.test", np.ones((6, 4)))
    record(out, "b", seconds=9.0)
    rows = {row.slide_id: row for row in refresh(out)}
    assert opened == ["a.zarr"]
    assert [f.encoder for f in rows["a"].features] == ["second.test", ENCODER]
    assert rows["b"].seconds == 9
    shutil.rmtree(out / "b.zarr")
    draw_store(out / "b.zarr", tiles=3)
    assert {row.slide_id: row.tiles for row in refresh(out)} == {"a": 6, "b": 3, "c": None}
    assert opened == ["a.zarr", "b.zarr"]
    shutil.rmtree(out / "b.zarr")
    assert {row.slide_id: row.status for row in refresh(out)} == {"a": "whole", "b": "missing", "c": "failed"}


def _edit(path, change):
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


DAMAGE = {
    "root-cut": lambda s: (s / "zarr.json").write_text('{"zarr'),
    "root-absent": lambda s: (s / "zarr.json").unlink(),
    "root-nested": lambda s: (s / "zarr.json").write_text("[" * 100_000),
    "not-whole": lambda s: _edit(s / "zarr.json", lambda t: t["attributes"].pop("whole")),
    "newer": lambda s: _edit(s / "zarr.json", lambda t: t["attributes"].update(schema=99)),
    "slide-says-nothing": lambda s: _edit(s / "zarr.json", lambda t: t["attributes"]["slide"].update(size=None)),
    "mpp-is-text": lambda s: _edit(s / "zarr.json", lambda t: t["attributes"]["slide"].update(mpp="x")),
    "status-lost": lambda s: (s / "grids" / SPEC.grid_id / "status" / "c" / "0").unlink(),
    "tissue-short": lambda s: (s / "tissue" / "c" / "0" / "0").write_bytes(b"\1"),
    "huge-shape": lambda s: _edit(s / "tissue" / "zarr.json", lambda t: t.update(shape=[1 << 40, 1 << 20])),
    "rows-differ": lambda s: _edit(
        s / "grids" / SPEC.grid_id / "features" / ENCODER / "zarr.json", lambda t: t.update(shape=[7, 8])
    ),
    "spec-strange": lambda s: _edit(
        s / "grids" / SPEC.grid_id / "zarr.json", lambda t: t["attributes"].update(spec=[1])
    ),
    "a-file": lambda s: (shutil.rmtree(s), s.write_bytes(b"no folder")),
    "a-dangling-link": lambda s: (shutil.rmtree(s), s.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_a_row_with_its_reason(out, damage):
    """Nothing that lies there ends the catalog; the reason says what is wrong and not where the folder lies."""
    DAMAGE[damage](out / "b.zarr")
    rows = {row.slide_id: row for row in refresh(out)}
    assert (rows["a"].status, rows["b"].status) == ("whole", "damaged")
    assert rows["b"].error
    assert str(out) not in rows["b"].error
    assert read_catalog(out / NAME) == [*rows.values()]


def test_a_folder_that_cannot_be_written_is_read(out):
    """The catalog is then not kept, and its rows are the same."""
    rows = refresh(out)
    (out / NAME).unlink()
    out.chmod(0o500)
    try:
        assert refresh(out) == rows
        if os.geteuid():
            assert not (out / NAME).exists()
    finally:
        out.chmod(0o700)
