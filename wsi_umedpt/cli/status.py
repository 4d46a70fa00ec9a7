"""`wsi-umedpt status`: how the slides of an output folder stand, while runs are at work or after."""

from collections.abc import Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from wsi_umedpt.cli.options import AsJson
from wsi_umedpt.cli.terminal import say_json
from wsi_umedpt.messages import counted, duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wsi_umedpt.batch.jobs.run_files import RunNote
    from wsi_umedpt.batch.reporting.status import Board


def status(
    out: Path,
    slides: list[str] | None = None,
    /,
    *,
    once: bool = False,
    every: Annotated[float, Parameter(alias="-n")] = 2.0,
    failures: int = 8,
    as_json: AsJson = False,
) -> int:
    """Show how the slides of an output folder stand: whole, running, failed and why, tiles per second, time left.

    Shown anew until Ctrl-C; on no terminal, and with --once, printed once. Exit code 1 if any slide failed,
    has a record that says done and no store, or could not be used by a run, as where two share an id.

    Examples
    --------
        wsi-umedpt status out/

        wsi-umedpt status out/ slides/ --once

    Parameters
    ----------
    out
        Folder of the stores, as given to `embed -o`.
    slides
        Those that count; by default the slides that the runs were given that are at work, or else the last one.
    once
        Print once and exit.
    every
        Seconds between looks.
    failures
        Number of the last failures that are shown.
    as_json
        Print once, one JSON object: all slides, how many stand in which way, speed, and runs.
    """
    import time

    from rich.console import Console
    from rich.live import Live

    from wsi_umedpt.batch.jobs.manifest import list_slides
    from wsi_umedpt.batch.jobs.run_files import read_runs
    from wsi_umedpt.batch.reporting.status import BAD, look
    from wsi_umedpt.errors import OptionError, StoreError

    if not every > 0:
        raise OptionError(f"the time between looks (--every) must be over 0 seconds, got {every:g}")
    if not out.is_dir():
        raise StoreError(f"there is no folder {out}; name the one that was given to embed -o")
    named = {job.slide_id for job in list_slides(slides)[0]} if slides else None

    def show(board: "Board", most: int, *, brief: bool = False) -> "RenderableType":
        runs = read_runs(out)
        return shown(board, slides_of(runs) if named is None else named, most, runs, brief=brief)

    console = Console()
    if not console.is_terminal:
        console.width = 120
    board = look(out)
    if as_json:
        say_json(_as_dict(board, read_runs(out), named))
    elif once or not console.is_terminal:
        console.print(show(board, failures))
    else:
        try:
            # What does not fit on the screen would be cut off at its end, which failures are.
            failures = max(1, min(failures, console.height // 2 - 7))
            with Live(show(board, failures, brief=True), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(every)
                    board = look(out, board)
                    live.update(show(board, failures, brief=True), refresh=True)
        except KeyboardInterrupt:
            pass  # how one ends looking
    return 1 if board.having(*BAD) or any(run.failures for run in read_runs(out)) else 0


def _as_dict(board: "Board", runs: "Sequence[RunNote]", named: Set[str] | None) -> dict[str, Any]:
    asked = slides_of(runs) if named is None else named
    slides = [
        {
            "slide_id": seen.slide_id,
            "status": seen.status,
            "reason": seen.reason,
            **{key: getattr(seen.record, key, None) for key in ("attempts", "started", "ended", "seconds", "tiles")},
        }
        for seen in board.slides.values()
    ]
    per_s = dict(zip(("slides_per_s", "tiles_per_s"), board.speed(), strict=True))
    return {
        "out": str(board.out),
        "counts": board.counts,
        "not_begun": None if asked is None else sorted(asked - board.slides.keys()),
        **per_s,
        "slides": sorted(slides, key=lambda slide: slide["slide_id"]),
        "runs": [
            {
                "live": run.live,
                "started": run.started,
                "tiles_per_s": run.tiles_per_s,
                "slides": len(run.slides),
                "failures": [{"slide_id": slide_id, "reason": reason} for slide_id, reason in run.failures],
            }
            for run in runs
        ],
    }


def slides_of(runs: "Sequence[RunNote]") -> frozenset[str] | None:
    """Ids of the slides that runs were given: those that are at work, else the last one; None where no run said it."""
    counted = [run for run in runs if run.live] or runs[-1:]
    return frozenset[str]().union(*(run.slides for run in counted)) if counted else None


def shown(
    board: "Board", asked: Set[str] | None, most: int, runs: "Sequence[RunNote]" = (), *, brief: bool = False
) -> "RenderableType":
    """Render the status of a folder.

    Parameters
    ----------
    asked
        Ids of the slides that are to be done, where they are known.
    most
        Failures, and running slides, that are listed.
    runs
        Notes of the runs.
    brief
        A line for each failure.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from wsi_umedpt.batch.reporting.status import BAD, SLIDE_STATUSES, seconds_since_1970
    from wsi_umedpt.cli.terminal import shown
    from wsi_umedpt.io.printable import printable_line

    parts: list[RenderableType] = []
    counts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    counts.add_column(justify="right")
    counts.add_column()
    counts.add_column(style="dim")
    for status, count in board.counts.items():
        colour = "red" if status in BAD else "green" if status == "whole" else "yellow"
        counts.add_row(f"{count}", Text(status, colour), SLIDE_STATUSES[status])
    left = None
    if asked is not None:
        begun = sum(slide_id in board.slides for slide_id in asked)
        counts.add_row(f"{len(asked) - begun}", Text("not begun"), f"of {counted(len(asked), 'slide')}")
        stand = {slide_id: board.slides[slide_id].status for slide_id in asked if slide_id in board.slides}
        left = sum(stand.get(slide_id) not in ("whole", "quarantined") for slide_id in asked)
    parts.append(counts if counts.row_count else Text("no slide was begun here yet"))
    parts += _speed(board, runs, left)
    if running := board.having("running"):
        table = Table(box=None, title="running", title_justify="left", title_style="bold", padding=(0, 2, 0, 0))
        for heading in ("slide", "for", "attempt", "on"):
            table.add_column(heading, overflow="fold")
        for seen in sorted(running, key=lambda seen: seen.record.started if seen.record else "")[:most]:
            record = seen.record
            since = seconds_since_1970(record.started) if record else None
            long = duration(max(0.0, board.at - since)) if since is not None else ""
            where = printable_line(f"{record.host}, process {record.pid}") if record else ""
            attempts = str(record.attempts) if record else ""
            table.add_row(Text(printable_line(seen.slide_id)), long, attempts, Text(where))
        parts += [Text(), table]
        parts += [Text(f"and {len(running) - most} more")] if len(running) > most else []
    bad = [(seen.slide_id, str(seen.status), seen.reason) for seen in board.having(*BAD)]
    bad += [
        (slide_id, "not used", reason) for slide_id, reason in dict.fromkeys(f for run in runs for f in run.failures)
    ]
    if bad:
        table = Table(box=None, title="last failures", title_justify="left", title_style="bold", padding=(0, 2, 0, 0))
        for heading in ("slide", "", "why"):
            table.add_column(heading, overflow="fold")
        for slide_id, how, reason in bad[:most]:
            why = Text(" ".join(shown(reason).split())[:500], no_wrap=brief)
            why.overflow = "ellipsis" if brief else "fold"
            table.add_row(Text(printable_line(slide_id)), Text(how, "red"), why)
        parts += [Text(), table]
        parts += [Text(f"and {len(bad) - most} more: wsi-umedpt report")] if len(bad) > most else []
    return Group(*parts)


def _speed(board: "Board", runs: "Sequence[RunNote]", left: int | None) -> "list[RenderableType]":
    """Render the speed of a run and the time left: by tiles, where running processes report them."""
    from rich.text import Text

    from wsi_umedpt.batch.jobs.run_files import seconds_left

    slides_s, tiles_s = board.speed()
    live = sum(run.tiles_per_s for run in runs if run.live)
    if not slides_s and not live:
        return []
    words = [f"{tiles_s if slides_s else live:.0f} tiles/s"]
    words += [f"{60 * slides_s:.3g} slides/min in the last minutes"] if slides_s else []
    running = len(board.having("running"))
    if left and not running:
        words.append(f"{left} to do and nothing running")
    elif left:
        # Of a slide that is worked on half is done, by and large.
        tiles = [seen.record.tiles for seen in board.having("whole") if seen.record and seen.record.tiles is not None]
        seconds = seconds_left(runs, left - running / 2, sum(tiles) / len(tiles) if tiles else None)
        if seconds is None and slides_s:
            seconds = left / slides_s
        words += [f"{duration(seconds)} left"] if seconds is not None else []
    elif left == 0:
        words.append("all done")
    return [Text(", ".join(words))]
