"""UMAP in a process of its own, which `wsi_umedpt.mil.map_layout` starts: it can be ended, and stalls no window.

numba compiles before it computes and holds Python's lock while it does; it is imported here and nowhere else. This
process reads `INPUT` in the folder that is named to it and writes `OUTPUT` there, and it ends when who started it is
gone. Meanwhile `PROGRESS` holds the share of the layout that is done.
"""

import json
import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np

INPUT, SETTINGS, OUTPUT, ABOUT, PROGRESS = "input.npz", "settings.json", "output.npy", "about.json", "progress"


class _Progress:
    """Target that tqdm writes to, as a file would be."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, text: str) -> None:
        """Keep the last number."""
        if number := text.strip():
            self._path.write_text(number)

    def flush(self) -> None:
        """Do nothing: each number is written at once."""


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing ever comes: it returns when the pipe is closed
    os._exit(1)


def main(folder: Path) -> None:
    """Lay out what `folder` holds."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import numba
    import umap

    with np.load(folder / INPUT, allow_pickle=False) as given:
        points, start, indices, distances = (given[name] for name in ("points", "start", "indices", "distances"))
    settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
    bar = {"disable": False, "file": _Progress(folder / PROGRESS), "bar_format": "{percentage:.0f}", "mininterval": 0.3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a seed means one thread, and neighbours cannot be asked for
        model = umap.UMAP(
            n_neighbors=indices.shape[1], min_dist=settings["min_dist"], random_state=settings["seed"], n_jobs=1,
            init=start, precomputed_knn=(indices, distances, None), tqdm_kwds=bar,
        )  # fmt: skip
        laid = model.fit_transform(points)
    versions = {"umap-learn": umap.__version__, "numba": numba.__version__}
    (folder / ABOUT).write_text(json.dumps(versions))
    np.save(folder / OUTPUT, laid.astype(np.float32))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
