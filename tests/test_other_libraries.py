"""What is written here agrees with libraries of the same purpose, where they are installed; decision 0021 says why.

pip install crepes ijson lifelines scikit-survival torchmetrics pycocotools yaozarrs
python -m pytest tests/test_other_libraries.py
"""

import io
import json
import warnings

import numpy as np
import pytest
import torch

from wsi_umedpt.annotations.json_text import JsonText
from wsi_umedpt.datasets.samples import Boxes
from wsi_umedpt.mil.evaluation.survival import brier, concordance, kaplan_meier, logrank
from wsi_umedpt.mil.training.calibration import Calibration
from wsi_umedpt.store.label_info import LabelInfo
from wsi_umedpt.tasks.average_precision import mean_average_precision
from wsi_umedpt.tasks.fcos import Detections
from wsi_umedpt.tasks.instances import panoptic_quality


@pytest.fixture
def cohort(rng):
    """Times with ties, events, and risks of 150 cases."""
    time = rng.exponential(24, 150).round() + 1
    return time, (rng.random(150) < 0.6).astype(float), rng.normal(size=150) - time / 50


def imported(name: str):
    """A module, or a skip; what it warns of when it is imported is its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def test_kaplan_meier_and_its_interval_are_those_of_lifelines(cohort):
    """At every time at which anything happened."""
    lifelines = imported("lifelines")
    time, event, _ = cohort
    curve = kaplan_meier(time, event)
    fitted = lifelines.KaplanMeierFitter().fit(time, event)
    np.testing.assert_allclose(fitted.survival_function_at_times(curve.time), curve.survival, rtol=1e-9)
    interval = fitted.confidence_interval_.loc[curve.time].to_numpy()
    defined = ~np.isnan(curve.low)
    np.testing.assert_allclose(interval[defined], np.stack([curve.low, curve.high], 1)[defined], rtol=1e-6)


def test_log_rank_is_that_of_lifelines(cohort, rng):
    """Of three groups."""
    statistics = imported("lifelines.statistics")
    time, event, _ = cohort
    group = rng.integers(0, 3, len(time))
    theirs = statistics.multivariate_logrank_test(time, group, event)
    ours = logrank(time, event, group)
    assert (ours.statistic, ours.p) == pytest.approx((theirs.test_statistic, theirs.p_value), rel=1e-9)


def test_concordance_is_that_of_scikit_survival(cohort):
    """Harrell's."""
    metrics = imported("sksurv.metrics")
    time, event, risk = cohort
    harrell = metrics.concordance_index_censored(event == 1, time, risk, tied_tol=0)[0]
    assert concordance(time, event, risk)[0] == pytest.approx(harrell, rel=1e-9)


def test_brier_score_is_that_of_scikit_survival(cohort, rng):
    """At three times, of any predicted survival; without ties of events and censorings, which are counted otherwise."""
    metrics = imported("sksurv.metrics")
    time, event, _ = cohort
    time = time + rng.random(len(time))
    edges = np.quantile(time, [0.2, 0.5, 0.7])
    survival = np.sort(rng.random((len(time), 3)), axis=1)[:, ::-1]
    surv = imported("sksurv.util").Surv.from_arrays(event == 1, time)
    theirs = metrics.brier_score(surv, surv, survival, edges)[1]
    np.testing.assert_allclose(brier(time, event, survival, edges)[0], theirs, rtol=1e-9)


def boxes_of(rng, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    corner = torch.from_numpy(rng.integers(0, 80, (count, 2)).astype(np.float32))
    size = torch.from_numpy(rng.integers(8, 20, (count, 2)).astype(np.float32))
    return torch.cat([corner, corner + size], 1), torch.from_numpy(rng.integers(0, 2, count))


def test_average_precision_is_near_that_of_torchmetrics(rng):
    """COCO's reads the curve at 101 recalls, and ours at all: within 0.01."""
    detection = imported("torchmetrics.detection")
    imported("pycocotools")
    found, true, theirs = [], [], detection.MeanAveragePrecision(iou_thresholds=[0.5], class_metrics=True)
    for _ in range(20):
        xyxy, classes = boxes_of(rng, 12)
        moved = xyxy + torch.from_numpy(rng.normal(0, 1.5, (12, 4)).astype(np.float32))
        extra, of = boxes_of(rng, 4)
        scores = torch.from_numpy(rng.random(16).astype(np.float32))
        found.append(Detections(xyxy=torch.cat([moved, extra]), scores=scores, classes=torch.cat([classes, of])))
        true.append(Boxes(xyxy=xyxy, classes=classes))
        theirs.update(
            [{"boxes": found[-1].xyxy, "scores": scores, "labels": found[-1].classes}],
            [{"boxes": xyxy, "labels": classes}],
        )
    expected = theirs.compute()["map_per_class"].tolist()
    assert mean_average_precision(found, true, 2) == pytest.approx(expected, abs=0.01)


def test_panoptic_quality_is_that_of_torchmetrics(rng):
    """Of one class of things."""
    detection = imported("torchmetrics.detection")
    true, found = np.zeros((2, 96, 96), np.int32)
    for number in range(1, 10):
        y, x = 10 * np.array(divmod(number - 1, 3)) * 3
        true[y : y + 20, x : x + 20] = number
        shift = int(rng.integers(0, 9))
        found[y + shift : y + 20, x : x + 20] = number
    metric = detection.PanopticQuality(things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
    stacked = [torch.from_numpy(np.stack([labels > 0, labels], -1).astype(np.int64))[None] for labels in (found, true)]
    theirs = metric(*stacked)
    things = theirs[0] if theirs.ndim == 2 else theirs
    ours = panoptic_quality(true, found)
    assert (ours.quality, ours.segmentation, ours.detection) == pytest.approx(things.tolist(), rel=1e-5)


def test_conformal_sets_are_those_of_crepes(rng):
    """Of three classes, without smoothing."""
    crepes = imported("crepes")
    chance = rng.dirichlet(np.ones(3), 300)
    truth = np.array([rng.choice(3, p=row) for row in chance])
    scores = 1 - chance[np.arange(200), truth[:200]]
    ours = Calibration(1.0, (), np.sort(scores))
    theirs = crepes.ConformalClassifier().fit(scores, seed=0)
    sets = theirs.predict_set(1 - chance[200:], confidence=0.9, smoothing=False)
    np.testing.assert_array_equal(1 - chance[200:] <= ours.reach(0.9) + 1e-12, sets == 1)


def test_json_is_read_as_ijson_reads_it(rng):
    """Features of a collection, one after the other."""
    ijson = imported("ijson")
    features = [{"type": "Feature", "id": n, "xy": rng.random(9).tolist(), "name": f"é{n}"} for n in range(50)]
    text = json.dumps({"type": "FeatureCollection", "features": features})
    reader, ours = JsonText(io.StringIO(text)), None
    for name in reader.names():
        if name == "features":
            ours = [*reader.items()]
        else:
            reader.value()
    assert ours == list(ijson.items(io.BytesIO(text.encode()), "features.item", use_float=True)) == features


def test_label_images_are_what_ome_zarr_asks_for():
    """The metadata that are written here are valid for yaozarrs' model of version 0.5."""
    yaozarrs = imported("yaozarrs")
    info = LabelInfo(
        name="nuclei", shape=(3000, 2000), mpp=0.5, scale=2.0, classes=("a", "b"), colours=((255, 0, 0), (0, 0, 255))
    )
    found = yaozarrs.v05.LabelImage.model_validate(info.ome())
    assert [dataset.path for dataset in found.multiscales[0].datasets] == ["0", "1", "2", "3"]
