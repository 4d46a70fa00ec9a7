"""Slides that a URL names: one, all below a prefix, or all that match a pattern."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from wsi_umedpt.errors import RemoteError
from wsi_umedpt.io.files import is_clutter
from wsi_umedpt.io.remote import Remote, check_relative, name_of, plain
from wsi_umedpt.io.spreadsheet import TABLE_SUFFIXES as TABLES
from wsi_umedpt.slides.readers import FOLDER_SUFFIXES, slide_suffixes
from wsi_umedpt.slides.readers.multifile import INDEX_BYTES, named_in
from wsi_umedpt.slides.slide_id import url_id
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.store.layout import is_store_root
from wsi_umedpt.store.zarr_io import NODE


def slides_at(url: str) -> Iterator[SlideJob]:
    """The slides that a URL names.

    Of a DICOM slide, a folder of files, one stands for all; pictures of a VMS slide, data of an
    MRXS slide and stores of ours are no slides.

    Raises
    ------
    RemoteError
        If what has to be listed cannot be, or the URL names a table.
    """
    remote, name = Remote(url), name_of(url)
    if name.lower().endswith(TABLES):
        raise RemoteError("tables are read from this machine; download it and name the copy")
    web = url.lower().startswith("http")
    pattern = re.search(r"[*\[]" if web else r"[*?\[]", plain(url))
    if pattern:
        yield from _matching(url)
    elif not url.endswith("/") and name.lower().endswith(slide_suffixes()):
        yield _job(url)
    elif found := remote.sizes():
        below = _bytes_below(found)
        for name in _slides(remote, found):
            yield _job(f"{url.rstrip('/')}/{name}", _bytes(name, found, below))
    elif remote.info().get("type") == "file":
        yield _job(url)


def _job(url: str, size: int = 0) -> SlideJob:
    return SlideJob(Path(plain(url)), url_id(url), url=url, url_bytes=size)


def _bytes_below(sizes: Mapping[str, int]) -> Counter[str]:
    """Bytes below each folder."""
    below = Counter[str]()
    for name, size in sizes.items():
        for folder in PurePosixPath(name).parents:
            below[str(folder)] += max(0, size)
    return below


def _bytes(name: str, sizes: Mapping[str, int], below: Counter[str]) -> int:
    """Approximate size of a slide in bytes: of one of several files beside each other, all of their folder."""
    if name.lower().endswith((".dcm", ".vms", ".vmu")):
        return below[str(PurePosixPath(name).parent)]
    data = name[: -len(".mrxs")] if name.lower().endswith(".mrxs") else name
    return max(0, sizes.get(name, 0)) + below[data]


def _matching(url: str) -> Iterator[SlideJob]:
    """Slides that match a pattern; what it matches is named through the folder before it, as the user wrote that."""
    first = min(at for sign in "*?[" if (at := url.find(sign)) >= 0)
    base = Remote(url[: url.rfind("/", 0, first)])
    below = base.path.rstrip("/") + "/"
    whole = Remote(url)
    base.fs.invalidate_cache()
    found = whole.asked(lambda: base.fs.glob(below + url[len(base.url) + 1 :], detail=True))
    for path, info in sorted(found.items()):
        name = path[len(below) :].rstrip("/")
        if path.startswith(below) and name.lower().endswith(slide_suffixes()):
            yield _job(f"{base.url}/{check_relative(name, base)}", info.get("size") or 0)


def _slides(remote: Remote, sizes: Iterable[str]) -> Iterator[str]:
    """The slides among files, each by the name it is opened by."""
    names = sorted(name for name in sizes if not any(is_clutter(part) for part in name.split("/")))
    owned = _owned(remote, names)
    seen = set[str]()
    for name in names:
        parts = PurePosixPath(name).parts
        zarr = next((n for n, part in enumerate(parts) if part.lower().endswith(FOLDER_SUFFIXES)), None)
        if zarr is not None:
            slide = "/".join(parts[: zarr + 1])
            if slide not in seen and not _is_store(remote, slide):
                yield slide
            seen.add(slide)
        elif name in owned or not name.lower().endswith(slide_suffixes()):
            continue
        elif name.lower().endswith(".dcm"):
            if (folder := name.rpartition("/")[0] + "/.dcm") not in seen:
                seen.add(folder)
                yield name
        else:
            yield name


def _owned(remote: Remote, names: list[str]) -> set[str]:
    """Files that belong to slides of several files."""
    data = {name[: -len(".mrxs")] for name in names if name.lower().endswith(".mrxs")}
    owned = {name for name in names if any(str(parent) in data for parent in PurePosixPath(name).parents)}
    for index in (name for name in names if name.lower().endswith((".vms", ".vmu"))):
        (content,) = remote.read(index)
        folder = index.rpartition("/")[0]
        owned |= {f"{folder}/{other}".lstrip("/") for other in named_in((content or b"")[:INDEX_BYTES])}
    return owned


def _is_store(remote: Remote, name: str) -> bool:
    """Return whether a zarr folder is a store of ours rather than an OME-Zarr slide."""
    (node,) = remote.read(f"{name}/{NODE}")
    return is_store_root(node)
