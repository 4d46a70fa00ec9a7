"""Scale and place of the levels of an OME-Zarr image, and whether they agree with their shapes.

Pure arithmetic on the metadata (OME-NGFF 0.4 and 0.5, "multiscales"): a dataset's
transformations are applied first, then those of the whole image.
"""

import math
from typing import Any, NamedTuple

from wsi_umedpt.geometry import Mpp, is_level
from wsi_umedpt.slides.readers.base import Refused

_UM = {"angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}


class _Axis(NamedTuple):
    """Position of the pixels of a level along one axis, in its unit."""

    scale: float
    translation: float


def check_levels(multiscale: dict[str, Any], sizes: list[tuple[int, int]]) -> Mpp | None:
    """Check that all levels show the same field; um/px of the first, None if no unit is stated.

    Parameters
    ----------
    multiscale
        One entry of "multiscales".
    sizes : (width, height) of each dataset, px

    Raises
    ------
    Refused
        If a level is wider for its height than the first by over 1 %, its scale contradicts its size, it is
        shifted, or a transformation is of a kind that is not known.
    """
    names = [axis["name"] for axis in multiscale["axes"]]
    whole = multiscale.get("coordinateTransformations")
    levels = [_axes(names, dataset.get("coordinateTransformations"), whole) for dataset in multiscale["datasets"]]
    for number, (size, level) in enumerate(zip(sizes, levels, strict=True)):
        if not is_level(sizes[0], size):
            raise Refused(
                f"its dataset {number} of {size[0]} x {size[1]} px is not the same picture as the first, of "
                f"{sizes[0][0]} x {sizes[0][1]} px, at a coarser scale"
            )
        for name, full, part in zip("xy", sizes[0], size, strict=True):
            first, own = levels[0][name], level[name]
            ratio = own.scale / first.scale
            near = full / (part + 1) <= ratio <= full / max(part - 1, 0.5)
            if not near and abs(ratio * part / full - 1) > 0.01:
                raise Refused(
                    f"its dataset {number} states {ratio:.4g} times the scale of the first along {name}, and is "
                    f"{full / part:.4g} times smaller"
                )
            # By centres of pixels, a level made by averaging begins half of the difference later: the same corner.
            shift = own.translation - first.translation
            if min(abs(shift), abs(shift - (own.scale - first.scale) / 2)) > 0.5001 * first.scale:
                raise Refused(
                    f"its dataset {number} is shifted along {name} by {shift / first.scale:.4g} px of the first"
                )
    units = {axis["name"]: _UM.get(str(axis.get("unit"))) for axis in multiscale["axes"]}
    stated = all(dataset.get("coordinateTransformations") for dataset in multiscale["datasets"][:1]) or whole
    if not stated or units["x"] is None or units["y"] is None:
        return None
    return Mpp(levels[0]["x"].scale * units["x"], levels[0]["y"].scale * units["y"], "ome")


def _axes(names: list[str], *listed: Any) -> dict[str, _Axis]:
    scale, translation = [1.0] * len(names), [0.0] * len(names)
    for transform in (one for some in listed for one in some or []):
        kind = transform.get("type")
        if kind == "identity":
            continue
        values = [float(value) for value in transform.get(kind) or []] if kind in ("scale", "translation") else []
        if len(values) != len(names) or not all(map(math.isfinite, values)):
            raise Refused(f"its transformation {str(transform)[:100]} is of a kind that is not known, or incomplete")
        if kind == "translation":
            translation = [t + v for t, v in zip(translation, values, strict=True)]
        elif min(values) <= 0:
            raise Refused(f"its scale {values} is not positive")
        else:
            scale = [s * v for s, v in zip(scale, values, strict=True)]
            translation = [t * v for t, v in zip(translation, values, strict=True)]
    return {name: _Axis(s, t) for name, s, t in zip(names, scale, translation, strict=True)}
