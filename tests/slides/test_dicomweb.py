"""Slides on a DICOMweb server: the pixels of their files, read where they lie, and what is said where that fails."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support import bad_slides
from tests.support.channel_slides import odd_slide
from wsi_umedpt.batch.jobs.manifest import list_slides
from wsi_umedpt.batch.jobs.slide_files import files_of
from wsi_umedpt.batch.run import run_slides
from wsi_umedpt.cli.doctor import EXTRAS
from wsi_umedpt.errors import PixelError, RemoteError, SlideError, UnreachableError, UnsupportedSlideError
from wsi_umedpt.geometry import Box
from wsi_umedpt.io import remote
from wsi_umedpt.io.dicomweb import series_at, shown
from wsi_umedpt.slides import reader_processes
from wsi_umedpt.slides.reader_process import heard, told
from wsi_umedpt.slides.readers import dicomweb
from wsi_umedpt.slides.readers.wsidicom import open_wsidicom
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.slides.slide_fingerprint import fingerprint
from wsi_umedpt.slides.slide_id import SlideNames, default_id
from wsi_umedpt.slides.tile_loader import close_readers, read_tiles
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.testing import tissue_image

pytest.importorskip("wsidicom", reason="needs the extra dicom (wsidicom)")

from tests.support.dicomweb_server import pacs, write_series

NAME = "dicomweb:https://host:8042/a/dicom-web/studies/1.2.3/series/4.5.6"
SERIES = "1.2.840.99.7"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A slide of two levels, and its label."""
    return write_series(tmp_path_factory.mktemp("series"), tissue_image(900, 700)[0])


@pytest.fixture
def server(files, monkeypatch):
    """A server that holds it, which nobody waits for."""
    monkeypatch.setattr(remote, "PAUSE_S", 0.0)
    with pacs(files) as started:
        yield started


@pytest.mark.parametrize(
    "name",
    [NAME, Path(NAME), str(Path(NAME)), NAME + "/", NAME.replace("dicomweb:https", "DICOMweb:HTTPS")],
    ids=["text", "path", "path-as-text", "slash", "capitals"],
)
def test_a_name_is_recognised_however_it_came(name):
    """Also by way of a path, which makes one slash of two."""
    found = series_at(name)
    assert str(found) == NAME
    assert series_at(found.path) == found
    assert (found.host, found.study, found.uid) == ("host:8042", "1.2.3", "4.5.6")
    assert default_id(found.path) == "4.5.6"
    assert SlideNames(["4.5.6"]).find(str(name)) == ["4.5.6"]


@pytest.mark.parametrize("name", ["a.dcm", "studies/1.2/series/3.4", "https://host/studies/1.2/series/3.4", Path("/x")])
def test_what_is_no_such_name_is_left_alone(name):
    """Paths, and URLs of files."""
    assert series_at(name) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "dicomweb:https://us3r:pa55@host/studies/1.2/series/3.4",
            "dicomweb:https://host/studies/1.2/series/3.4 was given",
        ),
        ("dicomweb:https://host/studies/1.2/series/3.4?token=pa55", "was given with a password, a query"),
        ("dicomweb:https://host/studies/1.2", "names no series of a DICOMweb server"),
        ("dicomweb:https://host/studies/1.2/series/x;y", "names no series"),
        ("dicomweb:ftp://us3r:pa55@host/studies/1.2/series/3.4", "was given with a password"),
        ("dicomweb:us3r:pa55", "dicomweb:... names no series"),
    ],
)
def test_a_wrong_name_is_refused_without_its_secrets(name, said, tmp_path, say):
    """Everywhere that slides are named, before anybody is asked."""
    for given in (name, Path(name)):
        with pytest.raises(RemoteError) as refused:
            open_slide(given)
        assert said in str(refused.value)
        assert not [word for word in ("us3r", "pa55") if word in str(refused.value) + shown(str(given))]
    (tmp_path / "t.csv").write_text(f"slide\n{name}\n")
    jobs, failures = list_slides([name, str(Path(name)), str(tmp_path / "t.csv")])
    assert (jobs, len(failures)) == ([], 3)
    code, out, err = say("info", name)
    assert code == 1
    for text in (*map(str, failures), out + err):
        assert said in " ".join(text.split())
        assert not [word for word in ("us3r", "pa55") if word in text]


