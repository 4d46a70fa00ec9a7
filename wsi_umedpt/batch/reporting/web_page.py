"""Web page about an output folder: status of its slides, oddities, failures with reasons, and what made it.

The page is one file that makes no request and has no script; its own policy forbids both. Names of
slides, reasons of failures and names of encoders come from files that others made: they are
escaped wherever they stand, and thumbnails are drawn anew. Nothing is read but stores and records.

Read this file from `write_page`; the page itself is ``page.html.j2`` beside it.
"""

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from wsi_umedpt.batch.coordination.publish import published_to, store_at
from wsi_umedpt.batch.reporting.catalog import Row, refresh
from wsi_umedpt.batch.reporting.outliers import Outlier, find_outliers, sampled_means
from wsi_umedpt.batch.reporting.plots import columns_over_time, spread
from wsi_umedpt.batch.reporting.slide_map import SlideMap, map_slides
from wsi_umedpt.batch.reporting.status import BAD, SLIDE_STATUSES, ended, look
from wsi_umedpt.errors import PictureError, WsiError
from wsi_umedpt.messages import counted
from wsi_umedpt.plotting.sheets import enlarged, outlined
from wsi_umedpt.plotting.web_page import write_webpage
from wsi_umedpt.slides.readers.base import Pixels
from wsi_umedpt.store.slide_store import SlideStore

PICTURES = 240
"""Thumbnails of a page, the odd slides first."""
_SIDE = 230
"""Longest side of a thumbnail, px."""
_ON_MAP, _MAP_SIDE = 120, 96
"""Thumbnails on the map of slides, and their longest side, px."""
_NOT_COMPARED = "Features of published stores were not compared with each other: all of them would have to be read."
_ROWS = 2000
"""Rows of the tables of a page; the catalog has all."""


def write_page(path: Path, out: Path, *, title: str | None = None, pictures: int = PICTURES) -> list[Row]:
    """Write the page of an output folder; it is there whole or not at all.

    Parameters
    ----------
    path
        ``.html``.
    out
        Folder of the stores; its catalog is brought up to date.
    title
        By default the folder's name.
    pictures
        Most thumbnails.

    Returns
    -------
    list of Row
        Rows that the page shows.

    Raises
    ------
    PictureError
        If the name is no page's.
    OSError
        If there is no such folder, or the page cannot be written.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise PictureError(f"a page is an .html file; {path} is none")
    board = look(out)
    rows = refresh(out, board)
    means = sampled_means(out, rows)
    odd = find_outliers(rows, means)
    content = {
        "title": title or f"Slides in {out.resolve().name}",
        "made": datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0"),
        "counts": [(name, _count(rows, name), SLIDE_STATUSES[name], name in BAD) for name in SLIDE_STATUSES],
        "total": len(rows),
        "lead": _lead(rows),
        **_failures(rows),
        "odd": _odd(odd),
        "sheet": _sheet(out, rows, odd, pictures),
        "map": _map(out, map_slides(out, rows, means), pictures),
        "spreads": _spreads(rows),
        "speed": _speed(list(ended(board.slides.values()))),
        "made_by": _made_by(rows),
        "notes": [*_notes(rows), *([_NOT_COMPARED] if published_to(out) else [])],
        "rows": rows[:_ROWS],
    }
    write_webpage(path, __package__, "page", content)
    return rows


def _count(rows: Iterable[Row], status: str) -> int:
    """Number of slides that have a status."""
    return sum(row.status == status for row in rows)


def _lead(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Figures that begin the page: what, and how much."""
    whole = [row for row in rows if row.status == "whole"]
    tiles, area = sum(row.tiles or 0 for row in rows), sum(row.tissue_mm2 or 0 for row in rows)
    found = [
        (f"of {counted(len(rows), 'slide')} whole", f"{len(whole):,}"),
        ("tiles", f"{tiles:,}"),
        ("mm\u00b2 of tissue", f"{area:,.0f}"),
    ]
    if lost := sum(row.unreadable or 0 for row in rows):
        found.append((f"tiles unreadable ({lost / max(tiles, 1):.2%})", f"{lost:,}"))
    objects: Counter[str] = Counter()
    for row in rows:
        objects.update({one.name: one.count for one in row.objects})
    found += [(name, f"{count:,}") for name, count in objects.most_common(3)]
    if seconds := sum(row.seconds or 0 for row in whole):
        found.append(("hours of work on whole slides", f"{seconds / 3600:,.1f}"))
    return found


def _failures(rows: Sequence[Row]) -> dict[str, Any]:
    """Slides that somebody must look at, and how often each reason was given."""
    bad = sorted((row for row in rows if row.status in BAD), key=lambda row: row.ended or "", reverse=True)
    reasons = Counter(_kind(row) for row in bad)
    return {
        "failures": bad[:_ROWS],
        "all_failures": len(bad),
        "reasons": [one for one in reasons.most_common(8) if one[1] > 1],
    }


def _kind(row: Row) -> str:
    """A reason without what differs from slide to slide."""
    reason = (row.error or "no reason was recorded").replace(row.slide_id, "\u2026")
    return " ".join(reason.split())[:160]


