"""Every source gives the records that its files describe, and refuses all that contradict it in one error."""

import math

import numpy as np
import pytest

from wsi_umedpt.errors import DataError


def test_class_folders(folder):
    """A folder a class: the label is the place of its name among the classes."""
    for name in ("high/a.png", "high/b.jpg", "low/c.png"):
        folder.picture(f"images/{name}")
    folder.text("images/low/notes.txt", "no image")
    found = folder.find("classification", "low high", "class_folders")
    assert {name: r.label for name, r in found.items()} == {"high/a.png": (1,), "high/b.jpg": (1,), "low/c.png": (0,)}
    assert {r.group for r in found.values()} == {"made/a", "made/b", "made/c"}
    assert found["low/c.png"].read().label.tolist() == [0]


def test_class_folders_with_a_table(folder):
    """A table says more of each image: patient, split, and which images to use."""
    for name in ("high/p.001.png", "low/p.002.png", "low/p.003.png", "low/p.004.png"):
        folder.picture(f"images/{name}")
    folder.table(
        "more.csv", "image patient split stain", ["p.001", "P1", "Train", "HE"], ["p.002.png", "P1", "train", "HE"],
        ["p.003", "P2", "test", "PAS"],
    )  # fmt: skip
    found = folder.find(
        "classification", "low high", "class_folders",
        table="more.csv", patient_column="patient", split_column="split", where={"stain": "HE"},
    )  # fmt: skip
    assert {n: (r.group, r.split) for n, r in found.items()} == {
        "high/p.001.png": ("made/p1", "train"), "low/p.002.png": ("made/p1", "train"),
    }  # fmt: skip


@pytest.fixture
def table(folder):
    """Three images and a table of all that can be said of them."""
    for name in "abc":
        folder.picture(f"images/{name}.png")
    folder.table(
        "t.csv", "image grade found age weight mass edema who",
        ["a", "high", "mass | edema", "61", "", "1", "0", "P1"],
        ["b.png", "low", "No finding", "", "80.5", "", "1", "P2"],
        ["c", "low", "edema", "34", "70", "-1", "0"],
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("kind", "classes", "column", "expected"),
    [
        pytest.param("classification", "low high", "grade", [(1,), (0,), (0,)], id="classification"),
        pytest.param("multilabel", "mass edema", "found", [(1, 1), (0, 0), (0, 1)], id="multilabel-by-separator"),
        pytest.param("multilabel", "mass edema", "", [(1, 0), (-1, 1), (-1, 0)], id="multilabel-by-column"),
        pytest.param("regression", "age weight", "", [(61, math.nan), (math.nan, 80.5), (34, 70)], id="regression"),
        pytest.param("regression", "years", "age", [(61,), (math.nan,), (34,)], id="regression-by-another-name"),
    ],
)
def test_tables(table, kind, classes, column, expected):
    """A row an image, named with or without suffix; empty cells are not labelled (-1, or nan for values)."""
    found = table.find(kind, classes, "table", labels="t.csv", label_column=column)
    assert np.array_equal([found[f"{n}.png"].label for n in "abc"], expected, equal_nan=True)
    label = found["b.png"].read().label
    assert label.dtype == np.float32
    assert np.array_equal(label, expected[1], equal_nan=True)


def test_the_group_is_the_patient(table):
    """By column, or by the first group of a pattern on the file's name, else the image itself; in small letters."""
    of = {"labels": "t.csv", "label_column": "age"}
    groups = [
        {name: r.group for name, r in table.find("regression", "age", "table", **of, **more).items()}
        for more in ({}, {"patient_pattern": "([A-z])[.]png$"}, {"where": {"age": "61"}, "patient_column": "who"})
    ]
    assert groups[0] == groups[1] == {f"{n}.png": f"made/{n}" for n in "abc"}
    assert groups[2] == {"a.png": "made/p1"}


