"""Disks that fill, refuse, lose the slide, or rot: a store is whole or absent, and damage is named, never read."""

import errno
import json
import os
import shutil
import subprocess

import pytest

from wsi_umedpt.errors import StoreError
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.verify import problems_of


@pytest.fixture(scope="module")
def sound(lab, slide, tmp_path_factory):
    """A sound store of two encoders."""
    out = tmp_path_factory.mktemp("sound")
    [outcome] = lab.do("embed", slides=[[str(slide), "s"]], out=str(out), encoders=["one.test", "second.test"])
    assert outcome["status"] == "done"
    assert problems_of(out / "s.zarr") == []
    return out / "s.zarr"


@pytest.fixture
def store(sound, tmp_path):
    """A copy of it that a test may damage."""
    return shutil.copytree(sound, tmp_path / "s.zarr")


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of some KiB; skips where that is not allowed."""
    mounted = []

    def mount(kib):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("mounting needs root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


# ---- while a run goes on ----


@pytest.mark.parametrize("kib", [4, 16, 40, 80, 120, 160, 200, 240, 280, 320])
def test_full_disk(lab, slide, sound, small_disk, kib):
    """Disk full: that slide fails with the reason and no store appears; with room, going on gives the same bytes."""
    disk = small_disk(kib)
    request = {"slides": [[str(slide), "s"]], "out": str(disk / "out"), "encoders": ["one.test", "second.test"]}
    [outcome] = lab.do("embed", **request)
    if outcome["status"] == "failed":
        assert "No space left" in outcome["reason"]
        assert not (disk / "out" / "s.zarr").exists()
    else:
        assert problems_of(disk / "out" / "s.zarr") == []
    _remount(disk, "size=8m")
    [outcome] = lab.do("embed", **request)
    assert outcome["status"] in ("done", "already"), outcome["reason"]
    assert lab.difference(lab.contents(disk / "out" / "s.zarr"), lab.contents(sound)) == ""
    assert kib > 40 or outcome["status"] == "done", "the small disks are too small"


@pytest.mark.parametrize("limit", [0, 100, 700, 1400, 3000])
def test_files_that_may_not_grow(lab, slide, sound, tmp_path, limit):
    """A write that is cut short (EFBIG here) fails the slide; nothing short is ever taken for whole."""
    request = {"slides": [[str(slide), "s"]], "out": str(tmp_path / "out"), "encoders": ["one.test", "second.test"]}
    [outcome] = lab.do("embed_limited", limit=limit, **request)
    assert outcome["status"] == "failed"
    assert os.strerror(errno.EFBIG) in outcome["reason"]
    assert not (tmp_path / "out" / "s.zarr").exists()
    [outcome] = lab.do("embed", **request)
    assert outcome["status"] == "done", outcome["reason"]
    assert lab.difference(lab.contents(tmp_path / "out" / "s.zarr"), lab.contents(sound)) == ""


@pytest.mark.parametrize("there", [False, True], ids=["no-folder-yet", "folder-with-a-store"])
def test_read_only_folder(lab, slide, sound, small_disk, there):
    """A folder that cannot be written fails the slide with the reason; a store in it is left alone, and readable."""
    disk = small_disk(2000)
    out = disk / "out"
    if there:
        shutil.copytree(sound, out / "s.zarr")
    _remount(disk, "ro")
    request = {"slides": [[str(slide), "s"]], "out": str(out)}
    [outcome] = lab.do("embed", encoders=["third.test"], **request)
    assert outcome["status"] == "failed"
    assert "Read-only" in outcome["reason"]
    if there:
        assert lab.difference(lab.contents(out / "s.zarr"), lab.contents(sound)) == ""
        assert problems_of(out / "s.zarr") == []
        [outcome] = lab.do("embed", encoders=["one.test"], **request)
        assert outcome["status"] == "already", "what is there needs no writing"


@pytest.mark.parametrize("suffix", [".svs", ".tif"])
def test_slide_deleted_while_it_is_read(lab, slide, sound, tmp_path, suffix):
    """A slide that vanishes is finished from its open file, or fails; beside it, the next slide goes on."""
    first, second = (shutil.copyfile(slide, tmp_path / f"{name}{suffix}") for name in ("first", "second"))
    out = tmp_path / "out"
    request = {"slides": [[str(first), "s"], [str(second), "t"]], "encoders": ["one.test", "second.test"]}
    outcomes = lab.do("embed_and_lose", out=str(out), after=8, **request)
    for (_, name), outcome in zip(request["slides"], outcomes, strict=True):
        if outcome["status"] == "done":
            assert lab.difference(lab.contents(out / f"{name}.zarr"), lab.contents(sound)) == ""
            assert outcome["bad"] == 0
        else:
            assert not (out / f"{name}.zarr").exists()
            assert outcome["reason"]


def test_slide_that_changes_between_runs_is_begun_anew(lab, slide, sound, tmp_path):
    """Work that a broken copy of a slide began is not mixed with, and does not block, the sound copy."""
    copy = tmp_path / "a.svs"
    data = bytearray(slide.read_bytes())
    data[len(data) // 8 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 8)
    copy.write_bytes(data)
    request = {"slides": [[str(copy), "s"]], "out": str(tmp_path / "out"), "encoders": ["one.test", "second.test"]}
    [outcome] = lab.do("embed", **request)
    assert outcome["status"] == "failed"
    shutil.copyfile(slide, copy)
    [outcome] = lab.do("embed", **request)
    assert outcome["status"] == "done", outcome["reason"]
    assert lab.difference(lab.contents(tmp_path / "out" / "s.zarr"), lab.contents(sound)) == ""


@pytest.mark.parametrize("encoders", [["one.test"], ["second.test"]], ids=["same-encoder", "other-encoder"])
@pytest.mark.parametrize("there", [False, True], ids=["new-store", "store-of-another-grid"])
@pytest.mark.parametrize("at", [20, 45, 70, 95, 120])
def test_work_left_by_another_run_never_enters_a_store(lab, slide, tmp_path, at, there, encoders):
    """A run killed in one grid, then a run of another grid: the store holds the second alone, and verifies."""
    out = tmp_path / "out"
    out.mkdir()
    request = {"slides": [[str(slide), "s"]], "out": str(out)}
    if there:
        lab.do("embed", stride=96, **request)
    assert lab.run("embed_killed_at", at=at, **request).code in (0, -9)
    [outcome] = lab.do("embed", **{**request, "encoders": encoders, "stride": 96})
    assert outcome["status"] in ("done", "already"), outcome["reason"]
    assert problems_of(out / "s.zarr") == []
    assert all(not name.startswith(".") for name in SlideStore.open(out / "s.zarr").encoder_ids())
    [outcome] = lab.do("embed", **request)
    assert outcome["status"] in ("done", "already"), outcome["reason"]
    assert problems_of(out / "s.zarr") == []


# ---- afterwards ----


def _files(store):
    return sorted(p for p in store.rglob("*") if p.is_file())


def _chunks(store):
    return [p for p in _files(store) if p.name != "zarr.json"]


def _undetected(store, damage):
    """The files whose damage `problems_of` does not name; each is put back."""
    missed = []
    for file in _files(store):
        before = file.read_bytes()
        if damage(file) is not False:
            if problems_of(store) == []:
                missed.append(file.relative_to(store).as_posix())
            file.write_bytes(before)
    assert problems_of(store) == []
    return missed


def test_every_lost_file_is_named(store):
    """Whichever file is deleted, `problems_of` says so."""
    assert _undetected(store, lambda file: file.unlink()) == []


def test_every_cut_file_is_named(store):
    """Whichever file is cut short, to nothing or by one byte, `problems_of` says so."""

    def cut(size):
        def damage(file):
            return file.write_bytes(file.read_bytes()[:size])

        return damage

    assert _undetected(store, cut(0)) == []
    assert _undetected(store, cut(-2)) == []  # a newline may end a JSON file


def test_every_flipped_byte_of_numbers_is_named(store):
    """Whichever chunk has a byte flipped, at its start, middle or end, `problems_of` says so."""
    for place in (0.0, 0.5, 1.0):

        def flip(file, place=place):
            if file.name == "zarr.json":
                return False
            data = bytearray(file.read_bytes())
            used = _used_bytes(file, len(data))
            data[int((used - 1) * place)] ^= 0x10
            return file.write_bytes(data)

        assert _undetected(store, flip) == []


def _used_bytes(file, size):
    """Bytes of a chunk that hold rows: the last chunk of an array is padded."""
    array = next(p for p in file.parents if (p / "zarr.json").exists())
    meta = json.loads((array / "zarr.json").read_text())
    chunk, number = meta["chunk_grid"]["configuration"]["chunk_shape"][0], int(file.relative_to(array).parts[1])
    return size * min(chunk, meta["shape"][0] - number * chunk) // chunk


def test_every_file_too_many_is_named(store):
    """A file that no run writes, as a half-copied chunk, does not pass for part of a store."""
    features = next(p for p in _chunks(store) if "features" in p.parts)
    shutil.copyfile(features, features.with_name("0.1a2b.partial"))
    assert problems_of(store)


@pytest.mark.parametrize(
    ("node", "where", "value"),
    [
        pytest.param("", ["attributes", "schema"], 99, id="newer-schema"),
        pytest.param("", ["attributes", "schema"], "1", id="schema-is-text"),
        pytest.param("", ["attributes", "whole"], False, id="not-whole"),
        pytest.param("", ["attributes"], [1], id="attributes-are-a-list"),
        pytest.param("", ["attributes"], None, id="attributes-are-null"),
        pytest.param("", ["attributes"], "text", id="attributes-are-text"),
        pytest.param("", ["attributes", "slide"], 5, id="slide-is-a-number"),
        pytest.param("grids/G", ["attributes", "side"], "x", id="side-is-text"),
        pytest.param("grids/G", ["attributes", "side"], 65.0, id="other-side"),
        pytest.param("grids/G", ["attributes", "spec", "mpp"], 0.25, id="other-mpp"),
        pytest.param("grids/G", ["attributes", "spec"], None, id="no-spec"),
        pytest.param("grids/G/xy", ["data_type"], "uint32", id="xy-of-another-type"),
        pytest.param("grids/G/xy", ["shape"], [2, 2], id="xy-shorter"),
        pytest.param("grids/G/xy", ["shape"], [10**18, 2], id="xy-huge"),
        pytest.param("grids/G/xy", ["shape"], [-1, 2], id="xy-negative"),
        pytest.param("grids/G/xy", ["shape"], ["a", 2], id="xy-shape-is-text"),
        pytest.param("grids/G/xy", ["shape"], [], id="xy-without-shape"),
        pytest.param("grids/G/xy", ["chunk_grid", "configuration", "chunk_shape"], [0, 2], id="chunks-of-nothing"),
        pytest.param("grids/G/xy", ["codecs"], [{"name": "pickle"}], id="foreign-codec"),
        pytest.param("grids/G/xy", ["codecs"], ["bytes"], id="codec-is-text"),
        pytest.param("grids/G/features/one.test", ["data_type"], "int16", id="features-of-another-type"),
        pytest.param("grids/G/features/one.test", ["shape"], [16, 48], id="features-shorter"),
        pytest.param("grids/G/features/one.test", ["codecs", 0, "configuration", "endian"], "big", id="big-endian"),
        pytest.param("grids/G/features/one.test", ["attributes", "sha256"], "0" * 64, id="other-sha256"),
        pytest.param("grids/G/features/one.test", ["attributes"], {}, id="no-attributes"),
        pytest.param("grids/G/features/one.test", ["node_type"], "group", id="array-says-group"),
    ],
)
def test_edited_metadata_is_named_and_never_misread(store, node, where, value):
    """`problems_of` names the edit; reading refuses it, or gives what it gave before."""
    bag = SlideStore.open(store).features("one.test")
    grid_id = SlideStore.open(store).grid_ids[0]
    path = store / node.replace("G", grid_id) / "zarr.json"
    tree = json.loads(path.read_text())
    place = tree
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    path.write_text(json.dumps(tree))
    assert problems_of(store)
    try:
        found = SlideStore.open(store).features("one.test")
    except StoreError:
        return
    assert found.features.dtype == bag.features.dtype
    assert found.features.tobytes() == bag.features.tobytes()
    assert found.xy.tobytes() == bag.xy.tobytes()
    assert found.xy.dtype == bag.xy.dtype


@pytest.mark.parametrize("damage", ["delete", "truncate", "grow"])
@pytest.mark.parametrize("array", ["xy", "status", "features/one.test"])
def test_a_bag_of_a_damaged_store_is_refused(store, array, damage):
    """A chunk that is lost, short or long is an error of reading, not zeros."""
    grid_id = SlideStore.open(store).grid_ids[0]
    chunk = next(p for p in _chunks(store / "grids" / grid_id / array))
    data = chunk.read_bytes()
    if damage == "delete":
        chunk.unlink()
    else:
        chunk.write_bytes(data[:-1] if damage == "truncate" else data + b"\0")
    with pytest.raises(StoreError, match="chunk"):
        SlideStore.open(store).features("one.test")


def test_a_store_that_is_not_whole_is_not_opened(store):
    """A work folder that someone renamed, or a store without its root, is refused."""
    root = json.loads((store / "zarr.json").read_text())
    del root["attributes"]["whole"]
    (store / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="not whole"):
        SlideStore.open(store)
    (store / "zarr.json").unlink()
    with pytest.raises(StoreError):
        SlideStore.open(store)
    with pytest.raises(StoreError, match="no store"):
        SlideStore.open(store.with_name("absent.zarr"))


@pytest.mark.parametrize("what", ["features", "root"])
def test_embedding_into_a_damaged_store_fails(lab, slide, store, what):
    """A second encoder is not added to a store whose grid or root cannot be read; the reason says what is wrong."""
    grid_id = SlideStore.open(store).grid_ids[0]
    path = store / "zarr.json" if what == "root" else store / "grids" / grid_id / "xy" / "c" / "0" / "0"
    path.write_bytes(path.read_bytes()[:-3])
    before = lab.contents(store)
    [outcome] = lab.do("embed", slides=[[str(slide), "s"]], out=str(store.parent), encoders=["third.test"])
    assert outcome["status"] == "failed"
    assert "s.zarr" in outcome["reason"]
    assert lab.difference(lab.contents(store), before) == ""
