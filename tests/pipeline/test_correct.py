"""Corrected objects teach a head, which finds objects like them from then on."""

import json

import numpy as np
import pytest
import shapely
import torch

from tests.support.command_line import run_here
from tests.support.painted_slides import Painted, paint_nuclei
from tests.support.released_models import save_model
from wsi_umedpt.datasets.samples import IGNORED
from wsi_umedpt.errors import AnnotationError, EncoderError
from wsi_umedpt.geometry import Box
from wsi_umedpt.io import checkpoint
from wsi_umedpt.models.bundle import load_release
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.pipeline.correct import CorrectedField, correct_head, fields_of, read_windows, save_head
from wsi_umedpt.pipeline.lesson import Corrections, Lesson
from wsi_umedpt.pipeline.task import Progress
from wsi_umedpt.slides.slide import open_slide
from wsi_umedpt.store.objects_io import read_objects
from wsi_umedpt.store.slide_store import SlideStore
from wsi_umedpt.tasks import load_heads, make_task
from wsi_umedpt.tasks.multihead import find_heads

FIELD = Box(64, 64, 600, 400)


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> Painted:
    return paint_nuclei(tmp_path_factory.mktemp("painted"))


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """A model that was not trained: its head finds nothing of use."""
    torch.manual_seed(0)
    shared = UMedPT(ModelSpec(backbone="convnext_atto", norm="layernorm", dim=8)).eval()
    classes = ("background", "nucleus", "border")
    specs = [
        HeadSpec(name="nuclei", kind="segmentation", classes=classes, modality="microscopy", mpp=0.5),
        HeadSpec(name="two", kind="segmentation", classes=("background", "a", "b"), modality="microscopy"),
    ]
    heads = {one.name: make_task(one, 8).eval() for one in specs}
    return save_model(tmp_path_factory.mktemp("model"), shared, heads)


def outline(x: float, y: float, radius: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], 1)


def outlines(painted: Painted) -> list[np.ndarray]:
    return [outline(x, y, r) for (x, y), r in zip(painted.centres, painted.radii, strict=True)]


def test_corrections_raise_f1_on_windows_that_were_left_out(painted, release, tmp_path):
    """From nothing of use to most nuclei; the head that is saved is the one that was taught."""
    field = CorrectedField(box=FIELD, outlines=outlines(painted))
    with open_slide(painted.path) as slide:
        lesson = correct_head(slide, painted.tissue(), [field], load_release(release), "nuclei")
    assert lesson.windows == 6
    assert lesson.after > lesson.before + 0.2
    assert lesson.better
    assert "better than before" in lesson.words
    assert lesson.corrections.added > 20
    save_head(tmp_path / "mine.json", release, lesson.head, "nuclei", lesson)
    heads = load_heads(load_release(tmp_path / "mine.json"))
    assert set(heads) == {"nuclei", "two", "mine"}
    for name, value in heads["mine"].state_dict().items():
        torch.testing.assert_close(value, lesson.head.state_dict()[name].half().float())
    said = checkpoint.read_about(tmp_path / "mine.json")["taught"]
    assert (said["from"], said["f1_after"]) == ("nuclei", lesson.after)
    with pytest.raises(EncoderError, match="NAME being none of"):
        save_head(tmp_path / "nuclei.json", release, lesson.head, "nuclei", lesson)


@pytest.mark.parametrize(
    ("corrections", "after", "gain", "said"),
    [
        (
            Corrections(20, 3, 2),
            0.8,
            (0.02, 0.2),
            "25 corrections: 20 added, 3 removed, 2 reshaped. It finds nuclei better",
        ),
        (Corrections(20), 0.72, (-0.02, 0.2), "not shown to be better: the difference may be chance"),
        (Corrections(20), 0.6, (-0.2, -0.01), "It is not better than before"),
        (Corrections(3), 0.8, (0.02, 0.2), "These are few: correct 20 or more. It finds nuclei better"),
        (Corrections(20), None, None, "Not tested: the region is too small"),
    ],
)
def test_a_lesson_says_plainly_what_it_gained(corrections, after, gain, said):
    """Better, maybe by chance, not better, few corrections, not tested."""
    lesson = Lesson(
        head=None, windows=6, objects=60, corrections=corrections, before=0.7, after=after, gain=gain, seconds=1.0
    )
    assert said in lesson.words


def test_overlapping_fields_teach_and_test_each_place_once(painted, release):
    """What is known in one window is known in no other; objects of both fields are there."""
    rings = outlines(painted)
    fields = [
        CorrectedField(box=Box(64, 64, 200, 150), outlines=rings),
        CorrectedField(box=Box(64, 64, 300, 150), outlines=rings),
    ]
    loaded = load_release(release)
    with open_slide(painted.path) as slide:
        windows = read_windows(slide, painted.tissue(), fields, (loaded, find_heads(loaded, ["nuclei"])[0]))
    known = sum(int((one != IGNORED).sum()) for one in windows.true)
    assert known == 300 * 150
    steps = []
    with open_slide(painted.path) as slide, pytest.raises(KeyboardInterrupt):
        correct_head(slide, painted.tissue(), fields, loaded, "nuclei", progress=_Stops(steps))
    assert steps == [1, 2]


class _Stops(Progress):
    """Stops at the second step."""

    def __init__(self, steps: list[int]) -> None:
        self._steps = steps

    def tiles_done(self, done: int, total: int) -> None:
        """Note the step."""
        self._steps.append(done)
        if len(self._steps) > 1:
            raise KeyboardInterrupt


def test_what_cannot_be_taught_is_refused_in_words(painted, release):
    """A head of several classes; annotations without a field."""
    with open_slide(painted.path) as slide, pytest.raises(EncoderError, match="finds a, b; corrections teach heads"):
        correct_head(slide, painted.tissue(), [], load_release(release), "two")
    with pytest.raises(AnnotationError, match="no region of the class 'Corrected'"):
        fields_of([("Tumour", shapely.box(0, 0, 9, 9))], "Corrected")


def test_the_command_teaches_a_head_that_segment_takes(painted, release, tmp_path):
    """From annotations of QuPath to a file, and from there to the nuclei of the slide."""
    areas = [("Corrected", shapely.box(FIELD.x, FIELD.y, FIELD.x + FIELD.width, FIELD.y + FIELD.height))]
    areas += [("Nucleus", shapely.Polygon(ring)) for ring in outlines(painted)]
    features = [
        {"type": "Feature", "geometry": shapely.geometry.mapping(area),
         "properties": {"objectType": "annotation", "classification": {"name": name}}} for name, area in areas
    ]  # fmt: skip
    drawn, mine = tmp_path / "nuclei.geojson", tmp_path / "mine.json"
    drawn.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    said = run_here("correct", painted.path, "-c", drawn, "--head", "nuclei", "-m", f"umedpt:{release}", "-o", mine)
    assert said.returncode == 0, said.stderr
    assert "added" in said.stdout
    assert "F1" in said.stdout
    said = run_here("segment", painted.path, "-o", tmp_path / "out", "-m", f"umedpt:{mine}", "--heads", "mine")
    assert said.returncode == 0, said.stderr
    objects, _ = read_objects(SlideStore.open(tmp_path / "out" / "nuclei.zarr"), "mine")
    near = np.linalg.norm(objects.centroid[:, None] - painted.centres, axis=2).min(0)
    assert (near < 5).mean() > 0.1
