"""Learning from a few labels: tiles of a slide, or its cells. No Qt, no viewer.

A linear layer on features that a store holds (`wsi_umedpt.mil.linear_probe`). Read top to bottom: `Teachable` (tiles
or cells, with their features), `Taught` (what was learned, and its words), `least_sure`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from wsi_umedpt.annotations import Point
from wsi_umedpt.errors import ProbeError, StoreError
from wsi_umedpt.messages import counted
from wsi_umedpt.store import SlideStore

from napari_wsi_umedpt.layers.build import Colour, Place
from napari_wsi_umedpt.logic.tile_labels import Labels
from napari_wsi_umedpt.logic.tile_pictures import Squares

if TYPE_CHECKING:
    from wsi_umedpt.mil import Probe

_APART = 3.0
"""Distance between those to be labelled next, in squares: neighbours say the same."""
_LOOKED_AT = 4096
"""Number of the least sure from which those to be labelled next are chosen."""
_ROUGH = 40
"""Number of tested tiles or cells below which figures are called rough."""
Chances = npt.NDArray[np.float32]


class NothingToTeach(StoreError):
    """The results hold nothing yet that could be learned from; no fault of theirs."""


class Teachable(Protocol):
    """Tiles or cells of one slide, whose features are in its store."""

    @property
    def what(self) -> str:
        """They are called: tiles, or cells."""

    @property
    def store(self) -> SlideStore:
        """Store of the slide."""

    @property
    def place(self) -> Place:
        """Place of the slide."""

    @property
    def squares(self) -> Squares:
        """Squares that are seen in pictures."""

    def points_of(self, labels: Labels) -> list[Point]:
        """A point for each, which means that very one; sorted by row."""

    def at(self, points: Sequence[Point]) -> tuple[dict[int, str], list[Point]]:
        """Find the ones that points mean, and the points that mean none."""

    def read_labels(self, path: Path) -> dict[int, str]:
        """Read labels of this slide from a file.

        Raises
        ------
        AnnotationError, ProbeError
            If the file cannot be read, or labels nothing of this slide.
        """

    def write_regions(self, path: Path, labels: Labels, colours: Mapping[str, Colour]) -> None:
        """Write what is labelled as regions for QuPath."""

    def keep_scores(self, taught: "Taught") -> None:
        """Write the probabilities of all into the store, as `wsi-umedpt probe predict` does."""


@dataclass(frozen=True, eq=False)
class Taught:
    """Classifier that was learned from some labels."""

    probe: "Probe"
    chances: Chances
    """(row, class); nan where a tile cannot be read."""
    next: list[int]
    """Rows of those that it is least sure of."""
    what: str = "tiles"
    """Name of what is classified: tiles, or cells."""
    overlapping: bool = False
    """True if tiles overlap."""

    @property
    def figures(self) -> dict[str, Any]:
        """Figures of the cross-validation; see `wsi_umedpt.mil.linear_probe.fit_probe`."""
        found: dict[str, Any] = self.probe.about["cross_validation"]
        return found

    @property
    def words(self) -> str:
        """Quality of the fit, and its limits."""
        counts, slides = self.probe.about["labelled"], self.probe.about["slides"]
        learned = "Learned from " + ", ".join(f"{count} {name}" for name, count in counts.items())
        learned += f" of {len(slides)} slides." if len(slides) > 1 else "."
        figures = self.figures
        if "auc" not in figures:
            apart = "several tiles apart" if self.what == "tiles" else "a quarter of a millimetre apart"
            return f"{learned} Too few places to say how good it is: label every class in two places at least, {apart}."
        tested = figures.get(self.what, figures.get("objects", 0))
        one = self.what.removesuffix("s")
        few = f" Only {counted(tested, f'{one} was', f'{one}s were')} tested: this is rough." if tested < _ROUGH else ""
        where = "slides" if figures["groups"] == "slide" else "places of this slide"
        where = "places of these slides" if len(slides) > 1 and where != "slides" else where
        return (
            f"{learned} Tested on {where} that it had not learned from: "
            f"{figures['balanced_accuracy']:.0%} right, each class counting alike (AUC {figures['auc']:.2f}).{few} "
            "Other slides will be harder."
            + (" Tiles overlap, so that the test is too easy." if self.overlapping else "")
        )


def save_probe(taught: Taught, path: Path) -> None:
    """Save a probe for ``wsi-umedpt probe predict``; its scores are called as the file is.

    Raises
    ------
    ProbeError
        If the name does not end in .json.
    """
    if path.suffix != ".json":
        raise ProbeError(f"a probe is saved as .json; {path.name} does not end so")
    probe = taught.probe
    replace(probe, about={**probe.about, "name": path.stem}).save(path)


def least_sure(chances: Chances, labels: Labels, squares: Squares, count: int) -> list[int]:
    """Rows whose two likeliest classes are nearest to each other, not labelled yet, and not neighbours.

    Margin sampling (Scheffer et al. 2001), spread over the slide: of near ones only the least sure is taken.
    """
    top = np.partition(chances, -2, axis=1)[:, -2:]
    margin = top[:, 1] - top[:, 0]  # nan where there is no probability
    margin[list(labels)] = np.nan
    known = np.flatnonzero(np.isfinite(margin))
    if len(known) > _LOOKED_AT:
        known = np.sort(known[np.argpartition(margin[known], _LOOKED_AT)[:_LOOKED_AT]])
    found: list[int] = []
    places = squares.xy[known].astype(np.float64)
    taken: list[npt.NDArray[np.float64]] = []
    for n in np.argsort(margin[known], kind="stable").tolist():
        near = taken and (np.abs(np.array(taken) - places[n]).max(axis=1) < _APART * squares.side).any()
        if not near:
            taken.append(places[n])
            found.append(int(known[n]))
            if len(found) == count:
                break
    return found