def test_a_slide_on_a_server_is_the_slide_in_its_files(server, files):
    """Levels, scale and pixels; nobody looks at the label, which names the patient."""
    local = open_wsidicom(files[0])
    with open_slide(server.name()) as slide:
        assert (slide.reader, slide.vendor, slide.mpp) == ("dicomweb", "dicom", 0.5)
        assert slide.levels == local.levels
        for number, level in enumerate(slide.levels):
            size = level.width, level.height
            found = slide.read_tile((0, 0), size, slide.plan(level.scale, max(size)))
            assert np.array_equal(found, local.read_level(number, 0, 0, *size))
        mark = slide.fingerprint
    local.close()
    assert not [path for path in server.asked if ".7.99/" in path]
    assert len([path for path in server.asked if path.endswith("/metadata")]) == 1
    with pacs(files) as other:  # the same slide elsewhere
        assert fingerprint(Path(other.name())) == mark
        assert other.sent == 0
        other.instances[f"{SERIES}.0"].SOPInstanceUID = f"{SERIES}.55"
        assert fingerprint(Path(other.name())) != mark


@pytest.mark.parametrize("kind", ["jpeg", "jpegls", "jpeg2000", "grey"])
def test_real_slides_come_as_they_are_stored(kind, monkeypatch):
    """Of several makers and syntaxes; a server that would send JPEG of them is not asked to."""
    names = {
        "jpeg": "multi_frame_jpeg_camelyon_challenge_image.dcm",
        "jpegls": "highdicom_sm_image_jpegls.dcm",
        "jpeg2000": "multi_frame_jpeg2000_camelyon_challenge_image.dcm",
        "grey": "highdicom_sm_image_grayscale.dcm",
    }
    path = odd_slide(names[kind])
    channels = "0:0-255" if kind == "grey" else ()
    local = open_wsidicom(path)
    with pacs([path]) as server:
        server.lossy = kind in ("jpegls", "grey")
        with open_slide(server.name(), channels=channels) as slide:
            found = slide.read(Box(0, 0, *slide.size))
    if kind == "grey":
        assert np.array_equal(found[..., 0], np.minimum(local.read_channel(0, 0, 0, 0, *slide.size), 255))
    else:
        assert np.array_equal(found, local.read_level(0, 0, 0, *slide.size))
    local.close()


def test_processes_read_the_same_tiles(server, monkeypatch):
    """Each asks the server itself, and says what it was told."""
    monkeypatch.setattr(reader_processes, "_FEWEST", 2)
    with open_slide(server.name()) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=100, mpp=0.5, min_tissue=0))
        try:
            inline, apart = (
                np.concatenate([batch.pixels.copy() for batch in read_tiles(slide, grid, readers=readers)])
                for readers in (0, 2)
            )
            assert np.array_equal(inline, apart)
            assert len([path for path in server.asked if path.endswith("/metadata")]) == 3
            server.refuses = 403
            with pytest.raises(SlideError, match=r"does not let you in \(403\)"):
                list(read_tiles(slide, grid, readers=2))
        finally:
            close_readers()


