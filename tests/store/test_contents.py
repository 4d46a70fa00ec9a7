"""A store says what it holds: whatever was lost, changed or edited is found, by `verify` and by those who read it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import GOLDEN
from wsi_umedpt.batch.reporting.catalog import refresh
from wsi_umedpt.errors import StoreError
from wsi_umedpt.interop.feature_banks import find_sources
from wsi_umedpt.plotting.sheets import overview, score_sheet
from wsi_umedpt.segmentation.object_stats import slide_row, tile_columns
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.store.contents import attrs_sha256, node_names, seal
from wsi_umedpt.store.objects_io import read_objects
from wsi_umedpt.store.scores_io import read_scores, write_scores
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.verify import notes_on, problems_of
from wsi_umedpt.store.zarr_io import discard, read_array, read_attrs, write_array, write_node
from wsi_umedpt.testing import relist

GRID = "grids/128px_0.5mpp_2f70e82b"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with all that a store can hold."""
    return Path(shutil.copytree(GOLDEN / "store_v2.zarr", tmp_path / "s.zarr"))


def edit(store: Path, node: str, change, *, root_too: bool = False) -> None:
    """Change the attributes of a node, as with an editor."""
    path = store / node / "zarr.json"
    content = json.loads(path.read_text())
    change(content["attributes"])
    if root_too:
        content["attributes"]["sha256"] = attrs_sha256(content["attributes"])
    path.write_text(json.dumps(content, indent=1))


# ---- what is lost ----


def test_whatever_is_lost_is_found(store, tmp_path):
    """Every folder and every file of a store, each alone."""
    everything = sorted(p.relative_to(store) for p in store.rglob("*"))
    assert len(everything) > 70
    for name in everything:
        broken = Path(shutil.copytree(store, tmp_path / "broken.zarr"))
        if (broken / name).is_dir():
            shutil.rmtree(broken / name)
        else:
            (broken / name).unlink()
        assert problems_of(broken), f"{name} was removed, and nothing was found"
        shutil.rmtree(broken)
    assert problems_of(store) == []


@pytest.mark.parametrize(
    ("lost", "read"),
    [
        pytest.param(f"{GRID}/features/other", lambda s: s.features("other"), id="features"),
        pytest.param(f"{GRID}/features/other", lambda s: find_sources([s.path], encoder_id="other"), id="mil"),
        pytest.param(f"{GRID}/scores/probe", lambda s: score_sheet(s, "probe"), id="scores"),
        pytest.param(GRID, lambda s: overview(s, "mean"), id="grid"),
        pytest.param("thumbnail", lambda s: overview(s, "mean"), id="thumbnail"),
        pytest.param("detections/nuclei", slide_row, id="objects"),
        pytest.param("detections", slide_row, id="all-objects"),
        pytest.param("detections/nuclei/measures", tile_columns, id="measures"),
        pytest.param("labels/nuclei", lambda s: s.labels("nuclei"), id="labels"),
    ],
)
def test_who_reads_what_is_lost_is_told_so(store, lost, read):
    """Instead of reading on without it."""
    shutil.rmtree(store / lost)
    with pytest.raises(StoreError, match=r"is lost: it was written, and is not there"):
        read(SlideStore.open(store))
    assert [p for p in problems_of(store) if p == f"{lost}: is lost: it was written, and is not there"]


def test_one_of_two_encoders_that_is_lost_is_not_replaced_by_the_other(store):
    """A store that held two keeps asking which, so that no study mixes encoders."""
    shutil.rmtree(store / GRID / "features" / "other")
    with pytest.raises(StoreError, match="features of 2 encoders"):
        find_sources([store])


def test_what_systems_put_into_folders_is_no_damage(store):
    """.DS_Store, ._ files and thumbnails of file servers, in every folder: no run wrote them, and nothing is lost."""
    for folder in [store, *(p for p in store.rglob("*") if p.is_dir())]:
        (folder / ".DS_Store").write_bytes(b"x")
        (folder / "._zarr.json").write_bytes(b"x")
        (folder / "@eaDir").mkdir()
    assert problems_of(store) == notes_on(store) == []
    assert SlideStore.open(store).encoder_ids() == ["mean", "other"]
    (store / "letter.txt").touch()
    assert problems_of(store) == [".: holds letter.txt, which no run writes"]


