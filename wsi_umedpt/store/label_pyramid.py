"""Label images: one class number a pixel, streamed from top to bottom into an OME-Zarr 0.5 pyramid.

A folder is a label image once its group node is there, which `LabelWriter.finish` writes
last. Positions are level-0 pixels of the slide, x before y; arrays are (row, col). In um,
the origin is the middle of the slide's first level-0 pixel, as napari, ITK and DICOM have
it (OME-Zarr 0.5 leaves it open, ome/ngff#89).

Read top to bottom: `halve` (how a level is made of the finer one), `LabelWriter`, `read_labels`,
`write_labels_group`. What an image says of itself is `wsi_umedpt.store.label_info`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import ZstdCodec

from wsi_umedpt.errors import StoreError
from wsi_umedpt.io.chunk_files import ChunkFiles
from wsi_umedpt.io.files import is_clutter, read_regular
from wsi_umedpt.io.paths import elsewhere
from wsi_umedpt.store.label_info import OME_VERSION, LabelInfo
from wsi_umedpt.store.zarr_io import read_attrs, read_node, sync_folder, write_group

SCHEMA = 2
"""Schema of label images; from 2 on, the sha256 of each level's chunks is known, and each chunk has a checksum."""
CHUNK_PX = 1024
"""Side of a chunk, px of its level; even, so that only a level's last rows can be odd in number."""
_OURS = "wsi_umedpt"
"""Key of the attributes that OME-Zarr has no place for."""

Labels = npt.NDArray[np.uint8]


def halve(labels: Labels) -> Labels:
    """Make one pixel of 2 x 2: the third smallest of the four.

    A class that fills half of the four survives, so that thin structures do; where two
    classes do, the greater number wins. Edges of odd sides are repeated.

    Parameters
    ----------
    labels : uint8 (rows, cols)

    Returns
    -------
    uint8 (ceil(rows / 2), ceil(cols / 2))

    Examples
    --------
    >>> halve(np.array([[0, 0, 0, 2], [0, 1, 1, 0]], np.uint8))
    array([[0, 1]], dtype=uint8)
    """
    rows, cols = labels.shape
    if rows % 2 or cols % 2:
        labels = np.pad(labels, ((0, rows % 2), (0, cols % 2)), mode="edge")
    # Two of the four are below the greater of the lows or above the lesser of the highs.
    # Rows first: both of their operands lie contiguous, which numpy runs through fastest.
    high, low = np.maximum(labels[::2], labels[1::2]), np.minimum(labels[::2], labels[1::2])
    return np.maximum(np.minimum(high[:, ::2], high[:, 1::2]), np.maximum(low[:, ::2], low[:, 1::2]))


