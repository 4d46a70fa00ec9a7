"""Reading in processes: the same pixels, faults that stay with their slide, and nothing left behind."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

from wsi_umedpt.errors import SlideError, StalledError
from wsi_umedpt.slides import reader_processes
from wsi_umedpt.slides.read_order import ReadOrder, shares
from wsi_umedpt.slides.reader_processes import Readers
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tile_loader import close_readers, read_tiles
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.testing import tissue_image


@pytest.fixture(autouse=True)
def _eager(monkeypatch):
    """Let several readers share even a slide of a few tiles."""
    monkeypatch.setattr(reader_processes, "_FEWEST", 2)


@pytest.fixture(scope="module", autouse=True)
def _closed():
    yield
    close_readers()


@pytest.fixture
def readers():
    found = Readers(2)
    yield found
    found.close()


def pixels_of(batches) -> np.ndarray:
    return np.concatenate([batch.pixels.copy() for batch in batches])


def begin(readers, slide, grid, start=0, batch_size=8):
    return readers.read(slide, ReadOrder([grid], [start], batch_size), ahead=1)


def small_tiles(slide, size_px=64):
    return lay_grid(slide.size, slide.mpp, TileSpec(size_px=size_px, mpp=slide.mpp))


@pytest.mark.parametrize(
    "spec",
    [TileSpec(size_px=64), TileSpec(mpp=1.0, size_px=50), TileSpec(mpp=0.9, size_px=64, stride_px=40)],
    ids=["level-0", "half", "fraction-overlap"],
)
@pytest.mark.parametrize("start", [0, 32])
def test_processes_give_the_tiles_that_this_one_gives(small_svs, readers, spec, start):
    """Order, pixels and flags, from any row on."""
    with open_slide(small_svs) as slide:
        grid = lay_grid(slide.size, slide.mpp, spec)
        expected = list(read_tiles(slide, grid, start=start, batch_size=8, readers=0))
        found = list(begin(readers, slide, grid, start=start))
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert np.array_equal(one.pixels, other.pixels)
            assert np.array_equal(one.index, other.index)
            assert np.array_equal(one.ok, other.ok)


def test_the_next_slide_is_read_while_one_is_taken(small_svs, readers):
    """Two slides at a time, each in its order."""
    with open_slide(small_svs) as slide:
        grid = small_tiles(slide)
        expected = pixels_of(read_tiles(slide, grid, readers=0))
        one, other = begin(readers, slide, grid), begin(readers, slide, grid)
        assert np.array_equal(pixels_of(one), expected)
        assert np.array_equal(pixels_of(other), expected)


def test_each_tile_is_read_once(small_svs):
    """Whatever the number of readers."""
    with open_slide(small_svs) as slide:
        grid = small_tiles(slide, 32)
        for parts in (1, 2, 5, 16):
            rows = [part + 10 for part in shares(ReadOrder([grid], [10], 8), parts)]
            assert sorted(np.concatenate(rows).tolist()) == list(range(10, len(grid)))
            assert all((np.diff(part) > 0).all() for part in rows)
            assert max(map(len, rows)) < 1.5 * len(grid) / parts + 16


def test_a_crash_fails_its_slide_and_the_next_is_read(small_svs, readers):
    """The reason is said, and another process takes its place."""
    with open_slide(small_svs) as slide:
        grid = small_tiles(slide)
        batches = begin(readers, slide, grid)
        next(batches)
        for pid in readers.pids:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(SlideError, match=r"crashed \(signal SIGKILL"):
            list(batches)
        expected = pixels_of(read_tiles(slide, grid, readers=0))
        assert np.array_equal(pixels_of(begin(readers, slide, grid)), expected)


def test_a_crash_costs_the_slide_after_it_nothing(small_svs, readers):
    """What waits for a reader that crashed is read by the one that replaces it."""
    with open_slide(small_svs) as slide:
        grid = small_tiles(slide)
        expected = pixels_of(read_tiles(slide, grid, readers=0))
        first, second = begin(readers, slide, grid), begin(readers, slide, grid)
        next(first)
        os.kill(readers.pids[0], signal.SIGKILL)
        with contextlib.suppress(SlideError):
            list(first)
        first.close()
        assert np.array_equal(pixels_of(second), expected)


def test_a_reader_that_hangs_is_replaced(small_svs, readers):
    """After the stated time without progress."""
    with open_slide(small_svs) as slide:
        grid = small_tiles(slide)
        list(begin(readers, slide, grid))  # all are started
        slide.stall_s = 1.0
        for pid in readers.pids:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(StalledError, match="no progress for 1 s"):
            list(begin(readers, slide, grid))
        slide.stall_s = 60.0
        assert len(pixels_of(begin(readers, slide, grid))) == len(grid)


def test_a_reader_that_swells_is_ended(small_svs, readers, monkeypatch):
    """With the memory that it had and may have."""
    monkeypatch.setattr(reader_processes, "_CHECK_S", 0.1)
    with open_slide(small_svs) as slide:
        grid = small_tiles(slide)
        batches = begin(readers, slide, grid)
        next(batches)
        monkeypatch.setattr(reader_processes, "MEMORY_GB", 0.01)
        with pytest.raises(SlideError, match=r"it used .* GB of memory, more than 0.01 GB"):
            _slowly(batches)


def _slowly(batches) -> None:
    for _ in batches:
        time.sleep(0.3)


def test_a_slide_that_changed_is_refused(tmp_path, small_svs, readers):
    """Each reader opens the file itself, and it may not be the one that the grid was laid over."""
    path = tmp_path / "slide.svs"
    path.write_bytes(small_svs.read_bytes())
    with open_slide(path) as slide:
        grid = small_tiles(slide)
        tifffile.imwrite(path, tissue_image(512, 512)[0], tile=(256, 256), photometric="rgb", resolution=(2e4, 2e4))
        with pytest.raises(SlideError):
            list(begin(readers, slide, grid))


def test_batches_may_be_kept(small_svs, readers):
    """More than the ring holds: what is kept is not written over."""
    with open_slide(small_svs) as slide:
        grid = small_tiles(slide, 32)
        kept = list(begin(readers, slide, grid, batch_size=4))
        assert np.array_equal(np.concatenate([b.pixels for b in kept]), pixels_of(read_tiles(slide, grid, readers=0)))


def test_batches_of_several_grids_may_be_kept(small_svs, readers):
    """However few slots are left for the grid whose batches take longest to fill."""
    with open_slide(small_svs) as slide:
        grids = [small_tiles(slide, 32), lay_grid(slide.size, slide.mpp, TileSpec(mpp=1.0, size_px=100))]
        kept = list(readers.read(slide, ReadOrder(grids, [0, 0], 4), ahead=1))
        for n, grid in enumerate(grids):
            found = np.concatenate([batch.pixels for batch in kept if batch.grid == n])
            assert np.array_equal(found, pixels_of(read_tiles(slide, grid, readers=0)))


def holdings() -> dict[str, int]:
    """Descriptors, threads, processes and shared memory of this process."""
    gc.collect()
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": len(psutil.Process().children(recursive=True)),
        "mappings": Path("/proc/self/maps").read_text().count("wsi-umedpt-tiles"),
    }


def test_many_slides_leave_nothing(tmp_path, readers):
    """Descriptors, threads, processes and shared memory are as many after 72 slides as after 12."""
    path = tmp_path / "tiny.tif"
    tifffile.imwrite(path, tissue_image(200, 200)[0], tile=(64, 64), photometric="rgb", compression="deflate")

    def read(count: int) -> None:
        for n in range(count):
            with open_slide(path, mpp=0.5) as slide:
                batches = begin(readers, slide, small_tiles(slide, 50))
                if n % 3:
                    list(batches)
                else:  # let go early
                    next(batches)
                    batches.close()

    def all_held() -> list[object]:
        return [holdings(), *map(_holdings_of, readers.pids)]

    read(12)
    time.sleep(0.5)  # or what is let go just now would count
    before = all_held()
    read(60)
    until = time.monotonic() + 60
    while all_held() != before and time.monotonic() < until:
        time.sleep(0.1)
    assert all_held() == before
    children = holdings()["children"]
    readers.close()
    assert holdings()["children"] == children - 2


def _holdings_of(pid: int) -> tuple[int, int]:
    process = psutil.Process(pid)
    return process.num_fds(), process.num_threads()


def test_readers_end_with_their_parent(tmp_path, small_svs):
    """Also where that is killed: neither they nor their memory stay."""
    code = (
        "import sys, time\n"
        "from wsi_umedpt.slides.read_order import ReadOrder\n"
        "from wsi_umedpt.slides.reader_processes import Readers\n"
        "from wsi_umedpt.slides.slide import open_slide\n"
        "from wsi_umedpt.slides.tiling import TileSpec, lay_grid\n"
        f"slide = open_slide({str(small_svs)!r})\n"
        "grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=32))\n"
        "readers = Readers(2)\n"
        "batches = readers.read(slide, ReadOrder([grid], [0], 4), ahead=1)\n"
        "held = next(batches)\n"
        "print(*readers.pids, flush=True)\n"
        "time.sleep(600)\n"
    )
    shared = _shared_memory()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert pids
        parent.kill()
    until = time.monotonic() + 200
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert not _shared_memory() - shared


def _shared_memory() -> set[str]:
    """Names in shared memory; ours has none."""
    return set(os.listdir("/dev/shm"))  # noqa: S108 - that is where it would be
