"""`wsi-umedpt info`: what a slide or a store is."""

from pathlib import Path


def info(paths: list[Path], /, *, mpp: float | None = None) -> int:
    """Print what slides and stores are: size, physical scale and who states it, levels, contents.

    Examples
    --------
        wsi-umedpt info slide.svs

        wsi-umedpt info out/slide.zarr

    Parameters
    ----------
    paths
        Slides or stores.
    mpp
        Microns per pixel, instead of what the slide states.
    """
    from wsi_umedpt.cohort.manifest import is_store
    from wsi_umedpt.errors import WsiError, reason_of

    failed = 0
    for path in paths:
        try:
            print(_store(path) if is_store(path) else _slide(path, mpp))
        except (WsiError, OSError) as error:
            print(f"{path}: {reason_of(error)}")
            failed += 1
    return 1 if failed else 0


def _slide(path: Path, mpp: float | None) -> str:
    from wsi_umedpt.slide import open_slide

    with open_slide(path, mpp=mpp) as slide:
        width, height = slide.size
        lines = [
            f"{path}",
            f"  size        {width} x {height} px, {width * slide.mpp / 1e3:.2f} x {height * slide.mpp / 1e3:.2f} mm",
            f"  scale       {slide.mpp:g} um/px, from {slide.mpp_source}",
            f"  format      {slide.vendor}, read by {slide.reader}"
            + (" (tiles decoded directly)" if slide.native_tiles(0) else ""),
            f"  objective   {f'{slide.objective:g}x' if slide.objective else 'not stated'}",
            f"  fingerprint {slide.fingerprint}",
        ]
        for number, level in enumerate(slide.levels):
            scale = f"{level.scale:g} x smaller, {level.scale * slide.mpp:.4g} um/px"
            lines.append(f"  level {number}     {level.width} x {level.height} px, {scale}")
    return "\n".join(lines)


def _store(path: Path) -> str:
    from wsi_umedpt.store import SlideStore

    store = SlideStore.open(path)
    slide = store.attrs["slide"]
    lines = [
        f"{path}",
        f"  slide       {slide['size'][0]} x {slide['size'][1]} px, {slide['mpp']:g} um/px ({slide['mpp_source']}), "
        f"{slide['vendor']}",
        f"  fingerprint {slide['fingerprint']}",
        f"  tissue      {store.tissue().fraction:.1%} of the slide",
    ]
    for grid_id in store.grid_ids:
        grid = store.grid(grid_id)
        bad = int((store.status(grid_id) != 0).sum())
        lines.append(f"  grid        {grid_id}: {len(grid)} tiles, {bad} unreadable, {grid.side:g} level-0 px each")
        for encoder_id in store.encoder_ids(grid_id):
            made = store.feature_attrs(encoder_id, grid_id)
            lines.append(
                f"    features  {encoder_id}: {made['card']['dim']} numbers a tile, {made['engine']} "
                f"{made['precision']}, weights {made['weights_sha256'][:12]}, {made['card']['licence']}"
            )
    return "\n".join(lines)
