"""Folds: nobody on both sides, classes spread, or a refusal that says what is lacking."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.support.mil_cohorts import AGE, BINARY, COX, MARKERS, STUDY, TARGETS, THREE, cohort_of
from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.data.splits import deal, deal_inner, stated, strata_of
from wsi_umedpt.mil.settings import StudySettings
from wsi_umedpt.mil.training.nested_cv import splits_of


def some(target=BINARY, cases=24, **options):
    return cohort_of(target, cases=cases, tiles=(1, 2), **options)[0]


def folds_by(names, folds):
    """Which folds each name is in."""
    found = {}
    for name, fold in zip(names, folds.tolist(), strict=True):
        found.setdefault(name, set()).add(fold)
    return found


def fold_with(cohort, fold):
    """Dealt as a table deals them."""
    return replace(cohort, cases=tuple(replace(c, fold=f) for c, f in zip(cohort.cases, fold, strict=True)))


@examples(max_examples=40)
@given(
    owners=st.lists(st.integers(0, 14), min_size=30, max_size=60),
    folds=st.integers(2, 4),
    seed=st.integers(0, 2**31 - 1),
    kind=st.sampled_from(["binary", "multiclass", "regression", "cox", "multilabel"]),
)
def test_a_patient_is_in_one_fold(owners, folds, seed, kind):
    """However many slides each has; every case is dealt, and no fold is empty; or the table is refused."""
    patients = [f"p{n}" for n in owners]
    cohort = some(TARGETS[kind], cases=len(patients), patients=patients)
    try:
        dealt = deal(cohort, folds, seed)
    except MilError as refused:
        assert "cannot be dealt" in str(refused)  # noqa: PT017 - a refusal is one of two right answers
        return
    assert all(len(found) == 1 for found in folds_by(patients, dealt).values())
    assert {*dealt.tolist()} == {*range(folds)}
    np.testing.assert_array_equal(dealt, deal(cohort, folds, seed))


def test_another_seed_deals_otherwise():
    """Else repeating the evaluation would repeat nothing."""
    cohort = some(cases=40)
    assert not np.array_equal(deal(cohort, 4, 0), deal(cohort, 4, 1))
    assert not np.array_equal(deal(cohort, 4, 0), deal_inner(cohort, replace(STUDY, inner_folds=4), 0))


@examples(max_examples=30)
@given(
    where=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 7)), min_size=30, max_size=50), seed=st.integers(0, 99)
)
def test_a_site_is_in_one_fold_and_its_patients_too(where, seed):
    """Sites that share a patient go together, by whatever chain: neither is ever on both sides."""
    patients, sites = [f"p{p}" for p, _ in where], [f"h{s}" for _, s in where]
    cohort = some(cases=len(where), patients=patients, sites=sites)
    try:
        dealt = deal(cohort, 2, seed, preserve_sites=True)
    except MilError as refused:
        assert "cannot be dealt" in str(refused)  # noqa: PT017
        return
    for names in (patients, sites):
        assert all(len(found) == 1 for found in folds_by(names, dealt).values())


def test_a_patient_of_several_sites_joins_them():
    """Also where the patient is one case, whose sites stand together."""
    sites = [["A", "B", "C", "D"][n % 4] for n in range(24)]
    sites[0] = "A+B"
    dealt = deal(some(sites=sites), 3, 0, preserve_sites=True)
    assert folds_by(sites, dealt)["A"] == folds_by(sites, dealt)["B"] == folds_by(sites, dealt)["A+B"]
    with pytest.raises(MilError, match="3 sites cannot be dealt to 4 folds"):
        deal(some(sites=sites), 4, 0, preserve_sites=True)


@pytest.mark.parametrize("sites", [None, ["A", "B", ""] * 8, ["A", "B", "A+"] * 8], ids=["none", "some", "half"])
def test_sites_that_are_not_known_cannot_be_kept_together(sites):
    """An empty cell is no site of its own."""
    with pytest.raises(MilError, match="no column site, or cells of it are empty"):
        deal(some(sites=sites), 2, 0, preserve_sites=True)


@pytest.mark.parametrize("target", [BINARY, THREE, AGE, COX], ids=["binary", "multiclass", "regression", "cox"])
def test_classes_are_spread_evenly(target):
    """Of a hundred patients in five folds no fold has two more of a class, quarter or event than its share."""
    cohort = some(target, cases=100)
    dealt, strata = deal(cohort, 5, 3), strata_of(cohort)
    for stratum in np.unique(strata):
        counts = np.bincount(dealt[strata == stratum], minlength=5)
        assert np.ptp(counts) <= 2


def test_cases_without_a_label_are_a_stratum_of_their_own():
    """And not among the highest quarter of a quantity."""
    cohort = some(AGE, cases=20)
    cohort.truth[0][:5] = np.nan
    strata = strata_of(cohort)
    assert (strata[:5] == -1).all()
    assert {*strata[5:].tolist()} == {0, 1, 2, 3}


@pytest.mark.parametrize("target", [AGE, THREE, BINARY], ids=["regression", "multiclass", "binary"])
def test_fewer_of_each_kind_than_folds_are_dealt_all_the_same(target):
    """Nine patients in five folds have no stratum of five; they are dealt as long as what is left has all classes."""
    dealt = deal(some(target, cases=9), 5, 0)
    assert np.bincount(dealt).tolist() in (
        [2, 2, 2, 2, 1],
        [2, 2, 2, 1, 2],
        [2, 2, 1, 2, 2],
        [2, 1, 2, 2, 2],
        [1, 2, 2, 2, 2],
    )


@pytest.mark.parametrize(
    ("target", "truth", "why"),
    [
        pytest.param(BINARY, [[1]] + [[0]] * 11, "without fold ., grade has no case of high", id="a-class-of-one"),
        pytest.param(AGE, [[5]] + [[4]] * 11, "without fold ., age has fewer than two values", id="values"),
        pytest.param(MARKERS, [[1, 0], [0, 1]] + [[0, 0]] * 10, "one value only of er", id="labels"),
        pytest.param(COX, [[5, 1]] * 2 + [[4, 0]] * 10, "os has fewer than two events", id="events"),
    ],
)
def test_what_cannot_be_trained_without_a_fold_is_refused(target, truth, why):
    """Each lack is named, and what can be done."""
    cohort = replace(some(target, cases=12), truth=(np.array(truth, float),))
    with pytest.raises(MilError, match=rf"(?s){why}.*ask for fewer folds \(`folds`, `inner_folds`\), join classes"):
        deal(cohort, 3, 0)


def test_every_target_is_looked_at():
    """Not only the first, which is spread evenly."""
    cohort = some(BINARY, cases=12)
    second = np.array([[60.0]] + [[np.nan]] * 11)
    cohort = replace(cohort, targets=(BINARY, AGE), truth=(*cohort.truth, second))
    with pytest.raises(MilError, match="age has fewer than two values"):
        deal(cohort, 3, 0)


def test_too_few_patients_are_refused():
    """However many slides they have."""
    with pytest.raises(MilError, match="4 patients cannot be dealt to 5 folds; ask for fewer with `folds`"):
        deal(some(cases=40, patients=[f"p{n % 4}" for n in range(40)]), 5, 0)


def test_a_table_may_deal_the_folds_itself():
    """They are the same for every seed, and no other number of folds counts."""
    cohort = fold_with(some(), ["b", "a", "c", "b"] * 6)
    splits = splits_of(cohort, StudySettings(folds=7, inner_folds=2, seeds=(0, 5)))
    for folds in splits.values():
        assert folds.tolist() == [1, 0, 2, 1] * 6
    assert [*splits] == [0, 5]
    assert stated(some()) is None
    with pytest.raises(MilError, match="the column fold names one fold only, 'x'"):
        stated(fold_with(some(), ["x"] * 24))


def test_folds_of_one_class_are_refused():
    """Held-out cases are then of a class that was never trained on."""
    cohort = some()
    with pytest.raises(MilError, match="without fold 0, grade has no case of high"):
        splits_of(fold_with(cohort, ["ab"[int(v)] for v in 1 - cohort.truth[0][:, 0]]), STUDY)


def test_inner_folds_are_tried_before_anything_is_trained():
    """Two of a class last for two folds, but not for two more within what is left without one."""
    cohort = some(cases=40)
    cohort.truth[0][:, 0] = np.arange(40) < 2
    assert len(deal(cohort, 2, 0)) == 40
    with pytest.raises(MilError, match=r"(?s)inner folds of what is left without fold 0 \(seed 0\): .*no case of high"):
        splits_of(cohort, StudySettings(folds=2, inner_folds=2, seeds=(0,)))


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,), (2**31,)])
def test_seeds_are_different_whole_numbers(seeds):
    """And of a size that everything that draws can take."""
    with pytest.raises(MilError, match="`seeds` must be different numbers from 0"):
        StudySettings(seeds=seeds)