def test_neighbours_in_number_are_one_patient(folder):
    """With `patient_block`, the last group of the pattern is a number, and numbers of one block are one patient."""
    for name in ("low_3", "low_19", "low_20", "high_3"):
        folder.picture(f"images/{name}.png")
    rows = [[name, name.split("_")[0]] for name in ("low_3", "low_19", "low_20", "high_3")]
    folder.table("t.csv", "image grade", *rows)
    of = {"labels": "t.csv", "label_column": "grade", "patient_block": 20}
    found = folder.find("classification", "low high", "table", patient_pattern=r"^([a-z]+)_(\d+)", **of)
    assert [r.group for r in found.values()] == ["made/low/0", "made/low/0", "made/low/1", "made/high/0"]
    with pytest.raises(DataError, match="patient_block needs a number"):
        folder.find("classification", "low high", "table", patient_pattern=r"^([a-z]+)", **of)


@pytest.mark.parametrize(
    ("one", "other"),
    [("P7", "p07"), ("007", "7"), ("P\u200b1", "P1"), ("P-1", "P\u20131")],
    ids=["case", "zeros", "unseen", "dash"],
)
def test_one_patient_in_two_spellings_is_refused(folder, one, other):
    """The side of a split is a hash of the name: two spellings of one patient may be trained on and tested."""
    for name in "ab":
        folder.picture(f"images/{name}.png")
    folder.table("t.csv", "image age who", ["a", "1", one], ["b", "2", other])
    with pytest.raises(DataError, match=r"one patient\? Write one in one way"):
        folder.find("regression", "age", "table", labels="t.csv", patient_column="who")


@pytest.mark.parametrize("header", ["image;AGE;who ", " image;age;Who", "Image;Age;WHO"])
def test_columns_are_found_in_any_case_and_with_semicolons(folder, header):
    """As spreadsheets write them; a column that is not found might be the patient's."""
    folder.picture("images/a.png")
    (folder.path / "t.csv").write_text(f"{header}\na.png;5;P1\n")
    found = folder.find("regression", "age", "table", labels="t.csv", patient_column="who")
    assert (found["a.png"].group, found["a.png"].label) == ("made/p1", (5,))


def test_the_collection_is_by_default_the_folder_above_the_images(table):
    """Tasks on the same data name the same groups, without anybody having to say so."""
    from wsi_umedpt.datasets.records import DataSpec
    from wsi_umedpt.datasets.sources import find_records

    spec = DataSpec(source="table", images=table.path / "images", labels=table.path / "t.csv")
    assert find_records(spec, "regression", ("age",))[0].group == f"{table.path.name}/a"


BAD_TABLES = [
    pytest.param("classification", "low high", {"label_column": "grad"}, [], ["no column grad", "grade"], id="column"),
    pytest.param("regression", "age size", {}, [], ["no column size"], id="value's-column"),
    pytest.param("multilabel", "mass nodule", {}, [], ["no column nodule"], id="label's-column"),
    pytest.param("regression", "age", {"patient_column": "patient"}, [], ["no column patient"], id="patient's-column"),
    pytest.param("regression", "age", {"where": {"site": "b"}}, [], ["no column site"], id="where's-column"),
    pytest.param("regression", "age", {"where": {"grade": "none"}}, [], ["holds no labelled images"], id="no-rows"),
    pytest.param("classification", "low", {}, [], ["needs label_column"], id="no-label-column"),
    pytest.param("segmentation", "a b", {}, [], ["table", "not what segmentation needs"], id="no-masks-in-a-table"),
    pytest.param(
        "classification", "low high", {"label_column": "grade"},
        [["x", "low"], ["a.png", "high"], ["zz.png", "low"]],
        ["(3)", "row 5: no image 'x'", "row 6: a.png stands in row 2 too", "row 7: no image 'zz.png'"],
        id="images",
    ),
    pytest.param(
        "classification", "low", {"label_column": "grade", "where": {"grade": "high"}}, [],
        ["row 2: class 'high' is none of low"], id="class",
    ),
    pytest.param(
        "classification", "high", {"label_column": "grade", "where": {"found": "edema"}}, [],
        ["row 4: class 'low'"], id="row-number-under-where",
    ),
    pytest.param(
        "multilabel", "mass oedema", {"label_column": "found"}, [], ["no row has the label 'oedema'"],
        id="misspelt-label",
    ),
    pytest.param("multilabel", "age mass", {}, [], ["row 2: a label is 1, 0", "row 4"], id="label-of-61"),
    pytest.param("regression", "grade", {}, [], ["row 2: 'high' is no number", "row 3: 'low'"], id="words-for-values"),
    pytest.param("regression", "age", {"split_column": "grade"}, [], ["split is train, val or test"], id="split"),
    pytest.param("regression", "age", {"patient_column": "who"}, [], ["row 4: c.png: no patient"], id="no-patient"),
    pytest.param("regression", "age", {"patient_pattern": "^([ab])"}, [], ["c.png: no patient by"], id="no-match"),
    pytest.param("regression", "age", {}, [["a"] * 9], ["row 5 has more cells than the header"], id="long-row"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "classes", "fields", "rows", "said"), BAD_TABLES)
