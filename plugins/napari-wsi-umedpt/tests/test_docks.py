"""The docks, used as a user does, in a window that is shown."""

import json
import shutil

import numpy as np
import pytest
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.testing import tissue_image, write_pyramid

from napari_wsi_umedpt.docks.annotations import AnnotationsDock
from napari_wsi_umedpt.docks.cases import CasesDock
from napari_wsi_umedpt.docks.legend import LegendDock
from napari_wsi_umedpt.docks.navigator import NavigatorDock
from napari_wsi_umedpt.docks.slides import SlidesDock, locate_slide
from napari_wsi_umedpt.layers.build import KEY
from napari_wsi_umedpt.logic.annotations import Annotation, read_annotations, write_annotations
from napari_wsi_umedpt.logic.cases import FILE
from napari_wsi_umedpt.logic.navigation import zoom_of
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.viewer import add_layers, camera, current_place
from tests.support.planted import TUMOUR, TUMOUR_COLOUR


def test_the_navigator_moves(opened, qtbot, tmp_path, told):
    """Magnifications, places, the overview's frame, a picture with the slide in it."""
    dock = NavigatorDock(opened)
    qtbot.addWidget(dock)
    dock.resize(300, 600)
    dock.show()
    dock.magnify(20)
    assert camera(opened).zoom == pytest.approx(zoom_of(20))
    assert "20x" in dock.magnification.text()
    dock.place.setText("1200, 600")
    dock.place.returnPressed.emit()
    assert np.allclose(current_place(opened).to_slide(np.array(camera(opened).center[-2:])), (1200, 600))
    frame = dock.overview.frame
    assert (frame.center().x(), frame.center().y()) == (pytest.approx(1200), pytest.approx(600))
    dock.place.setText("nowhere")
    dock.place.returnPressed.emit()
    assert "two numbers" in told[-1].message
    qtbot.waitUntil(lambda: dock.overview._image is not None)
    painted = dock.overview.grab().toImage()
    left, top, zoom = dock.overview._fit()
    x, y = (TUMOUR[0] + 40) * zoom + left, (TUMOUR[1] + 40) * zoom + top
    ratio = painted.devicePixelRatio()
    colour = painted.pixelColor(round(x * ratio), round(y * ratio))
    assert (
        max(abs(a - b) for a, b in zip((colour.red(), colour.green(), colour.blue()), TUMOUR_COLOUR, strict=True)) < 40
    )
    dock.overview.moved(300.0, 300.0)
    assert np.allclose(current_place(opened).to_slide(np.array(camera(opened).center[-2:])), (300, 300))
    dock.save_picture(tmp_path / "field.png")
    assert (tmp_path / "field.png").stat().st_size > 1000
    dock.save_picture(tmp_path / "field.jpg")
    assert "PNG or TIFF" in told[-1].message


def test_keys_magnify(opened, qtbot):
    """Alt-1 to Alt-6, as in the tooltips."""
    dock = NavigatorDock(opened)
    qtbot.addWidget(dock)
    keys = {str(key) for key in opened.keymap}
    assert {f"Alt+{n}" for n in range(7)} <= keys
    next(call for key, call in opened.keymap.items() if str(key) == "Alt+4")(opened)
    assert camera(opened).zoom == pytest.approx(zoom_of(10))


def test_going_through_a_folder(viewer, qtbot, tmp_path, planted, told):
    """Next and previous; the slide that was seen is marked, what was written stays, what is drawn stays."""
    image, _ = tissue_image(700, 600)
    write_pyramid(tmp_path / "a.svs", image)
    shutil.copy(planted.slide, tmp_path / "planted.svs")
    shutil.copytree(planted.store, tmp_path / "planted.zarr")
    (tmp_path / "z.svs").write_bytes(b"no slide")
    dock = CasesDock(viewer)
    qtbot.addWidget(dock)
    dock.open(tmp_path)
    qtbot.waitUntil(lambda: [layer.name for layer in viewer.layers] == ["a"])
    qtbot.keyClicks(dock.note, "pale")
    dock.review(state="doubtful")
    dock.step(1)
    qtbot.waitUntil(lambda: "nuclei" in [layer.name for layer in viewer.layers])
    assert "a" not in [layer.name for layer in viewer.layers]
    assert [(c.slide_id, c.state, c.note) for c in dock.cases.cases] == [
        ("a", "doubtful", "pale"), ("planted", "seen", ""), ("z", "unseen", ""),
    ]  # fmt: skip
    qtbot.waitUntil(lambda: "a,doubtful,pale" in (tmp_path / FILE).read_text())
    dock.step(1)  # a broken file, and the last one: told, and what is shown stays, with its note
    qtbot.waitUntil(lambda: any("no reader opens z.svs" in n.message for n in told))
    qtbot.waitUntil(lambda: not viewer.status)
    assert "nuclei" in viewer.layers
    assert dock.number == 1
    assert dock.cases.cases[2].state == "unseen"
    dock.step(1)
    assert "last slide" in told[-1].message
    dock.step(-1)
    qtbot.waitUntil(lambda: [layer.name for layer in viewer.layers] == ["a"])
    assert dock.note.text() == "pale"


