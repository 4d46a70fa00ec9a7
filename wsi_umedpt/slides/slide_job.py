"""Slide of a run: its path, the name of its outputs, and the facts that the user stated."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wsi_umedpt.errors import StoreError
from wsi_umedpt.io.dicomweb import series_at
from wsi_umedpt.io.remote import plain

if TYPE_CHECKING:
    from wsi_umedpt.annotations.annotation import Origin
    from wsi_umedpt.slides.channels import ChannelChoice


@dataclass(frozen=True)
class SlideJob:
    """One slide to be worked on."""

    path: Path
    """Path of the slide; of one on a DICOMweb server its name, and of one at a URL what is shown of that: no files."""
    slide_id: str
    """Names the outputs; safe as a file name, and no other slide's of its run."""
    mpp: float | None = None
    """um/px given by the user, instead of what the slide states."""
    mask: Path | None = None
    """The user's own tissue mask: annotations (GeoJSON, XML) or PNG."""
    url: str | None = field(default=None, repr=False)
    """URL of the slide, if it lies elsewhere and is copied here before it is opened; may hold credentials."""
    url_bytes: int = field(default=0, compare=False, repr=False)
    """Size of the remote slide in bytes; 0 where the list did not state it."""
    mask_origin: "Origin | None" = None
    """The corner that the mask counts from; None as its format does."""
    channels: "tuple[ChannelChoice, ...]" = ()
    """Channels that are seen, of a slide that is not in colour: three as red, green and blue, or one as grey."""

    @property
    def name(self) -> str:
        """Name that a user knows it by."""
        return str(series_at(self.path) or self.path) if self.url is None else plain(self.url)


def store_path(out: Path, job: SlideJob) -> Path:
    """Path of a slide's store; ids are safe, and this makes sure once more."""
    path = out / f"{job.slide_id}.zarr"
    if path.resolve().parent != out.resolve():
        raise StoreError(f"slide id {job.slide_id!r} would leave the folder {out}")
    return path
