"""What a step of the nano networks is made of: subjects, views and references from shards of latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dp3d_cli.training.augment import Recolouring
from dp3d_cli.training.cache import shard_folders
from dp3d_cli.training.correspondence import right_answers
from dp3d_cli.training.latents import LatentShard, read_latents


@dataclass(frozen=True)
class NanoSettings:
    """What a step looks like.

    Attributes:
        groups: (subjects, views) of a step, in turn.
        mean_share: share of the steps that train the mean pass.
        drop_reference: share of steps without the reference.
        drop_camera: share of steps without the camera condition.
        drop_both: share of steps without either.
        drop_hint: share of the denoising steps whose hint is empty.
        drop_view_hint: share of the views whose hint is empty, in any step.
        references: at most so many references per subject, as far as a group leaves views for it.
        mean_weights: exponent of a latent channel's worth in pixels (`pixel_worth`) in the mean pass's loss;
            2 is the error in pixels.
        denoise_weights: the same in that of denoising.
        noisiest: share of the denoising steps without a hint whose timesteps are in the last tenth, where the
            references are all that shows what a subject looks like.
        look: weight of the error in where attention looks.
        take: weight of the error in what it takes from there.
        look_side: tokens along a side of the decoder's layers that it is taken from.
    """

    groups: tuple[tuple[int, int], ...] = ((2, 4), (1, 8))
    mean_share: float = 0.75
    drop_reference: float = 0.1
    drop_camera: float = 0.1
    drop_both: float = 0.05
    drop_hint: float = 0.1
    drop_view_hint: float = 0.0
    references: int = 1
    mean_weights: float = 2.0
    denoise_weights: float = 1.0
    noisiest: float = 0.0
    look: float = 0.0
    take: float = 0.0
    look_side: int = 16

    @property
    def teaches(self) -> bool:
        """Whether attention is taught: its answers take time."""
        return bool(self.look or self.take)


@dataclass(frozen=True)
class NanoBatch:
    """B subjects, V views of each, n references; latents are scaled float32.

    Attributes:
        references: [B * n, C, h, w].
        images: [B * V, C, h, w] ground truth.
        proxies: [B * V, C, h, w].
        maps: [B * V, 2, h, w] in [0, 1], confidence and coverage.
        has_hint: [B * V, 1, 1, 1], 1 or 0.
        cameras: [B * V, 3, S, S] in [-1, 1], another subject from the same cameras.
        answers: [B * V, T, n * T] where each token should look, from `correspondence.right_answers`; None
            where it is not taught.
        num_views: V.
        num_references: n.
    """

    references: Tensor
    images: Tensor
    proxies: Tensor
    maps: Tensor
    has_hint: Tensor
    cameras: Tensor
    answers: Tensor | None
    num_views: int
    num_references: int

    @property
    def subjects(self) -> int:
        """B."""
        return len(self.images) // self.num_views

    @property
    def hint(self) -> Tensor:
        """[B * V, C + 2, h, w]: proxy latents, confidence, coverage; zeros for views without."""
        return torch.cat([self.proxies, self.maps], 1) * self.has_hint


class NanoBatches(Dataset[NanoBatch]):
    """Item `i` is step `i`'s batch, a function of (seed, i) and of the shards on disk."""

    def __init__(self, shards: Path, latents: Path, settings: NanoSettings, seed: int, steps: int) -> None:
        self.settings, self.seed, self.steps = settings, seed, steps
        names = [folder.name for folder in shard_folders(latents)]
        self.latents: list[LatentShard] = [read_latents(latents / name) for name in names]
        self.cameras = [np.load(shards / name / "images.npy", mmap_mode="r") for name in names]
        self.subjects = [
            (number, subject)
            for number, shard in enumerate(self.latents)
            for subject in range(len(shard.references))
        ]

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> NanoBatch:
        rng = np.random.default_rng((self.seed, step))
        subjects, views = self.settings.groups[step % len(self.settings.groups)]
        available = self.latents[0].images.shape[1]
        count = min(int(rng.integers(self.settings.references)), available - views) + 1
        rows = [self._subject(views, count, rng) for _ in range(subjects)]
        columns = [torch.cat(column) for column in zip(*rows, strict=True)]
        references, images, proxies, maps, has_hint, cameras, answers = columns
        taught = answers if self.settings.teaches else None
        return NanoBatch(references, images, proxies, maps, has_hint, cameras, taught, views, count)

    def _subject(self, views: int, references: int, rng: np.random.Generator) -> tuple[Tensor, ...]:
        number, subject = self.subjects[int(rng.integers(len(self.subjects)))]
        shard = self.latents[number]
        subjects, available = shard.images.shape[:2]
        other = (subject + int(rng.integers(1, subjects))) % subjects
        order = rng.permutation(available)
        chosen, further = order[:views], order[views : views + references - 1]
        cameras = torch.from_numpy(self.cameras[number][other][chosen]).permute(0, 3, 1, 2).float() / 255
        cameras = Recolouring.draw(rng)(cameras) * 2 - 1
        if shard.mirrored[subject]:
            cameras = cameras.flip(-1)
        has_hint = rng.random((views, 1, 1, 1)) >= self.settings.drop_view_hint
        shown = np.concatenate([shard.references[subject][None], shard.images[subject][further]])
        return (
            torch.from_numpy(shown.astype(np.float32)),
            torch.from_numpy(shard.images[subject][chosen].astype(np.float32)),
            torch.from_numpy(shard.proxies[subject][chosen].astype(np.float32)),
            torch.from_numpy(shard.maps[subject][chosen].astype(np.float32)) / 255,
            torch.from_numpy(has_hint.astype(np.float32)),
            cameras,
            self._answers(shard, subject, chosen, further),
        )

    def _answers(
        self, shard: LatentShard, subject: int, chosen: NDArray[np.int64], further: NDArray[np.int64]
    ) -> Tensor:
        """[V, T, n * T] for views `chosen` and the portrait with the views `further` as references."""
        if not self.settings.teaches:
            return torch.zeros(len(chosen), 0, 0)
        seen = np.concatenate([[0], 1 + further])  # the portrait comes first
        points = torch.from_numpy(shard.points[subject].astype(np.float32))
        labels = torch.from_numpy(shard.labels[subject][seen])
        return right_answers(points[1 + chosen], points[seen], labels, self.settings.look_side)


def batch_of(shard: LatentShard, subject: int, cameras: NDArray[np.uint8]) -> NanoBatch:
    """All views of one subject by its portrait; `cameras` [V, S, S, 3]: another from the same cameras."""
    conditions = torch.from_numpy(np.array(cameras)).permute(0, 3, 1, 2).float() / 127.5 - 1
    views = len(conditions)
    return NanoBatch(
        references=torch.from_numpy(shard.references[subject][None].astype(np.float32)),
        images=torch.from_numpy(shard.images[subject].astype(np.float32)),
        proxies=torch.from_numpy(shard.proxies[subject].astype(np.float32)),
        maps=torch.from_numpy(shard.maps[subject].astype(np.float32)) / 255,
        has_hint=torch.ones(views, 1, 1, 1),
        cameras=conditions.flip(-1) if shard.mirrored[subject] else conditions,
        answers=None,
        num_views=views,
        num_references=1,
    )