class LabelWriter:
    """Writes a label image row by row, all its levels at once.

    Each level holds back at most `CHUNK_PX` rows. A row of chunks is written once, when it
    is full, and made durable; chunks that are all background are left out. What is held
    back is the `state`, from which `resume` goes on after a kill, to the same bytes.

    Parameters
    ----------
    path
        Folder to write, which must not exist; the caller gives it its name once `finish` is through.
    info
        Metadata of the image.
    """

    def __init__(self, path: Path, info: LabelInfo) -> None:
        if path.exists():
            raise StoreError(f"{path} is there already. Resume it from its state, or remove it")
        for level, shape in enumerate(info.level_shapes()):
            zarr.create_array(
                path / str(level),
                shape=shape,
                chunks=(CHUNK_PX, CHUNK_PX),
                dtype="uint8",
                fill_value=0,
                compressors=ZstdCodec(level=3, checksum=True),
                dimension_names=("y", "x"),
            )
        self._start(path, info, rows=0)

    @classmethod
    def resume(cls, path: Path, info: LabelInfo, state: Mapping[str, npt.NDArray[Any]]) -> Self:
        """Resume where `state` was taken, whatever was written after it.

        Raises
        ------
        StoreError
            If the folder holds other levels, or the state is of another image.
        """
        shapes = info.level_shapes()
        found = [_open_level(path, level).shape for level in range(len(shapes))]
        if found != shapes:
            raise StoreError(f"{path} has levels of {found} px, expected {shapes}. Remove it to begin again")
        try:
            rows, held = int(state["rows"]), [state[f"held_{level}"] for level in range(len(shapes))]
        except KeyError as error:
            raise StoreError(f"the state to resume {path} from lacks {error}") from None
        writer = cls.__new__(cls)
        writer._start(path, info, rows)
        places = writer._waiting()
        if [part.shape for part in held] != [place.shape for place in places]:
            raise StoreError(f"the state holds other rows than {path} lacks: it is of another image")
        for place, part in zip(places, held, strict=True):
            place[...] = part
        (path / "zarr.json").unlink(missing_ok=True)  # killed once it was whole, but before the caller knew
        for torn in path.rglob("*.partial"):
            torn.unlink()  # what zarr was writing when the run was killed
        return writer

    def _start(self, path: Path, info: LabelInfo, rows: int) -> None:
        self._path, self.info = path, info
        self._shapes = info.level_shapes()
        self._arrays = [
            zarr.open_array(path / str(level), mode="r+", config={"write_empty_chunks": False})
            for level in range(len(self._shapes))
        ]
        self._held = [np.empty((min(CHUNK_PX, full), cols), np.uint8) for full, cols in self._shapes]
        self._done = [rows]
        for full, _ in self._shapes[:-1]:
            done = self._done[-1]
            written = done if done == full else done // CHUNK_PX * CHUNK_PX
            self._done.append(-(-written // 2))

    def _waiting(self) -> list[Labels]:
        """Rows of each level that are not yet written, where they lie."""
        return [
            held[: done % CHUNK_PX if done < full else 0]
            for held, done, (full, _) in zip(self._held, self._done, self._shapes, strict=True)
        ]

    @property
    def rows_done(self) -> int:
        """Rows of the finest level that were appended."""
        return self._done[0]

    def append(self, rows: Labels) -> None:
        """Add the next rows.

        Parameters
        ----------
        rows : uint8 (n, cols)
            Any number of rows; 0 is background, k the k-th class.

        Raises
        ------
        StoreError
            If they do not fit the image, or hold a number that no class has.
        """
        full, cols = self.info.shape
        if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != cols or self.rows_done + len(rows) > full:
            raise StoreError(
                f"{self.info.name}: rows of {rows.dtype} {rows.shape} were given, "
                f"expected uint8 (up to {full - self.rows_done}, {cols})"
            )
        if rows.size and (top := int(rows.max())) > len(self.info.classes):
            raise StoreError(f"{self.info.name}: class {top} was given, but there are {len(self.info.classes)} classes")
        self._add(0, rows)

    def _add(self, level: int, rows: Labels) -> None:
        full = self._shapes[level][0]
        while len(rows):
            filled = self._done[level] % CHUNK_PX
            part, rows = rows[: CHUNK_PX - filled], rows[CHUNK_PX - filled :]
            end = filled + len(part)
            self._held[level][filled:end] = part
            self._done[level] += len(part)
            if end == CHUNK_PX or self._done[level] == full:
                self._flush(level, self._held[level][:end])

    def _flush(self, level: int, band: Labels) -> None:
        last = self._done[level]
        self._arrays[level][last - len(band) : last] = band
        chunks = self._path / str(level) / "c"
        written = chunks / str((last - 1) // CHUNK_PX)
        if written.exists():  # else it is all background
            sync_folder(written, files=True)
            sync_folder(chunks)
        if level + 1 < len(self._shapes):
            self._add(level + 1, halve(band))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Copy what `resume` needs: the ``rows`` appended, and those of each level that wait, ``held_<level>``.

        A writer whose `append` failed has no such state.
        """
        held = {f"held_{level}": rows.copy() for level, rows in enumerate(self._waiting())}
        return {"rows": np.array(self.rows_done), **held}

    def finish(self) -> None:
        """Check that all rows are there, and write the attributes that make the folder a label image."""
        if self.rows_done != self.info.shape[0]:
            raise StoreError(f"{self.info.name}: {self.rows_done} of {self.info.shape[0]} rows are written")
        sync_folder(self._path, files=True)
        levels = [self._path / str(level) for level in range(len(self._shapes))]
        written = {"chunks": [len(chunks_of(level)) for level in levels], "sha256": [*map(chunks_sha256, levels)]}
        ours = {"schema": SCHEMA, **dataclasses.asdict(self.info), **written}
        write_group(self._path, {"ome": self.info.ome(), _OURS: ours})
        sync_folder(self._path)


@dataclass(frozen=True)
class LabelLevel:
    """One level of a label image."""

    array: "zarr.Array[Any]"
    """uint8 (rows, cols); read where it is indexed."""
    scale: float
    """Level-0 px of the slide per px of this level."""


@dataclass(frozen=True)
class LabelImage:
    """A label image on disk."""

    info: LabelInfo
    levels: tuple[LabelLevel, ...]
    """Finest first."""
    sha256: tuple[str, ...]
    """SHA-256 of each level's chunks, see `chunks_sha256`; none where an older version wrote the image."""


def read_labels(path: Path) -> LabelImage:
    """Open a label image that this package wrote; its pixels are read as they are asked for.

    Raises
    ------
    StoreError
        If it is not there, not whole, or lacks chunks that were written.
    """
    ours = read_attrs(path).get(_OURS)
    if not isinstance(ours, dict) or not isinstance(schema := ours.pop("schema", None), int):
        raise StoreError(f"{path} is no label image of wsi_umedpt")
    if schema > SCHEMA:
        raise StoreError(f"{path} has schema {schema}; this version reads up to {SCHEMA}. Update wsi_umedpt.")
    try:
        chunks = list(ours.pop("chunks"))
        sha256 = tuple(ours.pop("sha256") if schema > 1 else ())
        for name in ("shape", "classes", "origin"):
            ours[name] = tuple(ours[name])
        ours["colours"] = tuple(tuple(colour) for colour in ours["colours"])
        info = LabelInfo(**ours)
    except (LookupError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {type(error).__name__}: {error}") from None
    arrays = [_open_level(path, level) for level in range(len(chunks))]
    if [array.shape for array in arrays] != info.level_shapes() or (schema > 1 and len(sha256) != len(chunks)):
        raise StoreError(f"{path} is damaged: its levels are {[array.shape for array in arrays]} px")
    # A missing chunk reads as background, which must not be taken for "nothing found".
    if (found := [len(chunks_of(path / str(level))) for level in range(len(chunks))]) != chunks:
        raise StoreError(f"{path} is damaged: its levels hold {found} chunks, but {chunks} were written")
    return LabelImage(info, tuple(LabelLevel(array, info.scale * 2**k) for k, array in enumerate(arrays)), sha256)


def chunks_of(level: Path) -> list[str]:
    """Names of a level's chunks, as in ``c/0/1``, sorted."""
    chunks = (c for c in level.glob("c/*/*") if not is_clutter(c.name) and not is_clutter(c.parent.name))
    return sorted(f"c/{chunk.parent.name}/{chunk.name}" for chunk in chunks)


def _content(path: Path) -> bytes:
    return path.read_bytes() if elsewhere(path) else read_regular(path)


def chunks_sha256(level: Path) -> str:
    """sha256 over the lines ``NAME SHA256`` of a level's chunk files, in the order of `chunks_of`."""
    lines = (f"{name} {hashlib.sha256(_content(level / name)).hexdigest()}\n" for name in chunks_of(level))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def write_labels_group(folder: Path) -> list[str]:
    """Make a folder of label images an OME-Zarr ``labels`` group, which lists those that are whole; their names."""
    names = label_names(folder)
    write_group(folder, labels_attrs(names))
    return names


def label_names(folder: Path) -> list[str]:
    """Names of the label images that are whole in a folder, sorted."""
    return sorted(item.parent.name for item in folder.glob("[!.]*/zarr.json") if _OURS in read_attrs(item.parent))


def labels_attrs(names: list[str]) -> dict[str, Any]:
    """Attributes of a ``labels`` group."""
    return {"ome": {"version": OME_VERSION, "labels": names}}


def _open_level(path: Path, level: int) -> "zarr.Array[Any]":
    where = path / str(level)
    try:
        meta = json.loads(read_node(where))
        if meta["data_type"] != "uint8" or [codec["name"] for codec in meta["codecs"]] != ["bytes", "zstd"]:
            raise StoreError(f"{where} has a layout that this package does not write")
        remote = elsewhere(where)
        return zarr.open_array(remote.zarr_store() if remote else ChunkFiles(where, read_only=True), mode="r")
    except StoreError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise StoreError(f"{where} cannot be read as a zarr array: {type(error).__name__}: {error}") from None
