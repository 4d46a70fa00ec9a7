"""Maps of what a prediction rests on: a file a column, whatever classes and slides are called."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.mil_cohorts import QUICK, STUDY, THREE, Bank, cohort_of
from wsi_umedpt.errors import MilError
from wsi_umedpt.interop.qupath_tiles import read_tiles
from wsi_umedpt.mil.data.feature_loader import BagReader
from wsi_umedpt.mil.inference.heatmaps import write_maps
from wsi_umedpt.mil.inference.predict import bag_of, predict, tile_scores
from wsi_umedpt.mil.training.ensemble import develop


@pytest.fixture(scope="module")
def model():
    """Of classes whose names are those of no files."""
    target = replace(THREE, classes=("日本", "a/b", "a_b"))
    cohort, banks = cohort_of(target, cases=30)
    return develop(cohort, BagReader(banks), [QUICK], STUDY, (0,))


def test_classes_and_slides_of_any_name_have_files_of_their_own(model, tmp_path):
    """None takes another's place; columns of the tiles are called as they are."""
    rng = np.random.default_rng(0)
    paths = []
    for slide in ("Größe", "Grüße", "../out"):
        bank = Bank(slide, rng.normal(size=(7, 6)).astype(np.float32))
        found = [*write_maps(model, bank, tmp_path / "maps")]
        assert len(found) == len({*found}) == 4 + 1
        tiles = read_tiles(found[-1])
        columns = tile_scores(model, bag_of(model, bank))
        assert [*tiles.columns] == [*columns]
        np.testing.assert_allclose(
            tiles.columns["contribution_type:日本"], columns["contribution_type:日本"], rtol=1e-5
        )
        paths += found
    assert len({*paths}) == 15
    assert sorted(tmp_path.rglob("*.*")) == sorted(paths)


@pytest.mark.parametrize(
    ("bank", "why"),
    [
        pytest.param(Bank("s", np.full((3, 6), np.nan, np.float32)), "not finite", id="nan"),
        pytest.param(Bank("s", np.zeros((0, 6), np.float32)), "no tiles", id="empty"),
        pytest.param(Bank("s", np.zeros((3, 6), np.float32), side=None), "say not where their tiles lie", id="no-side"),
        pytest.param(Bank("s", np.zeros((3, 4), np.float32), replace(cohort_of()[0].kind, dim=4)), "dim 4", id="other"),
    ],
)
def test_what_cannot_be_explained_is_refused(model, tmp_path, bank, why):
    """And nothing is written."""
    with pytest.raises(MilError, match=why):
        [*write_maps(model, bank, tmp_path / "maps")]
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize("unit", ["slide", "union", "late"])
def test_a_case_is_predicted_as_it_was_trained(unit):
    """Slides of a case are one bag where they were in training, else averaged."""
    cohort, banks = cohort_of(cases=24, slides=2, unit=unit, patients=[f"p{n}" for n in range(24)])
    model = develop(cohort, BagReader(banks), [QUICK], STUDY, (0,))
    slides = cohort.cases[0].slides
    found = predict(model, [bag_of(model, banks[slide]) for slide in slides], "c0")
    parts = [banks[slide].features for slide in slides]
    expected = model.forecast([np.concatenate(parts)] if unit == "union" else parts)
    np.testing.assert_allclose(found.forecasts[0].predicted, expected[0].predicted)
    assert found.tiles == sum(map(len, parts))
    assert found.row()["slides"] == "+".join(slides)