def _odd(odd: Sequence[Outlier]) -> list[tuple[str, list[Outlier]]]:
    by_slide: dict[str, list[Outlier]] = defaultdict(list)
    for one in odd:
        by_slide[one.slide_id].append(one)
    return list(by_slide.items())[:_ROWS]


def _sheet(out: Path, rows: Sequence[Row], odd: Sequence[Outlier], most: int) -> dict[str, Any]:
    """Thumbnails with what is tissue, the odd slides first, then spread evenly over the others."""
    flags: dict[str, list[str]] = defaultdict(list)
    for one in odd:
        flags[one.slide_id].append(one.what)
    there = [row for row in rows if row.fingerprint is not None and row.status != "damaged"]
    first = sorted((row for row in there if row.slide_id in flags), key=lambda row: [*flags].index(row.slide_id))
    rest = [row for row in there if row.slide_id not in flags]
    left = max(most - len(first), 0)
    if left < len(rest):
        rest = [rest[n * len(rest) // left] for n in range(left)] if left else []
    shown = [
        {"row": row, "flags": flags.get(row.slide_id, []), "src": src}
        for row in [*first[:most], *rest]
        if (src := _thumbnail(store_at(out, row.slide_id)))
    ]
    return {"shown": shown, "of": len(there)}


def _map(out: Path, found: SlideMap | None, most: int) -> dict[str, Any] | None:
    """Slides on a plane by what they look like: thumbnails of some, spread evenly over the list, else dots."""
    if found is None:
        return None
    count = len(found.slide_ids)
    pictures = min(count, most, _ON_MAP)
    pictured = {n * count // pictures for n in range(pictures)}
    shown = [
        {
            "slide_id": slide_id, "left": f"{100 * x:.2f}", "top": f"{100 * (1 - y):.2f}",
            "src": _thumbnail(store_at(out, slide_id), _MAP_SIDE) if n in pictured else None,
        }
        for n, (slide_id, (x, y)) in enumerate(zip(found.slide_ids, found.xy.tolist(), strict=True))
    ]  # fmt: skip
    return {"made_of": found.made_of, "explained": f"{found.explained:.0%}", "shown": shown}


def _thumbnail(store: Path, side: int = _SIDE) -> str | None:
    """A store's thumbnail with its tissue outlined, as an address that holds it; None if it cannot be drawn."""
    try:
        tissue = SlideStore.open(store).tissue()
        base, zoom = enlarged(tissue, side)
        return _address(outlined(base, tissue, zoom, thickness=1))
    except (WsiError, OSError, ValueError, LookupError, TypeError):
        return None


def _address(pixels: Pixels) -> str:
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"


def _spreads(rows: Sequence[Row]) -> list[tuple[str, Markup]]:
    """Plots of the distribution of numbers over the slides."""
    asked = (
        ("Tiles a slide", [row.tiles for row in rows if row.tiles], lambda v: f"{v:,.0f}", True),
        ("Share of tissue", [row.tissue_share for row in rows], lambda v: f"{v:.0%}", False),
        ("Microns per pixel", [row.mpp for row in rows], lambda v: f"{v:.3g}", False),
        ("Seconds a slide", [row.seconds for row in rows if row.status == "whole"], lambda v: f"{v:,.3g}", True),
    )
    found = []
    for name, values, words, log in asked:
        known = [float(value) for value in values if value is not None]
        if len(known) > 1:
            found.append((name, Markup(spread(known, words, f"{name}: how many slides have which", log=log))))  # noqa: S704
    return found


def _speed(attempts: Sequence[Any]) -> Markup | None:
    """Tiles per second over time, of slides that became whole."""
    if len(attempts) < 2:
        return None
    times, tiles = [one.ended for one in attempts], [one.tiles for one in attempts]
    return Markup(columns_over_time(times, tiles, "tiles", "Tiles per second, by when their slide ended"))  # noqa: S704


def _made_by(rows: Sequence[Row]) -> list[tuple[tuple[Any, ...], int]]:
    """Encoder, tiles, precision, weights and version, and how many slides have features of it."""
    found = Counter(
        (one.encoder, one.tile_px, one.tile_mpp, one.precision, one.weights_sha256[:16], one.dim, row.software)
        for row in rows
        for one in row.features
    )
    return found.most_common(40)


def _notes(rows: Sequence[Row]) -> list[str]:
    """Reasons why features of these slides are not comparable, in words."""
    weights: dict[str, set[str]] = defaultdict(set)
    twice: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.fingerprint:
            twice[row.fingerprint].append(row.slide_id)
        for one in row.features:
            weights[one.encoder].add(one.weights_sha256)
    notes = [
        f"{encoder} was used with {len(known)} different weights: features are not comparable between them."
        for encoder, known in weights.items()
        if len(known) > 1
    ]
    same = [ids for ids in twice.values() if len(ids) > 1]
    notes += [f"{' and '.join(ids[:4])} are the same slide under {len(ids)} names." for ids in same[:10]]
    if len(same) > 10:
        notes.append(f"{counted(len(same) - 10, 'more slide is', 'more slides are')} there under several names.")
    if empty := [row.slide_id for row in rows if row.tiles == 0]:
        some = counted(len(empty), "slide has", "slides have")
        notes.append(f"{some} no tile with enough tissue: {', '.join(empty[:8])}.")
    return notes
