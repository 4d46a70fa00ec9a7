"""Rulers, counts in regions and hotspots, with a mouse in a window that is shown."""

import csv
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from wsi_umedpt.annotations import read_annotation_file
from wsi_umedpt.segmentation import find_hotspots, region_rows
from wsi_umedpt.store import PALETTE, SlideStore, read_objects

from napari_wsi_umedpt.layers.build import KEY, show_field
from napari_wsi_umedpt.logic.annotations import read_annotations
from napari_wsi_umedpt.logic.snapshot import legend_of
from napari_wsi_umedpt.opening.load import open_path
from napari_wsi_umedpt.window.viewer import add_layers
from tests.support.hands import BOTH_SCREENS
from tests.support.planted import MPP, TUMOUR

AROUND_TWO = [(900, 300), (1500, 300), (1500, 850), (900, 850)]
"""Around both objects of the class tumour, level-0 px; the third, of the class stroma, lies outside."""


@pytest.fixture
def dock(hands, planted):
    """The dock over the planted slide and its three objects."""
    add_layers(hands.viewer, open_path(planted.store, pytest.fail, slide=planted.slide))
    hands.viewer.reset_view()
    hands.wait(400)  # until it is known that nothing was drawn on it before
    return hands.dock("Measure")


def cells(dock) -> list[list[str]]:
    """What the table says."""
    return [[dock.table.item(row, n).text() for n in range(4)] for row in range(dock.table.rowCount())]


def draw_region(hands) -> None:
    """Around two objects, with the dock Draw."""
    draw = hands.dock("Annotations")
    hands.click(draw.tools["add_polygon"])
    hands.draw(AROUND_TWO)


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_ruler_says_its_length_while_it_is_drawn(hands, dock, planted):
    """Beside it, in um, from the first move on; it is not kept, and Clear takes it away."""
    hands.click(dock.ruler)
    start, end = hands.on_canvas(1000, 1200), hands.on_canvas(1800, 1200)
    hands.move(start)
    hands._do("mousedown", "1")
    hands.move(start + (end - start) * 0.5)
    ruler = hands.viewer.layers["ruler"]
    hands.until(lambda: next(iter(ruler.features["class"])).endswith(" um"))
    half = float(ruler.features["class"][0].split()[0])
    assert half == pytest.approx(400 * MPP, rel=0.02)
    hands.move(end)
    hands._do("mouseup", "1", releases=1)
    hands.until(lambda: float(ruler.features["class"][0].split()[0]) == pytest.approx(800 * MPP, rel=0.01))
    assert ruler.text.values.tolist() == list(ruler.features["class"])
    hands.keep_picture("ruler")
    hands.click(dock.ruler)
    assert ruler.mode == "pan_zoom"
    assert not dock.ruler.isChecked()
    assert not list(planted.store.parent.glob("*.geojson"))
    hands.click(dock.clear_button)
    assert "ruler" not in hands.viewer.layers


@BOTH_SCREENS
def test_a_region_is_measured_and_counted_as_it_is_drawn_and_edited(hands, dock):
    """Two objects in it before the last corner is set; moved away, none; size and counts are those of Python."""
    draw = hands.dock("Annotations")
    hands.click(draw.tools["add_polygon"])
    for corner in AROUND_TWO[:3]:
        hands.click(hands.on_canvas(*corner))
    hands.move(hands.on_canvas(*AROUND_TWO[3]))
    hands.until(lambda: [row[2] for row in cells(dock)] == ["2"])
    hands.click(hands.on_canvas(*AROUND_TWO[3]), times=2)
    hands.dock("Measure")
    hands.until(lambda: [row[0] for row in cells(dock)] == ["Tumor"])
    mm2 = 600 * 550 * (MPP / 1000) ** 2
    assert float(cells(dock)[0][1]) == pytest.approx(mm2, rel=0.01)
    assert dock.counts[0].counts == {"tumour": 2, "stroma": 0}
    assert "stroma" in dock.words.text()
    hands.keep_picture("region-counted")
    layer = hands.viewer.layers["annotations"]
    hands.viewer.layers.selection.active = layer
    layer.mode = "select"
    hands.click(hands.on_canvas(950, 350))
    hands.drag([hands.on_canvas(950, 350), hands.on_canvas(950, 1100)])
    hands.until(lambda: dock.counts[0].total == 0)
    hands.press("ctrl+z")
    hands.until(lambda: dock.counts[0].total == 2)
    objects = next(one for one in hands.viewer.layers if one.metadata[KEY].kind == "objects")
    objects.visible = False  # what is not shown is not counted
    hands.until(lambda: dock.counts[0].counts == {})
    objects.visible = True
    hands.until(lambda: dock.counts[0].counts == {"tumour": 2, "stroma": 0})
    layer.selected_data = {0}
    layer.remove_selected()
    hands.until(lambda: dock.table.rowCount() == 0)


