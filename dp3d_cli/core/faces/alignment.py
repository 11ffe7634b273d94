"""Where to cut a portrait so that its face stands as EG3D's generator and DiffPortrait3D expect it.

With landmarks this is EG3D's "in the wild" crop (Chan et al. 2022, arXiv 2112.07945, released
preprocessing): a scale and a shift from a scaled-orthographic fit of five points to a standard face; no
rotation, no shear. The original resizes the whole picture before it crops. Here only the window is
resampled, with the same filter taps, so that a tiny face in a huge picture costs no more than its crop; the
pixels differ by at most 1 of 255.

With a face box alone, the box is brought to the place that it has, on average, in such crops (ours).

Symbols: W, H the picture's size [px]; s the scale of EG3D's virtual resized picture of w x h px; R1, R2 the
rows of the fitted 2x3 matrix; t its shift in a frame whose y axis points up (y_up = H - 1 - y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dp3d_cli.core.faces.face import Face, FaceBox

Border = Literal["black", "blur"]
Array = NDArray[np.float64]
Picture = NDArray[np.uint8]

# Eyes, nose, mouth corners of EG3D's standard face; x to the image's right, y up, z to the viewer.
STANDARD_FACE: Array = np.array(
    [
        [-0.31148657, 0.29036078, 0.13377953],
        [0.30979887, 0.28972036, 0.13179526],
        [0.0032534988, -0.046179324, 0.55244243],
        [-0.25216928, -0.38133916, 0.22405732],
        [0.2484662, -0.38128236, 0.22235769],
    ]
)
_FACE_SCALE = 300  # one unit of the standard face in the virtual resized picture [px]
_OUTER = 1024  # EG3D's first crop [px]
_INNER = 700  # the part of it that is kept, then resized to the output [px]

BOX_WIDTH = 0.67
"""Width of an OpenCV face box in an EG3D crop, as a fraction of the crop (ours, measured: 0.63 to 0.74)."""
BOX_CENTRE = (0.50, 0.46)
"""Centre of that box, as fractions of the crop (ours, measured)."""
_ALIGNED_BOX_WIDTHS = (0.60, 0.77)
_ALIGNED_CENTRE_TOLERANCE = 0.06
_ALIGNED_MIN_PX = 256
_DOMINANT = 2.0  # the largest face is this much wider than the next
# Landmark detectors scatter by a few percent of the face; a smaller move is not worth a resampling.
_ALIGNED_WINDOW_TOLERANCE = 0.03


@dataclass(frozen=True)
class CropWindow:
    """A rectangle of the picture that becomes the square output; it may reach beyond the picture.

    Attributes:
        left: left edge in continuous pixels of the original.
        top: top edge.
        width: extent along x. EG3D rounds both sizes of its resized picture to pixels, so that width and
            height differ in the fourth digit.
        height: extent along y.
        grid: side of the raster on which the original is sampled first (bicubic), before a Lanczos resize to
            the output; None samples at the output's size at once.
    """

    left: float
    top: float
    width: float
    height: float
    grid: int | None = None

    def crop2original(self, size: int) -> Array:
        """[3, 3] affine map of continuous crop coordinates [0, size] to those of the original."""
        scale_x, scale_y = self.width / size, self.height / size
        return np.array([[scale_x, 0.0, self.left], [0.0, scale_y, self.top], [0.0, 0.0, 1.0]])

    def points_in_crop(self, points: Array, size: int) -> Array:
        """Pixel indices [N, 2] in the original → pixel indices in the crop."""
        scale = np.array([size / self.width, size / self.height])
        moved: Array = (points + 0.5 - np.array([self.left, self.top])) * scale - 0.5
        return moved

    def box_in_crop(self, box: FaceBox, size: int) -> FaceBox:
        """A box of the original in pixels of the crop."""
        scale_x, scale_y = size / self.width, size / self.height
        return FaceBox(
            (box.x - self.left) * scale_x,
            (box.y - self.top) * scale_y,
            box.width * scale_x,
            box.height * scale_y,
        )


@dataclass(frozen=True, eq=False)
class LandmarkFit:
    """Scaled-orthographic fit of the standard face (POS) and the crop that EG3D derives from it.

    Attributes:
        rows: [2, 3] R1 and R2, pixels of the original per unit of the standard face.
        shift: t, in pixels, y up.
        residual: root mean square distance of the fitted points, in units of the standard face.
        scale: s.
        resized: (w, h) of the virtual resized picture.
        corner: left and top of the 1024 px crop in it.
    """

    rows: Array
    shift: tuple[float, float]
    residual: float
    scale: float
    resized: tuple[int, int]
    corner: tuple[int, int]

    @property
    def anisotropy(self) -> float:
        """Larger over smaller of |R1| and |R2|; 1 for an undistorted face, far from it for bad landmarks."""
        lengths = np.linalg.norm(self.rows, axis=1)
        return float(lengths.max() / lengths.min())

    def window(self, width: int, height: int) -> CropWindow:
        """The final crop's window in a picture of width x height px."""
        margin = (_OUTER - _INNER) // 2
        unit_x, unit_y = width / self.resized[0], height / self.resized[1]
        return CropWindow(
            (self.corner[0] + margin) * unit_x,
            (self.corner[1] + margin) * unit_y,
            _INNER * unit_x,
            _INNER * unit_y,
            grid=_INNER,
        )


