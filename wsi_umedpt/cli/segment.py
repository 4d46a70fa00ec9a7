"""`wsi-umedpt segment`: objects (nuclei, cells) over whole slides, with or without embeddings in the same pass."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from wsi_umedpt.cli.devices import devices_of, run_on_each
from wsi_umedpt.cli.options import Bounds, Compute, Run, SpreadOptions, Tiles, Tissue
from wsi_umedpt.cli.spread import Given, check_spread, find_given, load_runner, run_everywhere
from wsi_umedpt.cli.terminal import say
from wsi_umedpt.messages import counted
from wsi_umedpt.settings import ComputeOptions, RunSettings, TileOptions, TissueParameters

if TYPE_CHECKING:
    from wsi_umedpt.batch.coordination.result import Outcome
    from wsi_umedpt.pipeline.segment import SegmentTask


def segment(
    slides: list[str],
    /,
    *,
    out: Annotated[str, Parameter(alias="-o")],
    heads: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    model: Annotated[str, Parameter(alias="-m")] = "",
    mpp: float | None = None,
    mask: Path | None = None,
    bounds: Bounds = None,
    channels: str | None = None,
    tiles: Tiles = None,
    tissue: Tissue = None,
    compute: Compute = None,
    run: Run = None,
    spread: SpreadOptions | None = None,
) -> int:
    """Find objects on slides: label images, outlines and measures, in the stores `OUT/SLIDE.zarr`.

    Objects are added to stores that exist. An interrupted slide is resumed: run the same command
    again. `wsi-umedpt embed --heads` embeds the windows in the same pass. Exit code 1 if
    any slide failed, 143 if SIGTERM stopped the run.

    Examples
    --------
        wsi-umedpt segment slide.svs -o out

        wsi-umedpt segment slides/ -o out --heads nuclei_tnbc --min-tissue 0.01

        wsi-umedpt segment smear.png -o out --heads blood_cells --mpp 0.1 --tile-mpp 0.2 --min-tissue 0

        wsi-umedpt segment slides/ -o out --dask local:4 --slide-timeout 7200

        wsi-umedpt export out/slide.zarr -o slide.geojson.gz

    Parameters
    ----------
    slides
        Slide files, folders, globs, URLs (s3://, gs://, https://, with wildcards too), or a table with columns slide,
        slide_id, mpp, mask, channels.
    out
        Folder for the stores; or a prefix in an object store, as s3://bucket/out, with --work.
    heads
        Kinds of objects; `wsi-umedpt encoders` lists the heads of each UMedPT model. By default the first.
    model
        UMedPT model: one that ships, or umedpt:FILE.json. By default the one that ships.
    mpp
        Microns per pixel of the slides at full resolution, instead of what they state.
    mask
        Your own tissue mask for one slide: annotations of QuPath (GeoJSON), ASAP, ImageScope or HALO in level-0 pixels,
        or a PNG of the whole slide.
    bounds
        Count masks from the corner of the slide's bounds, where a scanner states them (MRXS, SCN). By default
        GeoJSON does, as QuPath crops slides to them, and so does ImageScope; ASAP and HALO count from the whole slide.
    channels
        Channels of slides that are not in colour: three that are seen as red, green and blue, or one seen as grey, as
        DAPI,CD3,CD8 or 0,3,5 (`wsi-umedpt info` lists them). Each is stretched between percentiles of the slide; fix
        its grey values as in DAPI:200-4000. The store records them.
    tiles
        Size, scale and position of windows; by default 320 px, 256 px apart. With --stride of a stored grid, windows
        lie as its tiles do, and are as large as they need be to overlap.
    tissue
        Parameters of tissue detection.
    compute
        Device and precision of networks; heads run on torch, not compiled. --device cuda runs one process for each GPU
        that is visible.
    run
        Settings for reading and running windows.
    spread
        Settings for spreading slides over processes and machines.
    """
    spread, compute, run = spread or SpreadOptions(), compute or ComputeOptions(), run or RunSettings()
    check_spread(spread)
    given = find_given(slides, mpp, mask, bounds, channels)
    devices = devices_of(compute.device, spread)
    if len(devices) > 1 and len(given.jobs) > 1:
        command = partial(
            segment, slides, out=out, heads=heads, model=model, mpp=mpp, mask=mask, bounds=bounds, channels=channels,
            tiles=tiles, tissue=tissue, spread=spread,
        )  # fmt: skip
        return run_on_each(command, devices[: len(given.jobs)], compute, run)
    return segment_given(given, out, spread, Asked(model, heads, tiles, compute, tissue), run)


@dataclass(frozen=True)
class Asked:
    """Model, heads and windows that are asked for; picklable, and loads the task."""

    model: str
    heads: Sequence[str]
    tiles: TileOptions | None
    compute: ComputeOptions
    tissue: TissueParameters | None
    embed: bool = False

    def load(self, settings: RunSettings) -> "SegmentTask":
        """Load the model and its heads."""
        from wsi_umedpt.pipeline.plan import plan_segmentation

        heads = [name for names in self.heads for name in names.split(",")]
        return plan_segmentation(
            self.model, heads, self.tiles, self.compute, tissue=self.tissue, settings=settings, embed=self.embed
        )


def segment_given(given: Given, out: str, spread: SpreadOptions, asked: Asked, run: RunSettings) -> int:
    """Find objects on given slides, for `segment` and `embed --heads`."""
    task = asked.load(run)
    spec, made_by = task.spec, task.made_by
    names = ", ".join(head.name for head in task.model.heads)
    say(
        f"{made_by['model']}: {names}{' and embeddings' if asked.embed else ''}; windows of {spec.size_px} px, "
        f"{spec.stride} px apart, at {spec.mpp:g} um/px{' or the scale of coarser slides' if task.coarser else ''}, "
        f"{made_by['precision']} on {made_by['device']}"
    )
    unscaled = [head.name for head in task.model.heads if head.mpp is None]
    if (asked.tiles is None or asked.tiles.tile_mpp is None) and unscaled:
        say(
            f"{', '.join(unscaled)}: trained on images of no stated scale; look at the result, and change the windows' "
            "scale with --tile-mpp (docs/how-to/objects.md says how large objects should be)"
        )
    outcomes = run_everywhere(given, out, spread, task, partial(load_runner, asked.load, run, out, spread))
    return outcomes if isinstance(outcomes, int) else _summary(outcomes, [(f.name, f.reason) for f in given.failures])


def _summary(outcomes: "Sequence[Outcome]", failed: list[tuple[str, str]]) -> int:
    from wsi_umedpt.cli.embed import say_same

    done = [o for o in outcomes if o.status == "done"]
    failed = failed + [(o.job.name, o.reason) for o in outcomes if o.status == "failed"]
    counts: dict[str, int] = {}
    for outcome in outcomes:
        for name, count in outcome.objects.items():
            counts[name] = counts.get(name, 0) + count
    found = ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "no objects"
    say(f"{len(done)} segmented, {sum(o.status == 'already' for o in outcomes)} already there: {found}")
    for outcome in outcomes:
        if outcome.status != "failed" and not outcome.tiles:
            say(
                f"  {outcome.job.slide_id}: no window with enough tissue. On smears, where none is "
                "found, --min-tissue 0 looks everywhere; what counts as tissue: "
                f"wsi-umedpt tissue {shlex.quote(outcome.job.name)} -o tissue.png"
            )
        if outcome.note:
            say(f"  {outcome.job.slide_id}: of its mask {outcome.note}")
        if outcome.unreadable:
            say(
                f"  {outcome.job.slide_id}: {outcome.unreadable:,} of {counted(outcome.tiles, 'window')} unreadable, "
                "left out"
            )
    say_same({o.job.slide_id: o.fingerprint for o in outcomes})
    if failed:
        say(f"{len(failed)} failed:", error=True)
        for name, reason in failed:
            say(f"  {name}: {reason}", error=True)
    return 1 if failed else 0
