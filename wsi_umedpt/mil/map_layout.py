"""Layout of feature vectors on a plane: principal components, or UMAP of their exact nearest neighbours.

Vectors are compared by the first 50 principal components of what `wsi_umedpt.mil.similar` compares, so that tiles
which `similar` finds alike lie near each other. Neighbours are exact, and no approximate index is built: that would
take longer to compile than 20,000 tiles take to compare.

Read top to bottom: `MapProgress` (progress, and a way to stop), `lay_out`.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.map_settings import FEWEST, MapSettings, has_umap
from wsi_umedpt.mil.umap_child import ABOUT, INPUT, OUTPUT, PROGRESS, SETTINGS

Floats = npt.NDArray[np.float32]
_COMPONENTS = 50
_QUERIES = 2048
_POLL_S = 0.1
_SPREAD = 10.0
"""Width of the layout that UMAP starts from, in its own units."""


class MapStoppedError(MilError):
    """The map was no longer wanted before it was whole."""


@dataclass(frozen=True)
class MapProgress:
    """Follower of a map that is made: it is told how far that is, and asked whether it goes on."""

    told: Callable[[str, float], None] | None = None
    """Hears what is done now, and the share of it that is done, 0 to 1."""
    stopped: Callable[[], bool] | None = None
    """Says whether the map is no longer wanted."""

    def tell(self, doing: str, share: float) -> None:
        """Tell how far it is.

        Raises
        ------
        MapStoppedError
            If it is no longer wanted.
        """
        if self.stopped and self.stopped():
            raise MapStoppedError("the map was stopped")
        if self.told:
            self.told(doing, share)


def check_method(settings: MapSettings) -> None:
    """Refuse a layout whose library is not installed, before anything is read.

    Raises
    ------
    MilError
        If umap-learn is missing.
    """
    if settings.method == "umap" and not has_umap():
        raise MilError(
            "a map by UMAP needs umap-learn: pip install 'wsi-umedpt[map]'. Principal components need nothing else "
            "(`method` pca).",
            setting="method",
        )


def lay_out(
    vectors: npt.NDArray[np.floating], settings: MapSettings, watch: MapProgress
) -> tuple[Floats, dict[str, Any]]:
    """Lay vectors out on a plane.

    Parameters
    ----------
    vectors : (point, dim)
        Vectors to compare, as `TileIndex` holds them.
    settings, watch
        See there.

    Returns
    -------
    places : float32 (point, 2)
    about
        Origin of the layout: versions of libraries, and the share of variance that the components hold.

    Raises
    ------
    MilError
        If there are too few points, or UMAP fails.
    MapStoppedError
        If it is no longer wanted.
    """
    if len(vectors) < FEWEST:
        raise MilError(f"{len(vectors)} points are no map: {FEWEST} or more are needed")
    watch.tell("Finding principal components", 0)
    few = min(_COMPONENTS, len(vectors) - 1, vectors.shape[1])
    model = PCA(few, svd_solver="covariance_eigh" if len(vectors) >= vectors.shape[1] else "full")
    parts = np.ascontiguousarray(model.fit_transform(vectors.astype(np.float32)), np.float32)
    share = [round(float(one), 4) for one in np.cumsum(model.explained_variance_ratio_)]
    about = {"libraries": {"scikit-learn": version("scikit-learn"), "numpy": np.__version__}, "components": few}
    plane = parts[:, :2] if few > 1 else np.column_stack([parts[:, 0], np.zeros(len(parts), np.float32)])
    if settings.method == "pca":
        watch.tell("Laying out", 1)
        return plane, {**about, "variance": share[min(1, few - 1)]}
    indices, distances = _neighbours(parts, min(settings.neighbours, len(parts)), watch)
    start = plane / max(float(np.ptp(plane, axis=0).max()), 1e-12) * _SPREAD
    places, libraries = _umap({"points": parts, "start": start, "indices": indices, "distances": distances},
                              settings, watch)  # fmt: skip
    about["libraries"] |= libraries
    return places, {**about, "variance": share[-1]}


def _neighbours(parts: Floats, count: int, watch: MapProgress) -> tuple[npt.NDArray[np.int64], Floats]:
    """The nearest points of each, itself first, and how far they are: (point, count) both."""
    model = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(parts)
    indices, distances = np.empty((len(parts), count), np.int64), np.empty((len(parts), count), np.float32)
    for first in range(0, len(parts), _QUERIES):
        watch.tell("Finding neighbours", first / len(parts))
        some = slice(first, first + _QUERIES)
        distances[some], indices[some] = model.kneighbors(parts[some])
    return indices, distances


def _umap(
    given: dict[str, npt.NDArray[Any]], settings: MapSettings, watch: MapProgress
) -> tuple[Floats, dict[str, str]]:
    """Run UMAP in a child process; it is ended with the map."""
    with TemporaryDirectory(prefix="wsi-umedpt-map-") as name:
        folder = Path(name)
        np.savez(folder / INPUT, allow_pickle=False, **given)
        (folder / SETTINGS).write_text(json.dumps(asdict(settings)))
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        errors = folder / "errors"
        with errors.open("wb") as said:
            child = subprocess.Popen(
                [sys.executable, "-m", "wsi_umedpt.mil.umap_child", name],
                stdin=subprocess.PIPE, stdout=said, stderr=said, env=env,
            )  # fmt: skip
        try:
            while child.poll() is None:
                watch.tell("Laying out", _share(folder / PROGRESS))
                time.sleep(_POLL_S)
        finally:
            child.kill()
            child.communicate()
        if child.returncode or not (folder / OUTPUT).exists():
            last = errors.read_text(errors="replace").strip().splitlines()
            raise MilError(f"UMAP failed (exit code {child.returncode}): {last[-1] if last else 'it said nothing'}")
        places: Floats = np.load(folder / OUTPUT, allow_pickle=False)
        if places.shape != (len(given["points"]), 2) or not np.isfinite(places).all():
            raise MilError("UMAP laid out no plane: its numbers are not finite. Try more `neighbours`, or `method` pca")
        return places, json.loads((folder / ABOUT).read_text())


def _share(path: Path) -> float:
    """Share of the epochs that are done; 0 while it still compiles."""
    try:
        return float(path.read_text()) / 100
    except (OSError, ValueError):  # not yet, or just being written
        return 0.0
