"""The table of metrics: what each compares, by which formula, which way is better, and what it needs.

A new metric is a file in `core/metrics` and a line here. Kinds:

    pair        prediction and truth
    reference   prediction and the reference portrait
    face        faces in prediction and truth
    camera      the face in the prediction and the camera that was asked for
    set         all predictions of a method and all truths (references where there is no truth)
    sequence    neighbouring views of one subject
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.metrics.gradient_ncc import gradient_ncc
from dp3d_cli.core.metrics.grain import PATCH, grain
from dp3d_cli.core.metrics.pictures import Picture, Window, cut
from dp3d_cli.core.metrics.psnr import psnr
from dp3d_cli.core.metrics.sharpness import sharpness
from dp3d_cli.core.metrics.ssim import MIN_SIDE, ssim
from dp3d_cli.core.metrics.zncc import zncc
from dp3d_cli.stages.evaluate.networks import NetworkName, Networks, Role, Sight
from dp3d_cli.stages.evaluate.results import Better, Kind

Need = Literal["truth", "reference", "camera", "sequence", "five"]


@dataclass(frozen=True)
class Comparison:
    """What one row's metrics look at.

    Attributes:
        prediction: the method's view.
        truth: the true one, if there is one.
        reference: the reference portrait, if there is one.
        camera: the camera asked for, if known.
        window: the part that pair metrics score; None for all.
        is_of_five: whether the view is one of the five of Portrait Diffusion's table.
    """

    prediction: Sight
    truth: Sight | None = None
    reference: Sight | None = None
    camera: Camera | None = None
    window: Window | None = None
    is_of_five: bool = False


@dataclass(frozen=True)
class NoFace:
    """A face metric's answer where there is none."""

    where: Role


Answer = float | NoFace | None
Measure = Callable[[Comparison, Networks], Answer]


@dataclass(frozen=True)
class Metric:
    """One column of the report.

    Attributes:
        name: as in `--metrics` and in the report's files.
        kind: see the module's description.
        better: which way is better.
        unit: of the number; "" for a plain one.
        formula: what is computed, by which package.
        measure: a row's number; NoFace; None where the metric does not apply. None for metrics of sets and
            sequences.
        needs: what a row must have.
        packages: distributions whose version decides the number.
        network: what computes it, if it takes one.
        backbones: names in `BACKBONES`; the first is what to fetch.
        install: command that installs an optional package.
        worst: score under `--strict` of a prediction without a face; None where no face is needed.
        least_side: smallest side of what is scored [px].
        is_windowed: whether `--crop` cuts what is scored.
    """

    name: str
    kind: Kind
    better: Better
    unit: str
    formula: str
    measure: Measure | None = None
    needs: tuple[Need, ...] = ()
    packages: tuple[str, ...] = ()
    network: NetworkName | None = None
    backbones: tuple[str, ...] = ()
    install: str = ""
    worst: float | None = None
    least_side: int = 1
    is_windowed: bool = False


def _plain(function: Callable[[Picture, Picture, Window | None], float]) -> Measure:
    def measure(row: Comparison, networks: Networks) -> Answer:
        return None if row.truth is None else function(row.prediction.pixels, row.truth.pixels, row.window)

    return measure


def _grain(row: Comparison, networks: Networks) -> Answer:
    return grain(row.prediction.pixels)


def _lpips(trunk: Literal["alex", "vgg"]) -> Measure:
    def measure(row: Comparison, networks: Networks) -> Answer:
        if row.truth is None:
            return None
        return networks.lpips(
            trunk, cut(row.prediction.pixels, row.window), cut(row.truth.pixels, row.window)
        )

    return measure


def _dists(resize: Literal["256", "native"]) -> Measure:
    def measure(row: Comparison, networks: Networks) -> Answer:
        if row.truth is None:
            return None
        return networks.dists(
            resize, cut(row.prediction.pixels, row.window), cut(row.truth.pixels, row.window)
        )

    return measure


def _lpips_ref5(row: Comparison, networks: Networks) -> Answer:
    if row.reference is None or not row.is_of_five:
        return None
    return networks.lpips("vgg", row.prediction.pixels, row.reference.pixels)


def _clip_i(row: Comparison, networks: Networks) -> Answer:
    from dp3d_cli.core.metrics.clip_i import cosine

    if row.reference is None:
        return None
    own = networks.features("clip", row.prediction, "prediction")
    other = networks.features("clip", row.reference, "reference")
    assert own is not None
    assert other is not None
    return cosine(own, other)


def _identity(role: Literal["truth", "reference"]) -> Measure:
    def measure(row: Comparison, networks: Networks) -> Answer:
        from dp3d_cli.core.metrics.identity import cosine

        other = row.truth if role == "truth" else row.reference
        if other is None:
            return None
        theirs = networks.features("face", other, role)
        if theirs is None:
            return NoFace(role)
        own = networks.features("face", row.prediction, "prediction")
        return NoFace("prediction") if own is None else cosine(own, theirs)

    return measure


