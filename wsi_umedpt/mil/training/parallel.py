"""Work that falls into independent parts, a process each: networks are too small to share one among cores."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from joblib import Parallel, delayed

Part = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function that can be pickled, and what it is called with."""


def in_parallel(jobs: int, parts: Sequence[Part]) -> Iterator[Any]:
    """Results in the order of the parts, as they are ready.

    Parameters
    ----------
    jobs
        Processes, of one thread each; 1 does the work here, with the threads that torch has.
    parts
        Parts of the work.
    """
    if jobs == 1 or len(parts) < 2:
        yield from (function(*arguments) for function, arguments in parts)
        return
    workers = Parallel(n_jobs=min(jobs, len(parts)), return_as="generator")
    results = workers(delayed(_alone)(function, arguments) for function, arguments in parts)
    try:
        for result in results:  # noqa: UP028 - `yield from` would close them before we can say how
            yield result
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # who stops early knows that work is lost
            results.close()


def _alone(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    return function(*arguments)
