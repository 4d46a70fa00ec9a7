"""What a slide on a DICOMweb server costs: questions, frames and CPU time, beside its files.

    python -m benchmarks.speed.dicomweb

The server is a thread of this process, so that its share is in the CPU time; it answers at once, and so says nothing
of a network: what counts there is the number of questions, each of which waits for an answer.
"""

import tempfile
import time
from pathlib import Path

from tests.support.dicomweb_server import pacs, write_series
from wsi_umedpt.geometry import Mpp
from wsi_umedpt.slides.readers.wsidicom import open_wsidicom
from wsi_umedpt.slides.slide import Slide, open_slide
from wsi_umedpt.slides.tile_loader import read_tiles
from wsi_umedpt.slides.tiling import TileSpec, lay_grid
from wsi_umedpt.testing import tissue_image

SIZE = 6_144, 4_096


def read_all(slide: Slide) -> tuple[int, float]:
    """Read all tiles of 224 px at level 0; their number, and microseconds of CPU time for each."""
    grid = lay_grid(slide.size, slide.mpp, TileSpec(min_tissue=0))
    began = time.process_time()
    for _ in read_tiles(slide, grid, readers=0):
        pass
    return len(grid), 1e6 * (time.process_time() - began) / len(grid)


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_series(Path(folder), tissue_image(*SIZE)[0])
        with Slide(files[0], open_wsidicom(files[0]), Mpp(0.5, 0.5, "vendor")) as slide:  # type: ignore[arg-type]
            count, cpu_us = min(read_all(slide) for _ in range(4))
        print(f"files, read by wsidicom: {count} tiles, {cpu_us:.0f} us each")
        with pacs(files) as server, open_slide(server.name()) as slide:
            opening, sent = len(server.asked), server.sent
            count, cpu_us = read_all(slide)
            asked, frames = len(server.asked) - opening, server.sent - sent
        print(
            f"DICOMweb: {count} tiles, {asked} questions for {frames} frames after {opening} to open, "
            f"{cpu_us:.0f} us each"
        )


if __name__ == "__main__":
    main()
