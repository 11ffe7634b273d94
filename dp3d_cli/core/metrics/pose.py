"""Camera accuracy: how a head is turned in a generated picture, against the truth or the camera asked for.

One estimator looks at both pictures, because estimators differ by degrees, and is named beside the number:
values of two estimators must not be compared.

**Angles** are radians and describe the rotation from the head (EG3D's world: y up, face along +z, +x to the
viewer's right) to the picture (OpenGL camera axes: x right, y up, z to the viewer):

    M = Rz(-roll) Ry(-yaw) Rx(-pitch)

with the usual right-handed rotations about one axis, the order of insightface and of 3D face models. The
signs are EG3D's: yaw > 0 is a camera at +x, **pitch < 0 a camera above**, roll > 0 a head turned clockwise in
the picture. They are angles of a *rotation*: `Camera.yaw` and `Camera.pitch` are those of a *place* on the
sphere and differ by a few degrees, and a level camera that is both above and beside the head has some roll.

**POSE of DiffPortrait3D** (arXiv 2312.13016, Sec. 4.2 and supplement A.2.2): pitch, yaw and roll are detected
in the generated view and in the ground truth image by a face reconstruction network (Deng et al. 2019) and
compared by an L2 loss, whose unit and reduction are not given. `pose_mse` is the mean over the three angles
of the squared difference in rad^2. Under this reading the published 0.0021 is an error of 2.6 degrees; as a
norm it would be 0.12 degrees (rad) or 0.0021 (deg), finer than any estimator resolves. If the paper summed
the three, its numbers are three times ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.faces.detect import Detector
from dp3d_cli.core.faces.face import FaceBox
from dp3d_cli.core.faces.landmarks import MIN_CONFIDENCE, WEIGHTS, LandmarkNet, head_pose, portrait_box
from dp3d_cli.core.faces.opencv import OpenCVDetector
from dp3d_cli.core.metrics.face_models import FaceModel, load_face_detector, load_face_model
from dp3d_cli.core.metrics.pictures import Picture, check_picture
from dp3d_cli.core.weights.backbones import find_backbone
from dp3d_cli.core.weights.manifest import sha256

Array = NDArray[np.float64]
Backend = Literal["auto", "insightface", "landmarks"]

_MODEL = "1k3d68.onnx"
_SIDE = 192  # of its input [px]
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class HeadAngles:
    """How a head is turned (see the module for axes and signs).

    Attributes:
        pitch: radians; negative when seen from above.
        yaw: radians; positive when seen from +x.
        roll: radians; positive clockwise in the picture.
    """

    pitch: float
    yaw: float
    roll: float

    def __post_init__(self) -> None:
        if not all(math.isfinite(angle) for angle in (self.pitch, self.yaw, self.roll)):
            raise ValueError(f"Angles must be finite, got {self}.")

    @classmethod
    def from_world2cam(cls, rotation: Array) -> HeadAngles:
        """The angles of a rotation [3, 3] from the world to OpenCV camera axes.

        With M as above, M[2] = (sin yaw, -cos yaw sin pitch, cos yaw cos pitch) and the first column of M is
        (cos roll cos yaw, -sin roll cos yaw, sin yaw). At yaw = +-90 degrees only the sum or difference of
        pitch and roll is known; roll is 0 there.
        """
        m = _OPENGL_FROM_OPENCV @ rotation
        cos_yaw = math.hypot(m[2, 1], m[2, 2])
        yaw = math.atan2(m[2, 0], cos_yaw)
        if cos_yaw < 1e-9:
            # M[1] = (0, cos pitch, sin pitch) when roll is 0.
            return cls(math.atan2(m[1, 2], m[1, 1]), yaw, 0.0)
        return cls(math.atan2(-m[2, 1], m[2, 2]), yaw, math.atan2(-m[1, 0], m[0, 0]))

    @classmethod
    def of_camera(cls, camera: Camera) -> HeadAngles:
        """The angles at which this camera sees a head that stands in the world's axes."""
        return cls.from_world2cam(camera.world2cam[:3, :3])

    @property
    def world2cam(self) -> Array:
        """[3, 3] rotation from the world to OpenCV camera axes."""
        (sp, cp), (sy, cy), (sr, cr) = (
            (math.sin(-angle), math.cos(angle)) for angle in (self.pitch, self.yaw, self.roll)
        )
        about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return np.asarray(_OPENGL_FROM_OPENCV @ about_z @ about_y @ about_x, np.float64)

    @property
    def camera(self) -> Camera:
        """A camera turned so, with centre and lens that mean nothing."""
        cam2world = np.eye(4)
        cam2world[:3, :3] = self.world2cam.T
        return Camera(cam2world, np.eye(3))


