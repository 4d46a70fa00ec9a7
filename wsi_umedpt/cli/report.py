"""`wsi-umedpt report`: one page about an output folder."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wsi_umedpt.cli.terminal import say


def report(
    out: Path,
    /,
    *,
    page: Annotated[Path, Parameter(name=["--out", "-o"])],
    title: str | None = None,
    pictures: int = 240,
) -> int:
    """Write one page about an output folder: slides with their tissue, outliers, failures and why, speed, what made it.

    The page is one HTML file without script that needs no network. It holds thumbnails and ids of slides.
    Stores that cannot be read are on the page, and listed here with exit code 1.

    Example:

        wsi-umedpt report out/ -o report.html

    Parameters
    ----------
    out
        Folder of the stores, as given to `embed -o`.
    page
        HTML file to write.
    title
        Of the page; by default it names the folder.
    pictures
        Most thumbnails; slides that are far from the others come first.
    """
    from wsi_umedpt.cli.failures import say_failures
    from wsi_umedpt.cohort.page import write_page
    from wsi_umedpt.errors import OptionError, StoreError

    if pictures < 0:
        raise OptionError(f"the number of thumbnails (--pictures) is 0 or more, got {pictures}")
    if not out.is_dir():
        raise StoreError(f"there is no folder {out}; name the one that was given to embed -o")
    rows = write_page(page, out, title=title, pictures=pictures)
    whole = sum(row.status == "whole" for row in rows)
    say(f"{page}: {len(rows)} slides, {whole} of them whole")
    return say_failures([(f"{row.slide_id}.zarr", row.error or "") for row in rows if row.status == "damaged"])