def test_tables_that_contradict_the_task_are_refused(table, kind, classes, fields, rows, said):
    """Every row that cannot be right is listed with its number in the file."""
    whole = (table.path / "t.csv").read_text()
    table.text("t.csv", whole + "".join(",".join(row) + "\n" for row in rows))
    with pytest.raises(DataError) as caught:
        table.find(kind, classes, "table", labels="t.csv", **fields)
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("images", "labels", "named"),
    [
        pytest.param("images", "t.csv", "images/{}.png", id="from-the-table"),
        pytest.param("images", "t.csv", "./images/{}", id="without-suffix"),
        pytest.param("images", "t.csv", r"images\{}.png", id="of-windows"),
        pytest.param("images", "tables/t.csv", "../images/{}.png", id="from-a-table-beside"),
        pytest.param("images", "images/t.csv", "{}.png", id="table-among-the-images"),
        pytest.param(".", "t.csv", "images/{}.png", id="from-the-folder-of-images"),
        pytest.param(".", "tables/t.csv", "images/{}.png", id="from-the-folder-and-not-the-table"),
    ],
)
def test_tables_may_name_images_by_their_path(table, images, labels, named):
    """From the table, as most are written, or from the folder of images; boxes too."""
    table.table(labels, "image grade", *([named.format(n), grade] for n, grade in zip("abc", "xyx", strict=True)))
    found = table.find("classification", "x y", "table", images=images, labels=labels, label_column="grade")
    assert [(r.path.name, r.label) for r in found.values()] == [("a.png", (0,)), ("b.png", (1,)), ("c.png", (0,))]
    assert [*found] == [f"{'images/' if images == '.' else ''}{n}.png" for n in "abc"]
    assert all(r.path.is_file() for r in found.values())
    table.table(labels, "image cls xmin ymin xmax ymax", *([named.format(n), "x", "1", "2", "9", "9"] for n in "abc"))
    assert len(table.find("detection", "x", "boxes", images=images, labels=labels)) == 3


@pytest.mark.parametrize(
    "named", ["../outside.png", "images/../../x/outside.png", "/etc/hostname", "images", "", "a/b"]
)
def test_a_table_names_no_image_outside_the_folder(table, named):
    """Whatever its paths say; what is not there is listed with its row."""
    (table.path / "outside.png").write_bytes((table.path / "images" / "a.png").read_bytes())
    table.table("images/t.csv", "image age", ["a.png", "1"], [named, "2"])
    with pytest.raises(DataError, match=rf"row 3: no image '{named}' in .*by its path"):
        table.find("regression", "age", "table", labels="images/t.csv")


def test_images_of_one_name_in_two_folders_are_two(table):
    """A path says which is meant, and neither is taken for the other."""
    for folder in ("one", "two"):
        table.picture(f"images/{folder}/same.png")
    table.table("t.csv", "image age", ["images/one/same.png", "1"], ["images/two/same.png", "2"])
    found = table.find("regression", "age", "table", labels="t.csv")
    assert {name: r.label for name, r in found.items()} == {"one/same.png": (1,), "two/same.png": (2,)}
    assert {r.group for r in found.values()} == {"made/same"}, "one side of every split, as they may be one patient"


@pytest.mark.parametrize("value", ["inf", "-inf", "1e999", "1,5", "old"])
def test_values_are_finite_numbers(table, value):
    """What is no finite number cannot be learnt; nan is an empty cell."""
    table.table("t.csv", "image age", ["a", "nan"], ["b", value])
    with pytest.raises(DataError, match=rf"row 3: '{value}' is no number"):
        table.find("regression", "age", "table", labels="t.csv")


