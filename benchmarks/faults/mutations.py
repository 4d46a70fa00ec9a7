"""A corpus of damaged slides: each opened, its tissue found, its tiles read, and embedded, in processes that may die.

Usage: python -m benchmarks.faults.mutations [--each 130] [--seed 1] [--formats svs dicom ...] [--keep FOLDER]
                                      [--structure [KIND ...]] [--every 1]

Slides of every format that we can write are damaged in every way that tests/support/slide_mutants.py knows
(bytes flipped, cut, zeroed; tags and JSON that lie about sizes), by a seed that the tests do not use. A mutant
may give pixels, unreadable tiles, or an error of ours. What it may not: raise any other exception, end its
process, take over 20 seconds of CPU time, leave files open, or leave a store that is not whole. `--keep` keeps those
that did. The exit code is 1 if one did; the last line is JSON.

`--structure` uses instead what tests/support/slide_structures.py knows: tags, planes, offsets, counts, directories,
ratios, DICOM totals, OME-Zarr metadata, directories of CZI and heads of JPEG 2000 and JPEG-LS changed on purpose, about
5,500 files (of which every `--every`-th). There a
mutant may not take over 10 seconds or 1 GB, end its process, raise another exception, have a level of another shape, or
show pixels that are neither OpenSlide's nor tifffile's where one of them reads it.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import tifffile
from PIL import Image

from tests.support.laboratory import Lab
from tests.support.slide_formats import FORMATS as TESTED
from tests.support.slide_formats import Format
from tests.support.slide_mutants import mutant
from tests.support.slide_structures import KINDS as STRUCTURES
from tests.support.slide_structures import mutations_of, prepared
from wsi_umedpt.testing import Pixels, tissue_image, write_dicom, write_pyramid

SLOW_S = 10.0


def _dicom(path: Path, image: Pixels) -> None:
    [written] = write_dicom(path.parent / "dicom", image, scales=(1,))
    written.rename(path)


def _strips(path: Path, image: Pixels) -> None:
    scale = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, photometric="rgb", compression="deflate", rowsperstrip=64, metadata=None, **scale)


FORMATS = {
    **TESTED,
    "svs-rgb": Format("h.svs", lambda path, image: write_pyramid(path, image, tile=128, colour="rgb", tables=False)),
    "dicom": Format("i.dcm", _dicom),
    "flat-tiff": Format("j.tif", _strips),
    "jpeg": Format(
        "k.png", lambda path, image: Image.fromarray(image).save(path, "JPEG")
    ),  # the suffix gives it a scale
}
_NO_TILED_TAGS = {"flat-tiff"}
"""Formats in which there is no tiled page whose tags could lie: every third mutation is left out."""


def run_format(
    lab: Lab, kind: str, each: int, seed: int, folder: Path, keep: Path | None
) -> tuple[Counter[str], list[str]]:
    """Use all mutants of a format; how many behaved in which way, and what was wrong."""
    name, write, channels, *_ = FORMATS[kind]
    place = folder / kind
    scratch, log = place / "scratch", place / "log"
    scratch.mkdir(parents=True)
    original = place / name
    write(original, tissue_image(768, 768)[0])
    todo = [n for n in range(3 * each) if kind not in _NO_TILED_TAGS or n % 3][:each]
    request = {"task": "use_mutants", "original": str(original), "seed": seed, "channels": channels}
    request |= {"scratch": str(scratch), "log": str(log)}
    counts: Counter[str] = Counter()
    wrong: list[tuple[int, str]] = []
    while todo:
        batch = todo[:60]  # a child lives for 100 seconds
        log.unlink(missing_ok=True)
        answer = lab.run(**request, numbers=batch, seconds=600)
        if answer.code == 0:
            for result in answer.value:
                counts[result["how"].split(",")[0].split(" ")[0]] += 1
                counts["tiles not ok"] += "not ok" in result["how"]
                wrong += [(result["number"], fault) for fault in _faults(result)]
            todo = todo[len(batch) :]
            continue
        died = int(log.read_text())
        counts["timeout" if -answer.code in (signal.SIGALRM, signal.SIGPROF) else "crash"] += 1
        wrong.append((died, f"its process ended with {answer.code}"))
        todo.remove(died)  # those before it are in no answer, and are used again
    for number, _ in wrong:
        if keep:
            path, _ = mutant(original, seed, number, scratch)
            keep.mkdir(parents=True, exist_ok=True)
            target = keep / f"{kind}-{number}{''.join(path.suffixes)}"
            shutil.copytree(path, target, dirs_exist_ok=True) if path.is_dir() else shutil.copyfile(path, target)
    return counts, [f"{kind} mutant {number}: {what}" for number, what in wrong]


def run_structures(lab: Lab, kind: str, every: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Use the structural mutants of a kind; how many behaved in which way, and what was wrong."""
    name, write, channels, *_ = STRUCTURES[kind]
    place = folder / f"structure-{kind}"
    scratch, log = place / "scratch", place / "log"
    scratch.mkdir(parents=True)
    original = place / name
    write(original)
    todo = list(range(0, len(mutations_of(original)), every))
    request = {"task": "use_structures", "original": str(original), "channels": channels}
    request |= {"scratch": str(scratch), "log": str(log)}
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    while todo:
        batch = todo[:40]
        log.unlink(missing_ok=True)
        answer = lab.run(**request, numbers=batch, seconds=600)
        if answer.code == 0:
            for result in answer.value:
                counts[result["how"].split(":")[0]] += 1
                wrong += [f"{kind} {result['number']} ({result['what']}): {fault}" for fault in result["wrong"]]
            todo = todo[len(batch) :]
            continue
        died = int(log.read_text())
        counts["timeout" if -answer.code in (signal.SIGALRM, signal.SIGPROF) else "crash"] += 1
        _, what = prepared(original, died, scratch)
        wrong.append(f"{kind} {died} ({what}): its process ended with {answer.code}")
        todo.remove(died)
    return counts, wrong


