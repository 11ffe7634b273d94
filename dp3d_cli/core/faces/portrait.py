"""From one picture to one aligned portrait: which face, which crop, what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.errors import InputError
from dp3d_cli.core.faces.alignment import (
    BOX_CENTRE,
    BOX_WIDTH,
    Border,
    CropWindow,
    LandmarkFit,
    box_window,
    centre_square,
    cut,
    fit_landmarks,
    is_aligned,
)
from dp3d_cli.core.faces.detect import Detector
from dp3d_cli.core.faces.face import Face, FaceBox, eye_roll
from dp3d_cli.core.faces.pose import camera_from_fit

Method = Literal["landmarks", "box", "already-aligned", "centre-square"]

MIN_SIDE = 32
"""Smaller pictures hold no usable face [px]."""
_SOFT_BELOW = 0.4  # of the output size: fewer source pixels than this are worth a warning


@dataclass(frozen=True)
class AlignOptions:
    """How portraits are aligned.

    Attributes:
        size: side of the result [px].
        face: which of several faces, "largest" or a position counted from 0 in the order of size.
        align: False takes the centre square as it is.
        realign: align also what looks aligned already.
        border: what stands beyond the picture's edge; "auto" is black for landmarks, as EG3D has it, and blur
            for boxes, where nothing official exists and black bars would only spoil the background.
    """

    size: int = 512
    face: int | Literal["largest"] = "largest"
    align: bool = True
    realign: bool = False
    border: Border | Literal["auto"] = "auto"


@dataclass(frozen=True, eq=False)
class AlignedPortrait:
    """The result for one picture.

    Attributes:
        image: uint8 [size, size, 3] RGB.
        window: what was cut from the original.
        method: how the window was found.
        border: what stands beyond the original's edge.
        face: the face taken, in coordinates of the original; None if there is none (centre square only).
        face_box: that face in the OpenCV convention whatever found it, in coordinates of the original.
        faces_found: how many the detector found; None if it was not asked.
        camera: estimate of the camera that sees the crop; None if there are no real landmarks.
        warnings: sentences for the user.
    """

    image: NDArray[np.uint8]
    window: CropWindow
    method: Method
    border: Border
    face: Face | None
    face_box: FaceBox | None
    faces_found: int | None
    camera: Camera | None
    warnings: tuple[str, ...]


def align_portrait(
    image: NDArray[np.uint8],
    name: str,
    detector: Detector,
    options: AlignOptions,
    *,
    landmarks: NDArray[np.float64] | None = None,
    box: FaceBox | None = None,
) -> AlignedPortrait:
    """Find the face and cut the portrait.

    Args:
        image: uint8 [H, W, 3] RGB, upright.
        name: for messages.
        detector: asked unless landmarks or a box are given.
        options: how.
        landmarks: [5, 2] pixel indices that decide in place of the detector.
        box: face box in the OpenCV convention that decides in place of the detector.

    Raises:
        InputError: "no-face", "no-such-face", "bad-landmarks" or "face-outside".
    """
    height, width = image.shape[:2]
    found: list[Face] | None = None
    if landmarks is not None:
        face: Face | None = Face(
            _bounds(name, landmarks), "given", 0.0, landmarks, "given", eye_roll(landmarks)
        )
    elif box is not None:
        face = Face(box, "given")
    else:
        found = detector.detect(image)
        face = _choose(found, name, detector, options)
    fit = _fit(face, name, width, height) if face is not None else None

    if face is None or not options.align:
        method: Method = "centre-square"
        window = centre_square(width, height)
    elif found and face is found[0] and not options.realign and is_aligned(width, height, found):
        method = "already-aligned"
        window = centre_square(width, height)
    elif fit is not None:
        method = "landmarks"
        window = fit.window(width, height)
    else:
        method = "box"
        window = box_window(face.box)

    border: Border = options.border if options.border != "auto" else ("black" if fit else "blur")
    try:
        crop = cut(image, window, options.size, border)
    except ValueError as error:
        raise InputError(
            f"{name}: the face lies outside the picture ({width} x {height}). Check the box or landmarks.",
            reason="face-outside",
        ) from error
    camera = camera_from_fit(fit) if fit is not None and method in ("landmarks", "already-aligned") else None
    face_box = None if face is None else _opencv_box(face, fit, width, height)
    warnings = _warnings(face, found, fit, camera, window, options)
    return AlignedPortrait(
        crop, window, method, border, face, face_box, None if found is None else len(found), camera, warnings
    )


def _choose(faces: list[Face], name: str, detector: Detector, options: AlignOptions) -> Face | None:
    if not faces:
        if not options.align:
            return None
        raise InputError(
            f"{name}: no face found (by {detector.name}). Crop closer, give --box x,y,width,height, "
            "try --backend insightface, or take the picture as it is with --no-align.",
            reason="no-face",
        )
    position = 0 if options.face == "largest" else options.face
    if position >= len(faces):
        raise InputError(
            f"{name}: face {position} was asked for, {len(faces)} found (counted from 0). Lower --face.",
            reason="no-such-face",
        )
    return faces[position]


def _bounds(name: str, landmarks: NDArray[np.float64]) -> FaceBox:
    low, high = landmarks.min(0), landmarks.max(0)
    if not (high > low).all():
        raise _bad_landmarks(name, "they coincide")
    return FaceBox(float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))


def _bad_landmarks(name: str, cause: str) -> InputError:
    return InputError(
        f"{name}: the landmarks cannot be used: {cause}. Expected are pixel positions of the image-left eye, "
        "image-right eye, nose, image-left and image-right mouth corner, or 68 points.",
        reason="bad-landmarks",
    )


def _fit(face: Face, name: str, width: int, height: int) -> LandmarkFit | None:
    if face.landmarks is None or not face.has_real_landmarks:
        return None
    try:
        return fit_landmarks(face.landmarks, width, height)
    except ValueError as error:
        raise _bad_landmarks(name, str(error)) from error


def _opencv_box(face: Face, fit: LandmarkFit | None, width: int, height: int) -> FaceBox:
    """Where an OpenCV box would be: the face's own, or its usual place in the landmarks' crop."""
    if fit is None:
        return face.box
    window = fit.window(width, height)
    return FaceBox(
        window.left + (BOX_CENTRE[0] - BOX_WIDTH / 2) * window.width,
        window.top + (BOX_CENTRE[1] - BOX_WIDTH / 2) * window.height,
        BOX_WIDTH * window.width,
        BOX_WIDTH * window.height,
    )


def _warnings(
    face: Face | None,
    found: list[Face] | None,
    fit: LandmarkFit | None,
    camera: Camera | None,
    window: CropWindow,
    options: AlignOptions,
) -> tuple[str, ...]:
    sentences = []
    if found is not None and len(found) > 1 and options.face == "largest":
        last = len(found) - 1
        sentences.append(f"{len(found)} faces found, the largest is taken (choose with --face 0 to {last})")
    if face is None:
        sentences.append("no face found, the centre square is taken as it is")
    elif not face.is_certain:
        sentences.append(f"the face is uncertain (score {face.score:.1f}), check the crop")
    if fit is not None and options.align and camera is None:
        sentences.append(
            f"no camera label: the landmarks do not look like a face (scales {fit.anisotropy:.2f} apart, "
            f"residual {fit.residual:.2f})"
        )
    if window.width < _SOFT_BELOW * options.size:
        sentences.append(f"the crop is only {window.width:.0f} px wide in the original and will look soft")
    return tuple(sentences)