@pytest.mark.parametrize("content", [pytest.param(b"", id="empty"), pytest.param(b"image,age\n\xff,1\n", id="no-text")])
def test_a_file_that_is_no_table_is_refused(table, content):
    """A CSV without a header, or in no UTF-8, is named."""
    (table.path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"t\.csv"):
        table.find("regression", "age", "table", labels="t.csv")


def test_many_problems_are_counted_and_the_first_shown(table):
    """A long list is cut after twenty, and its length said."""
    table.table("t.csv", "image age", *([f"x{i}", "1"] for i in range(30)))
    with pytest.raises(DataError, match=r"\(30\)(.|\n)*'x19'(.|\n)*and 10 more$"):
        table.find("regression", "age", "table", labels="t.csv")


def test_bags(table):
    """Images with the same value are one bag: one group and one label."""
    table.table("t.csv", "image slide grade", ["a", "S1", "high"], ["b", "S2", "low"], ["c", "S1", "high"])
    found = table.find("classification", "low high", "table", labels="t.csv", label_column="grade", bag_column="slide")
    assert {n: (r.bag, r.group, r.label) for n, r in found.items()} == {
        "a.png": ("S1", "made/s1", (1,)), "b.png": ("S2", "made/s2", (0,)), "c.png": ("S1", "made/s1", (1,)),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "said"),
    [
        pytest.param(["c", "S1", "low", "P1", "train"], "row 4: bag 'S1' has another label than in row 2", id="label"),
        pytest.param(
            ["c", "S1", "high", "P2", "train"], "row 4: bag 'S1' has another group than in row 2", id="patient"
        ),
        pytest.param(["c", "S1", "high", "P1", "val"], "row 4: bag 'S1' has another split than in row 2", id="split"),
        pytest.param(["c", " ", "high", "P1", "val"], "row 4: the bag has no name", id="no-name"),
    ],
)
def test_bags_that_contradict_themselves_are_refused(table, row, said):
    """A bag has one label, one patient, one split."""
    rows = ["a", "S1", "high", "P1", "train"], ["b", "S2", "low", "P2", "train"], row
    table.table("t.csv", "image slide grade who split", *rows)
    with pytest.raises(DataError, match=said):
        table.find(
            "classification", "low high", "table", labels="t.csv", label_column="grade", bag_column="slide",
            patient_column="who", split_column="split",
        )  # fmt: skip


@pytest.fixture
def masks(folder):
    """Three images, and masks of classes for them; one mask has another suffix."""
    for name in ("a.png", "b.1.png", "c.jpg"):
        folder.picture(f"images/{name}")
        folder.blobs(f"masks/{name[:-4]}.png", ids=(1, 2, 2))
    return folder


def test_masks_of_classes(masks):
    """The mask has the image's name, with any suffix; it arrives as it is, without boxes."""
    found = masks.find("segmentation", "out in core", "masks", labels="masks")
    assert [*found] == ["a.png", "b.1.png", "c.jpg"]
    case = found["c.jpg"].read()
    assert [int((case.mask == k).sum()) for k in range(3)] == [32 * 40 - 240, 80, 160]
    assert case.xyxy is None


@pytest.mark.parametrize("name", ["._a.png", ".DS_Store", "Thumbs.db", "._b.1.jpg"])
def test_what_systems_put_beside_images_is_no_image(masks, name):
    """As macOS and file servers do on shared disks."""
    for place in ("images", "masks"):
        masks.text(f"{place}/{name}", "no image")
    assert [*masks.find("segmentation", "out in core", "masks", labels="masks")] == ["a.png", "b.1.png", "c.jpg"]
    for number in (0, 1):
        masks.picture(f"classes/k{number}/d{number}.png")
        masks.text(f"classes/k{number}/{name}", "no image")
    found = masks.find("classification", "k0 k1", "class_folders", images="classes")
    assert [*found] == ["k0/d0.png", "k1/d1.png"]


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        pytest.param({"instances": True}, [1, 2], id="instances"),
        pytest.param({"components": True}, [1, 2, 3], id="components"),
    ],
)
def test_masks_of_instances(masks, fields, ids):
    """Instances are numbers, or connected parts of what is not 0; each has its box, to the pixel."""
    case = masks.find("detection", "cell", "masks", labels="masks", **fields)["a.png"].read()
    assert np.unique(case.mask).tolist() == [0, *ids]
    # Number 2 stands twice: one instance with one box, or two components.
    boxes = [(3, 4, 11, 14), (15, 4, 35, 14)] if len(ids) == 2 else [(3 + 12 * n, 4, 11 + 12 * n, 14) for n in range(3)]
    assert case.xyxy.tolist() == [[*map(float, b)] for b in boxes]
    assert case.box_classes.tolist() == [0] * len(ids)


