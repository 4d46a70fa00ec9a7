"""Grids of tiles: a slide's size and a `TileSpec` in, a `TileGrid` out.

Pure arithmetic: nothing here opens a file, imports torch or knows about tissue colour.
Positions are always level-0 pixels, x before y; a size is in pixels of the tile as the
network sees it, at ``spec.mpp``. The grid is anchored at the slide's (0, 0), so that it
does not depend on the tissue found.

Read top to bottom: `TileSpec` (what the user asks for), `TileGrid` (what they get),
`lay_grid` (how one becomes the other).
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import OptionError, SlideError
from wsi_umedpt.geometry import Box, Edge, Resampling, snap_scale
from wsi_umedpt.slides.tissue import TissueMask


@dataclass(frozen=True, kw_only=True)
class TileSpec:
    """Specification of tiles; two equal specs always give the same grid of a slide."""

    size_px: int = 224
    """Side of the square tile the network sees, in pixels at `mpp`."""
    mpp: float = 0.5
    """Microns per pixel of the tile; 0.5 is about 20x."""
    stride_px: int | None = None
    """Distance between neighbouring tiles, in pixels at `mpp`; by default `size_px`: no overlap."""
    min_tissue: float = 0.25
    """Least share of a tile's area that is tissue; 0 keeps all tiles."""
    resampling: Resampling = "area"
    """Method of shrinking: 'area' averages exactly; 'dct' shrinks JPEG tiles by 2, 4 or 8 while decoding."""
    upsample: bool = False
    """Magnify a slide coarser than `mpp`; otherwise it is refused."""
    edge: Edge = "drop"
    """Tiles that cross the right or lower edge of the slide: 'drop' leaves them out, 'pad' goes on in white."""

    def __post_init__(self) -> None:
        for value, unit, what in (
            (self.size_px, "px", "the side of a tile (`size_px`)"),
            (self.mpp, "um/px", "the resolution of a tile (`tile_mpp`)"),
            (self.stride, "px", "the distance between tiles (`stride_px`)"),
        ):
            if not 0 < value < 1e5:
                raise OptionError(f"{what} must be over 0 and below 100,000 {unit}, got {value:g}")
        if not 0 <= self.min_tissue <= 1:
            raise OptionError(f"a tile's least share of tissue (`min_tissue`) is from 0 to 1, got {self.min_tissue:g}")
        if self.resampling not in ("area", "dct"):
            raise OptionError(f"how pixels are shrunk (`resampling`) is 'area' or 'dct', got {self.resampling!r}")
        if self.edge not in ("drop", "pad"):
            raise OptionError(f"tiles at the slide's edge (`edge`) are 'drop' or 'pad', got {self.edge!r}")

    @property
    def stride(self) -> int:
        """`stride_px`, or `size_px` where that is not given."""
        return self.size_px if self.stride_px is None else self.stride_px

    def to_dict(self) -> dict[str, Any]:
        """List all fields, for JSON.

        Returns
        -------
        dict
            With the stride filled in; `edge` only where it is 'pad', so that grids keep the names they always had.
        """
        fields = {**asdict(self), "stride_px": self.stride}
        if self.edge == "drop":
            del fields["edge"]
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Undo `to_dict`.

        Parameters
        ----------
        fields
            Fields that `to_dict` gave.

        Returns
        -------
        TileSpec
            Equal to the one that gave them.
        """
        return cls(**fields)

    @property
    def grid_id(self) -> str:
        """Name of the grid in a store: readable, then 8 hex digits over all fields."""
        digest = hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()
        return f"{self.size_px}px_{self.mpp:g}mpp_{digest[:8]}"


@dataclass(frozen=True, eq=False)
class TileGrid(Sequence[Box]):
    """Tiles of one slide in reading order (y slow, x fast); row i is tile i everywhere."""

    spec: TileSpec
    """Specification of the tiles."""
    side: float
    """Side of a tile, level-0 px; exactly what its pixels cover."""
    xy: npt.NDArray[np.int32]
    """(tile, 2) top left corners, level-0 px."""
    tissue: npt.NDArray[np.float32]
    """(tile,) share of the tile's area that is tissue."""
    left_out: int = 0
    """Number of tiles that hold enough tissue but cross the right or lower edge, and are not in the grid; of a grid
    that was just laid."""

    def __len__(self) -> int:
        return len(self.xy)

    @overload
    def __getitem__(self, index: int) -> Box: ...
    @overload
    def __getitem__(self, index: slice) -> list[Box]: ...
    def __getitem__(self, index: int | slice) -> Box | list[Box]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        x, y = self.xy[index].tolist()
        side = round(self.side)
        return Box(x, y, side, side)

    @property
    def scale(self) -> float:
        """Level-0 px per tile px."""
        return self.side / self.spec.size_px


