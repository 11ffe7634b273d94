"""The align stage: photos and video frames to square portraits, each with a JSON that says how.

One item is one file. A picture gives `<id>.png` and `<id>.json`; a video gives `<id>/<frame>.png` and
`.json`, the frame number with six digits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.faces.detect import Detector
from dp3d_cli.core.faces.face import FaceBox
from dp3d_cli.core.faces.files import GivenLandmarks, Source, write_alignment
from dp3d_cli.core.faces.portrait import MIN_SIDE, AlignedPortrait, AlignOptions, align_portrait
from dp3d_cli.core.images import VIDEO_SUFFIXES, read_photo, write_png
from dp3d_cli.core.videos import count_frames, read_frames
from dp3d_cli.stages.engine.stage import Item, Json, Product, StepProgress

_FRAMES_AT_A_TIME = 8
# "first" gives up here: a person who does not appear in so many frames is not the video's subject.
_FIRST_WITHIN = 100


@dataclass(frozen=True)
class FrameChoice:
    """Which frames of a video become portraits.

    Attributes:
        mode: "first" is the first frame with a face, among the first 100; "every" each `step`-th frame that
            has a face.
        step: >= 1.
    """

    mode: Literal["first", "every"] = "first"
    step: int = 1

    def __str__(self) -> str:
        if self.mode == "first":
            return "first"
        return "all" if self.step == 1 else f"every:{self.step}"


def parse_frames(text: str) -> FrameChoice:
    """Read "first", "all" or "every:N".

    Raises:
        UsageError: anything else.
    """
    if text == "first":
        return FrameChoice()
    if text == "all":
        return FrameChoice("every", 1)
    word, _, step = text.partition(":")
    if word == "every" and step.isascii() and step.isdigit() and int(step) > 0:
        return FrameChoice("every", int(step))
    raise UsageError(f"--frames {text}: expected first, all or every:N with a whole N of at least 1.")


def parse_box(text: str) -> FaceBox:
    """Read "x,y,width,height" in pixels.

    Raises:
        UsageError: anything else.
    """
    try:
        box = FaceBox(*(float(part) for part in text.split(",")))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"--box {text}: expected x,y,width,height in pixels of the upright picture, as in 120,80,300,300."
        ) from error
    if not np.isfinite(box.as_list()).all():
        raise UsageError(f"--box {text}: the numbers must be finite.")
    return box


@dataclass(frozen=True)
class AlignStage:
    """Aligns portraits.

    Attributes:
        detector: finds the faces.
        options: how to crop.
        frames: which frames of a video.
        landmarks: given landmarks that decide in place of the detector.
        box: given face box that decides in place of the detector.
    """

    detector: Detector
    options: AlignOptions = field(default_factory=AlignOptions)
    frames: FrameChoice = field(default_factory=FrameChoice)
    landmarks: GivenLandmarks | None = None
    box: FaceBox | None = None

    def __post_init__(self) -> None:
        if self.landmarks is not None and self.box is not None:
            raise UsageError("Give landmarks or a box, not both.")

    @property
    def name(self) -> str:
        """Command name."""
        return "align"

    @property
    def settings(self) -> Mapping[str, Json]:
        """Detector, crop and choice of frames."""
        return {
            "backend": self.detector.name,
            "size": self.options.size,
            "face": self.options.face,
            "align": self.options.align,
            "realign": self.options.realign,
            "border": self.options.border,
            "frames": str(self.frames),
            "landmarks": None if self.landmarks is None else self.landmarks.digest,
            "box": None if self.box is None else self.box.as_list(),
        }

    @property
    def weights(self) -> Mapping[str, str]:
        """The detector's model files."""
        return self.detector.weights

    def process(self, item: Item, draft: Path, progress: StepProgress) -> Product:
        """Align the picture, or the chosen frames of the video.

        Raises:
            InputError: the file cannot be read, or has no usable face.
        """
        if item.inputs[0].suffix.lower() in VIDEO_SUFFIXES:
            return self._video(item, draft, progress)
        started = time.perf_counter()
        path = item.inputs[0]
        photo = read_photo(path, min_side=MIN_SIDE)
        read_s = time.perf_counter() - started
        aligned = self._align(photo.pixels, str(path), item.id)
        height, width = photo.pixels.shape[:2]
        outputs = _write(draft, item.id, Source(path.name, width, height, photo.exif_orientation), aligned)
        timings = {"read_s": read_s, "align_s": time.perf_counter() - started - read_s}
        return Product(outputs, _facts(aligned), timings, (*photo.notes, *aligned.warnings))

    def _video(self, item: Item, draft: Path, progress: StepProgress) -> Product:
        path = item.inputs[0]
        count = count_frames(path)
        indices = range(0, count, self.frames.step)
        if self.frames.mode == "first":
            indices = indices[:_FIRST_WITHIN]
        outputs: list[str] = []
        warnings: list[str] = []
        without_face = 0
        for done, (index, pixels) in enumerate(_read(path, indices)):
            progress.step(done, len(indices), f"frame {index}")
            frame_id = f"{item.id}/{index:06d}"
            try:
                aligned = self._align(pixels, f"{path}, frame {index}", frame_id)
            except InputError as error:
                if error.reason != "no-face":
                    raise
                without_face += 1
                continue
            height, width = pixels.shape[:2]
            outputs += _write(draft, frame_id, Source(path.name, width, height, frame=index), aligned)
            warnings += (f"frame {index}: {sentence}" for sentence in aligned.warnings)
            if self.frames.mode == "first":
                break
        if not outputs:
            raise InputError(
                f"{path}: no face found in {len(indices)} of {count} frames (by {self.detector.name}). "
                "Try --frames all, --backend insightface, or give --box x,y,width,height.",
                reason="no-face",
            )
        if without_face:
            warnings.append(f"{without_face} frames without a face were left out")
        # Pictures first: the first output is the one that a pipe hands on.
        outputs.sort(key=lambda name: (not name.endswith(".png"), name))
        return Product(tuple(outputs), {"frames": len(outputs) // 2}, {}, tuple(warnings))

    def _align(self, pixels: NDArray[np.uint8], name: str, portrait_id: str) -> AlignedPortrait:
        landmarks = None if self.landmarks is None else self.landmarks.of(portrait_id)
        return align_portrait(pixels, name, self.detector, self.options, landmarks=landmarks, box=self.box)


def _read(path: Path, indices: range) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Frames one by one, decoded a few at a time."""
    for start in range(0, len(indices), _FRAMES_AT_A_TIME):
        part = indices[start : start + _FRAMES_AT_A_TIME]
        yield from zip(part, read_frames(path, part), strict=True)


def _write(draft: Path, portrait_id: str, source: Source, aligned: AlignedPortrait) -> tuple[str, str]:
    picture, facts = f"{portrait_id}.png", f"{portrait_id}.json"
    write_png(draft / picture, aligned.image)
    write_alignment(draft / facts, portrait_id, source, aligned)
    return picture, facts


def _facts(aligned: AlignedPortrait) -> dict[str, Json]:
    return {
        "method": aligned.method,
        "detector": None if aligned.face is None else aligned.face.detector,
        "score": None if aligned.face is None else round(aligned.face.score, 4),
        "faces_found": aligned.faces_found,
    }
