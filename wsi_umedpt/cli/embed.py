"""`wsi-umedpt embed`: slides to stores of embeddings, one or ten thousand."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
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
from wsi_umedpt.cli.segment import find_objects
from wsi_umedpt.cli.spread import (
    check_spread,
    cores_each,
    in_children,
    make_output,
    plan_of,
    rules_of,
    run_slides,
    share_cores,
)
from wsi_umedpt.cli.terminal import say

if TYPE_CHECKING:
    from wsi_umedpt.cohort.manifest import Failure, SlideJob
    from wsi_umedpt.cohort.run import Embedding, EmbedPlan, Outcome, Prepared
    from wsi_umedpt.models.encoder import Encoder
    from wsi_umedpt.tiling import TileSpec

ALL_GPUS = "cuda:all"


def embed(
    slides: list[str],
    /,
    *,
    out: Annotated[str, Parameter(alias="-o")],
    model: Annotated[tuple[str, ...], Parameter(alias="-m", show_default=False)] = (),
    mpp: float | None = None,
    mask: Path | None = None,
    bounds: Bounds = None,
    heads: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    tiles: TileOptions | None = None,
    tissue: TissueOptions | None = None,
    run: RunOptions | None = None,
    spread: SpreadOptions | None = None,
    dry_run: bool = False,
) -> int:
    """Embed slides into stores, `OUT/SLIDE.zarr`, named by the slide's file or by a table.

    A slide that is done is skipped, one that was interrupted is gone on with: run the same
    command again. Several processes, on several machines, may share OUT. Exit code 1 if any slide
    failed, 143 if SIGTERM stopped the run.

    Examples
    --------
        wsi-umedpt embed slide.svs -o out

        wsi-umedpt embed slides/ more/*.ndpi -o out -m timm:resnet50 -m efficientnet_lite0.imagenet

        wsi-umedpt embed cohort.csv -o out --engine openvino --precision bf16

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
        Slide files, folders, globs, URLs (s3://, gs://, https://, with wildcards too), or a table with columns slide,
        slide_id, mpp, mask.
    out
        Folder for the stores; or a prefix in an object store, as s3://bucket/out, with --work.
    model
        Encoder, repeatable: a name of `wsi-umedpt encoders`, timm:NAME, timm:NAME@WEIGHTS or timm:NAME@random.
        By default umedpt_lite0.v1, which ships.
    mpp
        Microns per pixel of the slides at full resolution, instead of what they state.
    mask
        Your own tissue mask for one slide: annotations of QuPath (GeoJSON), ASAP, ImageScope or HALO in level-0 pixels,
        or a PNG of the whole slide. For many, use the CSV.
    bounds
        Whether masks count from the corner of the slide's bounds, where a scanner states them (MRXS, SCN). By default
        GeoJSON does, as QuPath crops slides to them, and so does ImageScope; ASAP and HALO count from the whole slide.
    heads
        Also find these objects, in the same pass of a UMedPT model over overlapping tiles; see `wsi-umedpt segment`.
    tiles
        Which tiles are cut.
    tissue
        How tissue is found.
    run
        How the work is done.
    spread
        How slides are spread over processes and machines.
    dry_run
        Print what would be done, and do nothing; the device need not be there.
    """
    from wsi_umedpt.cohort.manifest import list_slides, with_flags
    from wsi_umedpt.cohort.run import embed_slides
    from wsi_umedpt.errors import EncoderError

    spread, run = spread or SpreadOptions(), run or RunOptions()
    if heads:
        if len(model) > 1 or dry_run or run.device == ALL_GPUS:
            raise EncoderError("--heads goes with one UMedPT model on one device, and without --dry-run")
        return find_objects(
            slides, out, "".join(model), heads, mpp, mask, bounds, tiles, tissue, run, spread, embed=True
        )
    tiles, tissue = tiles or TileOptions(), tissue or TissueOptions()
    check_mpp(mpp)
    check_spread(spread, run)
    jobs, failures = list_slides(slides, say)
    jobs = with_flags(jobs, mpp, mask, origin_of(bounds))
    describe = dry_run or run.device == ALL_GPUS or in_children(spread)
    plan = _plan(out, model, tiles, tissue, run, spread, describe=describe)
    if run.device == ALL_GPUS and not dry_run:
        return _one_process_per_gpu()
    _print_encoders(plan, tiles, run)
    if dry_run:
        return _print_slides(jobs, failures, plan)
    folder = make_output(out, spread)
    load = partial(load_embedding, out, model, tiles, tissue, run, spread)
    given = slides, failures
    outcomes = run_slides(jobs, folder, spread, load, lambda bars, rules: embed_slides(jobs, plan, bars, rules), given)
    return outcomes if isinstance(outcomes, int) else summary(outcomes, failures, plan)


def load_embedding(
    out: str, model: Sequence[str], tiles: TileOptions, tissue: TissueOptions, run: RunOptions, spread: SpreadOptions
) -> "Embedding":
    """Load what embeds slides, in a process that does nothing else."""
    from wsi_umedpt.cohort.run import Embedding

    run = share_cores(run, cores_each(spread))
    return Embedding(_plan(out, model, tiles, tissue, run, spread, describe=False), rules_of(spread))


def _plan(
    out: str, model: Sequence[str], tiles: TileOptions, tissue: TissueOptions, run: RunOptions,
    spread: SpreadOptions, *, describe: bool,
) -> "EmbedPlan":  # fmt: skip
    """Load the encoders, or only describe them, so that no device is needed."""
    from wsi_umedpt.models.cards import DEFAULT_ENCODER
    from wsi_umedpt.models.encoder import describe_encoder, load_encoder

    device = "cuda" if run.device == ALL_GPUS else run.device
    load = describe_encoder if describe else partial(load_encoder, batch_size=run.batch_size)
    encoders = [
        load(name, device=device, precision=run.precision, engine=run.engine, compiled=run.compile)
        for name in dict.fromkeys(model or (DEFAULT_ENCODER,))
    ]
    return plan_of(out, tissue, run, spread, encoders, [_spec(encoder, tiles) for encoder in encoders])


def _spec(encoder: "Encoder", tiles: TileOptions) -> "TileSpec":
    from wsi_umedpt.encode import check_fit
    from wsi_umedpt.tiling import TileSpec

    card = encoder.card
    spec = TileSpec(
        size_px=card.size_px if tiles.size is None else tiles.size,
        mpp=next(mpp for mpp in (tiles.tile_mpp, card.mpp, TileSpec.mpp) if mpp is not None),
        stride_px=tiles.stride,
        min_tissue=TileSpec.min_tissue if tiles.min_tissue is None else tiles.min_tissue,
        resampling=tiles.resampling,
        upsample=tiles.upsample,
        edge=tiles.edge,
    )
    if not tiles.force:
        check_fit(encoder, spec)
    return spec


def _print_encoders(plan: "EmbedPlan", tiles: TileOptions, run: RunOptions) -> None:
    """What embeds which tiles, and where that deserves a thought."""
    for encoder, spec in zip(plan.encoders, plan.specs, strict=True):
        where = _devices(run.device, encoder.device)
        say(f"{encoder.name}: {_words(spec)}, {encoder.engine_name} {encoder.precision} on {where}")
        if tiles.tile_mpp is None and encoder.card.mpp is None:
            say(f"{encoder.name} states no um/px; tiles at {spec.mpp:g} um/px, change with --tile-mpp")
    if len(plan.by_spec()) > 1:
        say(
            "warning: these encoders do not share tiles: row i of one is not the tile of row i of another, and "
            "slides are read once for each grid. To share them, give one --size and --tile-mpp with --force.",
            error=True,
        )


def _words(spec: "TileSpec") -> str:
    apart = "" if spec.stride == spec.size_px else f", {spec.stride} px apart"
    return f"tiles of {spec.size_px} px at {spec.mpp:g} um/px{apart}"


def _devices(asked: str, settled: str) -> str:
    """The devices of a run in words, also where they are not on this machine."""
    from wsi_umedpt.models.encoder import count_devices, is_here

    if asked != ALL_GPUS:
        return settled if is_here(settled) else f"{settled}, which is not on this machine"
    count = count_devices("cuda")
    names = ", ".join(f"cuda:{n}" for n in range(count))
    return f"{names}, one process each" if count else "every CUDA device, of which this machine has none"


def summary(outcomes: Sequence["Outcome"], failures: Sequence["Failure"], plan: "EmbedPlan") -> int:
    """Print what became of a run; the exit code."""
    done = [o for o in outcomes if o.status == "done"]
    already = [o for o in outcomes if o.status == "already"]
    failed = [(o.job.name, o.reason) for o in outcomes if o.status == "failed"]
    failed += [(f.name, f.reason) for f in failures]
    tiles, fresh, seconds = (sum(getattr(o, n) for o in done) for n in ("tiles", "fresh", "seconds"))
    earlier = f", {tiles - fresh} of them in an earlier run" if fresh < tiles else ""
    rate = f", {fresh / seconds:.0f} tiles/s" if fresh else ""
    say(f"{len(done)} embedded ({tiles} tiles{earlier}{rate}), {len(already)} already there")
    _print_tiles(plan, [o.tiles_by_grid for o in (*done, *already)])
    for outcome in (*done, *already):
        if outcome.note:
            say(f"  {outcome.job.slide_id}: of its mask {outcome.note}")
        if outcome.unreadable:
            say(f"  {outcome.job.slide_id}: {outcome.unreadable} of {outcome.tiles} tiles unreadable, left out")
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
    """How many tiles were not laid as they cross the edges of slides."""
    if left_out := sum(counts):
        slides = sum(map(bool, counts))
        say(
            f"  {left_out} tiles with tissue that cross the right or lower edge of {slides} slide{'s'[: slides != 1]} "
            "are left out; --edge pad embeds them, white beyond the edge"
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


def _print_tiles(plan: "EmbedPlan", counts: Sequence[tuple[int, ...]]) -> None:
    """A line per encoder, where they do not share their tiles."""
    grids = plan.by_spec()
    if len(grids) > 1:
        for (spec, encoders), tiles in zip(grids.items(), zip(*counts, strict=True), strict=False):
            for encoder in encoders:
                say(f"  {encoder.name}: {sum(tiles)} {_words(spec)}, grid {spec.grid_id}")


def _print_slides(jobs: Sequence["SlideJob"], failures: Sequence["Failure"], plan: "EmbedPlan") -> int:
    """What would be done to each slide; the exit code."""
    from wsi_umedpt.errors import reason_of
    from wsi_umedpt.stalls import watched

    failed = [(f.name, f.reason) for f in failures]
    counts: list[tuple[int, ...]] = []
    fingerprints: dict[str, str] = {}
    left_out: list[int] = []
    for job in jobs:
        try:
            prepared = watched(partial(_prepared, job, plan), stall_s=plan.stall_s)
            exists = prepared.path.exists() or (plan.shelf is not None and plan.shelf.holds(prepared.path))
        except Exception as error:  # noqa: BLE001 - a plan lists every slide's trouble
            failed.append((job.name, reason_of(error)))
            continue
        slide = prepared.slide
        counts.append(tuple(map(len, prepared.grids)))
        left_out.append(sum(grid.left_out for grid in prepared.grids))
        fingerprints[job.slide_id] = slide.fingerprint
        prepared.close()
        goes = plan.shelf.remote(prepared.path) if plan.shelf else prepared.path
        there = " (store exists)" if exists else ""
        say(
            f"{job.name} -> {goes}{there}: {slide.size[0]} x {slide.size[1]} px, {slide.mpp:g} um/px "
            f"({slide.mpp_source}), read by {slide.reader}, tissue {prepared.tissue.fraction:.0%}, "
            f"{' + '.join(map(str, counts[-1]))} tiles"
        )
    say(f"{len(counts)} slides, {sum(map(sum, counts))} tiles")
    _print_tiles(plan, counts)
    _print_left_out(left_out)
    say_same(fingerprints)
    if failed:
        say(f"{len(failed)} would fail:", error=True)
    for name, reason in failed:
        say(f"  {name}: {reason}", error=True)
    return 1 if failed else 0


def _prepared(job: "SlideJob", plan: "EmbedPlan", pulse: Callable[[], None]) -> "Prepared":
    from wsi_umedpt.cohort.run import Prepared

    return Prepared(job, plan, read=False, pulse=pulse)


def _one_process_per_gpu() -> int:
    """Run this very command once per GPU; the processes share the output folder."""
    import torch

    from wsi_umedpt.cohort.stopping import EXIT_CODE, Stopped, stoppable
    from wsi_umedpt.errors import EncoderError

    count = torch.cuda.device_count()
    if not count:
        raise EncoderError("device 'cuda:all' was asked for, but there is no CUDA device (wsi-umedpt doctor)")
    commands = [
        [sys.executable, "-m", "wsi_umedpt", *(a.replace(ALL_GPUS, f"cuda:{n}") for a in sys.argv[1:])]
        for n in range(count)
    ]
    running = [subprocess.Popen(command) for command in commands]
    try:
        with stoppable():
            codes = [process.wait() for process in running]
    except Stopped:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        return EXIT_CODE
    return 1 if any(codes) else 0  # a killed one has a negative code
