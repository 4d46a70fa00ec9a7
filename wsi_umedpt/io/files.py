"""Files as others leave them: which may be opened, how much of one is read, and what in a folder is nobody's data.

A named pipe under the name of a slide is waited for without end, and a device gives bytes
without end. So what comes from others is opened as a regular file or not at all, and read
up to a limit.
"""

import os
import stat
from io import BufferedReader
from pathlib import Path

from wsi_umedpt.errors import NotAFileError

MOST_METADATA = 1 << 26
"""Bytes of a file of metadata, as zarr.json; a store of a million tiles has some thousand."""
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_CLUTTER = frozenset(
    [
        "$recycle.bin", "recycler", "system volume information", "thumbs.db", "desktop.ini",  # Windows
        "__macosx",  # archives made on macOS
        "@eadir", "#recycle", "@recycle", "#snapshot",  # network storage
        "lost+found",
    ]
)  # fmt: skip
"""Names that systems put into folders, in small letters; and all that begins with a dot (.DS_Store, ._*, .Trash*)."""


def is_clutter(name: str) -> bool:
    """Return whether an entry of a folder is the system's: hidden, trash, thumbnails of a file server."""
    return name.startswith(".") or name.casefold() in _CLUTTER


def why_not_regular(path: str | Path) -> str | None:
    """Kind of something that is no regular file, as in 'a named pipe'; None if it is one, links followed.

    Raises
    ------
    OSError
        If it cannot be seen.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        return None
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "no regular file")


def check_regular(path: str | Path, most: int | None = None) -> None:
    """Refuse what is no regular file, or has more than `most` bytes.

    Raises
    ------
    NotAFileError
        If it is not.
    OSError
        If it cannot be seen.
    """
    if words := why_not_regular(path):
        raise NotAFileError(f"{path} is {words}, not a file")
    if most is not None and (size := os.stat(path).st_size) > most:
        raise NotAFileError(f"{path} has {size:,} bytes, and at most {most:,} are read of such a file")


def open_regular(path: str | Path) -> BufferedReader:
    """Open a file for reading; what is no regular file is refused, and never waited for.

    Raises
    ------
    NotAFileError
        If it is not one.
    OSError
        If it cannot be opened.
    """
    check_regular(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):  # exchanged since
        os.close(handle)
        raise NotAFileError(f"{path} is not a file")
    return open(handle, "rb")


def read_regular(path: str | Path, most: int = MOST_METADATA) -> bytes:
    """All of a file, of at most `most` bytes.

    Raises
    ------
    NotAFileError
        If it is no regular file, or longer.
    OSError
        If it cannot be read.
    """
    check_regular(path, most)
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:  # it grows, or its system does not say how long it is
        raise NotAFileError(f"{path} has more than {most:,} bytes, and no more are read of such a file")
    return content
