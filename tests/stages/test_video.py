from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.images import read_image, write_png
from dp3d_cli.core.videos import read_frames
from dp3d_cli.stages.engine.stage import Item
from dp3d_cli.stages.video import VideoSettings, VideoStage, playing_order
from tests.stages.view_pictures import picture, write_views


class NoProgress:
    def step(self, done: int, total: int, label: str = "") -> None:
        assert 0 <= done <= total


def make(stage: VideoStage, folder: Path, output: Path, identity: str = "anna") -> list[Path]:
    """Run the stage on one folder as the engine would."""
    (item,) = stage.items_of(
        [Item(identity, tuple(sorted(path for path in folder.iterdir() if path.is_file())))]
    )
    product = stage.process(item, output, NoProgress())
    return [output / name for name in product.outputs]


def close(a: np.ndarray, b: np.ndarray, tolerance: float = 12) -> bool:
    return a.shape == b.shape and float(np.abs(a.astype(float) - b).mean()) < tolerance


@pytest.mark.parametrize(
    ("count", "mode", "repeats", "order"),
    [
        (3, "loop", 1, [0, 1, 2]),
        (3, "ping-pong", 1, [0, 1, 2, 1]),
        (3, "ping-pong", 2, [0, 1, 2, 1, 0, 1, 2, 1]),
        (3, "loop", 2, [0, 1, 2, 0, 1, 2]),
        (2, "ping-pong", 1, [0, 1]),
        (1, "ping-pong", 2, [0, 0]),
        (4, "once", 1, [0, 1, 2, 3]),
    ],
)
def test_playing_order(count: int, mode: str, repeats: int, order: list[int]) -> None:
    assert playing_order(count, mode, repeats) == order  # type: ignore[arg-type]


def test_views_become_a_clip_in_order(tmp_path: Path) -> None:
    views = write_views(tmp_path / "anna", 4, side=64)
    (path,) = make(VideoStage(VideoSettings()), tmp_path / "anna", tmp_path / "out", "team/anna")
    assert path == tmp_path / "out" / "team" / "anna.mp4"
    frames = read_frames(path)
    assert len(frames) == 4
    for frame, view in zip(frames, views, strict=True):
        assert close(frame, view)


def test_all_formats_at_once(tmp_path: Path) -> None:
    write_views(tmp_path / "anna", 3)
    stage = VideoStage(VideoSettings(formats=("gif", "sheet", "webm", "mp4"), repeats=2))
    gif, sheet, webm, mp4 = make(stage, tmp_path / "anna", tmp_path / "out")
    assert len(read_frames(mp4)) == len(read_frames(webm)) == 6
    with Image.open(gif) as image:
        assert image.n_frames == 6
        assert image.info["loop"] == 0
    assert sheet.name == "anna.png"
    assert read_image(sheet).shape == (32 + 8, 3 * 36 + 4, 3)


def test_once_is_a_gif_that_stops(tmp_path: Path) -> None:
    write_views(tmp_path / "anna", 3)
    (gif,) = make(
        VideoStage(VideoSettings(formats=("gif",), mode="once")), tmp_path / "anna", tmp_path / "out"
    )
    with Image.open(gif) as image:
        assert "loop" not in image.info


@pytest.mark.parametrize(("closed", "frames"), [(True, 4), (False, 6), (None, 4)])
def test_auto_mode_turns_back_where_the_path_is_open(
    tmp_path: Path, closed: bool | None, frames: int
) -> None:
    write_views(tmp_path / "anna", 4)
    views = [{"view": f"{n:03d}", "file": f"{n:03d}.png"} for n in range(4)]
    (tmp_path / "anna" / "views.json").write_text(json.dumps({"views": views, "closed": closed}))
    (path,) = make(VideoStage(VideoSettings()), tmp_path / "anna", tmp_path / "out")
    assert len(read_frames(path)) == frames


def test_reference_and_proxy_stand_to_the_left(tmp_path: Path) -> None:
    views = write_views(tmp_path / "views" / "anna", 3, side=64)
    proxies = write_views(tmp_path / "proxy" / "anna", 3, side=32, seed=50)
    write_png(tmp_path / "aligned" / "anna.png", picture(99, 128))
    stage = VideoStage(
        VideoSettings(side_by_side=("reference", "proxy")), tmp_path / "aligned", tmp_path / "proxy"
    )
    (path,) = make(stage, tmp_path / "views" / "anna", tmp_path / "out")
    frames = read_frames(path)
    assert frames.shape == (3, 64, 192, 3)
    reference = np.asarray(Image.fromarray(picture(99, 128)).resize((64, 64), Image.Resampling.LANCZOS))
    for frame, proxy, view in zip(frames, proxies, views, strict=True):
        assert close(frame[:, :64], reference)
        assert close(frame[::2, 64:128:2], proxy, 30)
        assert close(frame[:, 128:], view)


