"""`SampleRecord`: one labelled image on disk, not yet read; and `DataSpec`: where a task's records are.

A record's `group` is the patient where one is known, else the image. All records of a group
fall on the same side of every split (see `splits`).
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from wsi_umedpt.datasets.images import read_image, read_labels, read_mask, read_volume, stretch
from wsi_umedpt.datasets.samples import Sample
from wsi_umedpt.errors import DataError
from wsi_umedpt.io.spreadsheet import TABLE_SUFFIXES

Source = Literal["class_folders", "table", "masks", "boxes", "volumes"]


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Location of labelled images and form of their labels. Paths are relative to the config file."""

    source: Source
    """class_folders: a folder a class. table: a CSV with a row an image. masks: a picture of
    classes or instances beside each image. boxes: CSV, COCO JSON, or a folder of VOC XML.
    volumes: NIfTI volumes and masks, cut into slices."""
    images: Path
    """Folder of images; for class_folders, the folder of the classes' folders."""
    labels: Path | None = None
    """Table, folder of masks, or boxes. Of volumes a table makes each a bag of its slices, with the row's label."""
    table: Path | None = None
    """CSV that says more of each image: patient, split, what `where` selects by. Only images that
    it names are used. A CSV of labels can say all this itself."""
    collection: str = ""
    """Data of one name are split alike, whatever the task. By default the name of `images`' parent."""
    image_column: str = "image"
    """Column of the table that names the image: by its file name, with or without suffix, or by its path from the
    folder of images or from the table."""
    label_column: str = ""
    """Column of the class, of the labels, or of the value."""
    separator: str = "|"
    """Between several labels in one cell."""
    patient_column: str = ""
    """Column of the table that names the patient."""
    patient_pattern: str = ""
    """Regular expression on the file's name whose first group is the patient."""
    patient_block: int = 0
    """Size of blocks of neighbours that are likely of one patient: the last group of `patient_pattern` is then a
    number, and numbers that are alike after division by this are one patient. 0: the group is a patient's name."""
    split_column: str = ""
    """Column that says train, val or test; else groups are split by hash."""
    where: dict[str, str] = field(default_factory=dict)
    """Column = value: only these rows."""
    instances: bool = False
    """Masks hold a number an instance; else they hold classes."""
    components: bool = False
    """Instances are the connected parts of what is not 0."""
    drop_empty_boxes: bool = False
    """Leave out boxes without area; else they are refused, as every label that cannot be right."""
    point_px: float = 0.0
    """The CSV of boxes has points, columns x and y: each becomes a box of this side, px, cut at the image's edge."""
    bag_column: str = ""
    """Column that names the bag an image is part of (a patient, a slide): the images of a bag have one label."""
    rename: dict[str, str] = field(default_factory=dict)
    """Class of the collection = class of the task, for those that are called otherwise; several may become one."""
    zoom: tuple[float, float] | None = None
    """Least and greatest zoom of these images, where their scale is another than the task says."""

    def __post_init__(self) -> None:
        if not self.separator:
            raise ValueError("separator must not be empty")
        try:
            groups = re.compile(self.patient_pattern).groups
        except re.error as error:
            raise ValueError(f"patient_pattern {self.patient_pattern!r} is no regular expression: {error}") from None
        if self.patient_pattern and not groups:
            raise ValueError(f"patient_pattern {self.patient_pattern!r} has no group in brackets, which is the patient")
        if self.patient_block < 0 or (self.patient_block and not self.patient_pattern):
            raise ValueError("patient_block is positive, and needs a patient_pattern whose last group is a number")
        if self.point_px < 0 or (self.point_px and self.source != "boxes"):
            raise ValueError("point_px is positive, and for source boxes")
        tells = self.source == "table" or (self.source in ("boxes", "volumes") and self._tabled)
        if not tells and not self.table and (self.where or self.patient_column or self.split_column):
            raise ValueError("where, patient_column and split_column need a table")
        if self.table and (self.source == "table" or (self.source == "volumes" and self._tabled)):
            raise ValueError("labels is the table already; leave table out")
        if (self.instances or self.components) and self.source != "masks":
            raise ValueError("instances and components are for source masks")
        if self.bag_column and self.source != "table":
            raise ValueError("bag_column is for source table")
        if self.rename and self.source not in ("table", "boxes") and not self.bags:
            raise ValueError("rename is for source table or boxes, and for volumes with a table of labels")
        check_zoom(self.zoom)

    @property
    def _tabled(self) -> bool:
        return self.labels is not None and self.labels.suffix.lower() in TABLE_SUFFIXES

    @property
    def bags(self) -> bool:
        """Return whether labels are of bags of images: of those that a column names, or of volumes of slices."""
        return bool(self.bag_column) or (self.source == "volumes" and self._tabled)

    @property
    def numbered(self) -> bool:
        """Return whether masks hold a number an instance, and no classes."""
        return self.instances or self.components


def check_zoom(zoom: tuple[float, float] | None) -> None:
    """Refuse a range of zooms that is none."""
    if zoom and not 0 < zoom[0] <= zoom[1]:
        raise ValueError(f"zoom is (least, greatest), both positive, got {zoom}")


