"""Tables of predictions: every number as it was, no cell that a spreadsheet would run, the worst errors first."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from tests.support.mil_studies import simulated
from wsi_umedpt.interop.tables import safe_cell
from wsi_umedpt.mil.evaluation.predictions import case_rows, write_predictions

KINDS = ["binary", "multiclass", "ordinal", "multilabel", "regression", "cox", "discrete"]


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_a_row_for_each_seed_and_case(tmp_path, kind):
    """Numbers to the last bit; what is not known is an empty cell."""
    study = simulated(kind, 20, seeds=2, unknown=1)
    write_predictions(tmp_path / "p.csv", [study])
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    model, first = study.arms[0], rows[0]
    assert list(first)[:7] == ["case_id", "patient", "site", "target", "seed", "fold", "tiles"]
    predicted = np.array([[float(row[f"predicted_{name}"]) for name in study.target.predicted] for row in rows])
    np.testing.assert_array_equal(predicted.reshape(model.predicted.shape), model.predicted)
    unknown = [row for row in rows if row["case_id"] == study.case_ids[int(np.isnan(study.truth[:, 0]).argmax())]]
    assert all(value == "" for row in unknown for name, value in row.items() if name.startswith("truth"))
    if kind in ("binary", "multiclass", "ordinal"):
        assert {row["decided"] for row in rows} <= {*study.target.classes}
        inside = [study.target.classes[k] for k in np.flatnonzero(model.sets[0, 0])]
        assert first["conformal_set"].split("|") == inside


def test_predictions_of_two_targets_share_a_table(tmp_path):
    """Cells of the other target's columns are empty; baselines have a table of their own."""
    studies = [simulated("binary", 10, name="a", seeds=1), simulated("cox", 10, name="b", seeds=1)]
    write_predictions(tmp_path / "p.csv", studies, baselines=True)
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["target"], row["arm"]) for row in rows} == {
        (target, arm) for target in "ab" for arm in ("mean + logistic regression", "majority")
    }
    assert all((row["predicted_log_hazard_ratio"] == "") == (row["target"] == "a") for row in rows)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        pytest.param("=1+1", "'=1+1", id="equals"),
        pytest.param("+1+1", "'+1+1", id="plus"),
        pytest.param("+1", "+1", id="a-number-with-its-sign"),
        pytest.param("a\r=1+1", "a =1+1", id="a-return-begins-no-row"),
        pytest.param("-cmd|' /C calc'!A0", "'-cmd|' /C calc'!A0", id="minus"),
        pytest.param("@SUM(A1)", "'@SUM(A1)", id="at"),
        pytest.param("\t=1", "'\t=1", id="tab"),
        pytest.param("slide-1", "slide-1", id="plain"),
        pytest.param("", "", id="empty"),
        pytest.param(-1.5, -1.5, id="number"),
        pytest.param(-3, -3, id="whole-number"),
        pytest.param(None, None, id="none"),
    ],
)
def test_no_cell_is_a_formula(cell, expected):
    """Text that begins as one gets an apostrophe; numbers stay numbers."""
    assert safe_cell(cell) == expected


def test_cells_of_the_table_are_safe(tmp_path):
    """Of every column that holds the user's text."""
    bad = "=HYPERLINK(1)"
    study = simulated("binary", 10, seeds=1, classes=(bad, "@b"), name="+t", sites=(bad,))
    study = replace(study, case_ids=("-a", *study.case_ids[1:]), patients=(bad, *study.patients[1:]))
    write_predictions(tmp_path / "p.csv", [study])
    with (tmp_path / "p.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [c for c in cells if c.startswith(("=", "+", "-", "@", "\t"))]
    assert "'-a" in cells


@pytest.mark.parametrize("kind", KINDS)
def test_cases_stand_in_the_order_of_their_errors(kind):
    """The worst first, those without a label last, each once."""
    study = simulated(kind, 60, unknown=4)
    rows = case_rows(study)
    errors = [row.error for row in rows if np.isfinite(row.error)]
    assert errors == sorted(errors, reverse=True)
    assert sorted(row.case_id for row in rows) == sorted(study.case_ids)
    known = ~np.isnan(study.truth).any(axis=1)
    labelled = {name for name, ok in zip(study.case_ids, known, strict=True) if ok}
    assert not labelled & {row.case_id for row in rows if row.truth == "not known"}
    assert len([row for row in rows if row.truth == "not known"]) == 4
    assert [row.truth for row in rows[-4:]] == ["not known"] * 4 or kind in ("cox", "discrete")


def test_wrong_decisions_are_called_wrong():
    """Of most seeds, and it is said where not all agree."""
    study = simulated("binary", 4, seeds=3, folds=2)
    study.truth[:] = 1
    study.arms[0].decided[:, :, 0] = [[1, 0, 0, 1], [1, 0, 0, 1], [1, 0, 1, 0]]
    rows = {row.case_id: row for row in case_rows(study)}
    told = [(row.decided, row.wrong) for _, row in sorted(rows.items())]
    assert told == [
        ("positive", False), ("negative", True), ("negative (2 of 3 seeds)", True), ("positive (2 of 3 seeds)", False),
    ]  # fmt: skip