@pytest.mark.parametrize(
    ("broken", "error", "said"),
    [
        ({"refuses": 401}, RemoteError, "does not let you in (401). Put a line for its host into ~/.netrc, or a token"),
        ({"refuses": 403}, RemoteError, "does not let you in (403)"),
        ({"refuses": 404}, RemoteError, "there is no series dicomweb:http://127.0.0.1"),
        ({"refuses": 503}, UnreachableError, "asked 4 times): HTTPError: 503"),
        ({"page": True}, RemoteError, "is not answered as a DICOMweb server does, but by a page"),
        ({"down": True}, UnreachableError, "refused"),
        ({"silent": True}, UnreachableError, "no answer for 0.05 s"),
        ({"bomb": True}, RemoteError, "is answered with more than 1,000,000 bytes"),
        (
            {"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2"},
            UnsupportedSlideError,
            "holds no level of a whole-slide image, but 3 other instances (modality CT)",
        ),
        ({"NumberOfFrames": 5}, UnsupportedSlideError, "12 of them, and it holds 5"),
        ({"Rows": 0}, UnsupportedSlideError, "no reader opens 1.2.840.99.7"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_goes_wrong_is_said(server, monkeypatch, broken, error, said):
    """What was asked, what was found, what to do; an error that may pass differs from one that will not."""
    name = server.name()
    for key, value in broken.items():
        if key == "down":
            name = name.replace(server.host, "127.0.0.1:1")
        elif key == "silent":
            monkeypatch.setattr(dicomweb, "SILENT_S", 0.05)
            server.silent.clear()
        elif key == "bomb":
            monkeypatch.setattr(dicomweb, "_MOST_BYTES", 1_000_000)
            server.bomb = True
        elif key[0].isupper():
            for instance in server.instances.values():
                setattr(instance, key, value)
        else:
            setattr(server, key, value)
    with pytest.raises(error) as refused:
        open_slide(name)
    assert said in str(refused.value)
    assert type(refused.value) is error or error is RemoteError
    assert "Jane" not in str(refused.value)


def test_a_server_that_fails_midway_fails_the_slide(server):
    """Tiles that did not come are not taken for damaged ones, and the attempt does not count as the slide's fault."""
    with open_slide(server.name()) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=256, mpp=0.5, min_tissue=0))
        server.after = server.sent + 1
        with pytest.raises(UnreachableError, match="503"):
            list(read_tiles(slide, grid, readers=0))
    for error in (UnreachableError("503"), SlideError("damaged")):  # as processes that read tell their parent
        found = heard(told(error))
        assert (type(found), str(found)) == (type(error), str(error))


def test_a_frame_that_does_not_decode_is_an_unreadable_tile(server):
    """The server is not to blame."""
    one = server.instances[f"{SERIES}.0"]
    at = one.PixelData.index(b"\xff\xda") + 2
    one.PixelData = one.PixelData[: at - 2] + bytes(40) + one.PixelData[at + 38 :]
    with open_slide(server.name()) as slide:
        with pytest.raises(PixelError, match=r"1\.2\.840\.99\.7: level 0 at \(0, 0\)"):
            slide.read(Box(0, 0, 100, 100))
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=256, mpp=0.5, min_tissue=0))
        ok = np.concatenate([batch.ok for batch in read_tiles(slide, grid, readers=0)])
    assert (ok.sum(), ok[0]) == (len(grid) - 1, False)


def test_a_line_of_tiles_is_a_question_or_two(server):
    """Each frame comes once, and none that no tile needs; what is read in bulk is what is read alone."""
    with open_slide(server.name()) as slide:
        grid = lay_grid(slide.size, slide.mpp, TileSpec(size_px=100, mpp=0.5, min_tissue=0))
        grid = replace(grid, xy=grid.xy[20:], tissue=grid.tissue[20:])
        before = len(server.asked)
        found = np.concatenate([batch.pixels.copy() for batch in read_tiles(slide, grid, readers=0)])
        asked = [path.rpartition("/")[2].split(",") for path in server.asked[before:]]
        alone = [slide.read(Box(x, y, 100, 100)) for x, y in grid.xy.tolist()]
    assert np.array_equal(found, alone)
    assert sorted(map(int, itertools.chain(*asked))) == [*range(1, 13)]
    assert len(asked) == 2


def test_many_frames_are_asked_for_in_parts(server, monkeypatch):
    """As their numbers stand in a URL."""
    monkeypatch.setattr(dicomweb, "_AT_ONCE", 5)
    with open_slide(server.name()) as slide:
        slide.read(Box(0, 0, *slide.size))
    assert [path.rpartition("/")[2] for path in server.asked[-3:]] == ["1,2,3,4,5", "6,7,8,9,10", "11,12"]
    server.short = True
    with open_slide(server.name()) as slide, pytest.raises(RemoteError, match=r"asked for 5 frames of .*, and 4 came"):
        slide.read(Box(0, 0, *slide.size))


