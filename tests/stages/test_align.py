import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.faces.face import Face, FaceBox
from dp3d_cli.core.faces.files import GivenLandmarks, read_landmarks
from dp3d_cli.core.faces.opencv import OpenCVDetector
from dp3d_cli.core.faces.portrait import AlignOptions
from dp3d_cli.core.images import read_image, write_png
from dp3d_cli.core.videos import write_video
from dp3d_cli.stages.align import AlignStage, FrameChoice, parse_box, parse_frames
from dp3d_cli.stages.engine.run import RunOptions, run_stage
from dp3d_cli.stages.engine.stage import Item
from tests.core.faces.pictures import astronaut
from tests.fakes.progress import Recorder


class WhereBright:
    """Takes every frame whose corner is bright for one with a face."""

    name = "bright"
    weights: dict[str, str] = {}  # noqa: RUF012

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        if image[0, 0].mean() < 128:
            return []
        return [Face(FaceBox(40, 30, 40, 40), "bright", 1.0)]


def clip(path: Path, bright: str) -> Path:
    """A video with one frame per character, bright where it is 1."""
    shades = np.array([220 if character == "1" else 20 for character in bright], np.uint8)
    write_video(path, np.broadcast_to(shades[:, None, None, None], (len(bright), 96, 128, 3)).copy(), 10)
    return path


class NoProgress:
    def step(self, done: int, total: int, label: str = "") -> None:
        pass


def outputs(stage: AlignStage, source: Path, draft: Path, name: str = "x") -> tuple[str, ...]:
    product = stage.process(Item(name, (source,)), draft, NoProgress())
    for output in product.outputs:
        assert (draft / output).is_file()
    return product.outputs


def test_picture_gives_a_png_and_a_json(tmp_path: Path) -> None:
    write_png(tmp_path / "in.png", astronaut())
    made = outputs(AlignStage(OpenCVDetector()), tmp_path / "in.png", tmp_path / "draft", "team/anna")
    assert made == ("team/anna.png", "team/anna.json")
    assert read_image(tmp_path / "draft/team/anna.png").shape == (512, 512, 3)
    facts = json.loads((tmp_path / "draft/team/anna.json").read_text())
    assert facts["id"] == "team/anna"
    assert facts["source"]["file"] == "in.png"
    assert facts["detector"] == "opencv"
    assert facts["already_aligned"] is False


def test_first_frame_with_a_face(tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.mp4", "0001011")
    made = outputs(AlignStage(WhereBright()), source, tmp_path / "draft")
    assert made == ("x/000003.png", "x/000003.json")
    facts = json.loads((tmp_path / "draft/x/000003.json").read_text())
    assert facts["id"] == "x/000003"
    assert facts["source"]["frame"] == 3


@pytest.mark.parametrize(("frames", "kept"), [("all", [1, 4, 5, 8]), ("every:2", [4, 8])])
def test_frames_without_a_face_are_left_out(tmp_path: Path, frames: str, kept: list[int]) -> None:
    source = clip(tmp_path / "clip.mp4", "0100110010")
    stage = AlignStage(WhereBright(), frames=parse_frames(frames))
    product = stage.process(Item("x", (source,)), tmp_path / "draft", NoProgress())
    assert [name for name in product.outputs if name.endswith(".png")] == [f"x/{i:06d}.png" for i in kept]
    assert any("without a face" in warning for warning in product.warnings)


def test_frames_option() -> None:
    assert parse_frames("first") == FrameChoice()
    assert str(parse_frames("all")) == "all"
    assert str(parse_frames("every:5")) == "every:5"
    for text in ("", "last", "every", "every:0", "every:-1", "every:1.5"):
        with pytest.raises(UsageError):
            parse_frames(text)


def test_box_option() -> None:
    assert parse_box("1,2.5,30,40") == FaceBox(1, 2.5, 30, 40)
    for text in ("", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1,2,0,4", "1,2,nan,4", "inf,1,2,3"):
        with pytest.raises(UsageError):
            parse_box(text)


def test_box_and_landmarks_exclude_each_other() -> None:
    with pytest.raises(UsageError):
        AlignStage(WhereBright(), landmarks=GivenLandmarks({}, ""), box=FaceBox(0, 0, 1, 1))


def test_landmarks_by_id_decide(tmp_path: Path) -> None:
    write_png(tmp_path / "in.png", astronaut())
    points = [[204, 101], [243, 101], [226, 122], [210, 140], [243, 141]]
    (tmp_path / "l.json").write_text(json.dumps({"anna": points}))
    stage = AlignStage(WhereBright(), landmarks=read_landmarks(tmp_path / "l.json"))
    outputs(stage, tmp_path / "in.png", tmp_path / "draft", "anna")
    facts = json.loads((tmp_path / "draft/anna.json").read_text())
    assert facts["method"] == "landmarks"
    assert facts["camera"] is not None
    assert abs(facts["camera"]["yaw_deg"]) < 20


def test_settings_name_what_decides_the_result() -> None:
    plain = AlignStage(WhereBright()).settings
    changes = [
        AlignStage(OpenCVDetector()),
        AlignStage(WhereBright(), AlignOptions(size=256)),
        AlignStage(WhereBright(), AlignOptions(face=1)),
        AlignStage(WhereBright(), AlignOptions(align=False)),
        AlignStage(WhereBright(), AlignOptions(realign=True)),
        AlignStage(WhereBright(), AlignOptions(border="black")),
        AlignStage(WhereBright(), frames=parse_frames("all")),
        AlignStage(WhereBright(), box=FaceBox(1, 2, 3, 4)),
        AlignStage(WhereBright(), landmarks=GivenLandmarks({}, "digest")),
    ]
    for stage in changes:
        assert stage.settings != plain
        json.dumps(stage.settings)


def bomb_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 60001))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


