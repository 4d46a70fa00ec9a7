"""Several GPUs: a command is run once on each, in a process of its own; they share slides, readers and cores."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from wsi_umedpt.cli.options import SpreadOptions
from wsi_umedpt.settings import ComputeOptions, RunSettings

ALL_GPUS = "cuda"
"""Device that stands for every GPU that is visible."""


def devices_of(asked: str, spread: SpreadOptions) -> list[str]:
    """Devices that a run uses, one process each.

    Parameters
    ----------
    asked
        See `ComputeOptions.device`.
    spread
        Workers of Dask have a GPU each, and settle it themselves.

    Returns
    -------
    list of str
        Every visible GPU for ``cuda``, where there are several; else what is asked for.
    """
    if asked != ALL_GPUS or spread.dask:
        return [asked]
    from wsi_umedpt.models.encoder import count_devices

    count = count_devices(ALL_GPUS)
    return [f"{ALL_GPUS}:{n}" for n in range(count)] if count > 1 else [asked]


def readers_each(asked: int | None, processes: int, cores: int) -> list[int]:
    """Readers of tiles of each of several processes.

    Parameters
    ----------
    asked
        Number for all of them together; None for as many as cores allow, of which each process keeps one for its
        network.
    processes
        Number of processes.
    cores
        Number of cores of the machine.
    """
    if asked == 0:
        return [0] * processes
    if asked is None:
        from wsi_umedpt.slides.tile_loader import MOST_READERS

        return [min(MOST_READERS, share - 1) if share > 1 else 1 for share in _shares(cores, processes)]
    return [max(1, share) for share in _shares(asked, processes)]


def run_on_each(
    command: Callable[..., int], devices: Sequence[str], compute: ComputeOptions, settings: RunSettings
) -> int:
    """Run a command once on each device, all at a time; the exit code.

    Parameters
    ----------
    command
        Takes `compute` and `run`, and gives its exit code; picklable.
    devices
        See `devices_of`.
    compute, settings
        Its options, but for the device and the readers.
    """
    import multiprocessing

    from wsi_umedpt.batch.coordination.shutdown import EXIT_CODE, Terminated, raise_on_sigterm
    from wsi_umedpt.slides.readers.base import usable_cores

    cores = usable_cores()
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    running = [
        context.Process(
            target=_run_one,
            args=(command, replace(compute, device=device), replace(settings, readers=readers), cores // len(devices)),
        )
        for device, readers in zip(devices, readers_each(settings.readers, len(devices), cores), strict=True)
    ]
    for process in running:
        process.start()
    try:
        with raise_on_sigterm():
            for process in running:
                process.join()
    except (Terminated, KeyboardInterrupt) as stop:
        for process in running:
            if isinstance(stop, Terminated):  # Ctrl-C reaches them too
                process.terminate()
        for process in running:
            process.join()
        return EXIT_CODE if isinstance(stop, Terminated) else 130
    return 1 if any(process.exitcode for process in running) else 0  # a killed one has a negative code


def _shares(count: int, processes: int) -> list[int]:
    return [count // processes + (n < count % processes) for n in range(processes)]


def _run_one(command: Callable[..., int], compute: ComputeOptions, settings: RunSettings, cores: int) -> None:
    from wsi_umedpt.cli.spread import share_cores

    sys.exit(command(compute=compute, run=share_cores(settings, max(1, cores))))
