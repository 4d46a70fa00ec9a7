"""`wsi-umedpt info`: what a slide or a store is."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from wsi_umedpt.cli.options import AsJson
from wsi_umedpt.messages import counted

Facts = dict[str, Any]
"""Facts about a slide or a store, for JSON; ``error`` is the reason why it cannot be used as it is."""
_STALL_S = 120.0
"""Seconds in which a slide must open."""


def info(paths: list[str], /, *, mpp: float | None = None, as_json: AsJson = False) -> int:
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
        Slides, stores, or folders of them; stores may be URLs, and slides series on a DICOMweb server.
    mpp
        Microns per pixel, instead of what the slide states.
    as_json
        One JSON list: an object for each slide or store.
    """
    from wsi_umedpt.cli.terminal import say, say_json
    from wsi_umedpt.errors import WsiError, reason_of
    from wsi_umedpt.io.paths import elsewhere
    from wsi_umedpt.io.stalls import watched
    from wsi_umedpt.store.layout import is_store

    failures: list[str] = []
    found: list[Facts] = []
    for path in _each(paths, failures):
        try:
            stored = elsewhere(path) or is_store(path)
            facts = watched(partial(_store, path) if stored else partial(_slide, path, mpp), stall_s=_STALL_S)
            lines = [*(_store_lines(facts) if stored else _slide_lines(facts))]
        except (WsiError, OSError) as error:
            facts = {"path": str(path), "error": reason_of(error)}
            lines = [f"{path}: {facts['error']}"]
        except (LookupError, TypeError, AttributeError) as error:  # a store that says less than stores do
            facts = {"path": str(path), "error": f"its metadata cannot be used: {reason_of(error)}"}
            lines = [f"{path}: {facts['error']}"]
        found.append(facts)
        for line in [] if as_json else lines:
            say(line)
    if as_json:
        say_json(found)
    for line in failures:
        say(line, error=True)
    return 1 if failures or any("error" in facts for facts in found) else 0


def _each(paths: list[str], failures: list[str]) -> Iterator[Path]:
    """The slides and stores that are named, or lie in folders that are."""
    from wsi_umedpt.batch.jobs.folder_search import below
    from wsi_umedpt.io.paths import elsewhere, place
    from wsi_umedpt.slides.readers import FOLDER_SUFFIXES

    for path in map(place, paths):
        if elsewhere(path) or path.name.lower().endswith(FOLDER_SUFFIXES) or not path.is_dir():
            yield path
            continue
        before = len(failures)
        found = list(below(path, lambda name, why: failures.append(f"{name}: {why}")))
        yield from found
        if not found and len(failures) == before:
            failures.append(f"{path}: there is neither a slide nor a store in this folder")


def _slide(path: Path, mpp: float | None, advanced: Callable[[], None]) -> Facts:
    """Facts about a slide; where its scale is not known, the reason stands in its place."""
    from contextlib import closing

    from wsi_umedpt.errors import SlideError
    from wsi_umedpt.geometry import Mpp, checked_mpp
    from wsi_umedpt.slides.readers import open_reader
    from wsi_umedpt.slides.readers.base import ChannelReader
    from wsi_umedpt.slides.slide_fingerprint import fingerprint

    with closing(open_reader(path)) as reader:
        advanced()
        size = reader.levels[0].width, reader.levels[0].height
        scale: Facts = {"mpp": None, "mpp_source": None}
        try:
            found = reader.info.mpp if mpp is None else Mpp(mpp, mpp, "user")
            stated = checked_mpp(found, path.name, size)
            scale = {"mpp": stated.value, "mpp_source": stated.source}
        except SlideError as error:
            scale["error"] = str(error)
        part = reader.info.bounds
        return {
            "path": str(path),
            "kind": "slide",
            "size_px": [*size],
            **scale,
            "bounds": [part.x, part.y, part.width, part.height] if part else None,
            "vendor": reader.info.vendor,
            "reader": reader.name,
            "native_tiles": bool(reader.tile_size(0) if isinstance(reader, ChannelReader) else reader.native_tiles(0)),
            "channels": [{"name": one.name, "dtype": one.dtype} for one in reader.info.channels],
            "objective": reader.info.objective,
            "fingerprint": fingerprint(path),
            "levels": [{"size_px": [level.width, level.height], "scale": level.scale} for level in reader.levels],
        }


def _slide_lines(slide: Facts) -> Iterator[str]:
    (width, height), um = slide["size_px"], slide["mpp"]
    millimetres = f", {width * um / 1e3:.2f} x {height * um / 1e3:.2f} mm" if um else ""
    yield slide["path"]
    yield f"  size        {width} x {height} px{millimetres}"
    yield from _bounds_line(slide["bounds"])
    yield "  scale       " + (f"{um:g} um/px, from {slide['mpp_source']}" if um else f"UNKNOWN: {slide['error']}")
    directly = " (tiles decoded directly)" if slide["native_tiles"] else ""
    yield f"  format      {slide['vendor']}, read by {slide['reader']}{directly}"
    for number, channel in enumerate(slide["channels"]):
        yield f"  channel {number}   {channel['name']}, {channel['dtype']}"
    yield "  objective   " + (f"{slide['objective']:g}x" if slide["objective"] else "not stated")
    yield f"  fingerprint {slide['fingerprint']}"
    for number, level in enumerate(slide["levels"]):
        at = f", {level['scale'] * um:.4g} um/px" if um else ""
        smaller = "full size" if number == 0 else f"{level['scale']:g} x smaller"
        yield f"  level {number}     {level['size_px'][0]} x {level['size_px'][1]} px, {smaller}{at}"


