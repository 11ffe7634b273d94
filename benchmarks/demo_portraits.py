"""Sample portraits for `make demo`, from what the installed packages carry: nothing is downloaded.

One photograph (scikit-image's astronaut, Eileen Collins, public domain, NASA) and procedural heads, for which
the true views are known and written beside them.

    python benchmarks/demo_portraits.py PORTRAITS_DIR TRUTH_DIR [--heads 2] [--preset nano]
"""

import argparse
from pathlib import Path

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray

from dp3d_cli.core.cameras.camera import Camera
from dp3d_cli.core.cameras.trajectories import load_trajectory
from dp3d_cli.core.images import write_png
from dp3d_cli.core.presets import load_preset
from dp3d_cli.core.renderers.procedural import ProceduralHead

SEEDS = (9_006, 9_002, 9_007, 9_015)  # subjects that no training split contains
PORTRAIT_SIZE = 512


def main() -> None:
    """Write the portraits, and the true views of the procedural ones along the preset's trajectory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("portraits", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--heads", type=int, default=2, choices=range(len(SEEDS) + 1))
    parser.add_argument("--preset", default="nano")
    options = parser.parse_args()

    options.portraits.mkdir(parents=True, exist_ok=True)
    write_png(options.portraits / "astronaut.png", skimage.data.astronaut())
    preset = load_preset(options.preset)
    trajectory = load_trajectory(preset.cameras.trajectory, preset.cameras.num_views)
    frontal = Camera.look_at(0.0, 0.0).label
    for index in range(options.heads):
        name = f"procedural-{index}"
        head = ProceduralHead(SEEDS[index], detail=PORTRAIT_SIZE / 256)
        portrait = head.render(torch.from_numpy(frontal)[None], PORTRAIT_SIZE).image
        write_png(options.portraits / f"{name}.png", _to_uint8(portrait)[0])
        views = head.render(torch.from_numpy(trajectory.labels), preset.size).image
        folder = options.truth / name
        folder.mkdir(parents=True, exist_ok=True)
        for view, image in zip(trajectory.view_names, _to_uint8(views), strict=True):
            write_png(folder / f"{view}.png", image)


def _to_uint8(images: torch.Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return pixels


if __name__ == "__main__":
    main()