def test_counts_follow_classes_that_are_learned_anew(hands, dock):
    """What the dock Cells shows after each click is counted, whatever dock is shown; the class stays chosen."""
    layer = next(one for one in hands.viewer.layers if one.metadata[KEY].kind == "objects")
    shown = layer.metadata[KEY]
    dock.label.setCurrentText("stroma")
    hands.click(dock.find_button)
    hands.until(lambda: "hotspot" in hands.viewer.layers)
    hands.dock("Legend")
    classes = ("mitosis", "stroma")
    objects = replace(shown.objects.objects, classes=classes, class_index=np.array([0, 0, 1], np.uint8))
    show_field(layer, replace(shown, classes=classes, objects=shown.objects.of_classes(objects)))
    assert "hotspot" not in hands.viewer.layers
    hands.dock("Measure")
    assert [dock.label.itemText(n) for n in range(dock.label.count())] == [*classes]
    assert dock.label.currentText() == "stroma"
    dock.label.setCurrentText("mitosis")
    hands.click(dock.find_button)
    hands.until(lambda: dock.found.text().startswith("mitosis: 2 in"))


def test_the_densest_circle_is_found_and_shown(hands, dock, planted):
    """Where Python finds it, with its count, as a circle of that area."""
    hands.click(dock.find_button)
    hands.until(lambda: "hotspot" in hands.viewer.layers)
    objects, _ = read_objects(SlideStore.open(planted.store))
    expected = next(one for one in find_hotspots(objects, MPP, (0.5,)) if one.label == "tumour")
    assert dock.hotspot == expected
    assert dock.found.text() == "tumour: 2 in 0.5 mm2 (4 per mm2)"
    layer = hands.viewer.layers["hotspot"]
    (box,) = layer.data
    assert np.pi * np.ptp(box[:, 0]) * np.ptp(box[:, 1]) / 4 / 1e6 == pytest.approx(0.5, rel=1e-4)
    middle = layer.metadata[KEY].place.to_slide(box.mean(axis=0))
    assert middle == pytest.approx([expected.x, expected.y], abs=0.1)
    assert TUMOUR[0] < middle[0] < TUMOUR[2]
    hands.wait(300)
    hands.keep_picture("hotspot")


def test_a_hotspot_that_is_kept_is_a_region_like_others(hands, dock, planted):
    """It is counted in the table, saved beside the slide's results, undone by Ctrl-Z; the tool at hand stays."""
    hands.click(dock.find_button)
    hands.until(lambda: "hotspot" in hands.viewer.layers)
    hands.until(dock.keep_button.isVisible)
    hands.click(dock.keep_button)
    hands.until(lambda: [row[0] for row in cells(dock)] == ["Hotspot"])
    hands.until(lambda: dock.counts[0].counts == {"tumour": 2, "stroma": 1})
    assert dock.counts[0].area_mm2 == pytest.approx(0.5, rel=0.01)
    assert "hotspot" not in hands.viewer.layers
    assert dock.keep_button.isHidden()
    (file,) = planted.store.parent.glob("*.annotations.geojson")
    (kept,) = read_annotation_file(file).annotations
    assert kept.name == "Hotspot"
    hands.keep_picture("hotspot-kept")
    hands.press("ctrl+z")
    hands.until(lambda: "Hotspot" not in [row[0] for row in cells(dock)])


