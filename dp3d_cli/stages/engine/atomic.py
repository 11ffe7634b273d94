"""Drafts: everything is made beside its destination and moved there whole.

All drafts of a run live in `<output>/.dp3d/drafts/<stage>.<host>.<pid>-<start>.<random>/`, on the file system
of the output, so that a move is one rename. A killed run leaves its folder behind; the next run on that host
sees that the process is gone (by pid and start time, since pids come back) and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

HIDDEN = ".dp3d"


class Drafts:
    """The draft folder of one run, as a context manager. Creates nothing before the first draft.

    Args:
        output: the run's output folder.
        stage: command name.
        active: False for a dry run, which leaves even stale drafts alone.
    """

    def __init__(self, output: Path, stage: str, *, active: bool = True) -> None:
        self._active = active
        self._parent = output / HIDDEN / "drafts"
        name = f"{stage}.{_host()}.{os.getpid()}-{_start_time(os.getpid())}.{secrets.token_hex(4)}"
        self._root = self._parent / name

    def __enter__(self) -> Drafts:
        if self._active:
            remove_stale(self._parent)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._active:
            return
        shutil.rmtree(self._root, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._parent.rmdir()  # stays while another process has drafts

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """An empty folder that is gone afterwards, with whatever was not moved out of it."""
        draft = self._folder() / secrets.token_hex(4)
        draft.mkdir()
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def write(self, target: Path, content: bytes) -> None:
        """Put `content` at `target` completely or not at all, durable when this returns."""
        draft = self._folder() / f"{secrets.token_hex(4)}.tmp"
        try:
            draft.write_bytes(content)
            move_into_place(draft, target)
            _sync(target.parent)
        finally:
            draft.unlink(missing_ok=True)

    def _folder(self) -> Path:
        """The run's folder. Another process may remove the empty parent in between, hence the loop."""
        for _ in range(100):
            with contextlib.suppress(FileNotFoundError):
                self._root.mkdir(parents=True, exist_ok=True)
                return self._root
        raise FileNotFoundError(f"{self._root}: the folder disappears as soon as it is made")


def move_into_place(draft: Path, target: Path) -> None:
    """Rename a finished draft over `target`, its content on the disk first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _sync(draft)
    draft.replace(target)


def remove_stale(parent: Path) -> None:
    """Remove the drafts of this host's dead processes below `parent`."""
    if not parent.is_dir():
        return
    for folder in parent.iterdir():
        try:
            _stage, rest = folder.name.split(".", 1)
            host, process, _random = rest.rsplit(".", 2)
            pid, start = process.split("-")
            dead = host == _host() and not _is_running(int(pid), start)
        except ValueError:
            continue  # not ours
        if dead:
            shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        parent.rmdir()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(descriptor)


def _host() -> str:
    return socket.gethostname().replace("/", "_") or "localhost"


def _start_time(pid: int) -> str:
    """When the process started, in clock ticks since boot; "0" where the system does not tell."""
    try:
        # The second field is the name in parentheses, which may hold spaces: count from its end.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


def _is_running(pid: int, start: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return _start_time(pid) == start
