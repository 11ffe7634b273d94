"""Batches for the denoising stages: a reference, views of that subject, another one from their cameras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dp3d_cli.training.data import ProceduralSubjects, Split, Subjects

TIMESTEPS = 1000
"""Of the noise schedule, as in Stable Diffusion."""


@dataclass(frozen=True)
class ViewBatch:
    """B subjects, V views of each. Pictures are float32 RGB in [-1, 1].

    Attributes:
        references: [B, 3, S, S].
        images: [B, V, 3, S, S] the truth.
        cameras: [B, V, 3, S, S] another subject from the same cameras; None where no camera is read.
        timesteps: [B] int64; the views of a subject are denoised together.
        seeds: [B] int64, of the noise.
        use_reference: [B] bool; False: this subject's reference is dropped.
        use_camera: [B] bool, likewise.
    """

    references: Tensor
    images: Tensor
    cameras: Tensor | None
    timesteps: Tensor
    seeds: Tensor
    use_reference: Tensor
    use_camera: Tensor


@dataclass(frozen=True)
class DropRates:
    """Shares of subjects whose conditions are dropped, so that guidance has something to compare with.

    Attributes:
        reference: the reference alone.
        camera: the camera condition alone.
        both: both of them.
    """

    reference: float = 0.0
    camera: float = 0.0
    both: float = 0.0


@dataclass(frozen=True)
class _Pictures:
    """uint8: reference [3, S, S], images [V, 3, S, S], cameras likewise or None."""

    reference: Tensor
    images: Tensor
    cameras: Tensor | None


class ViewBatches(Dataset[ViewBatch]):
    """Item `i` is step `i`'s batch, a function of (seed, i).

    Args:
        subjects: to learn from.
        heads: procedural heads from this split stand in the camera conditions; None: no camera conditions.
        batch: pictures to denoise per step, a multiple of `views`.
        views: of one subject.
        size: of the pictures [px].
        drop: which conditions are dropped.
        pool: views per subject that are made once, kept in memory, and drawn from; 0 makes new ones.
        seed: of everything random.
        steps: number of items.

    Raises:
        ValueError: `batch` is no multiple of `views`, or the pool is smaller than a group.
    """

    def __init__(
        self,
        subjects: Subjects,
        heads: Split | None,
        *,
        batch: int,
        views: int,
        size: int,
        drop: DropRates,
        pool: int,
        seed: int,
        steps: int,
    ) -> None:
        if batch < 1 or views < 1 or batch % views:
            raise ValueError(f"A batch of {batch} pictures is no whole number of groups of {views} views.")
        if pool and pool < views:
            raise ValueError(f"A pool of {pool} views per subject is too small for groups of {views}.")
        self.subjects, self.heads = subjects, None if heads is None else ProceduralSubjects(heads)
        self.groups, self.views, self.size = batch // views, views, size
        self.drop, self.pool, self.seed, self.steps = drop, pool, seed, steps
        self._kept: dict[int, _Pictures] = {}

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> ViewBatch:
        rng = np.random.default_rng((self.seed, step))
        pictures = [self._group(rng) for _ in range(self.groups)]
        draws = torch.from_numpy(rng.random(self.groups))
        drop = self.drop
        return ViewBatch(
            references=torch.stack([_to_signed(one.reference) for one in pictures]),
            images=torch.stack([_to_signed(one.images) for one in pictures]),
            cameras=torch.stack([_to_signed(one.cameras) for one in pictures if one.cameras is not None])
            if self.heads is not None
            else None,
            timesteps=torch.from_numpy(rng.integers(TIMESTEPS, size=self.groups)),
            seeds=torch.from_numpy(rng.integers(1 << 62, size=self.groups)),
            # One draw for both, so that the shares add up: [both | reference | nothing | camera].
            use_reference=draws >= drop.both + drop.reference,
            use_camera=(draws >= drop.both) & (draws < 1 - drop.camera),
        )

    def _group(self, rng: np.random.Generator) -> _Pictures:
        subject = int(rng.integers(len(self.subjects)))
        if not self.pool:
            return self._make(subject, self.views, rng)
        if subject not in self._kept:
            own = np.random.default_rng((self.seed, 1 << 32, subject))  # no step's numbers
            self._kept[subject] = self._make(subject, self.pool, own)
        kept = self._kept[subject]
        chosen = torch.from_numpy(rng.permutation(self.pool)[: self.views])
        cameras = None if kept.cameras is None else kept.cameras[chosen]
        return _Pictures(kept.reference, kept.images[chosen], cameras)

    def _make(self, subject: int, views: int, rng: np.random.Generator) -> _Pictures:
        seen = self.subjects.sample(subject, 1 + views, rng, self.size)
        cameras = None
        if self.heads is not None:
            other = int(rng.integers(len(self.heads) - 1))
            other += other >= subject  # somebody else, also where the subjects are these same heads
            cameras = _to_bytes(self.heads.views(other, seen.labels[1:], self.size).images)
        images = _to_bytes(seen.images)
        return _Pictures(images[0], images[1:], cameras)


def _to_bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def _to_signed(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1