def _pose(kind: Literal["mse", "mae_deg"]) -> Measure:
    def measure(row: Comparison, networks: Networks) -> Answer:
        from dp3d_cli.core.metrics.pose import pose_mae_deg, pose_mse

        if row.truth is None:
            return None
        theirs = networks.angles(row.truth, "truth")
        if theirs is None:
            return NoFace("truth")
        own = networks.angles(row.prediction, "prediction")
        if own is None:
            return NoFace("prediction")
        return pose_mse(own, theirs) if kind == "mse" else pose_mae_deg(own, theirs)

    return measure


def _pose_camera(row: Comparison, networks: Networks) -> Answer:
    from dp3d_cli.core.metrics.pose import geodesic_deg

    if row.camera is None:
        return None
    own = networks.angles(row.prediction, "prediction")
    return NoFace("prediction") if own is None else geodesic_deg(own, row.camera)


_PIXELS = ("opencv-python",)
_HALF_TURN = math.pi

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "psnr",
            "pair",
            "higher",
            "dB",
            "mean of per-image 10 log10(255^2 / MSE) over RGB",
            _plain(psnr),
            needs=("truth",),
            is_windowed=True,
        ),
        Metric(
            "ssim",
            "pair",
            "higher",
            "",
            "Wang et al. 2004: Gaussian 11 x 11, sigma 1.5, population covariance, data range 255, RGB mean",
            _plain(ssim),
            needs=("truth",),
            packages=("scikit-image",),
            least_side=MIN_SIDE,
            is_windowed=True,
        ),
        Metric(
            "lpips_alex",
            "pair",
            "lower",
            "",
            "LPIPS 0.1 (Zhang et al. 2018) with AlexNet, input in [-1, 1], by the package lpips",
            _lpips("alex"),
            needs=("truth",),
            packages=("lpips", "torch", "torchvision"),
            network="lpips-alex",
            backbones=("alexnet",),
            least_side=32,
            is_windowed=True,
        ),
        Metric(
            "lpips_vgg",
            "pair",
            "lower",
            "",
            "LPIPS 0.1 (Zhang et al. 2018) with VGG-16, input in [-1, 1], by the package lpips",
            _lpips("vgg"),
            needs=("truth",),
            packages=("lpips", "torch", "torchvision"),
            network="lpips-vgg",
            backbones=("vgg16",),
            least_side=32,
            is_windowed=True,
        ),
        Metric(
            "dists@256",
            "pair",
            "lower",
            "",
            "DISTS (Ding et al. 2020) at its authors' size, shorter side 256 px, by torchmetrics",
            _dists("256"),
            needs=("truth",),
            packages=("torchmetrics", "torch", "torchvision", "pillow"),
            network="dists-256",
            backbones=("vgg16", "dists"),
            least_side=16,
            is_windowed=True,
        ),
        Metric(
            "dists@native",
            "pair",
            "lower",
            "",
            "DISTS (Ding et al. 2020) at the size that is scored, by torchmetrics",
            _dists("native"),
            needs=("truth",),
            packages=("torchmetrics", "torch", "torchvision"),
            network="dists-native",
            backbones=("vgg16", "dists"),
            least_side=16,
            is_windowed=True,
        ),
        Metric(
            "fid",
            "set",
            "lower",
            "",
            "Frechet distance of Inception features by pytorch-fid, its resize (bilinear, not antialiased); "
            "all predictions against all truths, or references where there is no truth",
            packages=("pytorch-fid", "torch"),
            network="inception",
            backbones=("fid-inception",),
        ),
        Metric(
            "fid_clean",
            "set",
            "lower",
            "",
            "Frechet distance of Inception features, clean-fid's resize (bicubic, antialiased); sets as fid",
            packages=("pytorch-fid", "torch", "pillow"),
            network="inception-clean",
            backbones=("fid-inception",),
        ),
        Metric(
            "kid",
            "set",
            "lower",
            "",
            "squared MMD, kernel (x.y / D + 1)^3, of the features of fid; mean and s.d. over 100 subsets",
            packages=("pytorch-fid", "torch"),
            network="inception",
            backbones=("fid-inception",),
        ),
        Metric(
            "id_ref",
            "reference",
            "higher",
            "",
            "cosine of ArcFace embeddings (insightface, 112 x 112 five-point warp) of prediction and "
            "reference portrait, as the text of DiffPortrait3D has it",
            _identity("reference"),
            needs=("reference",),
            packages=("insightface", "onnxruntime"),
            network="face",
            backbones=("buffalo_l",),
            worst=0.0,
        ),
        Metric(
            "id_gt",
            "face",
            "higher",
            "",
            "cosine of ArcFace embeddings (insightface, 112 x 112 five-point warp) of prediction and truth, "
            "as the supplement of DiffPortrait3D has it",
            _identity("truth"),
            needs=("truth",),
            packages=("insightface", "onnxruntime"),
            network="face",
            backbones=("buffalo_l",),
            worst=0.0,
        ),
        Metric(
            "pose_mse",
            "face",
            "lower",
            "rad^2",
            "mean over pitch, yaw and roll of the squared difference between prediction and truth, both by "
            "one estimator",
            _pose("mse"),
            needs=("truth",),
            network="pose",
            worst=_HALF_TURN**2,
        ),
        Metric(
            "pose_mae_deg",
            "face",
            "lower",
            "degrees",
            "mean over pitch, yaw and roll of the absolute difference between prediction and truth, both by "
            "one estimator",
            _pose("mae_deg"),
            needs=("truth",),
            network="pose",
            worst=180.0,
        ),
        Metric(
            "pose_camera_deg",
            "camera",
            "lower",
            "degrees",
            "angle of the rotation between the estimated pose and the camera asked for (EG3D's world: y up, "
            "face along +z); an estimator's own idea of a straight head is part of it, so compare with the "
            "ground truth's number",
            _pose_camera,
            needs=("camera",),
            network="pose",
            worst=180.0,
        ),
        Metric(
            "pose_camera_rel_deg",
            "sequence",
            "lower",
            "degrees",
            "mean of pose_camera_deg over a subject's views, less the one rotation that all of them share: "
            "how views turn against one another, whatever the estimator takes for a straight head; at least "
            "3 faces",
            needs=("camera",),
            network="pose",
        ),
        Metric(
            "clip_i",
            "reference",
            "higher",
            "",
            "cosine of CLIP ViT-B/32 image embeddings of prediction and reference portrait",
            _clip_i,
            needs=("reference",),
            packages=("transformers", "torch", "pillow"),
            network="clip",
            backbones=("clip-vit-b32",),
            install="pip install 'dp3d[clip]'",
        ),
        Metric(
            "lpips_ref5",
            "reference",
            "lower",
            "",
            "LPIPS 0.1 with VGG-16 of the reference portrait and five views: front, left- and right-frontal, "
            "left and right (yaw 0, -45, 45, -90 and 90 degrees, each within 10; or a subject's only five)",
            _lpips_ref5,
            needs=("reference", "five"),
            packages=("lpips", "torch", "torchvision"),
            network="lpips-vgg",
            backbones=("vgg16",),
            least_side=32,
        ),
        Metric(
            "consistency",
            "sequence",
            "lower",
            "grey levels",
            "mean absolute RGB difference between neighbouring views after dense optical flow (OpenCV DIS) "
            "has aligned them; a blurred sequence scores well, so read it beside LPIPS or sharpness",
            needs=("sequence",),
            packages=_PIXELS,
            least_side=32,
        ),
        Metric(
            "consistency_gt",
            "sequence",
            "near 1",
            "x truth",
            "the error of consistency over that of the ground truth, both along the ground truth's flow; "
            "below 1 is blurrier than the truth, not better",
            needs=("sequence", "truth"),
            packages=_PIXELS,
            least_side=32,
        ),
        Metric(
            "zncc",
            "pair",
            "higher",
            "",
            "correlation of BT.601 luma less its mean in the window",
            _plain(zncc),
            needs=("truth",),
            is_windowed=True,
        ),
        Metric(
            "gradient_ncc",
            "pair",
            "higher",
            "",
            "normalised correlation of Sobel gradient fields of BT.601 luma after a Gaussian of sigma 1.5 px",
            _plain(gradient_ncc),
            needs=("truth",),
            packages=_PIXELS,
            is_windowed=True,
        ),
        Metric(
            "sharpness",
            "pair",
            "near 1",
            "x truth",
            "s.d. of the 3 x 3 Laplacian of BT.601 luma over that of the truth",
            _plain(sharpness),
            needs=("truth",),
            packages=_PIXELS,
            is_windowed=True,
        ),
        Metric(
            "grain",
            "pair",
            "lower",
            "grey levels",
            "of the prediction alone, whole picture: median s.d. of the luma's Laplacian in "
            f"{PATCH} x {PATCH} px patches at the left and right border",
            _grain,
            packages=_PIXELS,
            least_side=PATCH,
        ),
    )
}


_FAMILIES = {
    "lpips": ("lpips_alex", "lpips_vgg"),
    "dists": ("dists@256", "dists@native"),
    "id": ("id_ref", "id_gt"),
    "pose": ("pose_mse", "pose_mae_deg", "pose_camera_deg", "pose_camera_rel_deg"),
}


def named_metrics(text: str) -> tuple[str, ...]:
    """Metrics from names joined by commas; "all", and families such as "lpips", "dists", "id", "pose".

    Raises:
        UsageError: a name that is neither.
    """
    names: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if part == "all":
            own = list(METRICS)
        elif part in METRICS:
            own = [part]
        else:
            own = list(_FAMILIES.get(part, ()))
        if not own:
            raise UsageError(
                f"There is no metric '{part}'. Metrics: {', '.join(METRICS)}; all; and, for several: "
                f"{', '.join(_FAMILIES)}.",
                reason="unknown-metric",
            )
        names += [name for name in own if name not in names]
    return tuple(names)
