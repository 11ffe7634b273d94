"""One camera, and a sequence of cameras, as immutable values.

World: right-handed, y up, the face looks along +z, +x is the viewer's right (the subject's left). Camera:
OpenCV axes, so the columns of a cam2world rotation are right, down and forward and its fourth column is the
camera centre o. A frontal camera has rotation diag(1, -1, -1) and centre (0, 0, radius).

Angles are radians and follow EG3D (Chan et al. 2022, arXiv 2112.07945, released code): `yaw > 0` moves the
camera to +x, **`pitch < 0` moves it above the face**, and pitch is not quite an elevation: the sampler maps
it by q = 2 pitch / pi to a height of -q radii, so that the true elevation is asin(-2 pitch / pi).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]

FOCAL = 4.2647
"""Focal length in image widths of the FFHQ and PanoHead models: 2985.29 px on a 700 px crop (EG3D)."""
RADIUS = 2.7
"""Distance of the cameras from the world origin [world units] (EG3D, FFHQ)."""
PIVOT = (0.0, 0.0, 0.2)
"""The point that cameras look at, inside the head [world units] (EG3D, FFHQ)."""

LABEL_SIZE = 25
_POLE_MARGIN = 1e-5  # EG3D clamps the vertical angle to [1e-5, pi - 1e-5]
_RIGID_TOLERANCE = 1e-3  # files round their numbers; anything worse is a scaled or sheared matrix
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


def look_at_cam2world(
    yaw: ArrayLike,
    pitch: ArrayLike,
    radius: float = RADIUS,
    pivot: tuple[float, float, float] = PIVOT,
) -> Array:
    """Cameras on a sphere around the world origin, looking at the pivot without roll.

    This is EG3D's look-at sampler without its random part. The sphere is around the *origin*; the pivot is
    only looked at. The vertical angle is clamped to 1e-5 from the poles, as in the original.

    Args:
        yaw: [V] or scalar, radians; 0 is frontal, positive moves the camera towards +x.
        pitch: [V] or scalar, radians; negative moves the camera above the face; the poles are at +-pi/2.
        radius: distance from the origin in world units, > 0.
        pivot: the point looked at, world units.

    Returns:
        [V, 4, 4] camera-to-world matrices (V is 1 for scalars).

    Raises:
        ValueError: the radius is not positive, the angles are not finite or cannot be paired, or a camera
            stands on the pivot.
    """
    yaws, pitches = np.broadcast_arrays(np.atleast_1d(np.asarray(yaw, float)), np.asarray(pitch, float))
    if yaws.ndim != 1 or not (np.isfinite(yaws).all() and np.isfinite(pitches).all()):
        raise ValueError("yaw and pitch must be finite numbers, or arrays [V] of them.")
    if not radius > 0:
        raise ValueError(f"The radius must be positive, got {radius}.")
    vertical = np.clip(np.pi / 2 + pitches, _POLE_MARGIN, np.pi - _POLE_MARGIN)
    cos_polar = 1 - 2 * vertical / np.pi
    sin_polar = np.sqrt(1 - cos_polar**2)
    centre = radius * np.stack([sin_polar * np.sin(yaws), cos_polar, sin_polar * np.cos(yaws)], axis=-1)
    forward = _normalise(np.asarray(pivot, float) - centre)
    right = -_normalise(np.cross([0.0, 1.0, 0.0], forward))
    down = _normalise(np.cross(forward, right))
    cam2world = np.zeros((len(yaws), 4, 4))
    cam2world[:, :3, :] = np.stack([right, down, forward, centre], axis=-1)
    cam2world[:, 3, 3] = 1
    return cam2world


def normalised_intrinsics(focal: float = FOCAL) -> Array:
    """[3, 3] intrinsics divided by the image size, for square pixels and a centred principal point.

    Raises:
        ValueError: the focal length is not positive.
    """
    if not focal > 0:
        raise ValueError(f"The focal length must be positive, got {focal}.")
    return np.array([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]])


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera without distortion. Arrays are float64 and read-only.

    Attributes:
        cam2world: [4, 4] rigid transform from OpenCV camera axes to the world.
        intrinsics: [3, 3] divided by image width (first row) and height (second row); the image spans [0, 1].

    Raises:
        ValueError: wrong shapes, numbers that are not finite, or not a rigid right-handed transform.
    """

    cam2world: Array
    intrinsics: Array

    def __post_init__(self) -> None:
        cam2world = _frozen(self.cam2world, (4, 4), "cam2world")
        intrinsics = _frozen(self.intrinsics, (3, 3), "intrinsics")
        rotation = cam2world[:3, :3]
        if np.abs(rotation.T @ rotation - np.eye(3)).max() > _RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
            raise ValueError("cam2world is not a rotation and a translation (it scales, shears or mirrors).")
        if np.abs(cam2world[3] - [0, 0, 0, 1]).max() > _RIGID_TOLERANCE:
            raise ValueError(f"The last row of cam2world must be 0 0 0 1, got {cam2world[3].tolist()}.")
        if not (intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0):
            raise ValueError("The focal lengths must be positive.")
        if np.abs(intrinsics[[1, 2, 2, 2], [0, 0, 1, 2]] - [0, 0, 0, 1]).max() > _RIGID_TOLERANCE:
            raise ValueError("The intrinsics must be upper triangular and end in 1.")
        object.__setattr__(self, "cam2world", cam2world)
        object.__setattr__(self, "intrinsics", intrinsics)

    @classmethod
    def look_at(
        cls,
        yaw: float,
        pitch: float,
        radius: float = RADIUS,
        pivot: tuple[float, float, float] = PIVOT,
        focal: float = FOCAL,
    ) -> Camera:
        """The camera at these angles (see `look_at_cam2world`)."""
        return cls(look_at_cam2world(yaw, pitch, radius, pivot)[0], normalised_intrinsics(focal))

    @classmethod
    def from_label(cls, label: ArrayLike) -> Camera:
        """The camera of an EG3D label: cam2world, 16 numbers row by row, then intrinsics, 9 numbers.

        Raises:
            ValueError: not 25 numbers, or not a camera.
        """
        numbers = np.asarray(label, float)
        if numbers.shape != (LABEL_SIZE,):
            raise ValueError(f"A camera label has {LABEL_SIZE} numbers, got shape {numbers.shape}.")
        return cls(numbers[:16].reshape(4, 4), numbers[16:].reshape(3, 3))

    @classmethod
    def from_opengl(cls, cam2world_gl: ArrayLike, intrinsics: ArrayLike) -> Camera:
        """The camera of a NeRF `transform_matrix` [4, 4] (x right, y up, looking along -z; same world)."""
        return cls(np.asarray(cam2world_gl, float) @ _OPENGL_FROM_OPENCV, np.asarray(intrinsics, float))

    @property
    def label(self) -> NDArray[np.float32]:
        """[25] float32, the EG3D label. It holds no -0, so that equal cameras have equal bytes."""
        label = np.concatenate([self.cam2world.ravel(), self.intrinsics.ravel()]).astype(np.float32)
        label += 0
        return label

    @property
    def world2cam(self) -> Array:
        """[4, 4] from the world to OpenCV camera axes."""
        inverse = np.eye(4)
        inverse[:3, :3] = self.cam2world[:3, :3].T
        inverse[:3, 3] = -self.cam2world[:3, :3].T @ self.centre
        return inverse

    @property
    def cam2world_opengl(self) -> Array:
        """[4, 4] with NeRF's camera axes (x right, y up, looking along -z), in the same world."""
        return self.cam2world @ _OPENGL_FROM_OPENCV

    @property
    def centre(self) -> Array:
        """[3] position of the camera in the world."""
        return self.cam2world[:3, 3]

    @property
    def yaw(self) -> float:
        """Horizontal angle of the camera centre [rad], in (-pi, pi]; positive towards +x."""
        return math.atan2(self.centre[0], self.centre[2])

    @property
    def pitch(self) -> float:
        """Vertical angle of the camera centre [rad] in EG3D's measure; **negative above** the face."""
        distance = float(np.linalg.norm(self.centre))
        return -math.pi / 2 * float(self.centre[1]) / distance + 0.0 if distance > 0 else 0.0

    def pixel_intrinsics(self, width: int, height: int | None = None) -> Array:
        """[3, 3] intrinsics in pixels, pixel centres at i + 1/2; `height` defaults to `width`."""
        return np.diag([width, height or width, 1]) @ self.intrinsics

    def mirrored(self) -> Camera:
        """The camera that sees a mirror-symmetric head as this camera's image flipped left to right.

        Follows EG3D's data preparation, which negates entries (0,1), (0,2), (1,0), (2,0) and (0,3) of
        cam2world; the principal point is mirrored too.
        """
        intrinsics = self.intrinsics.copy()
        intrinsics[0, 1:] = [-intrinsics[0, 1], 1 - intrinsics[0, 2]]
        return Camera(_MIRROR @ self.cam2world @ _MIRROR, intrinsics)

    def angle_to(self, other: Camera) -> float:
        """Angle of the rotation between two cameras [rad], in [0, pi] (geodesic distance on SO(3))."""
        relative = self.cam2world[:3, :3].T @ other.cam2world[:3, :3]
        # Near 0 the cosine is flat; the skew part gives the sine, so that atan2 is exact at both ends.
        skew = relative - relative.T
        sine = math.sqrt(skew[0, 1] ** 2 + skew[0, 2] ** 2 + skew[1, 2] ** 2) / 2
        return math.atan2(sine, (float(np.trace(relative)) - 1) / 2)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Camera) and self._bytes() == other._bytes()

    def __hash__(self) -> int:
        return hash(self._bytes())

    def _bytes(self) -> bytes:
        return (self.cam2world + 0.0).tobytes() + (self.intrinsics + 0.0).tobytes()  # + 0.0: -0 equals 0


