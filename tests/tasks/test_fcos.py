"""FCOS is right: targets, losses, boxes read and average precision equal loops in plain Python."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from wsi_umedpt.datasets.samples import Batch, Boxes
from wsi_umedpt.models.fcos import BOX_STRIDES
from wsi_umedpt.models.head_spec import HeadSpec
from wsi_umedpt.models.umedpt import ModelSpec, UMedPT
from wsi_umedpt.tasks.average_precision import mean_average_precision
from wsi_umedpt.tasks.detection import BoxOutputs, Detection
from wsi_umedpt.tasks.fcos import (
    MAX_IOU,
    MIN_SCORE,
    PER_IMAGE,
    PER_LEVEL,
    PRIOR,
    Detections,
    Points,
    assign,
    centreness,
    class_loss,
    lay_points,
    read_boxes,
    side_giou,
)

CLASSES = 3
Box = tuple[float, float, float, float]
Labelled = tuple[Box, int]
Found = tuple[float, Box, int]
"""Score, box, class."""

# Quarters of a pixel: sums and products are exact in float32, so that ties are ties on both sides.
quarter = st.integers(-200, 1400).map(lambda n: n / 4)
extent = st.one_of(st.integers(1, 1200), st.sampled_from([32, 64, 256, 512, 1024, 2048])).map(lambda n: n / 4)


@st.composite
def labelled_boxes(draw) -> list[Labelled]:
    """Up to 6 boxes, some across the border or outside, some twice, some of the same area."""
    boxes: list[Labelled] = []
    for _ in range(draw(st.integers(0, 6))):
        x, y, w, h = draw(quarter), draw(quarter), draw(extent), draw(extent)
        how = draw(st.sampled_from(["new", "new", "again", "turned"])) if boxes else "new"
        if how == "again":
            (x0, y0, x1, y1), _ = boxes[-1]
            x, y, w, h = x0, y0, x1 - x0, y1 - y0
        elif how == "turned":
            (x0, y0, x1, y1), _ = boxes[-1]
            x, y, w, h = x0, y0, y1 - y0, x1 - x0
        boxes.append(((x, y, x + w, y + h), draw(st.integers(0, CLASSES - 1))))
    return boxes


def tensors(boxes: list[Labelled]) -> Boxes:
    return Boxes(torch.tensor([b for b, _ in boxes]).reshape(-1, 4), torch.tensor([c for _, c in boxes]).long())


def points_of(height: int, width: int) -> Points:
    return lay_points([(math.ceil(height / s), math.ceil(width / s)) for s in BOX_STRIDES])


def cells(height: int, width: int) -> Iterator[tuple[int, float, float]]:
    """Level, x and y of every point, in the order of the levels and of reading."""
    for level, stride in enumerate((8, 16, 32, 64, 128)):
        for row in range(math.ceil(height / stride)):
            for column in range(math.ceil(width / stride)):
                yield level, (column + 0.5) * stride, (row + 0.5) * stride


def target_of(level: int, x: float, y: float, boxes: list[Labelled]) -> tuple[int, list[float], float]:
    """Class, sides in strides and centreness that a point should say; -1 is background."""
    stride = 2 ** (level + 3)
    low = [-1, 64, 128, 256, 512][level]
    high = [64, 128, 256, 512, math.inf][level]
    best: tuple[int, list[float], float] = (-1, [], 0.0)
    smallest = math.inf
    for (x0, y0, x1, y1), kind in boxes:
        left, top, right, bottom = x - x0, y - y0, x1 - x, y1 - y
        inside = left > 0 and top > 0 and right > 0 and bottom > 0
        area = (x1 - x0) * (y1 - y0)
        if inside and low < max(left, top, right, bottom) <= high and area < smallest:
            smallest = area
            centre = math.sqrt(
                min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom),
            )
            best = (kind, [side / stride for side in (left, top, right, bottom)], centre)
    return best


def test_points_are_the_centres_of_cells():
    """Finest level first, in reading order, half a stride from the corner."""
    points = points_of(70, 100)
    expected = list(cells(70, 100))
    assert points.level.tolist() == [level for level, _, _ in expected]
    assert points.xy.tolist() == [[x, y] for _, x, y in expected]
    assert points.stride.tolist() == [float(2 ** (level + 3)) for level, _, _ in expected]


@given(labelled_boxes(), st.integers(1, 20), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
@example([((0.0, 0.0, 128.0, 128.0), 0), ((0.0, 0.0, 128.0, 128.0), 1)], 4, 4)
@example([((4.0, 4.0, 12.0, 12.0), 2)], 2, 2)
def test_targets_are_those_of_a_loop(boxes, rows, columns):
    """Every point answers for the smallest box around it that is of its level's size; of equal boxes, the first."""
    height, width = 16 * rows, 16 * columns
    found = assign(points_of(height, width), tensors(boxes))
    for i, (level, x, y) in enumerate(cells(height, width)):
        kind, sides, centre = target_of(level, x, y, boxes)
        assert found.classes[i] == kind
        assert found.centreness[i].item() == pytest.approx(centre, abs=1e-6)
        if kind >= 0:
            assert found.sides[i].tolist() == pytest.approx(sides, rel=1e-6)


