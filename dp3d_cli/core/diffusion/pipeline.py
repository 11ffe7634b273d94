"""`DiffPortraitPipeline`: references and camera conditions in, views out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dp3d_cli.core.devices import torch_device
from dp3d_cli.core.diffusion.codec import decode_latents, downsampling, encode_images, in_slices
from dp3d_cli.core.diffusion.configs import Sizes, build_networks
from dp3d_cli.core.diffusion.control import ViewControlNet
from dp3d_cli.core.diffusion.denoising import Conditions, Denoiser, Guidance
from dp3d_cli.core.diffusion.fusion import Fusion, with_detail
from dp3d_cli.core.diffusion.grouping import ViewGroup, view_groups
from dp3d_cli.core.diffusion.noise import draw_views, three_d_aware_noise, view_generator
from dp3d_cli.core.diffusion.prompt import EmptyPrompt
from dp3d_cli.core.diffusion.reference_unet import ReferenceUNet
from dp3d_cli.core.diffusion.sampler import (
    NO_QUIRKS,
    PUBLISHED,
    PredictionType,
    Quirks,
    Scheduler,
    clean_latents,
    ddim_scheduler,
    plan_timesteps,
    scheduler_named,
)
from dp3d_cli.core.diffusion.view_unet import MidViewAttention, ViewUNet
from dp3d_cli.core.presets import ExecutionSettings, Preset, load_preset
from dp3d_cli.core.weights.registry import resolve

Images = Tensor | np.ndarray | Image.Image | Sequence[Image.Image]
"""A tensor [N, 3, H, W] in [-1, 1], uint8 RGB arrays [N, H, W, 3], or PIL images. A single one may lack N."""

HINT_SLICE = 8
"""Camera conditions encoded at once: the first layers of their encoder work at full image resolution."""

FUSION_SLICE = 4
"""Views corrected at once."""

OutputType = Literal["pil", "np", "pt"]

_WITHOUT_PRESET = Preset(name="none", weights="none", size=512)


@dataclass(frozen=True)
class DiffPortraitOutput:
    """What the pipeline returns.

    Attributes:
        images: "pt": [V, 3, H, W] float32 in [-1, 1]; "np": uint8 [V, H, W, 3]; "pil": a list of V images.
        latents: [V, C, h, w] float32, before decoding.
    """

    images: Tensor | np.ndarray | list[Image.Image]
    latents: Tensor


def to_image_tensor(images: Images, device: torch.device) -> Tensor:
    """Images of any accepted kind as float32 [N, 3, H, W] in [-1, 1].

    Raises:
        ValueError: wrong shape or kind, or images of different sizes.
    """
    if isinstance(images, Tensor):
        tensor = images if images.ndim == 4 else images[None]
        if not tensor.is_floating_point():
            raise ValueError(
                "image tensors are floating point in [-1, 1]; pass 8-bit images as arrays [N, H, W, 3]"
            )
        tensor = tensor.to(device, torch.float32)
    else:
        if isinstance(images, Image.Image):
            images = [images]
        if not isinstance(images, np.ndarray):
            if len({image.size for image in images}) != 1:
                raise ValueError("the images of one call have one size")
            images = np.stack([np.asarray(image.convert("RGB")) for image in images])
        array = images if images.ndim == 4 else images[None]
        if array.dtype != np.uint8:
            raise ValueError(f"image arrays are uint8, not {array.dtype}")
        tensor = (
            torch.from_numpy(np.ascontiguousarray(array)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        )
    if tensor.ndim != 4 or tensor.shape[1] != 3 or tensor.shape[0] == 0:
        raise ValueError(f"expected RGB images [N, 3, H, W], got {tuple(tensor.shape)}")
    return tensor


def to_uint8(images: Tensor, *, truncate: bool = False) -> np.ndarray:
    """Images [N, 3, H, W] in [-1, 1] as uint8 [N, H, W, 3], rounded, or cut off as the released code does."""
    levels = (images.float().clamp(-1, 1) + 1) * 127.5
    levels = levels if truncate else levels.round()
    array: np.ndarray = levels.permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
    return array


class DiffPortraitPipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers carries no types
    """Novel views of a person from one or more portraits.

    `from_pretrained` and `save_pretrained` are diffusers' own.

    Args:
        unet: backbone.
        reference_unet: appearance reference network.
        controlnet: view control network.
        vae: image codec.
        empty_prompt: stored empty-prompt embedding.
        scheduler: DDIM, DPM-Solver++ or UniPC; it also fixes the prediction type.
        mid_view_attention: calls in which the backbone's middle view attention runs; the published weights
            expect "unconditional".
        fusion: corrects views that have got the proxies' detail; the published weights have none.
    """

    _optional_components = ["fusion"]  # noqa: RUF012  # diffusers adds lists to it

    def __init__(
        self,
        unet: ViewUNet,
        reference_unet: ReferenceUNet,
        controlnet: ViewControlNet,
        vae: AutoencoderKL,
        empty_prompt: EmptyPrompt,
        scheduler: Scheduler,
        mid_view_attention: str = "unconditional",  # diffusers reads this annotation and knows no Literal
        fusion: Fusion | None = None,
    ) -> None:
        super().__init__()
        if mid_view_attention not in ("unconditional", "always", "never"):
            raise ValueError(
                f"mid_view_attention is unconditional, always or never, not {mid_view_attention!r}"
            )
        self.register_modules(
            unet=unet,
            reference_unet=reference_unet,
            controlnet=controlnet,
            vae=vae,
            empty_prompt=empty_prompt,
            scheduler=scheduler,
            fusion=fusion,
        )
        self.register_to_config(mid_view_attention=mid_view_attention)
        self.preset = _WITHOUT_PRESET

    @classmethod
    def from_sizes(
        cls,
        sizes: Sizes,
        *,
        prediction_type: PredictionType = "epsilon",
        spacing: str = "leading",
        mid_view_attention: MidViewAttention = "unconditional",
    ) -> DiffPortraitPipeline:
        """A pipeline of fresh networks, to be trained or filled."""
        networks = build_networks(sizes)
        return cls(
            unet=networks.unet.eval(),
            reference_unet=networks.reference_unet.eval(),
            controlnet=networks.controlnet.eval(),
            vae=networks.vae.eval(),
            empty_prompt=networks.empty_prompt.eval(),
            scheduler=ddim_scheduler(prediction_type, spacing=spacing),
            mid_view_attention=mid_view_attention,
        )

    @classmethod
    def from_preset(cls, preset: str | Path | Preset, *, device: str = "auto") -> DiffPortraitPipeline:
        """The pipeline of a preset: its weights, number format, scheduler and execution, on a device.

        A call then takes what it is not told from the preset, so that
        `from_preset("nano")(references, camera_conditions, proxies)` makes the views of `dp3d synthesize`.

        Args:
            preset: name of a shipped preset, path of a preset file, or a preset.
            device: torch device; "auto" takes CUDA where there is one.

        Raises:
            UsageError: no such preset or device.
            WeightsError: the weights are not on this machine.
        """
        if not isinstance(preset, Preset):
            preset = load_preset(preset)
        pipeline: DiffPortraitPipeline = cls.from_pretrained(
            resolve(preset.weights),
            dtype=getattr(torch, preset.dtype),
            local_files_only=True,
            low_cpu_mem_usage=False,
        )
        pipeline.scheduler = scheduler_named(preset.sampler.scheduler, pipeline.scheduler)
        pipeline.to(torch_device(device))
        pipeline.preset = preset
        networks = (pipeline.unet, pipeline.reference_unet, pipeline.controlnet)
        if preset.execution.channels_last:
            for network in (*networks, pipeline.vae, pipeline.fusion):
                if network is not None:
                    network.to(memory_format=torch.channels_last)
        if preset.execution.compile:
            for network in networks:
                network.compile()
        return pipeline

    def denoiser(self, execution: ExecutionSettings | None = None) -> Denoiser:
        """The three networks as the denoising loop uses them; `execution`: None for the preset's."""
        execution = execution or self.preset.execution
        return Denoiser(
            self.unet,
            self.reference_unet,
            self.controlnet,
            self.config.mid_view_attention,
            execution.max_views_per_call,
            execution.share_batch,
        )

    def conditions(
        self,
        reference_latents: Tensor,
        camera_conditions: Tensor,
        explicit_hint: Tensor | None = None,
    ) -> Conditions:
        """Gather what stays the same over all timesteps; camera conditions [V, 3, H, W] in [-1, 1]."""
        cameras = camera_conditions.to(self.controlnet.dtype)
        return Conditions(
            reference_latents=reference_latents,
            hint_embedding=in_slices(
                lambda part: self.controlnet.embed_hint(cameras[part]), cameras.shape[0], HINT_SLICE
            ),
            prompt=self.empty_prompt().to(self.unet.dtype),
            explicit_hint=explicit_hint,
        )

    @torch.no_grad()
    def __call__(
        self,
        references: Images,
        camera_conditions: Images,
        proxies: Images | None = None,
        *,
        confidences: Tensor | None = None,
        coverages: Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        eta: float | None = None,
        noise_strength: float | None = None,
        refine_proxy: bool | None = None,
        proxy_detail: float | None = None,
        fusion: float | None = None,
        seed: int | None = None,
        subject_id: str = "",
        view_names: Sequence[str] | None = None,
        generators: Sequence[torch.Generator] | None = None,
        view_group: ViewGroup | None = None,
        closed: bool = False,
        quirks: Quirks | None = None,
        max_views_per_call: int | None = None,
        output_type: OutputType = "pil",
        callback: Callable[[int, int, Tensor], None] | None = None,
    ) -> DiffPortraitOutput:
        """Synthesize one view per camera condition.

        None in any of the sampler's arguments means the value of the pipeline's preset: see `from_preset`.
        Without one it is that of `core.presets.SamplerSettings`: 50 steps from pure noise, guidance 3, eta 0,
        groups of 8 neighbouring views.

        Args:
            references: 1 to n aligned portraits of the subject.
            camera_conditions: V images of another subject, each seen from a target camera.
            proxies: V coarse renderings of the subject from the same cameras; None: start from pure noise.
            confidences: [V, 1, H, W] in [0, 1], how far each proxy pixel can be trusted; None: fully.
            coverages: [V, 1, H, W] in [0, 1], where the proxy shows the subject; None: everywhere.
            num_inference_steps: steps for the whole way from pure noise.
            guidance_scale: 1 skips the unconditional call.
            guidance_interval: part of the timesteps (0 clean, 1 pure noise) that is guided.
            eta: share of fresh noise in DDIM steps.
            noise_strength: in [0, 1]; below 1 sampling starts later and keeps more of the proxy; 0 returns
                it.
            refine_proxy: first replace the proxy by the network's estimate of the clean views at the noisiest
                timestep.
            proxy_detail: in [0, 1]: share of the proxy's fine detail that replaces the networks' where the
                proxy is trusted. See `core.diffusion.fusion`.
            fusion: in [0, 1]: share of what the fusion network then corrects; counts times `proxy_detail`.
            seed: base seed; each view derives its own from seed, `subject_id` and its name.
            subject_id: id of the portrait.
            view_names: V names; default "000", "001", ....
            generators: V CPU generators instead of `seed`.
            view_group: how views are denoised together.
            closed: the trajectory is a ring.
            quirks: departures of the released sampler to follow.
            max_views_per_call: views in one forward call.
            output_type: see `DiffPortraitOutput`.
            callback: called after each step with its number, the timestep and the latents.

        Returns:
            Views and latents.

        Raises:
            ValueError: counts, shapes or ranges do not fit together.
        """
        sampler = self.preset.sampler
        num_inference_steps = _given(num_inference_steps, sampler.num_inference_steps)
        guidance_scale = _given(guidance_scale, sampler.guidance_scale)
        guidance_interval = _given(guidance_interval, sampler.guidance_interval)
        eta = _given(eta, sampler.eta)
        noise_strength = _given(noise_strength, sampler.noise_strength)
        refine_proxy = _given(refine_proxy, sampler.refine_proxy)
        proxy_detail = _given(proxy_detail, sampler.proxy_detail)
        fusion = _given(fusion, sampler.fusion)
        seed = _given(seed, self.preset.seed)
        group = sampler.view_group
        view_group = _given(view_group, ViewGroup(group.size, group.kind, group.overlap))
        quirks = _given(quirks, PUBLISHED if sampler.published_quirks else NO_QUIRKS)
        execution = self.preset.execution
        if max_views_per_call is not None:
            execution = execution.model_copy(update={"max_views_per_call": max_views_per_call})

        device = self.unet.device
        cameras = to_image_tensor(camera_conditions, device)
        reference_images = to_image_tensor(references, device)
        proxy_images = None if proxies is None else to_image_tensor(proxies, device)
        views = cameras.shape[0]
        self._check_sizes(reference_images, cameras, proxy_images)
        if proxy_images is None and (noise_strength < 1 or refine_proxy or proxy_detail):
            raise ValueError(
                "noise_strength < 1, refine_proxy and proxy_detail start from proxies: none were given"
            )
        names = [f"{view:03d}" for view in range(views)] if view_names is None else list(view_names)
        if generators is None:
            generators = [view_generator(seed, subject_id, name) for name in names]
        if len(generators) != views:
            raise ValueError(f"{len(generators)} names or generators for {views} views")
        shape = (
            self.unet.config.in_channels,
            *(side // downsampling(self.vae) for side in cameras.shape[-2:]),
        )
        groups = view_groups(views, view_group, closed=closed)

        reference_noise = proxy_noise = None
        if quirks.sample_posterior:
            of_references = [
                view_generator(seed, subject_id, f"reference {i}") for i in range(len(reference_images))
            ]
            reference_noise = draw_views(of_references, shape, device)
            proxy_noise = None if proxy_images is None else draw_views(generators, shape, device)
        encoded_proxies = None
        if proxy_images is not None:
            encoded_proxies = encode_images(self.vae, proxy_images, noise=proxy_noise)
        conditions = self.conditions(
            encode_images(self.vae, reference_images, noise=reference_noise),
            cameras,
            self._explicit_hint(encoded_proxies, confidences, coverages),
        )
        denoiser = self.denoiser(execution)
        latents = draw_views(generators, shape, device)
        timesteps = plan_timesteps(
            self.scheduler, num_inference_steps, noise_strength, extra_steps=quirks.extra_steps
        )
        proxy_latents = encoded_proxies
        if refine_proxy and proxy_latents is not None:
            proxy_latents = self._refine(proxy_latents, denoiser, conditions, groups)
        if proxy_latents is not None:
            latents = self._start(proxy_latents, latents, timesteps, noise_strength, quirks)
        latents = denoiser.denoise(
            latents,
            conditions,
            self.scheduler,
            timesteps,
            groups,
            guidance=Guidance(guidance_scale, guidance_interval),
            eta=eta,
            last_step=quirks.last_step,
            draw_noise=lambda: draw_views(generators, shape, device),
            callback=callback,
        )
        images = decode_latents(self.vae, latents)
        if proxy_images is not None and encoded_proxies is not None and proxy_detail:
            decoded = decode_latents(self.vae, encoded_proxies)
            trust, cover = (
                torch.ones_like(images[:, :1]) if each is None else each.to(images)
                for each in (confidences, coverages)
            )
            detailed = with_detail(images, proxy_images, decoded, proxy_detail * trust)
            if self.fusion is not None and fusion:
                fused = self._fuse(self.fusion, detailed, images, proxy_images, trust, cover)
                detailed = torch.lerp(detailed, fused, proxy_detail * fusion)
            images = detailed
        return DiffPortraitOutput(_as_output(images.clamp(-1, 1), output_type, quirks.truncate), latents)

    def _check_sizes(self, references: Tensor, cameras: Tensor, proxies: Tensor | None) -> None:
        multiple = downsampling(self.vae) * 2 ** (len(self.unet.config.block_out_channels) - 1)
        height, width = cameras.shape[-2:]
        if height % multiple or width % multiple:
            raise ValueError(f"image sides must be multiples of {multiple} pixels, not {height} x {width}")
        if references.shape[-2:] != cameras.shape[-2:]:
            raise ValueError(
                f"references are {tuple(references.shape[-2:])} pixels, camera conditions {(height, width)}: "
                "resize them to one size"
            )
        if proxies is not None and proxies.shape != cameras.shape:
            raise ValueError(
                f"proxies {tuple(proxies.shape)} do not match camera conditions {tuple(cameras.shape)}"
            )

    def _explicit_hint(
        self, proxy_latents: Tensor | None, confidences: Tensor | None, coverages: Tensor | None
    ) -> Tensor | None:
        """Proxy latents, confidence and coverage at latent resolution, if the backbone takes them."""
        if not self.unet.config.explicit_hint_channels:
            return None
        if proxy_latents is None:
            raise ValueError("this network is guided by proxies: pass `proxies`")
        return explicit_hint(proxy_latents, confidences, coverages).to(self.unet.dtype)

    def _refine(
        self,
        proxy_latents: Tensor,
        denoiser: Denoiser,
        conditions: Conditions,
        groups: Sequence[tuple[int, ...]],
    ) -> Tensor:
        """The network's estimate of the clean views at the noisiest timestep: their conditional mean.

        Nearly all of x_T is noise that says nothing about the views, so the network is trained to do this
        without: x_T = sqrt(abar_T) E(proxy). An estimate from noise would carry some of it into the views.
        """
        last = int(self.scheduler.config.num_train_timesteps) - 1
        sample = self.scheduler.alphas_cumprod[last].to(proxy_latents).sqrt() * proxy_latents
        prediction = denoiser.predict_groups(sample, last, conditions, groups)
        return clean_latents(self.scheduler, prediction, last, sample)

    @staticmethod
    def _fuse(fusion: Fusion, *maps: Tensor) -> Tensor:
        """The network's answer in float32, a few views at a time; `maps` as of `Fusion.forward`."""

        def corrected(part: slice) -> Tensor:
            out: Tensor = fusion(*(each[part].to(fusion.dtype) for each in maps))
            return out.float()

        return in_slices(corrected, len(maps[0]), FUSION_SLICE)

    def _start(
        self,
        proxy_latents: Tensor,
        noise: Tensor,
        timesteps: Sequence[int],
        noise_strength: float,
        quirks: Quirks,
    ) -> Tensor:
        if not timesteps:
            return proxy_latents
        start = timesteps[0]
        if noise_strength == 1 and quirks.start_noise_timestep is not None:
            start = quirks.start_noise_timestep
        return three_d_aware_noise(proxy_latents, noise, self.scheduler.alphas_cumprod[start])


_Value = TypeVar("_Value")


def _given(value: _Value | None, otherwise: _Value) -> _Value:
    return otherwise if value is None else value


def explicit_hint(proxy_latents: Tensor, confidences: Tensor | None, coverages: Tensor | None) -> Tensor:
    """The explicit hint: proxy latents, then confidence and coverage averaged over each latent's area.

    Args:
        proxy_latents: [V, C, h, w] scaled latents.
        confidences: [V, 1, H, W] in [0, 1]; None: 1.
        coverages: [V, 1, H, W] in [0, 1]; None: 1.

    Returns:
        [V, C + 2, h, w].
    """
    height, width = proxy_latents.shape[-2:]
    ones = torch.ones_like(proxy_latents[:, :1])
    maps = [
        ones if each is None else functional.adaptive_avg_pool2d(each.to(ones), (height, width))
        for each in (confidences, coverages)
    ]
    return torch.cat([proxy_latents, *maps], dim=1)


def _as_output(
    images: Tensor, output_type: OutputType, truncate: bool
) -> Tensor | np.ndarray | list[Image.Image]:
    if output_type == "pt":
        return images
    array = to_uint8(images, truncate=truncate)
    if output_type == "np":
        return array
    return [Image.fromarray(view) for view in array]
