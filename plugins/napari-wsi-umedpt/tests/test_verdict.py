"""What the dock of slide classifiers says is what the documentation says that it says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from wsi_umedpt.mil import Forecast, Target

from napari_wsi_umedpt.logic.verdict import answer, verdict
from tests.support.tiny import STATUS, slide_classifier

DOCS = Path(__file__).parents[3] / "docs" / "how-to" / "slide-classifiers.md"
GRADE = Target(name="grade", kind="multiclass", columns=("grade",), classes=("I", "II", "III"))
MARKERS = Target(name="markers", kind="multilabel", columns=("er", "pr", "her2"), classes=("er", "pr", "her2"))
AGE = Target(name="age", kind="regression", columns=("age",))


def forecast(target: Target, decided, conformal=None, interval=None, predicted=None) -> Forecast:
    values = np.full(max(1, len(target.classes)), 0.5) if predicted is None else np.array(predicted)
    return Forecast(
        target=target, predicted=values, decided=np.array(decided), spread=0 * values,
        conformal=None if conformal is None else np.array(conformal),
        interval=None if interval is None else np.array(interval),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        pytest.param(forecast(STATUS, [1], [False, True]), "Tumour is likely; normal is unlikely.", id="one"),
        pytest.param(
            forecast(STATUS, [1], [True, False]),
            "Normal is likely; tumour is unlikely. By the threshold of training it is called tumour.", id="called",
        ),
        pytest.param(forecast(STATUS, [1], [True, True]), "Undecided: normal and tumour are both possible.", id="both"),
        pytest.param(
            forecast(GRADE, [1], [False, True, True]), "Undecided between II and III; I is unlikely.", id="two"
        ),
        pytest.param(
            forecast(STATUS, [1], [False, False]),
            "No class fits well: the slide is unlike those that the model learned from.", id="none",
        ),
        pytest.param(forecast(MARKERS, [1, 1, 0]), "Likely: er and pr.", id="labels"),
        pytest.param(
            forecast(AGE, [61.2], interval=[52.1, 70.3], predicted=[61.2]), "age 61.2; between 52.1 and 70.3.",
            id="number",
        ),
    ],
)  # fmt: skip
def test_answers_are_those_of_the_documentation(found, sentence):
    """Word by word; none says that something is excluded."""
    assert answer(found) == sentence
    assert f"| {sentence} |" in DOCS.read_text(encoding="utf-8")
    assert "rule" not in answer(found)


@pytest.mark.parametrize(
    ("figures", "sentence", "alarming"),
    [
        pytest.param(
            {"value": 0.84, "low": 0.78, "high": 0.89, "patients": 212, "against_guessing": "better"},
            "In testing: AUC 0.84 (0.78 to 0.89) on 212 patients, better than guessing.", False, id="better",
        ),
        pytest.param(
            {"value": 0.75, "low": 0.44, "high": 0.93, "patients": 25, "against_guessing": "unclear"},
            "In testing: AUC 0.75 (0.44 to 0.93) on 25 patients, not shown to be better than guessing. Few patients: "
            "others may give another figure.", True, id="unclear",
        ),
        pytest.param(
            None, "In testing: not known, as the model does not carry its figures. Its report has them (report.html).",
            True, id="unknown",
        ),
        pytest.param({"value": "0.9", "patients": 3}, "In testing: not known", True, id="changed-by-somebody"),
    ],
)  # fmt: skip
def test_how_good_it_was_comes_before_the_answer(tmp_path, figures, sentence, alarming):
    """In red where it was not shown to be better than guessing; statistics are in the details alone."""
    from wsi_umedpt.mil import LiveSlide, SlideModel

    model = SlideModel.load(slide_classifier(tmp_path / "model.json"))
    if figures is not None:
        model.about["tested"] = {"status": {"figure": "roc_auc", **figures}}
    found = LiveSlide(model, np.random.default_rng(0).random((30, 4), dtype=np.float32)).judge()
    plain, details = verdict(model, replace(found, unlike=0.5), found, 30)
    assert plain.index(sentence) < plain.index("Undecided")
    assert (plain.index("color:") < plain.index(sentence)) is alarming if "color:" in plain else not alarming
    assert "&#177;" not in plain
    assert "&#177;" in details
    if figures is None or "low" in figures:
        assert f"| {sentence} |" in DOCS.read_text(encoding="utf-8")
