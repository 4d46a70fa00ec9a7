"""Every exception raised on purpose, each also the builtin that a caller would catch.

A message says what was asked, what was found and what to do. Settings stand in it by their name in Python, between
backticks: the command line writes them as flags, the viewer as its own controls.
"""

import errno

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
"""Codes of `OSError` for a full disk or a used-up quota."""


class WsiError(Exception):
    """Base of all errors that this package raises on purpose.

    Parameters
    ----------
    message
        Description of what was asked and what was found.
    remedy
        Advice, as a sentence of its own.
    setting
        Name of the setting that helps; a face that has a control for it says so instead of the remedy.
    """

    def __init__(self, message: str = "", *, remedy: str = "", setting: str = "") -> None:
        super().__init__(message)
        self.message, self.remedy, self.setting = message, remedy, setting

    def __str__(self) -> str:
        """The message, and the remedy in the words of Python."""
        return f"{self.message} {self.remedy}".rstrip()


class OptionError(WsiError, ValueError):
    """A setting has a value that it cannot have."""


class SlideError(WsiError, ValueError):
    """A slide cannot be used as asked (scale, size, format, too many bad tiles)."""


class StalledError(SlideError):
    """Reading a slide made no progress for so long that it was given up."""


class ChannelError(SlideError):
    """A slide's channels must be chosen, or those that were are not there."""


class UnsupportedSlideError(SlideError):
    """No reader opens the file; the message holds each reader's reason."""


class PixelError(WsiError, OSError):
    """Pixels that the slide says it has cannot be read or decoded."""


class NotAFileError(WsiError, OSError):
    """Something under the name of a file is a pipe, a device or endless."""


class MaskError(WsiError, ValueError):
    """A tissue mask given by the user does not fit its slide or cannot be read."""


class StoreError(WsiError, ValueError):
    """A store is absent, not whole, damaged, or of another slide."""


class StoreBusyError(StoreError, BlockingIOError):
    """Another process is writing this store right now."""


class EncoderError(WsiError, ValueError):
    """An encoder is unknown, its weights are missing or wrong, or it does not fit the tiles."""


class DeviceMemoryError(EncoderError):
    """The device has no memory left for a batch of tiles."""


class PictureError(WsiError, ValueError):
    """A picture cannot be drawn or saved as asked."""


class HeatmapError(WsiError, ValueError):
    """Scores of tiles cannot be laid out as a raster, or a raster cannot be read or written."""


class RemoteError(WsiError, OSError):
    """Something elsewhere, in an object store or on a web server, cannot be read or written as asked."""


class UnreachableError(RemoteError):
    """A network or authentication failure that may pass, and is unrelated to the slide or store that was asked for."""


class ManifestError(WsiError, ValueError):
    """The list of slides that the user gave cannot be used."""


class SpreadError(WsiError, RuntimeError):
    """Workers on other machines cannot be had, or are out of reach."""


class ConfigError(WsiError, ValueError):
    """A configuration file holds a key or value that is not understood."""


class DataError(WsiError, ValueError):
    """Labelled images cannot be used: missing, unreadable, or labels that do not fit."""


class CheckpointError(WsiError, ValueError):
    """A checkpoint is missing, damaged, or of another model."""


class TrainingError(WsiError, RuntimeError):
    """Training cannot go on, for example because a loss is not finite."""


class AnnotationError(WsiError, ValueError):
    """Regions or labels that the user drew or listed cannot be used."""


class InteropError(WsiError, ValueError):
    """A file of another tool cannot be read, or objects cannot be written for one."""


class ProbeError(WsiError, ValueError):
    """A tile classifier cannot be fitted on, or applied to, what was given."""


class MilError(WsiError, ValueError):
    """Labels, features or a slide classifier cannot be used as asked."""


def reason_of(error: BaseException) -> str:
    """An error as a user reads it: ours speak for themselves, the system's name their file, others their type."""
    if isinstance(error, WsiError):
        return str(error)
    if isinstance(error, OSError):
        words = error.strerror or str(error) or type(error).__name__
        return f"{error.filename}: {words}" if error.filename else words
    return f"{type(error).__name__}: {error}"
