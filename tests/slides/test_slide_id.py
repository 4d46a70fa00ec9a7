"""A slide is found by what tables call it, and never another one."""

import pytest

from wsi_umedpt.errors import MilError
from wsi_umedpt.slides.slide_id import SlideNames, by_slide, match_slides, safe_id


@pytest.mark.parametrize(
    ("called", "found"),
    [
        pytest.param("S1", "S1", id="its-id"),
        pytest.param("S1.svs", "S1", id="with-a-suffix"),
        pytest.param("scans/2024/S1.svs", "S1", id="with-folders"),
        pytest.param("C:\\scans\\S1.ndpi", "S1", id="as-windows-writes-it"),
        pytest.param("s3://bucket/scans/S1.svs", "S1", id="a-url"),
        pytest.param("S1.ome.tiff", "S1", id="two-suffixes"),
        pytest.param("out/S1.zarr/", "S1", id="its-store"),
        pytest.param("S1.h5", "S1", id="its-features"),
        pytest.param("s1.SVS", "S1", id="in-another-case"),
        pytest.param("S\u200b1", "S1", id="invisible"),
        pytest.param("T.1", "T.1", id="a-dot-in-its-name"),
        pytest.param("T.1.svs", "T.1", id="and-a-suffix"),
        pytest.param("series/0001.dcm", "series", id="a-file-of-a-dicom-series"),
        pytest.param("Müller, Hans.svs", safe_id("Müller, Hans"), id="a-name-that-was-made-safe"),
        pytest.param("U.svs.svs", "U.svs", id="features-named-with-the-suffix"),
        pytest.param("U", "U.svs", id="and-without"),
    ],
)
def test_a_slide_is_found_by_what_a_table_calls_it(called, found):
    """One sheet serves for files to embed, stores to train on and labels."""
    known = ["S1", "S10", "T.1", "series", safe_id("Müller, Hans"), "U.svs"]
    assert SlideNames(known).find(called) == [found]


@pytest.mark.parametrize("called", ["S2", "S", "S1a", "S1.txt", "01", "S01", "", "/", "S1/other"])
def test_no_other_slide_is_taken(called):
    """Numbers of slides are no numbers: S01 is not S1."""
    assert SlideNames(["S1", "S10", "1"]).find(called) == []


def test_a_name_that_fits_several_slides_is_refused():
    """Unless one of them is called exactly so."""
    assert SlideNames(["a", "A"]).find("A.svs") == ["A"]
    assert SlideNames(["b", "B", "c"]).find("scans/B") == ["B"]
    with pytest.raises(MilError, match="'ab' may be the slide Ab or aB; write one of these"):
        match_slides(["ab"], ["Ab", "aB"], MilError)


def test_two_names_of_one_slide_must_agree():
    """On its patient, say."""
    assert by_slide({"S1": "P1", "S1.svs": "P1", "X": "P9"}, ["S1"], MilError) == {"S1": "P1"}
    with pytest.raises(MilError, match=r"S1 is said to be of 'P1' and, as 'S1.svs', of 'P2'"):
        by_slide({"S1": "P1", "S1.svs": "P2"}, ["S1"], MilError)
