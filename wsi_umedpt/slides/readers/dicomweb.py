"""DICOM slides on a DICOMweb server: metadata once, then the frames that are looked at (WADO-RS).

Needs the extra ``dicom`` (wsidicom, and dicomweb-client, which it brings). Labels and overviews are never asked for.
Frames come in the syntax in which they are stored: no server is asked to compress them anew, with a loss.

Read top to bottom: `open_dicomweb`, `stated_fingerprint`, `_Client` (one series, as wsidicom asks for it).
"""

import hashlib
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from wsi_umedpt.errors import RemoteError
from wsi_umedpt.io.dicomweb import Series, series_at
from wsi_umedpt.io.remote import Remote, without_secrets
from wsi_umedpt.slides.readers.base import AnyReader, ContentRefused, Refused, closed_where_refused
from wsi_umedpt.slides.readers.dicom import NUMBERS, TEXTS, Header, check_header
from wsi_umedpt.slides.readers.wsidicom import Opened, reader_of

TOKENS = "WSI_UMEDPT_DICOMWEB_TOKENS"
"""Variable of the environment: ``HOST=TOKEN``, separated by spaces; a token is sent to its host alone."""
CONNECT_S, SILENT_S = 10.0, 60.0
"""Seconds in which a server must accept a connection, and in which it must send something."""
_MOST_BYTES = 1 << 29
"""Most bytes of one answer, unpacked."""
_AT_ONCE = 64
"""Most frames of one question: their numbers stand in its URL, which servers want short."""
_POSITIONS = 0x52009230
_LOSSLESS = frozenset(f"1.2.840.10008.1.2{tail}" for tail in (".1", ".4.57", ".4.70", ".4.80", ".4.90", ".5"))
"""Syntaxes in which frames are exact, however they are stored."""
_METHODS = {"ISO_10918_1": ".4.50", "ISO_14495_1": ".4.81", "ISO_15444_1": ".4.91"}
"""Lossy syntaxes by LossyImageCompressionMethod: JPEG, JPEG-LS, JPEG 2000."""
_NOT_SO = (400, 406, 415, 501)
"""Answers of a server that does not have frames in the syntax that was asked for."""
_Answer = TypeVar("_Answer")


def open_dicomweb(path: Path) -> AnyReader:
    """Open a series on a DICOMweb server.

    Raises
    ------
    RemoteError
        If the server cannot be reached, refuses, or has no such series.
    ContentRefused
        If it is not a slide, damaged, or its pixels are neither RGB of 8 bits nor grey of 8 or 16.
    Refused
        If wsidicom is not installed, or does not open it.
    """
    series = series_at(path)
    if series is None:
        raise Refused("not the name of a slide on a DICOMweb server")
    try:
        from wsidicom import WsiDicom
    except ImportError:
        raise Refused("needs wsidicom: pip install 'wsi-umedpt[dicom]'") from None
    with ExitStack() as opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that are not quite as the standard wants them
        client = opening.enter_context(closing(_Client(series)))
        mark = client.fingerprint
        try:
            slide = opening.enter_context(closing(WsiDicom.open_web(client, series.study, series.uid)))
        except RemoteError:
            raise
        except Exception as error:  # noqa: BLE001 - headers can be wrong in any way
            raise Refused(f"wsidicom does not open it: {type(error).__name__}: {error}") from None
        kept = opening.pop_all()
        with closed_where_refused(kept, "headers"):
            return reader_of(Opened("dicomweb", series.uid, slide, kept.close, mark))


def stated_fingerprint(series: Series) -> str:
    """Fingerprint of a slide on a DICOMweb server, of its metadata alone.

    SHA-256 over the UIDs of the series and of the instances that are its levels, with their sizes and numbers of
    frames: other pixels have another UID, by the standard. It is the same on every server, and not that of the files.

    Raises
    ------
    RemoteError, Refused
        As of `open_dicomweb`.
    """
    with closing(_Client(series)) as client:
        return client.fingerprint