def test_window_python_and_command_line_say_the_same(hands, dock, planted, tmp_path):
    """The table of a region that was drawn here, of the file that QuPath would read, and that of `export --regions`."""
    draw_region(hands)
    hands.until(lambda: len(dock.counts) == 1)
    hands.dock("Measure")
    dock.positive.setCurrentText("stroma")
    dock.save(tmp_path / "window.csv")
    hands.until(lambda: (tmp_path / "window.hotspots.csv").exists())
    file = tmp_path / "planted.geojson"
    hands.dock("Annotations").save(file)
    assert len(read_annotations(file)) == 1
    objects, _ = read_objects(SlideStore.open(planted.store))
    (by_python,) = region_rows(read_annotation_file(file).annotations, MPP, objects, {"stroma"})
    command = [sys.executable, "-m", "wsi_umedpt", "export", str(planted.store)]
    flags = ["--regions", str(file), "--positive", "stroma"]
    for target, more in (("line.csv", flags), ("spots.csv", ["--hotspots"])):
        subprocess.run([*command, "-o", str(tmp_path / target), *more], check=True)
    (window,), (line,) = rows_of(tmp_path / "window.csv"), rows_of(tmp_path / "line.csv")
    assert window.keys() == line.keys()
    for name, value in by_python.items():
        for told in (window[name], line[name]):
            # Corners in a file are rounded to a thousandth of a px.
            assert (
                told == value if isinstance(value, str) else float(told) == pytest.approx(value, rel=1e-5, nan_ok=True)
            )
    assert rows_of(tmp_path / "window.hotspots.csv") == rows_of(tmp_path / "spots.csv")


def test_a_picture_has_a_legend_and_a_scale_bar(hands, dock, planted, tmp_path):
    """Colours of what is shown, with counts; beside the canvas as it is seen."""
    draw_region(hands)
    hands.until(lambda: len(dock.counts) == 1)
    hands.dock("Navigator").save_picture(tmp_path / "field.png")
    page = np.asarray(Image.open(tmp_path / "field.png"))
    canvas = hands.viewer.screenshot(canvas_only=True, flash=False)
    if folder := os.environ.get("WINDOW_PICTURES"):
        Image.fromarray(page).save(f"{folder}/field.png")
    assert page.shape[1] > canvas.shape[1] + 100
    beside = page[:, canvas.shape[1] + 16 :]
    objects = next(one.metadata[KEY] for one in hands.viewer.layers if one.metadata[KEY].kind == "objects")
    for colour in (PALETTE[0], *objects.colours):  # of the region, and of objects
        assert (beside == colour).all(axis=2).sum() > 100
    assert (page[:40, :300] < 100).any(), "the name of the slide"
    words = [words for group in legend_of(hands.viewer.layers) for _, words in group.entries]
    assert words[0] == "Tumor"
    assert any(one.startswith("tumour  2, ") for one in words)


def test_a_report_of_the_case_is_written_from_the_window(hands, dock, planted, tmp_path, told):
    """With the region that was drawn, its count, the view, and nothing that it would load."""
    draw_region(hands)
    hands.until(lambda: len(dock.counts) == 1)
    hands.dock("Measure")
    dock.report(tmp_path / "case.html")
    hands.until(lambda: (tmp_path / "case.html").exists())
    text = (tmp_path / "case.html").read_text(encoding="utf-8")
    assert "<td>Tumor</td>" in text
    assert "The view when the report was made" in text
    assert f"<td>{dock.counts[0].area_mm2:,.4g}</td><td>{dock.counts[0].perimeter_mm:,.4g}</td><td>2</td>" in text
    assert "probe: tumour" in text
    hands.until(lambda: any("case.html" in one.message for one in told))
