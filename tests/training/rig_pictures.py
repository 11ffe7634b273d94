"""A miniature of NeRSemble: procedural heads seen by 16 cameras, in another world and at another scale."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dp3d_cli.core.cameras.camera import Camera, look_at_cam2world
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.training.nersemble import FULL_HEIGHT, FULL_WIDTH
from dp3d_cli.training.rigs import RigView

SHRINK = 8  # the pictures are 275 x 401
WIDTH, HEIGHT = FULL_WIDTH // SHRINK, FULL_HEIGHT // SHRINK
FOCAL_PX = 8200.0  # at full size
METRES_PER_UNIT = 0.385
YAWS_DEG = (-46, -31, -15, 0, 15, 31, 46, -38, -20, -6, 8, 22, 38, -25, 2, 27)
ELEVATIONS_DEG = (3, -2, 4, 1, -3, 2, 4, 17, 15, 18, 16, 17, 14, -13, -15, -14)


@dataclass(frozen=True, eq=False)
class Miniature:
    """One head, its true cameras, and the same in the file's world.

    Attributes:
        head: who.
        cameras: in EG3D's world; their lens is that of a square of HEIGHT x HEIGHT px about the picture.
        views: what a converter may know.
    """

    head: ProceduralHead
    cameras: list[Camera]
    views: list[RigView]


def make_miniature(seed: int, count: int = 16) -> Miniature:
    """Render a head; `count` cameras of the 16, evenly chosen."""
    rng = np.random.default_rng(seed)
    head = ProceduralHead(seed, detail=1.2)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    shift = rng.normal(size=3)
    cameras, views = [], []
    chosen = np.linspace(0, 15, count).round().astype(int)
    lens = np.array([[FOCAL_PX / SHRINK, 0, WIDTH / 2], [0, FOCAL_PX / SHRINK, HEIGHT / 2], [0, 0, 1]])
    square = np.array([[FOCAL_PX / FULL_HEIGHT, 0, 0.5], [0, FOCAL_PX / FULL_HEIGHT, 0.5], [0, 0, 1]])
    for index in chosen:
        pitch = -np.pi / 2 * np.sin(np.radians(ELEVATIONS_DEG[index]))
        aim = tuple(rng.normal(0, 0.02, 3) + np.array([0, 0.02, 0.1]))
        cam2world = look_at_cam2world(np.radians(YAWS_DEG[index]), pitch, rng.uniform(2.5, 2.9), aim)[0]
        roll = np.radians(rng.normal(0, 1.5))
        spin = np.eye(4)
        spin[:2, :2] = [[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]
        cameras.append(Camera(cam2world @ spin, square))
    images = head.render(torch.from_numpy(np.stack([c.label for c in cameras])), HEIGHT)
    left = (HEIGHT - WIDTH) // 2
    for index, camera, image, mask in zip(chosen, cameras, images.image, images.mask, strict=True):
        pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        alpha = (mask[0] * 255).round().to(torch.uint8).numpy()
        views.append(
            RigView(
                f"2222000{index:02d}",
                np.ascontiguousarray(pixels[:, left : left + WIDTH]),
                camera.world2cam[:3, :3] @ turn.T,
                METRES_PER_UNIT * turn @ camera.centre + shift,
                lens,
                np.ascontiguousarray(alpha[:, left : left + WIDTH]),
            )
        )
    return Miniature(head, cameras, views)


def camera_params(views: list[RigView]) -> str:
    """The content of a `camera_params.json`."""
    matrices = {}
    for view in views:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = view.rotation, -view.rotation @ view.centre
        matrices[view.serial] = matrix.tolist()
    intrinsics = [[FOCAL_PX, 0, FULL_WIDTH / 2], [0, FOCAL_PX, FULL_HEIGHT / 2], [0, 0, 1]]
    return json.dumps({"world_2_cam": matrices, "intrinsics": intrinsics})


def write_frames(root: Path, participant: str, sequence: str, timestep: int, views: list[RigView]) -> None:
    """The layout of the paper's own code."""
    frame = root / participant / "sequences" / sequence / f"frame_{timestep:05d}"
    for name in ("images-2x-73fps", "alpha_map-73fps"):
        (frame / name).mkdir(parents=True)
    for view in views:
        Image.fromarray(view.picture).save(frame / "images-2x-73fps" / f"cam_{view.serial}.png")
        Image.fromarray(view.alpha).save(frame / "alpha_map-73fps" / f"cam_{view.serial}.png")
    (root / participant / "camera_params.json").write_text(camera_params(views))
