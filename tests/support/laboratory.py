"""A laboratory for accidents: work in child processes that can be killed, starved, or lied to.

Run as a script, this file is a small server: it imports the package once (torch takes
seconds) and embeds a slide, then forks a child for every task it is sent, so that a test
can afford hundreds of killed processes. `Lab`, at the end, is the side of the test; the tasks stand in
`accidents.TASKS`, each a function of JSON that returns JSON.
"""

import dataclasses
import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from tests.support.accidents import TASKS, contents, difference, embed, leftovers


def _warm_up() -> None:
    """Import and make what children would each make again; half of a child's work, where it embeds one small slide."""
    import cv2

    import wsi_umedpt.store.verify  # noqa: F401
    from wsi_umedpt.testing import tissue_image, write_pyramid

    cv2.setNumThreads(1)  # a pool of threads does not survive a fork
    with tempfile.TemporaryDirectory() as folder:
        slide = write_pyramid(Path(folder) / "a.svs", tissue_image(768, 768)[0], tile=128)
        [outcome] = embed([[str(slide), "a"]], folder, readers=0)
        assert outcome["status"] == "done", outcome
    gc.collect()
    gc.freeze()  # or a child's search for garbage would copy every page


def _serve() -> None:
    _warm_up()
    for line in sys.stdin:
        children = [_fork(request) for request in json.loads(line)]
        _say([pid for pid, _ in children])
        answers = []
        for pid, pipe in children:
            with os.fdopen(pipe, "rb") as file:
                text = file.read()
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            answers.append([status, json.loads(text) if text else None])
        _say(answers)


def _say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _fork(request: dict[str, Any]) -> tuple[int, int]:
    ours, theirs = os.pipe()
    if pid := os.fork():
        os.close(theirs)
        return pid, ours
    code = 1
    try:
        os.close(ours)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        signal.alarm(request.pop("seconds"))
        answer = TASKS[request.pop("task")](**request)
        with os.fdopen(theirs, "wb") as file:
            file.write(json.dumps(answer).encode())
        code = 0
    except BaseException:  # noqa: BLE001 - a forked child must not return
        traceback.print_exc()
    finally:
        os._exit(code)


@dataclasses.dataclass
class Answer:
    """How a child ended: its exit code, negative for a signal, and what its task returned."""

    code: int
    value: Any


class Lab:
    """Runs tasks in forked children."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.laboratory"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # what is unread must show in select
        )
        self._busy = False

    def start(self, *requests: dict[str, Any]) -> list[int]:
        """Start one child per request; returns their process ids."""
        if self._busy:  # a test failed before it waited
            self.wait()
        line = json.dumps([{"seconds": 900, **request} for request in requests])
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(line.encode() + b"\n")
        self._busy = True
        return list(json.loads(self._server.stdout.readline()))

    def ended(self, seconds: float) -> bool:
        """Whether all that was started ends within a time."""
        return bool(select.select([self._server.stdout], [], [], seconds)[0])

    def wait(self) -> list[Answer]:
        """Wait for all that was started."""
        assert self._server.stdout
        self._busy = False
        return [Answer(*pair) for pair in json.loads(self._server.stdout.readline())]

    def run(self, task: str, **request: Any) -> Answer:
        """Start one child and wait for it."""
        self.start({"task": task, **request})
        return self.wait()[0]

    def do(self, task: str, **request: Any) -> Any:
        """Run a task that must succeed; what it returns."""
        answer = self.run(task, **request)
        assert answer.code == 0, f"{task} ended with {answer.code}"
        return answer.value

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.close()
        self._server.wait(timeout=60)
        self._server.stdout.close()

    contents = staticmethod(contents)
    difference = staticmethod(difference)
    leftovers = staticmethod(leftovers)


if __name__ == "__main__":
    _serve()
