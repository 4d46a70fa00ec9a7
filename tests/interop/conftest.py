"""Fixtures of the tests of feature files."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.feature_files import make_store
from wsi_umedpt.store.slide_store import SlideStore


@pytest.fixture
def tiles(rng) -> SimpleNamespace:
    """70 tiles: features, and positions contour by contour as CLAM orders them."""
    features = rng.normal(size=(70, 8)).astype(np.float32)
    xy = np.concatenate([rng.integers(0, 80, (35, 2)) * 512, 131_072 + rng.integers(0, 80, (35, 2)) * 512])
    return SimpleNamespace(features=features, xy=xy.astype(np.int64))


@pytest.fixture
def store(tmp_path) -> SlideStore:
    """Five tiles of which one is unreadable, of a slide whose tiles have no whole side."""
    folder = tmp_path / "stores"
    folder.mkdir()
    return make_store(folder)
