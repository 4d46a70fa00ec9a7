"""Damaged, truncated and lying slide files: pixels, or an error of ours; never a crash, a hang or half a store."""

import re

import pytest

from tests.support.slide_formats import FORMATS
from wsi_umedpt.testing import tissue_image

SEED = 20261122
"""`python -m benchmarks.faults.mutations` uses another, and 130 mutants of each format."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_mutant_gives_pixels_or_an_error_of_ours(lab, kind, tmp_path):
    """Opening, finding tissue, laying tiles, reading them all and embedding, for up to 66 mutants of each format.

    An exception that is no `WsiError`, a signal (native crash), 20 seconds for one mutant, a
    file left open and a store that is not whole all fail.
    """
    name, write, channels, needs, mutants = FORMATS[kind]
    if needs:
        pytest.importorskip(needs, reason=f"needs {needs}")
    write(tmp_path / name, tissue_image(768, 768)[0])
    scratch, log = tmp_path / "scratch", tmp_path / "log"
    scratch.mkdir()
    request = {"task": "use_mutants", "original": str(tmp_path / name), "seed": SEED, "channels": channels}
    request |= {"scratch": str(scratch), "log": str(log)}
    results, wrong, todo = [], [], list(range(mutants))
    while todo:
        lab.start({**request, "numbers": todo})
        [answer] = lab.wait()
        if answer.code == 0:
            results += answer.value
            break
        died = int(log.read_text())
        wrong.append(f"mutant {died}: its process ended with {answer.code}")
        todo = todo[todo.index(died) + 1 :]
    for r in results:
        which = f"mutant {r['number']} ({r['what']}): "
        wrong += [which + r["how"]] if re.match("ESCAPED|wrong", r["how"]) else []
        wrong += [which + r["store"]] if r["store"] else []
        wrong += [which + f"{r['leak']} files left open"] if r.get("leak", 0) > 0 else []
        wrong += [which + f"took {r['seconds']:.0f} s"] if r["seconds"] > 10 else []
    assert not wrong, "\n".join(wrong)
    # Both happen, or the mutations are too weak or too strong to mean anything.
    hows = {r["how"].split(",")[0] for r in results}
    assert "pixels" in hows
    assert hows & {"UnsupportedSlideError", "SlideError", "PixelError"}
