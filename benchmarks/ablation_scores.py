"""What `ablations.py` measures on the views of one subject.

"unseen" are the pixels in which the proxy's confidence is below one half: what the portrait did not show.
"hidden" are those of them that belong to the person in the truth. "face" is where aligned portraits have it.
Consistency is measured by the true geometry of the procedural head (`core.metrics.consistency`): a view is
warped into its neighbour, and the pixels that both cameras see are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.faces.face import Face
from dp3d_cli.core.faces.landmarks import LandmarkNet, network_input
from dp3d_cli.core.metrics.consistency import depth_consistency
from dp3d_cli.core.metrics.gradient_ncc import SIGMA, gradient_ncc
from dp3d_cli.core.metrics.grain import grain
from dp3d_cli.core.metrics.lpips import Lpips
from dp3d_cli.core.metrics.pictures import Window, correlation, luma
from dp3d_cli.core.metrics.pose import HeadAngles, LandmarkPose, geodesic_deg, pose_mse
from dp3d_cli.core.metrics.psnr import psnr
from dp3d_cli.core.metrics.sharpness import sharpness
from dp3d_cli.core.metrics.ssim import ssim
from dp3d_cli.stages.evaluate.protocol import parse_crop
from dp3d_cli.training.stages.proxy import Perceptual

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Angles = Sequence[HeadAngles | None]
MIN_YAW = 0.2
"""Views turned by less [rad] show what the portrait shows; they count for pose, consistency and Frechet."""
MIN_PIXELS = 64
"""A view with fewer pixels of a kind says nothing about that kind."""


@dataclass(frozen=True)
class Measure:
    """One number and which way is better.

    Attributes:
        label: column title.
        better: "higher", "lower", or "one": nearest to 1.
        digits: to show.
    """

    label: str
    better: str
    digits: int = 2

    def loss(self, value: float) -> float:
        """The value such that lower is better."""
        return {"higher": -value, "lower": value, "one": abs(value - 1)}[self.better]


MEASURES = {
    "psnr": Measure("PSNR dB", "higher"),
    "ssim": Measure("SSIM", "higher", 3),
    "perceptual": Measure("perceptual", "lower", 4),
    "frechet": Measure("Frechet", "lower", 3),
    "gradient_ncc": Measure("grad. NCC", "higher", 3),
    "sharpness": Measure("sharpness", "one"),
    "grain": Measure("grain", "lower"),
    "face_psnr": Measure("face PSNR", "higher"),
    "face_gradient_ncc": Measure("face grad. NCC", "higher", 3),
    "face_sharpness": Measure("face sharp.", "one"),
    "unseen_psnr": Measure("unseen PSNR", "higher"),
    "hidden_psnr": Measure("hidden PSNR", "higher"),
    "hidden_gradient_ncc": Measure("hidden grad. NCC", "higher", 3),
    "hidden_sharpness": Measure("hidden sharp.", "one"),
    "consistency": Measure("inconsistency", "lower"),
    "hidden_consistency": Measure("hidden incons.", "lower"),
    "background_flicker": Measure("backgr. flicker", "lower"),
    "pose_deg": Measure("pose deg", "lower"),
    "pose_mse": Measure("POSE rad2", "lower", 4),
}
"""Everything that is compared, in the order of the tables."""
CHANGE_MEASURES = ("change_grey", "change_perceptual", "change_pose")
"""How far a variant's views are from its base's: mean absolute grey levels, perceptual distance, rad^2."""


@dataclass(frozen=True, eq=False)
class Truth:
    """One subject as it is.

    Attributes:
        images: [V, S, S, 3] RGB.
        depths: [V, S, S] along the optical axis in world units, 0 is background.
        covered: [V, S, S] share of the pixel that is the person, in [0, 1].
        cameras: V.
        closed: the trajectory is a ring.
        confidences: [V, S, S] of the proxies, 255 is seen well.
    """

    images: Picture
    depths: NDArray[np.float32]
    covered: NDArray[np.float32]
    cameras: tuple[Camera, ...]
    closed: bool
    confidences: Picture

    @cached_property
    def turned(self) -> list[int]:
        """The views that are compared pixel by pixel; all if none is turned far enough."""
        far = [view for view, camera in enumerate(self.cameras) if abs(camera.yaw) > MIN_YAW]
        return far or list(range(len(self.cameras)))

    @cached_property
    def unseen(self) -> Mask:
        """[V, S, S]."""
        return np.asarray(self.confidences < 128)

    @cached_property
    def hidden(self) -> Mask:
        """[V, S, S]."""
        return np.asarray(self.unseen & (self.covered > 0.5))


class _OnlyAligned:
    """No detector. In an aligned view the face has its place; elsewhere there is none to look for."""

    def __init__(self) -> None:
        self.name = "none"
        self.weights: Mapping[str, str] = {}

    def detect(self, image: Picture) -> list[Face]:
        """Nothing."""
        return []


class Judge:
    """Scores views. Networks are loaded once and run on the CPU."""

    def __init__(self) -> None:
        network = LandmarkNet.load()
        self._pose = LandmarkPose(network, _OnlyAligned())
        self._features = network.network
        self._lpips: Lpips | None = None
        self._perceptual = Perceptual()
        with suppress(WeightsError):
            self._lpips = Lpips.load("alex")

    @property
    def perceptual_name(self) -> str:
        """Which perceptual distance this machine has the weights for."""
        return "LPIPS (AlexNet)" if self._lpips else f"the proxy's training loss, {self._perceptual.name}"

    def perceptual(self, view: Picture, truth: Picture) -> float:
        """LPIPS, or without its weights VGG-16 features, or without these Laplacian pyramids."""
        if self._lpips:
            return self._lpips(view, truth)
        one, other = (torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255 for p in (view, truth))
        with torch.inference_mode():
            return float(self._perceptual(one, other))

    def angles(self, views: Picture) -> Angles:
        """How each head is turned in the eyes of the embedded landmark network; None without a face."""
        return [self._pose.estimate(view) for view in views]

    def features(self, views: Sequence[Picture]) -> NDArray[np.float32]:
        """[N, D] features for the Frechet distance.

        Means over the picture of all three levels of the landmark network at the views' full resolution, not
        only on its own crops. It is on every machine and does not change when the diffusion weights do, which
        the codec's encoder would; and its early levels see blur and grain, which pooled features of the codec
        hardly do. It does not see colour: its input is grey of standardised contrast.
        """
        rows = []
        with torch.inference_mode():
            for view in views:
                grey = luma(view).astype(np.float32) / 255
                quarter = self._features.quarter(torch.from_numpy(network_input(grey))[None])
                eighth = self._features.eighth(quarter)
                levels = (quarter, eighth, self._features.sixteenth(eighth))
                rows.append(torch.cat([level.mean((2, 3))[0] for level in levels]).numpy())
        return np.stack(rows)

    def score(self, views: Picture, angles: Angles, truth: Truth, true_angles: Angles) -> dict[str, float]:
        """All measures but the Frechet distance; a measure without a single value is left out."""
        rows = [_view_scores(views[v], truth, v) for v in truth.turned]
        for row, v in zip(rows, truth.turned, strict=True):
            row["perceptual"] = self.perceptual(views[v], truth.images[v])
        rows += [
            {"pose_deg": geodesic_deg(found, camera)} | ({"pose_mse": pose_mse(found, true)} if true else {})
            for found, camera, true in zip(angles, truth.cameras, true_angles, strict=True)
            if found
        ]
        scores = mean_scores(rows)
        scores["faces"] = sum(found is not None for found in angles) / len(angles)
        for name, depths in (
            ("consistency", truth.depths),
            ("hidden_consistency", np.where(truth.unseen, truth.depths, np.float32(0))),
        ):
            error = depth_consistency(list(views), list(depths), truth.cameras, closed=truth.closed).error
            if not math.isnan(error):
                scores[name] = error
        flicker = background_flicker(views, truth.covered, truth.closed)
        return scores | ({} if math.isnan(flicker) else {"background_flicker": flicker})

    def change(
        self, views: Picture, angles: Angles, base: Picture, base_angles: Angles, turned: Sequence[int]
    ) -> dict[str, float]:
        """How far views are from the base's; see `CHANGE_MEASURES`."""
        rows = [
            {
                "change_grey": float(np.abs(views[v].astype(np.float64) - base[v]).mean()),
                "change_perceptual": self.perceptual(views[v], base[v]),
            }
            for v in turned
        ]
        pairs = zip(angles, base_angles, strict=True)
        rows += [{"change_pose": pose_mse(one, other)} for one, other in pairs if one and other]
        return mean_scores(rows)


