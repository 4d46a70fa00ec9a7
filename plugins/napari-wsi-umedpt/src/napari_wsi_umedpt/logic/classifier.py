"""A slide classifier on the slide that is looked at: which features it takes, what it says, which tiles it rests on.

No Qt, no viewer; torch is imported by whoever opens a model.

Read top to bottom: `open_classifier` (a model and a store in), `SlideClassifier` (judges any part of the
slide), `matching_source` (the right features, or an error with the command that makes them).
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from wsi_umedpt.errors import MilError
from wsi_umedpt.interop import StoreSource
from wsi_umedpt.store import FeatureKind, SlideStore

from napari_wsi_umedpt.layers.build import Place
from napari_wsi_umedpt.layers.thin_lines import TileLines
from napari_wsi_umedpt.logic.torch_import import importing_networks
from napari_wsi_umedpt.opening.load import place_of

if TYPE_CHECKING:
    from wsi_umedpt.mil import Judgement, LiveSlide, SlideModel

ATTENTION = "attention"
_FORCED_MPP = 0.05
"""Share by which a tile's um/px may differ from the card's before `embed` wants --force."""

Values = npt.NDArray[np.float32]
Chosen = npt.NDArray[np.bool_]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class SlideClassifier:
    """A model, and one slide's tiles embedded by each of its networks."""

    name: str
    """Name of the model: its folder's and its file's."""
    model: "SlideModel"
    live: "LiveSlide"
    store: Path
    place: Place
    tiles: TileLines
    """Tiles of the grid; also those that could not be read."""
    index: npt.NDArray[np.int64]
    """(tile,) rows of the grid that are judged."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of each tile: attention, and a contribution to each output."""
        return (ATTENTION, *self.model.outputs)

    @property
    def xy(self) -> npt.NDArray[np.int32]:
        """(tile, 2) of the tiles that are judged, level-0 px."""
        return self.tiles.grid.xy[self.index]

    def judge(self, chosen: Chosen | None = None) -> "Judgement":
        """Predict from some of the tiles; see `wsi_umedpt.mil.inference.interactive.LiveSlide.judge`."""
        return self.live.judge(chosen)

    def values(self, judgement: "Judgement", chosen: Chosen | None, column: str) -> Values:
        """A column of what was judged, (tile of the grid,); nan where a tile was not judged."""
        out = np.full(len(self.tiles.grid), np.nan, np.float32)
        rows = self.index if chosen is None else self.index[chosen]
        k = self.columns.index(column) - 1
        out[rows] = judgement.shares.attention if k < 0 else judgement.shares.contribution[:, k]
        return out

    def speaks_for(self, column: str) -> str:
        """Answer that a positive contribution speaks for, in words."""
        return column.partition(":")[2].replace("_", " ")


def open_classifier(model_path: Path, store_path: Path, progress: Progress | None = None) -> SlideClassifier:
    """Load a model and embed a store's tiles with its networks. Takes seconds for many tiles.

    Raises
    ------
    MilError
        If the file is no model, or the store lacks the features that it takes.
    """
    with importing_networks():
        from wsi_umedpt.mil import LiveSlide, SlideModel

    model = SlideModel.load(model_path)
    store = SlideStore.open(store_path)
    source = matching_source(model.kind, store)
    bag = source.load()
    if not np.isfinite(bag.features).all():
        raise MilError(f"{store.path} has features that are not finite; embed the slide again")
    grid, status = store.grid(source.grid_id), store.status(source.grid_id)
    return SlideClassifier(
        name=f"{model_path.parent.name}/{model_path.stem}",
        model=model,
        live=LiveSlide(model, np.array(bag.features), progress),
        store=store_path,
        place=place_of(store),
        tiles=TileLines(grid, status != 0),
        index=bag.index,
    )


def matching_source(kind: FeatureKind, store: SlideStore) -> StoreSource:
    """The features of a store that are of a kind.

    Raises
    ------
    MilError
        If there are none: says what the nearest differ in, and the command that makes the right ones.
    """
    sources = [
        StoreSource.open(store.path, encoder_id, grid_id)
        for grid_id in store.grid_ids
        for encoder_id in store.encoder_ids(grid_id)
    ]
    differences = [kind.differences(source.kind) for source in sources]
    for source, different in zip(sources, differences, strict=True):
        if not different:
            return source
    remedy = f"It takes those of {kind.format or 'another tool'}, which a store does not hold."
    if command := embed_command(kind, store):
        remedy = f"Make the right ones beside them: {command}"
        if " --" not in command:  # what the dock does
            remedy = f"In the dock Analyse choose {kind.encoder} and prepare for Classify, or run: {command}"
    if not sources:
        raise MilError(f"{store.path.name} holds no features, and this model needs some. {remedy}")
    nearest = min(differences, key=len)
    raise MilError(f"{store.path.name} has features that this model was not trained on: {'; '.join(nearest)}. {remedy}")


def embed_command(kind: FeatureKind, store: SlideStore) -> str:
    """The command that embeds a store's slide into features of a kind; empty where that cannot be said."""
    from wsi_umedpt.models import all_cards, release_card, shipped

    if not (kind.encoder and kind.mpp and kind.size_px):
        return ""
    ships = shipped()
    known = all_cards()
    # Features of weights that a card does not pin carry a part of their sha256 in their name.
    card = known.get(kind.encoder) or known.get(kind.encoder.rpartition(".")[0])
    if card is None and kind.encoder in ships:
        card = release_card(ships[kind.encoder])
    words = ["wsi-umedpt", "embed", "SLIDE", "-o", str(store.path.parent), "-m"]
    if card is not None:
        words.append(card.name)
        usual = card.size_px == kind.size_px and card.mpp is not None and card.mpp == kind.mpp
        fits = card.size_px == kind.size_px and (card.mpp is None or abs(kind.mpp / card.mpp - 1) <= _FORCED_MPP)
    else:
        of_timm = kind.encoder.startswith("timm_")
        words.append(_timm_name(kind.encoder) if of_timm else "umedpt:FILE.json")
        usual = fits = False
    if not usual:
        words += ["--size", str(kind.size_px), "--tile-mpp", f"{kind.mpp:g}", *([] if fits else ["--force"])]
    if kind.precision not in ("", "fp32"):
        words += ["--precision", kind.precision]
    return shlex.join(words)


def _timm_name(encoder: str) -> str:
    """Name as `embed` takes it: ``timm_NAME.random``, or ``timm_NAME.DIGEST`` of the hub or of a file."""
    name, _, tag = encoder.removeprefix("timm_").rpartition(".")
    return f"timm:{name}@random" if tag == "random" else f"timm:{name}"


def extremes(values: Values, count: int) -> tuple[list[int], list[int]]:
    """Rows of the highest values, highest first, and of the lowest, lowest first; none is in both."""
    known = np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(-values[known], kind="stable")]
    half = min(count, len(order) // 2)
    top = order[: max(half, min(count, len(order) - half))]
    bottom = order[::-1][:half]
    return top.tolist(), bottom.tolist()