@pytest.mark.parametrize("way", ["token", "netrc"])
def test_credentials_are_sent_and_told_to_nobody(server, files, tmp_path, monkeypatch, say, caplog, way):
    """A slide is embedded, and nothing that is printed, logged or written holds them."""
    caplog.set_level("DEBUG")
    # `bad_slides.plan` sets it for good, as children need it: undone with this test.
    monkeypatch.setattr("wsi_umedpt.store.slide_store.CHUNK_ROWS", bad_slides.CHUNK)
    if way == "token":
        monkeypatch.setenv(dicomweb.TOKENS, f"other.org=0THER {server.host}=5ECRET")
        server.wants = "Bearer 5ECRET"
    else:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login us3r password 5ECRET\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        server.wants = "Basic dXMzcjo1RUNSRVQ="
    out = tmp_path / "out"
    jobs, failures = list_slides([server.name()])
    first = run_slides(jobs, *bad_slides.plan(out))
    assert (failures, [one.status for one in first]) == ([], ["done"])
    asked = len(server.asked)
    again = run_slides(jobs, *bad_slides.plan(out))
    assert [one.status for one in again] == ["already"]
    assert server.asked[asked:] == [f"/studies/1.2/series/{SERIES}/metadata"]
    server.wants = "Bearer of something else"
    (out / f"{SERIES}.zarr").rename(tmp_path / "kept.zarr")
    refused = run_slides(jobs, *bad_slides.plan(out))
    assert "does not let you in (403)" in refused[0].reason
    printed = say("info", server.name())
    assert printed[0] == 1
    heard_of = "".join(map(str, (*first, *again, *refused, *printed))) + caplog.text
    stored = "".join(path.read_bytes().decode("latin-1") for path in out.rglob("*") if path.is_file())
    assert not [word for word in ("5ECRET", "us3r", "dXMzcjo1RUNSRVQ", "0THER", "Jane") if word in heard_of + stored]
    assert not [name for name in (server.host, "/studies/") if name in stored]


def test_a_token_goes_to_its_host_alone(server, files, monkeypatch):
    """Neither to another server, nor to one that this one sends to."""
    monkeypatch.setenv(dicomweb.TOKENS, f"{server.host}=5ECRET")
    with pacs(files) as other:
        with open_slide(other.name()):
            pass
        assert set(other.signed) == {""}
        server.sends_to, other.signed = f"http://{other.host}", []
        with open_slide(server.name()) as slide:
            assert slide.size == (900, 700)
        assert set(other.signed) == {""}
    assert set(server.signed) == {"Bearer 5ECRET"}
    monkeypatch.setenv(dicomweb.TOKENS, "5ECRET")
    with pytest.raises(RemoteError, match="holds HOST=TOKEN") as refused:
        open_slide(server.name())
    assert "5ECRET" not in str(refused.value)


def test_tables_name_slides_on_servers(tmp_path):
    """With an id of the user's own; named twice it is one slide."""
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide,slide_id\n{NAME},p1\n{NAME.replace('4.5.6', '4.5.7')},\n")
    jobs, failures = list_slides([str(table), NAME.replace("4.5.6", "4.5.7") + "/"])
    assert failures == []
    assert [(job.name, job.slide_id) for job in jobs] == [(NAME, "p1"), (NAME.replace("4.5.6", "4.5.7"), "4.5.7")]
    with pytest.raises(RemoteError, match="leave out `stage`"):
        files_of(jobs[0])


def test_info_knows_slides_on_servers(server, say):
    """As it knows files; the viewer says that it opens those alone."""
    code, out, _ = say("info", server.name())
    assert code == 0
    assert "900 x 700 px" in out
    assert "dicom, read by dicomweb" in out
    code, _, err = say("view", server.name())
    assert code == 1
    assert "napari opens files" in err


def test_the_extra_that_is_missing_is_named(monkeypatch):
    """By the error, and by `doctor`."""
    monkeypatch.setitem(sys.modules, "wsidicom", None)
    with pytest.raises(UnsupportedSlideError, match=r"dicomweb: needs wsidicom: pip install 'wsi-umedpt\[dicom\]'"):
        open_slide(NAME)
    assert "DICOMweb" in EXTRAS["wsidicom"][1]
