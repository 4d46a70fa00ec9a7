"""A part of a slide that is judged at once is what the whole classifier says of a bag of that part."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.data.targets import Target
from wsi_umedpt.mil.inference.interactive import LiveSlide
from wsi_umedpt.mil.inference.slide_model import SlideModel
from wsi_umedpt.mil.networks.factory import build_network
from wsi_umedpt.mil.settings import ModelKind, ModelSettings
from wsi_umedpt.mil.training.calibration import Calibration
from wsi_umedpt.mil.training.ood import typical_of
from wsi_umedpt.store.features import FeatureKind

DIM, TILES = 6, 40
TARGETS = (
    Target(name="grade", kind="multiclass", columns=("grade",), classes=("low", "mid", "high")),
    Target(name="age", kind="regression", columns=("age",), centre=60.0, scale=10.0),
)


def classifier(kind: ModelKind) -> SlideModel:
    """Two networks that were not trained."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    chosen = ModelSettings(model=kind, hidden=8, attention=4, top_k=3)
    return SlideModel(
        targets=TARGETS,
        kind=FeatureKind(dim=DIM),
        networks=tuple(build_network(DIM, 4, chosen, [3]).eval().requires_grad_(False) for _ in range(2)),
        calibrations=(Calibration(1.5, (), np.linspace(0, 1, 20)), Calibration(1.0, (), np.linspace(0, 9, 20))),
        typical=typical_of(rng.normal(size=(30, DIM)), [f"p{n}" for n in range(30)]),
        coverage=0.9,
        about={},
    )


MODELS = {kind: classifier(kind) for kind in get_args(ModelKind)}
FEATURES = np.random.default_rng(1).normal(size=(TILES, DIM)).astype(np.float16)
LIVE = {kind: LiveSlide(model, FEATURES) for kind, model in MODELS.items()}


@pytest.mark.parametrize("kind", get_args(ModelKind))
@settings(max_examples=25)
@given(chosen=st.lists(st.booleans(), min_size=TILES, max_size=TILES).filter(any))
def test_a_part_is_judged_as_a_bag_of_that_part(kind, chosen):
    """Forecasts, the flag of being unlike, attention and contributions, of any part."""
    model, part = MODELS[kind], np.array(chosen)
    found = LIVE[kind].judge(part)
    assert found.tiles == part.sum()
    for ours, theirs in zip(found.forecasts, model.forecast([FEATURES[part]]), strict=True):
        for name in ("predicted", "decided", "spread"):
            assert getattr(ours, name) == pytest.approx(getattr(theirs, name), abs=1e-5)
        assert np.array_equal(ours.conformal, theirs.conformal)
    assert found.unlike == model.unlike([FEATURES[part]])
    shares = model.explain(FEATURES[part])
    assert found.shares.attention == pytest.approx(shares.attention, abs=1e-6)
    assert found.shares.contribution == pytest.approx(shares.contribution, abs=1e-5)


def test_all_tiles_are_judged_where_none_are_named():
    """And progress counts the networks."""
    told = []
    live = LiveSlide(MODELS["attention"], FEATURES, lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
    assert live.judge().tiles == len(live) == TILES


def test_nothing_cannot_be_judged():
    """Neither a slide without tiles nor a region that leaves none."""
    with pytest.raises(MilError, match="no tiles"):
        LiveSlide(MODELS["attention"], FEATURES[:0])
    with pytest.raises(MilError, match=r"none of the 40 tiles is left.*Leave out less"):
        LIVE["attention"].judge(np.zeros(TILES, bool))