def test_what_is_drawn_stays_with_its_slide(viewer, qtbot, tmp_path, planted):
    """Away while another slide of the folder is looked at, above its own when that comes back."""
    write_pyramid(tmp_path / "a.svs", tissue_image(700, 600)[0])
    shutil.copy(planted.slide, tmp_path / "planted.svs")
    (tmp_path / "out").mkdir()  # where the dock Analyse puts results
    shutil.copytree(planted.store, tmp_path / "out" / "planted.zarr")
    dock, drawing = CasesDock(viewer), AnnotationsDock(viewer)
    qtbot.addWidget(dock)
    qtbot.addWidget(drawing)
    dock.open(tmp_path)
    qtbot.waitUntil(lambda: [layer.name for layer in viewer.layers] == ["a"])
    drawing.new_layer()
    layer = viewer.layers["annotations"]
    layer.add_polygons(np.array([[10, 10], [10, 90], [90, 90.0]]))
    dock.step(1)
    qtbot.waitUntil(lambda: "nuclei" in [layer.name for layer in viewer.layers])
    qtbot.waitUntil(lambda: layer not in viewer.layers)
    drawing.new_layer()
    other = viewer.layers["annotations"]
    other.add_polygons(np.array([[30, 30], [30, 90], [90, 90.0]]))
    dock.step(-1)
    # Hidden at once, and gone once it is written.
    qtbot.waitUntil(lambda: other not in viewer.layers)
    qtbot.waitUntil(lambda: [layer.name for layer in viewer.layers] == ["a", "annotations"])
    assert viewer.layers["annotations"].data[0] == pytest.approx(np.array([[10, 10], [10, 90], [90, 90.0]]), abs=0.01)
    assert (tmp_path / "out" / "planted.annotations.geojson").exists()
    viewer.layers.selection.active = viewer.layers["annotations"]
    drawing.save(tmp_path / "a.geojson")  # in px of its own slide
    found = read_annotations(tmp_path / "a.geojson")[0].parts[0][0]
    place = viewer.layers["annotations"].metadata[KEY].place
    assert np.ptp(found, axis=0) == pytest.approx(np.full(2, 80 / place.mpp), abs=0.01)


def test_a_class_that_is_typed_has_a_colour_of_its_own(opened, qtbot):
    """And not the first class's."""
    dock = AnnotationsDock(opened)
    qtbot.addWidget(dock)
    dock.new_layer()
    layer = opened.layers[-1]
    first = layer.current_edge_color
    qtbot.keyClicks(dock.entry, "Granuloma")
    dock.entry.returnPressed.emit()
    assert layer.feature_defaults["class"][0] == "Granuloma"
    typed = layer.current_edge_color
    assert typed != first
    assert dock.classes.findText("Granuloma") == dock.classes.count() - 1
    dock.choose_class("Tumor")
    assert layer.current_edge_color == first
    dock.choose_class("Granuloma")
    assert layer.current_edge_color == typed


def test_a_dock_that_napari_made_opens_slides(viewer, qtbot, planted):
    """It is given a proxy of the viewer that hides the window, and need not ask it for that."""
    _, dock = viewer.window.add_plugin_dock_widget("napari-wsi-umedpt", "Slides and results")
    dock.open(planted.slide)
    qtbot.waitUntil(lambda: len(viewer.layers) == 1)


def test_docks_lie_in_tabs_and_the_window_stays_as_high(viewer, qtbot):
    """However many are opened: a window that grew would end below the screen. The Navigator stays in sight."""
    window = viewer.window._qt_window
    window.resize(1000, 850)
    qtbot.wait(50)
    frames = []
    for name in ("Navigator", "Legend", "Annotations", "Case list", "Few-shot classifier", "Slide classifier"):
        frames.append(viewer.window.add_plugin_dock_widget("napari-wsi-umedpt", name)[0])
        qtbot.wait(100)
    navigator, *others = frames
    assert window.tabifiedDockWidgets(navigator) == []
    qtbot.waitUntil(lambda: set(window.tabifiedDockWidgets(others[0])) == {*others[1:]})
    assert navigator.isVisible()
    assert not others[-1].visibleRegion().isEmpty()
    qtbot.waitUntil(lambda: window.height() == 850)