def pose_mse(a: HeadAngles, b: HeadAngles) -> float:
    """Mean over pitch, yaw and roll of the squared difference, rad^2; the POSE of the module's docstring."""
    return math.fsum(difference**2 for difference in _differences(a, b)) / 3


def pose_mae_deg(a: HeadAngles, b: HeadAngles) -> float:
    """Mean over pitch, yaw and roll of the absolute difference, degrees."""
    return math.degrees(math.fsum(abs(difference) for difference in _differences(a, b)) / 3)


def geodesic_deg(estimated: HeadAngles, camera: Camera, offset: Array | None = None) -> float:
    """Angle of the rotation between the estimated camera and the one asked for, degrees in [0, 180].

    Sound for pictures aligned as EG3D does, whose heads stand in the world's axes. Estimators disagree by
    some degrees about which head is straight, so that even true pictures do not score 0; `shared_offset`
    takes that part out.

    Args:
        estimated: of the picture.
        camera: asked for.
        offset: [3, 3] rotation from the estimator's head to the world; none if None.
    """
    turned = np.eye(4)
    turned[:3, :3] = camera.cam2world[:3, :3] if offset is None else offset.T @ camera.cam2world[:3, :3]
    return math.degrees(estimated.camera.angle_to(Camera(turned, camera.intrinsics)))


def shared_offset(estimated: Sequence[HeadAngles], cameras: Sequence[Camera]) -> Array:
    """The rotation O that all views of one subject share: estimated_i is about world2cam_i O.

    It is how this person's head, in the eyes of the estimator, stands in the world. The rotation with the
    least squared (chordal) distance: with U S V^T the singular value decomposition of the sum of
    cam2world_i estimated_i, O = U diag(1, 1, det(U V^T)) V^T.

    Args:
        estimated: of the views of one subject, at least 3; with fewer there is little left to measure.
        cameras: asked for, in the same order.

    Returns:
        [3, 3].

    Raises:
        ValueError: fewer than 3 views, or not as many cameras.
    """
    if len(estimated) != len(cameras) or len(estimated) < 3:
        raise ValueError(
            f"An offset needs 3 views and their cameras, got {len(estimated)} and {len(cameras)}."
        )
    total = np.zeros((3, 3))
    for angles, camera in zip(estimated, cameras, strict=True):
        total += camera.cam2world[:3, :3] @ angles.world2cam
    u, _, vt = np.linalg.svd(total)
    return np.asarray(u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt, np.float64)


class PoseEstimator(Protocol):
    """Tells how the largest face of a picture is turned.

    Attributes:
        backend: "insightface" or "landmarks".
    """

    backend: str

    def estimate(self, picture: Picture) -> HeadAngles | None:
        """Angles of the largest face in uint8 [H, W, 3] RGB; None if there is none."""

    def describe(self) -> dict[str, object]:
        """What decides the number, for reports."""


def load_pose(backend: Backend = "auto", device: str = "cpu") -> PoseEstimator:
    """The estimator asked for; "auto" takes insightface if its models are there, else the embedded one.

    Args:
        backend: which one.
        device: torch device of the embedded network; insightface runs on the CPU.

    Raises:
        WeightsError: insightface is asked for and its models are missing ("weights-missing").
    """
    if backend == "auto":
        folder = find_backbone("buffalo_l")
        backend = "insightface" if folder is not None and (folder / _MODEL).is_file() else "landmarks"
    return InsightFacePose.load() if backend == "insightface" else LandmarkPose.load(device)


