"""`wsi-umedpt verify`: are the stores whole and undamaged."""

import sys
from pathlib import Path
from typing import Any

from wsi_umedpt.cli.options import AsJson
from wsi_umedpt.cli.terminal import is_quiet, say, say_json
from wsi_umedpt.messages import counted


def verify(paths: list[str], /, *, as_json: AsJson = False) -> int:
    """Read every number of every store and compare it with its recorded sha256.

    Exit code 1 if any store is damaged or not whole, or none is found. Work that an
    interrupted run left beside the stores is noted, and is no error.

    Examples
    --------
        wsi-umedpt verify out/

        wsi-umedpt verify out/slide.zarr

    Parameters
    ----------
    paths
        Stores, or folders of them; also URLs.
    as_json
        One JSON object: for each store whether it is whole, its problems and notes; and unfinished work.
    """
    from rich.progress import track

    from wsi_umedpt.cli.options import stores_in
    from wsi_umedpt.io.paths import place
    from wsi_umedpt.io.remote import is_url
    from wsi_umedpt.store.verify import note_on_work, notes_on, problems_of

    stores = stores_in(paths)
    here = [Path(path) for path in paths if not is_url(path)]
    places = [(path.parent, path.name) if path.suffix == ".zarr" else (path, "*.zarr") for path in here]
    unfinished = [p for folder, name in places for p in sorted(folder.glob(f"{name}.partial"))]
    found: list[dict[str, Any]] = []
    for path in track(stores, "verifying", disable=not sys.stderr.isatty() or is_quiet()):
        problems = problems_of(path)
        notes = [] if problems else notes_on(path)
        found.append({"store": str(path), "whole": not problems, "problems": problems, "notes": notes})
        for problem in [] if as_json else problems:
            say(f"{path}: {problem}", always=True)
    works = [{"work": str(path), "note": note_on_work(path)} for path in unfinished]
    bad = sum(not store["whole"] for store in found)
    if as_json:
        say_json({"stores": found, "unfinished": works})
        return 1 if bad or not stores else 0
    for store in found:
        for note in store["notes"]:
            say(f"note: {store['store']}: {note}")
    for work in works:
        say(f"note: {work['work']}: {work['note']}")
    if not stores:
        say(f"no store (*.zarr) was found in {', '.join(str(place(path)) for path in paths)}", always=True)
        return 1
    say(f"{len(stores) - bad} of {counted(len(stores), 'store is', 'stores are')} whole and undamaged")
    return 1 if bad else 0