class _Client:
    """Levels of one series, as wsidicom asks for them; whatever else the series holds is hidden from it."""

    def __init__(self, series: Series) -> None:
        try:
            import requests
            from dicomweb_client.api import DICOMwebClient
        except ImportError:
            raise Refused("needs wsidicom: pip install 'wsi-umedpt[dicom]'") from None
        self._series, self._remote, self._errors = series, Remote(series.url), requests.exceptions
        self._session = _session(series)
        self._client = DICOMwebClient(
            series.server, session=self._session, timeout=(CONNECT_S, SILENT_S), permissive_uid=True
        )
        self._client.set_http_retry_params(retry=False)  # `Remote.asked` asks again, and says so
        logging.getLogger("retrying").setLevel(logging.ERROR)
        self._asking = threading.Lock()
        try:
            self._levels = self._look()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the connections."""
        self._session.close()

    @property
    def fingerprint(self) -> str:
        """See `stated_fingerprint`."""
        stated = [f"dicomweb.v1\0{self._series.uid}"]
        for uid in sorted(self._levels):
            level = self._levels[uid]
            words = ("TotalPixelMatrixColumns", "TotalPixelMatrixRows", "Columns", "Rows", "NumberOfFrames")
            stated.append("\0".join([uid, *(str(level.get(word, "")) for word in words)]))
        return hashlib.sha256("\n".join(stated).encode()).hexdigest()

    def get_wsi_instances(self, study: str, series: Iterable[str]) -> Iterator[tuple[Any, Any, set[Any] | None]]:
        """Instances that are levels, and the syntaxes in which the server says that it has each."""
        from pydicom.uid import UID

        for uid, level in self._levels.items():
            stated = level.get("AvailableTransferSyntaxUID")
            listed = [stated] if isinstance(stated, str) else stated or []
            known = {UID(one) for one in listed if self._is_stored_so(level, str(one))}
            yield UID(self._series.uid), UID(uid), known or None

    def get_annotation_instances(self, study: str, series: Iterable[str]) -> Iterator[Any]:
        """None: annotations are not looked at."""
        return iter(())

    def get_instance(self, study: str, series: str, uid: str) -> Any:
        """Metadata of a level."""
        return self._levels[str(uid)]

    def is_transfer_syntax_supported(self, study: str, series: str, uid: str, syntax: str) -> bool:
        """Return whether the server has frames of a level in a syntax, and the level may be stored in it."""
        if not self._is_stored_so(self._levels[str(uid)], str(syntax)):
            return False
        try:
            next(self.get_frames(study, series, uid, [1], syntax))
        except _NotSoError:
            return False
        return True

    def get_frames(self, study: str, series: str, uid: str, frames: Sequence[int], syntax: str) -> Iterator[bytes]:
        """Frames of a level, counted from 1.

        Raises
        ------
        RemoteError
            If the server does not send them all.
        """
        from wsidicom.codec import determine_media_type

        kinds = ((determine_media_type(syntax), str(syntax)),)
        place = self._series.study, self._series.uid, str(uid)

        def some(numbers: list[int]) -> list[bytes]:
            return [bytes(one) for one in self._client.iter_instance_frames(*place, numbers, media_types=kinds)]

        for first in range(0, len(frames), _AT_ONCE):
            asked = list(frames[first : first + _AT_ONCE])
            found = self._asked(partial(some, asked))
            if len(found) != len(asked):
                raise RemoteError(f"{self._series} was asked for {len(asked)} frames of {uid}, and {len(found)} came")
            yield from found

    def _look(self) -> dict[str, Any]:
        """Metadata of the levels, by their UIDs."""
        from pydicom import Dataset

        listed = self._asked(lambda: self._client.retrieve_series_metadata(self._series.study, self._series.uid))
        if not listed:
            raise RemoteError(f"there is no series {self._series}")
        levels, others = dict[str, Any](), list[str]()
        try:
            for stated in listed:
                instance = Dataset.from_json(stated)
                header = _header(instance)
                if header.is_slide and header.is_volume:
                    check_header(str(instance.SOPInstanceUID), header)
                    levels[str(instance.SOPInstanceUID)] = instance
                else:
                    others.append(str(instance.get("Modality", "?")))
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - what a server says can be wrong in any way
            # Its words may quote what is of the patient.
            raise ContentRefused(f"its metadata cannot be used: {type(error).__name__}") from None
        if not levels:
            raise ContentRefused(
                f"the series holds no level of a whole-slide image, but {len(others)} other instances "
                f"(modality {', '.join(sorted(set(others)))})"
            )
        return levels

    def _asked(self, question: Callable[[], _Answer]) -> _Answer:
        """Ask, and ask again where the network failed; one at a time."""

        def ask() -> _Answer:
            try:
                return question()
            except RemoteError:
                raise
            except self._errors.JSONDecodeError:
                raise RemoteError(f"{self._remote} is not answered as a DICOMweb server does, but by a page") from None
            except self._errors.Timeout:
                raise TimeoutError(f"no connection within {CONNECT_S:g} s, or no answer for {SILENT_S:g} s") from None
            except self._errors.InvalidURL as error:
                raise RemoteError(f"{self._remote} is no URL that can be asked: {error}") from None
            except self._errors.RequestException as error:
                raise ConnectionError(_words(error)) from None
            except ValueError as error:  # of dicomweb-client
                raise RemoteError(f"{self._remote} is not answered as a DICOMweb server does: {error}") from None

        with self._asking:
            return self._remote.asked(ask)

    @staticmethod
    def _is_stored_so(level: Any, syntax: str) -> bool:
        """Return whether frames may be stored in a syntax, and need not be compressed anew to come in it."""
        if syntax in _LOSSLESS:
            return True
        if str(level.get("LossyImageCompression", "")) == "00":
            return False
        methods = level.get("LossyImageCompressionMethod") or []
        last = methods if isinstance(methods, str) else str(methods[-1]) if methods else ""
        return last not in _METHODS or syntax.endswith(_METHODS[last])


class _NotSoError(RemoteError):
    """A server does not have frames in the syntax that was asked for."""


def _session(series: Series) -> Any:
    """HTTP session with the credentials for a server: of the environment, else what requests takes from ~/.netrc."""
    import requests

    session: Any = requests.Session()
    ask = session.get

    def get(url: str, *, headers: Mapping[str, str], **options: Any) -> Any:
        kept = {name: value for name, value in headers.items() if name != "Host"}  # dicomweb-client's lacks the port
        return ask(url, headers=kept, **options)

    def sign(request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {token}"
        return request

    def check(response: Any, *_: object, **__: object) -> None:
        _check_answer(series, response)

    session.get = get
    session.hooks["response"].append(check)
    if token := _token(series):
        session.auth = sign  # requests drops it where the server sends to another host
    return session


def _token(series: Series) -> str:
    for word in os.environ.get(TOKENS, "").split():
        host, found, token = word.partition("=")
        if not (found and host and token):
            raise RemoteError(f"the variable {TOKENS} holds HOST=TOKEN, separated by spaces; it does not now")
        if host.lower() == series.host:
            return token
    return ""


def _check_answer(series: Series, response: Any) -> None:
    status = response.status_code
    if status < 400:
        response.iter_content = partial(_bounded, series, response.iter_content)
        return
    response.close()
    if status in (401, 403):
        raise RemoteError(
            f"{series}: the server does not let you in ({status}). Put a line for its host into ~/.netrc, or a token "
            f"into the environment: {TOKENS}={series.host}=TOKEN"
        )
    if status in (404, 410):
        raise RemoteError(
            f"there is no series {series}, or it may not be seen ({status}). Look at its UIDs, and at the path to the "
            "server's DICOMweb services"
        )
    if status in _NOT_SO:
        raise _NotSoError(f"{series}: the server does not answer what was asked ({status} {response.reason})")


def _bounded(series: Series, read: Callable[..., Iterator[bytes]], *args: Any, **options: Any) -> Iterator[bytes]:
    """Content of an answer, unpacked, as far as it is no bomb."""
    total = 0
    for part in read(*args, **options):
        total += len(part)
        if total > _MOST_BYTES:
            raise RemoteError(f"{series} is answered with more than {_MOST_BYTES:,} bytes, which is no slide's")
        yield part


def _header(instance: Any) -> Header:
    """Fields of the metadata that are looked at in files too."""
    header = Header()
    for tag, name in TEXTS.items():
        if (value := instance.get(tag)) is not None and value.value:
            several = not isinstance(value.value, str) and isinstance(value.value, Sequence)
            header.texts[name] = "\\".join(map(str, value.value)) if several else str(value.value)
    for tag, name in NUMBERS.items():
        if (value := instance.get(tag)) is not None and value.value is not None:
            header.numbers[name] = int(value.value)
    frames = instance.get(_POSITIONS)
    header.positions = sum("PlanePositionSlideSequence" in frame for frame in frames.value) if frames else 0
    return header


def _words(error: BaseException) -> str:
    """Reason of a failed request: the innermost that the libraries between name."""
    while (inner := getattr(error, "reason", None) or (error.args[0] if error.args else None)) is not None:
        if not isinstance(inner, BaseException):
            break
        error = inner
    return without_secrets(f"{type(error).__name__}: {error}")
