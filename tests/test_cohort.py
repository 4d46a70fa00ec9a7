"""A run over many slides: each is attempted, what is done is not done again, and all that was opened is closed."""

import threading
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from test_store import mean_encoder

from wsi_umedpt.cohort.manifest import SlideJob
from wsi_umedpt.cohort.run import EmbedPlan, Prepared, Watcher, embed_slides
from wsi_umedpt.tiling import TileSpec


def test_a_slide_done_with_a_mask_of_ones_own_is_not_read_again(small_svs, tmp_path, monkeypatch):
    """Nor is its thumbnail when another encoder is added; another content under the mask's name is noticed."""
    mask = np.zeros((110, 150), np.uint8)
    mask[:, 75:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    job = SlideJob(small_svs, "s", mask=tmp_path / "mask.png")
    plans = [
        EmbedPlan(out=tmp_path, encoders=[mean_encoder(name)], specs=[TileSpec(size_px=64)]) for name in ("a", "b")
    ]
    assert [o.status for o in embed_slides([job], plans[0])] == ["done"]

    def refuse(*_: object) -> None:
        raise AssertionError("the thumbnail is read again")

    monkeypatch.setattr("wsi_umedpt.cohort.run.read_thumbnail", refuse)
    assert [o.status for o in embed_slides([job], plans[1])] == ["done"]
    monkeypatch.setattr("wsi_umedpt.cohort.run.Prepared", refuse)
    assert [o.status for o in embed_slides([job], plans[0])] == ["already"]
    monkeypatch.undo()
    Image.fromarray(mask[:, ::-1].copy()).save(tmp_path / "mask.png")
    [outcome] = embed_slides([job], plans[0])
    assert "holds another tissue mask (png: file mask.png, sha256" in outcome.reason


class Interrupted(Watcher):
    """Presses Ctrl-C once some tiles are done."""

    def tiles_done(self, job: SlideJob, done: int, total: int) -> None:
        """Press it."""
        raise KeyboardInterrupt


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("read-ahead", "tiles"))]


@pytest.mark.parametrize("resumed", [False, True], ids=["from-row-0", "gone-on-with"])
def test_ctrl_c_closes_all_that_was_opened(small_svs, tmp_path, resumed, monkeypatch):
    """The slide and the next one, whose tiles are being read already, even while the traceback is held."""
    monkeypatch.setattr("wsi_umedpt.store.CHUNK_ROWS", 8)
    monkeypatch.setattr("wsi_umedpt.encode.CHUNK_ROWS", 8)
    monkeypatch.setattr("wsi_umedpt.cohort.run.Prepared", Noted)
    plan = EmbedPlan(out=tmp_path, encoders=[mean_encoder()], specs=[TileSpec(size_px=64)], batch_size=8)
    jobs = [SlideJob(small_svs, "first"), SlideJob(small_svs, "second")]
    for _ in range(1 + resumed):
        Noted.made.clear()
        with pytest.raises(KeyboardInterrupt) as caught:
            embed_slides(jobs, plan, Interrupted())
        assert caught.tb
        assert [prepared.path.stem for prepared in Noted.made] == ["first", "second"]
        assert all(prepared.closed for prepared in Noted.made)
        assert readers() == []


class Noted(Prepared):
    """Knows all of its kind, and whether they were closed."""

    made: ClassVar[list["Noted"]] = []
    closed = False

    def __init__(self, *args, **options) -> None:
        self.made.append(self)
        super().__init__(*args, **options)

    def close(self) -> None:
        """Take note, and close."""
        super().close()
        self.closed = True
