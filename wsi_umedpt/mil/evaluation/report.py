"""The report of a study: one page that needs nothing else, and the numbers behind it as files.

The page (``report.html``) makes no request of any kind and is whole without its script, which only
sorts and filters a table; its own policy forbids both otherwise. What it shows stands in
``figures.json`` too, and every prediction in ``predictions.csv`` (the model's) and
``predictions_of_baselines.csv``. Names of slides, patients and classes are the user's data: they
are escaped wherever they appear, and pictures are decoded and written anew.

Read this file from `write_report`; the page itself is ``report.html.j2`` beside it.
"""

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError

from wsi_umedpt import __version__
from wsi_umedpt.errors import MilError
from wsi_umedpt.mil.data.targets import CLASS_KINDS
from wsi_umedpt.mil.evaluation import report_text
from wsi_umedpt.mil.evaluation.bootstrap import Interval
from wsi_umedpt.mil.evaluation.heldout import Study
from wsi_umedpt.mil.evaluation.metric_table import FIGURES, OF_CLASSES, OF_SETS
from wsi_umedpt.mil.evaluation.plots import draw_study
from wsi_umedpt.mil.evaluation.predictions import case_rows, error_words, predicted_words, write_predictions
from wsi_umedpt.mil.evaluation.summary import RESAMPLES, UNLIKE, StudyFigures, measure, plain
from wsi_umedpt.plotting.web_page import NOTHING, write_webpage
from wsi_umedpt.store.zarr_io import whole_file

_ROWS = 6000
"""Cases of all tables of a page; the CSV has the others."""
_WORST = 20
"""Cases that are shown before all are."""
_HEAT_PX, _TILE_PX = 1000, 320
"""Longest side of a picture in the page."""


@dataclass(frozen=True)
class ExampleTile:
    """A tile of an example, as a picture."""

    png: bytes
    caption: str
    kind: Literal["top", "bottom"]


@dataclass(frozen=True)
class Example:
    """A slide that shows what the model goes by."""

    case_id: str
    slide_id: str
    target: str
    """Name of the target that it is about."""
    truth: str
    predicted: str
    heat: bytes | None = None
    """PNG."""
    heat_caption: str = ""
    """Meaning of its colours."""
    tiles: tuple[ExampleTile, ...] = ()


