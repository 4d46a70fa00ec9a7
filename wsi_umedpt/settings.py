"""Settings that users choose, each written once: the command line, TOML files and Python build these very classes.

All are frozen and checked when they are made. Nothing here imports torch, NumPy or a decoder, so that ``--help`` is
instant.
"""

from dataclasses import dataclass
from typing import Literal

from wsi_umedpt.errors import MaskError, OptionError
from wsi_umedpt.geometry import Edge, Resampling
from wsi_umedpt.io.stalls import STALL_S, check_stall

CHUNK_ROWS = 1024
"""Rows of a chunk of features in a store; the batch size divides it."""
BATCH_SIZE = 64
"""Tiles in a batch, where nobody gives another number and none is found by trying."""
MAX_UNREADABLE = 0.05
"""Share of a slide's tiles that may be damaged before the slide fails."""


def is_batch_size(value: object) -> bool:
    """True for a whole number of tiles that divides a chunk of rows."""
    return isinstance(value, int) and value >= 1 and CHUNK_ROWS % value == 0


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings for reading tiles and running them through networks.

    Raises
    ------
    OptionError
        If the batch does not divide a chunk, or another value is out of range.
    """

    batch_size: int | None = None
    """Tiles in a batch; a divisor of 1024, so that a resumed run computes the very batches of an uninterrupted one. By
    default 64, and for slides of 1024 tiles or more what is found to be fastest, within seconds, when the first of them
    comes to be embedded; a slide that is resumed keeps its own."""
    readers: int | None = None
    """Readers of tiles: 0 reads in the calling thread, 1 in a thread, more in processes that open the slide themselves;
    by default one per core but one, at most 16."""
    max_unreadable: float = MAX_UNREADABLE
    """Share of damaged tiles, 0 to 1, above which a slide fails."""
    stall_s: float = STALL_S
    """Seconds without any progress after which reading a slide is given up."""
    object_vectors: bool = True
    """Compute an embedding of each object that heads find, in the same pass."""

    def __post_init__(self) -> None:
        if self.batch_size is not None and not is_batch_size(self.batch_size):
            raise OptionError(
                f"the batch size (`batch_size`) must divide {CHUNK_ROWS} (1, 2, 4, ... {CHUNK_ROWS}), "
                f"got {self.batch_size}"
            )
        if self.readers is not None and self.readers < 0:
            raise OptionError(
                f"readers of tiles (`readers`) must be 0 (the calling thread) or more, got {self.readers}"
            )
        if not 0 <= self.max_unreadable <= 1:
            raise OptionError(
                f"the share of tiles that may be damaged (`max_unreadable`) is from 0 to 1, got {self.max_unreadable:g}"
            )
        check_stall(self.stall_s)

    @property
    def tiles_at_once(self) -> int:
        """`batch_size`, or 64 where that is left open."""
        return self.batch_size or BATCH_SIZE


@dataclass(frozen=True, kw_only=True)
class TileOptions:
    """Size, scale and position of tiles; None leaves a value to the model."""

    size_px: int | None = None
    """Side of a tile in pixels, as the encoder sees it; by default the encoder's own."""
    tile_mpp: float | None = None
    """Resolution of a tile, microns per pixel (0.5 is about 20x); by default what the encoder states, else 0.5."""
    stride_px: int | None = None
    """Distance between tiles in pixels; tiles overlap where it is less than their side."""
    min_tissue: float | None = None
    """Least share of a tile that is tissue, 0 to 1; by default 0.25, and 0.05 where objects are looked for."""
    resampling: Resampling = "area"
    """Method of shrinking pixels: exact averages, or faster inside the JPEG decoder."""
    upsample: bool = False
    """Magnify slides that are coarser than the tiles; otherwise they are refused."""
    edge: Edge = "drop"
    """Tiles that cross the right or lower edge of the slide: left out and counted, or embedded on white."""
    force: bool = False
    """Cut tiles that do not fit the encoder's card all the same."""


@dataclass(frozen=True, kw_only=True)
class ComputeOptions:
    """Device, engine and precision of networks."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps. auto takes one GPU, where there is any; on the command line, cuda takes all that
    are visible, with a process for each."""
    engine: Literal["auto", "torch", "openvino"] = "auto"
    """Runtime of the encoder; openvino is the fastest on CPU (pip install 'wsi-umedpt[openvino]'). auto: openvino on a
    CPU where it is installed, for the shipped encoder and those whose card timm or transformers builds; else
    torch."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the encoder; features other than fp32 are stored under a name of their own."""
    compile: bool = False
    """Compile the encoder (CUDA)."""


@dataclass(frozen=True, kw_only=True)
class TissueParameters:
    """Parameters of `find_tissue`; stored with every mask."""

    cell_um: float = 16.0
    """Side of a mask cell, um: the detail of the mask's outline."""
    min_colour: float = 7.0
    """Least colour distance of tissue from background, in units of CIE a*b*."""
    max_colour: float = 22.0
    """Greatest threshold that Otsu's method may choose, so that pale tissue beside dark is kept."""
    min_area_um2: float = 40_000.0
    """Smaller pieces are dropped; 40,000 um2 is 200 um square."""
    max_hole_um2: float = 20_000.0
    """Smaller holes are closed; larger ones (lumina, fat) stay open."""
    reject_ink: bool = True
    """Leave out marker ink (saturated green, blue or black, as no stain is)."""

    def __post_init__(self) -> None:
        if not (0 < self.cell_um <= 1000 and self.min_area_um2 >= 0 and self.max_hole_um2 >= 0):
            raise MaskError(
                "tissue needs a mask cell over 0 and up to 1,000 um, and areas of 0 um2 or more, got "
                f"`cell_um` {self.cell_um:g}, `min_area_um2` {self.min_area_um2:g}, "
                f"`max_hole_um2` {self.max_hole_um2:g}"
            )
        if not 0 < self.min_colour <= self.max_colour:
            raise MaskError(
                "tissue needs 0 < `min_colour` <= `max_colour`, got "
                f"`min_colour` {self.min_colour:g}, `max_colour` {self.max_colour:g}"
            )
