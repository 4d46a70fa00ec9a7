"""Several GPUs: a process each, that share slides, readers and cores. CPU processes stand for them here."""

import os
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from wsi_umedpt.cli import devices, embed, segment
from wsi_umedpt.cli.devices import devices_of, readers_each, run_on_each
from wsi_umedpt.cli.options import SpreadOptions
from wsi_umedpt.errors import EncoderError
from wsi_umedpt.settings import ComputeOptions, RunSettings
from wsi_umedpt.store.slide_store import SlideStore


@pytest.mark.parametrize(
    ("asked", "gpus", "dask", "found"),
    [
        ("cuda", 3, None, ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda", 1, None, ["cuda"]),
        ("cuda", 0, None, ["cuda"]),
        ("cuda:1", 3, None, ["cuda:1"]),
        ("auto", 3, None, ["auto"]),
        ("cuda", 3, "local", ["cuda"]),
    ],
)
def test_cuda_is_every_gpu(monkeypatch, asked, gpus, dask, found):
    """One by its number; workers of Dask have one each."""
    monkeypatch.setattr("wsi_umedpt.models.encoder.count_devices", lambda _: gpus)
    assert devices_of(asked, SpreadOptions(dask=dask)) == found


@pytest.mark.parametrize(
    ("asked", "processes", "cores", "found"),
    [
        (None, 2, 16, [7, 7]),
        (None, 3, 16, [5, 4, 4]),
        (None, 8, 4, [1] * 8),
        (None, 2, 128, [16, 16]),
        (6, 4, 16, [2, 2, 1, 1]),
        (2, 4, 16, [1] * 4),
        (0, 2, 16, [0, 0]),
    ],
)
def test_readers_are_shared_out(asked, processes, cores, found):
    """By cores, less one for each network; or as many as are asked for, of all together."""
    assert readers_each(asked, processes, cores) == found


def note(folder: Path, compute: ComputeOptions, run: RunSettings) -> int:
    """Stands for a command: leaves a file that says how it was called."""
    (folder / f"{compute.device.replace(':', '_')}-{run.readers}-{os.getpid()}").touch()
    return 0 if compute.device != "cuda:2" else 3


@pytest.mark.parametrize(("count", "code"), [(2, 0), (3, 1)])
def test_each_device_has_a_process_and_its_readers(tmp_path, count, code):
    """The exit code says if one of them failed."""
    names = [f"cuda:{n}" for n in range(count)]
    assert run_on_each(partial(note, tmp_path), names, ComputeOptions(), RunSettings(readers=count + 1)) == code
    found = sorted(path.name.rsplit("-", 1) for path in tmp_path.iterdir())
    assert [name for name, _ in found] == [f"cuda_{n}-{2 if n == 0 else 1}" for n in range(count)]
    assert len({pid for _, pid in found} | {str(os.getpid())}) == count + 1


def wait_long(folder: Path, compute: ComputeOptions, run: RunSettings) -> int:
    """Stands for a command that works when it is asked to stop."""
    (folder / compute.device).touch()
    time.sleep(600)
    return 0


def test_sigterm_ends_them_all(tmp_path):
    """None goes on alone, for the ten minutes that each would work."""

    def end() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end, daemon=True).start()
    assert run_on_each(partial(wait_long, tmp_path), ["a", "b"], ComputeOptions(), RunSettings()) == 143


@pytest.mark.parametrize("isolate", [False, True])
def test_two_processes_embed_the_slides_once(say, small_svs, monkeypatch, isolate):
    """Together; each slide is one's."""
    for name in ("one", "two", "three"):
        shutil.copy(small_svs, f"{name}.svs")
    monkeypatch.setattr(embed, "devices_of", lambda *_: ["cpu", "cpu"])
    words = ["embed", *sorted(Path().glob("*.svs")), "-o", "out", "-m", "timm:resnet10t@random", "--tile-mpp", "2"]
    code, _, err = say(*words, "--readers", "2", *["--isolate"] * isolate)
    assert code == 0, err
    assert {len(SlideStore.open(store).features().features) for store in Path("out").glob("*.zarr")} == {2}
    assert len(list(Path("out").glob("*.zarr"))) == 3


def test_what_is_wrong_is_said_once(say, small_svs, monkeypatch):
    """Before any process is started."""
    for name in ("one", "two"):
        shutil.copy(small_svs, f"{name}.svs")
    monkeypatch.setattr(embed, "devices_of", lambda *_: ["cpu", "cpu"])
    monkeypatch.setattr(devices, "run_on_each", lambda *_: pytest.fail("started"))
    code, _, err = say("embed", "one.svs", "two.svs", "-o", "out", "--size", "100")
    assert code == 1, err
    assert err.count("is for tiles of") == 1


def test_segment_uses_every_gpu_too(say, small_svs, monkeypatch):
    """Slides are shared in the same way."""
    for name in ("one", "two"):
        shutil.copy(small_svs, f"{name}.svs")
    asked = []
    monkeypatch.setattr(segment, "devices_of", lambda *_: ["cpu", "cpu", "cpu"])
    monkeypatch.setattr(segment, "run_on_each", lambda command, names, *_: asked.append((command.args, names)) or 0)
    code, _, err = say("segment", "one.svs", "two.svs", "-o", "out", "--device", "cuda")
    assert (code, err, asked) == (0, "", [((["one.svs", "two.svs"],), ["cpu", "cpu"])])


def test_a_device_of_another_name_is_refused():
    """With what there is."""
    from wsi_umedpt.models.encoder import count_devices

    with pytest.raises(EncoderError, match="'cuda:N' or 'mps', got 'cuda:all'"):
        count_devices("cuda:all")
