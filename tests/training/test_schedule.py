"""The learning rate rises in a line, then falls along half a cosine; it is a function of the step alone."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsi_umedpt.training.schedule import FLOOR, lr_factor

WARMUP, STEPS = st.integers(0, 50), st.integers(1, 300)


@given(warmup=WARMUP, more=STEPS)
def test_it_rises_to_1_and_never_rises_again(warmup, more):
    """Strictly up over the warm-up, 1 at its end, then never up again, and never below the floor."""
    steps = warmup + more
    factors = [lr_factor(step, warmup=warmup, steps=steps) for step in range(steps + 20)]
    rise, fall = factors[:warmup], factors[max(0, warmup - 1) :]
    assert all(a < b for a, b in pairwise(rise))
    assert all(a >= b for a, b in pairwise(fall))
    assert max(factors) == factors[warmup] == pytest.approx(1)
    assert min(factors[warmup:]) >= FLOOR
    assert min(factors) > 0
    assert factors[steps:] == pytest.approx([FLOOR] * 20)


@given(warmup=st.integers(1, 50), more=STEPS)
def test_the_warm_up_is_a_line(warmup, more):
    """The first step is one of `warmup` equal parts, so that no step is lost at a rate of 0."""
    found = [lr_factor(step, warmup=warmup, steps=warmup + more) for step in range(warmup)]
    assert found == pytest.approx([(step + 1) / warmup for step in range(warmup)])


def test_half_way_down_it_is_half_way():
    """The cosine is symmetric about its middle."""
    assert lr_factor(60, warmup=20, steps=100) == pytest.approx((1 + FLOOR) / 2)


def test_a_run_that_ends_within_its_warm_up():
    """Fewer steps than the warm-up is a line that stops."""
    assert [lr_factor(s, warmup=10, steps=3) for s in range(3)] == pytest.approx([0.1, 0.2, 0.3])
