"""A web server on this machine that gives files, well and badly."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What it gives, and what it was asked for.

    Attributes:
        url: its address.
        files: path → content.
        truncated: paths of which it gives half and hangs up.
        stalled: paths of which it gives half and then waits for `release`.
        pages: paths that it answers with a web page.
        asked: paths of GET requests so far.
        is_half_given: set once a stalled path was asked for.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    truncated: set[str] = field(default_factory=set)
    stalled: set[str] = field(default_factory=set)
    pages: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    is_half_given: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def give(self, path: str, content: bytes) -> str:
        """Publish a file; its address."""
        self.files[path] = content
        return self.url + path


@contextlib.contextmanager
def file_server() -> Iterator[FileServer]:
    """A running server."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            served.asked.append(self.path)
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            content = served.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "text/html" if self.path in served.pages else "application/zip")
            # What a Hugging Face repository says of its files.
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", self.path.split("/")[-2] if self.path.count("/") > 3 else "")
            self.end_headers()
            if not with_body:
                return
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if self.path in served.truncated | served.stalled:
                    self.wfile.write(content[: len(content) // 2])
                    self.wfile.flush()
                    if self.path in served.stalled:
                        served.is_half_given.set()
                        served.release.wait(60)
                    self.close_connection = True
                else:
                    self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = FileServer(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield served
        finally:
            served.release.set()
            server.shutdown()
            thread.join()