def lay_grid(
    size: tuple[int, int], slide_mpp: float, spec: TileSpec, *, within: TissueMask | None = None, whole: bool = True
) -> TileGrid:
    """Lay tiles over a slide, dropping those that hold too little tissue, and those that cross its edge.

    Parameters
    ----------
    size : (width, height), level-0 px
        Size of the slide.
    slide_mpp : um/px
        Scale of the slide at level 0.
    spec
        Tiles to lay.
    within
        Tissue; without it every tile counts as all tissue.
    whole
        Drop tiles that cross the right or lower edge, where `spec.edge` is 'drop'; otherwise they
        go on in white, and the whole slide is covered.

    Returns
    -------
    TileGrid
        0 tiles if the slide holds no tissue, or is smaller than a tile and `whole`.

    Raises
    ------
    SlideError
        If the slide is coarser than `spec.mpp` and `spec.upsample` is off.

    Examples
    --------
    >>> grid = lay_grid((1000, 600), slide_mpp=0.25, spec=TileSpec(mpp=0.5))
    >>> grid.side, grid.xy.tolist()
    (448.0, [[0, 0], [448, 0]])
    """
    scale = snap_scale(spec.mpp / slide_mpp, spec.size_px)
    if scale < 1 and not spec.upsample:
        raise SlideError(
            f"tiles were asked for at {spec.mpp:g} um/px, but the slide's finest level has {slide_mpp:g} um/px.",
            remedy=f"Ask for coarser tiles (`tile_mpp` {slide_mpp:g} or more; `force`, where the encoder is for finer "
            "ones), or have the slide magnified (`upsample`).",
            setting="tile_mpp",
        )
    side = spec.size_px * scale
    starts = [_starts(extent, side, spec.stride * scale) for extent in size]
    # meshgrid's "xy" order makes x vary fastest once raveled: reading order.
    x, y = (axis.ravel() for axis in np.meshgrid(*(all_ for all_, _ in starts), indexing="xy"))
    inside = np.logical_and(*(a.ravel() for a in np.meshgrid(*(whole_ for _, whole_ in starts), indexing="xy")))
    if within is None:
        tissue = np.ones(len(x), np.float32)
    else:
        tissue = within.covered(x.astype(float), y.astype(float), side)
        # Of a tile that crosses the edge, what counts is its part on the slide.
        part = np.clip((size[0] - x) / side, 0, 1) * np.clip((size[1] - y) / side, 0, 1)
        keep = tissue >= spec.min_tissue * part
        x, y, tissue, inside = x[keep], y[keep], tissue[keep], inside[keep]
    left_out = 0
    if whole and spec.edge == "drop":
        left_out = int((~inside).sum())
        x, y, tissue = x[inside], y[inside], tissue[inside]
    return TileGrid(spec, side, np.stack([x, y], axis=1).astype(np.int32), tissue, left_out)


def _starts(extent: int, side: float, stride: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Starts of tiles along a side, the last one reaching its edge; and flags of those that lie on the slide whole."""
    # Each start is rounded on its own: rounding the stride would drift along the slide.
    count = max(1, math.ceil((extent - side) / stride - 1e-9) + 1)
    starts = np.round(np.arange(count) * stride).astype(np.int64)
    starts = starts[(starts < extent) | (starts == 0)]  # where tiles lie apart, the last may lie beyond the slide
    most = max(0, int((extent - side) / stride + 1e-9) + 1) if extent >= side else 0
    return starts, (np.arange(len(starts)) < most) & (starts + side <= extent + 1e-6)