# ---- what is changed ----


def test_every_flip_is_found(store):
    """A bit of any file: of metadata, numbers or label images, wherever it lies."""
    rng = np.random.default_rng(0)
    for path in sorted(p for p in store.rglob("*") if p.is_file()):
        whole = path.read_bytes()
        known = json.loads(whole) if path.name == "zarr.json" else None
        every = range(len(whole)) if "c" in path.parts and len(whole) < 40 else rng.integers(0, len(whole), 3)
        for at in map(int, every):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(flipped)
            try:
                same = json.loads(flipped) == known
            except ValueError:
                same = False
            found = problems_of(store)
            # A space of the root that is a tab is no change.
            assert found or (same and path.parent == store), f"byte {at} of {path.relative_to(store)}"
        path.write_bytes(whole)
    assert problems_of(store) == []


@pytest.mark.parametrize(
    ("node", "change", "read"),
    [
        pytest.param(
            "detections/nuclei", lambda a: a["classes"].reverse(), lambda s: read_objects(s), id="names-of-classes"
        ),
        pytest.param(
            "detections/nuclei", lambda a: a["made_by"].update(model="x"), lambda s: slide_row(s), id="what-found-them"
        ),
        pytest.param(
            f"{GRID}/features/mean",
            lambda a: a["card"].update(name="uni"),
            lambda s: s.feature_attrs("mean"),
            id="card",
        ),
        pytest.param(
            f"{GRID}/features/mean", lambda a: a["card"].update(name="uni"), lambda s: s.features("mean"), id="card-bag"
        ),
        pytest.param(
            f"{GRID}/features/mean",
            lambda a: a["card"].update(name="uni"),
            lambda s: find_sources([s.path], encoder_id="mean"),
            id="card-mil",
        ),
        pytest.param(GRID, lambda a: a.update(side=127.0), lambda s: s.grid(), id="side"),
        pytest.param(GRID, lambda a: a["spec"].update(mpp=1.0), lambda s: overview(s, "mean"), id="scale-of-tiles"),
        pytest.param(
            f"{GRID}/scores/probe", lambda a: a["columns"].reverse(), lambda s: read_scores(s, "probe"), id="columns"
        ),
        pytest.param(
            "labels/nuclei", lambda a: a["wsi_umedpt"]["classes"].reverse(), lambda s: s.labels("nuclei"), id="labels"
        ),
        pytest.param("labels/nuclei/1", lambda a: a.update(x=1), lambda s: s.labels("nuclei"), id="level-of-labels"),
        pytest.param("tissue", lambda a: a.update(step=16), lambda s: s.tissue(), id="step"),
        pytest.param("thumbnail", lambda a: a.update(step=1), lambda s: s.tissue(), id="step-of-thumbnail"),
        pytest.param("", lambda a: a["slide"].update(fingerprint="00"), lambda s: s, id="fingerprint"),
        pytest.param("", lambda a: a["slide"].update(mpp=0.25), lambda s: s, id="scale-of-the-slide"),
        pytest.param("", lambda a: a["contents"].pop("tissue"), lambda s: s, id="list"),
        pytest.param("", lambda a: a.pop("contents"), lambda s: s, id="no-list"),
        pytest.param("", lambda a: a["contents"].update({"../x": "0"}), lambda s: s, id="list-of-what-lies-outside"),
    ],
)
def test_metadata_that_were_edited_are_found(store, node, change, read):
    """By `verify`, and by whoever reads them."""
    edit(store, node, change)
    with pytest.raises(StoreError, match=r"not what was written \(sha256 differs\)"):
        read(SlideStore.open(store))
    assert any("sha256 differs" in problem for problem in problems_of(store))


def test_a_list_cannot_name_what_lies_outside(store):
    """Not even one whose own sum is right."""
    for name in ("../other.zarr", "grids/../../x", "/etc", "grids//x", "grids/a\0b"):
        before = (store / "zarr.json").read_bytes()
        edit(store, "", lambda a, name=name: a["contents"].update({name: "0" * 64}), root_too=True)
        with pytest.raises(StoreError, match="not what was written"):
            SlideStore.open(store)
        (store / "zarr.json").write_bytes(before)


