"""Folders of numbered views, and videos whose frames are views: ours or any other method's.

A folder that directly holds numbered pictures ("000.png", "frame_0001.jpg") is one subject; its id is its
path below the folder that was searched. `views.json`, where there is one, says which files are views, in
which order and from which angle. So does a `cameras.json` or `transforms.json`, whose images may lie in a
folder below ("images/cam_222200037.jpg"): view i is its i-th entry, and its camera is known. A video file is
a subject too, frame i being view i.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.cameras.files import read_camera_list
from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.images import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from dp3d_cli.core.videos import count_frames

DESCRIPTION = "views.json"
CAMERA_FILES = ("cameras.json", "transforms.json")

# Folders beside a `proxy.json` that hold a map per view rather than views.
_MAPS = ("confidence", "coverage")


class _Angles(TypedDict):
    yaw: float | None
    pitch: float | None
    camera: Camera | None


_NUMBERED = re.compile(r"(?:[A-Za-z]+[_-]?)?(\d+)")


@dataclass(frozen=True)
class View:
    """One picture of a subject.

    Attributes:
        index: number of the view; what decides which views belong together.
        path: a picture, or the video that holds it.
        frame: frame number if `path` is a video.
        yaw: angle of the camera [rad] if known.
        pitch: the same; negative is above the face.
        camera: the camera if known.
    """

    index: int
    path: Path
    frame: int | None = None
    yaw: float | None = None
    pitch: float | None = None
    camera: Camera | None = None


@dataclass(frozen=True)
class ViewFolder:
    """A subject's views.

    Attributes:
        id: path below the searched folder; "." for that folder itself.
        path: the folder or the video file.
        views: in playing order.
        closed: whether the last view leads back to the first; None if unknown.
        references: paths of the reference portraits as `views.json` has them.
        description: the `views.json`, or else the camera file, that says which files are views.
        camera_file: the file that the cameras were read from.
    """

    id: str
    path: Path
    views: tuple[View, ...]
    closed: bool | None = None
    references: tuple[str, ...] = ()
    description: Path | None = None
    camera_file: Path | None = None


@dataclass(frozen=True)
class Unusable:
    """Something that looks like a subject, but is none."""

    id: str
    reason: str
    message: str


@dataclass(frozen=True)
class Found:
    """What a search found, sorted by id."""

    folders: tuple[ViewFolder, ...]
    unusable: tuple[Unusable, ...] = ()

    def by_id(self) -> dict[str, ViewFolder]:
        """Subjects by their id."""
        return {folder.id: folder for folder in self.folders}


def find_view_folders(root: Path, inner: str | None = None, *, videos: bool = False) -> Found:
    """Search a folder for subjects.

    Args:
        root: the folder to search; hidden folders are passed over, links to folders are followed.
        inner: a file or folder name that each subject's folder holds its views under ("official_views.mp4",
            "proxy"): only those count, and the id leaves it out.
        videos: whether video files are subjects, too. Beside a folder of the same id they are passed over.

    Raises:
        UsageError: `root` is no folder (reason "missing-folder").
    """
    if not root.is_dir():
        raise UsageError(f"{root}: there is no such folder.", reason="missing-folder")
    found: dict[str, ViewFolder | Unusable] = {}
    for path in _candidates(root, videos):
        if inner is not None and path.name != inner:
            continue
        relative = path.relative_to(root)
        if inner is not None:
            relative = relative.parent
        elif path.is_file():
            relative = relative.with_suffix("")
        identity = relative.as_posix()
        if identity in found:
            continue  # a folder of pictures comes before a video of the same name
        try:
            subject = _read_video(path, identity) if path.is_file() else read_view_folder(path, identity)
        except InputError as error:
            # Without the root: reports are the same wherever the files lie.
            message = str(error).replace(f"{root}{os.sep}", "")
            found[identity] = Unusable(identity, error.reason, message)
            continue
        if subject is not None:
            found[identity] = subject
    # Pictures that a camera file above them describes are that folder's views, not a subject of their own.
    claimed = {
        Path(os.path.normpath(view.path.parent))
        for entry in found.values()
        if isinstance(entry, ViewFolder) and entry.camera_file is not None
        for view in entry.views
        if view.path.parent != entry.path
    }
    ordered = [
        entry
        for _, entry in sorted(found.items())
        if not (isinstance(entry, ViewFolder) and Path(os.path.normpath(entry.path)) in claimed)
    ]
    return Found(
        tuple(entry for entry in ordered if isinstance(entry, ViewFolder)),
        tuple(entry for entry in ordered if isinstance(entry, Unusable)),
    )


def read_view_folder(folder: Path, identity: str) -> ViewFolder | None:
    """The views that a folder directly holds or its camera file names, or None if there are none.

    Raises:
        InputError: two files claim one view ("duplicate-view"), `views.json` is damaged
            ("damaged-description"), or the camera file is (its own reasons) or names no picture that is there
            ("no-frames").
    """
    description = folder / DESCRIPTION
    camera_file = next((folder / name for name in CAMERA_FILES if (folder / name).is_file()), None)
    if description.is_file():
        described = _read_description(folder, identity, description)
        return described if camera_file is None else _with_cameras(described, camera_file)
    if camera_file is not None:
        return _read_camera_file(folder, identity, camera_file)
    views: dict[int, View] = {}
    for path in sorted(folder.iterdir()):
        index = view_index(path)
        if index is None or path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        if index in views:
            raise InputError(
                f"{folder}: {views[index].path.name} and {path.name} are both view {index}. Remove one.",
                reason="duplicate-view",
            )
        views[index] = View(index, path)
    if not views:
        return None
    return ViewFolder(identity, folder, tuple(views[index] for index in sorted(views)))


def holds_maps(folder: Path) -> bool:
    """Whether the numbered pictures in a folder are a proxy's maps, not views."""
    return folder.name in _MAPS and (folder.parent / "proxy.json").is_file()