@dataclass(frozen=True, kw_only=True)
class SampleRecord(ABC):
    """One labelled image on disk."""

    name: str
    """Names the record in errors and lists."""
    group: str
    """Patient, or the image where no patient is known; prefixed by the collection."""
    split: str = ""
    """train, val or test where the data says so."""
    bag: str = ""
    """Bag that the image is part of, where bags are labelled."""
    zoom: tuple[float, float] | None = None
    """Least and greatest zoom, where it is not the task's."""

    @abstractmethod
    def read(self) -> Sample:
        """Read image and labels.

        Raises
        ------
        DataError
            If either cannot be read, or they do not fit.
        """


@dataclass(frozen=True, kw_only=True)
class LabelRecord(SampleRecord):
    """An image and numbers for the whole of it."""

    path: Path
    label: tuple[float, ...]

    def read(self) -> Sample:
        """See `SampleRecord.read`."""
        return Sample(image=read_image(self.path), label=np.array(self.label, np.float32))


@dataclass(frozen=True, kw_only=True)
class MaskRecord(SampleRecord):
    """An image and a mask of its size."""

    path: Path
    mask: Path
    components: bool = False
    instances: bool = False

    def read(self) -> Sample:
        """See `SampleRecord.read`."""
        image, mask = read_image(self.path), read_mask(self.mask)
        if image.shape[:2] != mask.shape:
            raise DataError(f"{self.path} is {image.shape[:2]}, its mask {self.mask} is {mask.shape}")
        if self.components:
            from scipy import ndimage

            mask = np.asarray(ndimage.label(mask != 0, np.ones((3, 3)))[0], np.int32)
        if not (self.components or self.instances):
            return Sample(image=image, mask=mask)
        boxes = instance_boxes(mask)
        return Sample(image=image, mask=mask, xyxy=boxes, box_classes=np.zeros(len(boxes), np.int64))


@dataclass(frozen=True, kw_only=True)
class BoxRecord(SampleRecord):
    """An image and its boxes."""

    path: Path
    xyxy: tuple[tuple[float, float, float, float], ...]
    classes: tuple[int, ...]
    points: bool = False
    """Boxes were made around points, so that they may leave the image."""

    def read(self) -> Sample:
        """See `SampleRecord.read`."""
        image = read_image(self.path)
        xyxy = np.array(self.xyxy, np.float32).reshape(-1, 4)
        height, width = image.shape[:2]
        if self.points:
            _refuse_outside((xyxy[:, :2] + xyxy[:, 2:]) / 2, self.path, (width, height))
            xyxy = np.clip(xyxy, 0, np.array([width, height, width, height], np.float32))
        # Said of good boxes, because comparisons with nan are false.
        bad = ~(
            (xyxy[:, 2:] > xyxy[:, :2]).all(1) & (xyxy >= -1).all(1) & (xyxy[:, 2:] <= (width + 1, height + 1)).all(1)
        )
        if bad.any():
            raise DataError(
                f"{self.path} is {width} x {height} px; {int(bad.sum())} of its boxes are empty or leave it, "
                f"the first {xyxy[bad][0].tolist()} (drop_empty_boxes = true leaves empty ones out)"
            )
        return Sample(image=image, xyxy=xyxy, box_classes=np.array(self.classes, np.int64))


@dataclass(frozen=True, kw_only=True)
class SliceRecord(SampleRecord):
    """One slice of a volume with its neighbours as colour channels, and its mask or the volume's label."""

    path: Path
    mask: Path | None
    index: int
    """Slice, counted from 0."""
    label: tuple[float, ...] = ()

    def read(self) -> Sample:
        """See `SampleRecord.read`."""
        return self.read_all()[self.index]

    def read_all(self) -> list[Sample]:
        """All slices of the volume: channels are the slice before, itself, and the one after."""
        values, placed = read_volume(self.path)
        classes = None if self.mask is None else self._classes(self.mask, values.shape, placed)
        label = np.array(self.label, np.float32) if self.label else None
        volume = stretch(values)
        last = len(volume) - 1
        return [
            Sample(
                image=np.ascontiguousarray(np.stack([volume[max(0, z - 1)], volume[z], volume[min(last, z + 1)]], -1)),
                label=label,
                mask=None if classes is None else classes[z],
            )
            for z in range(len(volume))
        ]

    def _classes(self, mask: Path, shape: tuple[int, ...], placed: npt.NDArray[np.floating]) -> npt.NDArray[np.int32]:
        classes, mask_placed = read_labels(mask)
        if shape != classes.shape:
            raise DataError(f"{self.path} is {shape}, its mask {mask} is {classes.shape}")
        if not np.allclose(placed, mask_placed, atol=1e-2):
            raise DataError(f"{self.path} and its mask {mask} lie differently in space (their affines differ)")
        return classes


def _refuse_outside(centres: npt.NDArray[np.floating], path: Path, size: tuple[int, int]) -> None:
    outside = ~((centres >= 0) & (centres <= np.array(size))).all(1)
    if outside.any():
        raise DataError(
            f"{path} is {size[0]} x {size[1]} px; {int(outside.sum())} of its points lie outside, "
            f"the first at {centres[outside][0].tolist()}"
        )


def instance_boxes(mask: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """Boxes around the instances of a mask, float32 (instance, 4): x0, y0, x1, y1, px."""
    from scipy import ndimage

    found = [s for s in ndimage.find_objects(np.maximum(mask, 0)) if s is not None]
    boxes = [(s[1].start, s[0].start, s[1].stop, s[0].stop) for s in found]
    return np.array(boxes, np.float32).reshape(-1, 4)
