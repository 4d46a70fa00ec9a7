"""`wsi-umedpt demo`: the main job on a real slide, ending with a picture."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

HEAD = "nuclei"
"""Nuclei in H&E at any magnification from about 10x to 25x."""


def demo(*, out: Annotated[Path, Parameter(alias="-o")] = Path("demo-out")) -> int:
    """Embed a real H&E slide (2 MB, CC0, downloaded once), find its nuclei in the same pass, and draw both.

    Parameters
    ----------
    out
        Folder for the store and the pictures.
    """
    from wsi_umedpt.cli.embed import embed
    from wsi_umedpt.cli.export import export
    from wsi_umedpt.cli.info import info
    from wsi_umedpt.cli.verify import verify
    from wsi_umedpt.models.cards import DEFAULT_ENCODER
    from wsi_umedpt.plotting.objects import object_sheet
    from wsi_umedpt.plotting.sheets import overview, save
    from wsi_umedpt.slides.sample_data import sample_slide
    from wsi_umedpt.slides.slide import open_slide
    from wsi_umedpt.store.slide_store import SlideStore

    slide = sample_slide()
    if code := info([str(slide)]) or embed([str(slide)], out=str(out), heads=(HEAD,)) or verify([str(out)]):
        return code
    store = out / f"{slide.stem}.zarr"
    opened = SlideStore.open(store)
    bag = opened.features(DEFAULT_ENCODER)
    pictures = [out / "picture.png", out / "nuclei.png"]
    save(overview(opened, DEFAULT_ENCODER), pictures[0])
    with open_slide(slide) as pixels:
        save(object_sheet(opened, HEAD, pixels), pictures[1])
    nuclei = out / f"{slide.stem}.geojson.gz"
    if code := export(str(store), out=nuclei):
        return code
    command = as_typed()
    print(
        f"\n{len(bag.features)} tiles of {bag.features.shape[1]} features each, and the nuclei, are in {store}\n"
        f"Look at the pictures:     {pictures[0]} {pictures[1]}\n"
        f"Drag into QuPath:         {nuclei} (onto the slide, {slide})\n\n"
        "What to type next:\n"
        f"  {command} info {store}\n"
        f"  {command} embed YOUR_SLIDES/ -o {out}\n"
        f"  {command} segment YOUR_SLIDES/ -o {out} --heads {HEAD}\n"
        f"  {command} embed {slide} -o {out} --precision bf16\n"
        f"  {command} --help"
    )
    return 0


def as_typed() -> str:
    """The command as it can be typed here: its name, or its path where it is not on the PATH, as after `make demo`."""
    import os
    import shutil
    import sys

    return "wsi-umedpt" if shutil.which("wsi-umedpt") else f"{os.path.relpath(Path(sys.executable).parent)}/wsi-umedpt"
