"""Fingerprint of a slide: what tells its content from another's, without all of it being read."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from wsi_umedpt.io.dicomweb import series_at
from wsi_umedpt.io.files import open_regular
from wsi_umedpt.slides.readers.dicomweb import stated_fingerprint
from wsi_umedpt.slides.readers.multifile import parts

ReadBlocks = Callable[[str, Sequence[tuple[int, int]]], Iterable[bytes]]

_BLOCK = 1 << 16
_BLOCKS = 16


def fingerprint(path: Path) -> str:
    """Identify a slide's content without reading all of it, whatever its file is called.

    Of a file: sha256 over its size and 16 blocks of 64 KiB spread evenly, first and last
    included. Of a slide of several files (DICOM, MRXS, VMS; see `readers.parts`): over the
    sorted fingerprints of the files. Of a folder (OME-Zarr): over the names and sizes of all
    files below it, and such blocks of all metadata and of 16 chunk files spread evenly over
    their names. Of a series on a DICOMweb server: over what it states of its levels
    (`readers.dicomweb.stated_fingerprint`).
    """
    if series := series_at(path):
        return stated_fingerprint(series)
    base = path if path.is_dir() else path.parent

    def read(name: str, blocks: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        with open_regular(base / name) as file:
            for start, end in blocks:
                file.seek(start)
                yield file.read(end - start)

    sizes = {file.relative_to(base).as_posix(): file.stat().st_size for file in parts(path)}
    return fingerprint_of(sizes, read, folder=path.is_dir())


def fingerprint_of(sizes: Mapping[str, int], read: ReadBlocks, *, folder: bool) -> str:
    """Identify a slide whose files lie anywhere; see `fingerprint`.

    Parameters
    ----------
    sizes
        Bytes of its files, by name; of a folder, of all files below it.
    read
        Gives the bytes of a file from one to before another, for each such pair.
    folder
        True if the slide is a folder.
    """
    if folder:
        return _of_folder(sizes, read)
    each = [_of_blocks(hashlib.sha256(), name, size, read).hexdigest() for name, size in sizes.items()]
    return each[0] if len(each) == 1 else hashlib.sha256("".join(sorted(each)).encode()).hexdigest()


def _of_folder(sizes: Mapping[str, int], read: ReadBlocks) -> str:
    digest = hashlib.sha256()
    names = sorted(sizes, key=PurePosixPath)
    for name in names:
        digest.update(f"{name}\0{sizes[name]}\0".encode())
    metadata = [n for n in names if n.endswith(".json") or PurePosixPath(n).name.startswith(".z")]
    chunks = sorted(set(names) - set(metadata), key=PurePosixPath)
    spread = sorted({(len(chunks) - 1) * n // (_BLOCKS - 1) for n in range(_BLOCKS)}) if chunks else []
    for name in (*metadata, *(chunks[n] for n in spread)):
        _of_blocks(digest, name, sizes[name], read)
    return digest.hexdigest()


def _of_blocks(digest: "hashlib._Hash", name: str, size: int, read: ReadBlocks) -> "hashlib._Hash":
    digest.update(f"{size}\0".encode())
    starts = [(size - _BLOCK) * n // (_BLOCKS - 1) for n in range(_BLOCKS)]
    whole = size <= _BLOCK * _BLOCKS
    for part in read(name, [(0, size)] if whole else [(start, start + _BLOCK) for start in starts]):
        digest.update(part)
    return digest
