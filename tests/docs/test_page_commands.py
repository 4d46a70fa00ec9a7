"""What README and docs tell people to type works as it is written."""

import csv
import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import wsi_umedpt
from tests.support import ROOT
from tests.support.channel_slides import planes, write_qptiff
from wsi_umedpt.cli import app, main
from wsi_umedpt.geometry import Box
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.store.objects_io import read_objects
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.testing import write_pyramid

PAGES = [ROOT / "README.md", ROOT / "plugins/napari-wsi-umedpt/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?^```(?P<kind>sh|python)\n(?P<text>.*?)^```", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    kind: str
    """sh or python."""
    text: str
    reason: str | None
    """Why it is not run; None where it is."""

    @property
    def commands(self) -> list[list[str]]:
        """Words of each command, without comments; commands joined by && are two."""
        lines = self.text.replace("\\\n", " ").replace(" && ", "\n").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["kind"], match["text"], match["reason"]) for match in found]


def title(page: Path) -> str:
    """The page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


MANY = {"docs/how-to/slide-classifiers.md"}
"""Pages whose `out/` holds the stores of a cohort."""
WITH_BLOCKS = [page for page in PAGES if any(not block.reason for block in blocks_of(page))]
NOT_RUN = [page for page in PAGES if any(block.reason for block in blocks_of(page))]


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=title)
def test_a_page_does_what_it_says(page, page_folder):
    """Its blocks in order, in a folder with the slides, tables and stores that they name."""
    page_folder("many" if title(page) in MANY else "one")
    names: dict[str, object] = {}
    for block in blocks_of(page):
        if block.reason:
            continue
        if block.kind == "python":
            exec(compile(block.text, title(page), "exec"), names)  # noqa: S102 -- the page's own text
            continue
        for program, *words in block.commands:
            assert program == "wsi-umedpt", f"{program} is not run here: say why (<!-- not run: ... -->)"
            run(*words)


@pytest.mark.parametrize("page", NOT_RUN, ids=title)
def test_what_is_not_run_is_understood(page):
    """Commands and flags are those that there are."""
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for block in blocks_of(page):
        if block.reason and block.kind == "sh":
            for program, *words in block.commands:
                if program == "wsi-umedpt":
                    app.parse_args(words, exit_on_error=False, print_error=False)
                if program == "make":
                    assert words[0] in targets


def test_every_command_is_in_a_block_that_is_looked_at():
    """No other kind of block, indented or fenced, holds lines that people would type."""
    for page in PAGES:
        text = re.sub(r"^```(sh|bash)\n.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        assert not re.findall(r"^\s*(?:\$ )?wsi-umedpt [a-z].*$", text, re.M), title(page)


SIDE = 1120
"""Of the part of the demo slide that pages call slide.svs: 5 tiles of 224 px."""


def run(*words: str) -> None:
    """Run a command line in this process, as `wsi-umedpt` does."""
    before, sys.argv = sys.argv, ["wsi-umedpt", *words]
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = before
    assert not ended.value.code, f"wsi-umedpt {' '.join(words)}: exit code {ended.value.code}"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, real_slide: Path) -> Path:
    """Folders `one`, for pages about a slide, and `many`, for those about a cohort of patients."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        for name, prepare in (("one", _one_slide), ("many", _cohort)):
            (folder / name).mkdir()
            patch.chdir(folder / name)
            prepare(real_slide)
    return folder


