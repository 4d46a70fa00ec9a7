"""Slides for runs over many, and what a calm run makes of them."""

import shutil
import uuid
from pathlib import Path

import pytest

from tests.support import bad_slides
from tests.support.channel_slides import planes, write_ome_channels
from wsi_umedpt.batch.run import run_slides
from wsi_umedpt.io.remote import Remote
from wsi_umedpt.slides.channels import ChannelChoice
from wsi_umedpt.slides.slide_job import SlideJob
from wsi_umedpt.testing import tissue_image, write_pyramid


@pytest.fixture(scope="session")
def slides(tmp_path_factory) -> list[Path]:
    """Five slides of 640 x 640 px."""
    folder = tmp_path_factory.mktemp("slides")
    return [write_pyramid(folder / f"s{n}.svs", tissue_image(640, 640, seed=n)[0], tile=128) for n in range(5)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """As children have them."""
    monkeypatch.setattr("wsi_umedpt.store.slide_store.CHUNK_ROWS", bad_slides.CHUNK)


@pytest.fixture
def jobs(slides) -> list[SlideJob]:
    """One for each slide."""
    return [SlideJob(path, path.stem) for path in slides]


@pytest.fixture(scope="session")
def calm(slides, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """The stores of an undisturbed run in one process, by slide."""
    out = tmp_path_factory.mktemp("calm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_umedpt.store.slide_store.CHUNK_ROWS", bad_slides.CHUNK)
        outcomes = run_slides([SlideJob(path, path.stem) for path in slides], *bad_slides.plan(out))
    assert [o.status for o in outcomes] == ["done"] * len(slides)
    return {o.job.slide_id: bad_slides.contents(out / f"{o.job.slide_id}.zarr") for o in outcomes}


@pytest.fixture(scope="session")
def dark_jobs(tmp_path_factory) -> list[SlideJob]:
    """Two slides of fluorescence, of three channels and of a window of one; a third lacks what is asked for."""
    folder = tmp_path_factory.mktemp("fluorescence")
    write_ome_channels(folder / "three.ome.tif", planes(size=(1300, 1200)))
    write_ome_channels(folder / "one.ome.tif", planes(2, "uint8", (1300, 1200)), ("DAPI", "CD3"))
    write_ome_channels(folder / "lacking.ome.tif", planes(2, "uint8"), ("DAPI", "CD3"))
    asked = {"three": "CD8,DAPI,PanCK", "one": "CD3:5-90", "lacking": "DAPI,CD3,CD8"}
    return [SlideJob(folder / f"{n}.ome.tif", n, channels=ChannelChoice.parse(a)) for n, a in asked.items()]


@pytest.fixture(scope="session")
def calm_dark(dark_jobs, tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """Their stores, of an undisturbed run in one process, but for the one that lacks a channel."""
    out = tmp_path_factory.mktemp("calm-dark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_umedpt.store.slide_store.CHUNK_ROWS", bad_slides.CHUNK)
        outcomes = run_slides(dark_jobs, *bad_slides.plan(out))
    assert [o.status for o in outcomes] == ["done", "done", "failed"]
    assert all(o.tiles for o in outcomes[:2])
    return {o.job.slide_id: bad_slides.contents(out / f"{o.job.slide_id}.zarr") for o in outcomes[:2]}


@pytest.fixture
def bad_job(slides, tmp_path):
    """A function that makes a slide which misbehaves in a way."""

    def make(way: str) -> SlideJob:
        return SlideJob(Path(shutil.copyfile(slides[0], tmp_path / f"{way}.svs")), way)

    return make


@pytest.fixture(scope="session")
def s3_server():
    """An S3-compatible server on this machine, which boto and fsspec are told of in the environment."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield server
    server.stop()


@pytest.fixture
def bucket(s3_server) -> str:
    """The URL of a bucket of its own."""
    url = f"s3://b{uuid.uuid4().hex}"
    Remote(url).fs.mkdir(url)
    return url


@pytest.fixture
def in_memory() -> str:
    """The URL of a bucket in this process, for what asks thousands of times: it speaks no HTTP."""
    return f"memory://b{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Between tries."""
    monkeypatch.setattr("wsi_umedpt.io.remote.PAUSE_S", 0.01)


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
