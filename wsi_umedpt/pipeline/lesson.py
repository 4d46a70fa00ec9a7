"""A lesson for a head: windows with their true objects, a fit of the head's last layer to them, and what it gained.

Read top to bottom: `Lesson` (result), `Steps` (progress), `Learning` (windows, fits, figures).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from wsi_umedpt.datasets.samples import IGNORED, Batch
from wsi_umedpt.datasets.targets import class_mask
from wsi_umedpt.geometry import Box
from wsi_umedpt.messages import counted
from wsi_umedpt.models.unet import PixelDecoder
from wsi_umedpt.pipeline.task import Progress
from wsi_umedpt.segmentation.watershed import separate
from wsi_umedpt.tasks.instances import instance_iou
from wsi_umedpt.tasks.multihead import BORDER
from wsi_umedpt.tasks.segmentation import Segmentation

FOLDS = 5
"""Parts of the windows that are left out of a fit, one after the other."""
FEW_CORRECTIONS = 20
"""Number of corrections below which a lesson is called too small."""
_PULL = 1e-2
"""Penalty on the squared distance to the head as it was; fixed, and chosen by no figure."""
_ROUNDS = 40
_STEPS = 50
"""Evaluations of the loss in a fit, at most."""
_AROUND = 2
"""Pixels around what is known that a fit reads, too: the convolution's reach, and that of its interpolation."""
_RESAMPLED = 2_000
_RESHAPED = 0.8
"""IoU with its correction below which an object counts as reshaped."""

Numbers = npt.NDArray[np.int32]
Centres = npt.NDArray[np.floating]


class Corrections(NamedTuple):
    """Number of objects that were put right; objects match where their IoU is over 0.5."""

    added: int = 0
    """Objects that the head did not find."""
    removed: int = 0
    """Objects that it found where none is."""
    reshaped: int = 0
    """Objects that it found with an outline of IoU below 0.8."""

    @property
    def all(self) -> int:
        """All of them."""
        return sum(self)


@dataclass(frozen=True, eq=False, kw_only=True)
class Lesson:
    """Result of teaching a head."""

    head: Segmentation
    """Taught on all windows."""
    windows: int
    objects: int
    """Number of objects in the fields, those cut by windows counted in each."""
    corrections: Corrections
    """Differences of the fields from what the head as it was finds."""
    before: float
    """F1 of the objects (IoU over 0.5) by the head as it was."""
    after: float | None
    """F1 on windows that were left out of the fit; None where there is one window only."""
    gain: tuple[float, float] | None
    """95 % interval of the difference, by resampling windows; None as above."""
    seconds: float

    @property
    def better(self) -> bool:
        """True if the head was shown to be better on what it had not learned from."""
        return self.gain is not None and self.gain[0] > 0

    @property
    def words(self) -> str:
        """Result of the lesson, in plain words."""
        added, removed, reshaped = self.corrections
        fixed = f"{counted(self.corrections.all, 'correction')}: {added} added, {removed} removed, {reshaped} reshaped."
        few = "" if self.corrections.all >= FEW_CORRECTIONS else f" These are few: correct {FEW_CORRECTIONS} or more."
        if self.after is None or self.gain is None:
            return f"{fixed}{few} Not tested: the region is too small to leave a part of it out. Correct a larger one."
        low, high = self.gain
        figures = f"F1 {self.before:.2f} before, {self.after:.2f} after (difference {low:+.2f} to {high:+.2f})"
        if self.better:
            verdict = "It finds nuclei better than before"
        elif self.after > self.before:
            verdict = "It is not shown to be better: the difference may be chance"
        else:
            verdict = "It is not better than before"
        return f"{fixed}{few} {verdict}, tested on parts of the regions that it had not learned from: {figures}."


class Steps:
    """Steps of a lesson, told as they are done."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._all = progress, 0
        self.done = 0
        """Number of those that are done."""

    def expect(self, windows: int) -> None:
        """A lesson of so many windows begins."""
        self._all = windows + (1 + min(FOLDS, windows)) * _STEPS
        self._progress.started(self._all)

    def one(self) -> None:
        """Tell of one more."""
        self.to(self.done + 1)

    def to(self, done: int) -> None:
        """Tell of so many."""
        self.done = min(done, self._all)
        self._progress.tiles_done(self.done, self._all)


@dataclass(frozen=True, eq=False, kw_only=True)
class Windows:
    """Windows over fields of corrections."""

    head: Segmentation
    """Head as it was."""
    embedded: torch.Tensor
    """(window, channel, h / 2, w / 2): what the head reads."""
    true: Numbers
    """(window, h, w): number of the object of each pixel, 0 for none, `IGNORED` where nothing is known."""
    centres: Sequence[Centres | None]
    """Centres of the boxes that the head's detector found, px of the window; None where it has none."""
    parts: Sequence[Box]
    """Part of a field that is known in each window, level-0 px."""
    min_px: int
    """Objects of fewer pixels are dropped."""
    vouched: bool
    """True if objects need a box, or a likely inner part, as `segment` has it."""


