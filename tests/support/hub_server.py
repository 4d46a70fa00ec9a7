"""A small hub on loopback: repositories with commits, gates, tokens, and downloads that break or are slow."""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_good"  # noqa: S105 - of a hub that is nobody's


@dataclass
class Repository:
    """Files of each commit, and who may have them."""

    commits: dict[str, dict[str, bytes]]
    """By commit, the newest last."""
    gate: str = ""
    """'' for all, 'terms' for tokens of those let in, 'closed' for nobody."""
    cut_after: int | None = None
    """Bytes after which connections are cut."""
    pause_s: float = 0.0
    """Before each piece of a download."""


@dataclass
class Hub:
    """What is served, and what was asked for."""

    address: str
    repositories: dict[str, Repository] = field(default_factory=dict, repr=False)
    asked: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """A hub while the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            """Say nothing."""

        def do_HEAD(self):
            self._answer(body=False)

        def do_GET(self):
            self._answer(body=True)

        def _answer(self, *, body):
            hub.asked.append(f"{self.command} {self.path}")
            parts = self.path.strip("/").split("/")
            if len(parts) < 5 or parts[2] != "resolve":
                return self._end(200)
            owner, name, _, revision, *file = parts
            repository = hub.repositories.get(f"{owner}/{name}")
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token and token not in (TOKEN, "hf_other"):
                return self._end(401)
            if repository is None:
                return self._end(404 if token else 401, **{"X-Error-Code": "RepoNotFound"})
            if repository.gate and not token:
                return self._end(401, **{"X-Error-Code": "GatedRepo"})
            if repository.gate == "closed" or (repository.gate and token != TOKEN):
                return self._end(403, **{"X-Error-Code": "GatedRepo"})
            commit = [*repository.commits][-1] if revision == "main" else revision
            if commit not in repository.commits:
                return self._end(404, **{"X-Error-Code": "RevisionNotFound"})
            content = repository.commits[commit].get("/".join(file))
            if content is None:
                return self._end(404, **{"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            digest = hashlib.sha256(content).hexdigest()
            first = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
            self.send_response(206 if first else 200)
            for key, value in {
                "X-Repo-Commit": commit, "ETag": f'"{digest}"', "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": str(len(content)), "Content-Length": str(len(content) - first),
                "Accept-Ranges": "bytes",
            }.items():  # fmt: skip
                self.send_header(key, value)
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if body:
                self._send(content[first:], repository)
            return None

        def _send(self, content, repository):
            step = 1 << 16
            for at in range(0, len(content), step):
                time.sleep(repository.pause_s)
                if repository.cut_after is not None and at >= repository.cut_after:
                    self.close_connection = True
                    self.connection.close()
                    return
                self.wfile.write(content[at : at + step])

        def _end(self, status, **headers):
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
