"""Maps of tiles, or of slides: a point each on a plane, those that look alike near each other.

Read top to bottom: `FeatureMap` (what comes out, and its files), `map_tiles`, `map_slides`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_umedpt import __version__
from wsi_umedpt.errors import MilError
from wsi_umedpt.interop.feature_sources import StoreSource, has_positions
from wsi_umedpt.interop.slide_vector_source import SlideVectorSource
from wsi_umedpt.interop.tables import write_table
from wsi_umedpt.messages import counted
from wsi_umedpt.mil.map_layout import MapProgress, check_method, lay_out
from wsi_umedpt.mil.map_settings import MapSettings
from wsi_umedpt.mil.similar import unit_vectors
from wsi_umedpt.store.features import BagSource
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.store.zarr_io import whole_file

RECORD = ".json"
"""Suffix of the record of what made a map, beside its table."""


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Tiles, or slides, on a plane."""

    slide_ids: tuple[str, ...]
    """Slides that points are of."""
    slide: npt.NDArray[np.int32]
    """(point,) number of its slide."""
    rows: npt.NDArray[np.int64]
    """(point,) row of the slide's grid; -1 where a point is a slide."""
    xy: npt.NDArray[np.int32]
    """(point, 2) upper left corner of the tile, level-0 px; 0 where a point is a slide."""
    sides: npt.NDArray[np.float64]
    """(slide,) side of its tiles, level-0 px; 0 where a point is a slide."""
    places: npt.NDArray[np.float32]
    """(point, 2) on the map, x before y, y upwards; its units mean nothing."""
    about: Mapping[str, Any]
    """Origin of the map: settings, encoder, slides with their fingerprints, libraries, and ``total``, the tiles that
    the slides have."""

    def __len__(self) -> int:
        return len(self.places)

    @property
    def of_slides(self) -> bool:
        """True where each point is a slide."""
        return bool(self.about["of"] == "slides")

    @property
    def words(self) -> str:
        """Number of points, of how many, and how they were laid out, in words."""
        method = {"umap": "UMAP", "pca": "principal components"}[self.about["settings"]["method"]]
        many, total = len(self), self.about["total"]
        if self.of_slides:
            return f"{counted(many, 'slide')} by {method}"
        drawn = f"{many:,} of {total:,} tiles" if many < total else counted(many, "tile")
        return f"{drawn} of {counted(len(self.slide_ids), 'slide')} by {method}"

    def write(self, path: Path, columns: Mapping[str, Sequence[Any]] | None = None) -> Path:
        """Write a table (.csv or .parquet), a row a point, and beside it a JSON record of what made it.

        Parameters
        ----------
        path
            Table to write.
        columns
            Further columns, a value a point.

        Returns
        -------
        Path
            Path of the record.
        """
        names = [self.slide_ids[n] for n in self.slide]
        table: dict[str, Any] = {"slide_id": names}
        if not self.of_slides:
            side = self.sides[self.slide]
            middle = self.xy + side[:, None] / 2
            table |= {"row": self.rows, "x": middle[:, 0], "y": middle[:, 1], "side": side}
        at = self.places.astype(np.float64).round(4)
        table |= {"map_x": at[:, 0], "map_y": at[:, 1]}
        write_table(path, table | dict(columns or {}))
        record = path.with_suffix(RECORD)
        with whole_file(record) as file:
            file.write(json.dumps(self.about, indent=1).encode() + b"\n")
        return record


