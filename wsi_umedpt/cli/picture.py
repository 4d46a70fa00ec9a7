"""`wsi-umedpt picture`: a store as a picture."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def picture(
    store: Path,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o")],
    model: Annotated[str | None, Parameter(alias="-m")] = None,
    grid: str | None = None,
    scores: str | None = None,
) -> None:
    """Draw a store: the slide with its tissue, the tiles, and the features as colours.

    Example:

        wsi-umedpt picture out/slide.zarr -o slide.png

        wsi-umedpt picture out/slide.zarr --scores tumour -o tumour.png

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
    """
    from wsi_umedpt.picture import check_name, overview, save, score_sheet
    from wsi_umedpt.store import SlideStore

    check_name(out)
    opened = SlideStore.open(store)
    save(score_sheet(opened, scores, grid) if scores else overview(opened, model, grid), out)
    print(out)
