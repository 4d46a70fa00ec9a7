"""Files elsewhere, in object stores and on web servers: what a URL is, what may be said of it, how it is read.

fsspec knows the protocols and finds the credentials, in the environment or where the cloud's own tools keep
them. A URL may hold credentials too, a password or a signature: what is shown or kept of it is `plain`.

Read top to bottom: what a URL is, then `Remote` (a file or a prefix).
"""

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import fsspec

from wsi_umedpt.errors import FULL_DISK, RemoteError, UnreachableError, reason_of

_log = logging.getLogger(__name__)

TRIES = 4
"""Number of times that something is asked for before it counts as failed."""
PAUSE_S = 0.5
"""Before the second try; doubled each time."""
_LOOK_S = 0.2
"""Seconds between two checks whether an answer is still wanted."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://[^\s'\"<>]+")
_WEB = ("http", "https")
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)
"""Trying again does not help."""
_SILENT_S = 60.0
"""A web server that sends nothing for so long is given up."""
_FOLDERS = 1000
"""Most pages of a web server that are looked through."""
Answer = TypeVar("Answer")


class StopAskingError(Exception):
    """Nobody wants the answer any more; also raised by who is told of a copy's progress, to end it."""


class NoRangesError(RemoteError):
    """A server gives whole files only."""


def is_url(text: object) -> bool:
    """Return whether a text is a URL; a drive of Windows has one letter, and a protocol more."""
    return isinstance(text, str) and _URL.match(text) is not None


def plain(url: str) -> str:
    """A URL as it may be shown and kept: without user, password, query and fragment."""
    protocol, _, rest = url.partition("://")
    # In other protocols than the web's, names may hold a '?' or a '#'.
    rest = re.split(r"[?#]" if protocol.lower() in _WEB else r"\?[^/]*=", rest, maxsplit=1)[0]
    login = _login(rest)
    return f"{protocol}://{rest[len(login) + 1 :] if login else rest.removeprefix('@')}"


def _login(rest: str) -> str:
    """User and password, of what comes after a URL's protocol."""
    if "@" in (host := rest.partition("/")[0]):
        return host.rpartition("@")[0]
    # A password may hold a slash, as keys of AWS do; what is no port is one.
    found = re.match(r"[^/@:\[]*:(?!\d+/)[^@]*(?=@)", rest)
    return found[0] if found else ""


def name_of(url: str) -> str:
    """The last part of a URL's path, unquoted: a name of anything, which no file may be given unseen."""
    name = plain(url).rstrip("/").rpartition("/")[2]
    return unquote(name) if url.partition("://")[0].lower() in _WEB else name


def without_secrets(text: str, *urls: str | None) -> str:
    """A text in which every URL is `plain`, and what was cut out of these is not quoted."""
    for url in urls:
        if url and (shown := plain(url)) != url:
            text = text.replace(url, shown)
            login = _login(url.partition("://")[2])
            for secret in (url.partition("?")[2], login, login.partition("/")[0]):
                if secret:
                    text = text.replace(secret, "...")
    return _IN_TEXT.sub(lambda found: plain(found[0]), text)


def check_relative(name: str, where: object) -> str:
    """Refuse a name that would lead out of the folder that it is put into.

    Raises
    ------
    RemoteError
        If so.
    """
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or re.search(r"[\\\x00-\x1f]|^[A-Za-z]:", name):
        raise RemoteError(f"{where} holds {name!r}, a name that would lead out of the folder it is copied to")
    return name


