"""The version of the installed package; looked up when it is first asked for, which takes longer than our import."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("wsi-umedpt")
except PackageNotFoundError:
    __version__ = "0+unknown"
    """Imported without an installation."""
