"""`wsi-umedpt demo`: the main job on a real slide, ending with a picture."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def demo(*, out: Annotated[Path, Parameter(alias="-o")] = Path("demo-out")) -> int:
    """Embed a real H&E slide (2 MB, CC0, downloaded once) and draw what was found.

    Parameters
    ----------
    out
        Folder for the store and the picture.
    """
    import os
    import shutil
    import sys

    from wsi_umedpt.cli.embed import embed
    from wsi_umedpt.cli.info import info
    from wsi_umedpt.cli.verify import verify
    from wsi_umedpt.models.cards import DEFAULT_ENCODER
    from wsi_umedpt.picture import overview, save
    from wsi_umedpt.sample import sample_slide
    from wsi_umedpt.store import SlideStore

    slide = sample_slide()
    if code := info([slide]) or embed([str(slide)], out=out) or verify([out]):
        return code
    store = out / f"{slide.stem}.zarr"
    bag = SlideStore.open(store).bag(DEFAULT_ENCODER)
    target = out / "picture.png"
    save(overview(SlideStore.open(store), DEFAULT_ENCODER), target)
    beside = os.path.relpath(Path(sys.executable).parent)
    command = "wsi-umedpt" if shutil.which("wsi-umedpt") else f"{beside}/wsi-umedpt"
    print(
        f"\n{len(bag.features)} tiles of {bag.features.shape[1]} features each are in {store}\n"
        f"Look at the picture:      {target}\n\n"
        "What to type next:\n"
        f"  {command} info {store}\n"
        f"  {command} embed YOUR_SLIDES/ -o {out}\n"
        f"  {command} embed {slide} -o {out} --engine openvino --precision bf16\n"
        f"  {command} --help"
    )
    return 0
