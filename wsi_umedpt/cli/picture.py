"""`wsi-umedpt picture`: a store as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from wsi_umedpt.cli.terminal import say

if TYPE_CHECKING:
    pass


def picture(
    store: Path,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o")],
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    grid: str | None = None,
    scores: str | None = None,
    objects: str | None = None,
    slide: Path | None = None,
) -> None:
    """Draw a store: the slide with its tissue, the tiles, and the features as colours.

    Example:

        wsi-umedpt picture out/slide.zarr -o slide.png

        wsi-umedpt picture out/slide.zarr --scores tumour -o tumour.png

        wsi-umedpt picture out/slide.zarr --objects nuclei --slide slide.svs -o nuclei.png

    Parameters
    ----------
    store
        Store to draw.
    out
        PNG to write.
    model
        Features to show, where the store holds several.
    grid
        Grid to show, where the store holds several.
    scores
        Draw these scores of the tiles (see `wsi-umedpt probe predict`) instead of the features; with --objects, colour
        objects by the classes that these scores give them.
    objects
        Draw these objects (see `wsi-umedpt segment`) instead.
    slide
        The slide, for close-ups of the objects: stores hold no pixels, nor where they came from.
    """
    from contextlib import ExitStack

    from wsi_umedpt.plotting.objects import object_sheet
    from wsi_umedpt.plotting.sheets import check_name, overview, save, score_sheet
    from wsi_umedpt.slides.slide import open_slide
    from wsi_umedpt.store.slide_store import SlideStore

    check_name(out)
    opened = SlideStore.open(store)
    with ExitStack() as closing:
        if objects or slide:
            pixels = (
                closing.enter_context(open_slide(slide, mpp=opened.stated_mpp, channels=opened.channels))
                if slide
                else None
            )
            save(object_sheet(opened, objects, pixels, scores=scores), out)
        else:
            save(score_sheet(opened, scores, grid) if scores else overview(opened, model, grid), out)
    say(out)
