"""`wsi-umedpt correct`: corrected objects teach a head, which becomes one of your own."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wsi_umedpt.cli.options import Bounds, origin_of
from wsi_umedpt.cli.terminal import say


def correct(
    slide: Path,
    /,
    *,
    corrections: Annotated[Path, Parameter(alias="-c")],
    out: Annotated[Path, Parameter(alias="-o")],
    head: str,
    model: Annotated[str, Parameter(alias="-m")] = "",
    field: str = "Corrected",
    bounds: Bounds = None,
) -> int:
    """Teach a head by corrected outlines, and save it as one of your own.

    Draw a region of the class Corrected in QuPath or napari, put right every nucleus in it (add, remove, reshape), and
    export both; the dock Draw of napari does all of it. The head's last layer learns in seconds; F1 of objects before,
    and after on parts of the regions that were left out, is printed and kept in the file. The new head is called as
    the file is.

    Examples
    --------
        wsi-umedpt correct slide.svs -c slide.geojson --head nuclei -o mine.json

        wsi-umedpt segment slide.svs -o out/ -m umedpt:mine.json --heads mine

    Parameters
    ----------
    slide
        Slide that was corrected.
    corrections
        File of annotations (GeoJSON, XML): regions, and the outlines in them.
    out
        JSON file to write: the model with one more head; its weights are written beside it.
    head
        Head that is taught.
    model
        Model that has it; by default the one that ships.
    field
        Class of the regions in which every object is right.
    bounds
        Count annotations from the corner of the slide's bounds; see `probe fit`.
    """
    from wsi_umedpt.annotations.reading import read_annotation_file
    from wsi_umedpt.models.bundle import load_release, release_card
    from wsi_umedpt.models.cards import DEFAULT_ENCODER
    from wsi_umedpt.models.weights import release_path
    from wsi_umedpt.pipeline.correct import correct_head, fields_of, save_head
    from wsi_umedpt.slides.slide import open_slide
    from wsi_umedpt.slides.tissue import find_tissue

    path = release_path(model or DEFAULT_ENCODER)
    with open_slide(slide) as opened:
        drawn = read_annotation_file(corrections, opened.corner, origin_of(bounds)).annotations
        fields = fields_of([(one.name, one.geometry) for one in drawn if one.shape == "area"], field)
        mpp = release_card(path).mpp
        lesson = correct_head(opened, find_tissue(opened), fields, load_release(path), head, mpp=mpp)
    save_head(out, path, lesson.head, head, lesson)
    say(f"{lesson.objects} objects in {lesson.windows} windows, {lesson.seconds:.1f} s")
    say(lesson.words)
    say(f"{out}: use it with -m umedpt:{out} --heads {out.stem}")
    return 0