@pytest.mark.parametrize(
    ("box", "points"),
    [
        # Points of stride 8 lie at 4, 12, 20, 28.
        pytest.param((0, 0, 16, 8), [(0, 4, 4), (0, 12, 4)], id="two-points"),
        pytest.param((4, 0, 20, 8), [(0, 12, 4)], id="points-on-the-border-are-outside"),
        pytest.param((5, 5, 11, 11), [], id="between-points"),
        pytest.param((40, 40, 60, 60), [], id="outside-the-image"),
        pytest.param((-60, 0, 8, 8), [(0, 4, 4)], id="longest-side-64-is-of-the-finest-level"),
        pytest.param((-60.5, 0, 8, 8), [], id="longest-side-above-64-is-not"),
        pytest.param((-61, -61, 17, 17), [(1, 8, 8)], id="the-second-level"),
    ],
)
def test_targets_by_hand(box, points):
    """Which points of a 32 px image say that a box is there: level, x, y."""
    laid = points_of(32, 32)
    found = assign(laid, tensors([(box, 1)]))
    positive = found.classes >= 0
    assert [(int(k), *xy) for k, xy in zip(laid.level[positive], laid.xy[positive].tolist(), strict=True)] == points


def test_an_image_without_boxes_is_all_background():
    """Centreness is 0 and no side is nan."""
    found = assign(points_of(32, 32), tensors([]))
    assert set(found.classes.tolist()) == {-1}
    assert not found.centreness.any()
    assert found.sides.shape == (len(found.classes), 4)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        pytest.param((3, 5, 3, 5), 1.0, id="centre"),
        pytest.param((1, 1, 3, 1), math.sqrt(1 / 3), id="off-centre"),
        pytest.param((1, 2, 4, 8), 0.25, id="both-ways"),
        pytest.param((0, 1, 2, 1), 0.0, id="border"),
    ],
)
def test_centreness_by_hand(sides, expected):
    """FCOS eq. 3."""
    assert centreness(torch.tensor([sides]).float()).item() == pytest.approx(expected)


