"""Features of many slides, wherever they lie: stores, files of other tools, and folders of them.

`FORMATS` is the ordered table of files that are read; the first whose marks a file bears reads it,
and where none does, the reasons of all stand in the error. `find_sources` turns what a user
names into one source a slide, none of them read yet. `WRITERS` is what `export` writes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from wsi_umedpt.errors import InteropError, WsiError
from wsi_umedpt.interop import anndata, clam, hdf5, npz, pt, slide2vec, stamp, trident
from wsi_umedpt.interop.feature_sources import FileSource, NotThisFormatError, StoreSource
from wsi_umedpt.interop.slide_vector_source import SlideVectorSource
from wsi_umedpt.io.files import is_clutter
from wsi_umedpt.io.paths import elsewhere, find_stores, place
from wsi_umedpt.messages import counted
from wsi_umedpt.store.features import BagSource, FeatureKind
from wsi_umedpt.store.slide_store import SlideStore

AnySource = StoreSource | FileSource | SlideVectorSource


class Format(NamedTuple):
    """A kind of file that features are read from."""

    name: str
    suffixes: tuple[str, ...]
    open: Callable[[Path], FileSource]
    """Raises `NotThisFormatError` for files of other formats."""


FORMATS = (
    Format(stamp.NAME, hdf5.SUFFIXES, stamp.open_stamp),
    Format(trident.NAME, hdf5.SUFFIXES, trident.open_trident),
    Format(clam.NAME, hdf5.SUFFIXES, clam.open_clam),
    Format(anndata.NAME, (anndata.SUFFIX,), anndata.open_anndata),
    Format(slide2vec.NAME, (npz.SUFFIX, pt.SUFFIX), slide2vec.open_slide2vec),
    Format(npz.NAME, (npz.SUFFIX,), npz.open_npz),
    Format("npy", (npz.SUFFIX_ALONE,), npz.open_npy),
    Format(pt.NAME, (pt.SUFFIX,), pt.open_pt),
)
"""Formats in the order in which they are tried; a tensor alone could be anybody's."""


class Writer(Protocol):
    """Writes the features of a store below a folder, and names the file."""

    def __call__(
        self, folder: Path, store: SlideStore, *, encoder_id: str | None = None, grid_id: str | None = None
    ) -> Path:
        """See the formats' own."""


WRITERS: Mapping[str, Writer] = {
    "clam": clam.write_clam,
    "trident": trident.write_trident,
    "stamp": stamp.write_stamp,
    "slide2vec": slide2vec.write_slide2vec,
    "anndata": anndata.write_anndata,
}

_STORE = ".zarr"
_SUFFIXES = tuple(dict.fromkeys([_STORE, *(suffix for form in FORMATS for suffix in form.suffixes)]))
_INNER = ("h5_files", "pt_files", slide2vec.FOLDER)
"""Folders below the one that a user names, as CLAM and slide2vec lay them."""
_TRIDENT = (f"{trident.FOLDER}*", f"*_overlap/{trident.FOLDER}*")
"""And TRIDENT, below a folder of coordinates or its job folder."""
_LISTED = 20
"""Troubles that an error spells out."""


def find_sources(
    paths: Sequence[str | Path], *, encoder_id: str | None = None, grid_id: str | None = None, allow_pt: bool = False
) -> dict[str, BagSource]:
    """Find features of slides, reading nothing but what the files say of themselves.

    Parameters
    ----------
    paths
        Stores, files of features, and folders of either; stores, and prefixes of them, may be URLs. Of a
        folder, files that lie in it count, and those in folders that CLAM (``h5_files``, ``pt_files``),
        TRIDENT (``features_ENCODER``) and slide2vec (``tile_embeddings``) lay in it. Where a folder has
        more than a ``.pt`` of a slide, the ``.pt`` is left aside.
    encoder_id
        Features to take where a store or folder has several; where a file says that it is of another, that
        is an error.
    grid_id
        Grid to take where stores have several.
    allow_pt
        Read ``.pt`` files: they are pickles; see `wsi_umedpt.interop.pt`.

    Returns
    -------
    dict
        Slide id (name without suffix) to source, sorted.

    Raises
    ------
    InteropError
        If nothing is found, two are of one slide, or some cannot be used; all of them are listed.
    StoreError
        If one store alone cannot be used.
    """
    sources, troubles = find_usable(paths, encoder_id=encoder_id, grid_id=grid_id, allow_pt=allow_pt)
    if len(troubles) == 1:
        raise next(iter(troubles.values()))
    if troubles:
        listed = map(str, troubles.values())
        raise InteropError(_listing(f"features of {counted(len(troubles), 'slide')} cannot be used:", listed))
    return sources


def find_usable(
    paths: Sequence[str | Path],
    *,
    encoder_id: str | None = None,
    grid_id: str | None = None,
    allow_pt: bool = False,
    kind: FeatureKind | None = None,
) -> tuple[dict[str, BagSource], dict[str, WsiError]]:
    """Find features of slides as `find_sources` does, but leave out those that cannot be used.

    Parameters
    ----------
    paths, encoder_id, grid_id, allow_pt
        See `find_sources`.
    kind
        Kind of features that a model takes, of stores and folders that have several.

    Returns
    -------
    sources
        Slide id to source, sorted.
    troubles
        Reasons why stores and files cannot be used, by their names without suffix.

    Raises
    ------
    InteropError
        If nothing is found, or two are of one slide.
    """
    found: dict[Path, Path] = {}
    for path in map(place, paths):
        for file in _files_at(
            path, encoder_id or (kind.encoder if kind else None), allow_pt, sure=encoder_id is not None
        ):
            found.setdefault(file.resolve(), file)
    if not found:
        raise InteropError(_nothing([place(path) for path in paths]))
    sources: list[AnySource] = []
    troubles: dict[str, WsiError] = {}
    for file in found.values():
        try:
            sources.append(open_source(file, encoder_id=encoder_id, grid_id=grid_id, allow_pt=allow_pt, kind=kind))
        except WsiError as error:
            troubles[file.stem] = error
    _check_one_each(sources)
    return {source.slide_id: source for source in sorted(sources, key=lambda source: source.slide_id)}, troubles