def map_tiles(
    sources: Sequence[BagSource], settings: MapSettings | None = None, watch: MapProgress | None = None
) -> FeatureMap:
    """Lay the tiles of slides out on a plane.

    Parameters
    ----------
    sources
        Features of one kind, a slide each; see `wsi_umedpt.interop.find_sources`.
    settings
        By default UMAP of 20,000 tiles at most.
    watch
        Follower of the work.

    Returns
    -------
    FeatureMap
        Its points are in the order of the sources, and of their grids.

    Raises
    ------
    MilError
        If features are of several kinds, do not say where tiles lie, are too few, or UMAP is not installed.
    MapStoppedError
        If `watch` says that it is no longer wanted.
    """
    settings, watch = settings or MapSettings(), watch or MapProgress()
    check_method(settings)
    _check_kind(sources)
    if placeless := next((one for one in sources if one.side is None), None):
        raise MilError(f"the features of {placeless.slide_id} do not say where its tiles lie, and how large they are")
    total, rows, xy, read, parts = sum(source.tiles for source in sources), [], [], [], []
    for number, source in enumerate(sources):
        watch.tell("Reading features", number / len(sources))
        bag = source.load()
        if not has_positions(bag):
            raise MilError(f"the features of {source.slide_id} do not say where its tiles lie")
        chosen = _sample(len(bag), settings, total, number)
        rows.append(bag.index[chosen])
        xy.append(bag.xy[chosen])
        parts.append(bag.features[chosen])
        read.append(len(bag))
    counts = [len(some) for some in rows]
    if not sum(counts):
        raise MilError("there are no tiles to lay out: no slide has readable ones")
    places, made_by = lay_out(unit_vectors(parts), settings, watch)
    slides = {
        source.slide_id: {**_origin(source), "tiles": many, "drawn": count}
        for source, many, count in zip(sources, read, counts, strict=True)
    }
    return FeatureMap(
        tuple(slides), np.repeat(np.arange(len(sources), dtype=np.int32), counts),
        np.concatenate(rows), np.concatenate(xy),
        np.array([source.side for source in sources], np.float64), places,
        _about("tiles", sources, settings, slides, made_by) | {"total": sum(read)},
    )  # fmt: skip


def map_slides(
    sources: Sequence[BagSource], settings: MapSettings | None = None, watch: MapProgress | None = None
) -> FeatureMap:
    """Lay slides out on a plane: each is its own vector where features are those of slides, else the mean of its tiles.

    Parameters, errors as of `map_tiles`; all slides are drawn, whatever `most` says.
    """
    settings, watch = settings or MapSettings(), watch or MapProgress()
    check_method(settings)
    _check_kind(sources)
    vectors, slides = [], {}
    for number, source in enumerate(sources):
        watch.tell("Reading features", number / len(sources))
        bag = source.load()
        if not len(bag):
            raise MilError(f"{source.slide_id} has no readable tile, and so no place on a map: leave it out")
        vectors.append(np.asarray(bag.features, np.float32).mean(axis=0, dtype=np.float64).astype(np.float32))
        slides[source.slide_id] = {**_origin(source), "tiles": len(bag), "drawn": len(bag)}
    places, made_by = lay_out(unit_vectors([np.stack(vectors)]), settings, watch)
    many = len(slides)
    return FeatureMap(
        tuple(slides), np.arange(many, dtype=np.int32), np.full(many, -1, np.int64), np.zeros((many, 2), np.int32),
        np.zeros(many), places, _about("slides", sources, settings, slides, made_by) | {"total": many},
    )  # fmt: skip


def _sample(count: int, settings: MapSettings, total: int, number: int) -> npt.NDArray[np.int64]:
    """Rows of a bag that are drawn, in order: its share of `most`, and one at least."""
    if total <= settings.most or not count:
        return np.arange(count)
    many = min(count, max(1, round(settings.most * count / total)))
    return np.sort(np.random.default_rng([settings.seed, number]).choice(count, many, replace=False))


def _check_kind(sources: Sequence[BagSource]) -> None:
    for source in sources[1:]:
        if different := sources[0].kind.differences(source.kind):
            raise MilError(
                f"{source.slide_id} has other features than {sources[0].slide_id}: {'; '.join(different)}. A map is of "
                "those of one kind."
            )
    if not sources:
        raise MilError("there are no slides to lay out")


def _origin(source: BagSource) -> dict[str, Any]:
    """Fingerprints of a slide and its features, where they are a store's."""
    if not isinstance(source, StoreSource | SlideVectorSource):
        return {"fingerprint": None, "features_sha256": None}
    store = SlideStore.open(source.path)
    made_by = store.feature_attrs(source.encoder_id, source.grid_id) if isinstance(source, StoreSource) else {}
    return {"fingerprint": store.attrs["slide"]["fingerprint"], "features_sha256": made_by.get("sha256")}


def _about(
    of: str,
    sources: Sequence[BagSource],
    settings: MapSettings,
    slides: Mapping[str, Any],
    made_by: Mapping[str, Any],
) -> dict[str, Any]:
    libraries = {"wsi_umedpt": __version__, **made_by["libraries"]}
    return {
        "of": of, "settings": asdict(settings), "features": sources[0].kind.to_dict(), "slides": dict(slides),
        **made_by, "libraries": libraries,
    }  # fmt: skip
