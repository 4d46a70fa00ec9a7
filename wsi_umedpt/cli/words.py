"""Messages of the library as the command line says them: a setting between backticks is written as its flag."""

import re
from dataclasses import fields

from wsi_umedpt.cli.options import SpreadOptions, flag_of
from wsi_umedpt.mil.map_settings import MapSettings
from wsi_umedpt.settings import ComputeOptions, RunSettings, TileOptions, TissueParameters

_SHORT = {"out": "-o", "encoder_id": "-m"}
_OTHERS = (
    "model", "text_encoder", "allow_pt", "attempts", "backbone", "bounds", "channels", "coverage",
    "dask", "dropout", "features", "feature_dropout", "folds",
    "grid_id", "hidden", "attention", "inner_folds", "lr",
    "mask", "memory_gb", "most_gb", "mpp", "no_bounds",
    "patients", "retry_failed", "seeds", "skip_missing", "slide_s",
    "slides_are_patients", "squeezer", "stage", "stage_gb", "start_from",
    "top_k", "try", "unit", "stage_gb", "tile_mpp",
    "weight_decay", "work", "epochs", "draws", "trust_remote_code",
)  # fmt: skip
_SETTINGS = {
    *_OTHERS,
    *_SHORT,
    *(
        field.name
        for of in (TileOptions, TissueParameters, RunSettings, ComputeOptions, SpreadOptions, MapSettings)
        for field in fields(of)
    ),
}
_NAMED = re.compile("`(" + "|".join(sorted(_SETTINGS, key=len, reverse=True)) + ")`")


def with_flags_named(text: str) -> str:
    """Write settings that a text names between backticks as flags; other backticks stay.

    Examples
    --------
    >>> with_flags_named("allow more with `max_unreadable`, or set `encoder_id`; see `docs`")
    'allow more with --max-unreadable, or set -m; see `docs`'
    """
    return _NAMED.sub(lambda found: _SHORT.get(found[1]) or f"--{flag_of(found[1])}", text)
