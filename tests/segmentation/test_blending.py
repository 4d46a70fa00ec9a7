"""Windows blend back into the picture that they were cut from, whatever strips it is taken in."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsi_umedpt.segmentation.blending import Canvas, Rows


@st.composite
def laid(draw):
    """A picture of chances at half size, its pixels, windows over it (some left out), and rows to take strips at."""
    size = 2 * draw(st.integers(2, 8), label="half a window")
    stride = 2 * draw(st.integers(1, size // 2), label="half the distance")
    cols, rows = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    width, height = size + (cols - 1) * stride, size + (rows - 1) * stride
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    chances = rng.integers(0, 256, (2, height // 2, width // 2), dtype=np.uint8)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    kept = draw(st.lists(st.booleans(), min_size=cols * rows, max_size=cols * rows), label="windows")
    cells = [(i % cols * stride, i // cols * stride) for i in range(cols * rows)]
    windows = [cell for cell, keep in zip(cells, kept, strict=True) if keep]
    extra = sorted(2 * y for y in draw(st.lists(st.integers(0, height // 2), max_size=4), label="extra strips"))
    return size, stride, chances, image, windows, extra


def strips(canvas: Canvas, drawn, *, start: int = 0, stop: int | None = None) -> list[Rows]:
    """Lay the windows from `start` to `stop`, and take rows before each row of windows, in pieces."""
    size, _, chances, image, windows, extra = drawn
    out = []
    for x, y in windows[start:stop]:
        for end in [*(e for e in extra if canvas.top < e < y), y] if y > canvas.top else []:
            out.append(canvas.rows_until(end))
        half = chances[:, y // 2 : (y + size) // 2, x // 2 : (x + size) // 2]
        canvas.add(x, y, half, image[y : y + size, x : x + size])
    return out if stop is not None else [*out, canvas.rest()]


def canvas_for(drawn) -> Canvas:
    size, stride, chances, image, *_ = drawn
    return Canvas(image.shape[1], size, stride, len(chances))


def joined(rows: list[Rows]) -> tuple[np.ndarray, np.ndarray]:
    """All rows, which must follow each other without gaps."""
    at = 0
    for part in rows:
        assert part.top == at
        assert part.chances.shape[1] == len(part.image)
        at += len(part.image)
    return np.concatenate([r.chances for r in rows], axis=1), np.concatenate([r.image for r in rows])


@given(laid())
@settings(max_examples=60)
def test_windows_of_a_picture_are_the_picture(drawn):
    """Chances are the picture's, doubled, to rounding, and 0 where no window was; pixels are the very pixels."""
    size, _, chances, image, windows, _ = drawn
    there = np.zeros(image.shape[:2], bool)
    for x, y in windows:
        there[y : y + size, x : x + size] = True
    height = max((y for _, y in windows), default=0) + size
    low = np.where(there[::2, ::2], chances, 0)[:, : height // 2]
    expected = np.stack([cv2.resize(c, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR) for c in low])
    found, pixels = joined(strips(canvas_for(drawn), drawn))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.array_equal(pixels, np.where(there[..., None], image, 0)[:height])


@given(laid(), st.data())
@settings(max_examples=40)
def test_a_canvas_goes_on_from_its_state(drawn, data):
    """Stopped after any window, another canvas gives the rows that the first one would have given."""
    stop = data.draw(st.integers(0, len(drawn[4])), label="windows before the stop")
    whole = joined(strips(canvas_for(drawn), drawn))
    first, second = canvas_for(drawn), canvas_for(drawn)
    before = strips(first, drawn, stop=stop)
    second.restore({name: value.copy() for name, value in first.state().items()})
    after = strips(second, drawn, start=stop)
    for a, b in zip(joined([*before, *after]), whole, strict=True):
        assert np.array_equal(a, b)


def test_where_windows_disagree_the_nearer_middle_counts_more():
    """Over the overlap, weights fall evenly from one window to the other; each window's middle is its own."""
    canvas = Canvas(48, 32, 16, 1)
    for x, value in ((0, 0), (16, 200)):
        canvas.add(x, 0, np.full((1, 16, 16), value, np.uint8), np.zeros((32, 32, 3), np.uint8))
    line = canvas.rest().chances[0, 16].astype(int)
    assert (np.diff(line) >= 0).all()
    assert (line[:14] == 0).all()
    assert (line[-14:] == 200).all()
    assert line[23] + line[24] == pytest.approx(200, abs=2)


def test_a_window_above_what_was_taken_is_refused():
    """Rows that are out cannot be changed, and rows in between must be taken first."""
    canvas = Canvas(32, 32, 16, 1)
    canvas.rows_until(16)
    for y in (0, 32):
        with pytest.raises(ValueError, match="rows from 16 on"):
            canvas.add(0, y, np.zeros((1, 16, 16), np.uint8), np.zeros((32, 32, 3), np.uint8))


@pytest.mark.parametrize("wrong", [(31, 16, 8), (32, 15, 8), (32, 16, 7), (32, 16, 18), (32, 16, 0)], ids=str)
def test_odd_sides_and_gaps_are_refused(wrong):
    """Chances are kept at half size, so that all lengths are even."""
    with pytest.raises(ValueError, match="even"):
        Canvas(*wrong, channels=1)
