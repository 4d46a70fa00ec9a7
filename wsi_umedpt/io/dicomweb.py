"""Names of slides on a DICOMweb server, and the one place that recognises them.

A name is ``dicomweb:`` before the URL of a series, as in ``dicomweb:https://server/path/studies/STUDY/series/SERIES``.
It goes wherever a path of a slide goes, as a `pathlib.Path` too, which makes one slash of two. It never holds
credentials: those are in the environment or in ``~/.netrc``.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from wsi_umedpt.errors import RemoteError
from wsi_umedpt.io.remote import is_url, plain

_PREFIX = "dicomweb:"
_UID = r"[0-9.]{1,64}"
_SERIES = re.compile(rf"(https?):/{{1,2}}([^/\s]+(?:/[^\s]*?)?)/studies/({_UID})/series/({_UID})/?", re.IGNORECASE)


@dataclass(frozen=True)
class Series:
    """A series of DICOM instances on a DICOMweb server: the levels of one slide."""

    server: str
    """URL that the services of the server lie below, without a slash at its end."""
    study: str
    """StudyInstanceUID."""
    uid: str
    """SeriesInstanceUID."""

    def __str__(self) -> str:
        return f"{_PREFIX}{self.url}"

    @property
    def url(self) -> str:
        """URL of the series."""
        return f"{self.server}/studies/{self.study}/series/{self.uid}"

    @property
    def host(self) -> str:
        """Host of the server, with its port where one is named, in small letters."""
        return urlsplit(self.server).netloc.lower()

    @property
    def path(self) -> Path:
        """The name as a path, as jobs and slides carry it; there is no such file."""
        return Path(str(self))


def shown(name: str) -> str:
    """A name of a slide as it may be shown: of a URL, without what may be secret."""
    if name.lower().startswith(_PREFIX):
        url = _with_slashes(name)
        return _PREFIX + (plain(url) if is_url(url) else "...")
    return plain(name) if is_url(name) else name


def series_at(name: str | Path) -> Series | None:
    """Series that a name means; None if it is no name of a slide on a DICOMweb server.

    Raises
    ------
    RemoteError
        If it begins as one and is none; what is quoted of it holds no credentials.
    """
    text = name if isinstance(name, str) else name.as_posix()
    if not text.lower().startswith(_PREFIX):
        return None
    url = _with_slashes(text)
    if "@" in url or "?" in url or "#" in url:
        raise RemoteError(
            f"{shown(text)} was given with a password, a query or a fragment, which names of slides never hold. Put "
            "credentials into the environment or ~/.netrc, and name the series alone."
        )
    found = _SERIES.fullmatch(url)
    if found is None:
        raise RemoteError(
            f"{shown(text)} names no series of a DICOMweb server: that is "
            f"{_PREFIX}https://SERVER/PATH/studies/STUDY/series/SERIES, with the UIDs of the study and of the series"
        )
    protocol, place, study, series = found.groups()
    return Series(f"{protocol.lower()}://{place.rstrip('/')}", study, series)


def _with_slashes(name: str) -> str:
    """URL in a name, also where a `pathlib.Path` made one slash of two."""
    return re.sub(r"^(https?):/+", r"\1://", name[len(_PREFIX) :], flags=re.IGNORECASE)
