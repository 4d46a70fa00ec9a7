"""Access of zarr to foreign arrays: folders of regular files, and nothing that is waited for without end."""

from typing import Any

from zarr.storage import LocalStore

from wsi_umedpt.io.files import check_regular

MOST_CHUNK_BYTES = 1 << 30
"""Most bytes of a chunk as it is stored, where it is read whole."""


class ChunkFiles(LocalStore):
    """A folder that zarr reads from; a chunk that is a pipe, a device or absurdly long is an error."""

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Read a file, or a part of it."""
        self._check(key, byte_range)
        return await super().get(key, prototype, byte_range)

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        """The same, for versions of zarr that ask so."""
        self._check(key, byte_range)
        return super().get_sync(key, prototype=prototype, byte_range=byte_range)

    def _check(self, key: str, byte_range: Any) -> None:
        path = self.root / key
        try:
            check_regular(path, MOST_CHUNK_BYTES if byte_range is None else None)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError:
            if not path.is_dir():
                raise
