"""`python -m tests.fakes.guarded_dp3d FOLDER ARGUMENTS...`: dp3d without network and with a read-only FOLDER.

The latter also for root, whom permissions do not stop.
Ends with status 99 and a line that says what was tried, whatever the program makes of the refusal.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_SOCKET_EVENTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
_WRITE_EVENTS = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate")
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def guard(folder: Path) -> None:
    """End the process at the first connection, or the first write below `folder`."""

    def check(event: str, arguments: tuple[object, ...]) -> None:
        if event in _SOCKET_EVENTS:
            refuse(event, arguments)
        flags = arguments[2] if event == "open" else None
        if event in _WRITE_EVENTS or (isinstance(flags, int) and flags & _WRITE_FLAGS):
            path = arguments[0]
            is_path = isinstance(path, (str, bytes, os.PathLike))
            if is_path and Path.cwd().joinpath(os.fsdecode(path)).is_relative_to(folder):
                refuse(event, (path,))

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        os.write(2, f"guard: {event} {arguments!r}\n".encode())
        os._exit(99)

    sys.addaudithook(check)


if __name__ == "__main__":
    guard(Path(sys.argv[1]).resolve())
    sys.argv[1:] = sys.argv[2:]
    from dp3d_cli.app import main

    main()
