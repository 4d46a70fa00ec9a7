"""Reader for napari, asked when a path is dropped on it or opened: is it ours, and if so which layers.

`get_reader` must be cheap and refuses what is not ours, so that other plugins get their turn.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsi_umedpt.store import SlideStore

    from napari_wsi_umedpt.layers.build import LayerTuple

Read = Callable[[Any], "list[LayerTuple]"]

_SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".dcm", ".czi", ".svslide", ".qptiff")
"""Suffixes that nothing but slides has."""
_TIFFS = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
_ANNOTATIONS = (".geojson", ".geojson.gz", ".annotations")
_NOTHING: "list[LayerTuple]" = [(None,)]  # type: ignore[list-item]
"""Layers by which a reader says that it has none to add."""


def get_reader(path: Any) -> Read | None:
    """Return a function that reads the path, or None if it is not ours.

    Flat pictures (PNG, JPEG, untiled TIFF without a scale) are left to napari: they state no
    um/px. The plugin's dock "Slides and results" opens them with one.
    """
    if isinstance(path, list | tuple):
        return None  # a stack: slides are opened one by one
    path = Path(path)
    name = path.name.lower()
    if name.endswith(".zarr"):
        return _read if _is_store_or_slide(path) else None
    if name.endswith(_ANNOTATIONS) or (name.endswith(".xml") and _is_annotations(path)):
        return _read_annotations
    if name.endswith(_SLIDES) or (name.endswith(_TIFFS) and _is_slide(path)):
        return _read
    return None


def _is_store_or_slide(path: Path) -> bool:
    from wsi_umedpt.slides import Refused, open_omezarr

    if _is_store(path):
        return True
    try:
        open_omezarr(path).close()
    except Refused:
        return False  # napari's own reader, or another plugin's, may know it
    return True


def _is_store(path: Path) -> bool:
    from wsi_umedpt.store import is_store

    return is_store(path)


def _is_slide(path: Path) -> bool:
    """Return whether a TIFF is tiled, or states its scale; colours may lie in a page each, if OME-XML says so."""
    from wsi_umedpt.geometry import MPP_MAX, MPP_MIN
    from wsi_umedpt.slides import Refused, is_ome, ome_pages, open_tifffile, read_directories, resolution_mpp

    try:
        found = read_directories(path)
        if is_ome(found) and ((slide := ome_pages(found)).channels or len(slide.levels[0]) == 3):
            bits, whole_numbers = slide.first.number(258, 1), slide.first.number(339, 1) == 1
            return whole_numbers and bits in ((8, 16) if slide.channels else (8,))
        with open_tifffile(path) as tif:
            page = tif.pages[0].aspage()
            mpp = resolution_mpp(page)
            colours = page.samplesperpixel in (3, 4)
            return colours and (bool(page.is_tiled) or (mpp is not None and MPP_MIN <= mpp.value <= MPP_MAX))
    except (Refused, OSError, ValueError, IndexError):
        return False


def _is_annotations(path: Path) -> bool:
    """Return whether XML begins as that of ASAP or ImageScope does."""
    try:
        with path.open("rb") as file:
            begin = file.read(4096)
    except OSError:
        return False
    return b"<ASAP_Annotations" in begin or b"<Annotations" in begin


def _read(path: Any) -> "list[LayerTuple]":
    asked = _by_hand()  # a script gets what it names, a hand a slide with its results

    def read() -> "list[LayerTuple]":
        # Here, as importing what reads slides takes half a second.
        from napari_wsi_umedpt.opening.load import open_path, open_with_results
        from napari_wsi_umedpt.window.notifications import Reports

        return (open_with_results if asked else open_path)(Path(path), Reports(), missing=ask_for_slide)

    return _beside(Path(path), lambda: read)


def _beside(path: Path, prepare: "Callable[[], Callable[[], list[LayerTuple]]]") -> "list[LayerTuple]":
    """Nothing where a hand dropped the path: its layers come when they are read. Layers otherwise."""
    import napari

    if _by_hand():
        from napari_wsi_umedpt.opening.opener import Opener

        results = path.suffix.lower() == ".zarr" and _is_store(path)
        Opener.of(napari.current_viewer()).open(prepare, f"Opening {path.name}", results=results)
        return _NOTHING
    return _told(lambda: prepare()())


def _by_hand() -> bool:
    """Return whether somebody opens something in a window, and no script."""
    import napari

    if napari.current_viewer() is None:
        return False
    from napari_wsi_umedpt.opening.opener import by_hand

    return by_hand()


def _told(read: "Callable[[], list[LayerTuple]]") -> "list[LayerTuple]":
    """Layers; where there is a window, errors are shown in it.

    Napari would show a dialog instead that offers other readers and leaves out why this one failed.
    """
    import napari
    from wsi_umedpt.errors import WsiError

    from napari_wsi_umedpt.window.notifications import tell_error

    viewer = napari.current_viewer()
    if viewer is None:
        return read()
    try:
        layers = read()
    except (WsiError, OSError) as error:
        tell_error(error)
        return _NOTHING
    return _in_place(viewer, layers) or _NOTHING


def _in_place(viewer: Any, layers: "list[LayerTuple]") -> "list[LayerTuple]":
    """Take away what is shown of another slide; napari adds what is returned."""
    from qtpy.QtWidgets import QApplication

    from napari_wsi_umedpt.window.one_slide import Showing, change_for
    from napari_wsi_umedpt.window.viewer import scale_bar

    Showing.of(viewer)
    scale_bar(viewer).visible = True
    if hasattr(viewer, "window"):
        from napari_wsi_umedpt.window.autosave import Keeper

        Keeper.of(viewer)
    change = change_for(viewer, layers)
    for layer in change.go:
        viewer.layers.remove(layer)
    if change.go:
        QApplication.processEvents()  # layers that come in the turn in which others went have crashed OpenGL
    return change.come


def ask_for_slide(store: "SlideStore") -> None:
    """Say that a store's slide was not found, with a button that asks where it is."""
    from napari_wsi_umedpt.window.notifications import tell

    tell(
        f"The slide of {store.path.name} was not found: stores do not hold where their slide lies. "
        "The results are shown over a thumbnail.",
        severity="warning",
        actions=[("Where is it?", lambda *_: _locate(store))],
    )


