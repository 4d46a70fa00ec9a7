"""Train, validation and test: decided by the group alone, alike in all tasks and all runs.

A group's side is a hash of its name, so that it does not depend on which other groups there
are: a patient who is tested in one task is trained on in none, and more data moves nobody.
"""

import hashlib
from collections.abc import Sequence

from wsi_umedpt.datasets.records import SampleRecord

SPLITS = ("train", "val", "test")


def side_of(group: str, *, val: float, test: float, seed: int) -> str:
    """The split of a group.

    Parameters
    ----------
    group
        Its name; see `SampleRecord.group`.
    val, test
        Expected fractions.
    seed
        Another seed, another division.
    """
    digest = hashlib.sha256(f"{seed}/{group}".encode()).digest()
    u = int.from_bytes(digest[:8], "big") / 2**64
    return "test" if u < test else "val" if u < test + val else "train"


def split_records(
    records: Sequence[SampleRecord], *, val: float, test: float, seed: int
) -> dict[str, list[SampleRecord]]:
    """Records of each split; a split that the data states goes before the hash."""
    out: dict[str, list[SampleRecord]] = {name: [] for name in SPLITS}
    for record in records:
        out[record.split or side_of(record.group, val=val, test=test, seed=seed)].append(record)
    return out