def test_parts_that_touch_at_a_corner_are_one(folder):
    """Components are connected over corners, too."""
    folder.picture("images/a.png", 4, 4)
    folder.array("masks/a.png", np.uint8([[9, 9, 0, 0], [9, 9, 0, 0], [0, 0, 5, 0], [0, 0, 0, 0]]))
    case = folder.find("detection", "cell", "masks", labels="masks", components=True)["a.png"].read()
    assert case.xyxy.tolist() == [[0, 0, 3, 3]]


def test_masks_with_a_table(masks):
    """Only images that the table's rows name are used; dots in a name are part of it."""
    masks.table("more.csv", "id stain patient", ["a.png", "HE", "7"], ["b.1", "HE", "7"], ["c", "IF", "8"])
    found = masks.find(
        "segmentation", "out in core", "masks",
        labels="masks", table="more.csv", image_column="id", where={"stain": "HE"}, patient_column="patient",
    )  # fmt: skip
    assert {n: r.group for n, r in found.items()} == {"a.png": "made/7", "b.1.png": "made/7"}


def test_a_table_that_contradicts_itself_is_refused(masks):
    """An image has one patient and one split, however many rows name it."""
    masks.table("more.csv", "image patient", ["a", "7"], ["b.1", "7"], ["c", "8"], ["a.png", "8"], ["b.1", "7"])
    with pytest.raises(DataError, match=r"(?s)contradicts itself \(1\).*row 5: patient of a.png is '8'.*'7'"):
        masks.find("segmentation", "a b c", "masks", labels="masks", table="more.csv", patient_column="patient")


BAD_MASKS = [
    pytest.param("segmentation", "a b c", {"labels": "nowhere"}, "nothing at", id="no-folder"),
    pytest.param("segmentation", "a b c", {}, "needs labels", id="none-named"),
    pytest.param(
        "segmentation", "a b c", {"labels": "masks", "images": "nowhere"}, "no folder of images", id="no-images"
    ),
    pytest.param(
        "segmentation", "a b c", {"labels": "images", "images": "empty"}, "no labelled images", id="empty-folder"
    ),
    pytest.param("classification", "a b", {"labels": "masks"}, "not what classification", id="no-class-in-a-mask"),
    pytest.param("detection", "a", {"labels": "masks"}, "instances = true", id="boxes-of-classes"),
    pytest.param("multilabel", "a", {"labels": "masks", "instances": True}, "which classes", id="classes-of-instances"),
    pytest.param("regression", "count", {"labels": "masks"}, "count needs", id="count-of-classes"),
    pytest.param(
        "regression", "area", {"labels": "masks"}, "gives area_fraction, count, not area", id="no-such-measure"
    ),
    pytest.param("segmentation", "cell", {"labels": "masks", "instances": True}, "two classes", id="no-background"),
    pytest.param("segmentation", "a b c", {"labels": "masks", "instances": True}, "last is 'border'", id="third-class"),
]


@pytest.mark.parametrize(("kind", "classes", "fields", "said"), BAD_MASKS)
def test_masks_that_cannot_give_what_the_task_needs_are_refused(masks, kind, classes, fields, said):
    """Before any image is read."""
    (masks.path / "empty").mkdir()
    with pytest.raises(DataError, match=said):
        masks.find(kind, classes, "masks", **fields)


def test_every_image_without_a_mask_is_listed(masks):
    """Missing masks are listed in one error."""
    for name in ("a.png", "c.png"):
        (masks.path / "masks" / name).unlink()
    with pytest.raises(DataError, match=r"(?s)\(2\).*a\.png: no mask.*c\.jpg: no mask"):
        masks.find("segmentation", "a b c", "masks", labels="masks")


