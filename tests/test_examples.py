"""Every example runs as it stands and leaves its picture."""

import runpy
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.support import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_and_leaves_its_picture(path, real_slide):
    """A picture of its own name, and not a blank one."""
    picture = path.parent / "out" / f"{path.stem}.png"
    picture.unlink(missing_ok=True)
    for store in picture.parent.glob("*.zarr"):  # of an earlier version, which refuses to be gone on with
        shutil.rmtree(store)
    runpy.run_path(str(path), run_name="__main__")
    with Image.open(picture) as image:
        assert np.asarray(image).std() > 20