@dataclass(frozen=True)
class Rig:
    """The sphere that look-at cameras stand on, and their lens.

    Attributes:
        radius: distance of the cameras from the world origin, world units, > 0.
        pivot: the point that they look at, world units.
        focal: focal length in image widths, > 0.
    """

    radius: float = RADIUS
    pivot: tuple[float, float, float] = PIVOT
    focal: float = FOCAL


FFHQ_RIG = Rig()
"""EG3D's rig for FFHQ portraits."""
PANOHEAD_RIG = Rig(pivot=(0.0, 0.0, 0.0))
"""PanoHead's rig for whole heads."""


@dataclass(frozen=True)
class Trajectory:
    """Target cameras in the order of their views.

    Attributes:
        name: what the trajectory is called in folders and records; usable as a file name.
        cameras: one per view, at least one.
        closed: whether the first view follows the last one without a jump (the first is not repeated).

    Raises:
        ValueError: no camera, or a name that is not a file name.
    """

    name: str
    cameras: tuple[Camera, ...]
    closed: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "cameras", tuple(self.cameras))
        if not self.cameras:
            raise ValueError(f"Trajectory '{self.name}' has no cameras.")
        if not is_trajectory_name(self.name):
            raise ValueError(f"'{self.name}' cannot name a trajectory, because it cannot name a folder.")

    @classmethod
    def from_angles(
        cls,
        name: str,
        yaws: Iterable[float],
        pitches: Iterable[float],
        *,
        closed: bool = False,
        rig: Rig = FFHQ_RIG,
    ) -> Trajectory:
        """Look-at cameras at paired angles [rad] (see `look_at_cam2world`).

        Raises:
            ValueError: no angles, or not as many yaws as pitches.
        """
        yaw_array, pitch_array = np.array(list(yaws), float), np.array(list(pitches), float)
        if yaw_array.shape != pitch_array.shape:
            raise ValueError(f"{len(yaw_array)} yaws cannot be paired with {len(pitch_array)} pitches.")
        matrices = look_at_cam2world(yaw_array, pitch_array, rig.radius, rig.pivot)
        intrinsics = normalised_intrinsics(rig.focal)
        return cls(name, tuple(Camera(matrix, intrinsics) for matrix in matrices), closed)

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def labels(self) -> NDArray[np.float32]:
        """[V, 25] float32 EG3D labels."""
        return np.stack([camera.label for camera in self.cameras])

    @property
    def view_names(self) -> tuple[str, ...]:
        """The views' file names "000", "001", ... without suffix, sorting in view order."""
        return view_names(len(self.cameras))


def view_names(count: int) -> tuple[str, ...]:
    """Names of `count` views, of three digits, or more where there are more than 1000 views."""
    width = max(3, len(str(count - 1)))
    return tuple(f"{index:0{width}d}" for index in range(count))


def is_trajectory_name(name: str) -> bool:
    """Whether a folder can be called so on the systems that people exchange files between."""
    return (
        bool(name) and len(name) <= 100 and name[0] not in ".-" and not set(name) & set('/\\:\0\n\r\t"<>|?*')
    )


def _normalise(vectors: Array) -> Array:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (length > 1e-9).all():
        raise ValueError(
            "A camera stands on the point it should look at, or looks straight along the y axis."
        )
    return np.asarray(vectors / length, dtype=np.float64)


def _frozen(values: ArrayLike, shape: tuple[int, int], name: str) -> Array:
    array = np.array(values, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} must be {shape[0]}x{shape[1]} finite numbers, got shape {array.shape}.")
    array.flags.writeable = False
    return array
