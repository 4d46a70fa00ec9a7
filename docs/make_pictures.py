"""Make the pictures in docs/: `make docs`."""

import tempfile
from pathlib import Path

from PIL import Image

from wsi_umedpt.cli.demo import demo

HERE = Path(__file__).parent


def main() -> None:
    """Draw the demo's picture, small enough for a README."""
    with tempfile.TemporaryDirectory() as folder:
        demo(out=Path(folder))
        with Image.open(Path(folder) / "picture.png") as image:
            small = image.resize((1200, round(image.height * 1200 / image.width)), Image.Resampling.LANCZOS)
    small.quantize(192).save(HERE / "demo.png", optimize=True)


if __name__ == "__main__":
    main()