@pytest.mark.parametrize("name", ["xy", "tissue", "status", "features/mean", "scores/probe"])
def test_numbers_that_changed_are_refused_where_they_are_read(store, name):
    """A flip in a chunk neither trains a model nor is drawn."""
    chunk = next(p for p in (store / GRID / name / "c").rglob("*") if p.is_file())
    content = bytearray(chunk.read_bytes())
    content[1] ^= 1
    chunk.write_bytes(content)
    opened = SlideStore.open(store)
    read = {
        "tissue": opened.grid, "scores/probe": lambda: read_scores(opened, "probe"),
        "features/mean": lambda: find_sources([store], encoder_id="mean")["s"].load(),
    }.get(name, lambda: overview(opened, "mean"))  # fmt: skip
    with pytest.raises(StoreError, match="not those that were written"):
        read()


def test_label_images_are_checked_chunk_by_chunk(store):
    """Chunks that changed places are found by `verify`; a flip also by whoever reads the pixels with zarr."""
    import zarr

    level = store / "labels" / "nuclei" / "0"
    one, other = level / "c" / "0" / "0", level / "c" / "1" / "0"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert any("level 0 does not hold the chunks that were written" in p for p in problems_of(store))
    other.write_bytes(second)
    unseen = 0
    for at in range(len(first)):
        flipped = bytearray(first)
        flipped[at] ^= 0x10
        one.write_bytes(flipped)
        try:
            zarr.open_array(level, mode="r")[...]
        except Exception:  # noqa: BLE001, S112 - decompressors raise what they like
            continue
        unseen += 1
    assert unseen <= 2, "but for bits of the header that mean nothing"


# ---- adding to a store ----


def test_stores_of_schema_2_are_read_for_ever():
    """The golden store holds all that a store can hold; docs/reference/store.md describes it."""
    store = SlideStore.open(GOLDEN / "store_v2.zarr")
    assert problems_of(store.path) == notes_on(store.path) == []
    assert (store.attrs["schema"], store.encoder_ids()) == (2, ["mean", "other"])
    assert np.allclose(store.features("mean").features[:, 0], store.features("mean").index / 4)
    objects, _ = read_objects(store)
    assert (objects.classes, objects.class_index.tolist()) == (("tumour", "stroma"), [0, 1])
    assert read_scores(store, "probe")[0].shape == (len(store.grid()), 2)
    assert set(store.nodes.listed) == set(node_names(store.path))


def grow(path: Path, picture: Path, name: str) -> None:
    """Embed the slide of a golden store with a further encoder."""
    with open_slide(picture, mpp=0.5) as slide:
        opened = SlideStore.open(path)
        tissue, grid = opened.tissue(), opened.grid()
        with SlideStore.create(path, slide, tissue, grid) as store:
            writer = store.writer(name, grid.spec.grid_id, 2, {"card": {"dim": 2}})
            bad = store.status(grid.spec.grid_id).astype(bool)
            writer.append(np.ones((len(grid), 2), np.float32), ~bad)
            store.set_status(grid.spec.grid_id, bad.astype(np.uint8))
            writer.finish()
            store.commit()


@pytest.fixture
def grown(tmp_path):
    """Add an encoder to a golden store of either schema."""
    sizes = {1: (260, 200), 2: (700, 1100)}

    def add(schema: int, name: str = "third") -> Path:
        path, picture = tmp_path / "s.zarr", tmp_path / "golden.png"
        width, height = sizes[schema]
        if not path.exists():
            shutil.copytree(GOLDEN / f"store_v{schema}.zarr", path)
            Image.fromarray(np.full((height, width, 3), 200, np.uint8)).save(picture)
        grow(path, picture, name)
        return path

    return add


def test_an_old_store_is_read_and_lists_what_it_holds_once_something_is_added(grown):
    """Until then it is said what cannot be found in it."""
    old = GOLDEN / "store_v1.zarr"
    assert problems_of(old) == []
    assert "cannot be found" in notes_on(old)[0]
    path = grown(1)
    assert problems_of(path) == notes_on(path) == []
    assert SlideStore.open(path).attrs["schema"] == 2
    shutil.rmtree(path / "grids" / "64px_0.5mpp_123d7113" / "features" / "mean")
    assert any("features/mean: is lost" in p for p in problems_of(path))


