"""Groups of flags that several commands share; each field's docstring is its help."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Bounds = Annotated[bool | None, Parameter(negative="--no-bounds", show_default=False)]
"""--bounds or --no-bounds: the corner that positions of a foreign file count from; None as its format does."""
ForQuPath = Annotated[bool, Parameter(name="--bounds", negative="--no-bounds")]
"""Whether positions in files for QuPath count from the corner of the slide's bounds."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """Which tiles are cut. By default those that the encoder was made for."""

    size: int | None = None
    """Side of a tile in pixels, as the encoder sees it; by default the encoder's own."""
    tile_mpp: float | None = None
    """Resolution of a tile, microns per pixel (0.5 is about 20x); by default what the encoder states, else 0.5."""
    stride: int | None = None
    """Distance between tiles in pixels; less than --size makes them overlap."""
    min_tissue: float | None = None
    """Least share of a tile that is tissue, 0 to 1; by default 0.25, and 0.05 where objects are looked for."""
    resampling: Literal["area", "dct"] = "area"
    """How pixels are shrunk: exact averages, or faster inside the JPEG decoder."""
    upsample: bool = False
    """Magnify slides that are coarser than the tiles; otherwise they are refused."""
    edge: Literal["drop", "pad"] = "drop"
    """Tiles that cross the right or lower edge of the slide: left out and counted, or embedded on white."""
    force: bool = False
    """Cut tiles that do not fit the encoder's card all the same."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TissueOptions:
    """How tissue is found; see `wsi-umedpt tissue` for a sheet to judge it by."""

    cell_um: float = 16.0
    """Detail of the tissue mask, microns."""
    min_colour: float = 7.0
    """Least colour distance of tissue from glass (in CIE a and b); lower keeps paler tissue."""
    max_colour: float = 22.0
    """Greatest threshold chosen automatically."""
    min_area_um2: float = 40_000.0
    """Drop pieces smaller than this, square microns."""
    max_hole_um2: float = 20_000.0
    """Close holes smaller than this, square microns."""
    reject_ink: Annotated[bool, Parameter(negative="--keep-ink")] = True
    """Leave marker ink out."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How the work is done."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N, mps; cuda:all runs one process per GPU."""
    engine: Literal["torch", "openvino"] = "torch"
    """What runs the encoder; openvino is the fastest on CPU (pip install 'wsi-umedpt[openvino]')."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the encoder; features other than fp32 are stored under a name of their own."""
    compile: bool = False
    """Compile the encoder (CUDA)."""
    batch_size: int = 64
    """Tiles in a batch; a divisor of 1024."""
    threads: int | None = None
    """Threads that decode; by default one per core, at most 8."""
    max_unreadable: float = 0.05
    """Share of damaged tiles above which a slide fails."""
    stall_timeout: float = 600.0
    """Seconds without any progress after which reading a slide is given up; the others go on."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SpreadOptions:
    """How slides are spread over processes and machines, and how stubbornly they are tried (docs/scale.md)."""

    dask: str | None = None
    """Workers that share the slides: local, local:N, tcp://HOST:PORT, slurm:N or pbs:N."""
    isolate: bool = False
    """Open slides in a process of their own: one that crashes or hangs costs nothing but itself. --dask always does."""
    slide_timeout: float | None = None
    """Seconds after which the process of a slide is ended; isolates."""
    slide_memory: float | None = None
    """GB of memory above which the process of a slide is ended; isolates."""
    attempts: int = 3
    """After how many failed attempts, over all runs, a slide is given up."""
    retry_failed: bool = False
    """Try again also the slides that were given up."""
    stage: Path | None = None
    """Copy each slide to this folder before it is opened, the next one while one is worked on: for slow disks. Slides
    given as URLs always are, by default below the system's temporary folder (TMPDIR)."""
    stage_gb: float | None = None
    """GB that may lie there at a time, of all processes together; by default two slides a process."""
    work: Path | None = None
    """With --out URL: folder where stores are made before they are published, with claims and records; keep it to go on
    after an interruption, and share it between runs that share the output."""


def origin_of(bounds: bool | None) -> Literal["bounds", "level-0"] | None:
    """What --bounds and --no-bounds mean to readers of annotations."""
    return None if bounds is None else "bounds" if bounds else "level-0"


def check_mpp(mpp: float | None) -> None:
    """Refuse a --mpp that no slide can have, once and not for every slide."""
    from wsi_umedpt.geometry import Mpp, checked_mpp

    if mpp is not None:
        checked_mpp(Mpp(mpp, mpp, "user"), "--mpp")


def stores_in(paths: Sequence[str | Path]) -> list[Path]:
    """The stores among and in the paths and URLs that a user named."""
    from wsi_umedpt.places import find_stores

    return [store for path in paths for store in find_stores(path)]