def mean_scores(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each measure over the rows that have a finite one."""
    names = dict.fromkeys(name for row in rows for name in row)
    values = {name: [row[name] for row in rows if math.isfinite(row.get(name, math.nan))] for name in names}
    return {name: math.fsum(column) / len(column) for name, column in values.items() if column}


def background_flicker(views: Picture, covered: NDArray[np.floating], closed: bool) -> float:
    """Mean absolute difference of neighbouring views where both show background, 0..255.

    The background of procedural heads stands still, so that the truth has none. NaN without background.
    """
    count = len(views)
    pairs = [(i, (i + 1) % count) for i in range(count if closed and count > 2 else count - 1)]
    total, pixels = 0.0, 0
    for i, j in pairs:
        plain = (covered[i] == 0) & (covered[j] == 0)
        total += float(np.abs(views[i][plain].astype(np.float64) - views[j][plain]).sum()) / 3
        pixels += int(plain.sum())
    return total / pixels if pixels >= MIN_PIXELS else math.nan


def _view_scores(view: Picture, truth: Truth, index: int) -> dict[str, float]:
    true = truth.images[index]
    face: Window | None = parse_crop("face", view.shape[0])
    scores = {
        "psnr": psnr(view, true),
        "ssim": ssim(view, true),
        "gradient_ncc": gradient_ncc(view, true),
        "sharpness": sharpness(view, true),
        "grain": grain(view),
        "face_psnr": psnr(view, true, face),
        "face_gradient_ncc": gradient_ncc(view, true, face),
        "face_sharpness": sharpness(view, true, face),
    }
    for name, mask in (("unseen", truth.unseen[index]), ("hidden", truth.hidden[index])):
        if mask.sum() >= MIN_PIXELS:
            scores |= {f"{name}_{key}": value for key, value in _masked_scores(view, true, mask).items()}
    return scores


def _masked_scores(view: Picture, true: Picture, mask: Mask) -> dict[str, float]:
    """PSNR, gradient NCC and sharpness as the metrics of these names define them, over a mask [S, S]."""
    error = float(np.mean((view[mask].astype(np.float64) - true[mask]) ** 2))
    gradients, fine = [], []
    for picture in (view, true):
        grey = luma(picture)
        smooth = cv2.GaussianBlur(grey, (0, 0), SIGMA, borderType=cv2.BORDER_REFLECT)
        gradients.append(np.stack([cv2.Sobel(smooth, cv2.CV_64F, *axis)[mask] for axis in ((1, 0), (0, 1))]))
        fine.append(float(np.std(cv2.Laplacian(grey, cv2.CV_64F, ksize=1)[mask])))
    return {
        "psnr": 10 * math.log10(255.0**2 / error) if error > 0 else math.inf,
        "gradient_ncc": correlation(gradients[0], gradients[1]),
        "sharpness": fine[0] / fine[1] if fine[1] > 1e-9 else math.nan,
    }
