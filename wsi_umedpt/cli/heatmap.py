"""`wsi-umedpt heatmap`: scores of tiles as a picture, a raster, or tiles for QuPath."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from wsi_umedpt.cli.options import ForQuPath
from wsi_umedpt.cli.terminal import say
from wsi_umedpt.messages import counted

if TYPE_CHECKING:
    from wsi_umedpt.heatmaps.raster import Scaling
    from wsi_umedpt.store.scores_io import Scores
    from wsi_umedpt.store.slide_store import SlideStore


def heatmap(
    store: Path,
    /,
    *,
    out: Annotated[Path, Parameter(alias="-o")],
    scores: str | None = None,
    column: str | None = None,
    text: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False)] = (),
    text_encoder: Annotated[str | None, Parameter(show_default=False)] = None,
    grid: str | None = None,
    scaling: Literal["raw", "minmax", "percentile", "signed"] | None = None,
    bounds: ForQuPath = True,
) -> None:
    """Write the scores of a store's tiles as a heatmap; the suffix of the file says as what.

    .png is the slide with the heat over it, and a legend. .ome.tif is a raster of the raw scores with its place on the
    slide, a channel a column. .geojson and .geojson.gz are tiles with measurements for QuPath (drag the file onto the
    open slide, then Measure > Show measurement maps). .csv and .parquet have a row a tile.

    Examples
    --------
        wsi-umedpt heatmap out/slide.zarr -o heat.png --scores tumour

        wsi-umedpt heatmap out/slide.zarr -o heat.png --scores mil --column attention --scaling percentile

        wsi-umedpt heatmap out/slide.zarr -o heat.ome.tif --scores tumour

        wsi-umedpt heatmap out/slide.zarr -o tiles.geojson.gz --scores tumour

        wsi-umedpt heatmap out/slide.zarr -o heat.ome.tif --text lymphocytes --text stroma

    Parameters
    ----------
    store
        Store that holds the scores: see `wsi-umedpt probe predict`.
    out
        File to write.
    scores
        Name of the scores, where the store holds several.
    column
        Column of the scores. A picture shows one; other files hold all, or the one named.
    text
        Score tiles by how near they are to this text (cosine), and keep that in the store as scores; repeat for
        several. For features of an encoder that also embeds texts, as plip.
    text_encoder
        That encoder, as -m takes it, where its weights are in a file or of an older revision.
    grid
        Grid of the tiles, where several have scores of that name.
    scaling
        Scaling of a picture's colours; its legend names it. raw: 0 to 1 as stored. minmax: least to greatest.
        percentile: rank. signed: symmetric about zero. By default signed for contributions and where a score is
        negative, percentile for attention, raw within 0 and 1, else minmax. Files hold raw scores.
    bounds
        Count positions in GeoJSON from the corner of the slide's bounds, where a scanner states them (MRXS, SCN):
        QuPath crops slides to them. --no-bounds counts from the corner of the whole slide.
    """
    import numpy as np

    from wsi_umedpt.errors import OptionError
    from wsi_umedpt.heatmaps.raster import Heatmap
    from wsi_umedpt.interop.geojson import SUFFIXES as GEOJSON
    from wsi_umedpt.interop.heatmap_ometiff import SUFFIXES, HeatmapStack, write_heatmaps
    from wsi_umedpt.interop.qupath_tiles import write_tiles
    from wsi_umedpt.interop.tables import SUFFIXES as TABLES
    from wsi_umedpt.interop.tables import write_tile_table
    from wsi_umedpt.store.slide_store import SlideStore

    name, known = out.name.lower(), (".png", *SUFFIXES, *GEOJSON, *TABLES)
    if not name.endswith(known):
        raise OptionError(f"{out} (--out) must end in one of {', '.join(known)}")
    if scaling and not name.endswith(".png"):
        raise OptionError(f"--scaling {scaling} is for the colours of a .png; {out.name} holds scores as they are")
    opened = SlideStore.open(store)
    if text or text_encoder:
        if not text or scores:
            raise OptionError("--text makes scores of its own: give texts, and no --scores")
        scores, grid = _of_texts(opened, text, text_encoder, grid)
        opened = SlideStore.open(store)
    columns, about = _columns(opened, scores, grid, column)
    tiles = opened.grid(about["grid_id"])
    out.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".png"):
        _draw(out, opened, columns, about, scaling)
    elif name.endswith(SUFFIXES):
        heats = {key: Heatmap.from_tiles(tiles.xy, tiles.side, values) for key, values in columns.items()}
        made_by = {key: value for key, value in about.items() if key != "sha256"}
        write_heatmaps(out, HeatmapStack(heats, opened.slide_id, opened.attrs["slide"]["mpp"], made_by))
    elif name.endswith(GEOJSON):
        corner = opened.corner if bounds else (0, 0)
        write_tiles(out, tiles.xy, tiles.side, columns, slide_id=opened.slide_id, corner=corner)
    else:
        write_tile_table(out, tiles.xy, tiles.side, columns)
    lost = max(int(np.isnan(values).sum()) for values in columns.values())
    say(
        f"{out}: {', '.join(columns)} of {counted(len(tiles), 'tile')}"
        + (f", {lost} of them without a score" if lost else "")
    )


def _of_texts(store: "SlideStore", texts: tuple[str, ...], encoder: str | None, grid: str | None) -> tuple[str, str]:
    """Score tiles by texts; the name and the grid of the scores."""
    from wsi_umedpt.models.cards import all_cards
    from wsi_umedpt.models.text_encoders import TextEncoder
    from wsi_umedpt.pipeline.text_scores import features_with_texts, score_texts

    if encoder is None:
        features, grid = features_with_texts(store, grid)
        encoder = next(name for name in all_cards() if features == name or features.startswith(f"{name}."))
    return score_texts(store, TextEncoder(encoder), texts, grid_id=grid)


def _columns(
    store: "SlideStore", name: str | None, grid: str | None, column: str | None
) -> tuple[dict[str, "Scores"], dict[str, Any]]:
    """Scores by column, and what made them."""
    from wsi_umedpt.errors import OptionError
    from wsi_umedpt.store.scores_io import read_scores, score_ids

    known = sorted({model for _, model in score_ids(store)})
    if not known:
        raise OptionError(f"{store.path} holds no scores; wsi-umedpt probe predict makes some")
    if name is None and len(known) > 1:
        raise OptionError(f"{store.path} holds several scores; name one: --scores {' or --scores '.join(known)}")
    if name is not None and name not in known:
        raise OptionError(f"{store.path} holds no scores {name!r} (--scores); it holds {', '.join(known)}")
    model = name or known[0]
    grids = [of for of, one in score_ids(store) if one == model]
    if (grid is None and len(grids) > 1) or (grid is not None and grid not in grids):
        asked = f"not of grid {grid!r} (--grid)" if grid else "of several grids; name one"
        raise OptionError(f"{store.path} holds scores {model!r} {asked}: --grid {' or --grid '.join(grids)}")
    scores, about = read_scores(store, model, grid)
    names = list(about["columns"])
    if column is not None and column not in names:
        raise OptionError(f"scores {model!r} have no column {column!r} (--column); they have {', '.join(names)}")
    chosen = names if column is None else [column]
    return {key: scores[:, names.index(key)] for key in chosen}, {**about, "scores": model}


def _draw(
    out: Path, store: "SlideStore", columns: "dict[str, Scores]", about: dict[str, Any], scaling: "Scaling | None"
) -> None:
    from wsi_umedpt.errors import OptionError
    from wsi_umedpt.heatmaps.raster import Heatmap, fitting_scaling
    from wsi_umedpt.plotting.heatmap import draw_heatmap
    from wsi_umedpt.plotting.sheets import save

    if len(columns) > 1:
        raise OptionError(
            f"scores {about['scores']!r} have several columns and a picture shows one: --column "
            f"{' or --column '.join(columns)}"
        )
    ((name, values),) = columns.items()
    tiles, mpp = store.grid(about["grid_id"]), store.attrs["slide"]["mpp"]
    picture = draw_heatmap(
        Heatmap.from_tiles(tiles.xy, tiles.side, values),
        scaling=scaling or fitting_scaling(values, name),
        tissue=store.tissue(),
        mpp=mpp,
        title=f"{store.slide_id}: {name} ({about['scores']}), tiles of {tiles.side * mpp:.0f} um",
    )
    save(picture, out)
