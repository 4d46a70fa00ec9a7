"""Training on a GPU, against the same run on the CPU; skipped where there is none."""

import json

import numpy as np
import pytest
import torch

from wsi_umedpt.models.encoder import load_encoder
from wsi_umedpt.training.run import pretrain

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def losses_of(out):
    """Losses of each task, step by step."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_decoders"])
def test_losses_are_those_of_the_cpu(config, reference, tmp_path, precision):
    """In the first step, to 2 %, of the tasks without dropout (whose draws differ); the last ones have fallen."""
    pretrain(config(precision=precision), tmp_path, device="cuda")
    found, expected = losses_of(tmp_path), losses_of(reference)
    assert found[0].keys() == expected[0].keys()
    assert {n: found[0][n] for n in ("cells", "boxes")} == {
        n: pytest.approx(expected[0][n], rel=0.02) for n in ("cells", "boxes")
    }
    assert sum(found[-1].values()) < sum(found[0].values())


def test_a_stopped_run_goes_on(config, tmp_path):
    """From a checkpoint made on the GPU, also on the CPU; the release embeds on either."""
    pretrain(config(), tmp_path, device="cuda", until=2)
    pretrain(config(), tmp_path, device="cpu", until=4)
    written = pretrain(config(), tmp_path, device="cuda")
    assert len(losses_of(tmp_path)) == 6
    tiles = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    on = {device: load_encoder(f"umedpt:{written}", device=device).encode(tiles) for device in ("cpu", "cuda")}
    assert np.allclose(on["cpu"], on["cuda"], rtol=0.01, atol=0.01 * np.abs(on["cpu"]).max())