@pytest.fixture
def page_folder(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Go to a copy of one of them."""

    def enter(name: str) -> None:
        shutil.copytree(prepared / name, tmp_path / "here")
        monkeypatch.chdir(tmp_path / "here")

    return enter


def _one_slide(real_slide: Path) -> None:
    """slides/slide.svs, what was drawn on it, panel.qptiff, and out/slide.zarr with features, nuclei and scores."""
    with open_slide(real_slide) as slide:
        pixels = slide.read(Box(500, 700, SIDE, SIDE))
    Path("slides").mkdir()
    write_pyramid(Path("slides/slide.svs"), pixels)
    shutil.copy("slides/slide.svs", "slide.svs")
    write_qptiff(Path("panel.qptiff"), planes(3), ("DAPI", "CD3", "CD8"))
    half = SIDE // 2
    tumour, stroma = ([[0, 0], [half, SIDE]], [[half, 0], [SIDE, SIDE]])
    Path("annotations").mkdir()
    Path("annotations/slide.geojson").write_text(json.dumps(_areas(tumour=tumour, stroma=stroma)), encoding="utf-8")
    Path("slide.geojson").write_text(json.dumps(_areas(tissue=[[0, 0], [SIDE, half]])), encoding="utf-8")
    corners = "".join(
        f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(_ring([[0, 0], [half, half]]))
    )
    Path("slide.xml").write_text(
        "<ASAP_Annotations><Annotations>"
        f'<Annotation Name="a" Type="Polygon" PartOfGroup="tissue"><Coordinates>{corners}</Coordinates></Annotation>'
        "</Annotations></ASAP_Annotations>",
        encoding="utf-8",
    )
    run("embed", "slides/", "-o", "out/")
    run("segment", "slides/", "-o", "out/", "--heads", "nuclei")
    _label_cells()
    run("probe", "fit", "out/", "-l", "annotations/", "-o", "tumour.json")
    run("probe", "predict", "out/", "-p", "tumour.json")
    run("report", "out/", "-o", "report.html")
    run("export", "out/", "-o", "job/", "--features", "trident")


def _label_cells() -> None:
    """cells.csv: the largest nuclei and the smallest."""
    objects, _ = read_objects(SlideStore.open("out/slide.zarr"))
    order = objects.measure("area_um2").argsort()
    rows = [["slide", "x", "y", "class"]]
    for name, chosen in (("small", order[:12]), ("large", order[-12:])):
        rows += [["slide", *objects.centroid[row].round(1).tolist(), name] for row in chosen]
    with Path("cells.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _cohort(real_slide: Path) -> None:
    """labels.csv of ten patients, their stores in out/, and a new slide in new/: parts of the demo slide."""
    Path("slides").mkdir()
    Path("fresh").mkdir()
    rows = [["slide", "patient", "grade"]]
    with open_slide(real_slide) as slide:
        for n in range(10):
            image = slide.read(Box(600 + n % 2 * 350, 550 + n // 2 * 350, 672, 672))
            high = n % 4 > 1  # and darker
            write_pyramid(Path(f"slides/S{n:02}.svs"), image // 4 * 3 if high else image)
            rows.append([f"S{n:02}", f"P{n:02}", "high" if high else "low"])
        write_pyramid(Path("fresh/slide.svs"), slide.read(Box(900, 1300, 672, 672)))
    with Path("labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    run("embed", "slides/", "-o", "out/")
    run("embed", "fresh/", "-o", "new/")


def _ring(box: list[list[int]]) -> list[list[int]]:
    (left, top), (right, bottom) = box
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def _areas(**boxes: list[list[int]]) -> dict[str, object]:
    """QuPath's annotations: rectangles by the name of their class."""
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [_ring(box)]},
                "properties": {"objectType": "annotation", "classification": {"name": name}},
            }
            for name, box in boxes.items()
        ],
    }


def test_the_api_page_has_every_public_name():
    """And no other; `plot` is there as its module."""
    page = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: wsi_umedpt\.([\w.]+)$", page, re.M)
    assert sorted("plot" if name == "plotting.plot" else name for name in named) == sorted(wsi_umedpt.__all__)


SPANS = re.compile(r"`wsi-umedpt ([^`\n]+)`")


@pytest.mark.parametrize("page", [page for page in PAGES if SPANS.search(page.read_text(encoding="utf-8"))], ids=title)
def test_flags_in_sentences_and_tables_are_those_of_the_command(page):
    """A command in the middle of a line may leave out what it works on, and names no flag that it has not."""
    unknown = []
    for span in SPANS.findall(page.read_text(encoding="utf-8")):
        command, words = app, shlex.split(span)
        while words and words[0] in command:
            command = command[words.pop(0)]
        takes = command.assemble_argument_collection() if command.default_command else ()
        known = {"--help", "--version", *(name for argument in takes for name in argument.names)}
        unknown += [f"{word}: {span}" for word in words if word.startswith("-") and word not in known]
    assert unknown == []
