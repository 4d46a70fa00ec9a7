"""The size of batches is found by trying, is kept by a slide that is gone on with, and moves no number by much."""

import numpy as np
import pytest

from tests.pipeline.test_shared_decoding import StopAfter
from tests.support.encoders import mean_encoder
from wsi_umedpt.errors import DeviceMemoryError
from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.pipeline import batch_size
from wsi_umedpt.pipeline import embed as embedding
from wsi_umedpt.pipeline.batch_size import fastest, fastest_batch
from wsi_umedpt.pipeline.embed import EmbedTask
from wsi_umedpt.pipeline.prepare import PreparedSlide
from wsi_umedpt.pipeline.task import Progress
from wsi_umedpt.settings import RunSettings
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.tiling import TileSpec
from wsi_umedpt.slides.tissue import find_tissue
from wsi_umedpt.store.slide_store import SlideStore


class Device:
    """Takes `fixed_s` a batch and `tile_s` a tile on a clock of its own, up to `most` tiles."""

    def __init__(self, fixed_s: float, tile_s: float, most: int = 10**9) -> None:
        self._fixed_s, self._tile_s, self._most = fixed_s, tile_s, most
        self.now, self.tried = 0.0, []

    def encode(self, count: int) -> None:
        """Let time pass."""
        self.tried.append(count)
        if count > self._most:
            raise DeviceMemoryError("full")
        self.now += self._fixed_s + self._tile_s * count

    def fastest(self) -> int:
        """Try it."""
        return fastest(self.encode, clock=lambda: self.now)


@pytest.mark.parametrize(
    ("device", "size"),
    [
        pytest.param(Device(0.010, 1e-5), 512, id="a-launch-costs-as-much-as-1000-tiles"),
        pytest.param(Device(0.001, 1e-4), 128, id="a-launch-costs-as-much-as-10-tiles"),
        pytest.param(Device(0.0, 1e-2), 8, id="larger-gains-nothing"),
        pytest.param(Device(0.0, 10.0), 8, id="slow"),
        pytest.param(Device(0.010, 1e-5, most=100), 32, id="memory-for-64"),
        pytest.param(Device(0.010, 1e-5, most=16), 8, id="memory-for-16"),
        pytest.param(Device(0.010, 1e-5, most=5), 2, id="memory-for-4"),
        pytest.param(Device(0.010, 1e-5, most=1), 1, id="memory-for-1"),
    ],
)
def test_larger_batches_are_taken_as_long_as_they_are_faster(device, size):
    """And fit twice into the memory of the device."""
    assert device.fastest() == size


def test_trying_takes_two_seconds_or_two_small_batches():
    """A network that needs longer for 8 tiles is tried with these alone."""
    slow, fast = Device(0.0, 10.0), Device(0.3, 1e-6)
    slow.fastest()
    assert slow.tried == [8, 8]
    fast.fastest()
    assert 1 < fast.now <= batch_size._MOST_S


def test_a_device_without_memory_for_a_tile_is_refused():
    """There is no batch that fits."""
    with pytest.raises(DeviceMemoryError):
        Device(0.0, 1.0, most=0).fastest()


def test_batches_stay_small_in_bytes(monkeypatch):
    """Of large tiles fewer are tried: readers share few batches with the network."""
    tried = []
    monkeypatch.setattr(batch_size, "fastest", lambda _, sizes: tried.append(max(sizes)) or 8)
    for side in (64, 224, 512, 4000):
        fastest_batch([(mean_encoder(), side), (mean_encoder(), 32)])
    assert tried == [512, 256, 64, 8]


def run(slide_path, store, *, progress=None, **settings):
    task = EmbedTask(
        encoders=[mean_encoder()], tile_specs=[TileSpec(size_px=32)], settings=RunSettings(readers=0, **settings)
    )
    with (
        open_slide(slide_path) as slide,
        PreparedSlide(slide, store, find_tissue(slide), task.specs(slide.mpp), 0) as prepared,
    ):
        prepared.read_ahead(task)
        return task.run(prepared, progress or Progress())


def batch_of(store) -> int:
    return SlideStore.open(store).feature_attrs("mean")["batch_size"]


@pytest.fixture
def found(monkeypatch):
    """What trying finds, which a test may change; and how often it was tried."""
    answer = {"size": 32, "times": 0}

    def try_it(_):
        answer["times"] += 1
        return answer["size"]

    monkeypatch.setattr(embedding, "fastest_batch", try_it)
    monkeypatch.setattr(embedding, "WORTH_TRYING", 100)
    return answer


def test_what_is_found_is_recorded(small_svs, tmp_path, found):
    """Beside the features."""
    run(small_svs, tmp_path / "a.zarr")
    assert batch_of(tmp_path / "a.zarr") == 32


def test_what_is_given_is_taken(small_svs, tmp_path, found):
    """And nothing is tried."""
    run(small_svs, tmp_path / "a.zarr", batch_size=16)
    assert (batch_of(tmp_path / "a.zarr"), found["times"]) == (16, 0)


def test_small_slides_are_not_worth_trying(small_svs, tmp_path, found, monkeypatch):
    """They have batches of 64."""
    monkeypatch.setattr(embedding, "WORTH_TRYING", 10_000)
    run(small_svs, tmp_path / "a.zarr")
    assert (batch_of(tmp_path / "a.zarr"), found["times"]) == (64, 0)


def test_a_slide_that_is_gone_on_with_keeps_its_batches(small_svs, tmp_path, found):
    """Whatever is found then: the bytes are those of an uninterrupted run."""
    run(small_svs, tmp_path / "whole.zarr")
    path = tmp_path / "a.zarr"
    with pytest.raises(KeyboardInterrupt):
        run(small_svs, path, progress=StopAfter(4))
    found["size"] = 8
    result = run(small_svs, path)
    assert 0 < result.fresh < result.tiles
    assert found["times"] == 2
    one, other = (SlideStore.open(p) for p in (path, tmp_path / "whole.zarr"))
    assert one.feature_attrs("mean") == other.feature_attrs("mean")


def test_a_whole_slide_costs_no_trying(small_svs, tmp_path, found):
    """Nothing is done where nothing is missing."""
    run(small_svs, tmp_path / "a.zarr")
    assert run(small_svs, tmp_path / "a.zarr").fresh == 0
    assert found["times"] == 1


def test_a_size_that_is_given_goes_before_what_was_begun(small_svs, tmp_path, found):
    """Rows of other batches are made anew."""
    with pytest.raises(KeyboardInterrupt):
        run(small_svs, tmp_path / "a.zarr", progress=StopAfter(4))
    result = run(small_svs, tmp_path / "a.zarr", batch_size=16)
    assert (batch_of(tmp_path / "a.zarr"), result.fresh) == (16, result.tiles)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_features_agree_whatever_the_batch(engine, rng):
    """To 1e-5 of the largest number on a CPU at fp32: less than what the store's float16 keeps (5e-4)."""
    if engine == "openvino":
        pytest.importorskip("openvino")
    encoder = load_encoder(device="cpu", engine=engine)
    tiles = rng.integers(0, 256, (32, 224, 224, 3), dtype=np.uint8)
    whole = encoder.encode(tiles)
    for size in (1, 4, 16):
        parts = np.concatenate([encoder.encode(tiles[i : i + size]) for i in range(0, len(tiles), size)])
        assert np.abs(parts - whole).max() <= 1e-5 * np.abs(whole).max()