def test_regions_are_drawn_and_exchanged(opened, qtbot, tmp_path, told):
    """Drawn in the window, saved for QuPath in level-0 px, opened again in the same place."""
    dock = AnnotationsDock(opened)
    qtbot.addWidget(dock)
    dock.new_layer()
    layer = opened.layers[-1]
    square = np.array([[100, 100], [300, 100], [300, 300], [100, 300.0]])
    layer.add_polygons(current_place(opened).to_world(square))
    layer.selected_data = {0}
    dock.choose_class("Necrosis")
    assert list(layer.features["class"]) == ["Necrosis"]
    assert list(layer.text.values) == ["Necrosis"]  # beside it on the canvas
    dock.save(tmp_path / "a.geojson")
    (one,) = read_annotations(tmp_path / "a.geojson")
    assert one.name == "Necrosis"
    assert np.allclose(one.parts[0][0], square, atol=0.01)
    feature = json.loads((tmp_path / "a.geojson").read_text())["features"][0]
    assert feature["properties"]["objectType"] == "annotation"
    dock.open(tmp_path / "a.geojson")
    assert np.allclose(opened.layers[-1].data[0], layer.data[0], atol=0.01)
    paths = opened.layers[-1].save(str(tmp_path / "b.geojson"), plugin="napari-wsi-umedpt")
    assert paths
    assert read_annotations(tmp_path / "b.geojson")[0].name == "Necrosis"
    dock.save(tmp_path / "a.txt")
    assert "must end in .geojson" in told[-1].message


def test_a_file_with_a_line_and_an_empty_feature_is_opened_and_saved(opened, qtbot, tmp_path, told):
    """The line is a shape beside the polygon, what has no place is reported, and all of the rest is saved again."""
    dock = AnnotationsDock(opened)
    qtbot.addWidget(dock)
    square = [[100, 100], [300, 100], [300, 300], [100, 300], [100, 100]]
    geometries = (
        {"type": "Polygon", "coordinates": [square]}, {"type": "LineString", "coordinates": square[:2]},
        {"type": "Point", "coordinates": [150, 150]}, None,
    )  # fmt: skip
    features = [{"type": "Feature", "geometry": one, "properties": {"name": "n"}} for one in geometries]
    (tmp_path / "a.geojson").write_text(json.dumps(features))
    dock.open(tmp_path / "a.geojson")
    assert "skipped: 1 without geometry" in told[-1].message
    assert list(opened.layers[-1].shape_type) == ["polygon", "path", "ellipse"]
    dock.save(tmp_path / "b.geojson")
    saved = json.loads((tmp_path / "b.geojson").read_text())["features"]
    assert [one["geometry"]["type"] for one in saved] == ["Polygon", "LineString", "Point"]
    assert np.allclose(saved[2]["geometry"]["coordinates"], [150, 150], atol=0.01)


def test_annotations_are_dropped_onto_the_slide(viewer, planted, tmp_path, told):
    """Without a slide there is no telling where they lie, which is said; over it they lie where they were drawn."""
    square = np.array([[100, 100], [300, 100], [300, 300], [100, 300.0]])
    write_annotations(tmp_path / "a.geojson", [Annotation(((square,),), "Tumor")])
    viewer.open(str(tmp_path / "a.geojson"), plugin="napari-wsi-umedpt")
    assert not viewer.layers
    assert "Open its slide first" in told[-1].message
    viewer.open(str(planted.slide), plugin="napari-wsi-umedpt")
    viewer.open(str(tmp_path / "a.geojson"), plugin="napari-wsi-umedpt")
    assert np.allclose(current_place(viewer).to_slide(viewer.layers["a"].data[0]), square)


def test_a_lost_slide_is_put_below_its_results(viewer, qtbot, planted, tmp_path, told):
    """The answer takes the thumbnail's place, a wrong answer is refused, and it is asked only once."""
    alone = tmp_path / "far" / "away" / "planted.zarr"
    shutil.copytree(planted.store, alone)
    viewer.open(str(alone), plugin="napari-wsi-umedpt")
    (question,) = [n for n in told if n.actions]
    assert "was not found" in question.message
    assert question.actions[0][0] == "Where is it?"
    store = SlideStore.open(alone)
    image, _ = tissue_image(300, 300)
    locate_slide(viewer, store, write_pyramid(tmp_path / "wrong.svs", image))
    assert "is not the slide of" in told[-1].message
    assert viewer.layers[0].metadata[KEY].kind == "thumbnail"
    locate_slide(viewer, store, planted.slide)
    assert [layer.metadata[KEY].kind for layer in viewer.layers] == ["slide", "heatmap", "objects", "tiles", "tissue"]
    viewer.layers.clear()
    qtbot.wait(50)
    told.clear()
    viewer.open(str(alone), plugin="napari-wsi-umedpt")
    assert viewer.layers[0].metadata[KEY].kind == "slide"
    assert not told