def write_report(
    folder: Path,
    studies: Sequence[Study],
    *,
    provenance: Mapping[str, Any],
    examples: Sequence[Example] = (),
    chosen: Sequence[str] = (),
    title: str = "Slide classifier",
    resamples: int = RESAMPLES,
) -> list[StudyFigures]:
    """Measure studies and write their report.

    Parameters
    ----------
    folder
        Made if it is not there. Each file in it is there whole or not at all; the page comes last.
    studies
        A target each.
    provenance
        Origin of the predictions: settings, versions, hashes. ``command`` is shown as typed; mappings in it are
        shown as tables.
    examples
        Shown with the study whose target they name.
    chosen
        Other choices on inner folds for every target, in words: "when to stop training". Thresholds and
        sets are known to be.
    title
        Title of the page.
    resamples
        See `wsi_umedpt.mil.evaluation.summary.measure`.

    Returns
    -------
    list of StudyFigures
        Figures, a study each.

    Raises
    ------
    MilError
        If there is no study, two have one target's name, a study does not hold together, an example names
        no target or holds no picture.
    """
    names = [study.target.name for study in studies]
    if not studies or len({*names}) != len(names):
        raise MilError(f"a report is of one or more targets of different names, got {names}")
    strange = [one.target for one in examples if one.target not in names]
    if strange:
        raise MilError(f"examples are of targets {strange}, which the report has not; it has {names}")
    found = [measure(study, resamples=resamples) for study in studies]
    shown = [_example(one) for one in examples]
    rows = max(200, _ROWS // len(studies))
    sections = [
        _section(study, one, f"target{k}", [e for e in shown if e["of"].target == study.target.name], chosen, rows)
        for k, (study, one) in enumerate(zip(studies, found, strict=True), 1)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(folder / "predictions.csv", studies)
    if any(len(study.arms) > 1 for study in studies):
        write_predictions(folder / "predictions_of_baselines.csv", studies, baselines=True)
    content = {
        "made_by": f"wsi-umedpt {__version__}",
        "title": title,
        "figures": {name: {"label": meaning.label, "words": meaning.words} for name, meaning in FIGURES.items()},
        "targets": [one.to_dict() for one in found],
        "notes": {study.target.name: report_text.notes(study, one) for study, one in zip(studies, found, strict=True)},
        "provenance": plain(provenance),
    }
    figures = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    with whole_file(folder / "figures.json") as file:
        file.write(figures.encode("utf-8", errors="replace"))
    page = {
        "title": title,
        "sections": sections,
        "provenance": {name: value for name, value in plain(provenance).items() if name != "command"},
        "command": provenance.get("command"),
    }
    write_webpage(folder / "report.html", __package__, "report", page)
    return found


def _section(
    study: Study,
    found: StudyFigures,
    ident: str,
    examples: Sequence[Mapping[str, Any]],
    chosen: Sequence[str],
    most_rows: int,
) -> dict[str, Any]:
    """Data of one study for the template."""
    plots = {plot.name: plot for plot in draw_study(study, found, ident)}
    cases = case_rows(study)
    unlike = found.unlike
    return {
        "id": ident,
        "name": study.target.name,
        "kind": study.target.kind,
        "headline": report_text.headline(found),
        "glance": _glance(found),
        "notes": report_text.notes(study, found),
        "protocol": report_text.protocol(study, found, chosen),
        "arms": [arm.arm for arm in found.arms],
        "figures": _figure_rows(found),
        "arms_plot": plots.pop("arms", None),
        "plots": plots,
        "several_seeds": len(found.seeds) > 1,
        "class_columns": [FIGURES[name].label for name in _class_figures(found)],
        "classes": [
            {
                "name": c.name,
                "cases": c.cases,
                "patients": c.patients,
                "cells": [_cell(name, c.figures[name]) for name in _class_figures(found)],
            }
            for c in found.model.classes
        ],
        "sets": _set_rows(found),
        "promised": None if study.coverage is None else report_text.percent(study.coverage),
        "unlike": None if unlike is None else _percents(unlike),
        "unlike_level": f"{100 * UNLIKE:g} %",
        "sites": [
            {"name": s.site, "cases": s.cases, "patients": s.patients, "cell": _cell(found.headline, s.figure)}
            for s in found.sites
        ],
        "headline_label": FIGURES[found.headline].label,
        "cases": cases[:most_rows],
        "all_cases": len(cases),
        "worst": cases[:_WORST] if len(cases) > 2 * _WORST else [],
        "error_words": error_words(study),
        "predicted_words": predicted_words(study),
        "columns": {
            "site": any(study.sites),
            "decided": study.target.kind in (*CLASS_KINDS, "multilabel"),
            "set": study.arms[0].sets is not None,
            "unlike": study.arms[0].unlike is not None,
        },
        "unlike_below": UNLIKE,
        "examples": examples,
        "number": report_text.number,
        "error_text": _error_text,
    }


def _glance(found: StudyFigures) -> dict[str, str]:
    """One row of the table that begins a page of several targets."""
    own = found.model.figures[found.headline]
    against = {"guessing": report_text.against_chance(found)}
    against |= {arm.arm: report_text.verdict(found.difference(arm.arm, found.headline)) for arm in found.arms[1:]}
    words = {"better": "better", "worse": "worse", "unclear": "not shown to be better", "not compared": "not compared"}
    return {
        "patients": report_text.number(found.patients, 0),
        "figure": FIGURES[found.headline].label,
        "value": report_text.with_interval(own),
        "against": "; ".join(f"{arm}: {words[shown]}" for arm, shown in against.items()) or NOTHING,
    }


def _cell(name: str, figure: Interval) -> tuple[str, str]:
    """A figure and, to stand under it, its interval."""
    digits = report_text.digits_of(name, figure.value)
    return report_text.number(figure.value, digits), report_text.ends(figure, digits)


def _percents(figure: Interval) -> tuple[str, str]:
    ends = "" if figure.low is None else f"{report_text.percent(figure.low)} to {report_text.percent(figure.high)}"
    return report_text.percent(figure.value), ends


def _figure_rows(found: StudyFigures) -> list[dict[str, Any]]:
    rows = []
    for name, figure in found.model.figures.items():
        if name in OF_SETS:
            continue
        meaning, digits = FIGURES[name], report_text.digits_of(name, figure.value)
        seeds = [v for v in figure.by_seed if v is not None]
        span = f"{report_text.number(min(seeds), digits)} to {report_text.number(max(seeds), digits)}" if seeds else ""
        others = []
        for arm in found.arms[1:]:
            theirs, apart = arm.figures.get(name), found.difference(arm.arm, name)
            compared = apart is not None and apart.low is not None
            others.append(
                {
                    "value": (NOTHING, "") if theirs is None else _cell(name, theirs),
                    "apart": report_text.difference(apart, digits) if compared and apart else ("", ""),
                    "p": report_text.p_value(apart.p, 2 / (found.resamples + 1)) if compared and apart else "",
                    "verdict": report_text.verdict(apart),
                }
            )
        rows.append(
            {
                "label": meaning.label,
                "words": meaning.words
                + _over(name, found)
                + ("; lower is better" if meaning.better == "lower" else ""),
                "value": _cell(name, figure),
                "seeds": span if len(found.seeds) > 1 else "",
                "others": others,
                "headline": name == found.headline,
            }
        )
    return rows


def _error_text(error: float) -> str:
    return f"{error:.3g}" if math.isfinite(error) else NOTHING


def _over(name: str, found: StudyFigures) -> str:
    if found.target.kind == "multilabel":
        return "" if name == "macro_f1" else "; mean over the labels"
    several = found.target.kind in ("multiclass", "ordinal") and name in OF_CLASSES
    return "; mean over the classes" if several else ""


def _class_figures(found: StudyFigures) -> list[str]:
    """Figures of the table of classes; those that say the same for a class as others are left out."""
    if not found.model.classes:
        return []
    wanted = ("sensitivity", "specificity", "precision", "f1", "roc_auc", "average_precision", "coverage")
    return [name for name in wanted if name in found.model.classes[0].figures]


def _set_rows(found: StudyFigures) -> list[dict[str, Any]]:
    rows = []
    for name in OF_SETS:
        figure = found.model.figures.get(name)
        if figure is not None:
            value = _cell(name, figure) if FIGURES[name].unit else _percents(figure)
            rows.append({"label": FIGURES[name].label, "words": FIGURES[name].words, "value": value})
    return rows


def _example(one: Example) -> dict[str, Any]:
    where = f"the example of slide {one.slide_id!r}"
    return {
        "of": one,
        "heat": None if one.heat is None else _picture(one.heat, _HEAT_PX, where),
        "tiles": {
            kind: [
                {"src": _picture(tile.png, _TILE_PX, where), "caption": tile.caption}
                for tile in one.tiles
                if tile.kind == kind
            ]
            for kind in ("top", "bottom")
        },
    }


def _picture(png: bytes, most_px: int, where: str) -> str:
    """A picture as an address that holds it: decoded, made small enough, and written anew without what else it held."""
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            pixels = image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MilError(f"{where} holds a picture that is no PNG, or is damaged: {error}") from None
    pixels.thumbnail((most_px, most_px), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    pixels.save(out, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