class Learning:
    """Windows of one slide, and heads that are fitted to some of them."""

    def __init__(self, windows: Windows, steps: Steps | None = None) -> None:
        self._windows, self._steps = windows, steps or Steps(Progress())
        self._head, self._embedded, self._true = windows.head, windows.embedded, windows.true
        classes = windows.head.spec.classes
        masks = [class_mask(one, classes, instances=True) for one in windows.true]
        self._masks = torch.from_numpy(np.stack(masks))
        self._was = [self.compare(windows.head, row) for row in range(len(self._true))]

    def lesson(self, began: float) -> Lesson:
        """Fit a head to all windows, and measure on windows that others were fitted without.

        Parameters
        ----------
        began
            Time at which the lesson began, by `time.perf_counter`.
        """
        before, (after, gain) = self.before(), self.held_out()
        return Lesson(
            head=self.fit(np.arange(len(self._true))), windows=len(self._true),
            objects=sum(len(np.unique(one[one > 0])) for one in self._true), corrections=self.corrections(),
            before=before, after=after, gain=gain, seconds=perf_counter() - began,
        )  # fmt: skip

    def fit(self, rows: npt.NDArray[np.int64]) -> Segmentation:
        """Fit a copy of the head to some windows."""
        taught = copy.deepcopy(self._head).train().requires_grad_(True)
        start = [p.detach().clone() for p in taught.parameters()]
        some, masks = self._known(rows)
        batch = Batch(images=torch.empty(0), masks=masks)
        size = (masks.shape[1], masks.shape[2])
        descent = torch.optim.LBFGS(
            taught.parameters(), max_iter=_ROUNDS, max_eval=_STEPS, line_search_fn="strong_wolfe"
        )
        began = self._steps.done

        def loss() -> torch.Tensor:
            descent.zero_grad()
            held = sum(((p - q) ** 2).sum() for p, q in zip(taught.parameters(), start, strict=True))
            value: torch.Tensor = taught.loss_of(taught.logits(some, size), batch) + _PULL * held
            value.backward()  # type: ignore[no-untyped-call]
            self._steps.to(min(self._steps.done + 1, began + _STEPS))
            return value

        descent.step(loss)  # type: ignore[no-untyped-call]
        self._steps.to(began + _STEPS)  # it may have taken fewer
        return taught.eval().requires_grad_(False)

    def _known(self, rows: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut what the head reads of windows, and their masks, to where something is known: the rest costs time."""
        masks, stride = self._masks[rows], PixelDecoder.stride
        there = (masks != IGNORED).any(0)
        cut, small = [], []
        for axis in (1, 0):
            at = torch.nonzero(there.any(axis))[:, 0]
            first = max(0, int(at[0]) // stride - _AROUND)
            past = min(self._embedded.shape[3 - axis], int(at[-1]) // stride + 1 + _AROUND)
            small.append(slice(first, past))
            cut.append(slice(first * stride, past * stride))
        return self._embedded[rows][:, :, small[0], small[1]], masks[:, cut[0], cut[1]]

    def before(self) -> float:
        """F1 of the head as it was, over all windows."""
        return f1_of([one.matches for one in self._was])

    def held_out(self) -> tuple[float | None, tuple[float, float] | None]:
        """F1 over all windows, each by a head that was fitted without it, and its gain; None where there is one."""
        count = len(self._true)
        if count < 2:
            return None, None
        fold = np.arange(count) % min(FOLDS, count)
        after = [Matches(0, 0)] * count
        for number in np.unique(fold):
            head = self.fit(np.flatnonzero(fold != number))
            for row in np.flatnonzero(fold == number).tolist():
                after[row] = self.compare(head, row).matches
        was = [one.matches for one in self._was]
        rng = np.random.default_rng(0)
        drawn = rng.integers(count, size=(_RESAMPLED, count)).tolist()
        gains = [f1_of([after[k] for k in some]) - f1_of([was[k] for k in some]) for some in drawn]
        low, high = np.nanpercentile(gains, [2.5, 97.5]).tolist()
        return f1_of(after), (low, high)

    def corrections(self) -> Corrections:
        """Differences of the fields from what the head as it was finds."""
        return Corrections(*np.sum([one.corrections for one in self._was], axis=0).tolist())

    def compare(self, head: Segmentation, row: int) -> "Compared":
        """Compare what a head finds in a window with the truth."""
        true, found = self._true[row], self.found(head, row)
        there = [_numbered(np.where(one > 0, one, 0)) for one in (true, np.where(true == IGNORED, 0, found))]
        iou = instance_iou(*there)
        hits = iou[iou > 0.5]
        count, found_count = iou.shape
        fixed = Corrections(count - len(hits), found_count - len(hits), int((hits < _RESHAPED).sum()))
        return Compared(Matches(len(hits), count + found_count), fixed)

    @torch.no_grad()
    def found(self, head: Segmentation, row: int) -> Numbers:
        """Find the objects of a window by a head."""
        size = self._true.shape[1:]
        chances = head.logits(self._embedded[row : row + 1], (size[0], size[1])).softmax(1)[0].cpu().numpy()
        border = head.spec.classes[-1] == BORDER
        front = ((1 - chances[0]) * 255).round().astype(np.uint8)
        inner = (chances[1] * 255).round().astype(np.uint8) if border else front
        seen = self._windows
        return separate(front, inner, seen.centres[row], min_px=seen.min_px, vouched=seen.vouched)


class Matches(NamedTuple):
    """Matches of the objects of a window, and the number of objects that could match: true ones and found ones."""

    hits: int
    objects: int


class Compared(NamedTuple):
    """A window by a head, beside the truth."""

    matches: Matches
    corrections: Corrections


def f1_of(windows: Sequence[Matches]) -> float:
    """F1 of all objects together; nan where there is none."""
    objects = sum(one.objects for one in windows)
    return 2 * sum(one.hits for one in windows) / objects if objects else float("nan")


def _numbered(labels: Numbers) -> Numbers:
    """The same objects, numbered 1, 2, ... without gaps."""
    numbers, which = np.unique(labels, return_inverse=True)
    return (which.reshape(labels.shape) + (0 if numbers[0] == 0 else 1)).astype(np.int32)
