"""Bringing one file: whole or not at all."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

import pytest

from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.weights.transfer import bring
from tests.fakes.file_server import FileServer

CONTENT = bytes(range(256)) * 8192  # 2 MiB, two blocks
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def brought(source: str, target: Path, size: int | None = None, sha256: str | None = None) -> list[int]:
    progress: list[int] = []
    digest = bring(
        source, target, size=size, sha256=sha256, report=lambda done, total: progress.append(done * 100)
    )
    assert digest == hashlib.sha256(target.read_bytes()).hexdigest()
    return [done // len(target.read_bytes()) for done in progress]


def refused(
    source: str, target: Path, reason: str, size: int | None = len(CONTENT), sha256: str | None = DIGEST
) -> str:
    """The message; checks that the target is as it was and that nothing lies beside it."""
    before = {path: path.read_bytes() for path in target.parent.glob("**/*")}
    with pytest.raises(WeightsError) as caught:
        bring(source, target, size=size, sha256=sha256, report=lambda done, total: None)
    assert caught.value.reason == reason
    assert {path: path.read_bytes() for path in target.parent.glob("**/*")} == before
    return str(caught.value)


def test_a_download_is_complete_and_its_progress_told(server: FileServer, tmp_path: Path) -> None:
    target = tmp_path / "made" / "on the way" / "file.pth"
    url = server.give("/file.pth", CONTENT)
    assert brought(url, target, len(CONTENT), DIGEST) == [50, 100]
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["file.pth"]


def test_a_file_is_copied_in_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    assert brought(str(tmp_path / "source"), tmp_path / "to" / "file.pth", sha256=DIGEST) == [50, 100]


def test_another_digest_keeps_nothing_and_spares_what_was_there(server: FileServer, tmp_path: Path) -> None:
    url = server.give("/file.pth", CONTENT[::-1])
    (tmp_path / "file.pth").write_bytes(b"earlier")
    message = refused(url, tmp_path / "file.pth", "wrong-hash")
    assert DIGEST in message
    assert hashlib.sha256(CONTENT[::-1]).hexdigest() in message


def test_a_broken_connection_keeps_nothing(server: FileServer, tmp_path: Path) -> None:
    url = server.give("/file.pth", CONTENT)
    server.truncated.add("/file.pth")
    message = refused(url, tmp_path / "file.pth", "wrong-size", size=None, sha256=None)
    assert f"{len(CONTENT) // 2} of {len(CONTENT)} bytes" in message


@pytest.mark.parametrize("published", [len(CONTENT) - 1, len(CONTENT) + 1, 10])
def test_another_size_than_the_published_one_keeps_nothing(
    server: FileServer, tmp_path: Path, published: int
) -> None:
    url = server.give("/file.pth", CONTENT)
    refused(url, tmp_path / "file.pth", "wrong-size", size=published, sha256=None)


def test_an_absent_file_names_address_and_answer(server: FileServer, tmp_path: Path) -> None:
    message = refused(server.url + "/gone.pth", tmp_path / "file.pth", "download-failed")
    assert server.url + "/gone.pth" in message
    assert "404" in message


def test_a_closed_port_is_a_failed_download(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message = refused(f"http://127.0.0.1:{port}/file.pth", tmp_path / "file.pth", "download-failed")
    assert "refused" in message


def test_a_web_page_is_not_taken_for_the_file(server: FileServer, tmp_path: Path) -> None:
    url = server.give("/view", b"<html>Virus scan warning</html>")
    server.pages.add("/view")
    assert "browser" in refused(url, tmp_path / "file.pth", "not-a-file", size=None, sha256=None)


def test_a_source_that_does_not_exist(tmp_path: Path) -> None:
    assert "absent.pth" in refused(str(tmp_path / "absent.pth"), tmp_path / "file.pth", "no-such-source")


@pytest.mark.parametrize("scheme", ["file://", "ftp://"])
def test_no_other_scheme_is_an_address(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    refused(f"{scheme}{tmp_path}/source", tmp_path / "to" / "file.pth", "no-such-source")


def test_an_interruption_keeps_nothing(server: FileServer, tmp_path: Path) -> None:
    url = server.give("/file.pth", CONTENT)

    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(url, tmp_path / "file.pth", size=None, sha256=None, report=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_made_is_refused_before_the_download(
    server: FileServer, tmp_path: Path
) -> None:
    url = server.give("/file.pth", CONTENT)
    (tmp_path / "a file").touch()
    with pytest.raises(WeightsError, match="cannot be written") as caught:
        bring(url, tmp_path / "a file" / "x.pth", size=None, sha256=None, report=lambda done, total: None)
    assert caught.value.reason == "cannot-write"
    assert server.asked == []


def test_a_full_disk_keeps_nothing(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.give("/file.pth", CONTENT)
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        if path.suffix == ".part":
            raise OSError(28, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(WeightsError, match="No space left on device"):
        bring(url, tmp_path / "file.pth", size=None, sha256=None, report=lambda done, total: None)
    assert list(tmp_path.iterdir()) == []
