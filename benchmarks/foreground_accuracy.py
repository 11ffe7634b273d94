"""How well is the head of a portrait told from its background, and its camera estimated?

    python benchmarks/foreground_accuracy.py > benchmarks/results/foreground.json

Portraits of procedural heads of the test split, which no network was trained on, each seen from the camera of
a draw of `reference_label`. Intersection over union of the mask with the true one, the share of doubtful
pixels, and the angle between the estimated camera and the true one, beside that of the usual camera.
"""

from __future__ import annotations

import argparse
import json
import math
from statistics import fmean, median

import numpy as np
import torch

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.faces.landmarks import portrait_box
from dp3d_cli.core.faces.opencv import OpenCVDetector
from dp3d_cli.core.faces.pose import PORTRAIT_PITCH, PORTRAIT_YAW, portrait_camera
from dp3d_cli.core.proxies.segmentation import segment_head
from dp3d_cli.core.proxies.template import to_uint8
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.training.data import SPLITS, reference_label


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description="Score masks and cameras of portraits.")
    parser.add_argument("--heads", type=int, default=64)
    parser.add_argument("--size", type=int, default=256)
    options = parser.parse_args()
    rng, detector = np.random.default_rng(0), OpenCVDetector()
    usual = Camera.look_at(PORTRAIT_YAW, PORTRAIT_PITCH)
    rows: dict[str, list[float]] = {"iou": [], "doubt": [], "camera_deg": [], "usual_camera_deg": []}
    undetected = 0
    for seed in SPLITS["test"][: options.heads]:
        label = reference_label(rng)
        seen = ProceduralHead(seed).render(label, options.size)
        picture, camera = to_uint8(seen.image)[0], Camera.from_label(label[0].numpy())
        faces = detector.detect(picture)
        undetected += not faces
        box = faces[0].box if faces else portrait_box(options.size, options.size)
        made = segment_head(picture, (box.x, box.y, box.width, box.height))
        found, true = made.mask > 0.5, seen.mask[0, 0].numpy() > 0.5
        rows["iou"].append(float((found & true).sum() / (found | true).sum()))
        rows["doubt"].append(made.doubt)
        estimated = portrait_camera(picture, box) or usual
        rows["camera_deg"].append(math.degrees(estimated.angle_to(camera)))
        rows["usual_camera_deg"].append(math.degrees(usual.angle_to(camera)))
    figures = {
        name: {"mean": fmean(own), "median": median(own), "least": min(own), "most": max(own)}
        for name, own in rows.items()
    }
    settings = {"heads": options.heads, "size": options.size, "without_detected_face": undetected}
    print(json.dumps({**settings, "torch": torch.__version__, **figures}, indent=1))


if __name__ == "__main__":
    main()