@dataclass(frozen=True)
class Remote:
    """A file, or a prefix, elsewhere."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        return plain(self.url)

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}  # another process makes its own connections

    def __truediv__(self, name: str) -> "Remote":
        return Remote(f"{self.url.rstrip('/')}/{name}")

    @property
    def fs(self) -> Any:
        """File system of fsspec for the protocol.

        Raises
        ------
        RemoteError
            If the protocol is not known, or what speaks it is not installed.
        """
        return self._place[0]

    @property
    def _on_web(self) -> bool:
        return self.url.partition("://")[0].lower() in _WEB

    @property
    def path(self) -> str:
        """Path as `fs` names it."""
        return self._place[1]

    @cached_property
    def _place(self) -> tuple[Any, str]:
        if "::" in self.url:
            raise RemoteError(f"{self} chains file systems (::), which is not done here; name the file itself")
        options: dict[str, Any] = {}
        protocol = self.url.partition("://")[0].lower()
        try:
            if protocol in _WEB:
                import aiohttp

                # aiohttp's own limit, five minutes for a whole file, is less than a slide may take.
                patience = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=_SILENT_S)
                options["client_kwargs"] = {"timeout": patience}
            elif protocol in ("s3", "s3a"):
                # botocore's five tries, in each of s3fs's five, in each of ours, would take half an hour.
                known = fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})
                options["config_kwargs"] = {"retries": {"total_max_attempts": 1}, **known}
            fs, path = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            raise RemoteError(
                f"{self} needs a package that is not installed ({error.name or reason_of(error)}): "
                "pip install 'wsi-umedpt[remote]' brings what speaks s3://, gs:// and http(s)://"
            ) from None
        except ValueError as error:
            raise RemoteError(f"{self} cannot be opened: {without_secrets(str(error), self.url)}") from None
        return fs, str(path)

    def below(self, name: str) -> str:
        """Path of a file below this prefix as `fs` names it; this itself, if there is no name."""
        return f"{self.path.rstrip('/')}/{name}" if name else self.path

    def info(self) -> dict[str, Any]:
        """Answer of the server: size, type, and a stamp that changes with the file where the server has one."""
        self.fs.invalidate_cache()
        return dict(self.asked(lambda: self.fs.info(self.path)))

    def size(self) -> int:
        """Bytes of a file.

        Raises
        ------
        RemoteError
            If there is none, or the server does not say.
        """
        size = self.info().get("size")
        if not isinstance(size, int):
            raise RemoteError(f"the server of {self} does not say how large it is, so no copy could be trusted")
        return size

    def names(self) -> list[str]:
        """Names directly below a prefix."""
        self.fs.invalidate_cache()
        found = self.asked(lambda: self.fs.ls(self.path, detail=False))
        return sorted({path.rstrip("/").rpartition("/")[2] for path in found})

    def sizes(self) -> dict[str, int]:
        """All files below a prefix, by their names relative to it: bytes, -1 where the server does not say.

        Raises
        ------
        RemoteError
            If it cannot be listed, or holds a name that would lead out of it.
        """
        self.fs.invalidate_cache()
        base = self.path.rstrip("/") + "/"

        def listed() -> dict[str, Any]:
            try:
                return dict(self.fs.find(self.path.rstrip("/"), detail=True))
            except FileNotFoundError:
                return {}

        all_below = self._pages(base) if self._on_web else self.asked(listed)
        found = {path: info for path, info in all_below.items() if path.startswith(base)}
        return {
            check_relative(path[len(base) :], self): -1 if info.get("size") is None else int(info["size"])
            for path, info in found.items()
            if info.get("type", "file") == "file" and not path.endswith("/")
        }

    def _pages(self, base: str) -> dict[str, Any]:
        """Pages of a web server below a folder; links may go on for ever."""
        found, folders = dict[str, Any](), [base]

        def listed(folder: str) -> list[dict[str, Any]]:
            try:
                return list(self.fs.ls(folder, detail=True))
            except FileNotFoundError:
                return []

        for folder in folders:
            for info in self.asked(partial(listed, folder)):
                if info["type"] == "file":
                    found[info["name"]] = info
                elif info["name"] not in folders:
                    folders.append(info["name"])
            if len(folders) > _FOLDERS:
                raise RemoteError(
                    f"{self} leads to more than {_FOLDERS} folders, as a web site does and no folder of slides. Name a "
                    "folder further down, or the slides."
                )
        return found

    def read(self, *names: str) -> list[bytes | None]:
        """Whole files below a prefix, all at once; None for those that are not there."""
        paths = [self.below(name) for name in names]

        def whole() -> list[bytes | None]:
            found = self.fs.cat_ranges(paths, None, None, on_error="return")
            for content in found:
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
            return [None if isinstance(content, Exception) else bytes(content) for content in found]

        return self.asked(whole)

    def ranges(self, name: str, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        """Parts of a file, from one byte to before another, all at once.

        Raises
        ------
        NoRangesError
            If the server gives no parts.
        """
        self._check_parts(name, max(start for start, _ in parts))
        starts, ends = [start for start, _ in parts], [end for _, end in parts]
        paths = [self.below(name)] * len(parts)
        found = self.asked(lambda: list(self.fs.cat_ranges(paths, starts, ends, on_error="raise")))
        if [len(part) for part in found] != [end - start for start, end in parts]:
            raise NoRangesError(f"the server of {self} gives no parts of files")
        return found

    def _check_parts(self, name: str, start: int) -> None:
        """Ask a web server for one byte: of one that gives no parts, each part would be the whole file, in memory."""
        if start and self._on_web:

            def one() -> None:
                with self.fs.open(self.below(name), size=start + 1, cache_type="none") as file:
                    file.seek(start)
                    try:
                        file.read(1)
                    except ValueError:
                        raise NoRangesError(f"the server of {self} gives no parts of files") from None

            self.asked(one)

    def download(self, name: str, target: Path, tick: Callable[[], None]) -> None:
        """Copy a file to disk; `tick` is called as it goes, and may end it by raising `StopAskingError`."""
        self.asked(lambda: self.fs.get_file(self.below(name), str(target), callback=_Ticking(tick)))

    def put(self, name: str, content: bytes) -> None:
        """Write a file below a prefix, in one request: it is there whole or not at all."""
        self.asked(lambda: self.fs.pipe_file(self.below(name), content))

    def remove(self, name: str) -> None:
        """Remove a file below a prefix."""
        self.asked(lambda: self.fs.rm_file(self.below(name)))

    def asked(self, question: Callable[[], Answer]) -> Answer:
        """Ask, and ask again where the network failed.

        Raises
        ------
        RemoteError
            If all was in vain; it says nothing that is secret.
        OSError
            If the disk here is full.
        """
        for left in reversed(range(TRIES)):
            try:
                return _answered(question)
            except (StopAskingError, RemoteError):
                raise
            except Exception as caught:  # each protocol has its own
                error = _told(caught)
                if isinstance(error, OSError) and error.errno in FULL_DISK:
                    raise
                if isinstance(error, FileNotFoundError):
                    raise RemoteError(f"there is nothing at {self}, or it may not be seen") from None
                if not left or isinstance(error, _FINAL):
                    why = without_secrets(reason_of(error), self.url)
                    if isinstance(error, _FINAL):
                        raise RemoteError(f"{self} cannot be reached as asked: {why}") from None
                    raise UnreachableError(f"{self} cannot be reached as asked (asked {TRIES} times): {why}") from None
            pause = PAUSE_S * 2 ** (TRIES - 1 - left)
            _log.warning("%s: asked again in %.1f s: %s", self, pause, without_secrets(reason_of(error), self.url))
            time.sleep(pause)
        raise AssertionError  # the last round returns or raises


@contextlib.contextmanager
def asking_until(stopped: Callable[[], bool]) -> Iterator[None]:
    """Give up what this thread asks in this context, with `StopAskingError`, as soon as `stopped` says so.

    A server may be silent for minutes; who is told to stop has seconds.
    """
    before = _STOPPED.set(stopped)
    try:
        yield
    finally:
        _STOPPED.reset(before)


_STOPPED: ContextVar[Callable[[], bool] | None] = ContextVar("stopped", default=None)


def _answered(question: Callable[[], Answer]) -> Answer:
    stopped = _STOPPED.get()
    if stopped is None:
        return question()
    answer: Future[Answer] = Future()

    def ask() -> None:
        try:
            answer.set_result(question())
        except BaseException as error:  # noqa: BLE001 - raised where it was asked
            answer.set_exception(error)

    threading.Thread(target=ask, name="question", daemon=True).start()
    while not wait([answer], _LOOK_S).done:
        if stopped():
            raise StopAskingError
    return answer.result()


def _told(error: Exception) -> BaseException:
    """Root cause of an error: of all that fails on the web, fsspec says that it is not there."""
    cause = error.__cause__
    failed = type(cause).__module__.partition(".")[0] == "aiohttp" or isinstance(cause, TimeoutError)
    gone = getattr(cause, "status", None) in (401, 403, 404, 410)
    return cause if cause and isinstance(error, FileNotFoundError) and failed and not gone else error


class _Ticking(fsspec.Callback):  # type: ignore[misc]
    def __init__(self, tick: Callable[[], None]) -> None:
        super().__init__()
        self._tick = tick

    def relative_update(self, inc: int = 1) -> None:
        """Some more bytes are here."""
        self._tick()
