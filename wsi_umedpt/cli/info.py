"""`wsi-umedpt info`: what a slide or a store is."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

_STALL_S = 120.0
"""Seconds in which a slide must open."""


def info(paths: list[str], /, *, mpp: float | None = None) -> int:
    """Print what slides and stores are: size, physical scale and who states it, levels, contents.

    Of a folder all slides and stores in it and below it are shown. Exit code 1 if one cannot be opened, or states no
    physical scale that could be believed.

    Examples
    --------
        wsi-umedpt info slide.svs

        wsi-umedpt info out/slide.zarr

        wsi-umedpt info slides/

    Parameters
    ----------
    paths
        Slides, stores, or folders of them; stores may be URLs.
    mpp
        Microns per pixel, instead of what the slide states.
    """
    from wsi_umedpt.cli.terminal import say
    from wsi_umedpt.cohort.search import is_store
    from wsi_umedpt.errors import WsiError, reason_of
    from wsi_umedpt.places import elsewhere
    from wsi_umedpt.stalls import watched

    failures: list[str] = []
    failed = 0
    for path in _each(paths, failures):
        try:
            stored = elsewhere(path) or is_store(path)
            lines, good = watched(partial(_store, path) if stored else partial(_slide, path, mpp), stall_s=_STALL_S)
        except (WsiError, OSError) as error:
            lines, good = [f"{path}: {reason_of(error)}"], False
        except (LookupError, TypeError, AttributeError) as error:  # a store that says less than stores do
            lines, good = [f"{path}: its metadata cannot be used: {reason_of(error)}"], False
        for line in lines:
            say(line)
        failed += not good
    for line in failures:
        say(line, error=True)
    return 1 if failed or failures else 0


def _each(paths: list[str], failures: list[str]) -> Iterator[Path]:
    """The slides and stores that are named, or lie in folders that are."""
    from wsi_umedpt.cohort.search import below
    from wsi_umedpt.places import elsewhere, place
    from wsi_umedpt.readers import FOLDER_SUFFIXES

    for path in map(place, paths):
        if elsewhere(path) or path.name.lower().endswith(FOLDER_SUFFIXES) or not path.is_dir():
            yield path
            continue
        before = len(failures)
        found = list(below(path, lambda name, why: failures.append(f"{name}: {why}")))
        yield from found
        if not found and len(failures) == before:
            failures.append(f"{path}: there is neither a slide nor a store in this folder")


def _slide(path: Path, mpp: float | None, advanced: Callable[[], None]) -> tuple[list[str], bool]:
    """What a slide is, and whether its scale is known; all else is told without it."""
    from contextlib import closing

    from wsi_umedpt.errors import SlideError
    from wsi_umedpt.geometry import Mpp, checked_mpp
    from wsi_umedpt.readers import open_reader
    from wsi_umedpt.slide import fingerprint

    with closing(open_reader(path)) as reader:
        advanced()
        width, height = reader.levels[0].width, reader.levels[0].height
        um = None  # a pixel's side
        size = ""
        try:
            found = reader.info.mpp if mpp is None else Mpp(mpp, mpp, "user")
            stated = checked_mpp(found, path.name, (width, height))
            um = stated.value
            size = f", {width * um / 1e3:.2f} x {height * um / 1e3:.2f} mm"
            scale = f"{um:g} um/px, from {stated.source}"
        except SlideError as error:
            scale = f"UNKNOWN: {error}"
        objective = reader.info.objective
        lines = [
            f"{path}",
            f"  size        {width} x {height} px{size}",
            f"  scale       {scale}",
            f"  format      {reader.info.vendor}, read by {reader.name}"
            + (" (tiles decoded directly)" if reader.native_tiles(0) else ""),
            f"  objective   {f'{objective:g}x' if objective else 'not stated'}",
            f"  fingerprint {fingerprint(path)}",
        ]
        if part := reader.info.bounds:
            lines.insert(2, _bounds(part.x, part.y, part.width, part.height))
        for number, level in enumerate(reader.levels):
            at = f", {level.scale * um:.4g} um/px" if um else ""
            smaller = "full size" if number == 0 else f"{level.scale:g} x smaller"
            lines.append(f"  level {number}     {level.width} x {level.height} px, {smaller}{at}")
    return lines, um is not None


def _bounds(x: int, y: int, width: int, height: int) -> str:
    return f"  bounds      {width} x {height} px from {x}, {y} were scanned: QuPath shows those alone"


def _store(path: Path, advanced: Callable[[], None]) -> tuple[list[str], bool]:
    from wsi_umedpt.errors import RemoteError
    from wsi_umedpt.found import found_names, read_objects
    from wsi_umedpt.places import elsewhere
    from wsi_umedpt.readers import SLIDE_SUFFIXES
    from wsi_umedpt.scores import score_attrs, score_ids
    from wsi_umedpt.store import SlideStore

    if elsewhere(path) and path.name.lower().endswith(SLIDE_SUFFIXES) and path.suffix != ".zarr":
        raise RemoteError("slides elsewhere are not opened here; embed --dry-run copies them and says what they are")
    store = SlideStore.open(path)
    advanced()
    slide = store.attrs["slide"]
    lines = [
        f"{path}",
        f"  slide       {slide['size'][0]} x {slide['size'][1]} px, {slide['mpp']:g} um/px ({slide['mpp_source']}), "
        f"{slide['vendor']}",
        f"  fingerprint {slide['fingerprint']}",
        f"  tissue      {store.tissue().fraction:.1%} of the slide",
    ]
    if part := slide.get("bounds"):
        lines.insert(2, _bounds(*part))
    for grid_id in store.grid_ids:
        grid = store.grid(grid_id)
        bad = int((store.status(grid_id) != 0).sum())
        lines.append(f"  grid        {grid_id}: {len(grid)} tiles, {bad} unreadable, {grid.side:g} level-0 px each")
        for encoder_id in store.encoder_ids(grid_id):
            made = {"engine": "?", "precision": "?", "weights_sha256": "?", **store.feature_attrs(encoder_id, grid_id)}
            card = {"dim": "?", "licence": "licence not stated", **made.get("card", {})}
            lines.append(
                f"    features  {encoder_id}: {card['dim']} numbers a tile, {made['engine']} {made['precision']}, "
                f"weights {made['weights_sha256'][:12]}, {card['licence']}"
            )
        for of_grid, name in score_ids(store):
            if of_grid == grid_id:
                columns = score_attrs(store, name, grid_id)["columns"]
                lines.append(f"    scores    {name}: {', '.join(columns)}")
    for name in found_names(store):
        objects, made_by = read_objects(store, name)
        lines.append(
            f"  objects     {name}: {len(objects)} ({', '.join(objects.classes)}), by {made_by.get('model', '?')}"
        )
    return lines, True
