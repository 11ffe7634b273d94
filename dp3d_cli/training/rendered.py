"""Procedural heads rendered once into a folder, for stages that see each of them many times.

    python -m dp3d_cli.training.rendered --split train --heads 900 --views 6 --size 256 FOLDER

The folder has the layout of `dp3d_cli.training.folders`: a subject per head, named by its seed, with
pictures, masks and cameras.json; `splits.json` puts all of them into the split whose seeds they have. The
first view is near frontal. A head is a function of its seed alone, so heads may be added later.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from dp3d_cli.core.cameras.camera import Camera, Trajectory
from dp3d_cli.core.cameras.files import write_cameras
from dp3d_cli.core.images import write_png
from dp3d_cli.core.proxies.template import to_uint8
from dp3d_cli.training.data import ProceduralSubjects, Split
from dp3d_cli.training.folders import SPLIT_FILE

logger = logging.getLogger(__name__)


def write_head(subjects: ProceduralSubjects, index: int, views: int, size: int, folder: Path) -> Path:
    """Render one head into `folder/<seed>`, which appears when it is whole; kept if it exists."""
    seed = subjects.seeds[index]
    target = folder / str(seed)
    if target.is_dir():
        return target
    shown = subjects.sample(index, views, np.random.default_rng((0, seed)), size)
    if shown.mask is None:
        raise ValueError("Procedural heads have masks.")
    draft = folder / f".{seed}.{secrets.token_hex(4)}"
    try:
        names = [f"images/{view:03d}.png" for view in range(views)]
        for part in ("images", "masks"):
            (draft / part).mkdir(parents=True)
        for name, picture, mask in zip(names, to_uint8(shown.images), to_uint8(shown.mask), strict=True):
            write_png(draft / name, picture)
            write_png(draft / "masks" / Path(name).name, np.repeat(mask, 3, axis=2))
        cameras = tuple(Camera.from_label(label) for label in shown.labels.numpy())
        write_cameras(draft / "cameras.json", Trajectory("heads", cameras), names)
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def write_splits(folder: Path, split: Split) -> None:
    """Put every head in the folder into one split."""
    people = sorted(path.name for path in folder.iterdir() if path.name.isdecimal())
    text = json.dumps({split: people}, indent=1) + "\n"
    (folder / SPLIT_FILE).write_text(text, encoding="utf-8")


def main() -> None:
    """Render heads; those that exist are kept."""
    parser = argparse.ArgumentParser(description="Render procedural heads into a folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=get_args(Split), required=True)
    parser.add_argument("--first", type=int, default=0, help="place of the first head in the split")
    parser.add_argument("--heads", type=int, required=True)
    parser.add_argument("--views", type=int, default=6)
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    subjects = ProceduralSubjects(arguments.split)
    for index in range(arguments.first, arguments.first + arguments.heads):
        logger.info("%s", write_head(subjects, index, arguments.views, arguments.size, arguments.folder))
    write_splits(arguments.folder, arguments.split)


if __name__ == "__main__":
    main()