@pytest.mark.parametrize("where", ["images", "masks"])
def test_images_that_differ_in_their_suffix_alone_are_refused(masks, where):
    """Masks and rows find images by stem, so that one of the two would silently be left out."""
    masks.picture(f"{where}/a.jpg")
    with pytest.raises(DataError, match=r"(?s)suffix alone.*a\.jpg and a\.png"):
        masks.find("segmentation", "a b c", "masks", labels="masks")


def test_a_mask_of_another_size_is_refused_when_read(masks):
    """Image and mask have one size."""
    masks.blobs("masks/a.png", 32, 41)
    with pytest.raises(DataError, match=r"a\.png is \(32, 40\), its mask .* is \(32, 41\)"):
        masks.find("segmentation", "a b c", "masks", labels="masks")["a.png"].read()


def bright(z, y, x, axes=(6, 32, 40)):
    """A volume with one bright box in it, and the mask of that box."""
    volume = np.random.default_rng(0).normal(100, 5, axes).astype(np.float32)
    mask = np.zeros(axes, np.uint8)
    mask[z, y, x] = 2
    return volume + 400.0 * (mask > 0), mask


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volumes_are_slices_with_their_neighbours(folder, suffix):
    """A slice has the one before, itself and the one after as colours; at the ends itself stands in."""
    volume, mask = bright(slice(2, 4), slice(5, 15), slice(20, 30))
    folder.volume(f"images/case.1{suffix}", volume)
    folder.volume(f"labels/case.1{suffix}", mask)
    found = folder.find("segmentation", "out in core", "volumes", labels="labels")
    assert [*found] == [f"case.1 slice {z}" for z in range(6)]
    assert {r.group for r in found.values()} == {"made/case.1"}
    cases = [r.read() for r in found.values()]
    lit = [[bool((c.image[:, :, k] > 200).any()) for k in range(3)] for c in cases]
    assert lit == [[0 < z + d < 5 and z + d in (2, 3) for d in (-1, 0, 1)] for z in range(6)]
    # The bright box lies where the mask says, on the same axes.
    assert np.array_equal(cases[2].image[:, :, 1] > 200, cases[2].mask == 2)
    assert cases[2].mask[5:15, 20:30].min() == 2
    assert np.array_equal(cases[0].image[:, :, 0], cases[0].image[:, :, 1])
    assert np.array_equal(cases[5].image[:, :, 2], cases[5].image[:, :, 1])
    assert np.array_equal(cases[1].image[:, :, 2], cases[2].image[:, :, 1])


def test_volumes_with_a_table(folder):
    """A table says a volume's patient and split."""
    volume, mask = bright(1, 1, 1, (3, 8, 8))
    for name in ("v1", "v2"):
        folder.volume(f"images/{name}.nii.gz", volume)
        folder.volume(f"labels/{name}.nii.gz", mask)
    folder.table("t.csv", "image who split", ["v1.nii.gz", "X", "val"])
    found = folder.find(
        "segmentation", "a b c", "volumes", labels="labels", table="t.csv", patient_column="who", split_column="split"
    )
    assert {(r.path.name, r.group, r.split) for r in found.values()} == {("v1.nii.gz", "made/x", "val")}


def test_volumes_with_labels_are_bags_of_slices(folder):
    """A table of labels instead of masks: every slice has its volume's label, patient and split."""
    volume, _ = bright(1, 1, 1, (3, 8, 8))
    for name in ("v1", "v2", "v3"):
        folder.volume(f"images/{name}.nii.gz", volume)
    folder.table("t.csv", "image side who split", ["v1.nii.gz", "left", "X", "val"], ["v2", "right", "Y", "train"])
    more = {"label_column": "side", "patient_column": "who", "split_column": "split"}
    found = folder.find("classification", "left right", "volumes", labels="t.csv", **more)
    assert [(r.name, r.bag, r.group, r.split, r.label) for r in found.values()] == [
        *((f"v1 slice {z}", "v1", "made/x", "val", (0,)) for z in range(3)),
        *((f"v2 slice {z}", "v2", "made/y", "train", (1,)) for z in range(3)),
    ]
    sample = found["v2 slice 1"].read()
    assert (sample.label.tolist(), sample.mask, sample.image.shape) == ([1], None, (8, 8, 3))
    folder.table("t.csv", "image side", ["v9", "left"], ["v2", "up"], ["v3", "left"], ["v3.nii.gz", "left"])
    with pytest.raises(DataError, match=r"(?s)\(3\).*row 2: no NIfTI volume 'v9'.*row 3: class 'up'.*row 5: v3 stands"):
        folder.find("classification", "left right", "volumes", labels="t.csv", label_column="side")
    with pytest.raises(DataError, match=r"with a table of labels gives labels for classification.* not what segm"):
        folder.find("segmentation", "left right", "volumes", labels="t.csv", label_column="side")