def test_scores_in_an_old_store_leave_it_an_old_store(tmp_path):
    """Nothing vouches for what was not looked at."""
    path = Path(shutil.copytree(GOLDEN / "store_v1.zarr", tmp_path / "s.zarr"))
    store = SlideStore.open(path)
    write_scores(store, "m", np.zeros((len(store.grid()), 1), np.float32), {"columns": ["a"]}, store.grid_ids[0])
    assert SlideStore.open(path).attrs["schema"] == 1
    assert problems_of(path) == []


def test_adding_does_not_forgive_damage(grown):
    """What was lost or edited before an encoder was added is found after it too."""
    path = grown(2)
    shutil.rmtree(path / "thumbnail")
    edit(path, "detections/nuclei", lambda a: a["classes"].reverse())
    seal(path)
    found = problems_of(path)
    assert any(p.startswith("thumbnail: is lost") for p in found)
    assert any("detections/nuclei: what it says of itself is not what was written" in p for p in found)


def test_what_was_lost_is_made_anew_by_the_run_that_makes_it(grown):
    """Features that are gone are no reason to remove the store."""
    path = grown(2)
    before = {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    shutil.rmtree(path / GRID / "features" / "third")
    assert grown(2) == path
    assert {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_a_part_is_there_once_the_root_lists_it(grown, monkeypatch):
    """Killed between moving a part into the store and listing it: readers see the old store, the next run ends it."""
    path = grown(2)
    whole = {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    shutil.rmtree(path)

    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("wsi_umedpt.store.slide_store.seal", stop)
        with pytest.raises(KeyboardInterrupt):
            grown(2)
    assert (path / GRID / "features" / "third").exists()
    assert SlideStore.open(path).encoder_ids() == ["mean", "other"]
    assert problems_of(path) == []
    assert "the same command" in notes_on(path)[0].lower()
    grown(2)
    assert {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()} == whole
    assert not path.with_name("s.zarr.partial").exists()


@pytest.mark.parametrize("step", ["delist", "discard", "write_array", "seal"])
def test_scores_killed_while_they_are_replaced(store, monkeypatch, step):
    """At no step does the root list what is not there; scored again, they are the new ones."""
    opened = SlideStore.open(store)
    scores = np.full((len(opened.grid()), 2), 0.25, np.float32)
    args = (opened, "probe", scores, {"columns": ["a", "b"]}, opened.grid_ids[0])
    steps = {"delist": None, "discard": discard, "write_array": write_array, "seal": seal}

    def stop(*given, **named):
        if steps[step] is not None and step != "seal":
            steps[step](*given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"wsi_umedpt.store.scores_io.{step}", stop)
        with pytest.raises(KeyboardInterrupt):
            write_scores(*args)
    assert problems_of(store) == []
    write_scores(*args)
    assert problems_of(store) == notes_on(store) == []
    assert np.array_equal(read_scores(opened, "probe")[0], scores)


def test_scores_replaced_after_a_store_was_opened_are_read(store):
    """A window that keeps a store open reads the new ones, and takes them for no damage."""
    opened = SlideStore.open(store)
    assert read_scores(opened, "probe")[0].shape[1] == 2
    scores = np.ones((len(opened.grid()), 1), np.float32)
    write_scores(SlideStore.open(store), "probe", scores, {"columns": ["a"]}, opened.grid_ids[0])
    assert np.array_equal(read_scores(opened, "probe")[0], scores)


def test_the_catalog_names_what_was_edited(store, tmp_path):
    """A row that is damaged, with its reason."""
    edit(store, "tissue", lambda a: a.update(step=16))
    [row] = refresh(tmp_path)
    assert row.status == "damaged"
    assert "sha256 differs" in row.error


def test_relisting_is_what_a_test_may_do_and_a_run_never(store):
    """The helper of tests makes an edit look as written; arrays keep their sums."""
    edit(store, "tissue", lambda a: a.update(step=16))
    relist(store)
    assert SlideStore.open(store).tissue().step == 16
    assert read_array(store / "tissue", check=True).shape == (35, 22)
    attrs = read_attrs(store / GRID)
    write_node(store / GRID, {**attrs, "side": 1.0})
    assert problems_of(store)