def _faults(result: dict[str, Any]) -> list[str]:
    found = [result["how"]] if result["how"].startswith(("ESCAPED", "wrong")) else []
    found += [result["store"]] if result["store"] else []
    found += [f"{result['leak']} files left open"] if result.get("leak", 0) > 0 else []
    found += [f"took {result['seconds']:.0f} s"] if result["seconds"] > SLOW_S else []
    return [f"{result['what']}: {fault}" for fault in found]


def main() -> int:
    """Use the corpus, and print how it behaved."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=130)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=[*FORMATS])
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--structure", nargs="*", choices=STRUCTURES)
    parser.add_argument("--every", type=int, default=1)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="wsi-umedpt-mutations-"))
    lab, began = Lab(), time.perf_counter()
    found: dict[str, dict[str, int]] = {}
    wrong: list[str] = []
    try:
        structure = asked.structure is not None
        for kind in (asked.structure or STRUCTURES) if structure else asked.formats:
            if structure:
                counts, faults = run_structures(lab, kind, asked.every, folder)
            else:
                counts, faults = run_format(lab, kind, asked.each, asked.seed, folder, asked.keep)
            found[kind] = {name: count for name, count in sorted(counts.items()) if count}
            wrong += faults
            print(f"{kind}: {found[kind]}", *faults, sep="\n  ", flush=True)
    finally:
        lab.close()
        shutil.rmtree(folder)
    total = Counter[str]()
    for one in found.values():
        total.update(one)
    used = sum(count for name, count in total.items() if name != "tiles not ok")
    summary = {"mutants": used, "wrong": len(wrong), "seed": asked.seed, "seconds": round(time.perf_counter() - began)}
    print(json.dumps({**summary, "behaved": dict(sorted(total.items())), "formats": found}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