def overlap_and_hull(a: Box, b: Box) -> tuple[float, float, float]:
    """Areas of intersection, union and hull."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return both, area[0] + area[1] - both, hull


def iou_of(a: Box, b: Box) -> float:
    both, union, _ = overlap_and_hull(a, b)
    return both / union if union > 0 else 0.0


side = st.integers(0, 400).map(lambda n: n / 4)
wide = st.integers(1, 400).map(lambda n: n / 4)


@given(st.tuples(side, side, side, side), st.tuples(wide, wide, wide, wide))
@settings(max_examples=200, deadline=None)
def test_giou_is_that_of_boxes(found, true):
    """Of sides from a common point, found ones possibly 0, as of corners; -1 < GIoU <= 1."""
    a, b = ((50 - s[0], 50 - s[1], 50 + s[2], 50 + s[3]) for s in (found, true))
    both, union, hull = overlap_and_hull(a, b)
    giou = side_giou(torch.tensor([found]), torch.tensor([true])).item()
    assert giou == pytest.approx(both / union - (hull - union) / hull, abs=1e-5)
    assert -1 < giou <= 1


@pytest.mark.parametrize(
    ("found", "true", "expected"),
    [
        pytest.param((1, 2, 3, 4), (1, 2, 3, 4), 1.0, id="equal"),
        pytest.param((1, 1, 1, 1), (2, 2, 2, 2), 0.25, id="inside"),
        pytest.param((0, 1, 2, 1), (2, 1, 0, 1), 0.0, id="side-by-side"),
        pytest.param((1, 3, 1, 3), (3, 1, 3, 1), 4 / 20 - 16 / 36, id="cross"),
    ],
)
def test_giou_by_hand(found, true, expected):
    """Rezatofighi et al. 2019: IoU less the part of the hull that neither box covers."""
    assert side_giou(torch.tensor([found]).float(), torch.tensor([true]).float()).item() == pytest.approx(expected)


@given(st.lists(st.integers(-1, CLASSES - 1), min_size=1, max_size=12), st.integers(0, 9999))
@settings(max_examples=60, deadline=None)
def test_class_loss_is_that_of_a_loop(classes, seed):
    """Focal loss summed over points and classes, over the number of positives and the loss of an untrained one."""
    logits = torch.randn(len(classes), CLASSES, generator=torch.Generator().manual_seed(seed)).double() * 3
    total = 0.0
    for row, kind in zip(logits.tolist(), classes, strict=True):
        for k, logit in enumerate(row):
            chance = 1 / (1 + math.exp(-logit))
            right, alpha = (chance, 0.25) if k == kind else (1 - chance, 0.75)
            total += alpha * (1 - right) ** 2 * -math.log(right)
    untrained = 0.25 * (1 - PRIOR) ** 2 * -math.log(PRIOR)
    expected = total / max(1, sum(kind >= 0 for kind in classes)) / untrained
    assert class_loss(logits, torch.tensor(classes)).item() == pytest.approx(expected, rel=1e-6)


def detection(classes: int = CLASSES) -> Detection:
    names = tuple(f"c{k}" for k in range(classes))
    torch.manual_seed(0)
    return Detection(HeadSpec(name="d", kind="detection", classes=names, modality="x"))


@given(st.lists(labelled_boxes(), min_size=1, max_size=3), st.integers(0, 9999))
@settings(max_examples=30, deadline=None)
def test_the_loss_is_that_of_a_loop(images, seed):
    """Class loss, GIoU loss weighted by centreness and 0.2 of centreness, each over all images of the batch."""
    size = 64
    points, rng = points_of(size, size), torch.Generator().manual_seed(seed)
    n, count = len(images), len(points.xy)
    outputs = BoxOutputs(
        points,
        torch.randn(n, count, CLASSES, generator=rng).double(),
        torch.rand(n, count, 4, generator=rng).double() * 4,
        torch.randn(n, count, generator=rng).double(),
        (size, size),
    )
    kinds, weights, losses, entropies = [], [], [], []
    for i, boxes in enumerate(images):
        for p, (level, x, y) in enumerate(cells(size, size)):
            kind, sides, centre = target_of(level, x, y, boxes)
            kinds.append(kind)
            if kind < 0:
                continue
            found = outputs.sides[i, p].tolist()
            both, union, hull = overlap_and_hull(
                (-found[0], -found[1], found[2], found[3]), (-sides[0], -sides[1], sides[2], sides[3])
            )
            weights.append(centre)
            losses.append(1 - (both / union - (hull - union) / hull))
            chance = 1 / (1 + math.exp(-outputs.centres[i, p].item()))
            entropies.append(-centre * math.log(chance) - (1 - centre) * math.log(1 - chance))
    expected = class_loss(outputs.logits.flatten(0, 1), torch.tensor(kinds)).item()
    if losses:
        expected += sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
        expected += 0.2 * sum(entropies) / len(entropies) / math.log(2)
    batch = Batch(images=torch.zeros(n, 3, 1, 1, dtype=torch.uint8), boxes=tuple(map(tensors, images)))
    assert detection().loss_of(outputs, batch).item() == pytest.approx(expected / 2.2, rel=1e-5)


def boxes_by_loop(
    points: Points, logits: torch.Tensor, sides: torch.Tensor, centres: torch.Tensor, size: tuple[int, int]
) -> list[Found]:
    """What FCOS reads off: candidates, clipped, then greedy suppression inside each class."""
    chance, centre = logits.sigmoid(), centres.sigmoid()
    candidates: list[Found] = []
    for level in range(len(BOX_STRIDES)):
        of_level = [
            (chance[p, k].item(), p, k)
            for p in range(len(points.xy))
            if points.level[p] == level
            for k in range(logits.shape[1])
        ]
        of_level.sort(key=lambda c: -c[0])
        for likely, p, k in of_level[:PER_LEVEL]:
            score = likely * centre[p].item()
            x, y = points.xy[p].tolist()
            left, top, right, bottom = (s * points.stride[p].item() for s in sides[p].tolist())
            x0, x1 = (min(max(v, 0.0), size[1]) for v in (x - left, x + right))
            y0, y1 = (min(max(v, 0.0), size[0]) for v in (y - top, y + bottom))
            if likely > MIN_SCORE and score > MIN_SCORE and x1 > x0 and y1 > y0:
                candidates.append((score, (x0, y0, x1, y1), k))
    candidates.sort(key=lambda c: -c[0])
    kept: list[Found] = []
    for score, box, k in candidates:
        if all(k != other or iou_of(box, better) <= MAX_IOU for _, better, other in kept):
            kept.append((score, box, k))
    return kept[:PER_IMAGE]


@given(st.integers(0, 99_999), st.sampled_from([(64, 64), (40, 90), (17, 9)]), st.sampled_from([-6.0, -2.0, 1.0]))
@settings(max_examples=40, deadline=None)
def test_boxes_read_are_those_of_a_loop(seed, size, bias):
    """From few candidates to hundreds, clipped to the image as given; best first."""
    points, rng = points_of(-(-size[0] // 32) * 32, -(-size[1] // 32) * 32), torch.Generator().manual_seed(seed)
    count = len(points.xy)
    logits = torch.randn(count, CLASSES, generator=rng).double() * 2 + bias
    sides = torch.randint(0, 20, (count, 4), generator=rng).double() / 4
    centres = torch.randn(count, generator=rng).double()
    found = read_boxes(points, logits, sides, centres, size)
    expected = boxes_by_loop(points, logits, sides, centres, size)
    assert found.scores.tolist() == pytest.approx([score for score, _, _ in expected])
    assert [tuple(b) for b in found.xyxy.tolist()] == [box for _, box, _ in expected]
    assert found.classes.tolist() == [k for _, _, k in expected]


def said_at(points: Points, says: dict[tuple[float, float], tuple[float, int, Box]]) -> tuple[torch.Tensor, ...]:
    """Outputs where each of some points of stride 8 says one box (logit, class, sides in strides)."""
    count = len(points.xy)
    logits, sides = torch.full((count, CLASSES), -9.0), torch.zeros(count, 4)
    for (x, y), (logit, k, reach) in says.items():
        where = int(torch.nonzero((points.xy == torch.tensor([x, y])).all(1) & (points.level == 0))[0, 0])
        logits[where, k] = logit
        sides[where] = torch.tensor(reach)
    return logits, sides, torch.full((count,), 9.0)


# Points (12, 12) and (20, 12) with these sides give boxes of 16 x 16 px, 8 px apart or the same.
SQUARE, SHIFTED, SHORTER = (1.0, 1.0, 1.0, 1.0), (2.0, 1.0, 0.0, 1.0), (2.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        pytest.param({(12, 12): (3.0, 1, SQUARE)}, [((4, 4, 20, 20), 1)], id="one"),
        pytest.param({(12, 12): (-4.0, 1, SQUARE)}, [], id="too-unlikely"),
        pytest.param({(12, 12): (3.0, 1, (0.0, 1.0, 0.0, 1.0))}, [], id="no-width"),
        pytest.param({(4, 4): (3.0, 0, SQUARE)}, [((0, 0, 12, 12), 0)], id="clipped"),
        pytest.param({(28, 12): (3.0, 0, (-0.5, 1.0, 3.0, 1.0))}, [], id="in-the-padding"),
        pytest.param(
            {(12, 12): (3.0, 1, SQUARE), (20, 12): (4.0, 1, SHIFTED)}, [((4, 4, 20, 20), 1)], id="the-same-twice"
        ),
        pytest.param(
            {(12, 12): (3.0, 1, SQUARE), (20, 12): (4.0, 2, SHIFTED)},
            [((4, 4, 20, 20), 2), ((4, 4, 20, 20), 1)],
            id="of-two-classes-best-first",
        ),
        pytest.param(
            {(12, 12): (4.0, 1, SQUARE), (20, 12): (3.0, 1, SHORTER)},
            [((4, 4, 20, 20), 1), ((4, 4, 20, 12), 1)],
            id="an-overlap-of-half-is-kept",
        ),
    ],
)
def test_boxes_read_by_hand(says, expected):
    """In an image of 30 x 30 px, padded to 32."""
    points = points_of(32, 32)
    found = read_boxes(points, *said_at(points, says), (30, 30))
    assert [(tuple(b), k) for b, k in zip(found.xyxy.tolist(), found.classes.tolist(), strict=True)] == expected


def test_a_crowd_is_cut_at_the_limit():
    """Of more boxes than are kept, none of which overlap by half, the best are."""
    points = points_of(256, 256)
    count = len(points.xy)
    logits = torch.linspace(0, 3, count)[:, None]
    found = read_boxes(points, logits, torch.full((count, 4), 0.25), torch.full((count,), 50.0), (256, 256))
    assert found.scores.tolist() == pytest.approx(logits[:, 0].sigmoid().flip(0)[:PER_IMAGE].tolist())
    assert torch.equal((found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2, points.xy.flip(0)[:PER_IMAGE])


def test_a_level_is_cut_before_suppression():
    """Where the best points of a level all say one box, those beyond the limit are not asked."""
    points = points_of(256, 256)
    corners = torch.cat([points.xy, 256 - points.xy], 1) / points.stride[:, None]
    rank = torch.arange(len(points.xy))
    logits = torch.where(points.level == 0, 3 - rank / 1000, -9.0)[:, None]
    for same, expected in ((PER_LEVEL, 1), (PER_LEVEL - 1, 2)):
        sides = torch.where(rank[:, None] < same, corners, 0.25)
        assert len(read_boxes(points, logits, sides, torch.full((len(rank),), 9.0), (256, 256)).scores) == expected


def ap_by_loop(found: list[list[Found]], true: list[list[Labelled]], k: int, iou: float) -> float:
    """Area under the precision-recall curve: for each true box, the best precision at its recall or beyond."""
    total = sum(kind == k for boxes in true for _, kind in boxes)
    if total == 0:
        return math.nan
    ranked = [(score, i, box) for i, image in enumerate(found) for score, box, kind in image if kind == k]
    ranked.sort(key=lambda r: -r[0])
    taken: set[tuple[int, int]] = set()
    hits = []
    for _, i, box in ranked:
        best, which = 0.0, -1
        for j, (other, kind) in enumerate(true[i]):
            if kind == k and (i, j) not in taken and iou_of(box, other) > best:
                best, which = iou_of(box, other), j
        hit = best >= iou
        if hit:
            taken.add((i, which))
        hits.append(hit)
    precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
    return sum(max(precisions[n:]) for n, hit in enumerate(hits) if hit) / total


small = st.integers(0, 12)
small_box = st.tuples(small, small, st.integers(1, 8), st.integers(1, 8)).map(
    lambda b: (float(b[0]), float(b[1]), float(b[0] + b[2]), float(b[1] + b[3]))
)
truth_boxes = st.lists(st.tuples(small_box, st.integers(0, 1)), max_size=5)
found_boxes = st.lists(st.tuples(st.integers(1, 8).map(lambda n: n / 8), small_box, st.integers(0, 1)), max_size=6)


@given(
    st.lists(st.tuples(truth_boxes, found_boxes, st.booleans()), min_size=1, max_size=3), st.sampled_from([0.3, 0.5])
)
@settings(max_examples=150, deadline=None)
def test_average_precision_is_that_of_a_loop(images, iou):
    """Over several images, with ties in score and overlap, images without boxes and boxes found twice."""
    true = [boxes for boxes, _, _ in images]
    # Some images have all their boxes found, and more.
    found = [[*more, *((0.5, b, k) for b, k in boxes if every)] for boxes, more, every in images]
    detections = [
        Detections(
            torch.tensor([b for _, b, _ in image]).reshape(-1, 4),
            torch.tensor([k for _, _, k in image]).long(),
            torch.tensor([s for s, _, _ in image]),
        )
        for image in found
    ]
    result = mean_average_precision(detections, [tensors(boxes) for boxes in true], 3, iou)
    assert result == pytest.approx([ap_by_loop(found, true, k, iou) for k in range(3)], nan_ok=True)


A, B, ELSEWHERE = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (50.0, 50.0, 60.0, 60.0)
HALF = (0.0, 0.0, 10.0, 5.0)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([(0.9, A), (0.8, B)], 1.0, id="all"),
        pytest.param([(0.9, A)], 0.5, id="one-of-two"),
        pytest.param([], 0.0, id="none"),
        pytest.param([(0.9, ELSEWHERE), (0.8, A), (0.7, B)], 2 / 3, id="a-wrong-one-first"),
        pytest.param([(0.9, A), (0.8, B), (0.7, ELSEWHERE)], 1.0, id="a-wrong-one-last-costs-nothing"),
        pytest.param([(0.9, A), (0.8, A), (0.7, B)], 0.5 + 0.5 * 2 / 3, id="found-twice-is-wrong-once"),
        pytest.param([(0.9, HALF), (0.8, B)], 1.0, id="an-overlap-of-half-is-enough"),
    ],
)
def test_average_precision_by_hand(found, expected):
    """Two true boxes in one image."""
    detections = Detections(
        torch.tensor([b for _, b in found]).reshape(-1, 4),
        torch.zeros(len(found), dtype=torch.int64),
        torch.tensor([s for s, _ in found]),
    )
    assert mean_average_precision([detections], [tensors([(A, 0), (B, 0)])], 1) == pytest.approx([expected])


def test_the_meter_means_over_classes_that_are_there():
    """A class that no image has is nan and left out of the mean."""
    task = detection()
    meter = task.meter()
    points = points_of(32, 32)
    logits, sides, centres = said_at(points, {(12, 12): (3.0, 1, SQUARE)})
    outputs = BoxOutputs(points, logits[None], sides[None], centres[None], (32, 32))
    boxes = (tensors([((4.0, 4.0, 20.0, 20.0), 1), ((0.0, 0.0, 9.0, 9.0), 0)]),)
    meter.add(outputs, Batch(images=torch.zeros(1, 3, 32, 32, dtype=torch.uint8), boxes=boxes))
    expected = {"map50": 0.5, "ap50_c0": 0.0, "ap50_c1": 1.0, "ap50_c2": math.nan}
    assert meter.figures() == pytest.approx(expected, nan_ok=True)


def test_a_head_learns_to_find_a_box():
    """Trained on the features of one image, its boxes become those of the label: all parts fit each other."""
    torch.manual_seed(0)
    shared = UMedPT(ModelSpec(backbone="convnext_atto", dim=16)).eval()
    images = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    boxes = (tensors([((3.0, 4.0, 30.0, 25.0), 1), ((36.0, 6.0, 60.0, 31.0), 0)]),)
    batch = Batch(images=images, boxes=boxes)
    with torch.no_grad():
        features = shared.features(shared.normalised(images))
    task = detection()
    learning = [*task.parameters(), *shared.boxes.parameters()]
    optimizer = torch.optim.Adam(learning, lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        task.loss_of(task(shared, features), batch).backward()
        optimizer.step()
    with torch.no_grad():
        outputs = task(shared, features)
    meter = task.meter()
    meter.add(outputs, batch)
    assert meter.figures()["map50"] == 1
    best = task.detections(outputs)[0]
    for (box,), kind in zip(boxes[0].xyxy.split(1), boxes[0].classes.tolist(), strict=True):
        first = best.xyxy[best.classes == kind][0]
        assert iou_of(tuple(first.tolist()), tuple(box.tolist())) > 0.6


def test_a_class_no_point_answers_for_is_silent():
    """Logits of an untrained head give no box: the prior chance is below the least score."""
    assert F.sigmoid(torch.tensor(-math.log((1 - PRIOR) / PRIOR))) < MIN_SCORE
    points = points_of(64, 64)
    count = len(points.xy)
    logits = torch.full((count, CLASSES), -math.log((1 - PRIOR) / PRIOR))
    found = read_boxes(points, logits, torch.ones(count, 4), torch.zeros(count), (64, 64))
    assert found.xyxy.shape == (0, 4)
