"""Nuclei and heatmaps as our layers, beside the naive way of Shapes and Points, in a real window.

    xvfb-run -a -s "-screen 0 1600x1200x24 +extension GLX" python -m benchmarks.napari_layers

1,000 to 500,000 nuclei of 20 corners: as what the plugin shows, as napari's Points (centres only)
and as its Shapes (outlines; up to --shapes of them, as time grows with their number). A heatmap of
200,000 tiles: as the plugin's picture, and as square Points. "show" is from the call to the painted window, "pan" the
median of ten moves at 10x; milliseconds of wall time and of CPU. Each is measured in a window of its own, one after the
other; the prediction of a slide classifier as regions are drawn is in docks.py. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.viewing import SIDE, Window, many_nuclei

COUNTS = (1_000, 10_000, 100_000, 500_000)
TILES = 200_000


@lru_cache
def _nuclei(count: int) -> Any:
    return many_nuclei(count)


def ours(viewer: Any, count: int) -> None:
    """Nuclei as the plugin shows them."""
    from napari_wsi_umedpt.layers.build import Place, Shown, objects_layer
    from napari_wsi_umedpt.window.viewer import add_layers

    add_layers(
        viewer, [objects_layer(_nuclei(count), Shown("objects", Place("big", (SIDE, SIDE), 0.25), name="nuclei"))]
    )


def points(viewer: Any, count: int) -> None:
    """Centres, coloured by class."""
    objects = _nuclei(count)
    colours = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 0, 1]])[objects.class_index]
    viewer.add_points(objects.centroid[:, ::-1], size=28, face_color=colours, border_width=0, scale=(0.25, 0.25))


def shapes(viewer: Any, count: int) -> None:
    """Outlines as polygons."""
    objects = _nuclei(count)
    polygons = objects.outline.reshape(count, 20, 2)[..., ::-1]
    viewer.add_shapes(list(polygons), shape_type="polygon", face_color="transparent", edge_width=4, scale=(0.25, 0.25))


def _tiles() -> tuple[np.ndarray, np.ndarray]:
    side = int(np.ceil(np.sqrt(TILES)))
    row, column = np.divmod(np.arange(TILES), side)
    return np.stack([column, row], axis=1).astype(np.int32) * 224, np.random.default_rng(0).normal(size=TILES)


def our_heatmap(viewer: Any, count: int) -> None:
    """A value a tile as the plugin shows it."""
    from wsi_umedpt.heatmaps import Heatmap

    from napari_wsi_umedpt.layers.build import Place
    from napari_wsi_umedpt.layers.values import heat_picture

    xy, values = _tiles()
    heat = Heatmap.from_tiles(xy, 224.0, values)
    data, limits = heat_picture(heat, "signed")
    place = Place("big", (SIDE, SIDE), 0.25)
    viewer.add_image(data, **place.meta(heat.step, heat.origin_xy), contrast_limits=limits, opacity=0.55)


def heatmap_of_points(viewer: Any, count: int) -> None:
    """A square a tile."""
    xy, values = _tiles()
    viewer.add_points(
        xy[:, ::-1] + 112, size=224, symbol="square", features={"value": values}, face_color="value",
        face_colormap="PiYG", border_width=0, scale=(0.25, 0.25),
    )  # fmt: skip


WAYS: dict[str, Callable[[Any, int], None]] = {
    "ours": ours, "points": points, "shapes": shapes, "heatmap": our_heatmap, "heatmap of points": heatmap_of_points,
}  # fmt: skip


def measure(way: str, count: int) -> dict[str, int]:
    """Show, then pan at 10x."""
    window = Window()
    window.settle(lambda: WAYS[way](window.viewer, 10))  # what is compiled once is not the layer's
    window.viewer.layers.clear()
    window.wait(0.2)
    _nuclei(count)  # made before, as read from a store
    show = round(window.settle(lambda: WAYS[way](window.viewer, count)))
    found = {"show_ms": show, "show_cpu_ms": round(window.cpu_ms)}
    camera = window.viewer.scene.camera
    camera.zoom = 0.99
    camera.center = (0, SIDE / 8, SIDE / 8)
    window.settle()
    moves, work = [], []
    for _ in range(10):
        to = (0, camera.center[1], camera.center[2] + 275)
        moves.append(window.settle(lambda to=to: setattr(camera, "center", to)))
        work.append(window.cpu_ms)
    return found | {"pan_ms": round(float(np.median(moves))), "pan_cpu_ms": round(float(np.median(work)))}


def main() -> None:
    """All ways and counts, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs=2, metavar=("WAY", "COUNT"))
    parser.add_argument("--shapes", type=int, default=10_000, help="most nuclei that are shown as Shapes")
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given.only[0], int(given.only[1]))), flush=True)
        os._exit(0)  # the window is not worth tidying up
    found: dict[str, dict[str, int]] = {}
    jobs = [(way, n) for n in COUNTS for way in ("ours", "points", "shapes") if way != "shapes" or n <= given.shapes]
    with tempfile.TemporaryDirectory() as home:
        own = dict.fromkeys(("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"), home)
        for way, count in [*jobs, ("heatmap", TILES), ("heatmap of points", TILES)]:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.napari_layers", "--only", way, str(count)],
                env={**os.environ, **own}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                sys.exit(f"{way} of {count} failed:\n{done.stdout}{done.stderr}")
            found[f"{way} {count}"] = json.loads(done.stdout.splitlines()[-1])
            print(f"{way:18s} {count:8,d} {found[f'{way} {count}']}", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
