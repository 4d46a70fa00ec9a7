"""`wsi-umedpt segment`: objects (nuclei, cells) over whole slides, with or without embeddings in the same pass."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from wsi_umedpt.cli.options import (
    Bounds,
    RunOptions,
    SpreadOptions,
    TileOptions,
    TissueOptions,
    check_mpp,
    origin_of,
)  # fmt: skip
from wsi_umedpt.cli.spread import check_spread, cores_each, make_output, plan_of, rules_of, run_slides, share_cores
from wsi_umedpt.cli.terminal import say

if TYPE_CHECKING:
    from wsi_umedpt.cohort.objects import ObjectPlan, Segmenting
    from wsi_umedpt.cohort.run import Outcome


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
    tiles: TileOptions | None = None,
    tissue: TissueOptions | None = None,
    run: RunOptions | None = None,
    spread: SpreadOptions | None = None,
) -> int:
    """Find objects on slides: label images, outlines and measures, in the stores `OUT/SLIDE.zarr`.

    Stores that are there are added to. A slide that was interrupted is gone on with: run the same
    command again. `wsi-umedpt embed --heads` embeds the windows in the same pass. Exit code 1 if
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
        slide_id, mpp, mask.
    out
        Folder for the stores; or a prefix in an object store, as s3://bucket/out, with --work.
    heads
        Which objects; `wsi-umedpt encoders` lists the heads of each UMedPT model. By default the first.
    model
        UMedPT model: one that ships, or umedpt:FILE.json. By default the one that ships.
    mpp
        Microns per pixel of the slides at full resolution, instead of what they state.
    mask
        Your own tissue mask for one slide: annotations of QuPath (GeoJSON), ASAP, ImageScope or HALO in level-0 pixels,
        or a PNG of the whole slide.
    bounds
        Whether masks count from the corner of the slide's bounds, where a scanner states them (MRXS, SCN). By default
        GeoJSON does, as QuPath crops slides to them, and so does ImageScope; ASAP and HALO count from the whole slide.
    tiles
        Which windows are cut; by default 320 px, 256 px apart. With --stride of a grid that the store has, windows
        lie as its tiles do, and are as large as they need be to overlap.
    tissue
        How tissue is found.
    run
        How the work is done.
    spread
        How slides are spread over processes and machines.
    """
    return find_objects(slides, out, model, heads, mpp, mask, bounds, tiles, tissue, run, spread, embed=False)


def find_objects(
    slides: list[str], out: str, model: str, heads: Sequence[str], mpp: float | None, mask: Path | None,
    bounds: bool | None, tiles: TileOptions | None, tissue: TissueOptions | None, run: RunOptions | None,
    spread: SpreadOptions | None, *, embed: bool,
) -> int:  # fmt: skip
    """What `segment`, and `embed --heads`, do."""
    from wsi_umedpt.cohort.manifest import list_slides, with_flags
    from wsi_umedpt.cohort.objects import segment_slides

    tiles, run, spread = tiles or TileOptions(), run or RunOptions(), spread or SpreadOptions()
    tissue = tissue or TissueOptions()
    check_mpp(mpp)
    check_spread(spread, run)
    jobs, failures = list_slides(slides, say)
    jobs = with_flags(jobs, mpp, mask, origin_of(bounds))
    objects = _objects(model, heads, tiles, run, embed=embed)
    plan = plan_of(out, tissue, run, spread)
    spec = objects.spec
    names = ", ".join(h.name for h in objects.model.heads)
    say(
        f"{objects.made_by['model']}: {names}{' and embeddings' if embed else ''}; windows of {spec.size_px} px, "
        f"{spec.stride} px apart, at {spec.mpp:g} um/px, {objects.made_by['precision']} on {objects.made_by['device']}"
    )
    unscaled = [head.name for head in objects.model.heads if head.mpp is None]
    if tiles.tile_mpp is None and unscaled:
        say(
            f"{', '.join(unscaled)}: trained on images of no stated scale; look at the result, and change the windows' "
            "scale with --tile-mpp (docs/objects.md says how large objects should be)"
        )
    folder = make_output(out, spread)
    load = partial(load_segmenting, out, model, heads, tiles, tissue, run, spread, embed)
    outcomes = run_slides(
        jobs,
        folder,
        spread,
        load,
        lambda bars, rules: segment_slides(jobs, plan, objects, bars, rules),
        (slides, failures),
    )
    return outcomes if isinstance(outcomes, int) else _summary(outcomes, [(f.name, f.reason) for f in failures])


def load_segmenting(
    out: str, model: str, heads: Sequence[str], tiles: TileOptions, tissue: TissueOptions, run: RunOptions,
    spread: SpreadOptions, embed: bool,
) -> "Segmenting":  # fmt: skip
    """Load what finds objects, in a process that does nothing else."""
    from wsi_umedpt.cohort.objects import Segmenting

    run = share_cores(run, cores_each(spread))
    objects = _objects(model, heads, tiles, run, embed=embed)
    return Segmenting(plan_of(out, tissue, run, spread), objects, rules_of(spread))


def _objects(model: str, names: Sequence[str], tiles: TileOptions, run: RunOptions, *, embed: bool) -> "ObjectPlan":
    from wsi_umedpt.cohort.heads import Windows, plan_objects
    from wsi_umedpt.errors import EncoderError

    if run.engine != "torch" or run.compile:
        raise EncoderError("heads run on the engine torch, not compiled; leave --engine and --compile out")
    windows = Windows(
        size_px=tiles.size, mpp=tiles.tile_mpp, stride_px=tiles.stride, min_tissue=tiles.min_tissue,
        resampling=tiles.resampling, upsample=tiles.upsample, edge=tiles.edge if embed else "drop",
    )  # fmt: skip
    heads = [n for name in names for n in name.split(",")]
    return plan_objects(model, heads, windows, device=run.device, precision=run.precision, embed=embed)


def _summary(outcomes: "Sequence[Outcome]", failed: list[tuple[str, str]]) -> int:
    from wsi_umedpt.cli.embed import say_same

    done = [o for o in outcomes if o.status == "done"]
    failed = failed + [(o.job.name, o.reason) for o in outcomes if o.status == "failed"]
    counts: dict[str, int] = {}
    for outcome in outcomes:
        for name, count in outcome.objects.items():
            counts[name] = counts.get(name, 0) + count
    found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no objects"
    say(f"{len(done)} slides done, {sum(o.status == 'already' for o in outcomes)} already there: {found}")
    for outcome in outcomes:
        if outcome.status != "failed" and not outcome.tiles:
            say(
                f"  {outcome.job.slide_id}: no window with enough tissue. On smears and fluorescence, where none is "
                "found, --min-tissue 0 looks everywhere; what counts as tissue: "
                f"wsi-umedpt tissue {shlex.quote(outcome.job.name)} -o tissue.png"
            )
        if outcome.note:
            say(f"  {outcome.job.slide_id}: of its mask {outcome.note}")
        if outcome.unreadable:
            say(f"  {outcome.job.slide_id}: {outcome.unreadable} of {outcome.tiles} windows unreadable, left out")
    say_same({o.job.slide_id: o.fingerprint for o in outcomes})
    if failed:
        say(f"{len(failed)} failed:", error=True)
        for name, reason in failed:
            say(f"  {name}: {reason}", error=True)
    return 1 if failed else 0
