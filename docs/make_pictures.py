"""Make the pictures in docs/: `make docs`."""

import tempfile
from pathlib import Path

from PIL import Image

from wsi_umedpt.cli.demo import demo

HERE = Path(__file__).parent


def main() -> None:
    """Draw the demo's pictures, small enough for a README."""
    with tempfile.TemporaryDirectory() as folder:
        demo(out=Path(folder))
        for name, target in (("picture.png", "demo.png"), ("nuclei.png", "nuclei.png")):
            with Image.open(Path(folder) / name) as image:
                small = image.resize((1200, round(image.height * 1200 / image.width)), Image.Resampling.LANCZOS)
            small.quantize(192).save(HERE / target, optimize=True)


if __name__ == "__main__":
    main()
