"""Names of files and cells of tables steer nothing: no line is forged, no sequence reaches a terminal."""

import re
import sys
from pathlib import Path

import pytest

from wsi_umedpt import cli
from wsi_umedpt.batch.coordination.result import Outcome
from wsi_umedpt.cli.progress import Bars
from wsi_umedpt.cli.terminal import say, say_text
from wsi_umedpt.io.printable import printable_line
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.testing import tissue_image, write_pyramid

FORGED = "0 failed: all is well"
NASTY = {
    "escape": "a\x1b[2J\x1b]0;owned\x07b",
    "newline": f"a\n{FORGED}\nb",
    "carriage-return": f"a\r{FORGED}",
    "bidi": "a\u202egvs.b",
    "c1": "a\x9b31mb",
    "line-separator": f"a\u2028{FORGED}",
    "no-text": "a\udcffb",
}
STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def run(*arguments: str) -> int | str | None:
    sys.argv = ["wsi-umedpt", *arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.fixture
def keep_argv(monkeypatch):
    monkeypatch.setattr(sys, "argv", [])


@pytest.mark.usefixtures("keep_argv")
@pytest.mark.parametrize("kind", NASTY)
@pytest.mark.parametrize(
    "command",
    [
        "info", "embed", "tissue", "status", "report", "verify", "picture", "segment", "export", "heatmap", "mil",
        "probe", "encoders", "pretrain",
    ],
)  # fmt: skip
def test_a_name_that_would_steer_the_terminal(command, kind, tmp_path, capsys):
    """Of a file that cannot be read, and of one that can; of all commands that name it."""
    folder = tmp_path / "slides"
    folder.mkdir()
    name = NASTY[kind].replace("/", "")
    (folder / f"{name}.svs").write_bytes(b"no slide")
    write_pyramid(folder / f"good {name}.tif", tissue_image(256, 256)[0], tile=128)
    arguments = {
        "embed": [str(folder), "-o", str(tmp_path / "out"), "--dry-run"],
        "tissue": [str(folder), "-o", str(tmp_path / "t.png")],
        "status": [str(folder / name)],
        "verify": [str(folder / f"{name}.zarr")],
        "picture": [str(folder / f"{name}.zarr"), "-o", str(tmp_path / "p.png")],
        "report": [str(folder / name), "-o", str(tmp_path / "r.html")],
        "segment": [str(folder), "-o", str(tmp_path / "out"), "-m", name],
        "export": [str(folder / f"{name}.zarr"), "-o", str(tmp_path / "o.geojson")],
        "heatmap": [str(folder / f"{name}.zarr"), "-o", str(tmp_path / "h.csv")],
        "mil": ["check", str(folder / f"{name}.csv"), str(folder), "-t", name],
        "probe": ["fit", str(folder), "-l", str(folder / f"{name}.csv"), "-o", str(tmp_path / "p.json")],
        "encoders": ["show", name],
        "pretrain": [str(folder / f"{name}.toml"), "-o", str(tmp_path / "run")],
    }.get(command, [str(folder)])
    assert run(command, *arguments) == 1
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert not STEERS.search(text)
        assert not re.search(f"(?m)^{FORGED}", text)


@pytest.mark.usefixtures("keep_argv")
def test_a_cell_of_a_table_that_would_steer_the_terminal(tmp_path, capsys):
    """In any column, also where it is refused."""
    for column in ("slide", "slide_id", "mpp", "mask"):
        row = {"slide": "gone.svs", "slide_id": "", "mpp": "", "mask": "", column: f"x\x1b[31m\n{FORGED}"}
        cells = ",".join(f'"{cell}"' for cell in row.values())
        (tmp_path / "t.csv").write_text(f"slide,slide_id,mpp,mask\n{cells}\n")
        assert run("embed", str(tmp_path / "t.csv"), "-o", str(tmp_path / "out"), "--dry-run") == 1
        printed = capsys.readouterr()
        for text in (printed.out, printed.err):
            assert not STEERS.search(text)
            assert not re.search(f"(?m)^{FORGED}", text)


@pytest.mark.parametrize("kind", NASTY)
def test_progress_is_told_in_lines_of_its_own(kind, capsys):
    """What became of a slide, that it waits, that the run was stopped."""
    bars = Bars(1)
    job = SlideJob(Path("x.svs"), NASTY[kind])
    bars.slide_ended(Outcome(job, "failed", reason=NASTY[kind]))
    bars.slide_again(Outcome(job, "failed", reason=NASTY[kind], again_s=1.0))
    bars.stopped(Path(NASTY[kind]))
    printed = capsys.readouterr().err
    assert not STEERS.search(printed)
    assert len(printed.splitlines()) == 3


def test_what_is_harmless_is_shown_as_it_is(capsys):
    """Other scripts, accents, emoji; a message of several lines keeps them, set in."""
    text = "Gewebe \u00e4\u00f6\u00fc \u7d44\u7e54 \u0627\u0644 \U0001f52c [bold]x[/bold] %s"
    assert printable_line(text) == text
    say(text)
    say_text("first\nsecond\x1b[2J")
    out = capsys.readouterr().out
    assert out == f"{text}\nfirst\n  second\ufffd[2J\n"
