"""One file from an address or another folder, whole or not at all, compared with its digest."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import ssl
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from dp3d_cli import __version__
from dp3d_cli.core.errors import WeightsError

Report = Callable[[int, int | None], None]
"""Told (bytes done, bytes in all if known) as a transfer goes on."""

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_NETWORK_ERRORS = (URLError, TimeoutError, ConnectionError, ssl.SSLError, HTTPException)


def is_address(source: str) -> bool:
    """Whether a source is fetched over the network; else it is a file."""
    return source.startswith(("https://", "http://"))


def bring(source: str, target: Path, *, size: int | None, sha256: str | None, report: Report) -> str:
    """Copy or download a file to `target`; after a failure `target` is as it was and nothing else is left.

    Args:
        source: an http(s) address or the path of a file.
        target: replaced in one step; its folder is made if needed.
        size: published size [bytes]; None: unknown.
        sha256: published digest; None: unknown.
        report: told how far it is.

    Returns:
        Hex sha256 of what came.

    Raises:
        WeightsError: no connection, an answer that is not the file, too short, another digest, or `target`
            cannot be written.
    """
    with drafted(target) as draft, _opened(source) as (stream, announced):
        total = announced or size
        hasher, done = hashlib.sha256(), 0
        with draft.open("wb") as file:
            for block in _blocks(source, stream):
                file.write(block)
                hasher.update(block)
                done += len(block)
                report(done, total)
                if size is not None and done > size:
                    break
        for expected in (announced, size):
            if expected is not None and done != expected:
                kind = "broke off at" if done < expected else "is longer than"
                raise WeightsError(
                    f"{source}: the transfer {kind} {min(done, expected)} of {expected} bytes. Nothing was "
                    "kept; the same command tries again.",
                    reason="wrong-size",
                )
        digest = hasher.hexdigest()
        if sha256 is not None and digest != sha256:
            raise WeightsError(
                f"{source}: sha256 {digest}, expected {sha256}. This is not the published file, or it was "
                "damaged on the way; nothing was kept.",
                reason="wrong-hash",
            )
        draft.replace(target)
    return digest


@contextlib.contextmanager
def drafted(target: Path) -> Iterator[Path]:
    """A new empty file beside `target`, gone at the end unless it was moved.

    Raises:
        WeightsError: for an OSError of the body too: it says which folder cannot be written, and what to do.
    """
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.touch(exist_ok=False)
        yield draft
    except OSError as error:
        raise WeightsError(
            f"{target.parent}: cannot be written ({error.strerror or error}). Name another folder in "
            "$DP3D_WEIGHTS, or let someone who may write there fetch it.",
            reason="cannot-write",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # a read-only file system refuses even to remove what is not there
            draft.unlink()


@contextlib.contextmanager
def _opened(source: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """A source as a stream, and how many bytes it says to have."""
    if not is_address(source):
        path = Path(source)
        try:
            stream = path.open("rb")
        except OSError as error:
            raise WeightsError(
                f"{path}: cannot be read ({error.strerror}). Give a file or an https address.",
                reason="no-such-source",
            ) from error
        with stream:
            yield stream, path.stat().st_size
        return
    request = Request(source, headers={"User-Agent": f"dp3d/{__version__}", "Accept-Encoding": "identity"})
    with _naming_network_errors(source):
        response = urlopen(request, timeout=_TIMEOUT_S)
    with response:
        if response.headers.get_content_type() == "text/html":
            raise WeightsError(
                f"{source}: answers with a web page, not with a file. Download it in a browser and give the "
                "file instead.",
                reason="not-a-file",
            )
        length = response.headers.get("Content-Length")
        yield response, int(length) if length and length.isdigit() else None


def _blocks(source: str, stream: BinaryIO) -> Iterator[bytes]:
    while True:
        with _naming_network_errors(source):
            block = stream.read(_BLOCK_BYTES)
        if not block:
            return
        yield block


@contextlib.contextmanager
def _naming_network_errors(source: str) -> Iterator[None]:
    try:
        yield
    except HTTPError as error:
        error.close()
        raise WeightsError(
            f"{source}: the server answers {error.code} {error.reason}. If the address has moved, get the "
            "file elsewhere and give it with --from.",
            reason="download-failed",
        ) from error
    except _NETWORK_ERRORS as error:
        cause = getattr(error, "reason", None) or error
        raise WeightsError(
            f"{source}: cannot be downloaded ({cause}). Check the connection, then run the same command "
            "again; on a machine without network, fetch elsewhere and copy the file.",
            reason="download-failed",
        ) from error
