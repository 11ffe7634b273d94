"""The JSON beside an aligned portrait, and landmark files that users bring.

Coordinates in the JSON: boxes and `crop_to_original` are continuous (pixel i covers [i, i + 1)), landmarks
are pixel indices (the centre of pixel i is i). "original" is the upright picture after its EXIF rotation.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.faces.face import FaceBox, five_landmarks
from dp3d_cli.core.faces.portrait import AlignedPortrait

FORMAT = "dp3d-aligned"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Source:
    """Where a portrait came from.

    Attributes:
        file: name without folder.
        width: of the upright picture [px].
        height: of the upright picture [px].
        exif_orientation: 1..8, already applied.
        frame: number in a video, from 0; None for pictures.
    """

    file: str
    width: int
    height: int
    exif_orientation: int = 1
    frame: int | None = None


def write_alignment(path: Path, portrait_id: str, source: Source, aligned: AlignedPortrait) -> None:
    """Write what is known about an aligned portrait; equal facts give equal bytes."""
    size = aligned.image.shape[0]
    window, face = aligned.window, aligned.face
    content: dict[str, object] = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "id": portrait_id,
        "source": {
            "file": source.file,
            "width": source.width,
            "height": source.height,
            "exif_orientation": source.exif_orientation,
            "frame": source.frame,
        },
        "size": size,
        "method": aligned.method,
        "already_aligned": aligned.method == "already-aligned",
        "border": aligned.border,
        "crop_to_original": window.crop2original(size).tolist(),
        "faces_found": aligned.faces_found,
        "detector": None if face is None else face.detector,
        "score": None if face is None else round(face.score, 4),
        "box": None,
        "detector_box": None if face is None else _rounded(face.box.as_list()),
        "landmarks": None,
        "roll_deg": None if face is None or face.roll is None else round(math.degrees(face.roll), 2),
        "camera": None,
    }
    if aligned.face_box is not None:
        content["box"] = {
            "original": _rounded(aligned.face_box.as_list()),
            "crop": _rounded(window.box_in_crop(aligned.face_box, size).as_list()),
        }
    if face is not None and face.landmarks is not None:
        content["landmarks"] = {
            "kind": face.landmarks_kind,
            "original": [_rounded(point) for point in face.landmarks.tolist()],
            "crop": [_rounded(point) for point in window.points_in_crop(face.landmarks, size).tolist()],
        }
    if aligned.camera is not None:
        content["camera"] = {
            "label": [float(number) for number in aligned.camera.label],
            "yaw_deg": round(math.degrees(aligned.camera.yaw), 2),
            "pitch_deg": round(math.degrees(aligned.camera.pitch), 2),
            "method": "five landmarks",
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_face_box(path: Path) -> FaceBox | None:
    """The face box [px of the aligned portrait, OpenCV convention] from a portrait's JSON; None if no face.

    Raises:
        InputError: the file is not such a JSON (reason "bad-alignment").
    """
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT or content["version"] != FORMAT_VERSION:
            raise ValueError(f"format {content['format']} version {content['version']}")
        return None if content["box"] is None else FaceBox(*map(float, content["box"]["crop"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the JSON that `dp3d align` writes ({error}). Align the portrait again.",
            reason="bad-alignment",
        ) from error


@dataclass(frozen=True)
class GivenLandmarks:
    """Landmarks from a user's file: for one portrait, or by id.

    Attributes:
        by_id: id → [5, 2] pixel indices; the id "" stands for whatever portrait is aligned.
        digest: sha256 of the file.
    """

    by_id: Mapping[str, NDArray[np.float64]]
    digest: str

    def of(self, portrait_id: str) -> NDArray[np.float64]:
        """The five points of a portrait.

        Raises:
            InputError: the file has none for it.
        """
        points = self.by_id.get("", self.by_id.get(portrait_id))
        if points is None:
            raise InputError(
                f"{portrait_id}: the landmarks file has no entry of this name. Add it, or leave it out.",
                reason="no-landmarks",
            )
        return points


def read_landmarks(path: Path) -> GivenLandmarks:
    """Read a landmarks file: JSON, a list of 5 or 68 [x, y] pairs, or an object of id → such a list.

    Raises:
        UsageError: the file cannot be read or holds something else.
    """
    try:
        content = path.read_bytes()
        data = json.loads(content)
        entries = data if isinstance(data, dict) else {"": data}
        by_id = {name: five_landmarks(points) for name, points in entries.items()}
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{path}: not a landmarks file ({error}). Expected JSON: a list of 5 or 68 [x, y] pairs, or an "
            "object that maps portrait ids to such lists."
        ) from error
    return GivenLandmarks(by_id, hashlib.sha256(content).hexdigest())


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]
