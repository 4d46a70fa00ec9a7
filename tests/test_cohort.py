"""A run over many slides: each is attempted, what is done is not done again, and all that was opened is closed."""

import numpy as np
from PIL import Image
from test_store import mean_encoder

from wsi_umedpt.cohort.manifest import SlideJob
from wsi_umedpt.cohort.run import EmbedPlan, embed_slides
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
