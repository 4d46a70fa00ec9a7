"""`wsi-umedpt embed`: slides to stores of embeddings, one or ten thousand."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from wsi_umedpt.cli.devices import devices_of, run_on_each
from wsi_umedpt.cli.options import Bounds, Compute, Run, SpreadOptions, Tiles, Tissue
from wsi_umedpt.cli.segment import Asked, segment_given
from wsi_umedpt.cli.spread import (
    Given,
    batch_of,
    check_spread,
    find_given,
    in_children,
    load_runner,
    run_everywhere,
)
from wsi_umedpt.cli.terminal import say
from wsi_umedpt.messages import counted, noun
from wsi_umedpt.settings import ComputeOptions, RunSettings, TileOptions, TissueParameters

if TYPE_CHECKING:
    from wsi_umedpt.batch.coordination.result import Outcome
    from wsi_umedpt.batch.jobs.manifest import Failure
    from wsi_umedpt.batch.run import Batch
    from wsi_umedpt.models.slide_encoders import SlideEncoder
    from wsi_umedpt.pipeline.embed import EmbedTask
    from wsi_umedpt.pipeline.prepare import PreparedSlide
    from wsi_umedpt.slides.slide_job import SlideJob
    from wsi_umedpt.slides.tiling import TileSpec


def embed(
    slides: list[str],
    /,
    *,
    out: Annotated[str, Parameter(alias="-o")],
    model: Annotated[tuple[str, ...], Parameter(alias="-m", show_default=False)] = (),
    mpp: float | None = None,
    mask: Path | None = None,
    bounds: Bounds = None,
    channels: str | None = None,
    heads: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    slide_encoder: Annotated[str | None, Parameter(show_default=False)] = None,
    trust_remote_code: bool = False,
    tiles: Tiles = None,
    tissue: Tissue = None,
    compute: Compute = None,
    run: Run = None,
    spread: SpreadOptions | None = None,
    dry_run: bool = False,
) -> int:
    """Embed slides into stores, `OUT/SLIDE.zarr`, named by the slide's file or by a table.

    A slide that is done is skipped, and an interrupted one is resumed: run the same command
    again. Several processes, on several machines, may share OUT. Exit code 1 if any slide
    failed, 143 if SIGTERM stopped the run.

    Examples
    --------
        wsi-umedpt embed slide.svs -o out

        wsi-umedpt embed slides/ more/*.ndpi -o out -m timm:resnet50 -m efficientnet_lite0.imagenet

        wsi-umedpt embed cohort.csv -o out --precision bf16

        wsi-umedpt embed slides/ -o out --dry-run

        wsi-umedpt embed slide.svs -o out --heads nuclei_tnbc

        wsi-umedpt embed slides/ -o out --isolate --slide-timeout 3600 --slide-memory 16

        wsi-umedpt embed slides/ -o out --dask local:4

        wsi-umedpt embed s3://bucket/slides/ https://host/slide.svs -o out

        wsi-umedpt embed s3://bucket/slides/ -o s3://bucket/out --work work

        wsi-umedpt embed /slow/slides/ -o out --stage /scratch/stage --stage-gb 50

        wsi-umedpt embed slides/ -o out --dask tcp://scheduler:8786

    Parameters
    ----------
    slides
        Slide files, folders, globs, URLs (s3://, gs://, https://, with wildcards too), series on a DICOMweb server
        (dicomweb:https://SERVER/PATH/studies/STUDY/series/SERIES), or a table with columns slide, slide_id, mpp, mask,
        channels.
    out
        Folder for the stores; or a prefix in an object store, as s3://bucket/out, with --work.
    model
        Encoder, repeatable: a name of `wsi-umedpt encoders`, timm:NAME, timm:NAME@WEIGHTS or timm:NAME@random.
        By default umedpt_lite0.v2, which ships.
    mpp
        Microns per pixel of the slides at full resolution, instead of what they state.
    mask
        Your own tissue mask for one slide: annotations of QuPath (GeoJSON), ASAP, ImageScope or HALO in level-0 pixels,
        or a PNG of the whole slide. For many, use the CSV.
    bounds
        Count masks from the corner of the slide's bounds, where a scanner states them (MRXS, SCN). By default
        GeoJSON does, as QuPath crops slides to them, and so does ImageScope; ASAP and HALO count from the whole slide.
    channels
        Channels of slides that are not in colour: three that are seen as red, green and blue, or one seen as grey, as
        DAPI,CD3,CD8 or 0,3,5 (`wsi-umedpt info` lists them). Each is stretched between percentiles of the slide; fix
        its grey values as in DAPI:200-4000. The store records them.
    heads
        Also find these objects, in the same pass of a UMedPT model over overlapping tiles; see `wsi-umedpt segment`.
    slide_encoder
        Also make one vector a slide of its tiles, by this encoder of slides: mean, or another of
        `wsi-umedpt encoders --kind slide`. `mil` takes it by its name, which is printed, as a bag of one.
    trust_remote_code
        Run the code that lies beside the weights of some encoders (`wsi-umedpt encoders show NAME` says which): a
        program of its authors', with your rights. Read it first.
    tiles
        Size, scale and position of tiles.
    tissue
        Parameters of tissue detection.
    compute
        Device, engine and precision of networks; --device cuda runs one process for each GPU that is visible.
    run
        Settings for reading and running tiles.
    spread
        Settings for spreading slides over processes and machines.
    dry_run
        Print what would be done, and do nothing; neither the device nor the weights of an encoder with a card need be
        there.
    """
    from wsi_umedpt.models.names import check_tile_encoder, trusting

    for name in model:  # a name that is none is said before torch is imported, which takes seconds
        check_tile_encoder(name)
    if not dry_run and not (spread and spread.dask):  # workers may have what this machine has not
        from wsi_umedpt.models.hub import check_at_hand

        for name in model:
            check_at_hand(name)
    if trust_remote_code:
        model = tuple(map(trusting, model))
    slides_by = _slide_encoder(slide_encoder, out, heads)
    from wsi_umedpt.errors import EncoderError

    spread, compute, run = spread or SpreadOptions(), compute or ComputeOptions(), run or RunSettings()
    if heads and (len(model) > 1 or dry_run):
        raise EncoderError("--heads goes with one UMedPT model, and without --dry-run")
    check_spread(spread)
    given = find_given(slides, mpp, mask, bounds, channels)
    devices = devices_of(compute.device, spread)
    load = partial(_plan, model, tiles, compute, tissue)
    if len(devices) > 1 and len(given.jobs) > 1 and not dry_run:
        if not heads:
            load(run, describe=True, weights=False)  # what is wrong with a name or its tiles is said once
        command = partial(
            embed, slides, out=out, model=model, mpp=mpp, mask=mask, bounds=bounds, channels=channels, heads=heads,
            tiles=tiles, tissue=tissue, spread=spread, slide_encoder=slide_encoder,
        )  # fmt: skip
        return run_on_each(command, devices[: len(given.jobs)], compute, run)
    if heads:
        asked = Asked("".join(model), heads, tiles, compute, tissue, embed=True)
        return segment_given(given, out, spread, asked, run)
    task = load(run, describe=dry_run or in_children(spread), weights=not dry_run)
    _print_encoders(task, tiles or TileOptions(), devices)
    if dry_run:
        return _print_slides(given, task, batch_of(out, spread))
    outcomes = run_everywhere(given, out, spread, task, partial(load_runner, load, run, out, spread))
    if isinstance(outcomes, int):
        return outcomes
    failed = _embed_whole_slides(outcomes, task, slides_by, Path(out)) if slides_by else 0
    return summary(outcomes, given.failures, task) or failed


def _slide_encoder(name: str | None, out: str, heads: Sequence[str]) -> "SlideEncoder | None":
    """The encoder of slides that is asked for, or why not, before any work."""
    if name is None:
        return None
    from wsi_umedpt.errors import EncoderError
    from wsi_umedpt.io.remote import is_url
    from wsi_umedpt.models.slide_encoders import find_slide_encoder

    if is_url(out) or heads:
        raise EncoderError("--slide-encoder goes with stores in a folder of this machine, and without --heads")
    return find_slide_encoder(name)


def _embed_whole_slides(outcomes: Sequence["Outcome"], task: "EmbedTask", slides_by: "SlideEncoder", out: Path) -> int:
    """Make the vector of each slide that has its tiles; 1 if any fails."""
    from wsi_umedpt.errors import WsiError, reason_of
    from wsi_umedpt.pipeline.slide_vectors import embed_slide
    from wsi_umedpt.slides.slide_job import store_path
    from wsi_umedpt.store.slide_store import SlideStore

    made, failed = 0, 0
    for outcome in outcomes:
        if outcome.status not in ("done", "already"):
            continue
        try:
            store = SlideStore.open(store_path(out, outcome.job))
            for encoder, spec in zip(task.encoders, task.tile_specs, strict=True):
                made += embed_slide(store, slides_by, encoder.name, spec.grid_id)
        except (WsiError, OSError) as error:
            failed = 1
            say(f"{outcome.job.slide_id}: no vector of the slide: {reason_of(error)}", error=True)
    names = ", ".join(f"{slides_by.card.name}.{encoder.name}" for encoder in task.encoders)
    say(f"{counted(made, 'vector of a slide', 'vectors of slides')} made; for mil: -m {names}")
    return failed


def _plan(
    model: Sequence[str], tiles: TileOptions | None, compute: ComputeOptions, tissue: TissueParameters | None,
    run: RunSettings, *, describe: bool = False, weights: bool = True,
) -> "EmbedTask":  # fmt: skip
    from wsi_umedpt.pipeline.plan import plan_embedding

    return plan_embedding(model, tiles, compute, tissue=tissue, settings=run, describe=describe, weights=weights)


def _print_encoders(task: "EmbedTask", tiles: TileOptions, devices: Sequence[str]) -> None:
    """Print which encoder embeds which tiles, and warn where scale or grids deserve attention."""
    for encoder, spec in zip(task.encoders, task.tile_specs, strict=True):
        where = _in_words(devices, encoder.device)
        say(f"{encoder.name}: {_words(spec)}, {encoder.engine_name} {encoder.precision} on {where}")
        if tiles.tile_mpp is None and encoder.card.mpp is None:
            say(f"{encoder.name} states no um/px; tiles at {spec.mpp:g} um/px, change with --tile-mpp")
    if len(task.by_spec()) > 1:
        say(
            "warning: these encoders do not share tiles: row i of one is not the tile of row i of another. "
            "To share them, give one --size and --tile-mpp with --force.",
            error=True,
        )


def _words(spec: "TileSpec") -> str:
    apart = "" if spec.stride == spec.size_px else f", {spec.stride} px apart"
    return f"tiles of {spec.size_px} px at {spec.mpp:g} um/px{apart}"


def _in_words(devices: Sequence[str], settled: str) -> str:
    """The devices of a run in words, also where they are not on this machine."""
    from wsi_umedpt.models.encoder import is_here

    if len(devices) > 1:
        return f"{', '.join(devices)}, one process each"
    return settled if is_here(settled) else f"{settled}, which is not on this machine"


def summary(outcomes: Sequence["Outcome"], failures: Sequence["Failure"], task: "EmbedTask") -> int:
    """Print what became of a run; the exit code."""
    done = [o for o in outcomes if o.status == "done"]
    already = [o for o in outcomes if o.status == "already"]
    failed = [(o.job.name, o.reason) for o in outcomes if o.status == "failed"]
    failed += [(f.name, f.reason) for f in failures]
    tiles, fresh, seconds = (sum(getattr(o, n) for o in done) for n in ("tiles", "fresh", "seconds"))
    earlier = f", {tiles - fresh:,} of them in an earlier run" if fresh < tiles else ""
    rate = f", {fresh / seconds:.0f} tiles/s" if fresh else ""
    say(f"{len(done)} embedded ({counted(tiles, 'tile')}{earlier}{rate}), {len(already)} already there")
    _print_tiles(task, [o.tiles_by_grid for o in (*done, *already)])
    for outcome in (*done, *already):
        if outcome.note:
            say(f"  {outcome.job.slide_id}: of its mask {outcome.note}")
        if outcome.unreadable:
            say(
                f"  {outcome.job.slide_id}: {outcome.unreadable:,} of {counted(outcome.tiles, 'tile')} unreadable, "
                "left out"
            )
        if not outcome.tiles:
            look = f"wsi-umedpt tissue {shlex.quote(outcome.job.name)} -o tissue.png"
            say(f"  {outcome.job.slide_id}: no tile with enough tissue; look at it with: {look}")
    _print_left_out([o.left_out for o in done])
    say_same({o.job.slide_id: o.fingerprint for o in (*done, *already)})
    if failed:
        say(f"{len(failed)} failed:", error=True)
        for name, reason in failed:
            say(f"  {name}: {reason}", error=True)
    return 1 if failed else 0


def _print_left_out(counts: Sequence[int]) -> None:
    """Print the number of tiles that were left out because they cross the edges of slides."""
    if left_out := sum(counts):
        slides = sum(map(bool, counts))
        say(
            f"  {counted(left_out, 'tile with tissue that crosses', 'tiles with tissue that cross')} the right or "
            f"lower edge of {counted(slides, 'slide')} {noun(left_out, 'is', 'are')} left out; --edge pad embeds them, "
            "blank beyond the edge"
        )


def say_same(fingerprints: Mapping[str, str]) -> None:
    """Say which slides are one under several names: their files have the same content."""
    named: dict[str, list[str]] = {}
    for slide_id, fingerprint in fingerprints.items():
        if fingerprint:
            named.setdefault(fingerprint, []).append(slide_id)
    for names in named.values():
        if len(names) > 1:
            say(
                f"warning: {', '.join(names)} are the same slide under {len(names)} names: it counts {len(names)} "
                "times, and may lie on both sides of a split. Keep one of them.",
                error=True,
            )


def _print_tiles(task: "EmbedTask", counts: Sequence[tuple[int, ...]]) -> None:
    """A line per encoder, where they do not share their tiles."""
    grids = task.by_spec()
    if len(grids) > 1:
        for (spec, encoders), tiles in zip(grids.items(), zip(*counts, strict=True), strict=False):
            for encoder in encoders:
                say(f"  {encoder.name}: {sum(tiles)} {_words(spec)}, grid {spec.grid_id}")


def _print_slides(given: Given, task: "EmbedTask", batch: "Batch") -> int:
    """Print the plan for each slide; return the exit code."""
    from wsi_umedpt.errors import reason_of
    from wsi_umedpt.io.stalls import watched

    failed = [(f.name, f.reason) for f in given.failures]
    counts: list[tuple[int, ...]] = []
    fingerprints: dict[str, str] = {}
    left_out: list[int] = []
    for job in given.jobs:
        try:
            prepared = watched(partial(_prepared, job, task, batch), stall_s=task.settings.stall_s)
            exists = prepared.path.exists() or (batch.publish_to is not None and batch.publish_to.holds(prepared.path))
        except Exception as error:  # noqa: BLE001 - a plan lists every slide's trouble
            failed.append((job.name, reason_of(error)))
            continue
        slide = prepared.slide
        counts.append(tuple(map(len, prepared.grids)))
        left_out.append(sum(grid.left_out for grid in prepared.grids))
        fingerprints[job.slide_id] = slide.fingerprint
        prepared.close()
        goes = batch.publish_to.remote(prepared.path) if batch.publish_to else prepared.path
        there = " (store exists)" if exists else ""
        say(
            f"{job.name} -> {goes}{there}: {slide.size[0]} x {slide.size[1]} px, {slide.mpp:g} um/px "
            f"({slide.mpp_source}), read by {slide.reader}, tissue {prepared.tissue.fraction:.0%}, "
            f"{' + '.join(map(str, counts[-1]))} {noun(sum(counts[-1]), 'tile')}"
        )
    say(f"{counted(len(counts), 'slide')}, {counted(sum(map(sum, counts)), 'tile')}")
    _print_tiles(task, counts)
    _print_left_out(left_out)
    say_same(fingerprints)
    if failed:
        say(f"{len(failed)} would fail:", error=True)
    for name, reason in failed:
        say(f"  {name}: {reason}", error=True)
    return 1 if failed else 0


def _prepared(job: "SlideJob", task: "EmbedTask", batch: "Batch", pulse: Callable[[], None]) -> "PreparedSlide":
    from wsi_umedpt.batch.jobs.staging import Stage
    from wsi_umedpt.pipeline.prepare import PreparedSlide
    from wsi_umedpt.slides.slide_job import store_path

    with closing(Stage(batch.stage)) as stage, stage.at_hand(job, pulse) as file, ExitStack() as opened:
        prepared = PreparedSlide.open(job, store_path(batch.out, job), task, file=file, pulse=pulse)
        opened.callback(prepared.close)
        return prepared
