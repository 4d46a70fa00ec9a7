"""Tiny labelled images, made by hand in a temporary folder."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from wsi_umedpt.datasets.records import DataSpec
from wsi_umedpt.datasets.sources import find_records


class Folder:
    """A folder of data, and the verbs that fill it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rng = np.random.default_rng(7)

    def picture(self, name, height=32, width=40, dtype=np.uint8):
        """Random colours under a name like ``images/a.png``, BGR on disk; what was written, as RGB."""
        high = np.iinfo(dtype).max + 1
        return self.array(name, self._rng.integers(0, high, (height, width, 3), dtype))

    def array(self, name, array):
        """An array as a picture; RGB where it has three channels."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), array[:, :, ::-1] if array.ndim == 3 else array)
        return array

    def blobs(self, name, height=32, width=40, ids=(1, 2)):
        """A mask of rectangles, one a number, well apart."""
        mask = np.zeros((height, width), np.uint16 if max(ids) > 255 else np.uint8)
        for n, k in enumerate(ids):
            mask[4:14, 3 + 12 * n : 11 + 12 * n] = k
        return self.array(name, mask)

    def text(self, name, content):
        """A text file."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    def table(self, name, columns, *rows):
        """A CSV: columns as one text, rows as texts with the same separator."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns.split(), *rows])
        return path

    def json(self, name, content):
        """A JSON file."""
        return self.text(name, json.dumps(content))

    def volume(self, name, values, affine=None):
        """A NIfTI volume of (slice, row, col)."""
        nibabel = pytest.importorskip("nibabel")
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        placed = np.diag([0.5, 0.75, 2.0, 1.0]) if affine is None else affine
        nibabel.save(nibabel.Nifti1Image(np.asarray(values).transpose(2, 1, 0), placed), path)

    def spec(self, source, images="images", **fields):
        """A `DataSpec` in this folder; paths are relative to it."""
        for key in ("labels", "table"):
            if key in fields:
                fields[key] = self.path / fields[key]
        return DataSpec(source=source, images=self.path / images, **{"collection": "made", **fields})

    def find(self, kind, classes, source, images="images", **fields):
        """Records by their name."""
        records = find_records(self.spec(source, images, **fields), kind, tuple(classes.split()))
        named = {record.name: record for record in records}
        assert len(named) == len(records)
        return named


@pytest.fixture
def folder(tmp_path):
    """See `Folder`."""
    return Folder(tmp_path)
