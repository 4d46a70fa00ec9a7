"""Slides whose structure lies: tags, offsets, counts, directories, totals and metadata, each changed on purpose.

Bytes that flip at random rarely make a file that still parses. `mutations_of` lists the ways to change one
file of a kind (`KINDS`), `judge` opens, reads and compares one: what we read must be what OpenSlide
reads, or, where that does not read it, tifffile.
"""

import copy
import json
import re
import resource
import shutil
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import jpeg2000_slides
from tests.support.slide_formats import Format, write_czi, write_czi_colours, write_dicom_jpegls
from tests.support.slide_lies import Mutation, cut, of_czi, of_streams, put

SIDE = 512
SLOW_S, MOST_BYTES = 10.0, 1 << 30
_NEAR = 4.0  # grey values, mean: JPEG decoders and conversions that round differently


# ---- sound slides ----


def _image() -> np.ndarray:
    from wsi_umedpt.testing import tissue_image

    return tissue_image(SIDE, SIDE)[0]


def _aperio(path: Path) -> None:
    from wsi_umedpt.testing import write_pyramid

    write_pyramid(path, _image(), tile=128)


def _generic(path: Path) -> None:
    from wsi_umedpt.testing import write_pyramid

    write_pyramid(path, _image(), tile=128, vendor="generic", bigtiff=True)


def _deflate(path: Path) -> None:
    import tifffile

    image = _image()
    options = {"photometric": "rgb", "tile": (128, 128), "compression": "deflate", "metadata": None}
    scale = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, **options, **scale)
        writer.write(image[::4, ::4].copy(), subfiletype=1, **options, **scale)


def _strips(path: Path) -> None:
    import tifffile

    scale = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, _image(), photometric="rgb", compression="lzw", rowsperstrip=64, metadata=None, **scale)


def _ome(path: Path) -> None:
    import tifffile

    image = _image()
    with tifffile.TiffWriter(path, ome=True) as writer:
        options = {"tile": (128, 128), "compression": "deflate", "photometric": "rgb"}
        writer.write(image, subifds=1, metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **options)
        writer.write(image[::4, ::4].copy(), subfiletype=1, **options)


def _planes(path: Path) -> None:
    import tifffile

    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    options = {"tile": (128, 128), "compression": "deflate", "photometric": "minisblack"}
    tifffile.imwrite(path, np.moveaxis(_image(), -1, 0).copy(), ome=True, metadata=metadata, **options)


def _dicom(path: Path) -> None:
    from wsi_umedpt.testing import write_dicom

    [written] = write_dicom(path.parent / "dicom", _image(), scales=(1,))
    written.rename(path)