def open_source(
    path: Path,
    *,
    encoder_id: str | None = None,
    grid_id: str | None = None,
    allow_pt: bool = False,
    kind: FeatureKind | None = None,
) -> AnySource:
    """Open one store or file of features; see `find_usable`.

    Raises
    ------
    InteropError
        If no format reads the file, with the reason of each; or it cannot be used.
    StoreError
        If a store cannot be used.
    """
    if path.suffix == _STORE:
        named = encoder_id or (kind.encoder if kind else None)
        return SlideVectorSource.find(path, named, grid_id) or StoreSource.open(path, encoder_id, grid_id, kind)
    if _is_pickle(path) and not allow_pt:
        raise InteropError(f"{path} is a pickle, which may run programs when it is read. {_INSIST}")
    reasons: dict[str, list[str]] = {}
    for form in FORMATS:
        if path.suffix.lower() not in form.suffixes:
            continue
        try:
            source = form.open(path)
        except NotThisFormatError as error:
            reasons.setdefault(str(error), []).append(form.name)
            continue
        known = {source.kind.encoder, source.encoder_id} - {""}
        if encoder_id and known and encoder_id not in known:
            raise InteropError(f"{path} holds features of {source.kind.encoder}, asked for {encoder_id} (`encoder_id`)")
        return source
    if not reasons:
        read = "; ".join(f"{form.name}: {', '.join(form.suffixes)}" for form in FORMATS)
        raise InteropError(f"{path} is no file of features: they are stores ({_STORE}) or, by suffix, {read}")
    why = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
    raise InteropError(f"{path} is of no format of features that is known. {why}")


_INSIST = "If you trust who made it, say `allow_pt`; tensors alone are read then."


def _files_at(path: Path, encoder_id: str | None, allow_pt: bool, *, sure: bool = True) -> list[Path]:
    """A file or store that was named, or those of a folder; an encoder that is not sure is one of several, if there."""
    if elsewhere(path):
        return find_stores(path)
    if not path.exists():
        raise InteropError(f"there is no {path}: name stores, files of features, or folders of them")
    if path.is_file() or path.suffix == _STORE:
        return [path]
    folders = [path, *(path / name for name in _INNER if (path / name).is_dir()), *_of_trident(path, encoder_id, sure)]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if _is_candidate(file)]
    others = [file for file in files if not _is_pickle(file)]
    known = {file.stem for file in others}
    alone = [file for file in files if _is_pickle(file) and file.stem not in known]
    if alone and not allow_pt:
        raise InteropError(
            f"{path} holds {counted(len(alone), 'slide')} as .pt alone, as {alone[0]}. These are pickles, which may "
            f"run programs when they are read. {_INSIST}"
        )
    return others + alone


def _is_pickle(file: Path) -> bool:
    return file.suffix.lower() == pt.SUFFIX


def _is_candidate(file: Path) -> bool:
    return (
        file.suffix.lower() in _SUFFIXES
        and not is_clutter(file.name)
        and (file.is_dir() if file.suffix == _STORE else file.is_file())
    )


def _of_trident(path: Path, encoder_id: str | None, sure: bool) -> list[Path]:
    """The folder of features that TRIDENT laid below one of its own."""
    banks = sorted(folder for pattern in _TRIDENT for folder in path.glob(pattern) if folder.is_dir())
    asked = [bank for bank in banks if encoder_id is None or bank.name == f"{trident.FOLDER}{encoder_id}"]
    if not sure and not asked:
        asked, encoder_id = banks, None
    if banks and len(asked) != 1:
        named = f"{len(asked)} of {encoder_id}" if encoder_id else "of which one must be named"
        raise InteropError(
            _listing(f"{path} has {len(banks)} folders of TRIDENT's features, {named}; name one:", map(str, banks))
        )
    return asked


def _check_one_each(sources: Sequence[AnySource]) -> None:
    by_slide: dict[str, list[Path]] = {}
    for source in sources:
        by_slide.setdefault(source.slide_id, []).append(source.path)
    twice = [f"{slide_id}: {', '.join(map(str, at))}" for slide_id, at in sorted(by_slide.items()) if len(at) > 1]
    if twice:
        raise InteropError(
            _listing(
                f"{counted(len(twice), 'slide has', 'slides have')} features twice, and which are meant is not "
                "clear; name one:",
                twice,
            )
        )


def _nothing(paths: Sequence[Path]) -> str:
    looked = ", ".join(map(str, paths)) or "nothing, as nothing was named"
    below = sorted(folder.name for path in paths if path.is_dir() for folder in path.iterdir() if _is_place(folder))
    hint = f" There are folders within: {', '.join(below[:_LISTED])}. Name the one of the features." if below else ""
    return f"no features of slides in {looked}: looked for stores and files {', '.join(_SUFFIXES)}.{hint}"


def _is_place(folder: Path) -> bool:
    return not is_clutter(folder.name) and folder.is_dir()


def _listing(what: str, lines: Iterator[str] | Sequence[str]) -> str:
    all_lines = list(lines)
    more = [f"... and {len(all_lines) - _LISTED} more"] if len(all_lines) > _LISTED else []
    return "\n  ".join([what, *all_lines[:_LISTED], *more])