def _locate(store: "SlideStore") -> None:
    import napari

    from napari_wsi_umedpt.docks.slides import locate_slide

    locate_slide(napari.current_viewer(), store)


def _read_annotations(path: Any) -> "list[LayerTuple]":
    import napari
    from wsi_umedpt.errors import AnnotationError

    from napari_wsi_umedpt.logic.annotations import annotations_of
    from napari_wsi_umedpt.window.notifications import tell
    from napari_wsi_umedpt.window.viewer import current_place

    def prepare() -> "Callable[[], list[LayerTuple]]":
        viewer = napari.current_viewer()
        place = current_place(viewer) if viewer is not None else None
        if place is None:
            raise AnnotationError(
                f"{Path(path).name} holds positions in pixels of a slide, and no slide is open. Open its slide first."
            )
        return lambda: annotations_of(Path(path), place, tell=tell)

    return _beside(Path(path), prepare)


def sample_demo() -> "list[LayerTuple]":
    """The demo slide, downloaded once, and its results, which come with the plugin.

    The window does not wait for the download: until it is there, results lie over a thumbnail.
    """
    import napari
    from wsi_umedpt.slides import sample_path, sample_slide
    from wsi_umedpt.store import SlideStore

    from napari_wsi_umedpt.opening.load import open_path
    from napari_wsi_umedpt.window.notifications import Reports

    viewer = napari.current_viewer()
    if viewer is not None and not sample_path().exists():
        from napari_wsi_umedpt.docks.slides import bring_slide
        from napari_wsi_umedpt.opening.opener import by_hand

        if by_hand():
            layers = _told(lambda: open_path(_sample_results(), Reports()))
            if layers is not _NOTHING:
                bring_slide(viewer, SlideStore.open(_sample_results()), sample_slide, "Downloading the demo slide")
            return layers
    return _told(lambda: open_path(_sample_results(), Reports(), slide=sample_slide()))


def _sample_results() -> Path:
    """The results, unpacked beside where the slide lies, or will."""
    import zipfile

    from wsi_umedpt.slides import sample_path

    store = sample_path().with_suffix(".zarr")
    if not store.exists():
        store.parent.mkdir(parents=True, exist_ok=True)
        # Under its own name once it is whole.
        with tempfile.TemporaryDirectory(dir=store.parent) as scratch:
            with zipfile.ZipFile(Path(__file__).with_name("demo_results.zip")) as packed:
                packed.extractall(scratch)
            (Path(scratch) / store.name).rename(store)
    return store
