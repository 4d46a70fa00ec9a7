"""`wsi-umedpt verify`: are the stores whole and undamaged."""

import sys
from pathlib import Path

from wsi_umedpt.cli.terminal import say


def verify(paths: list[str], /) -> int:
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
    """
    from rich.progress import track

    from wsi_umedpt.cli.options import stores_in
    from wsi_umedpt.places import place
    from wsi_umedpt.remote import is_url
    from wsi_umedpt.verify import note_on_work, notes_on, problems_of

    stores = stores_in(paths)
    here = [Path(path) for path in paths if not is_url(path)]
    places = [(path.parent, path.name) if path.suffix == ".zarr" else (path, "*.zarr") for path in here]
    unfinished = [p for folder, name in places for p in sorted(folder.glob(f"{name}.partial"))]
    bad, notes = 0, list[str]()
    for path in track(stores, "verifying", disable=not sys.stderr.isatty()):
        problems = problems_of(path)
        bad += bool(problems)
        for problem in problems:
            say(f"{path}: {problem}")
        notes += [f"{path}: {note}" for note in ([] if problems else notes_on(path))]
    for note in notes:
        say(f"note: {note}")
    for path in unfinished:
        say(f"note: {path}: {note_on_work(path)}")
    if not stores:
        say(f"no store (*.zarr) was found in {', '.join(str(place(path)) for path in paths)}")
        return 1
    say(f"{len(stores) - bad} of {len(stores)} stores are whole and undamaged")
    return 1 if bad else 0
