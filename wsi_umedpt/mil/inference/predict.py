"""A slide classifier on slides: a prediction a case, and per-tile scores into their stores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.data.feature_loader import features_of
from wsi_umedpt.mil.inference.forecast import Forecast
from wsi_umedpt.mil.inference.slide_model import UNLIKE, SlideModel
from wsi_umedpt.store.features import Bag, BagSource
from wsi_umedpt.store.scores_io import write_scores
from wsi_umedpt.store.slide_store import SlideStore

Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Prediction:
    """Prediction of one case."""

    case_id: str
    slides: tuple[str, ...]
    tiles: int
    forecasts: list[Forecast]
    """A target each."""
    unlike: float
    """p-value of being like the training slides."""

    def row(self) -> dict[str, Any]:
        """Columns of a table: those of a study's ``predictions.csv``, with the target's name before them."""
        found: dict[str, Any] = {"case_id": self.case_id, "slides": "+".join(self.slides), "tiles": self.tiles}
        for forecast in self.forecasts:
            name = forecast.target.name
            if forecast.answer:
                found[f"{name}_decided"] = forecast.answer
            for column, value, spread in zip(
                forecast.target.predicted, forecast.predicted.tolist(), forecast.spread.tolist(), strict=True
            ):
                found[f"{name}_predicted_{column}"] = value
                found[f"{name}_predicted_{column}_spread"] = spread
            if forecast.conformal is not None:
                there = [c for c, s in zip(forecast.target.classes, forecast.conformal, strict=True) if s]
                found[f"{name}_conformal_set"] = "|".join(there)
            if forecast.interval is not None:
                low, high = forecast.interval.tolist()
                found |= {f"{name}_conformal_low": low, f"{name}_conformal_high": high}
        found["out_of_distribution"] = "yes" if self.unlike < UNLIKE else "no"
        found["ood_p_value"] = self.unlike
        return found


def cases_of(sources: Mapping[str, BagSource], patients: Mapping[str, str] | None) -> dict[str, tuple[str, ...]]:
    """Slides of each case: each slide one, or each patient's.

    Raises
    ------
    MilError
        If patients are given, and not of all slides.
    """
    if patients is None:
        return {slide: (slide,) for slide in sources}
    if lacking := [slide for slide in sources if slide not in patients]:
        raise MilError(f"whose slides these are is not said: {', '.join(lacking[:5])}; name them in `patients`")
    cases: dict[str, tuple[str, ...]] = {}
    for slide in sources:
        cases[patients[slide]] = (*cases.get(patients[slide], ()), slide)
    return cases


def bag_of(model: SlideModel, source: BagSource) -> Bag:
    """Read a slide's features for a model.

    Raises
    ------
    MilError
        If they are of another kind than the model takes, there are no tiles, or numbers that are not finite.
    """
    model.check(source.kind, source.slide_id)
    bag = source.load()
    return replace(bag, features=features_of(bag))


def predict(model: SlideModel, bags: Sequence[Bag], case_id: str) -> Prediction:
    """Predict one case of so many slides; see `bag_of`."""
    features = [bag.features for bag in bags]
    if model.about["trained_on"]["unit"] == "union":
        features = [np.concatenate(features)]
    slides = tuple(bag.slide_id for bag in bags)
    return Prediction(case_id, slides, sum(map(len, bags)), model.forecast(features), model.unlike(features))


def tile_scores(model: SlideModel, bag: Bag, *, leave_out: bool = False) -> dict[str, Scores]:
    """Attribute a prediction to the readable tiles of a slide: ``attention`` and ``contribution_OUTPUT``.

    Parameters
    ----------
    model
        Model of the features' kind.
    bag
        One slide; see `bag_of`.
    leave_out
        Also how much each output falls without the tile; a pass for each tile with a transformer.
    """
    shares = model.explain(bag.features)
    found = {"attention": shares.attention}
    for k, name in enumerate(model.outputs):
        found[f"contribution_{name}"] = shares.contribution[:, k]
    if leave_out:
        falls = model.without_each(bag.features)
        for k, name in enumerate(model.outputs):
            found[f"without_{name}"] = falls[:, k]
    return found


def store_scores(model: SlideModel, name: str, store: SlideStore, columns: dict[str, Scores], bag: Bag) -> None:
    """Put what each tile did into its store, as scores called `name`; see `wsi_umedpt.store.scores_io`."""
    rows = np.full((len(store.grid(bag.grid_id)), len(columns)), np.nan, np.float32)
    rows[bag.index] = np.stack([*columns.values()], axis=1)
    # Who it was trained on stays out: they are other people's patients.
    kept = ("settings", "seeds", "version", "study_sha256", "name")
    about = {k: v for k, v in model.about.items() if k in kept}
    write_scores(
        store,
        name,
        rows,
        {
            "columns": [*columns],
            "model": {**about, "kind": "slide classifier", "features": model.kind.to_dict()},
            "contributions": "exact" if model.exact else "first order",
        },
        bag.grid_id,
    )


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Rows of a CSV, the header first; numbers to six digits."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    yield names
    for row in rows:
        yield [f"{v:.6g}" if isinstance(v := row.get(name, ""), float) else str(v) for name in names]
