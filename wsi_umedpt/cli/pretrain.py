"""`wsi-umedpt pretrain`: train a shared encoder on many tasks."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def pretrain(
    config: Path,
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    data: Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    until: int | None = None,
    check: bool = False,
    tensorboard: bool = False,
) -> int:
    """Train one encoder and a head for each task; run again to go on where it stopped.

    The config is TOML: a table [model], a table [training], and a table [[task]] for each task
    with [task.data]. docs/how-to/train-an-encoder.md describes every key, benchmarks/pretraining holds two
    complete ones. On several GPUs: torchrun --nproc-per-node N -m wsi_umedpt pretrain ...

    Examples
    --------
        wsi-umedpt pretrain tasks.toml --check -o runs/mine

        wsi-umedpt pretrain tasks.toml -o runs/mine

    Parameters
    ----------
    config
        TOML file.
    out
        Folder for the log, the checkpoint and the weights.
    data
        Folder that the config's paths are relative to; by default the config's own.
    device
        auto, cpu, cuda, cuda:1 or mps.
    threads
        CPU threads of the training process; by default all cores.
    until
        Stop after this step; a later run goes on.
    check
        Only read all images and labels, print what each task has, and stop.
    tensorboard
        Also write TensorBoard logs to OUT/tensorboard.
    """
    import torch
    from rich.console import Console

    from wsi_umedpt.cli.terminal import is_quiet
    from wsi_umedpt.cli.training_view import TrainingView
    from wsi_umedpt.datasets.validation import check as check_data
    from wsi_umedpt.training.run import find_data
    from wsi_umedpt.training.run import pretrain as train
    from wsi_umedpt.training.settings import read_pretrain_config

    if threads is not None:
        torch.set_num_threads(max(1, threads))
    settings = read_pretrain_config(config, data)
    console = Console(quiet=is_quiet())
    with TrainingView(settings, console, out / "tensorboard" if tensorboard else None) as view:
        if check:
            found = find_data(settings)
            check_data(found, cache_bytes=0, progress=view.checking)
            view.describe(found)
            return 0
        path = train(settings, out, device=device, until=until, watcher=view)
    console.print(f"{path}")
    return 0
