"""Slides whose structure lies: soon refused, or read as OpenSlide or tifffile read them; never a hang or a gigabyte."""

import numpy as np
import pytest

from tests.support.slide_structures import KINDS, Mutation, judge, mutations_of, prepared

OF_EACH = 22
"""Mutants of each kind, of about 5,500 in all; `python -m benchmarks.faults.mutations --structure` uses all."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_slide_whose_structure_lies_is_refused_or_read_as_others_read_it(lab, kind, tmp_path):
    """Tags, planes, offsets, counts, directory loops, ratios, DICOM totals, OME-Zarr metadata.

    An exception that is no `WsiError`, 10 seconds, 1 GB, a level of another shape, and pixels that neither
    OpenSlide nor tifffile show all fail.
    """
    name, write, channels, needs, _ = KINDS[kind]
    if needs:
        pytest.importorskip(needs, reason=f"needs {needs}")
    write(tmp_path / name)
    (tmp_path / "scratch").mkdir()
    count = len(mutations_of(tmp_path / name))
    numbers = list(range(0, count, max(1, count // OF_EACH)))
    request = {"original": str(tmp_path / name), "scratch": str(tmp_path / "scratch"), "log": str(tmp_path / "log")}
    results = lab.do("use_structures", numbers=numbers, channels=channels, **request)
    assert [f"{r['number']} ({r['what']}): {fault}" for r in results for fault in r["wrong"]] == []
    assert len({r["how"].split(":")[0] for r in results}) > 1  # both happen, or the mutations mean nothing


@pytest.mark.parametrize("kind", KINDS)
def test_a_sound_slide_of_each_kind_passes(kind, tmp_path):
    """Or the test above would mean nothing."""
    name, write, channels, needs, _ = KINDS[kind]
    if needs:
        pytest.importorskip(needs, reason=f"needs {needs}")
    write(tmp_path / name)
    result = judge(tmp_path / name, channels)
    assert result["how"].startswith("pixels by")
    assert not [fault for fault in result["wrong"] if "OpenSlide" not in fault or kind != "planes"]


def test_what_differs_from_others_is_found(tmp_path, monkeypatch):
    """The judge sees pixels that are not those of the file."""
    import wsi_umedpt.slides.readers.tiff as tiff

    name, write, *_ = KINDS["ome"]  # which is not compared with OpenSlide when it is opened
    write(tmp_path / name)
    true = tiff.TiffReader.read_level
    monkeypatch.setattr(tiff.TiffReader, "read_level", lambda *args: np.ascontiguousarray(true(*args)[:, ::-1]))
    assert any("OpenSlide gives" in fault for fault in judge(tmp_path / name)["wrong"])


def test_a_mutant_is_its_original_but_for_one_change(tmp_path):
    """Numbers are fixed, so that what failed can be looked at again."""
    name, write, *_ = KINDS["deflate"]
    write(tmp_path / name)
    (tmp_path / "scratch").mkdir()
    sound = (tmp_path / name).read_bytes()
    mutation = mutations_of(tmp_path / name)[40]
    path, what = prepared(tmp_path / name, 40, tmp_path / "scratch")
    assert isinstance(mutation, Mutation)
    assert what == mutation.what
    assert path.read_bytes() != sound
    assert (tmp_path / name).read_bytes() == sound
