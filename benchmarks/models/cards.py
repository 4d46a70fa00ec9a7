"""The table of encoders in docs/reference/encoders.md, and what each costs on this machine with random weights.

python -m benchmarks.models.cards                       # the table, without times
python -m benchmarks.models.cards --time phikon uni     # a table: tiles/s from pixels, and of the network alone
python -m benchmarks.models.cards --memory h-optimus-0  # peak memory of loading weights of float16
"""

import argparse
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wsi_umedpt.models.cards import EncoderCard, all_cards

TILES, GIANT = 8, 500_000_000
"""Tiles a batch; and weights from which a network is given one tile at a time."""
SLOW_S = 5.0
"""Seconds from which a batch is run once, without one before it to warm up."""
_BUILT_BY = {"timm": "timm", "transformers": "transformers", "remote": "its own code, if trusted"}
_CHILD = "_loads"


def table(chosen: list[EncoderCard]) -> str:
    """Markdown, a row each."""
    rows = ["| name | px @ um/px | numbers | weights | licence | gate | built |", "|---|---|---|---|---|---|---|"]
    for card in chosen:
        at = "any" if card.mpp is None else f"{card.mpp:g}"
        at += f" ({', '.join(f'{mpp:g}' for mpp in card.accepts_mpp)} too)" if card.accepts_mpp else ""
        weights = f"{card.parameters / 1e6:.1f} M" if card.parameters else "-"
        what = f"{card.size_px} @ {at}" if card.kind == "tile" else f"tiles of {' or '.join(card.tiles_from) or 'any'}"
        built = "no" if card.why_not else _BUILT_BY.get(card.library, "here")
        rows.append(
            f"| [{card.name}]({card.source}) | {what} | {card.dim or 'as the tiles'} | {weights} | {card.licence} | "
            f"{card.gate} | {built} |"
            if card.source.startswith("http")
            else f"| {card.name} | {what} | {card.dim or 'as the tiles'} | {weights} | {card.licence} | {card.gate} | "
            f"{built} |"
        )
    return "\n".join(rows)


def times(name: str) -> str:
    """Tiles a second of the encoder, from pixels, and of its network alone, one thread as torch is set."""
    import numpy as np
    import torch

    from wsi_umedpt.models.encoder import load_encoder
    from wsi_umedpt.models.weights import load_network

    encoder = load_encoder(f"{name}@random", device="cpu", engine="torch")
    side = encoder.card.size_px
    tiles = 1 if (encoder.card.parameters or 0) > GIANT else TILES
    pixels = np.random.default_rng(0).integers(0, 256, (tiles, side, side, 3), dtype=np.uint8)
    network, card = load_network(f"{name}@random")
    images = torch.randn(tiles, 3, card.input_px, card.input_px)
    whole = _seconds(lambda: encoder.encode(pixels))
    with torch.inference_mode():
        alone = _seconds(lambda: network(images))
    return f"| {name} | {tiles / whole:.3g} | {tiles / alone:.3g} | {alone / whole:.2f} |"


def where() -> str:
    """Describe the machine and the table's columns: what stands above the rows of `times`."""
    import torch

    threads = f"{torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1)
    head = "| name | tiles/s | network alone | share |\n|---|---|---|---|"
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    machine = names[0] if names else platform.machine()
    batches = f"batches of {TILES} (of 1 above {GIANT / 1e6:g} M weights)"
    return f"{machine}, {threads}, float32, {batches}, random weights\n\n{head}"


def _seconds(run) -> float:
    began = time.perf_counter()
    run()
    if (first := time.perf_counter() - began) > SLOW_S:
        return first
    best = []
    for _ in range(3):
        began = time.perf_counter()
        run()
        best.append(time.perf_counter() - began)
    return min(best)


def memory(name: str) -> str:
    """Peak memory of loading weights of float16 from a file, over what the imports take, and the file's size."""
    import safetensors.torch
    import torch

    from wsi_umedpt.models.building import build_network, inner
    from wsi_umedpt.models.cards import find_card

    with torch.device("meta"):
        outline = inner(build_network(find_card(name))).state_dict()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        values = {key: (torch.rand(tuple(value.shape)) / 100).half() for key, value in outline.items()}
        safetensors.torch.save_file(values, path)
        del values
        size = path.stat().st_size
        lines = []
        for kind in ("float16", "float32"):
            command = [sys.executable, "-m", "benchmarks.models.cards", _CHILD, name, str(path), kind]
            peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
            lines.append(f"{kind} in memory: {peak / 1e9:.2f} GB over the imports, {peak / size:.2f} of the file")
    return f"{name}: a file of {size / 1e9:.2f} GB; " + "; ".join(lines)


def _loads(name: str, path: str, kind: str) -> None:
    """Run in a process of its own: print how much the peak of memory grew, bytes."""
    import torch

    from wsi_umedpt.models.weights import load_network

    load_network("lunit-vits16@random")
    before = _peak()
    network, _ = load_network(f"{name}@{path}", getattr(torch, kind))
    assert next(network.parameters()).dtype == getattr(torch, kind)
    sys.stdout.write(f"{_peak() - before}\n")


def _peak() -> int:
    """Peak of this program's memory, bytes; what getrusage says is also that of the program that started it."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def main() -> None:
    if sys.argv[1:2] == [_CHILD]:
        _loads(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", nargs="+", default=[])
    parser.add_argument("--memory", nargs="+", default=[])
    asked = parser.parse_args()
    if not asked.time and not asked.memory:
        for kind in ("tile", "slide"):
            print(table([card for card in all_cards().values() if card.kind == kind]), end="\n\n")
    if asked.time:
        print(where())
    for name in asked.time:
        print(times(name), flush=True)
    for name in asked.memory:
        print(memory(name), flush=True)


if __name__ == "__main__":
    main()