class InsightFacePose:
    """insightface's 68 points in 3D (1k3d68 of buffalo_l), fitted to its mean head.

    The package fits an affine map from the mean head to the points and gives degrees pitch, yaw, roll of a
    rotation Rz(roll) Ry(yaw) Rx(pitch) in axes x right, y *down*, z to the viewer. Turning y round negates
    the rotations about x and z, so that in this module's signs

        pitch = pitch_if pi / 180,   yaw = -yaw_if pi / 180,   roll = roll_if pi / 180.

    The camera is taken as weakly perspective: a face off the picture's centre is seen turned by the angle of
    its line of sight, at most 1.3 degrees for a tenth of the width and EG3D's lens.
    """

    backend = "insightface"

    def __init__(self, model: FaceModel, detector: Detector) -> None:
        """Use `load`."""
        self._model, self._detector = model, detector

    @classmethod
    def load(cls) -> InsightFacePose:
        """The models of the folder buffalo_l.

        Raises:
            WeightsError: they are missing ("weights-missing", with the command that gets them), or not the
                published ones ("weights-damaged"), or the package is missing.
        """
        return cls(load_face_model(_MODEL, "landmark_3d_68", _SIDE), load_face_detector())

    def estimate(self, picture: Picture) -> HeadAngles | None:
        """Angles of the largest face in uint8 [H, W, 3] RGB; None if there is none.

        Raises:
            ValueError: not a uint8 RGB picture.
        """
        from insightface.app.common import Face as InsightFace

        check_picture(picture)
        faces = self._detector.detect(picture)
        if not faces:
            return None
        box = faces[0].box
        corners = np.array([box.x, box.y, box.x + box.width, box.y + box.height], np.float32)
        face = InsightFace(bbox=corners)
        self._model.model.get(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), face)
        pitch, yaw, roll = (math.radians(float(angle)) for angle in face["pose"])
        return HeadAngles(pitch, -yaw, roll)

    def describe(self) -> dict[str, object]:
        """What decides the number, for reports."""
        return {
            **self._model.describe(),
            "backend": self.backend,
            "network": "68 points in 3D, fitted to the package's mean head",
            "detector": self._detector.name,
            "detector_weights": dict(self._detector.weights),
            "face": "largest",
            "range": "uint8 RGB 0..255",
            "resize": f"square of 1.5 boxes to {_SIDE} x {_SIDE}, bilinear, black outside",
            "resize_library": f"opencv {cv2.__version__}",
            "angles": "pitch, yaw, roll in radians",
        }


class LandmarkPose:
    """The embedded landmark network and a perspective fit of its mean head (`core.faces.landmarks`).

    For where insightface's models are missing, or must not be used. The lens is EG3D's over the longer side.

    A square picture is first looked at as an aligned portrait, whose face has its place; the embedded face
    detector, which misses heads that are turned far, is asked only if no face is there. What decides that a
    face was found is the network's mean confidence.
    """

    backend = "landmarks"

    def __init__(self, network: LandmarkNet, detector: Detector) -> None:
        """Use `load`."""
        self._network, self._detector = network, detector

    @classmethod
    def load(cls, device: str = "cpu") -> LandmarkPose:
        """The embedded network and face detector.

        Raises:
            WeightsError: the installation is damaged.
        """
        return cls(LandmarkNet.load(device=device), OpenCVDetector())

    def estimate(self, picture: Picture) -> HeadAngles | None:
        """Angles of the aligned or else the largest face in uint8 [H, W, 3] RGB; None if there is none.

        Raises:
            ValueError: not a uint8 RGB picture.
        """
        check_picture(picture)
        height, width = picture.shape[:2]
        for box in self._boxes(picture):
            points, confidence = self._network.points(picture, box)
            if confidence.mean() >= MIN_CONFIDENCE:
                return HeadAngles.from_world2cam(head_pose(points, confidence, width, height).rotation)
        return None

    def _boxes(self, picture: Picture) -> Iterator[FaceBox]:
        """Where a face may be, the likeliest place first."""
        height, width = picture.shape[:2]
        if height == width:
            yield portrait_box(width, height)
        if faces := self._detector.detect(picture):
            yield faces[0].box

    def describe(self) -> dict[str, object]:
        """What decides the number, for reports."""
        import torch

        return {
            "backend": self.backend,
            "implementation": "dp3d landmark network, SQPNP and robust fit of the mean head",
            "runtime": f"torch {torch.__version__}",
            "weights": WEIGHTS.name,
            "weights_sha256": sha256(WEIGHTS),
            "detector": f"place of the aligned face, else {self._detector.name}",
            "face": f"mean confidence of the points at least {MIN_CONFIDENCE}",
            "range": "uint8 RGB 0..255",
            "resize": "square about the face to 96 x 96, area average",
            "resize_library": f"opencv {cv2.__version__}",
            "angles": "pitch, yaw, roll in radians",
            "device": str(self._network.device),
            "dtype": "float32",
        }


def _differences(a: HeadAngles, b: HeadAngles) -> tuple[float, float, float]:
    """Pitch, yaw and roll of `a` less those of `b`, each the short way round, in [-pi, pi]."""
    pitch, yaw, roll = (
        math.remainder(one - other, 2 * math.pi)
        for one, other in ((a.pitch, b.pitch), (a.yaw, b.yaw), (a.roll, b.roll))
    )
    return pitch, yaw, roll
