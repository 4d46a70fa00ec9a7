"""Channels of a slide that is not in colour, shown as red, green and blue: which, and how bright each is.

What is chosen is one channel, seen as grey, or three. Each is stretched between two of its own grey values (a window),
by default percentiles of the slide, which its store records: two stores with other channels or windows are never taken
for one another.

Read top to bottom: `ChannelChoice` (what the user asks for, and what came of it), `show` (a `ChannelReader` in, a
`Reader` out).
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from wsi_umedpt.errors import ChannelError, PixelError
from wsi_umedpt.slides.readers.base import Channel, ChannelReader, NativeTiles, Pixels

LOW_PERCENT, HIGH_PERCENT = 1.0, 99.8
"""Percentiles of a channel's grey values that are shown as black and as fully bright."""
_BLOCK, _BLOCKS = 512, 8
"""Side of the blocks of the coarsest level that percentiles are taken of, px; and how many across and down, at most."""


@dataclass(frozen=True)
class ChannelChoice:
    """A channel that is to be seen; of an open slide, with all fields.

    Raises
    ------
    ChannelError
        If its window is empty.
    """

    name: str
    """As the slide names it, whatever its case; or its number, from 0."""
    index: int | None = None
    """Its number; it decides where several have the same name."""
    low: float | None = None
    """Grey value that is shown as black."""
    high: float | None = None
    """Grey value that is shown as fully bright."""

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ChannelError(f"channel {self.name!r} has one end of a window only; give low and high, or neither")
        if self.low is not None and self.high is not None and not 0 <= self.low < self.high <= 65_535:
            raise ChannelError(
                f"the window of channel {self.name!r} must be two grey values from 0 to 65,535, the lower one first, "
                f"got {self.low:g} and {self.high:g}"
            )

    @classmethod
    def parse(cls, text: str) -> tuple[Self, ...]:
        """Read a list of channels.

        Parameters
        ----------
        text
            Names or numbers between commas or semicolons, as ``DAPI,CD3,CD8`` or ``0,3,5``; each may be followed by
            its window, as ``DAPI:200-4000``.

        Raises
        ------
        ChannelError
            If it names none.
        """
        found = []
        for part in filter(None, map(str.strip, re.split("[,;]", text))):
            window = re.fullmatch(r"(.+):(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", part)
            found.append(cls(window[1], None, float(window[2]), float(window[3])) if window else cls(part))
        if not found:
            raise ChannelError(f"names of channels are given between commas, as DAPI,CD3,CD8; got {text!r}")
        return tuple(found)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Undo `to_dict`."""
        return cls(str(fields["name"]), fields["index"], fields["low"], fields["high"])

    def to_dict(self) -> dict[str, Any]:
        """List all fields, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """The channel as a user writes it."""
        return self.name if self.low is None else f"{self.name}:{self.low:g}-{self.high:g}"

    def is_met_by(self, shown: "ChannelChoice") -> bool:
        """Return whether a channel of a slide, with all fields, is the one asked for here."""
        named = self.name.casefold() == shown.name.casefold() or self.name == str(shown.index)
        own = self.low is None or (self.low, self.high) == (shown.low, shown.high)
        return own and (self.index == shown.index or (self.index is None and named))


def are_met(asked: Sequence[ChannelChoice], shown: Sequence[ChannelChoice]) -> bool:
    """Return whether the channels of a slide, or of its store, are those that are asked for."""
    return len(asked) == len(shown) and all(a.is_met_by(s) for a, s in zip(asked, shown, strict=True))


def choices(asked: str | Sequence[str | ChannelChoice]) -> tuple[ChannelChoice, ...]:
    """Channels as a user may give them: a text that is parsed, names, or choices."""
    if isinstance(asked, str):
        return ChannelChoice.parse(asked)
    return tuple(one if isinstance(one, ChannelChoice) else ChannelChoice(str(one)) for one in asked)


def listed(channels: Sequence[Channel]) -> str:
    """Names of channels with their numbers, for people."""
    return ", ".join(str(n) if one.name == str(n) else f"{n} {one.name}" for n, one in enumerate(channels))


def show(reader: ChannelReader, asked: Sequence[ChannelChoice], name: str) -> "ShownChannels":
    """Show channels of a slide as red, green and blue; one alone as grey.

    Parameters
    ----------
    reader
        Reader of the slide.
    asked
        One channel, or three.
    name
        Name of the slide, for messages.

    Raises
    ------
    ChannelError
        If none are asked for, or others than the slide has; if a channel cannot be read at all.
    """
    channels = reader.info.channels
    if len(asked) not in (1, 3):
        got = f", not {', '.join(one.name for one in asked)}" if asked else ""
        raise ChannelError(
            f"{name} is not in colour: it has channels {listed(channels)}.",
            remedy=f"Say which three are red, green and blue, or which one is seen as grey (`channels`){got}.",
            setting="channels",
        )
    settled = []
    for one in asked:
        index = _index(one, channels, name)
        choice = replace(one, name=channels[index].name, index=index)
        if choice.low is None:
            low, high = _window(reader, index, name)
            choice = replace(choice, low=low, high=high)
        settled.append(choice)
    return ShownChannels(reader, tuple(settled))


