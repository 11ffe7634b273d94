"""The embedded face detector: OpenCV's Haar cascades, which ship inside opencv-python < 5.

The pictures are searched in grey at 640 px with equalised contrast. One cascade alone takes coins, cats and
stains for faces now and then, and a leaning face makes false finds more likely than the true one. So a find
is *clear* only when a second, independently trained cascade agrees and both are sure; in this order:

    1. upright, if the best find is clear;
    2. turned by +-20 and +-40 degrees, clear finds only, the best angle;
    3. upright, both cascades agree but not surely;
    4. upright, the first cascade alone, with more overlapping hits;
    5. upright at 1280 px for faces from 40 px on: what both suspect, if a closer look at it is clear.

Finds of 3 and 4 are marked as uncertain. Boxes are square, from above the brows to the chin, about 0.67 of
the width of an EG3D crop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from cv2.data import haarcascades
from numpy.typing import NDArray

from dp3d_cli.core.faces.face import Face, FaceBox

# Where an average frontal face has its points in a box, as fractions of its side: the standard face of EG3D's
# alignment projected into the crop in which the box is 0.67 wide and centred at (0.50, 0.46).
_POINTS_IN_BOX = np.array([[0.30, 0.37], [0.70, 0.37], [0.50, 0.59], [0.34, 0.80], [0.66, 0.80]])

_SEARCH_PX = 640
_FINE_SEARCH_PX = 1280
_SMALLEST_FACE = 0.12  # of the short side
_FINE_SMALLEST_FACE_PX = 40
_LOOK_PX = 480  # side of the closer look at a suspected small face, three boxes wide
_MOST_LOOKS = 12
_SCALE_STEP = 1.05
_FINE_STEP, _FINE_HITS = 1.1, 2  # coarser and laxer, since the closer look decides
_ANGLES_DEG = (20, -20, 40, -40)
_AGREEMENT = 0.4  # intersection over union of the two cascades' boxes
# Overlapping hits needed: by the first cascade alone, by the first when the second confirms, by the second.
_HITS_ALONE, _HITS_FIRST, _HITS_SECOND = 8, 5, 3
# Last-stage weights of a clear find. Measured: 6.4..10.4 and 55.9..57.6 on faces of 100 px and more, turned
# or not; at most 6.5 and 55.5 on cats, coins, textures and what appears beside leaning faces.
_CLEAR_FIRST, _CLEAR_SECOND = 4.0, 55.8
# Below this a find of the first cascade means nothing, even if the second agrees.
_DOUBTFUL_FIRST = 2.0
_MAX_EYE_ROLL = math.radians(25)


class OpenCVDetector:
    """Haar cascades; near-frontal faces. One instance must not be used by several threads at once."""

    def __init__(self) -> None:
        self.name = "opencv"
        self.weights: Mapping[str, str] = {}  # the cascades are part of opencv-python
        self._first = _load_cascade("haarcascade_frontalface_default.xml")
        self._second = _load_cascade("haarcascade_frontalface_alt2.xml")
        self._eyes = _load_cascade("haarcascade_eye_tree_eyeglasses.xml")

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Faces in a picture, the largest first; uncertain ones come after all that are certain.

        Args:
            image: uint8 [H, W, 3] RGB.

        Returns:
            Faces with box-prior landmarks; the score is the first cascade's last-stage weight, about 2 when
            doubtful and above 5 when clear. Empty if there is none.
        """
        grey, scale = _grey(image, _SEARCH_PX)
        min_px = max(int(_SMALLEST_FACE * min(grey.shape)), 20)
        upright = self._agreed(grey, min_px)
        if upright and upright[0].is_certain:
            faces = upright
        else:
            faces = self._clear_turned(grey, min_px) or upright or self._alone(grey, min_px)
        if not faces and max(image.shape[:2]) > _SEARCH_PX:
            grey, scale = _grey(image, _FINE_SEARCH_PX)
            faces = self._small(image, grey, scale)
        faces = sorted(faces, key=lambda face: (not face.is_certain, -face.box.width, face.box.x, face.box.y))
        return [self._finish(face, grey, scale) for face in faces]

    def _agreed(self, grey: NDArray[np.uint8], min_px: int) -> list[Face]:
        """Boxes of the first cascade that the second one confirms, most prominent first."""
        candidates = _hits(self._first, grey, _HITS_FIRST, min_px)
        candidates = [(box, weight) for box, weight in candidates if weight >= _DOUBTFUL_FIRST]
        if not candidates:
            return []
        witnesses = _hits(self._second, grey, _HITS_SECOND, min_px)
        faces = []
        for box, weight in candidates:
            support = max((w for witness, w in witnesses if box.overlap(witness) > _AGREEMENT), default=None)
            if support is not None:
                is_clear = weight >= _CLEAR_FIRST and support >= _CLEAR_SECOND
                faces.append(Face(box, self.name, weight, is_certain=is_clear))
        return _distinct(faces)

    def _small(self, image: NDArray[np.uint8], grey: NDArray[np.uint8], scale: float) -> list[Face]:
        """Small faces: what both cascades suspect in `grey`, if a closer look at the original is clear."""
        candidates = _hits(self._first, grey, _FINE_HITS, _FINE_SMALLEST_FACE_PX, _FINE_STEP)
        if not candidates:
            return []
        witnesses = _hits(self._second, grey, _FINE_HITS, _FINE_SMALLEST_FACE_PX, _FINE_STEP)
        suspects = [
            Face(box, self.name, weight)
            for box, weight in candidates
            if any(box.overlap(witness) > _AGREEMENT for witness, _ in witnesses)
        ]
        height, width = image.shape[:2]
        faces = []
        for suspect in _distinct(suspects)[:_MOST_LOOKS]:
            x, y = (value / scale for value in suspect.box.centre)
            reach = 1.5 * suspect.box.width / scale
            left, top = max(round(x - reach), 0), max(round(y - reach), 0)
            part = image[top : min(round(y + reach), height), left : min(round(x + reach), width)]
            closer, zoom = _grey(part, _LOOK_PX)
            for face in self._agreed(closer, _LOOK_PX // 5):
                if face.is_certain:
                    corner = (face.box.x / zoom + left) * scale, (face.box.y / zoom + top) * scale
                    side = face.box.width / zoom * scale
                    faces.append(Face(FaceBox(*corner, side, side), self.name, face.score))
        return _distinct(faces)

    def _alone(self, grey: NDArray[np.uint8], min_px: int) -> list[Face]:
        """Boxes of the first cascade without a witness."""
        hits = _hits(self._first, grey, _HITS_ALONE, min_px)
        faces = [
            Face(box, self.name, weight, is_certain=False)
            for box, weight in hits
            if weight >= _DOUBTFUL_FIRST
        ]
        return _distinct(faces)

    def _clear_turned(self, grey: NDArray[np.uint8], min_px: int) -> list[Face]:
        """Clear finds in the picture turned about its centre, at the best angle; boxes upright again."""
        best: list[Face] = []
        height, width = grey.shape
        for angle_deg in _ANGLES_DEG:
            turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle_deg, 1.0)
            turned = cv2.warpAffine(grey, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)
            back = cv2.invertAffineTransform(turn)
            faces = []
            for face in self._agreed(turned, min_px):
                x, y = back @ (*face.box.centre, 1.0)
                side = face.box.width
                box = FaceBox(float(x) - side / 2, float(y) - side / 2, side, side)
                # A face that a counterclockwise turn makes upright leans clockwise: its right eye is lower.
                faces.append(
                    Face(box, self.name, face.score, None, None, math.radians(angle_deg), face.is_certain)
                )
            faces = [face for face in faces if face.is_certain]
            if _prominence(faces) > _prominence(best):
                best = faces
        return best

    def _finish(self, face: Face, grey: NDArray[np.uint8], scale: float) -> Face:
        """The face in coordinates of the original picture, with roll and prior landmarks."""
        roll = face.roll if face.roll is not None else self._eye_roll(grey, face.box)
        box = FaceBox(*(value / scale for value in face.box.as_list()))
        offsets = (_POINTS_IN_BOX - 0.5) * box.width
        cos, sin = math.cos(roll or 0.0), math.sin(roll or 0.0)
        landmarks = offsets @ np.array([[cos, sin], [-sin, cos]]) + box.centre - 0.5
        return Face(box, self.name, face.score, landmarks, "box-prior", roll, face.is_certain)

    def _eye_roll(self, grey: NDArray[np.uint8], box: FaceBox) -> float | None:
        """Roll from exactly one plausible eye in each upper quarter of the box, else None."""
        x, y, side = round(box.x), round(box.y), round(box.width)
        upper = grey[max(y, 0) : y + round(0.55 * side), max(x, 0) : x + side]
        if min(upper.shape) < 24:
            return None
        eyes = self._eyes.detectMultiScale(upper, 1.05, 4, minSize=(side // 8, side // 8))
        left = [eye for eye in eyes if eye[0] + eye[2] / 2 < side / 2]
        right = [eye for eye in eyes if eye[0] + eye[2] / 2 >= side / 2]
        if len(left) != 1 or len(right) != 1 or not 0.7 < left[0][2] / right[0][2] < 1.43:
            return None
        across = (right[0][:2] + right[0][2:] / 2) - (left[0][:2] + left[0][2:] / 2)
        roll = math.atan2(across[1], across[0])
        if abs(roll) > _MAX_EYE_ROLL or not 0.3 < math.hypot(*across) / side < 0.6:
            return None
        return roll


def _load_cascade(name: str) -> cv2.CascadeClassifier:
    path = Path(haarcascades) / name
    cascade = cv2.CascadeClassifier(str(path))
    if cascade.empty():
        raise RuntimeError(f"{path}: OpenCV's own cascade is missing; reinstall opencv-python.")
    return cascade


def _grey(image: NDArray[np.uint8], longest_px: int) -> tuple[NDArray[np.uint8], float]:
    """Equalised grey picture whose longest side is `longest_px`, and its scale against the original."""
    height, width = image.shape[:2]
    scale = longest_px / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)), scale


def _hits(
    cascade: cv2.CascadeClassifier,
    grey: NDArray[np.uint8],
    min_neighbours: int,
    min_px: int,
    step: float = _SCALE_STEP,
) -> list[tuple[FaceBox, float]]:
    """Boxes with their level weights."""
    boxes, _, weights = cascade.detectMultiScale3(
        grey, step, min_neighbours, minSize=(min_px, min_px), outputRejectLevels=True
    )
    return [
        (FaceBox(*(float(value) for value in box)), float(weight))
        for box, weight in zip(boxes, np.ravel(weights), strict=True)
    ]


def _prominence(faces: Sequence[Face]) -> float:
    return max((max(face.score, 0.0) * face.box.width for face in faces), default=0.0)


def _distinct(faces: Sequence[Face]) -> list[Face]:
    """Most prominent first, without boxes that overlap a better one."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: (-_prominence([face]), face.box.x, face.box.y)):
        if all(face.box.overlap(better.box) < 0.3 for better in kept):
            kept.append(face)
    return kept