def test_files_beside_the_views_are_inputs_and_others_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "views" / "anna"
    write_views(folder, 2)
    write_png(folder / "contact_sheet.png", picture(5))
    write_png(tmp_path / "aligned" / "anna.png", picture(99))
    found = [Item("anna", tuple(sorted(folder.iterdir())))]
    alone = VideoStage(VideoSettings()).items_of(found)
    beside = VideoStage(VideoSettings(side_by_side=("reference",)), tmp_path / "aligned").items_of(found)
    assert [path.name for path in alone[0].inputs] == ["000.png", "001.png"]
    assert [path.name for path in beside[0].inputs] == ["000.png", "001.png", "anna.png"]


def test_reference_is_taken_from_the_description(tmp_path: Path) -> None:
    write_views(tmp_path / "views" / "anna", 1)
    write_png(tmp_path / "aligned" / "anna.png", picture(99))
    content = {"views": [{"view": "000", "file": "000.png"}], "reference": ["../../aligned/anna.png"]}
    (tmp_path / "views" / "anna" / "views.json").write_text(json.dumps(content))
    stage = VideoStage(VideoSettings(side_by_side=("reference",)))
    (path,) = make(stage, tmp_path / "views" / "anna", tmp_path / "out")
    assert read_frames(path).shape == (1, 32, 64, 3)


def test_folders_without_views_are_left_out(tmp_path: Path) -> None:
    write_png(tmp_path / "anna.png", picture(1))
    assert VideoStage(VideoSettings()).items_of([Item("x", (tmp_path / "anna.png",))]) == []


def test_mixed_sizes_need_a_stated_size(tmp_path: Path) -> None:
    folder = tmp_path / "anna"
    write_views(folder, 2)
    write_png(folder / "002.png", picture(2, 64))
    with pytest.raises(InputError, match=r"002\.png: this view is 64 x 64, the first one 32 x 32") as caught:
        make(VideoStage(VideoSettings()), folder, tmp_path / "out")
    assert caught.value.reason == "mixed-sizes"
    (path,) = make(VideoStage(VideoSettings(size=40)), folder, tmp_path / "out")
    assert read_frames(path).shape == (3, 40, 40, 3)


def test_damaged_description_fails_its_item_with_the_reason(tmp_path: Path) -> None:
    write_views(tmp_path / "anna", 1)
    (tmp_path / "anna" / "views.json").write_text("{")
    with pytest.raises(InputError, match="not a description"):
        make(VideoStage(VideoSettings()), tmp_path / "anna", tmp_path / "out")


def test_missing_panels_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "views" / "anna"
    write_views(folder, 2)
    with pytest.raises(InputError, match="--references DIR"):
        make(VideoStage(VideoSettings(side_by_side=("reference",))), folder, tmp_path / "out")
    both = VideoSettings(side_by_side=("proxy",))
    with pytest.raises(UsageError, match="--proxy DIR"):
        make(VideoStage(both), folder, tmp_path / "out")
    write_views(tmp_path / "proxy" / "anna", 1)
    with pytest.raises(InputError, match=r"no proxy for view 1 of anna \(1 of 2 missing\)"):
        make(VideoStage(both, proxies=tmp_path / "proxy"), folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formats": ()}, "at least one format"),
        ({"formats": ("mp4", "mp4")}, "only once"),
        ({"formats": ("mp4", "avi")}, "out of mp4, gif, webm, sheet; got 'mp4,avi'"),
        ({"mode": "back"}, "mode must be auto, loop, ping-pong or once"),
        ({"side_by_side": ("proxy", "view")}, "out of reference, proxy"),
        ({"fps": 0}, "rate must lie"),
        ({"formats": ("gif",), "fps": 60}, "GIF players"),
        ({"repeats": 0}, "at least 1"),
        ({"mode": "once", "repeats": 2}, "leave out --repeats"),
        ({"size": 5}, "between 16 and 4096"),
    ],
)
def test_impossible_settings_are_usage_errors(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(VideoSettings(), **change)  # type: ignore[arg-type]


def test_settings_name_what_decides_a_clip_and_no_path(tmp_path: Path) -> None:
    stage = VideoStage(VideoSettings(), tmp_path / "aligned", tmp_path / "proxy")
    assert str(tmp_path) not in json.dumps(stage.settings)
    assert set(stage.settings) == {"formats", "fps", "mode", "repeats", "side_by_side", "size"}
