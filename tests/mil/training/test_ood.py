"""Unlike the training slides: seldom said of their like, and said of what is not."""

import numpy as np
import pytest

from wsi_umedpt.mil.inference.slide_model import UNLIKE
from wsi_umedpt.mil.training.ood import typical_of


def slides(rng, patients, slides_each, dim, tails=None, of_patient=1.0):
    """(slide, dim) mean features, and whose they are; slides of a patient resemble each other."""
    owner = np.repeat(np.arange(patients), slides_each)
    draw = rng.normal if tails is None else lambda size: rng.standard_t(tails, size)
    people = draw(size=(patients, dim)) * of_patient
    return people[owner] + rng.normal(size=(len(owner), dim)) * 0.5, [f"p{n}" for n in owner]


@pytest.mark.parametrize(
    ("patients", "each", "dim", "tails"),
    [
        pytest.param(21, 1, 4, None, id="few"),
        pytest.param(60, 1, 8, None, id="some"),
        pytest.param(60, 1, 300, None, id="more-numbers-than-slides"),
        pytest.param(60, 1, 8, 3, id="heavy-tails"),
        pytest.param(25, 4, 8, None, id="several-slides-a-patient"),
        pytest.param(25, 4, 300, None, id="several-slides-and-many-numbers"),
    ],
)
def test_slides_like_those_of_training_are_seldom_called_unlike(patients, each, dim, tails):
    """Of slides of new patients from the same source about 5 in 100 are called unlike, over 150 repetitions."""
    rng, found = np.random.default_rng(patients + dim), []
    for _ in range(150):
        means, owners = slides(rng, patients + 5, each, dim, tails)
        known = patients * each
        typical = typical_of(means[:known], owners[:known])
        found.append(np.mean([typical.p_value(mean) < UNLIKE for mean in means[known:]]))
    assert np.mean(found) <= UNLIKE + 3 * np.std(found) / np.sqrt(150)
    assert np.mean(found) > 0 or patients < 25


def test_fewer_than_twenty_slides_call_none_unlike():
    """Their smallest p-value is above 0.05."""
    rng = np.random.default_rng(0)
    means, owners = slides(rng, 19, 1, 4)
    assert typical_of(means, owners).p_value(means[0] + 1000) == pytest.approx(1 / 20)


@pytest.mark.parametrize("dim", [4, 300])
def test_a_shifted_slide_is_unlike(dim):
    """As one of another stain or scanner: a small p-value, the smaller the farther."""
    rng = np.random.default_rng(1)
    means, owners = slides(rng, 80, 2, dim)
    typical = typical_of(means, owners)
    p_values = [typical.p_value(rng.normal(size=dim) + shift) for shift in (0, 1, 4, 20)]
    assert p_values[0] > UNLIKE
    assert p_values[2:] == [1 / 161, 1 / 161]
    assert p_values == sorted(p_values, reverse=True)


def test_slides_of_one_patient_are_not_each_others_neighbours():
    """Else every new patient's slide, which has no sibling among the known, would lie too far off."""
    rng = np.random.default_rng(2)
    means, owners = slides(rng, 30, 4, 8)
    siblings = typical_of(means, owners)
    strangers = typical_of(means, [f"s{n}" for n in range(len(means))])
    assert np.median(siblings.distances) > 1.2 * np.median(strangers.distances)
    fresh, _ = slides(rng, 200, 1, 8)
    assert np.mean([siblings.p_value(mean) < UNLIKE for mean in fresh]) < 0.12
    assert np.mean([strangers.p_value(mean) < UNLIKE for mean in fresh]) > 0.3


def test_distances_are_to_the_five_nearest_of_other_patients():
    """Written out: a training slide is judged by the others as a new one is by all, in units of their deviation."""
    rng = np.random.default_rng(3)
    means, owners = slides(rng, 9, 2, 3)
    owners = np.array(owners)

    def far(slide, others):
        return np.sort(np.linalg.norm((slide - others) / others.std(0), axis=1))[:5].mean()

    expected = [far(slide, means[owners != owner]) for slide, owner in zip(means, owners, strict=True)]
    typical = typical_of(means, [*owners])
    np.testing.assert_allclose(typical.distances, np.sort(expected), rtol=1e-5)
    for fresh in rng.normal(size=(10, 3)) * 2:
        p_value = (1 + (np.array(expected) >= far(fresh, means)).sum()) / 19
        assert typical.p_value(fresh) == pytest.approx(p_value)


@pytest.mark.parametrize(
    "means",
    [
        pytest.param(np.ones((30, 4)), id="all-equal"),
        pytest.param(np.full((30, 4), 3e38), id="all-huge"),
        pytest.param(
            np.concatenate([np.ones((30, 1)), np.random.default_rng(0).normal(size=(30, 1))], 1), id="constant"
        ),
    ],
)
def test_numbers_that_never_vary_say_nothing(means):
    """A slide like the others in all that varies is not called unlike."""
    typical = typical_of(means, [f"p{n}" for n in range(30)])
    other = means.mean(0).copy()
    other[0] *= 2
    assert typical.p_value(other) > UNLIKE
    assert np.isfinite(typical.distances).all()


def test_a_large_cohort_is_thinned():
    """Over 5,000 slides every second, third, ... is enough."""
    rng = np.random.default_rng(4)
    typical = typical_of(rng.normal(size=(5001, 2)), [f"p{n}" for n in range(5001)])
    assert len(typical.known) == 2501
