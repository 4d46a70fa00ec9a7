"""`wsi-umedpt tissue`: a contact sheet of tissue masks, outliers first."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from wsi_umedpt.cli.options import Bounds, Tissue, check_mpp, origin_of
from wsi_umedpt.cli.terminal import say
from wsi_umedpt.messages import counted
from wsi_umedpt.settings import TissueParameters

if TYPE_CHECKING:
    from wsi_umedpt.slides.slide_job import SlideJob
    from wsi_umedpt.slides.tissue import TissueMask

MIN_SIDE = 32
"""px; a smaller slide on a sheet shows nothing."""


def tissue(
    slides: list[str],
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o")],
    mpp: float | None = None,
    bounds: Bounds = None,
    channels: str | None = None,
    options: Tissue = None,
    side: int = 320,
    limit: int = 200,
) -> int:
    """Draw the tissue found on every slide as one picture, the doubtful ones first, framed red.

    Doubtful is a slide with no tissue, with nothing but tissue, or whose share of tissue lies
    far from that of the others.

    Examples
    --------
        wsi-umedpt tissue slides/ -o sheet.png

        wsi-umedpt tissue pale/*.svs -o sheet.png --min-colour 4

    Parameters
    ----------
    slides
        Slide files, folders, globs, or a table (.csv, .xlsx) with columns slide, slide_id, mpp, mask,
        channels.
    out
        PNG to write.
    mpp
        Microns per pixel of the slides, instead of what they state.
    bounds
        Count masks of the CSV from the corner of the slide's bounds; see `wsi-umedpt embed`.
    channels
        Channels that are seen of slides that are not in colour; see `wsi-umedpt embed`.
    options
        Parameters of tissue detection.
    side
        Size of one slide on the sheet, pixels.
    limit
        Most slides on one sheet; more make sheets of their own (NAME-2.png, ...).
    """
    from rich.progress import track

    from wsi_umedpt.batch.jobs.manifest import list_slides
    from wsi_umedpt.errors import OptionError, reason_of
    from wsi_umedpt.io.stalls import watched
    from wsi_umedpt.plotting.sheets import check_name, save, sheet, tissue_panel
    from wsi_umedpt.slides.channels import choices
    from wsi_umedpt.slides.tissue import TissueMask

    check_name(out)
    if side < MIN_SIDE:
        raise OptionError(f"a slide on the sheet (--side) must be at least {MIN_SIDE} px, got {side}")
    if limit < 1:
        raise OptionError(f"a sheet (--limit) must hold at least 1 slide, got {limit}")
    parameters = options or TissueParameters()
    check_mpp(mpp)
    chosen = choices(channels or ())
    jobs, failures = list_slides(slides, say)
    failed = [(f.name, f.reason) for f in failures]
    found: dict[str, TissueMask] = {}
    for job in track(jobs, "finding tissue", disable=not sys.stderr.isatty()):
        try:
            given = replace(job, mpp=job.mpp or mpp, mask_origin=origin_of(bounds), channels=job.channels or chosen)
            found[job.slide_id] = watched(partial(_tissue_of, given, parameters))
            if found[job.slide_id].note:
                say(f"{job.slide_id}: of its mask {found[job.slide_id].note}")
        except Exception as error:  # noqa: BLE001 - every slide is attempted
            failed.append((job.name, reason_of(error)))
    doubt = doubts({name: mask.fraction for name, mask in found.items()})
    order = sorted(found, key=lambda name: (-doubt[name], name))
    panels = [
        tissue_panel(found[name], f"{name}  {found[name].fraction:.1%}", side, flagged=doubt[name] > 1)
        for name in order
    ]
    for n, first in enumerate(range(0, len(panels), limit)):
        target = out if n == 0 else out.with_name(f"{out.stem}-{n + 1}{out.suffix}")
        save(sheet(panels[first : first + limit], columns=6), target)
        say(f"{target}: {counted(len(panels[first : first + limit]), 'slide')}")
    for name, reason in failed:
        say(f"{name}: {reason}", error=True)
    return 1 if failed else 0


def _tissue_of(job: "SlideJob", parameters: "TissueParameters", advanced: Callable[[], None]) -> "TissueMask":
    from wsi_umedpt.slides.mask_file import mask_from_file
    from wsi_umedpt.slides.slide import open_slide
    from wsi_umedpt.slides.tissue import find_tissue

    with open_slide(job.path, mpp=job.mpp, channels=job.channels) as slide:
        advanced()
        if job.mask:
            return mask_from_file(
                job.mask, slide.size, slide.mpp, parameters.cell_um, bounds=slide.bounds, origin=job.mask_origin
            )
        return find_tissue(slide, parameters, advanced)


def doubts(fractions: dict[str, float]) -> dict[str, float]:
    """Doubt about each slide's share of tissue; over 1 is worth a look.

    The distance from the cohort's median in units of three scaled median absolute
    deviations of the logit, which is what a share from 0 to 1 is compared in.
    """
    import numpy as np

    shares = np.array(list(fractions.values()))
    extreme = (shares < 0.002) | (shares > 0.95)
    logit = np.log(np.clip(shares, 1e-4, 1 - 1e-4) / (1 - np.clip(shares, 1e-4, 1 - 1e-4)))
    spread = 1.4826 * np.median(np.abs(logit - np.median(logit))) if len(logit) else 0.0
    scores = np.abs(logit - np.median(logit)) / max(3 * spread, 0.5) if len(logit) else logit
    return dict(zip(fractions, np.where(extreme, 100 + scores, scores).tolist(), strict=True))