def fit_landmarks(landmarks: Array, width: int, height: int) -> LandmarkFit:
    """Fit the standard face to five points and place EG3D's crop.

    Args:
        landmarks: [5, 2] pixel indices, y down, in the order of `Face.landmarks`.
        width: of the picture [px].
        height: of the picture [px].

    Raises:
        ValueError: the points do not span a face (they coincide, or the scale is absurd).
    """
    x, y_up = landmarks[:, 0], height - 1 - landmarks[:, 1]
    # u = R1 X + tx and v = R2 X + ty are two least-squares problems with one matrix, 5 equations each.
    system = np.hstack([STANDARD_FACE, np.ones((5, 1))])
    solution = np.linalg.lstsq(system, np.stack([x, y_up], axis=1), rcond=None)[0]
    rows, shift = solution[:3].T, solution[3]
    mean_scale = float(np.linalg.norm(rows, axis=1).mean())
    if not mean_scale > 1e-3 or np.linalg.norm(rows, axis=1).min() < 0.1 * mean_scale:
        raise ValueError("the landmarks do not span a face")
    misses = system @ solution - np.stack([x, y_up], axis=1)
    residual = float(np.sqrt((misses**2).sum(1).mean())) / mean_scale
    s = _FACE_SCALE / mean_scale
    w, h = int(width * s), int(height * s)
    if w < 1 or h < 1:
        raise ValueError("the landmarks span a face far larger than the picture")
    left = int(w / 2 - _OUTER / 2 + (shift[0] - width / 2) * s)
    top = int(h / 2 - _OUTER / 2 + (height / 2 - shift[1]) * s)
    return LandmarkFit(rows, (float(shift[0]), float(shift[1])), residual, s, (w, h), (left, top))


def box_window(box: FaceBox) -> CropWindow:
    """The square in which the box has the width and place it has in EG3D crops, on average (ours)."""
    side = (box.width + box.height) / 2 / BOX_WIDTH
    x, y = box.centre
    return CropWindow(x - BOX_CENTRE[0] * side, y - BOX_CENTRE[1] * side, side, side)


