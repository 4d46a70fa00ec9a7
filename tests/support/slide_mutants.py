"""Slide files with random damage: bytes that are lost or flipped, tags and metadata that lie."""

import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

_TIFF = (".svs", ".tif", ".qptiff")


def mutant(original: Path, seed: int, number: int, scratch: Path) -> tuple[Path, str]:
    """The `number`-th way to damage a slide: a file, or one file inside a folder."""
    rng = random.Random(f"{original.name} {seed} {number}")
    path = scratch / original.name
    if original.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(original, path)
        files = sorted(p for p in path.rglob("*") if p.is_file())
        texts = [p for p in files if p.suffix == ".json" or p.name.startswith(".z")]
        target = rng.choice(texts if number % 2 else files)
        if target in texts and rng.random() < 0.6:
            return path, f"{target.relative_to(path)}: {_mutate_json(target, rng)}"
    else:
        shutil.copyfile(original, path)
        target = path
        if original.suffix in _TIFF and number % 3 == 0:
            return path, _mutate_tag(target, rng, number // 3)
    return path, f"{target.relative_to(scratch)}: {_mutate_bytes(target, rng)}"


def _mutate_bytes(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    kind = rng.choice(("truncate", "flip-head", "flip-anywhere", "flip-tail", "zero"))
    if kind == "truncate":
        cut = rng.choice((0, 1, 7, rng.randrange(len(data)), rng.randrange(len(data)), len(data) - 1))
        del data[cut:]
        what = f"truncated at {cut}"
    elif kind == "zero":
        at, count = rng.randrange(len(data)), rng.choice((16, 512, 8192))
        data[at : at + count] = bytes(len(data[at : at + count]))
        what = f"{count} zeros at {at}"
    else:
        low, high = {"flip-head": (0, 400), "flip-tail": (-1200, 0), "flip-anywhere": (0, 0)}[kind]
        places = [
            rng.randrange(max(0, len(data) + low) if low else 0, min(high, len(data)) or len(data))
            for _ in range(rng.choice((1, 4, 20)))
        ]
        for at in places:
            data[at] ^= rng.randrange(1, 256)
        what = f"flipped {places[:4]}"
    path.write_bytes(data)
    return what


def _mutate_tag(path: Path, rng: random.Random, number: int) -> str:
    """Make one TIFF tag lie: each of those that sizes come from once with each great lie, then any."""
    import tifffile

    values = (0, 1, 2, 7, 16, 255, 4096, 65535, 1 << 20, 4_000_000, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
    with tifffile.TiffFile(path) as tif:
        pages = [p for page in tif.pages for p in [page, *(page.pages or [])]]
        page = rng.choice([p for p in pages if p.is_tiled])
        wanted = [t for t in page.tags if t.name in _LIARS] if rng.random() < 0.7 else list(page.tags)
        tag = rng.choice(wanted)
        if number < len(_SIZES) * len(_GREAT) and _SIZES[number % len(_SIZES)] in page.tags:
            tag, values = page.tags[_SIZES[number % len(_SIZES)]], (_GREAT[number // len(_SIZES)],)
        order, name, code, kind, offset, count = (
            tif.byteorder,
            tag.name,
            tag.code,
            int(tag.dtype),
            tag.valueoffset,
            tag.count,
        )
    form = {3: "H", 4: "I", 16: "Q", 13: "I", 18: "Q"}.get(kind)
    with path.open("r+b") as file:
        if form is None:
            file.seek(offset)
            file.write(rng.randbytes(min(8, count)))
            return f"tag {name} ({code}) of a page scrambled"
        size = struct.calcsize(form)
        value = rng.choice(values) % (1 << 8 * size)
        at = rng.randrange(count)
        file.seek(offset + size * at)
        file.write(struct.pack(order + form, value))
    return f"tag {name}[{at}] says {value}"


_SIZES = ("ImageWidth", "ImageLength", "TileWidth", "TileLength", "TileByteCounts", "TileOffsets", "BitsPerSample")
_GREAT = (4_000_000, (1 << 31) - 1, (1 << 32) - 16)
_LIARS = (
    *("ImageWidth", "ImageLength", "TileWidth", "TileLength", "TileOffsets", "TileByteCounts", "SubIFDs"),
    *("Compression", "PhotometricInterpretation", "SamplesPerPixel", "BitsPerSample", "PlanarConfiguration"),
    *("JPEGTables", "ImageDescription", "NewSubfileType", "SampleFormat"),
)


def _mutate_json(path: Path, rng: random.Random) -> str:
    """Replace, or remove, one value somewhere in a JSON file."""
    tree = json.loads(path.read_text())
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(tree)
    if not places:
        return _mutate_bytes(path, rng)
    node, key = rng.choice(places)
    value = rng.choice(
        (None, 0, -1, 1, 7, 1.5, 1e300, 4_000_000, 1 << 62, "", "../..", "a\0b", "x", [], [[]], {}, True)
    )
    if rng.random() < 0.2:
        del node[key]
        what = f"without {key}"
    else:
        node[key] = value
        what = f"{key} = {value!r}"
    path.write_text(json.dumps(tree))
    return what
