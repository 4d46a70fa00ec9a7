"""`wsi-umedpt picture`: a store as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from wsi_umedpt.cli.terminal import say

if TYPE_CHECKING:
    from wsi_umedpt.store import SlideStore


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

        wsi-umedpt picture out/slide.zarr --objects nuclei_dsb --slide slide.svs -o nuclei.png

    Parameters
    ----------
    store
        Store to draw.
    out
        PNG to write.
    model
        Which features, where the store holds several.
    grid
        Which grid, where the store holds several.
    scores
        Draw these scores of the tiles (see `wsi-umedpt probe predict`) instead of the features.
    objects
        Draw these objects (see `wsi-umedpt segment`) instead.
    slide
        The slide's file, for close-ups of the objects: stores hold no pixels, nor where they came from.
    """
    from contextlib import ExitStack

    from wsi_umedpt.objectpicture import object_sheet
    from wsi_umedpt.picture import check_name, overview, save, score_sheet
    from wsi_umedpt.slide import open_slide
    from wsi_umedpt.store import SlideStore

    check_name(out)
    opened = SlideStore.open(store)
    with ExitStack() as closing:
        if objects or slide:
            pixels = closing.enter_context(open_slide(slide, mpp=_own_mpp(opened))) if slide else None
            save(object_sheet(opened, objects, pixels), out)
        else:
            save(score_sheet(opened, scores, grid) if scores else overview(opened, model, grid), out)
    say(out)


def _own_mpp(store: "SlideStore") -> float | None:
    """The scale that the user gave when the store was made; None where the slide states one."""
    of = store.attrs["slide"]
    return float(of["mpp"]) if of["mpp_source"] == "user" else None