def test_every_odd_file_has_its_answer_and_stops_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    face = Image.fromarray(astronaut()).crop((80, 0, 350, 270))
    exif = Image.Exif()
    exif[0x0112] = 6
    face.save(folder / "whole.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:4000])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("not a picture")
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    (folder / "bomb.png").write_bytes(bomb_png())
    face.convert("CMYK").save(folder / "cmyk.jpg")
    grey = np.asarray(face.convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(folder / "deep.png")
    face.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif)
    face.save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", face.size)])
    Image.new("RGB", (300, 300), (90, 120, 200)).save(folder / "sky.png")
    three = Image.new("RGB", (3 * 270, 270))
    for column, side in enumerate((270, 216, 240)):
        three.paste(face.resize((side, side)), (270 * column, 0))
    three.save(folder / "three.png")
    for name in ("with space", 'it\'s "quoted"', "new\nline", "Zoë 顔"):
        face.save(folder / f"{name}.png")
    items = [Item(path.stem, (path,)) for path in sorted(folder.iterdir())]
    summary = run_stage(AlignStage(OpenCVDetector()), items, tmp_path / "out", RunOptions(), Recorder())
    failed = {outcome.id: outcome.reason for outcome in summary.outcomes if outcome.status == "failed"}
    assert failed == {
        "truncated": "truncated-image",
        "empty": "empty-file",
        "text": "unreadable-image",
        "pixel": "image-too-small",
        "bomb": "image-too-large",
        "sky": "no-face",
    }
    assert summary.exit_status == 1
    done = {outcome.id: outcome for outcome in summary.outcomes if outcome.status == "done"}
    assert len(done) == len(items) - len(failed)
    assert any("3 faces found" in warning for warning in done["three"].warnings)
    boxes = {}
    for name in done:
        facts = json.loads((tmp_path / f"out/{name}.json").read_text())
        boxes[name] = FaceBox(*facts["box"]["original"])
        boxes[name + " crop"] = FaceBox(*facts["box"]["crop"])
    for name in set(done) - {"three"}:  # the same picture in different clothes
        assert boxes[name].overlap(boxes["whole"]) > 0.85, name
        assert boxes[name + " crop"].overlap(FaceBox(84, 64, 343, 343)) > 0.85, name


MEASURE = """
import sys, time
from pathlib import Path
from dp3d_cli.core.faces.opencv import OpenCVDetector
from dp3d_cli.stages.align import AlignStage
from dp3d_cli.stages.engine.stage import Item

class Quiet:
    def step(self, done, total, label=""):
        pass

def peak_kb():  # not ru_maxrss, which a new process inherits from its parent
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1])

stage = AlignStage(OpenCVDetector())
before = peak_kb()
started = time.perf_counter()
stage.process(Item("x", (Path(sys.argv[1]),)), Path(sys.argv[2]), Quiet())
print(peak_kb() - before, time.perf_counter() - started)
"""


@pytest.mark.slow
def test_small_face_in_50_megapixels_needs_little_more_than_the_decoded_picture(tmp_path: Path) -> None:
    picture = np.full((6250, 8000, 3), 150, np.uint8)
    picture[3000:4536, 5000:6536] = np.asarray(Image.fromarray(astronaut()).resize((1536, 1536)))
    Image.fromarray(picture).save(tmp_path / "large.jpg", quality=85)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "large.jpg"), str(tmp_path / "out")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    grown_mb = float(printed.split()[0]) / 1024
    # Pillow's own 4 bytes per pixel (200 MB) and our 3 (150 MB); the picture is never held a third time.
    assert grown_mb < 420
    facts = json.loads((tmp_path / "out/x.json").read_text())
    x, y, width, _ = facts["box"]["original"]
    assert abs(x + width / 2 - (5000 + 224 * 3)) < 40
    assert abs(y + width / 2 - (3000 + 114 * 3)) < 40
