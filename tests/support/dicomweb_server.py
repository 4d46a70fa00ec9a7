"""A DICOMweb server on this machine (WADO-RS: metadata of a series, and frames), and what it was asked."""

import contextlib
import gzip
import json
import re
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pydicom
from pydicom.encaps import generate_frames

from tests.support.web_server import serving
from wsi_umedpt.testing import write_dicom

BOUNDARY = "of-the-test"


class Server(ThreadingHTTPServer):
    """A server of instances."""

    daemon_threads = True

    def __init__(self, files: Iterable[Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.instances = {str(one.SOPInstanceUID): one for one in map(pydicom.dcmread, files)}
        self.asked: list[str] = []
        """Paths below the server, in the order in which they were asked for."""
        self.signed: list[str] = []
        """Credentials that came with them."""
        self.wants = ""
        """Credentials without which nothing is shown."""
        self.refuses = 0
        """Status of all answers."""
        self.after = 0
        """Number of frames after which it has none any more."""
        self.page = False
        """It answers with pages, as a viewer of slides does."""
        self.short = False
        """It leaves out the last frame that was asked for."""
        self.sent = 0
        """Number of frames."""
        self.lossy = False
        """It would compress frames anew, as JPEG."""
        self.silent = threading.Event()
        """Cleared, it takes what is asked, and says nothing."""
        self.silent.set()
        self.bomb = False
        """What it sends is small, and unpacks to 10 MB."""
        self.sends_to = ""
        """URL of the server that has what this one is asked for."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: who asked did not wait."""

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_port}"

    def name(self, series: str = "") -> str:
        """The name of a series on it, as users give it."""
        first = next(iter(self.instances.values()))
        uid = series or first.SeriesInstanceUID
        return f"dicomweb:http://{self.host}/pacs/studies/{first.StudyInstanceUID}/series/{uid}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.path.removeprefix("/pacs"))
        signed = self.headers.get("Authorization", "")
        server.signed.append(signed)
        server.silent.wait()
        if server.sends_to:
            self.send_response(307)
            self.send_header("Location", server.sends_to + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.headers["Host"] != server.host:
            self._answer(400, "text/plain", b"no such host")
        elif server.wants and signed != server.wants:
            self._answer(403 if signed else 401, "text/plain", b"")
        elif server.refuses:
            self._answer(server.refuses, "text/plain", b"")
        elif server.bomb:
            self._answer(200, "application/dicom+json", gzip.compress(b"[" + b" " * 10_000_000, 1), packed="gzip")
        elif server.page:
            self._answer(200, "text/html", b"<html>Slides</html>")
        elif found := re.fullmatch(r"/pacs/studies/[^/]+/series/([^/]+)/metadata", self.path):
            self._metadata(found[1])
        elif found := re.fullmatch(r"/pacs/studies/[^/]+/series/[^/]+/instances/([^/]+)/frames/([0-9,]+)", self.path):
            self._frames(found[1], [int(number) for number in found[2].split(",")])
        else:
            self._answer(404, "text/plain", b"")

    def _metadata(self, series: str) -> None:
        listed = []
        for one in self.server.instances.values():
            if one.SeriesInstanceUID == series:
                stated = one.to_json_dict(
                    bulk_data_threshold=1, bulk_data_element_handler=lambda _: "http://elsewhere/"
                )
                listed.append({tag: value for tag, value in stated.items() if tag != "7FE00010"})
        self._answer(200 if listed else 404, "application/dicom+json", json.dumps(listed).encode())

    def _frames(self, uid: str, numbers: list[int]) -> None:
        server, one = self.server, self.server.instances[uid]
        syntax = re.search(r"transfer-syntax=([0-9.]+)", self.headers["Accept"])
        stored = str(one.file_meta.TransferSyntaxUID)
        jpeg = server.lossy and syntax and syntax[1] == pydicom.uid.JPEGBaseline8Bit
        if syntax and syntax[1] != stored and not jpeg:
            self._answer(406, "text/plain", b"")
            return
        if server.after and server.sent >= server.after:
            self._answer(503, "text/plain", b"")
            return
        if one.file_meta.TransferSyntaxUID.is_encapsulated:
            frames = [*generate_frames(one.PixelData, number_of_frames=int(one.NumberOfFrames))]
        else:
            size = one.Rows * one.Columns * one.SamplesPerPixel * one.BitsAllocated // 8
            frames = [one.PixelData[at : at + size] for at in range(0, len(one.PixelData), size)]
        body = b""
        for number in numbers[: len(numbers) - (server.short and len(numbers) > 1)]:
            server.sent += 1
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
            body += head + frames[number - 1] + b"\r\n"
        body += f"--{BOUNDARY}--\r\n".encode()
        self._answer(200, f'multipart/related; type="image/jpeg"; boundary={BOUNDARY}', body)

    def _answer(self, status: int, kind: str, body: bytes, *, packed: str = "identity") -> None:
        self.send_response(status)
        self.send_header("Content-Encoding", packed)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def pacs(files: Iterable[Path]) -> Iterator[Server]:
    """Serve the instances in some files."""
    with serving(Server(files)) as server:
        try:
            yield server
        finally:
            server.silent.set()


def write_series(folder: Path, image: np.ndarray, *, scales: tuple[int, ...] = (1, 4)) -> list[Path]:
    """A slide as `write_dicom` has it, with the size in mm that wsidicom asks for, a patient, and a label beside it."""
    files = write_dicom(folder, image, scales=scales, series="1.2.840.99.7")
    for number, path in enumerate(files):
        one = pydicom.dcmread(path)
        one.ImagedVolumeWidth, one.ImagedVolumeHeight = (side * 5e-4 for side in image.shape[1::-1])
        one.PatientName = "Doe^Jane"
        one.save_as(path)
        if number == 0:
            one.ImageType, one.SOPInstanceUID = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"], "1.2.840.99.7.99"
            one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
            one.save_as(folder / "label.dcm")
    return [*files, folder / "label.dcm"]