def view_index(path: Path) -> int | None:
    """The number that a file name states: "000.png" → 0, "frame_12.jpg" → 12, "anna.png" → None."""
    match = _NUMBERED.fullmatch(path.stem)
    return int(match[1]) if match else None


def find_reference(root: Path, identity: str) -> Path | None:
    """The reference portrait of a subject below `root`; None if there is none.

    It is `<id>.png`, else `<id>/reference.png`, else the first picture in `<id>/`, of any picture suffix; or
    `root` itself if that is a file.
    """
    if root.is_file():
        return root
    for stem in (root / identity, root / identity / "reference"):
        if stem.parent.is_dir():
            for path in sorted(stem.parent.iterdir()):
                if path.stem == stem.name and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                    return path
    folder = root / identity
    if folder.is_dir():
        pictures = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES)
        return next(pictures, None)
    return None


def _candidates(root: Path, videos: bool) -> list[Path]:
    """Folders below and including `root`, then video files, so that folders come first."""
    seen: set[tuple[int, int]] = set()
    visited: list[Path] = []
    films: list[Path] = []
    for name, folders, files in os.walk(root, followlinks=True):
        folder = Path(name)
        state = folder.stat()
        if (state.st_dev, state.st_ino) in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        if not holds_maps(folder):
            visited.append(folder)
        films += [folder / file for file in sorted(files) if Path(file).suffix.lower() in VIDEO_SUFFIXES]
    return visited + (films if videos else [])


def _read_video(path: Path, identity: str) -> ViewFolder:
    views = tuple(View(frame, path, frame) for frame in range(count_frames(path)))
    return ViewFolder(identity, path, views)


def _read_description(folder: Path, identity: str, description: Path) -> ViewFolder:
    """A folder with `views.json`: what it does not say is unknown, what it says must make sense."""
    try:
        content = json.loads(description.read_bytes())
        entries = content["views"]
        views = []
        for number, entry in enumerate(entries):
            name = str(entry["view"])
            yaw_deg, pitch_deg = entry.get("yaw_deg"), entry.get("pitch_deg")
            views.append(
                View(
                    index=int(name) if name.isdecimal() else number,
                    path=folder / str(entry.get("file", f"{name}.png")),
                    yaw=math.radians(yaw_deg) if yaw_deg is not None else None,
                    pitch=math.radians(pitch_deg) if pitch_deg is not None else None,
                )
            )
        if len({view.index for view in views}) < len(views) or not views:
            raise ValueError("no views, or one listed twice")
        closed = content.get("closed")
        references = _texts(content.get("reference", content.get("references")))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise InputError(
            f"{description}: not a description of views ({type(error).__name__}: {error}). Make the views "
            "again, or remove this file to take the numbered pictures as they are.",
            reason="damaged-description",
        ) from error
    return ViewFolder(
        identity, folder, tuple(views), closed if isinstance(closed, bool) else None, references, description
    )


def _read_camera_file(folder: Path, identity: str, camera_file: Path) -> ViewFolder | None:
    """A folder with cameras.json or transforms.json: view i is its i-th entry."""
    listed = read_camera_list(camera_file)
    views = tuple(
        View(index, _picture_at(folder / name), **_angles(camera))
        for index, (name, camera) in enumerate(zip(listed.file_names, listed.cameras, strict=True))
    )
    if not any(view.path.is_file() for view in views):
        raise InputError(
            f"{camera_file}: none of the {len(views)} pictures it names is there ({listed.file_names[0]}). "
            "Put them where it says, or remove it to take numbered pictures as they are.",
            reason="no-frames",
        )
    return ViewFolder(identity, folder, views, listed.closed, (), camera_file, camera_file)


def _with_cameras(described: ViewFolder, camera_file: Path) -> ViewFolder:
    """The views with the cameras that the file beside `views.json` gives to their pictures."""
    listed = read_camera_list(camera_file)
    cameras = {
        os.path.normpath(camera_file.parent / name): camera
        for name, camera in zip(listed.file_names, listed.cameras, strict=True)
    }
    views = []
    for view in described.views:
        camera = cameras.get(os.path.normpath(view.path))
        views.append(view if camera is None else replace(view, camera=camera))
    return replace(described, views=tuple(views), camera_file=camera_file)


def _picture_at(path: Path) -> Path:
    """The path, or with the picture suffix it lacks, as Blender's transforms.json leaves it out."""
    if path.suffix.lower() in IMAGE_SUFFIXES or path.is_file():
        return path
    candidates = (path.with_name(path.name + suffix) for suffix in sorted(IMAGE_SUFFIXES))
    return next((candidate for candidate in candidates if candidate.is_file()), path)


def _angles(camera: Camera | None) -> _Angles:
    if camera is None:
        return {"yaw": None, "pitch": None, "camera": None}
    return {"yaw": camera.yaw, "pitch": camera.pitch, "camera": camera}


def _texts(value: object) -> tuple[str, ...]:
    """Paths from a string, a list of strings, or a list of objects with a "file"."""
    if value is None:
        return ()
    entries = value if isinstance(value, list) else [value]
    return tuple(str(entry.get("file")) if isinstance(entry, Mapping) else str(entry) for entry in entries)
