"""A server on this machine that sends one body to every request, and a tiny archive for it."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from darts_lib.data.downloads import Archive, DataFile

Entry = tuple[tarfile.TarInfo, bytes]
GOOD = {"toy/a": b"a" * 100, "toy/b": b"b" * 100}


def entry(name: str, content: bytes = b"", **values: Any) -> Entry:
    made = tarfile.TarInfo(name)
    for field, value in {"size": len(content), **values}.items():
        setattr(made, field, value)
    return made, content


WANTED = [entry(name, content) for name, content in GOOD.items()]


def tar_of(entries: Sequence[Entry] = WANTED) -> bytes:
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed,  # the same bytes each time
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for made, content in entries:
            archive.addfile(made, io.BytesIO(content))
    return buffer.getvalue()


def archive_of(url: str, body: bytes, name: str = "toy.tar.gz") -> Archive:
    """Return an archive of the wanted files with the checksum that its maker promised."""
    members = tuple(DataFile(member, md5(content)) for member, content in GOOD.items())
    return Archive(url, DataFile(name, md5(body)), members, 1)


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves one body to every request, once it is let go, and counts the requests for it."""

    daemon_threads = True

    def __init__(self, body: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.fetched, self.let_go = body, 0, threading.Event()
        self.let_go.set()
        self.url = f"http://127.0.0.1:{self.server_port}/toy.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:  # noqa: N802  (the name that http.server looks for)
        self.server.fetched += 1
        self.server.let_go.wait(120)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.server.body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(body: bytes) -> Iterator[Server]:
    """Serve in a thread; whoever asks must not go through a proxy."""
    with Server(body) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.let_go.set()
        server.shutdown()
        thread.join()