def _index(asked: ChannelChoice, channels: Sequence[Channel], slide: str) -> int:
    names = [channel.name for channel in channels]
    if asked.index is not None:
        found = [asked.index] if asked.index < len(names) and names[asked.index] == asked.name else []
    else:
        same = [n for n, name in enumerate(names) if name == asked.name]
        found = same or [n for n, name in enumerate(names) if name.casefold() == asked.name.casefold()]
        if not found and asked.name.isdecimal() and int(asked.name) < len(names):
            found = [int(asked.name)]
    if len(found) == 1:
        return found[0]
    trouble = "several channels" if found else "no channel"
    raise ChannelError(
        f"{slide} has {trouble} of the name {asked.name!r}: its channels are {listed(channels)}.",
        remedy="Name those, or give their numbers (`channels`).",
        setting="channels",
    )


def _window(reader: ChannelReader, channel: int, name: str) -> tuple[float, float]:
    """Percentiles of a channel on the coarsest level, of blocks spread evenly over it."""
    number = len(reader.levels) - 1
    level = reader.levels[number]
    counts = np.zeros(1 << 16, np.int64)
    for y, x in itertools.product(_starts(level.height), _starts(level.width)):
        width, height = min(_BLOCK, level.width - x), min(_BLOCK, level.height - y)
        try:
            plane = reader.read_channel(number, channel, x, y, width, height)
        except PixelError:
            continue
        counts += np.bincount(plane.reshape(-1), minlength=len(counts))
    total = counts.cumsum()
    if not total[-1]:
        raise ChannelError(f"{name}: channel {reader.info.channels[channel].name} cannot be read: the file is damaged")
    low, high = (int(np.searchsorted(total, p / 100 * total[-1])) for p in (LOW_PERCENT, HIGH_PERCENT))
    return (float(low), float(high)) if high > low else (float(min(low, 65_534)), float(min(low, 65_534) + 1))


def _starts(extent: int) -> list[int]:
    count = min(_BLOCKS, -(-extent // _BLOCK))
    if count * _BLOCK >= extent:
        return [n * _BLOCK for n in range(count)]
    return [(extent - _BLOCK) * n // (count - 1) for n in range(count)]


class ShownChannels:
    """A `Reader` of channels as colours."""

    def __init__(self, reader: ChannelReader, shown: tuple[ChannelChoice, ...]) -> None:
        self.name, self.levels, self.info = reader.name, reader.levels, reader.info
        self.source = reader
        """Reader of the channels as they are stored."""
        self.shown = shown
        self._tables = [_table(choice, reader.info.channels[choice.index or 0].dtype) for choice in shown]

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle inside a level; see `Reader.read_level`."""
        out = np.empty((height, width, 3), np.uint8)
        for place, (choice, table) in enumerate(zip(self.shown, self._tables, strict=True)):
            plane = self.source.read_channel(level, choice.index or 0, x, y, width, height)
            out[..., place] = table[plane]
        if len(self.shown) == 1:
            out[..., 1:] = out[..., :1]
        return out

    def native_tiles(self, level: int) -> NativeTiles | None:
        """The level's own tiles; see `Reader.native_tiles`."""
        size = self.source.tile_size(level)
        return _ShownTiles(self, level, size) if size else None

    def close(self) -> None:
        """Free the file."""
        self.source.close()


def _table(choice: ChannelChoice, dtype: str) -> npt.NDArray[np.uint8]:
    """Brightness at which each grey value is shown."""
    low, high = choice.low or 0.0, choice.high or 0.0
    values = np.arange(np.iinfo(dtype).max + 1, dtype=np.float64)
    return np.asarray(np.floor(np.clip((values - low) / (high - low), 0, 1) * 255 + 0.5), np.uint8)


class _ShownTiles:
    """Tiles of a level, each decoded alone."""

    scalable = False

    def __init__(self, slide: ShownChannels, level: int, size: tuple[int, int]) -> None:
        self._slide, self._level = slide, level
        self.tile_width, self.tile_height = size

    def decode(self, col: int, row: int, *, shrink: int, buffer: Pixels) -> Pixels | None:
        """Decode one tile into `buffer`; see `NativeTiles.decode`."""
        level = self._slide.levels[self._level]
        shape = self.tile_height, self.tile_width, 3
        out = buffer[: math.prod(shape)].reshape(shape)
        x, y = col * self.tile_width, row * self.tile_height
        width, height = min(self.tile_width, level.width - x), min(self.tile_height, level.height - y)
        if (height, width) != shape[:2]:
            out[:] = 0
        out[:height, :width] = self._slide.read_level(self._level, x, y, width, height)
        return out
