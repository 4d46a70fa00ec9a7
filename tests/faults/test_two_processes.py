"""Several processes on one folder, and slide ids that mean harm."""

import csv
import os
import shutil

import pytest

from wsi_umedpt.batch.jobs.manifest import list_slides
from wsi_umedpt.errors import ManifestError
from wsi_umedpt.slides.slide_id import safe_id, why_unsafe
from wsi_umedpt.store.verify import problems_of
from wsi_umedpt.testing import tissue_image, write_pyramid

SLIDES = 3


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    return [
        [str(write_pyramid(folder / f"{n}.svs", tissue_image(768, 768, seed=n)[0], tile=128)), f"s{n}"]
        for n in range(SLIDES)
    ]


@pytest.fixture(scope="module")
def alone(lab, slides, tmp_path_factory):
    """The contents of each store when one process runs alone."""
    out = tmp_path_factory.mktemp("alone")
    assert {o["status"] for o in lab.do("embed", slides=slides, out=str(out))} == {"done"}
    return {name: lab.contents(out / f"{name}.zarr") for _, name in slides}


@pytest.mark.parametrize(
    ("processes", "backwards", "encoders"),
    [
        pytest.param(2, False, ["one.test"], id="two-in-step"),
        pytest.param(2, True, ["one.test"], id="two-head-on"),
        pytest.param(4, False, ["one.test"], id="four"),
    ],
)
def test_processes_share_a_folder(lab, slides, alone, tmp_path, processes, backwards, encoders):
    """All that start together succeed with every slide, and the stores are those of a lone run."""
    for repeat in range(3):
        out = tmp_path / str(repeat)
        lab.start(
            *(
                {
                    "task": "embed",
                    "out": str(out),
                    "encoders": encoders,
                    "delay": 0.004 * (n + repeat),
                    "slides": slides[::-1] if backwards and n % 2 else slides,
                }
                for n in range(processes)
            )
        )
        answers = lab.wait()
        assert [a.code for a in answers] == [0] * processes
        outcomes = [o for a in answers for o in a.value]
        assert [o["reason"] for o in outcomes if o["status"] == "failed"] == []
        for name, expected in alone.items():
            assert problems_of(out / f"{name}.zarr") == []
            assert lab.difference(lab.contents(out / f"{name}.zarr"), expected) == ""
        assert lab.leftovers(out) == ""


def test_those_who_wait_for_one_that_dies_all_succeed(lab, slides, alone, tmp_path):
    """One of four processes is killed while it writes: the other three wait, and one of them finishes its work."""
    for repeat in range(4):
        out = tmp_path / str(repeat)
        slow = {"task": "embed", "out": str(out), "slides": slides[:1], "delay": 0.05}
        pids = lab.start(slow, *[{**slow, "start_after": 0.12} for _ in range(3)])
        assert not lab.ended(0.25)
        os.kill(pids[0], 9)
        answers = lab.wait()
        assert [a.code for a in answers] == [-9, 0, 0, 0]
        assert [a.value[0]["reason"] for a in answers[1:]] == [""] * 3
        assert lab.difference(lab.contents(out / "s0.zarr"), alone["s0"]) == ""


HOSTILE = {
    "../x": "dot",
    "x/../../y": "contains '/'",
    "..": "dot",
    "/etc/evil": "contains '/'",
    "a/../../b": "contains '/'",
    "..\\x": "dot",
    "C:\\x": "contains",
    "CON": "Windows",
    "con.txt": "Windows",
    "x" * 300: "longer than",
    ".hidden": "dot",
    "trailing.": "dot",
    "line\nbreak": "contains",
    "=cmd|x": "contains",
    "ü": "contains",
}


def test_hostile_ids_are_refused_one_by_one(slides, tmp_path):
    """Each is listed with its line and its reason; the slides beside it go on."""
    table = tmp_path / "cohort.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide", "slide_id"])
        for n, hostile in enumerate(HOSTILE):
            path = tmp_path / f"{n}.svs"
            shutil.copyfile(slides[0][0], path)
            writer.writerow([path, hostile])
        writer.writerow([slides[1][0], "good"])
    jobs, failures = list_slides([str(table)])
    assert [job.slide_id for job in jobs] == ["good"]
    assert len(failures) == len(HOSTILE)
    for failure, (hostile, reason) in zip(failures, HOSTILE.items(), strict=True):
        assert failure.name.startswith(str(table))
        assert reason in failure.reason, hostile


def test_a_table_with_bytes_of_0_is_refused(tmp_path):
    """It is no text, whatever its other rows say."""
    table = tmp_path / "cohort.csv"
    table.write_bytes(b"slide,slide_id\na.svs,nul\0byte\n")
    with pytest.raises(ManifestError, match="bytes of 0"):
        list_slides([str(table)])


@pytest.mark.parametrize("name", [*HOSTILE, "nul\0byte", "a b", "ok-1", "a" * 200, "é" * 100, "\udcff", " ", "-rf"])
def test_a_file_name_becomes_a_safe_id(name):
    """Whatever a slide's file is called, its id is one that would be accepted from a user."""
    assert why_unsafe(safe_id(name)) is None
    assert safe_id(name) == name or safe_id(name)[-9] == "-"


def test_a_slide_listed_twice_under_two_ids_is_not_dropped_in_silence(slides, tmp_path):
    """Two rows of a CSV for one file, with ids of their own: each becomes a job or a failure."""
    table = tmp_path / "cohort.csv"
    table.write_text(f"slide,slide_id\n{slides[0][0]},one\n{slides[0][0]},two\n")
    jobs, failures = list_slides([str(table)])
    assert len(jobs) + len(failures) == 2


def test_an_id_that_leaves_the_folder_fails_even_without_a_manifest(lab, slides, tmp_path):
    """The run checks once more, for callers who make jobs of their own."""
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (out / "link.zarr").symlink_to(tmp_path / "elsewhere")
    ids = ["../x", str(tmp_path / "abs"), "a/b", "link", "fine"]
    outcomes = lab.do("embed", slides=[[slides[0][0], name] for name in ids], out=str(out))
    assert [o["status"] for o in outcomes] == ["failed"] * 4 + ["done"]
    assert all("would leave the folder" in o["reason"] for o in outcomes[:4])
    made = {p.name for p in tmp_path.rglob("*") if out / "fine.zarr" not in p.parents}
    assert made == {"deep", "out", "elsewhere", "link.zarr", "fine.zarr", ".fine.zarr.lock", ".runs", "fine.json"}
