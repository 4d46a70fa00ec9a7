"""`wsi-umedpt status`: how the slides of an output folder stand, while runs are at work or after."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.console import RenderableType

    from wsi_umedpt.cohort.standing import Board


def status(
    out: Path,
    slides: list[str] | None = None,
    /,
    *,
    once: bool = False,
    every: Annotated[float, Parameter(alias="-n")] = 2.0,
    failures: int = 8,
) -> int:
    """Show how the slides of an output folder stand: whole, running, failed and why, tiles per second, time left.

    Shown anew until Ctrl-C; on no terminal, and with --once, printed once. Exit code 1 if any slide failed,
    or has a record that says done and no store.

    Examples
    --------
        wsi-umedpt status out/

        wsi-umedpt status out/ slides/ --once

    Parameters
    ----------
    out
        Folder of the stores, as given to `embed -o`.
    slides
        The slides that were given to `embed`: those that were not begun are counted, and the time left is told.
    once
        Print once and exit.
    every
        Seconds between looks.
    failures
        How many of the last failures are shown.
    """
    import time

    from rich.console import Console
    from rich.live import Live

    from wsi_umedpt.cohort.manifest import list_slides
    from wsi_umedpt.cohort.standing import BAD, look
    from wsi_umedpt.errors import OptionError, StoreError

    if not every > 0:
        raise OptionError(f"the time between looks (--every) must be over 0 seconds, got {every:g}")
    if not out.is_dir():
        raise StoreError(f"there is no folder {out}; name the one that was given to embed -o")
    asked = {job.slide_id for job in list_slides(slides)[0]} if slides else None
    console = Console()
    if not console.is_terminal:
        console.width = 120
    board = look(out)
    if once or not console.is_terminal:
        console.print(shown(board, asked, failures))
    else:
        try:
            # What does not fit on the screen would be cut off at its end, which failures are.
            failures = max(1, min(failures, console.height // 2 - 7))
            with Live(shown(board, asked, failures, brief=True), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(every)
                    board = look(out, board)
                    live.update(shown(board, asked, failures, brief=True), refresh=True)
        except KeyboardInterrupt:
            pass  # how one ends looking
    return 1 if board.having(*BAD) else 0


def shown(board: "Board", asked: set[str] | None, most: int, *, brief: bool = False) -> "RenderableType":
    """What is printed of a look at a folder.

    Parameters
    ----------
    asked
        Ids of the slides that are to be done, where they are known.
    most
        Failures, and running slides, that are listed.
    brief
        A line for each failure.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from wsi_umedpt.cohort.standing import BAD, STANDINGS, seconds_since_1970
    from wsi_umedpt.printable import printable_line

    parts: list[RenderableType] = []
    counts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    counts.add_column(justify="right")
    counts.add_column()
    counts.add_column(style="dim")
    for standing, count in board.counts.items():
        colour = "red" if standing in BAD else "green" if standing == "whole" else "yellow"
        counts.add_row(f"{count}", Text(standing, colour), STANDINGS[standing])
    left = None
    if asked is not None:
        begun = sum(slide_id in board.slides for slide_id in asked)
        counts.add_row(f"{len(asked) - begun}", Text("not begun"), f"of {len(asked)} slides")
        stand = {slide_id: board.slides[slide_id].standing for slide_id in asked if slide_id in board.slides}
        left = sum(stand.get(slide_id) not in ("whole", "quarantined") for slide_id in asked)
    parts.append(counts if counts.row_count else Text("no slide was begun here yet"))
    slides_s, tiles_s = board.speed()
    if slides_s:
        rest = "" if left is None else f", {_duration(left / slides_s)} left" if left else ", all done"
        rest = rest if board.having("running") or not left else f", {left} to do and nothing running"
        parts.append(Text(f"{tiles_s:.0f} tiles/s, {60 * slides_s:.3g} slides/min in the last minutes{rest}"))
    if running := board.having("running"):
        table = Table(box=None, title="running", title_justify="left", title_style="bold", padding=(0, 2, 0, 0))
        for heading in ("slide", "for", "attempt", "on"):
            table.add_column(heading, overflow="fold")
        for seen in sorted(running, key=lambda seen: seen.record.started if seen.record else "")[:most]:
            record = seen.record
            since = seconds_since_1970(record.started) if record else None
            long = _duration(max(0.0, board.at - since)) if since is not None else ""
            where = printable_line(f"{record.host}, process {record.pid}") if record else ""
            attempts = str(record.attempts) if record else ""
            table.add_row(Text(printable_line(seen.slide_id)), long, attempts, Text(where))
        parts += [Text(), table]
        parts += [Text(f"and {len(running) - most} more")] if len(running) > most else []
    if bad := board.having(*BAD):
        table = Table(box=None, title="last failures", title_justify="left", title_style="bold", padding=(0, 2, 0, 0))
        for heading in ("slide", "", "why"):
            table.add_column(heading, overflow="fold")
        for seen in bad[:most]:
            why = Text(" ".join(printable_line(seen.reason).split())[:500], no_wrap=brief)
            why.overflow = "ellipsis" if brief else "fold"
            table.add_row(Text(printable_line(seen.slide_id)), Text(seen.standing, "red"), why)
        parts += [Text(), table]
        parts += [Text(f"and {len(bad) - most} more: wsi-umedpt report")] if len(bad) > most else []
    return Group(*parts)


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1:
        return f"{seconds:.0f} s"
    if hours < 1:
        return f"{minutes:.0f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
