"""Views as clips: MP4, GIF, WebM, or a contact sheet; alone or beside the reference and the proxy.

views/<id>/<view>.png  →  video/<id>.mp4
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.contact_sheet import contact_sheet
from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.images import read_image, resize, write_png
from dp3d_cli.core.videos import write_video
from dp3d_cli.stages.engine.stage import Item, Json, Product, StepProgress
from dp3d_cli.stages.view_folders import ViewFolder, find_reference, holds_maps, read_view_folder

Picture = NDArray[np.uint8]
Format = Literal["mp4", "gif", "webm", "sheet"]
Mode = Literal["auto", "loop", "ping-pong", "once"]
Panel = Literal["reference", "proxy"]

_SUFFIXES: dict[Format, str] = {"mp4": ".mp4", "gif": ".gif", "webm": ".webm", "sheet": ".png"}
_SHEET_COLUMNS = 8


@dataclass(frozen=True)
class VideoSettings:
    """How views become clips.

    Attributes:
        formats: files to make of each subject; "sheet" is a contact sheet as PNG.
        fps: views per second. DiffPortrait3D's published clips have 10.
        mode: "loop" plays the views in order, "ping-pong" there and back, "once" in order and, as GIF, only
            once. "auto" is "ping-pong" where `views.json` says that the views do not end where they begin,
            else "loop".
        repeats: how often the whole is played within the file.
        side_by_side: panels to the left of the views, in this order.
        size: height of the clip [px]; the views' own if None.
    """

    formats: tuple[Format, ...] = ("mp4",)
    fps: float = 10.0
    mode: Mode = "auto"
    repeats: int = 1
    side_by_side: tuple[Panel, ...] = ()
    size: int | None = None

    def __post_init__(self) -> None:
        _check_choices("format", self.formats, get_args(Format))
        if not self.formats:
            raise UsageError("Give at least one format.", reason="bad-format")
        _check_choices("panel", self.side_by_side, get_args(Panel))
        if self.mode not in get_args(Mode):
            raise UsageError(
                f"The mode must be auto, loop, ping-pong or once; got '{self.mode}'.", reason="bad-mode"
            )
        if not 0 < self.fps <= 120:
            raise UsageError(f"The rate must lie above 0 and up to 120, got {self.fps:g}.", reason="bad-fps")
        if "gif" in self.formats and self.fps > 50:
            raise UsageError(
                f"GIF players cannot show more than 50 frames per second, got {self.fps:g}. Lower --fps.",
                reason="bad-fps",
            )
        if self.mode == "once" and self.repeats != 1:
            raise UsageError(
                "--mode once plays the views one time; leave out --repeats.", reason="bad-repeats"
            )
        if self.repeats < 1:
            raise UsageError(f"--repeats must be at least 1, got {self.repeats}.", reason="bad-repeats")
        if self.size is not None and not 16 <= self.size <= 4096:
            raise UsageError(
                f"The size must lie between 16 and 4096 pixels, got {self.size}.", reason="bad-size"
            )


def parse_video_settings(
    formats: str = "mp4",
    side_by_side: str = "",
    *,
    fps: float = 10.0,
    mode: str = "auto",
    repeats: int = 1,
    size: int | None = None,
) -> VideoSettings:
    """Settings from texts as options have them, names joined by commas.

    Raises:
        UsageError: an unknown name or an impossible number.
    """
    return VideoSettings(
        formats=cast("tuple[Format, ...]", _names(formats)),
        fps=fps,
        mode=cast("Mode", mode),
        repeats=repeats,
        side_by_side=cast("tuple[Panel, ...]", _names(side_by_side)),
        size=size,
    )


@dataclass(frozen=True)
class VideoStage:
    """Makes clips of one subject. Build the items with `items_of`."""

    config: VideoSettings
    references: Path | None = None
    proxies: Path | None = None

    name = "video"

    @property
    def settings(self) -> Mapping[str, Json]:
        """Everything but the files; those are inputs of the items."""
        config = self.config
        return {
            "formats": list(config.formats),
            "fps": config.fps,
            "mode": config.mode,
            "repeats": config.repeats,
            "side_by_side": list(config.side_by_side),
            "size": config.size,
        }

    @property
    def weights(self) -> Mapping[str, str]:
        """None."""
        return {}

    def items_of(self, found: Sequence[Item]) -> list[Item]:
        """Items for this stage out of discovered folders: exactly the files that decide the clip as inputs.

        A folder without numbered pictures and without `views.json` is left out, and so are a proxy's maps.
        One whose description is damaged stays, so that it fails with its reason.
        """
        items = []
        for item in found:
            if holds_maps(item.inputs[0].parent):
                continue
            try:
                folder = read_view_folder(item.inputs[0].parent, item.id)
            except InputError:
                items.append(item)
                continue
            if folder is not None:
                items.append(Item(item.id, self._inputs(folder)))
        return items

    def process(self, item: Item, draft: Path, progress: StepProgress) -> Product:
        """Make all formats of one subject."""
        folder = read_view_folder(item.inputs[0].parent, item.id)
        if folder is None:
            raise InputError(f"{item.inputs[0].parent}: there are no numbered pictures.", reason="no-views")
        views = self._views(folder)
        total = len(self.config.formats)
        outputs = []
        for done, format_ in enumerate(self.config.formats):
            progress.step(done, total, format_)
            name = f"{item.id}{_SUFFIXES[format_]}"
            path = draft / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if format_ == "sheet":
                write_png(path, self._sheet(folder, views))
            else:
                write_video(path, self._clip(folder, views), self.config.fps, loop=self.config.mode != "once")
            outputs.append(name)
        progress.step(total, total, "")
        order = playing_order(len(views), self._mode(folder), self.config.repeats)
        return Product(
            tuple(outputs), {"views": len(views), "frames": len(order), "mode": self._mode(folder)}
        )

    def _mode(self, folder: ViewFolder) -> Mode:
        if self.config.mode != "auto":
            return self.config.mode
        return "ping-pong" if folder.closed is False else "loop"

    def _inputs(self, folder: ViewFolder) -> tuple[Path, ...]:
        description = (folder.description,) if folder.description else ()
        files = [*description, *(view.path for view in folder.views)]
        with suppress(InputError):  # the item fails with this reason when it is processed
            if "reference" in self.config.side_by_side:
                files.append(self._reference(folder))
            if "proxy" in self.config.side_by_side:
                files += self._proxies(folder)
        return tuple(dict.fromkeys(files))

    def _reference(self, folder: ViewFolder) -> Path:
        if self.references is not None:
            path = find_reference(self.references, folder.id)
            if path is not None:
                return path
            where = f"below {self.references}"
        else:
            for path in (folder.path / name for name in folder.references):
                if path.is_file():
                    return path
            where = "where views.json says" if folder.references else "named in views.json"
        raise InputError(
            f"{folder.path}: no reference portrait for this subject {where}. Give the folder of aligned "
            "portraits: --references DIR.",
            reason="no-reference",
        )

    def _proxies(self, folder: ViewFolder) -> list[Path]:
        if self.proxies is None:
            raise UsageError(
                "--side-by-side proxy needs the folder of proxies: --proxy DIR.", reason="no-proxy"
            )
        proxies = self.proxies / folder.id
        found = read_view_folder(proxies, folder.id) if proxies.is_dir() else None
        paths = {view.index: view.path for view in found.views} if found else {}
        missing = [view.index for view in folder.views if view.index not in paths]
        if missing:
            raise InputError(
                f"{proxies}: no proxy for view {missing[0]} of {folder.id} ({len(missing)} of "
                f"{len(folder.views)} missing). Make the proxies for these cameras, or leave out "
                "--side-by-side proxy.",
                reason="no-proxy",
            )
        return [paths[view.index] for view in folder.views]

    def _views(self, folder: ViewFolder) -> list[Picture]:
        """The views, all of one size."""
        pictures = [read_image(view.path) for view in folder.views]
        height = self.config.size or pictures[0].shape[0]
        if self.config.size is not None:
            pictures = [_of_height(picture, height) for picture in pictures]
        for view, picture in zip(folder.views, pictures, strict=True):
            if picture.shape != pictures[0].shape:
                raise InputError(
                    f"{view.path}: this view is {picture.shape[1]} x {picture.shape[0]}, the first one "
                    f"{pictures[0].shape[1]} x {pictures[0].shape[0]}. Make all views alike, or give --size.",
                    reason="mixed-sizes",
                )
        return pictures

    def _rows(self, folder: ViewFolder, views: Sequence[Picture]) -> dict[str, list[Picture]]:
        """Panels beside the views: name → one picture for all views, or one per view."""
        height = views[0].shape[0]
        rows: dict[str, list[Picture]] = {}
        for panel in self.config.side_by_side:
            paths = [self._reference(folder)] if panel == "reference" else self._proxies(folder)
            rows[panel] = [_of_height(read_image(path), height) for path in paths]
        return rows

    def _clip(self, folder: ViewFolder, views: Sequence[Picture]) -> Picture:
        """[N, H, W, 3] frames in playing order, panels to the left."""
        panels = list(self._rows(folder, views).values())
        frames = [
            np.concatenate([*(panel[number % len(panel)] for panel in panels), view], axis=1)
            for number, view in enumerate(views)
        ]
        for frame in frames:
            if frame.shape != frames[0].shape:
                raise InputError(f"{folder.path}: the proxies differ in shape.", reason="mixed-sizes")
        return np.stack(
            [frames[i] for i in playing_order(len(frames), self._mode(folder), self.config.repeats)]
        )

    def _sheet(self, folder: ViewFolder, views: Sequence[Picture]) -> Picture:
        rows = {**self._rows(folder, views), "views": list(views)}
        labels = list(rows) if len(rows) > 1 else None
        return contact_sheet(list(rows.values()), labels, columns=_SHEET_COLUMNS)


def playing_order(count: int, mode: Mode, repeats: int = 1) -> list[int]:
    """Indices of views in the order they are shown.

    "ping-pong" shows the two ends once per turn, so that neither seems to stop: 0 1 2 1 for three views.
    """
    there = list(range(count))
    back = list(range(count - 2, 0, -1)) if mode == "ping-pong" else []
    return (there + back) * repeats


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _check_choices(kind: str, chosen: Sequence[str], choices: Sequence[str]) -> None:
    """Refuse names that are unknown or given twice."""
    if len(set(chosen)) < len(chosen) or not set(chosen) <= set(choices):
        raise UsageError(
            f"Each {kind} must be given only once and be out of {', '.join(choices)}; "
            f"got '{','.join(chosen)}'.",
            reason=f"bad-{kind}",
        )


def _of_height(picture: Picture, height: int) -> Picture:
    """Scale to a height, aspect ratio kept."""
    own_height, own_width = picture.shape[:2]
    if own_height == height:
        return picture
    return resize(picture, (height, max(1, round(own_width * height / own_height))))
