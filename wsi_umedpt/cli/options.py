"""Groups of flags that several commands share; each field's docstring is its help."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from wsi_umedpt.settings import ComputeOptions, RunSettings, TileOptions, TissueParameters

Bounds = Annotated[bool | None, Parameter(negative="--no-bounds", show_default=False)]
"""--bounds or --no-bounds: the corner that positions of a foreign file count from; None as its format does."""
AsJson = Annotated[bool, Parameter(name="--json")]
"""--json: print one JSON document instead of lines, for other programs."""
ForQuPath = Annotated[bool, Parameter(name="--bounds", negative="--no-bounds")]
"""Count positions in files for QuPath from the corner of the slide's bounds."""


_FLAGS = {
    "size_px": "size", "stride_px": "stride", "stall_s": "stall-timeout", "slide_s": "slide-timeout",
    "memory_gb": "slide-memory", "grid_id": "grid", "most_gb": "stage-gb",
}  # fmt: skip
"""Fields of settings whose flag has another name than they."""


def flag_of(field: str) -> str:
    """Name of the flag of a settings field, without its dashes."""
    return _FLAGS.get(field, field.replace("_", "-"))


_settings = Parameter(name="*", name_transform=flag_of)
Tiles = Annotated[TileOptions | None, _settings]
"""Size, scale and position of tiles."""
Tissue = Annotated[TissueParameters | None, Parameter(name="*", negative_bool="no-")]
"""Parameters of tissue detection."""
Compute = Annotated[ComputeOptions | None, _settings]
"""Device, engine and precision of networks."""
Run = Annotated[RunSettings | None, _settings]
"""Settings for reading and running tiles."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SpreadOptions:
    """Settings for spreading slides over processes and machines, and for retries (docs/how-to/cohort.md)."""

    dask: str | None = None
    """Workers that share the slides: local, local:N, tcp://HOST:PORT, slurm:N or pbs:N."""
    isolate: bool = False
    """Open slides in a process of their own: one that crashes or hangs costs nothing but itself. --dask always does."""
    slide_timeout: float | None = None
    """Seconds after which the process of a slide is ended; isolates."""
    slide_memory: float | None = None
    """GB of memory above which the process of a slide is ended; isolates."""
    attempts: int = 3
    """Number of failed attempts, over all runs, after which a slide is given up."""
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
    """Origin that --bounds and --no-bounds give to readers of annotations."""
    return None if bounds is None else "bounds" if bounds else "level-0"


def check_mpp(mpp: float | None) -> None:
    """Refuse a --mpp that no slide can have, once and not for every slide."""
    from wsi_umedpt.geometry import Mpp, checked_mpp

    if mpp is not None:
        checked_mpp(Mpp(mpp, mpp, "user"), "--mpp")


def stores_in(paths: Sequence[str | Path]) -> list[Path]:
    """The stores among and in the paths and URLs that a user named."""
    from wsi_umedpt.io.paths import find_stores

    return [store for path in paths for store in find_stores(path)]
