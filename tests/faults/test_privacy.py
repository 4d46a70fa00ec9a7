"""Patient data in a slide's metadata, label or macro never reaches what a run writes."""

import numpy as np
import pytest
import tifffile

from wsi_umedpt.plotting.sheets import overview, save
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.testing import tissue_image

SECRETS = (b"JANE DOE", b"SECRET123", b"1931-07-04", b"ScanScope ID", b"LABELPIXELS", b"MACROPIXELS")


def _planted(text: bytes, shape: tuple[int, int]) -> np.ndarray:
    """Pixels that hold a text again and again."""
    count = shape[0] * shape[1] * 3
    return np.frombuffer((text * (count // len(text) + 1))[:count], np.uint8).reshape(*shape, 3)


@pytest.fixture(params=["svs", "ome-tiff"])
def slide_with_secrets(request, tmp_path):
    """A slide with patient data everywhere a scanner might put it."""
    image = tissue_image(768, 768)[0]
    options = {"tile": (128, 128), "compression": "jpeg", "photometric": "rgb", "metadata": None}
    extra = [(315, "s", 0, "JANE DOE", True), (65000, "s", 0, "SECRET123", True)]
    if request.param == "svs":
        path = tmp_path / "a.svs"
        description = (
            "Aperio Image Library v11.2.1 \r\n768x768 (128x128) JPEG/RGB Q=85|AppMag = 20|MPP = 0.5000"
            "|Patient = JANE DOE|Barcode = SECRET123|ScanScope ID = SS1302|Date = 1931-07-04|User = JANE DOE"
        )
        with tifffile.TiffWriter(path) as writer:
            writer.write(image, description=description, extratags=extra, datetime="1931:07:04 00:00:00", **options)
            writer.write(image[::8, ::8].copy(), photometric="rgb", description="thumbnail JANE DOE", metadata=None)
            writer.write(
                _planted(b"LABELPIXELS", (64, 64)),
                subfiletype=1,
                photometric="rgb",
                metadata=None,
                description="Aperio Image Library v11.2.1 \r\nlabel 64x64",
            )
            writer.write(
                _planted(b"MACROPIXELS", (64, 96)),
                subfiletype=9,
                photometric="rgb",
                metadata=None,
                description="Aperio Image Library v11.2.1 \r\nmacro 96x64",
            )
    else:
        path = tmp_path / "a.ome.tif"
        options["metadata"] = {
            "axes": "YXS",
            "Name": "JANE DOE SECRET123",
            "Description": "1931-07-04",
            "PhysicalSizeX": 0.5,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm",
        }
        with tifffile.TiffWriter(path, ome=True) as writer:
            writer.write(image, extratags=extra, **options)
            writer.write(_planted(b"LABELPIXELS", (64, 64)), photometric="rgb", metadata={"Name": "label JANE DOE"})
    return path


def test_no_output_holds_patient_data(lab, slide_with_secrets, tmp_path):
    """Neither the store's files, nor their names, nor the picture hold what was planted in the slide."""
    planted = slide_with_secrets.read_bytes()
    assert sum(secret in planted for secret in SECRETS) >= 4, "the secrets are in the slide in plain text"
    out = tmp_path / "out"
    [outcome] = lab.do("embed", slides=[[str(slide_with_secrets), "s"]], out=str(out))
    assert (outcome["status"], outcome["tiles"] > 10) == ("done", True)
    save(overview(SlideStore.open(out / "s.zarr")), out / "s.png")
    files = [p for p in out.rglob("*") if p.is_file()]
    assert len(files) > 10
    for file in files:
        held = file.read_bytes() + file.relative_to(out).as_posix().encode()
        assert [secret for secret in SECRETS if secret in held] == [], file


def test_a_failure_does_not_print_patient_data(lab, slide_with_secrets, tmp_path):
    """The reason of a slide that fails holds nothing of its metadata."""
    data = slide_with_secrets.read_bytes()
    slide_with_secrets.write_bytes(
        data.replace(b"MPP = 0.5000", b"MPP = 9999.0").replace(b'SizeX="0.5"', b'SizeX="9e9"')
    )
    out = tmp_path / "out"
    [outcome] = lab.do("embed", slides=[[str(slide_with_secrets), "s"]], out=str(out))
    assert outcome["status"] == "failed"
    assert [s for s in SECRETS if s.decode() in outcome["reason"]] == []