def test_slides_open_beside_the_window(viewer, qtbot, planted, tmp_path, told):
    """Through the dock, with a scale where the slide states none; what else is in the results is offered."""
    from napari.settings import get_settings
    from PIL import Image

    before = get_settings().experimental.async_
    dock = SlidesDock(viewer)
    qtbot.addWidget(dock)
    Image.fromarray(tissue_image(300, 200)[0]).save(tmp_path / "a.png")
    dock.open(tmp_path / "a.png")
    qtbot.waitUntil(lambda: any("states no physical pixel size" in n.message for n in told))
    dock.mpp.setText("a half")
    dock.open(tmp_path / "a.png")
    assert "um per px is a number" in told[-1].message
    dock.mpp.setText("0.5")
    dock.open(tmp_path / "a.png")
    qtbot.waitUntil(lambda: [layer.name for layer in viewer.layers] == ["a"])
    dock.mpp.setText("")
    dock.open(planted.store)
    qtbot.waitUntil(lambda: dock.more.count() == 4)
    dock.more.setCurrentText("enc as colours")
    dock.show_more()
    qtbot.waitUntil(lambda: viewer.layers[-1].name == "enc as colours")
    assert viewer.scale_bar.visible if not hasattr(viewer, "canvas") else viewer.canvas.overlays.scale_bar.visible
    assert get_settings().experimental.async_ is before


@pytest.fixture(autouse=True)
def no_dialogs(monkeypatch):
    """Napari asks who reads a suffix that several readers know, as its own knows nearly all."""
    from napari._qt.dialogs import qt_reader_dialog

    answer = ("Whole slides with wsi_umedpt", False)
    monkeypatch.setattr(qt_reader_dialog.QtReaderDialog, "get_user_choices", lambda _: answer)


def test_napari_opens_what_is_dropped(viewer, planted, told):
    """By the reader's own choice, and with our words where it fails."""
    viewer.window._qt_viewer._qt_open([str(planted.slide)], stack=False)
    assert [layer.name for layer in viewer.layers] == ["planted"]
    broken = planted.slide.with_name("broken.svs")
    broken.write_bytes(b"II*\0" + bytes(300))
    viewer.window._qt_viewer._qt_open([str(broken)], stack=False)
    broken.unlink()
    assert [layer.name for layer in viewer.layers] == ["planted"]
    assert "no reader opens broken.svs" in told[-1].message


def test_the_command_opens_docks_and_folders(viewer, qtbot, tmp_path, planted, told, monkeypatch):
    """`wsi-umedpt view`: results with navigator and legend; a folder as a list; what fails is shown in the window."""
    import napari

    from napari_wsi_umedpt.__main__ import show

    monkeypatch.setattr(napari, "Viewer", lambda **_: viewer)
    shutil.copy(planted.slide, tmp_path / "only.svs")
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    show([planted.store, tmp_path / "broken.svs", tmp_path])
    assert {"Navigator", "Legend", "Case list"} <= {name.split(" (")[0] for name in viewer.window.dock_widgets}
    assert any("no reader opens broken.svs" in n.message for n in told)
    qtbot.wait(300)


@pytest.mark.parametrize("kind", [AnnotationsDock, CasesDock, LegendDock, NavigatorDock, SlidesDock])
def test_a_dock_that_is_closed_lets_go(viewer, qtbot, planted, kind):
    """Nothing of it is called any more, whatever comes and goes in the viewer."""
    clicks = len(viewer.mouse_drag_callbacks)
    dock = kind(viewer)
    area = viewer.window.add_dock_widget(dock)
    add_layers(viewer, open_path(planted.store, pytest.fail))
    viewer.window.remove_dock_widget(area)
    dock.deleteLater()  # what Qt does at the end, while Python still holds it
    qtbot.wait(50)
    viewer.layers.clear()
    qtbot.wait(50)
    add_layers(viewer, open_path(planted.store, pytest.fail))
    camera(viewer).zoom = 3
    qtbot.wait(50)
    assert len(viewer.mouse_drag_callbacks) == clicks