def centre_square(width: int, height: int) -> CropWindow:
    """The largest square in the middle of the picture."""
    side = min(width, height)
    return CropWindow(float((width - side) // 2), float((height - side) // 2), float(side), float(side))


def is_aligned(width: int, height: int, faces: Sequence[Face]) -> bool:
    """Whether the picture is an EG3D-style crop already, as far as the face detector can tell.

    A square of at least 256 px with one dominant face at its usual size and place. Detections scatter by more
    than such a picture is off, so aligning it again could only harm.

    Args:
        width: of the picture [px].
        height: of the picture [px].
        faces: as the detector sorted them.
    """
    if width != height or width < _ALIGNED_MIN_PX or not faces:
        return False
    if faces[0].box.width < _DOMINANT * max((other.box.width for other in faces[1:]), default=0.0):
        return False
    face = faces[0]
    if face.landmarks is not None and face.has_real_landmarks:
        window = fit_landmarks(face.landmarks, width, height).window(width, height)
        moves = (window.left / width, window.top / width, window.width / width - 1)
        return max(map(abs, moves)) <= _ALIGNED_WINDOW_TOLERANCE
    x, y = (value / width for value in face.box.centre)
    low, high = _ALIGNED_BOX_WIDTHS
    is_placed = max(abs(x - BOX_CENTRE[0]), abs(y - BOX_CENTRE[1])) <= _ALIGNED_CENTRE_TOLERANCE
    return is_placed and low <= face.box.width / width <= high


def cut(image: Picture, window: CropWindow, size: int, border: Border = "black") -> Picture:
    """Resample a window of the picture to a square.

    Args:
        image: uint8 [H, W, 3] RGB.
        window: what to cut.
        size: side of the result [px], >= 1.
        border: what stands where the window leaves the picture: "black", as EG3D has it, or "blur", the
            picture mirrored at its edge and blurred the more the farther away.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: the window does not touch the picture.
    """
    height, width = image.shape[:2]
    if window == CropWindow(0.0, 0.0, float(width), float(height)) and width == height == size:
        return np.copy(image)
    side = window.grid or size
    filtering = Image.Resampling.BICUBIC if window.grid else Image.Resampling.LANCZOS
    columns = _inside(window.left, window.width / side, width, side)
    rows = _inside(window.top, window.height / side, height, side)
    part = _resample(image, window, side, columns, rows, filtering)
    canvas = np.zeros((side, side, 3), np.uint8)
    canvas[rows[0] : rows[1], columns[0] : columns[1]] = part
    if border == "blur" and part.shape != canvas.shape:
        canvas = _continue_blurred(part, side, columns, rows)
    if side == size:
        return canvas
    result: Picture = np.array(Image.fromarray(canvas).resize((size, size), Image.Resampling.LANCZOS))
    return result


def _inside(start: float, step: float, length: int, count: int) -> tuple[int, int]:
    """First and last + 1 of `count` raster cells of `step` px from `start` that lie within [0, length]."""
    tolerance = 1e-6
    first = max(0, int(np.ceil(-start / step - tolerance)))
    last = min(count, int(np.floor((length - start) / step + tolerance)))
    if last <= first:
        raise ValueError("the crop lies outside the picture")
    return first, last


def _resample(
    image: Picture,
    window: CropWindow,
    side: int,
    columns: tuple[int, int],
    rows: tuple[int, int],
    filtering: Image.Resampling,
) -> Picture:
    """The raster cells of the window that lie inside the picture, uint8 [rows, columns, 3].

    Only the source pixels that the filter can reach are handed to Pillow.
    """
    height, width = image.shape[:2]
    step_x, step_y = window.width / side, window.height / side
    left, right = window.left + columns[0] * step_x, window.left + columns[1] * step_x
    top, bottom = window.top + rows[0] * step_y, window.top + rows[1] * step_y
    reach_x, reach_y = (int(np.ceil(4 * max(step, 1.0))) for step in (step_x, step_y))
    x0, x1 = max(int(left) - reach_x, 0), min(int(np.ceil(right)) + reach_x, width)
    y0, y1 = max(int(top) - reach_y, 0), min(int(np.ceil(bottom)) + reach_y, height)
    source = Image.fromarray(np.ascontiguousarray(image[y0:y1, x0:x1]))
    box = (max(left - x0, 0.0), max(top - y0, 0.0), min(right - x0, x1 - x0), min(bottom - y0, y1 - y0))
    resized = source.resize((columns[1] - columns[0], rows[1] - rows[0]), filtering, box=box)
    return np.asarray(resized)


def _continue_blurred(part: Picture, side: int, columns: tuple[int, int], rows: tuple[int, int]) -> Picture:
    """The part on its canvas [side, side, 3], mirrored beyond its edges and blurred there.

    In the spirit of FFHQ's preparation, which mirrors and blurs too; the numbers are ours. The blur grows to
    its full strength over 8 % of the canvas, so that no edge shows.
    """
    mirrored = cv2.copyMakeBorder(
        part, rows[0], side - rows[1], columns[0], side - columns[1], cv2.BORDER_REFLECT
    )
    blurred = cv2.GaussianBlur(mirrored, (0, 0), 0.03 * side, borderType=cv2.BORDER_REPLICATE)
    cells = np.arange(side)
    beyond_x = np.maximum(np.maximum(columns[0] - cells, cells - columns[1] + 1), 0)
    beyond_y = np.maximum(np.maximum(rows[0] - cells, cells - rows[1] + 1), 0)
    distance = np.hypot(beyond_x[None, :], beyond_y[:, None])
    weight = np.clip(distance / (0.08 * side), 0, 1)[..., None]
    mixed: Picture = np.rint(mirrored * (1 - weight) + blurred * weight).astype(np.uint8)
    return mixed
