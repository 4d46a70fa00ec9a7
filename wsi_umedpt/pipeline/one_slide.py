"""`embed` and `segment`: one slide into one store, in one call."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from wsi_umedpt.models.cards import DEFAULT_ENCODER
from wsi_umedpt.models.encoder import Encoder, load_encoder
from wsi_umedpt.pipeline.embed import EmbedTask
from wsi_umedpt.pipeline.plan import plan_segmentation, spec_for
from wsi_umedpt.pipeline.prepare import PreparedSlide
from wsi_umedpt.pipeline.progress_bar import ProgressBar
from wsi_umedpt.pipeline.task import Progress, SlideTask
from wsi_umedpt.settings import ComputeOptions, RunSettings, TileOptions, TissueParameters
from wsi_umedpt.slides.slide import Slide, open_slide
from wsi_umedpt.slides.tissue import TissueMask, find_tissue
from wsi_umedpt.store.slide_store import SlideStore

AnySlide = Slide | str | Path
AnyStore = SlideStore | str | Path


def embed(
    slide: AnySlide,
    store: AnyStore,
    *,
    encoder: str | Encoder | Sequence[str | Encoder] = DEFAULT_ENCODER,
    tiles: TileOptions | None = None,
    tissue: TissueMask | TissueParameters | None = None,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
) -> SlideStore:
    """Embed a slide's tissue tiles into a store, adding what it lacks.

    Parameters
    ----------
    slide
        Open, or its path.
    store
        Path of the store, ``NAME.zarr``, which need not exist; or an open one.
    encoder
        One or several: names as `load_encoder` takes them (``umedpt`` is the one that ships), or loaded ones.
    tiles
        By default those that each encoder was made for.
    tissue
        A mask, or how it is found; by default the store's own mask, or one found with default settings.
    settings
        Settings for reading and running tiles.
    progress
        Told of tiles; by default a bar where standard error is a terminal or a notebook.

    Returns
    -------
    SlideStore
        Open for reading. Nothing is done where it was whole already; an interrupted call resumes.

    Raises
    ------
    SlideError, StoreError, EncoderError
        If the slide cannot be read, the store is another slide's, or tiles do not fit the encoder.

    Examples
    --------
    >>> import wsi_umedpt as wu
    >>> with wu.open_slide("CMU-1.svs") as slide:  # doctest: +SKIP
    ...     store = wu.embed(slide, "CMU-1.zarr")
    >>> store.features("umedpt").features.shape  # doctest: +SKIP
    (1143, 472)
    """
    names = [encoder] if isinstance(encoder, str | Encoder) else list(encoder)
    encoders = [load_encoder(one) if isinstance(one, str) else one for one in names]
    tiles = tiles or TileOptions()
    parameters = tissue if isinstance(tissue, TissueParameters) else TissueParameters()
    task = EmbedTask(
        encoders=encoders,
        tile_specs=[spec_for(one, tiles) for one in encoders],
        tissue=parameters,
        settings=settings or RunSettings(),
    )
    return _run(slide, store, task, tissue, progress or ProgressBar("embedding"))


def segment(  # noqa: PLR0913 - those of `embed`, and a model beside its heads
    slide: AnySlide,
    store: AnyStore,
    *,
    heads: str | Sequence[str] = (),
    model: str = "",
    tiles: TileOptions | None = None,
    tissue: TissueMask | TissueParameters | None = None,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
) -> SlideStore:
    """Find objects (nuclei, cells) with heads of a UMedPT model, adding what the store lacks.

    Parameters
    ----------
    slide, store
        As for `embed`.
    heads
        Names of heads; by default the first that shows objects.
    model
        A UMedPT model; by default the one that ships.
    tiles
        Windows; by default 320 px, overlapping by 64.
    tissue
        As for `embed`.
    settings
        Settings for reading and running windows, and for embeddings of objects (`RunSettings.object_vectors`).
    progress
        As for `embed`.

    Returns
    -------
    SlideStore
        Open for reading.

    Raises
    ------
    SlideError, StoreError, EncoderError
        As of `embed`, and if the model has no such head.
    """
    parameters = tissue if isinstance(tissue, TissueParameters) else None
    names = [heads] if isinstance(heads, str) else list(heads)
    task = plan_segmentation(model, names, tiles, ComputeOptions(), tissue=parameters, settings=settings)
    return _run(slide, store, task, tissue, progress or ProgressBar("segmenting"))


def _run(
    slide: AnySlide, store: AnyStore, task: SlideTask, tissue: TissueMask | TissueParameters | None, progress: Progress
) -> SlideStore:
    path = store.path if isinstance(store, SlideStore) else Path(store)
    with _opened(slide) as opened:
        mask = tissue if isinstance(tissue, TissueMask) else None
        if mask is None and tissue is None and path.exists():
            mask = SlideStore.open(path).tissue()
        mask = mask or find_tissue(opened, task.tissue)
        with PreparedSlide(opened, path, mask, task.specs(opened.mpp), task.settings.readers) as prepared:
            prepared.read_ahead(task)
            with progress:
                task.run(prepared, progress)
    return SlideStore.open(path)


@contextmanager
def _opened(slide: AnySlide) -> Iterator[Slide]:
    if isinstance(slide, Slide):
        yield slide
    else:
        with open_slide(Path(slide)) as opened:
            yield opened
