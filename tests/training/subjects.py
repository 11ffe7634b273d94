"""Subjects that cost nothing: a shaded ellipsoid with two dots for eyes, drawn by projection."""

import numpy as np
import torch
from torch import Tensor

from dp3d_cli.training.data import SubjectViews, reference_label, target_labels

FACE_POINTS = torch.tensor(
    [[-0.06, 0.05, 0.33], [0.06, 0.05, 0.33], [0.0, 0.0, 0.38], [-0.04, -0.07, 0.33], [0.04, -0.07, 0.33]]
)


class Ellipsoids:
    """See `dp3d_cli.training.data.Subjects`; subject `index` decides the colour."""

    def __len__(self) -> int:
        return 100

    def views(self, index: int, labels: Tensor, size: int) -> SubjectViews:
        pixels = (torch.arange(size) + 0.5) / size - 0.5
        y, x = torch.meshgrid(pixels, pixels, indexing="ij")
        mask = torch.sigmoid((1 - (x / 0.28) ** 2 - (y / 0.38) ** 2) * 20)
        colour = torch.tensor([0.2 + 0.1 * (index % 7), 0.5, 0.9 - 0.1 * (index % 5)]).view(1, 3, 1, 1)
        images = []
        for label in labels:
            cam2world = label[:16].view(4, 4)
            shade = 0.6 + 0.8 * (x * cam2world[0, 2] + y * cam2world[1, 2]) + 0.3 * x
            images.append((colour * shade * mask + 0.3 * (1 - mask)).clamp(0, 1)[0])
        count = len(labels)
        return SubjectViews(
            torch.stack(images),
            labels,
            mask.expand(count, 1, size, size),
            torch.full((count, 1, size, size), 2.5),
            FACE_POINTS,
        )

    def sample(self, index: int, views: int, rng: np.random.Generator, size: int) -> SubjectViews:
        labels = torch.cat([reference_label(rng), target_labels(views, rng)])[:views]
        return self.views(index, labels, size)