def _zarr(version: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        import zarr

        image = _image()
        root = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
        datasets = []
        for number, scale in enumerate((1, 4)):
            level = image[::scale, ::scale]
            array = root.create_array(str(number), shape=(3, *level.shape[:2]), chunks=(3, 128, 128), dtype="uint8")
            array[...] = np.moveaxis(level, -1, 0)
            steps = [{"type": "scale", "scale": [1.0, 0.5 * scale, 0.5 * scale]}]
            datasets.append({"path": str(number), "coordinateTransformations": steps})
        axes = [{"name": "c", "type": "channel"}]
        axes += [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
        whole = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
        image_of = {"axes": axes, "datasets": datasets, "coordinateTransformations": whole, "version": version}
        found = {"multiscales": [image_of]}
        root.attrs.update(found if version == "0.4" else {"ome": {"version": version, **found}})

    return write


KINDS: dict[str, Format] = {
    "aperio": Format("a.svs", _aperio),
    "generic": Format("b.tif", _generic),
    "deflate": Format("c.tif", _deflate),
    "strips": Format("d.tif", _strips),
    "ome": Format("e.ome.tif", _ome),
    "planes": Format("f.tif", _planes),
    "dicom": Format("g.dcm", _dicom),
    "zarr-0.4": Format("h.zarr", _zarr("0.4")),
    "zarr-0.5": Format("i.zarr", _zarr("0.5")),
    "jpeg2000-rgb": Format("j.svs", lambda path: jpeg2000_slides.write_rgb(path, _image())),
    "jpeg2000": Format("k.svs", lambda path: jpeg2000_slides.write_ycbcr(path, _image())),
    "czi": Format("l.czi", lambda path: write_czi(path, _image()), "DAPI", "pylibCZIrw"),
    "czi-colours": Format("m.czi", lambda path: write_czi_colours(path, _image()), "", "pylibCZIrw"),
    "dicom-jpegls": Format("n.dcm", lambda path: write_dicom_jpegls(path, _image()), "", "wsidicom"),
}


# ---- what is changed ----


def mutations_of(original: Path) -> list[Mutation]:
    """Every way to change a sound slide, in a fixed order."""
    if original.is_dir():
        return list(_of_json(original))
    kinds = {".dcm": _of_dicom, ".czi": of_czi}
    return [*kinds.get(original.suffix, _of_tiff)(original), *of_streams(original)]


_VALUES: dict[str, tuple[int, tuple[int, ...]]] = {
    "photometric": (262, (0, 1, 2, 3, 4, 5, 6, 8, 9, 32803, 32844)),
    "samples": (277, (0, 1, 2, 4, 5, 65_535)),
    "bits": (258, (0, 1, 4, 12, 16, 32)),
    "planar": (284, (0, 2, 3)),
    "compression": (259, (1, 5, 6, 7, 8, 32773, 33003, 33005, 34712, 50000, 50001)),
    "kind-of-page": (254, (0, 1, 2, 4)),
    "rows-per-strip": (278, (0, 1, 63, 100_000)),
}
_SIZES = {"width": 256, "height": 257, "tile-width": 322, "tile-height": 323}
_RATIOS = (0.25, 0.5, 0.9, 0.98, 1.02, 1.1, 2, 4, 1000)
_RENAMED = {
    "orientation": (274, (3, 6)), "extra-samples": (338, (0, 1, 2)), "predictor": (317, (2, 3)),
    "fill-order": (266, (2,)), "sample-format": (339, (2, 3)), "sub-directories": (330, (8, 64)),
}  # fmt: skip


def _of_tiff(original: Path) -> Iterator[Mutation]:
    from wsi_umedpt.slides.readers.tiff_directories import read_directories

    found = read_directories(original)
    data, order = original.read_bytes(), found.order
    big = data[2:4] in (b"+\0", b"\0+")
    head, step, field = (8, 20, "Q") if big else (2, 12, "I")
    pages = list(found.all())
    for number, page in enumerate(pages):
        name = f"page {number}"
        (tags,) = struct.unpack_from(order + ("Q" if big else "H"), data, page.offset)
        entries = {}
        for n in range(tags):
            at = page.offset + head + n * step
            entries[struct.unpack_from(order + "H", data, at)[0]] = at
        forms = {
            code: {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}.get(tag.kind) for code, tag in page.tags.items()
        }
        for what, (code, values) in _VALUES.items():
            if form := forms.get(code):
                tag = page.tags[code]
                for value in values:
                    packed = struct.pack(order + form, min(value, 2 ** (8 * struct.calcsize(form)) - 1)) * tag.count
                    yield Mutation(f"{name}: {what} {value}", put(tag.at, packed))
        for what, code in _SIZES.items():
            if form := forms.get(code):
                for ratio in _RATIOS:
                    value = min(int(page.number(code, 0) * ratio), 2 ** (8 * struct.calcsize(form)) - 1)
                    yield Mutation(
                        f"{name}: {what} x {ratio}", put(page.tags[code].at, struct.pack(order + form, value))
                    )
        for code, what in ((324, "offsets"), (325, "counts"), (273, "offsets"), (279, "counts")):
            if form := forms.get(code):
                yield from _of_list(f"{name}: {what}", page.tags[code].at, page.numbers(code), order + form, len(data))
                for count in (0, 1, page.tags[code].count - 1, page.tags[code].count + 1, 1 << 30):
                    yield Mutation(
                        f"{name}: {count} {what} listed", put(entries[code] + 4, struct.pack(order + field, count))
                    )
                yield Mutation(f"{name}: no {what}", put(entries[code], struct.pack(order + "H", 65_000)))
        spare = next((code for code in (296, 305, 282) if code in entries), None)
        for what, (code, values) in _RENAMED.items() if spare else ():
            for value in values:
                body = struct.pack(order + "HH" + field, code, 3, 1) + struct.pack(order + "H", value).ljust(
                    step - 4 - (8 if big else 4), b"\0"
                )
                yield Mutation(f"{name}: {what} {value}", put(entries[spare], body[:step]))
        for code, kind in ((256, 2), (258, 12), (324, 3), (325, 1), (262, 7)):
            if code in entries:
                yield Mutation(
                    f"{name}: tag {code} of type {kind}", put(entries[code] + 2, struct.pack(order + "H", kind))
                )
        following = page.offset + head + tags * step
        targets = {f"page {n}": one.offset for n, one in enumerate(pages)} | {
            "itself + 2": page.offset + 2,
            "the end": len(data) - 4,
            "beyond": len(data) * 2,
            "nothing": 0,
        }
        for what, target in targets.items():
            yield Mutation(f"{name}: next is {what}", put(following, struct.pack(order + field, target)))
            if 330 in page.tags:
                form = forms[330] or field
                yield Mutation(f"{name}: SubIFD is {what}", put(page.tags[330].at, struct.pack(order + form, target)))
        text = page.text(270)
        for match in re.finditer(
            r'(Size[XYZCT]|IFD|PlaneCount|FirstC|SamplesPerPixel|PhysicalSize[XY])="([\d.]+)"', text
        ):
            old = match.group(2)
            for new in ("0", "1", "2", "3", "9" * len(old)):
                at = page.tags[270].at + len(text[: match.start(2)].encode())
                if len(new) <= len(old):
                    yield Mutation(
                        f"{name}: {match.group(1)} {old} says {new}", put(at, new.rjust(len(old), "0").encode())
                    )


def _of_list(name: str, at: int, values: np.ndarray, form: str, size: int) -> Iterator[Mutation]:
    last = np.arange(len(values)) == len(values) - 1
    changed = {
        "all 0": values * 0, "all as the first": values * 0 + values[0], "reversed": values[::-1],
        "halved": values // 2,
        "doubled": values * 2, "beyond the file": values + size, "great": values * 0 + 2**31 - 1,
        "all 0 but the first": np.where(np.arange(len(values)), 0, values), "last 0": np.where(last, 0, values),
        "last beyond": np.where(last, size - 1, values), "each + 1": values + 1,
    }  # fmt: skip
    most = 2 ** (8 * struct.calcsize(form)) - 1
    for what, new in changed.items():
        packed = b"".join(struct.pack(form, min(int(value), most)) for value in new)
        yield Mutation(f"{name} {what}", put(at, packed))


def _of_dicom(original: Path) -> Iterator[Mutation]:
    data = original.read_bytes()
    numbers = {
        "total columns": (0x00480006, "UL"), "total rows": (0x00480007, "UL"), "focal planes": (0x00480303, "UL"),
        "rows": (0x00280010, "US"), "columns": (0x00280011, "US"), "samples": (0x00280002, "US"),
        "bits": (0x00280100, "US"), "planar": (0x00280006, "US"),
    }  # fmt: skip
    for name, (tag, kind) in numbers.items():
        at = data.index(struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, kind.encode())) + 8
        form = "<I" if kind == "UL" else "<H"
        (value,) = struct.unpack_from(form, data, at)
        for new in (
            0,
            1,
            2,
            value // 2,
            value - 1,
            value + 1,
            value * 2,
            value + 256,
            40_000,
            2**31 if kind == "UL" else 65_535,
        ):
            yield Mutation(
                f"{name} {value} says {new}", put(at, struct.pack(form, new % 2 ** (8 * struct.calcsize(form))))
            )
    texts = {
        "frames": (0x00280008, (b"1 ", b"2 ", b"9 ", b"0 ", b"-1", b"x ")),
        "organisation": (0x00209311, (b"TILED_NONE", b"3D        ", b"          ")),
        "photometric": (0x00280004, (b"RGB         ", b"MONOCHROME2 ", b"PALETTE COLO", b"YBR_FULL    ")),
        "syntax": (0x00020010, (b"1.2.840.10008.1.2.1\0\0\0", b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.70")),
    }
    for name, (tag, values) in texts.items():
        at = data.index(struct.pack("<HH", tag >> 16, tag & 0xFFFF)) + 8
        for new in values:
            yield Mutation(f"{name} {new!r}", put(at, new))
    old = struct.pack("<HH2sH", 0x0020, 0x9311, b"CS", 10) + b"TILED_FULL"
    new = struct.pack("<HH2sH", 0x0020, 0x9311, b"CS", 12) + b"TILED_SPARSE"
    yield Mutation("tiled sparsely", lambda path: _replace(path, old, new))
    for share in (0.3, 0.9, 0.999):
        yield Mutation(f"cut at {share}", lambda path, share=share: cut(path, share))
    pixels = data.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OB"))
    for n, at in enumerate(m.start() for m in re.finditer(struct.pack("<HH", 0xFFFE, 0xE000), data[pixels:])):
        for length in (0, 1, 10**6, 2**32 - 2):
            yield Mutation(f"item {n} of {length} bytes", put(pixels + at + 4, struct.pack("<I", length)))


def _replace(path: Path, old: bytes, new: bytes) -> None:
    path.write_bytes(path.read_bytes().replace(old, new))


def _of_json(original: Path) -> Iterator[Mutation]:
    for file in sorted(p for p in original.rglob("*") if p.suffix == ".json" or p.name in (".zattrs", ".zarray")):
        tree = json.loads(file.read_text())
        name = file.relative_to(original).as_posix()
        for where, value in _leaves(tree):
            for what, new in _instead(value):
                changed = copy.deepcopy(tree)
                node = changed
                for key in where[:-1]:
                    node = node[key]
                if what == "gone":
                    del node[where[-1]]
                else:
                    node[where[-1]] = new
                text = json.dumps(changed)
                label = f"{name} {'/'.join(map(str, where))}: {what}"
                yield Mutation(label, lambda path, name=name, text=text: (path / name).write_text(text) and None)


def _leaves(node: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*where, key), value
        yield from _leaves(value, (*where, key))


def _instead(value: Any) -> Iterator[tuple[str, Any]]:
    yield "gone", None
    if isinstance(value, bool):
        yield "not", not value
    elif isinstance(value, int | float):
        for factor in (0, -1, 2, 0.5, 1.05, 10, 1e9):
            yield f"x {factor}", type(value)(value * factor)
        yield "NaN", float("nan")
    elif isinstance(value, str):
        yield from (("empty", ""), ("another", "x"), ("out", "../.."), ("a number", 3))
    elif isinstance(value, list):
        yield from (("reversed", value[::-1]), ("shorter", value[:-1]), ("twice", value * 2), ("empty", []))


# ---- what becomes of it ----


def judge(path: Path, channels: str = "") -> dict[str, Any]:
    """Open, read and compare one slide: how it went, and what is wrong with that (empty if nothing)."""
    before, began = _peak(), time.process_time()
    how, wrong = _read(path, channels)
    seconds, grown = time.process_time() - began, _peak() - before
    wrong += [f"took {seconds:.1f} s"] if seconds > SLOW_S else []
    wrong += [f"took {grown / 2**20:.0f} MB"] if grown > MOST_BYTES else []
    return {"how": how, "wrong": wrong, "seconds": seconds}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _read(path: Path, channels: str) -> tuple[str, list[str]]:
    from wsi_umedpt.errors import WsiError
    from wsi_umedpt.geometry import Box
    from wsi_umedpt.slides.slide import open_slide
    from wsi_umedpt.slides.tissue import find_tissue

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_slide(path, mpp=0.5, channels=channels or ()) as slide:
                whole = slide.read(Box(0, 0, *slide.size)) if max(slide.size) <= 8192 else None
                levels = [(level.width, level.height) for level in slide.levels]
                find_tissue(slide)
                reader = slide.reader
    except WsiError as error:
        return f"refused: {error}"[:200], []
    except Exception as error:  # noqa: BLE001 - what is looked for
        return "escaped", [f"{type(error).__name__}: {error}"]
    ratios = [abs(levels[0][0] * h / (levels[0][1] * w) - 1) for w, h in levels if min(w, h) > 50]
    wrong = [f"levels {levels}"] if max(ratios, default=0) > 0.02 else []
    if whole is not None and not channels and (difference := _difference(path, whole)):
        wrong.append(f"read by {reader}, but {difference}")
    return f"pixels by {reader}", wrong


def _difference(path: Path, ours: np.ndarray) -> str:
    """How what we read differs from what others read; empty if it does not, or none of them reads it."""
    if path.is_dir():
        return ""
    said = ""
    for name, read in (("OpenSlide", _openslide), ("tifffile", _tifffile)):
        for theirs in read(path):
            if theirs.shape == ours.shape and np.abs(theirs.astype(int) - ours).mean() <= _NEAR:
                return ""
            said = said or f"{name} gives {theirs.shape}, mean {theirs.mean():.0f}; we {ours.shape}, {ours.mean():.0f}"
    return said


def _openslide(path: Path) -> Iterator[np.ndarray]:
    import openslide

    try:
        with openslide.OpenSlide(path) as slide:
            if max(slide.dimensions) <= 8192:
                pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions)).astype(np.uint16)
                alpha = pixels[..., 3:]
                yield (pixels[..., :3] * alpha + 255 * (255 - alpha)) // 255
    except Exception:  # noqa: BLE001 - it does not read it
        return


def _tifffile(path: Path) -> Iterator[np.ndarray]:
    """Every page of 8-bit RGB or grey that tifffile reads."""
    import tifffile

    planes: list[np.ndarray] = []
    try:
        with tifffile.TiffFile(path) as tif:
            for page in [tif.pages[n] for n in range(min(3, len(tif.pages)))]:
                if page.dtype == np.uint8 and max(page.shape) <= 8192 and page.photometric in (1, 2, 6):
                    pixels = page.asarray()
                    if pixels.ndim == 3 and page.planarconfig == 2:
                        pixels = np.moveaxis(pixels, 0, -1)
                    planes += [pixels] if pixels.ndim == 2 else []
                    turned = {3: pixels[::-1, ::-1], 6: np.rot90(pixels, -1)}
                    pixels = turned.get(int(page.tags.valueof(274, 1)), pixels)
                    yield pixels[..., :3] if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
            if len(planes) == 3:
                yield np.stack(planes, axis=-1)
    except Exception:  # noqa: BLE001 - it does not read it
        return


def prepared(original: Path, number: int, scratch: Path) -> tuple[Path, str]:
    """The `number`-th mutant of a slide, written to a scratch folder."""
    path = scratch / original.name
    if original.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(original, path)
    else:
        shutil.copyfile(original, path)
    mutation = mutations_of(original)[number]
    mutation.apply(path)
    return path, mutation.what
