"""Servers on this machine that stand for those elsewhere, and what they were asked."""

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar


class _Handler(SimpleHTTPRequestHandler):
    """Files, with ranges where the server says so; those asked for are noted."""

    def do_GET(self) -> None:
        server = self.server
        path = Path(self.translate_path(self.path))
        if server.trouble or server.down:
            server.trouble = max(0, server.trouble - 1)
            self.send_error(503)
            return
        asked = self.headers.get("Range")
        server.asked += 1
        if not path.is_file():
            super().do_GET()
            return
        content, first = path.read_bytes(), 0
        if asked and server.ranges:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end or len(content) - 1), len(content) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            content = content[first : last + 1]
        else:
            self.send_response(200)
        content += bytes(server.more)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        server.sent[path.name] = server.sent.get(path.name, 0) + len(content)
        self.wfile.write(content[: len(content) // 2] if server.cut and server.cut.pop() else content)

    def do_HEAD(self) -> None:
        if self.server.down:
            self.send_error(503)
        else:
            super().do_HEAD()

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """A web server."""

    ranges = True
    trouble = 0
    """Requests that are refused, as by a server that is overloaded."""
    more = 0
    """Bytes that it sends and did not announce."""
    down = False
    """It refuses all."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.sent: dict[str, int] = {}
        """Bytes, by file."""
        self.cut: list[bool] = []
        self.asked = 0
        """How often it was asked for content."""

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"http://127.0.0.1:{self.server_port}"


Some = TypeVar("Some", bound=ThreadingHTTPServer)


@contextlib.contextmanager
def serving(server: Some) -> Iterator[Some]:
    """Let a server answer, in a thread of its own."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def web(folder: Path) -> contextlib.AbstractContextManager[Server]:
    """Serve a folder."""
    return serving(Server(folder))
