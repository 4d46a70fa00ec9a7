"""The script that makes the pictures in docs/ runs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wsi_umedpt.errors import SlideError
from wsi_umedpt.slides.sample_data import sample_slide

SCRIPT = Path(__file__).parents[3] / "examples" / "napari_scenes.py"


def test_a_scene_is_drawn(tmp_path):
    """One that computes little, as all take minutes: a picture for each screen, of its size, and not a blank one."""
    try:
        sample_slide()
    except (SlideError, subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"the sample slide is not to be had: {error}")
    env = {**os.environ, "XDG_DATA_HOME": str(tmp_path)}
    subprocess.run([sys.executable, SCRIPT, tmp_path / "out", "stains"], env=env, check=True, timeout=900)
    pictures = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in pictures] == ["stains-1280x720.png", "stains-1920x1080.png"]
    for path in pictures:
        with Image.open(path) as image:
            assert image.size in ((1280, 720), (960, 540))  # smaller, where it would be a large file
            assert np.asarray(image.convert("RGB")).std() > 40