def _bounds_line(bounds: list[int] | None) -> Iterator[str]:
    if bounds:
        x, y, width, height = bounds
        yield f"  bounds      {width} x {height} px from {x}, {y} were scanned: QuPath shows those alone"


def _store(path: Path, advanced: Callable[[], None]) -> Facts:
    """Facts about a store: its slide and its contents."""
    from wsi_umedpt.errors import RemoteError
    from wsi_umedpt.io.paths import elsewhere
    from wsi_umedpt.slides.readers import slide_suffixes
    from wsi_umedpt.store.objects_io import VECTORS, found_names, read_objects
    from wsi_umedpt.store.scores_io import object_score_attrs, object_score_ids, score_attrs, score_ids
    from wsi_umedpt.store.slide_store import SlideStore

    if elsewhere(path) and path.name.lower().endswith(slide_suffixes()) and path.suffix != ".zarr":
        raise RemoteError("slides elsewhere are not opened here; embed --dry-run copies them and says what they are")
    store = SlideStore.open(path)
    advanced()
    scores = score_ids(store)
    grids, found = [], []
    for grid_id in store.grid_ids:
        grid, features = store.grid(grid_id), []
        for encoder_id in store.encoder_ids(grid_id):
            made = store.feature_attrs(encoder_id, grid_id)
            card = made.get("card", {})
            said = {key: made.get(key) for key in ("engine", "precision", "weights_sha256")}
            features.append({"name": encoder_id, **said, "dim": card.get("dim"), "licence": card.get("licence")})
        grids.append({
            "name": grid_id, "tiles": len(grid), "unreadable": int((store.status(grid_id) != 0).sum()),
            "side_px": grid.side, "features": features,
            "scores": [
                {"name": name, "columns": score_attrs(store, name, grid_id)["columns"]}
                for of_grid, name in scores if of_grid == grid_id
            ],
        })  # fmt: skip
    for name in found_names(store):
        objects, made_by = read_objects(store, name)
        vectors = f"detections/{name}/{VECTORS}"
        classified = [
            {"name": scored, "columns": object_score_attrs(store, scored, name)["columns"]}
            for scored in object_score_ids(store, name)
        ]
        found.append({
            "name": name, "count": len(objects), "classes": [*objects.classes], "model": made_by.get("model"),
            "vector_dim": store.nodes.shape(vectors)[1] if vectors in store.nodes else None, "scores": classified,
        })  # fmt: skip
    return {
        "path": str(path), "kind": "store", "slide": {"bounds": None, **store.attrs["slide"]},
        "tissue": store.tissue().fraction, "grids": grids, "objects": found,
    }  # fmt: skip


def _store_lines(store: Facts) -> Iterator[str]:
    slide = store["slide"]
    yield store["path"]
    size = f"{slide['size'][0]} x {slide['size'][1]} px"
    yield f"  slide       {size}, {slide['mpp']:g} um/px ({slide['mpp_source']}), {slide['vendor']}"
    yield from _bounds_line(slide["bounds"])
    for one in slide.get("channels", ()):
        yield f"  channel {one['index']}   {one['name']}, shown from {one['low']:g} to {one['high']:g}"
    yield f"  fingerprint {slide['fingerprint']}"
    yield f"  tissue      {store['tissue']:.1%} of the slide"
    for grid in store["grids"]:
        tiles = (
            f"{counted(grid['tiles'], 'tile')}, {grid['unreadable']:,} unreadable, {grid['side_px']:g} level-0 px each"
        )
        yield f"  grid        {grid['name']}: {tiles}"
        for one in grid["features"]:
            known = {key: "?" if value is None else value for key, value in one.items()}
            yield (
                f"    features  {one['name']}: {known['dim']} features a tile, {known['engine']} {known['precision']}, "
                f"weights {known['weights_sha256'][:12]}, {one['licence'] or 'licence not stated'}"
            )
        for one in grid["scores"]:
            yield f"    scores    {one['name']}: {', '.join(one['columns'])}"
    for one in store["objects"]:
        dim = f", vectors of {one['vector_dim']} numbers" if one["vector_dim"] else ""
        of = f"{one['count']} ({', '.join(one['classes'])})"
        yield f"  objects     {one['name']}: {of}, by {one['model'] or '?'}{dim}"
        for scored in one["scores"]:
            yield f"    scores    {scored['name']}: {', '.join(scored['columns'])}"
