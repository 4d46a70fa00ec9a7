"""What sets two studies apart is said by setting, name and case, with what it was and what it is."""

import pytest

from wsi_umedpt.mil.study_difference import cases_in, cases_of_rows, differences

CASES = {f"S{n}": (f"P{n}", "north") for n in range(8)}
ABOUT = {
    "cohort_sha256": "a", "unit": "slide", "version": "1", "tiles": 80,
    "features": {"encoder": "uni", "mpp": 0.5, "dim": 1024},
    "targets": [{"name": "grade", "kind": "binary", "classes": ["low", "high"]}],
    "options": [{"model": "attention", "lr": 0.001}],
    "study": {"folds": 5, "seeds": [0, 1, 2]},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "cases", "told"),
    [
        pytest.param({"options": [{"model": "max", "lr": 0.001}]}, {}, ["`model`: attention, max"], id="network"),
        pytest.param({"study": {"folds": 5, "seeds": [0]}}, {}, ["`seeds`: 0 1 2, 0"], id="seeds"),
        pytest.param(
            {"features": {"encoder": "conch", "mpp": 0.5, "dim": 512}}, {},
            ["features encoder: uni, conch", "features dim: 1024, 512"], id="features",
        ),
        pytest.param(
            {"targets": [{"name": "stage", "kind": "binary", "classes": ["low", "high"]}]}, {},
            ["target grade: it is there and not now", "target stage: it is now and not there"], id="target",
        ),
        pytest.param(
            {"targets": [{"name": "grade", "kind": "binary", "classes": ["high", "low"]}]}, {},
            ["target grade classes: low high, high low"], id="order-of-classes",
        ),
        pytest.param({"unit": "late", "tiles": 90}, {}, ["`unit`: slide, late", "tiles in all: 80, 90"], id="unit"),
        pytest.param(
            {"options": [*ABOUT["options"]] * 2}, {}, ["settings to choose from (`try`): 1, 2"], id="another-setting"
        ),
        pytest.param({"cohort_sha256": "b"}, {}, ["labels, or slides of a case: of the same cases"], id="labels"),
        pytest.param(
            {"cohort_sha256": "b"}, {"S9": ("P9", "north"), "S0": None},
            ["1 case is there and not now: S0", "1 case is now and not there: S9"], id="cases",
        ),
        pytest.param(
            {"cohort_sha256": "b"}, {"S3": ("P1", "north"), "S4": ("P1", "south")},
            ["the patient of S3, S4: 'P3', 'P1'", "the site of S4: 'north', 'south'"], id="patients-and-sites",
        ),
    ],
)  # fmt: skip
def test_what_differs_is_said(changes, cases, told):
    """And nothing else."""
    now = {name: value for name, value in {**CASES, **cases}.items() if value}
    assert differences(ABOUT, {**ABOUT, **changes}, CASES, now) == told


def test_cases_are_read_from_what_a_run_wrote(tmp_path):
    """Or are none where that is damaged, which is no reason to fail."""
    rows = [["case_id", "patient", "site", "fold_of_seed_0"], ["S1", "P1", "north", "0"], ["S2", "P2", "", "1"]]
    (tmp_path / "splits.csv").write_text("\n".join(",".join(row) for row in rows))
    assert cases_in(tmp_path / "splits.csv") == cases_of_rows(rows) == {"S1": ("P1", "north"), "S2": ("P2", "")}
    assert cases_in(tmp_path / "none.csv") == {}
    (tmp_path / "splits.csv").write_bytes(b"\xff\x00,")
    assert cases_in(tmp_path / "splits.csv") == {}


@pytest.mark.parametrize("there", [{}, {"options": 3, "targets": "x", "study": None, "features": []}])
def test_records_that_are_half_there_are_compared_as_far_as_they_go(there):
    """Never an error of its own."""
    assert differences(there, ABOUT, {}, CASES)
