"""Boxes from CSV, COCO JSON and VOC XML are the same boxes; what contradicts the image or the task is refused."""

import pytest

from wsi_umedpt.errors import DataError

BOXES = {"a.png": [("red", (2, 3, 12, 9)), ("white", (20, 10, 40, 32))], "b.png": [("red", (0, 0, 5, 5))], "c.png": []}


def corners(folder):
    rows = [[name[:-4], kind, *map(str, box)] for name, boxes in BOXES.items() for kind, box in boxes]
    folder.table("labels.csv", "image cls xmin ymin xmax ymax", *rows, ["c", "", "", "", "", ""])
    return "labels.csv"


def sizes(folder):
    rows = [
        [name, kind, f"{b[0]}", f"{b[1]}", f"{b[2] - b[0]}.0", f"{b[3] - b[1]}"]
        for name, boxes in BOXES.items()
        for kind, b in boxes
    ]
    folder.table("labels.csv", "image cls x y w h", *rows, ["c.png", "", "", "", "", ""])
    return "labels.csv"


def coco_content():
    names = [*BOXES]
    annotations = [
        {"id": 1, "image_id": names.index(n), "category_id": {"red": 3, "white": 9}[kind], "bbox": [x, y, X - x, Y - y]}
        for n, boxes in BOXES.items()
        for kind, (x, y, X, Y) in boxes
    ]
    crowd = {"id": 2, "image_id": 0, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    return {
        "images": [{"id": i, "file_name": n} for i, n in enumerate(names)],
        "categories": [{"id": 9, "name": "white"}, {"id": 3, "name": "red"}],
        "annotations": [*annotations, crowd],
    }


def coco(folder):
    folder.json("labels.json", coco_content())
    return "labels.json"


def voc_xml(name, boxes):
    tags = ("xmin", "ymin", "xmax", "ymax")
    things = "".join(
        f"<object><name>{kind}</name><bndbox>{''.join(f'<{t}>{v}</{t}>' for t, v in zip(tags, box, strict=True))}"
        "</bndbox></object>"
        for kind, box in boxes
    )
    return f"<annotation><filename>{name}</filename>{things}</annotation>"


def voc(folder):
    for name, boxes in BOXES.items():
        folder.text(f"labels/{name[:-4]}.xml", voc_xml(name, boxes))
    return "labels"


@pytest.fixture
def pictures(folder):
    """Three images of 40 x 32 px."""
    for name in BOXES:
        folder.picture(f"images/{name}")
    return folder


def find(folder, labels, **fields):
    return folder.find("detection", "red white", "boxes", labels=labels, **fields)


@pytest.mark.parametrize("written", [corners, sizes, coco, voc])
def test_every_form_gives_the_same_boxes(pictures, written):
    """However boxes are written they arrive as corners in px with their class; an image may have none."""
    found = find(pictures, written(pictures))
    samples = {name: record.read() for name, record in found.items()}
    kinds = ("red", "white")
    assert {
        name: [(kinds[k], tuple(box)) for k, box in zip(c.box_classes, c.xyxy.tolist(), strict=True)]
        for name, c in samples.items()
    } == BOXES
    assert {(c.xyxy.dtype.name, c.box_classes.dtype.name, c.xyxy.shape[1]) for c in samples.values()} == {
        ("float32", "int64", 4)
    }


def test_points_become_boxes_of_one_side(pictures):
    """Points are the middles of boxes of `point_px`, cut where they leave the image, whatever columns there are."""
    pictures.table(
        "labels.csv", "image cls x y w h", ["a", "red", "10", "12", "99", ""], ["a", "white", "39.5", "0", "1", "1"]
    )
    sample = find(pictures, "labels.csv", point_px=8)["a.png"].read()
    assert sample.xyxy.tolist() == [[6, 8, 14, 16], [35.5, 0, 40, 4]]
    assert sample.box_classes.tolist() == [0, 1]


def test_points_outside_the_image_are_refused(pictures):
    """A point beyond the edge is a mistake, as a box there is."""
    pictures.table("labels.csv", "image cls x y", ["a", "red", "10", "12"], ["a", "red", "41", "3"])
    with pytest.raises(DataError, match=r"40 x 32 px; 1 of its points lie outside, the first at \[41"):
        find(pictures, "labels.csv", point_px=8)["a.png"].read()


BAD_FILES = [
    pytest.param("l.csv", "image,cls,x0,y0,x1,y1\na,red,1,2,3,4\n", "no columns xmin", id="csv-other-columns"),
    pytest.param("l.csv", "image,kind,xmin,ymin,xmax,ymax\na,red,1,2,3,4\n", "no column cls", id="csv-no-class"),
    pytest.param("l.csv", "image,cls,x,y,w,h\na,red,1,2,,4\nb,red,1,2,3,x\n", r"(?s)row 2.*row 3", id="csv-cells"),
    pytest.param("l.csv", "image,cls,x,y,w,h\na,red,1,2,3,4\nz,red,1,2,3,4\n", r"no image 'z'", id="csv-image"),
    pytest.param("l.csv", "image,cls,x,y,w,h\na,red,1,2,3,4\na.png,red,1,2,3,4\n", "both a.png", id="csv-two-names"),
    pytest.param("l.csv", "image,cls,x,y,w,h\na,red,1\n", "a box is four numbers", id="csv-short"),
    pytest.param("l.json", "{", "cannot be read as COCO", id="coco-no-json"),
    pytest.param("l.json", '{"images": []}', "cannot be read as COCO", id="coco-no-categories"),
    pytest.param("l.json", "[]", "cannot be read as COCO", id="coco-list"),
    pytest.param(
        "l.json",
        '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "red"}], "annotations": ['
        '{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4]},'
        '{"image_id": 7, "category_id": 1, "bbox": [1, 2, 3, 4]},'
        '{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3]}, {"image_id": 1, "category_id": 1}, 5]}',
        r"(?s)\(5\).*annotation 0: there is no 2.*annotation 1: there is no 7.*annotation 2: a box is four numbers"
        r".*annotation 3: there is no 'bbox'.*annotation 4",
        id="coco-annotations",
    ),
    pytest.param("l/a.xml", "<annotation><object>", r"a\.xml cannot be read as VOC", id="voc-no-xml"),
    pytest.param("l/a.xml", "<annotation><object><name>red</name></object></annotation>", "a.xml", id="voc-no-box"),
    pytest.param("l/a.xml", voc_xml("a.png", [("red", (1, 2, "x", 4))]), "four numbers", id="voc-words"),
    pytest.param(
        "l/a.xml", '<!DOCTYPE a [<!ENTITY e "x">]><annotation><filename>&e;</filename></annotation>', "a.xml",
        id="voc-entities",
    ),
    pytest.param("l.txt", "", "boxes are read from .csv, .tsv, .xlsx, .json", id="no-such-format"),
    pytest.param("l.csv", "image,cls,x,y,w,h\na,blue,1,2,3,4\nb,green,1,2,3,4\n", r"(?s)blue.*green", id="classes"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), BAD_FILES)
def test_box_files_that_cannot_be_right_are_refused(pictures, name, content, said):
    """All that is wrong in a box file is said at once, before an image is read."""
    pictures.text(name, content)
    with pytest.raises(DataError, match=said):
        find(pictures, name.split("/")[0])


def test_voc_files_of_one_image_are_refused(pictures):
    """Two files for one image contradict each other."""
    for name in ("a", "b"):
        pictures.text(f"labels/{name}.xml", voc_xml("a.png", []))
    with pytest.raises(DataError, match=r"b\.xml cannot be read as VOC: another file has the boxes of 'a\.png'"):
        find(pictures, "labels")


@pytest.mark.parametrize(
    ("box", "drop", "kept"),
    [
        pytest.param("10,10,41,33", False, 1, id="within-a-pixel-of-the-edge"),
        pytest.param("10,10,42,32", False, None, id="outside-at-the-right"),
        pytest.param("10,10,40,34", False, None, id="outside-below"),
        pytest.param("-2,10,20,20", False, None, id="outside-at-the-left"),
        pytest.param("10,10,10,20", False, None, id="empty"),
        pytest.param("10,10,10,20", True, 0, id="empty-dropped"),
        pytest.param("10,10,20,9", True, 0, id="upside-down-dropped"),
        pytest.param("10,10,42,32", True, None, id="outside-is-not-dropped"),
        pytest.param("10,nan,20,20", False, None, id="nan"),
        pytest.param("10,nan,20,20", True, None, id="nan-is-not-dropped"),
        pytest.param("10,10,inf,20", False, None, id="infinite"),
    ],
)
def test_boxes_that_cannot_be_right_are_refused_when_read(pictures, box, drop, kept):
    """A box that is empty or leaves its image is refused with the image's size; empty ones may be left out instead."""
    pictures.text("l.csv", f"image,cls,xmin,ymin,xmax,ymax\na,red,{box}\n")
    record = find(pictures, "l.csv", drop_empty_boxes=drop)["a.png"]
    if kept is None:
        with pytest.raises(DataError, match=r"a\.png is 40 x 32 px; 1 of its boxes"):
            record.read()
    else:
        assert len(record.read().xyxy) == kept


def test_a_csv_of_boxes_says_patient_and_split_itself(pictures):
    """`where`, patient and split are read from the boxes' own rows; they agree over an image's rows."""
    columns = "image cls x y w h who side site"
    rows = [
        ["a", "red", "1", "1", "5", "5", "P1", "val", "x"],
        ["a", "red", "2", "2", "5", "5", "P1", "val", "x"],
        ["b", "red", "2", "2", "5", "5", "P2", "val", "y"],
    ]
    pictures.table("l.csv", columns, *rows)
    of = {"patient_column": "who", "split_column": "side"}
    found = find(pictures, "l.csv", where={"site": "x"}, **of)
    assert {n: (r.group, r.split, len(r.xyxy)) for n, r in found.items()} == {"a.png": ("made/p1", "val", 2)}
    rows[1][6] = "P9"
    pictures.table("l.csv", columns, *rows)
    with pytest.raises(DataError, match="row 3: who is 'P9', in an earlier row of the image 'P1'"):
        find(pictures, "l.csv", **of)


@pytest.mark.parametrize("written", [corners, coco, voc])
def test_a_table_beside_the_boxes_says_patient_and_split(pictures, written):
    """With a table, patient and split come from it, and only images that it names are used."""
    pictures.table("more.csv", "image who side", ["a", "P1", "test"], ["c.png", "P2", "train"])
    found = find(pictures, written(pictures), table="more.csv", patient_column="who", split_column="side")
    assert {n: (r.group, r.split) for n, r in found.items()} == {
        "a.png": ("made/p1", "test"),
        "c.png": ("made/p2", "train"),
    }
