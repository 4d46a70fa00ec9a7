"""Training steps a second: plain float32 against the precision each arm is trained at, in one run.

    python -m benchmarks.pretraining.step_speed --data ../shared/data

Both sides see the same batches, turn about, in one process; CPU seconds, because other work on the
machine does not count in them; on a GPU (``--device cuda``) seconds of wall time. Last line: JSON with
the ratio for each config.
"""

import argparse
import copy
import json
import time
from pathlib import Path

import numpy as np
import torch

from wsi_umedpt.datasets.validation import check
from wsi_umedpt.tasks import make_task
from wsi_umedpt.training.run import find_data, head_spec
from wsi_umedpt.training.settings import read_pretrain_config
from wsi_umedpt.training.start import initial_model
from wsi_umedpt.training.step import StepSettings, train_step

PRECISIONS = ("fp32", "bf16_decoders", "bf16")


def measure(config_path: Path, root: Path, steps: int, device: str) -> dict[str, float]:
    """Median seconds a step, by precision: of CPU time, or of wall time on a GPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    config = read_pretrain_config(config_path, root)
    data = find_data(config)
    check(data, cache_bytes=1 << 30)
    specs = [head_spec(d) for d in data]
    shared = initial_model(config).train().to(device).to(memory_format=torch.channels_last)
    tasks = [make_task(s, config.model.dim).to(device).train() for s in specs]
    sides = {}
    for precision in PRECISIONS:
        mine, heads = copy.deepcopy(shared), copy.deepcopy(tasks)
        mine.float32_encoder = precision == "bf16_decoders"
        parameters = [p for m in (mine, *heads) for p in m.parameters() if p.requires_grad]
        sides[precision] = (mine, heads, torch.optim.AdamW(parameters, lr=1e-5))
    seconds: dict[str, list[float]] = {p: [] for p in PRECISIONS}
    for step in range(steps + 1):
        batches = {d.spec.name: d.batch(step).to(device) for d in data}
        for precision, (mine, heads, optimizer) in sides.items():
            began = clock()
            train_step(
                mine,
                heads,
                batches,
                optimizer,
                StepSettings(total_tasks=len(heads), seeds=(0, step), autocast=precision != "fp32"),
            )
            if device != "cpu":
                torch.cuda.synchronize()
            if step:  # the first is warming up
                seconds[precision].append(clock() - began)
    return {p: float(np.median(s)) for p, s in seconds.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    ratios = {}
    for name in ("lite0", "swin_micro"):
        path = Path(__file__).with_name(f"{name}.toml")
        found = measure(path, asked.data, asked.steps, asked.device)
        ratios[path.stem] = {f"{p}_vs_fp32": round(found["fp32"] / found[p], 2) for p in PRECISIONS[1:]}
        print(path.stem, {p: f"{s:.2f} s a step" for p, s in found.items()}, flush=True)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
