"""A run as its report: figures, predictions, and slides that show what the model goes by.

Each slide that is shown is explained by the model of the fold that held it out, never by one that has seen it.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from wsi_umedpt import __version__
from wsi_umedpt.errors import WsiError
from wsi_umedpt.geometry import Box
from wsi_umedpt.heatmaps.raster import Heatmap
from wsi_umedpt.interop.feature_sources import StoreSource
from wsi_umedpt.mil.data.cohort import Cohort
from wsi_umedpt.mil.data.targets import CLASS_KINDS
from wsi_umedpt.mil.evaluation.heldout import Study
from wsi_umedpt.mil.evaluation.report import Example, ExampleTile, write_report
from wsi_umedpt.mil.evaluation.report_text import headline
from wsi_umedpt.mil.evaluation.summary import StudyFigures
from wsi_umedpt.mil.evaluation.tested import remember
from wsi_umedpt.mil.inference.predict import bag_of, tile_scores
from wsi_umedpt.mil.inference.slide_model import SlideModel
from wsi_umedpt.mil.run import StudyRun
from wsi_umedpt.plotting.heatmap import draw_heatmap
from wsi_umedpt.slides.slide import Slide, open_slide
from wsi_umedpt.store.features import BagSource
from wsi_umedpt.store.slide_store import SlideStore

_TILES = 6
"""Top tiles, and as many bottom ones, of a slide that is shown."""
_MOST_EXAMPLES = 6

Ints = npt.NDArray[np.int64]


def report_run(
    run: StudyRun,
    cohort: Cohort,
    sources: Mapping[str, BagSource],
    files: Mapping[str, Path],
    *,
    command: str = "",
) -> tuple[list[StudyFigures], list[str]]:
    """Write the report of a run into its folder, and let its model carry the headline figures.

    Parameters
    ----------
    run, cohort
        Study, and its cohort.
    sources
        Features by slide.
    files
        The slides' own files, by slide, as far as they are there: the report shows tiles of those.
    command
        As it was typed.

    Returns
    -------
    figures
        A target each.
    notes
        Slides that should be shown and cannot be, and why.
    """
    notes: list[str] = []
    examples = [example for study in run.studies for example in _examples(study, run, cohort, sources, files, notes)]
    options = run.about["options"]
    chosen = ["when to stop training", "the temperature of probabilities"] + (
        [f"one of {len(options)} settings"] if len(options) > 1 else []
    )
    provenance: dict[str, Any] = {
        "command": command,
        "wsi-umedpt": __version__,
        "features": run.about["features"],
        "settings": options[0] if len(options) == 1 else {str(n + 1): str(o) for n, o in enumerate(options)},
        "evaluation": run.about["study"],
        "one prediction is of": run.about["unit"],
        "cases, labels and features (sha256)": run.about["cohort_sha256"],
        "the model to use": {
            "networks": len(run.model.networks), "settings": str(run.model.about["settings"]),
            "tensors (sha256)": run.model.about.get("tensors_sha256", ""),
        },
    }  # fmt: skip
    if run.about["notes"]:
        provenance["of the table of labels"] = {str(n): note for n, note in enumerate(run.about["notes"], 1)}
    found = write_report(
        run.folder,
        run.studies,
        provenance=provenance,
        examples=examples,
        chosen=chosen,
        title=", ".join(study.target.name for study in run.studies),
    )
    remember(run.model, found)
    run.model.save(run.folder / "model.json")
    return found, notes


def _examples(
    study: Study,
    run: StudyRun,
    cohort: Cohort,
    sources: Mapping[str, BagSource],
    files: Mapping[str, Path],
    notes: list[str],
) -> Iterator[Example]:
    for row in _telling(study):
        slide = cohort.cases[row].slides[0]
        path = run.folder / "folds" / f"seed{study.seeds[0]}_fold{study.fold[0, row]}.json"
        try:
            yield _example(study, row, slide, SlideModel.load(path), sources[slide], files.get(slide))
        except (WsiError, OSError) as error:
            notes.append(f"{slide} cannot be shown: {error}")


def _telling(study: Study) -> list[int]:
    """Rows of cases that tell most: of each class the surest and the most wrong; else the most extreme."""
    predicted, truth = study.arms[0].predicted[0], study.truth[:, 0]
    known = np.flatnonzero(~np.isnan(study.truth).all(1))
    rows: list[int] = []
    if study.target.kind in CLASS_KINDS:
        each = max(1, _MOST_EXAMPLES // (2 * len(study.target.classes)))
        for k in range(len(study.target.classes)):
            of_class = known[truth[known] == k]
            order = of_class[np.argsort(-predicted[of_class, k], kind="stable")]
            rows += [*order[:each].tolist(), *order[::-1][:each].tolist()]
    else:
        order = known[np.argsort(predicted[known].mean(1), kind="stable")]
        rows = [*order[: _MOST_EXAMPLES // 2].tolist(), *order[::-1][: _MOST_EXAMPLES // 2].tolist()]
    return list(dict.fromkeys(rows))[:_MOST_EXAMPLES]


def _example(study: Study, row: int, slide_id: str, model: SlideModel, source: BagSource, file: Path | None) -> Example:
    target = study.target
    bag = bag_of(model, source)
    columns = tile_scores(model, bag)
    outputs = [name for name in model.outputs if name.startswith(f"{target.name}:")]
    likely = int(study.arms[0].predicted[0, row].argmax())
    # One output of a binary target speaks for the second class, and by its negative for the first.
    output = outputs[likely] if target.kind in ("multiclass", "multilabel") else outputs[-1]
    shares = columns[f"contribution_{output}"]
    heat, caption = None, ""
    tiles: tuple[ExampleTile, ...] = ()
    if isinstance(source, StoreSource):
        store = SlideStore.open(source.path)
        picture = draw_heatmap(
            Heatmap.from_tiles(bag.xy, source.side, shares), scaling="signed", tissue=store.tissue(), side=700
        )
        heat = _png(picture)
        kind = "contribution" if model.exact else "contribution (first order)"
        caption = f"{kind} of each tile to {output}, seed {study.seeds[0]}: red for, blue against"
        if file is not None:
            tiles = _tiles(store, source, file, bag.xy, shares)
    return Example(
        case_id=study.case_ids[row],
        slide_id=slide_id,
        target=target.name,
        truth=_said(study, study.truth[row]),
        predicted=", ".join(
            f"{name} {value:.2f}" for name, value in zip(target.predicted, study.arms[0].predicted[0, row], strict=True)
        ),
        heat=heat,
        heat_caption=caption,
        tiles=tiles,
    )


def _said(study: Study, truth: npt.NDArray[np.float64]) -> str:
    target = study.target
    if target.kind in CLASS_KINDS:
        return target.classes[int(truth[0])]
    if target.kind == "multilabel":
        return "+".join(name for name, value in zip(target.classes, truth, strict=True) if value == 1) or "none"
    if target.kind == "regression":
        return f"{truth[0]:.4g}"
    return f"{'event' if truth[1] else 'no event'} by {truth[0]:.4g}"


def _tiles(
    store: SlideStore, source: StoreSource, file: Path, xy: npt.NDArray[np.int32], shares: npt.NDArray[np.float32]
) -> tuple[ExampleTile, ...]:
    order = np.argsort(-shares, kind="stable")
    count = min(_TILES, len(order) // 2)
    of = store.attrs["slide"]
    found = []
    with ExitStack() as closing:
        slide: Slide = closing.enter_context(open_slide(file, mpp=store.stated_mpp, channels=store.channels))
        if slide.fingerprint != of["fingerprint"]:
            raise WsiError(f"{file} is another slide than the store was made of")
        side = round(source.side)
        for kind, rows in (("top", order[:count]), ("bottom", order[::-1][:count])):
            for row in rows.tolist():
                x, y = xy[row].tolist()
                pixels = slide.read(Box(x, y, side, side), source.kind.mpp, upsample=True)
                picture = Image.fromarray(pixels).resize((112, 112), Image.Resampling.LANCZOS)
                found.append(ExampleTile(_png(picture), f"{shares[row]:+.3g} at {x}, {y}", kind))  # type: ignore[arg-type]
    return tuple(found)


def _png(picture: Image.Image) -> bytes:
    held = io.BytesIO()
    picture.convert("RGB").save(held, "PNG", optimize=True)
    return held.getvalue()


def headlines(found: Sequence[StudyFigures]) -> list[str]:
    """Say the results in sentences."""
    return [line for one in found for line in headline(one)]


def plain_command(words: Sequence[Any]) -> str:
    """A command line without the folders that it was typed in, which may name people."""
    return " ".join(Path(str(word)).name if "/" in str(word) else str(word) for word in words)