SURVIVAL = [["a", "12.5", "1"], ["b", "30", "0"], ["c", "", "1"]]


def test_survival(table):
    """Time and event of a case, by the columns that classes name; empty cells are not labelled."""
    table.table("t.csv", "image days died", *SURVIVAL)
    found = table.find("survival", "days died", "table", labels="t.csv")
    expected = [(12.5, 1), (30, 0), (math.nan, 1)]
    assert np.array_equal([found[f"{n}.png"].label for n in "abc"], expected, equal_nan=True)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        pytest.param(["b", "-1", "0"], "row 3: days is 0 or more and died 0 or 1, got '-1' and '0'", id="time"),
        pytest.param(["b", "3", "2"], "row 3: days is 0 or more and died 0 or 1, got '3' and '2'", id="event"),
        pytest.param(["a", "3", "0"], "row 3: a.png stands in row 2 too", id="twice"),
    ],
)
def test_survival_that_cannot_be_is_refused(table, row, said):
    """In the row that says it."""
    table.table("t.csv", "image days died", SURVIVAL[0], row)
    with pytest.raises(DataError, match=said):
        table.find("survival", "days died", "table", labels="t.csv")


def test_survival_without_an_event_is_refused(table):
    """Nothing can be learnt of an order in which nothing happens."""
    table.table("t.csv", "image days died", ["a", "3", "0"], ["b", "4", "0"])
    with pytest.raises(DataError, match=r"no row has an event \(1 in column 'died'\)"):
        table.find("survival", "days died", "table", labels="t.csv")
    with pytest.raises(DataError, match="leave label_column out"):
        table.find("survival", "days died", "table", labels="t.csv", label_column="days")


def test_volumes_whose_mask_is_elsewhere_are_refused(folder):
    """A mask that is missing, of another size, or placed otherwise in space would label the wrong voxels."""
    volume, mask = bright(1, 1, 1, (3, 8, 8))
    for name in ("gone", "small", "turned"):
        folder.volume(f"images/{name}.nii", volume)
    folder.volume("labels/small.nii", mask[:2])
    folder.volume("labels/turned.nii", mask, affine=np.diag([-0.5, 0.75, 2.0, 1.0]))
    with pytest.raises(DataError, match=r"gone\.nii: no mask"):
        folder.find("segmentation", "a b c", "volumes", labels="labels")
    (folder.path / "images/gone.nii").unlink()
    found = folder.find("segmentation", "a b c", "volumes", labels="labels")
    with pytest.raises(DataError, match=r"small\.nii is \(3, 8, 8\), its mask .* is \(2, 8, 8\)"):
        found["small slice 0"].read()
    with pytest.raises(DataError, match=r"turned\.nii and its mask .* lie differently"):
        found["turned slice 0"].read()


def test_every_volume_that_is_damaged_is_listed(folder):
    """Headers that cannot be read are listed in one error."""
    folder.text("images/a.nii", "no volume")
    folder.text("images/b.nii.gz", "no volume")
    for name in ("a.nii", "b.nii.gz"):
        folder.text(f"labels/{name}", "no volume")
    with pytest.raises(DataError, match=r"(?s)\(2\).*a\.nii cannot.*b\.nii\.gz cannot"):
        folder.find("segmentation", "a b c", "volumes", labels="labels")


def test_class_folders_that_are_missing_or_empty_are_listed(folder):
    """Each class needs its folder and at least one image."""
    folder.picture("images/low/a.png")
    (folder.path / "images/high").mkdir()
    with pytest.raises(DataError, match=r"(?s)\(2\).*high is no folder of images.*top is no folder of images"):
        folder.find("classification", "low high top", "class_folders")
    with pytest.raises(DataError, match="not what multilabel needs"):
        folder.find("multilabel", "low", "class_folders")
