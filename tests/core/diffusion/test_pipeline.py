from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler
from PIL import Image
from torch import Tensor

from dp3d_cli.core.diffusion.codec import decode_latents, encode_images, in_slices
from dp3d_cli.core.diffusion.fusion import Fusion, with_detail
from dp3d_cli.core.diffusion.grouping import ViewGroup, view_groups
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline, to_image_tensor, to_uint8
from dp3d_cli.core.diffusion.sampler import NO_QUIRKS, PUBLISHED, Quirks, ddim_scheduler, scheduler_named
from dp3d_cli.core.diffusion.view_attention import ViewAttention
from dp3d_cli.core.errors import WeightsError
from dp3d_cli.core.presets import ExecutionSettings, load_preset
from dp3d_cli.core.proxies.background import blur
from dp3d_cli.core.weights.registry import resolve
from tests.core.diffusion.tiny import random_images, shake, tiny_sizes

REFERENCE = random_images(1, seed=9)


def views_of(pipeline: DiffPortraitPipeline, indices: list[int], **options: Any) -> Tensor:
    """Latents of some of 16 views, named as they would be among all of them."""
    return pipeline(
        REFERENCE,
        random_images(16, seed=1)[indices],
        random_images(16, seed=2)[indices],
        view_names=[f"{index:03d}" for index in indices],
        **{"num_inference_steps": 2, "eta": 0.5, "output_type": "pt", **options},
    ).latents


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-3)


def test_sixteen_views_in_lockstep_are_two_separate_groups(pipeline: DiffPortraitPipeline) -> None:
    together = views_of(pipeline, list(range(16)))
    apart = [views_of(pipeline, list(range(start, start + 8))) for start in (0, 8)]
    assert_same(together, torch.cat(apart))


@pytest.mark.parametrize("kind", ["contiguous", "strided"])
@pytest.mark.parametrize("count", [1, 8, 9])
def test_groups_do_not_see_one_another(pipeline: DiffPortraitPipeline, kind: Any, count: int) -> None:
    group = ViewGroup(8, kind)
    together = views_of(pipeline, list(range(count)), view_group=group)
    assert together.shape[0] == count
    for part in view_groups(count, group):
        assert_same(together[list(part)], views_of(pipeline, list(part)))


def test_overlapping_groups_are_averaged(pipeline: DiffPortraitPipeline) -> None:
    cameras, latents = random_images(3), torch.randn(3, 4, 4, 4)
    with torch.no_grad():
        conditions = pipeline.conditions(torch.randn(1, 4, 4, 4), cameras)
        denoiser = pipeline.denoiser()
        bank = denoiser.reference_features(conditions, 500)
        first = denoiser.predict(latents[:2], 500, conditions, [0, 1], 2, bank)
        second = denoiser.predict(latents[1:], 500, conditions, [1, 2], 2, bank)
        found = denoiser.predict_groups(latents, 500, conditions, [(0, 1), (1, 2)])
    assert_same(found, torch.stack([first[0], (first[1] + second[0]) / 2, second[1]]))


@pytest.mark.parametrize("count", [1, 8, 9, 16])
@pytest.mark.parametrize("closed", [False, True])
def test_overlap_works_for_any_number_of_views(
    pipeline: DiffPortraitPipeline, count: int, closed: bool
) -> None:
    latents = views_of(pipeline, list(range(count)), view_group=ViewGroup(8, "overlap", 4), closed=closed)
    assert latents.shape[0] == count
    assert latents.isfinite().all()


def test_the_batch_size_changes_nothing(pipeline: DiffPortraitPipeline) -> None:
    views = list(range(16))
    small = views_of(pipeline, views, view_group=ViewGroup(4), max_views_per_call=4)
    assert_same(small, views_of(pipeline, views, view_group=ViewGroup(4), max_views_per_call=16))


def test_a_run_repeats_itself_bit_for_bit(pipeline: DiffPortraitPipeline) -> None:
    assert torch.equal(views_of(pipeline, [0, 1, 2]), views_of(pipeline, [0, 1, 2]))


def test_seed_and_subject_change_the_noise(pipeline: DiffPortraitPipeline) -> None:
    first = views_of(pipeline, [0])
    assert not torch.allclose(first, views_of(pipeline, [0], seed=1))
    assert not torch.allclose(first, views_of(pipeline, [0], subject_id="anna"))


def test_the_order_of_views_does_not_matter_to_views_alone(pipeline: DiffPortraitPipeline) -> None:
    alone = ViewGroup(1)
    forward = views_of(pipeline, [0, 1, 2], view_group=alone)
    assert_same(views_of(pipeline, [2, 1, 0], view_group=alone).flip(0), forward)


def count_calls(monkeypatch: pytest.MonkeyPatch, module: torch.nn.Module) -> list[int]:
    batches: list[int] = []
    forward: Callable[..., Any] = module.forward

    def counted(sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        batches.append(sample.shape[0])
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(module, "forward", counted)
    return batches


def test_no_work_is_done_twice(pipeline: DiffPortraitPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = count_calls(monkeypatch, pipeline.reference_unet)
    control = count_calls(monkeypatch, pipeline.controlnet)
    unet = count_calls(monkeypatch, pipeline.unet)
    hints = count_calls(monkeypatch, pipeline.controlnet.controlnet_cond_embedding)
    views_of(pipeline, list(range(16)), num_inference_steps=3, max_views_per_call=8)
    assert reference == [1] * 3  # once per timestep, whatever the number of views
    assert control == [8] * 6  # two groups, conditional branch only
    assert unet == [8] * 6  # both branches in one call
    assert hints == [8, 8]  # each view's camera once per portrait, in slices


@pytest.mark.parametrize("where", ["unconditional", "always", "never"])
@pytest.mark.parametrize("hint_channels", [0, 6])
def test_both_branches_in_one_batch_are_the_two_calls(where: Any, hint_channels: int) -> None:
    sizes = tiny_sizes(explicit_hint_channels=hint_channels)
    pipeline = shake(DiffPortraitPipeline.from_sizes(sizes, mid_view_attention=where))
    apart = ExecutionSettings(share_batch=False)
    with torch.no_grad():
        hint = torch.randn(4, hint_channels, 4, 4) if hint_channels else None
        conditions = pipeline.conditions(torch.randn(2, 4, 4, 4), random_images(4), hint)
        arguments = (torch.randn(4, 4, 4, 4), 500, conditions, [(0, 1), (2, 3)], 3.0)
        expected = pipeline.denoiser(apart).predict_groups(*arguments)
        found = pipeline.denoiser().predict_groups(*arguments)
        conditional = pipeline.denoiser().predict_groups(*arguments[:-1])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(conditional, expected, atol=1e-2)


def test_what_both_branches_share_runs_once(
    pipeline: DiffPortraitPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = count_calls(monkeypatch, pipeline.unet.down_blocks[0].resnets[0])
    query = count_calls(monkeypatch, pipeline.unet.reading_layers()[0].transformer_blocks[0].attn1.to_q)
    last = count_calls(monkeypatch, pipeline.unet.up_blocks[-1].resnets[-1])
    views_of(pipeline, [0, 1], num_inference_steps=1)
    assert (first, query, last) == ([2], [2], [4])


def test_both_branches_need_something_that_tells_them_apart(pipeline: DiffPortraitPipeline) -> None:
    with pytest.raises(ValueError, match="both predictions need references"):
        pipeline.unet(
            torch.randn(2, 4, 4, 4), 500, pipeline.empty_prompt(), num_views=2, with_unconditional=True
        )


def test_guidance_of_one_skips_the_unconditional_call(
    pipeline: DiffPortraitPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = count_calls(monkeypatch, pipeline.unet)
    views_of(pipeline, [0, 1], num_inference_steps=3, guidance_scale=1.0)
    assert len(unet) == 3


def test_guidance_acts_in_its_interval_only(
    pipeline: DiffPortraitPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = count_calls(monkeypatch, pipeline.unet)
    last = count_calls(monkeypatch, pipeline.unet.up_blocks[-1].resnets[-1])
    views_of(pipeline, [0, 1], num_inference_steps=4, guidance_interval=(0.3, 0.6))
    assert unet == [2] * 4
    assert last == [2, 4, 2, 2]  # of the timesteps 751, 501, 251 and 1, one lies inside


def test_several_references_differ_from_one(pipeline: DiffPortraitPipeline) -> None:
    cameras = random_images(2)
    results = [
        pipeline(random_images(count, seed=9), cameras, num_inference_steps=2, output_type="pt").latents
        for count in (1, 2, 3)
    ]
    assert not torch.allclose(results[0], results[1])
    assert not torch.allclose(results[1], results[2])


def test_the_same_reference_twice_weighs_more_than_once_but_order_does_not_matter(
    pipeline: DiffPortraitPipeline,
) -> None:
    both = random_images(2, seed=9)
    run = [
        pipeline(pair, random_images(2), num_inference_steps=2, output_type="pt").latents
        for pair in (both, both.flip(0))
    ]
    assert_same(run[0], run[1])


def test_noise_strength_zero_returns_the_proxy(pipeline: DiffPortraitPipeline) -> None:
    proxies = random_images(2, seed=2)
    latents = pipeline(REFERENCE, random_images(2), proxies, noise_strength=0.0, output_type="pt").latents
    with torch.no_grad():
        assert torch.equal(latents, encode_images(pipeline.vae, proxies))


def test_refining_with_a_fresh_network_returns_nearly_the_proxy() -> None:
    sizes = tiny_sizes(explicit_hint_channels=6)
    fresh = DiffPortraitPipeline.from_sizes(
        sizes, prediction_type="v_prediction", mid_view_attention="always"
    )
    proxies = random_images(2, seed=2)
    out = fresh(
        REFERENCE, random_images(2), proxies, refine_proxy=True, noise_strength=0.0, output_type="pt"
    ).latents
    with torch.no_grad():
        expected = encode_images(fresh.vae, proxies)
    assert (out - expected).square().mean().sqrt() < 0.1  # what is left is sqrt(abar_T) = 0.068 of the noise


def test_confidence_and_coverage_reach_the_network(hint_pipeline: DiffPortraitPipeline) -> None:
    def run(**maps: Tensor) -> Tensor:
        return views_of(hint_pipeline, [0, 1], guidance_scale=1.0, **maps)

    ones = torch.ones(2, 1, 16, 16)
    plain = run()
    assert_same(plain, run(confidences=ones, coverages=ones))
    assert not torch.allclose(plain, run(confidences=0 * ones))
    assert not torch.allclose(plain, run(coverages=0 * ones))


def test_proxy_detail_is_the_proxys_where_it_is_trusted(pipeline: DiffPortraitPipeline) -> None:
    proxies, trust = 0.2 * random_images(2, seed=2, size=128), torch.zeros(2, 1, 128, 128)
    trust[:, :, :64] = 1

    def run(**changes: Any) -> Tensor:
        options: dict[str, Any] = {"noise_strength": 0.0, "output_type": "pt", "confidences": trust}
        references, cameras = (random_images(count, seed=count, size=128) for count in (1, 2))
        images = pipeline(references, cameras, proxies, **options | changes).images
        assert isinstance(images, Tensor)
        return images

    plain, detailed = run(), run(proxy_detail=1.0)
    assert_same(plain[:, :, 64:], detailed[:, :, 64:])
    fine = {name: images - blur(images, 1.0) for name, images in
            {"proxy": proxies, "plain": plain, "detailed": detailed}.items()}  # fmt: skip
    seen = (..., slice(16, 48), slice(16, 112))  # away from the edges
    torch.testing.assert_close(fine["detailed"][seen], fine["proxy"][seen], atol=0.12, rtol=0)
    assert (fine["plain"] - fine["proxy"])[seen].abs().max() > 0.2
    # Of shapes and colours, what the networks changed stays.
    decoded = decode_latents(pipeline.vae, encode_images(pipeline.vae, proxies))
    changed = blur(plain - decoded, 4.0)
    torch.testing.assert_close(blur(detailed - proxies, 4.0)[seen], changed[seen], atol=0.03, rtol=0)
    assert_same(run(proxy_detail=0.5), (plain + detailed) / 2)
    # Networks that change nothing give the proxies, whatever the codec loses.
    assert_same(with_detail(decoded, proxies, decoded, torch.ones(2, 1, 128, 128)), proxies)


def test_an_untrained_fusion_changes_nothing_and_a_trained_one_by_the_share(
    own_pipeline: DiffPortraitPipeline,
) -> None:
    references, cameras = (random_images(count, seed=count, size=64) for count in (1, 6))
    proxies, trust = 0.5 * random_images(6, seed=2, size=64), torch.rand(6, 1, 64, 64)

    def run(share: float, fusion: float = 1.0) -> Tensor:
        options = {"noise_strength": 0.0, "output_type": "pt", "proxy_detail": share, "fusion": fusion}
        images = own_pipeline(references, cameras, proxies, confidences=trust, **options).images
        assert isinstance(images, Tensor)
        return images

    alone, detailed, half = run(0.0), run(1.0), run(0.5)
    fusion = Fusion((8, 16, 16)).eval()
    own_pipeline.register_modules(fusion=fusion)
    assert_same(run(1.0), detailed)
    torch.nn.init.constant_(fusion.encoder.slices.bias, -0.1)  # everything darker
    darker = 0.1
    assert_same(run(1.0), (detailed - darker).clamp(-1, 1))
    assert_same(run(0.5), (half - darker / 2).clamp(-1, 1))
    assert_same(run(0.0), alone)
    assert_same(run(1.0, fusion=0.5), (detailed - darker / 2).clamp(-1, 1))
    assert_same(run(0.5, fusion=0.5), (half - darker / 4).clamp(-1, 1))
    assert_same(run(1.0, fusion=0.0), detailed)


def test_fusion_reads_each_of_its_inputs() -> None:
    torch.manual_seed(0)
    fusion = Fusion((8, 16, 16)).eval()
    torch.nn.init.normal_(fusion.encoder.slices.weight)
    inputs = [random_images(2, seed=seed, size=64) for seed in range(3)]
    inputs += [torch.rand(2, 1, 64, 64) for _ in range(2)]
    with torch.inference_mode():
        expected = fusion(*inputs)
        assert expected.shape == (2, 3, 64, 64)
        assert_same(torch.cat([fusion(*(each[i : i + 1] for each in inputs)) for i in range(2)]), expected)
        for place in range(5):
            changed = [each.flip(0) if number == place else each for number, each in enumerate(inputs)]
            assert not torch.allclose(fusion(*changed), expected, atol=1e-2)


def test_fusion_leaves_a_background_that_the_portrait_shows() -> None:
    fusion = Fusion((8, 16)).eval()
    torch.nn.init.constant_(fusion.encoder.slices.bias, 0.2)
    images, maps = random_images(1, size=64), torch.zeros(1, 1, 64, 64)
    confidences, coverages = maps.clone(), maps.clone()
    confidences[..., :32] = 1  # shown on the left
    coverages[..., :16, :] = 1  # the person is above
    with torch.inference_mode():
        change = fusion(images, images, images, confidences, coverages) - images
    assert_same(change[..., 16:, :32], torch.zeros(1, 3, 48, 32))
    assert_same(change[..., :16, :], torch.full((1, 3, 16, 64), 0.2))
    assert_same(change[..., 32:], torch.full((1, 3, 64, 32), 0.2))


def test_a_pipeline_comes_back_with_its_fusion_and_without_one(
    own_pipeline: DiffPortraitPipeline, tmp_path: Path
) -> None:
    own_pipeline.save_pretrained(tmp_path / "without")
    assert DiffPortraitPipeline.from_pretrained(tmp_path / "without").fusion is None
    own_pipeline.register_modules(fusion=Fusion((8, 16)))
    torch.nn.init.normal_(own_pipeline.fusion.encoder.slices.weight)
    own_pipeline.save_pretrained(tmp_path / "with")
    again = DiffPortraitPipeline.from_pretrained(tmp_path / "with").fusion
    assert torch.equal(again.encoder.slices.weight, own_pipeline.fusion.encoder.slices.weight)


@pytest.mark.parametrize("solver", ["dpm-solver++", "unipc"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_other_solvers_run(own_pipeline: DiffPortraitPipeline, solver: Any, strength: float) -> None:
    own_pipeline.scheduler = scheduler_named(solver, own_pipeline.scheduler)
    latents = views_of(own_pipeline, [0, 1], num_inference_steps=4, eta=0.0, noise_strength=strength)
    assert latents.isfinite().all()


def test_each_quirk_changes_the_result(pipeline: DiffPortraitPipeline) -> None:
    def run(quirks: Quirks) -> Tensor:
        return views_of(pipeline, [0], num_inference_steps=2, guidance_scale=1.0, quirks=quirks)

    published = run(PUBLISHED)
    others = (
        Quirks(start_noise_timestep=None),
        Quirks(last_step="no-noise"),
        Quirks(last_step="x0"),
        Quirks(sample_posterior=False),
    )
    for quirks in others:
        assert not torch.allclose(run(quirks), published)
    assert not torch.allclose(run(NO_QUIRKS), published)


def test_middle_view_attention_runs_where_the_pipeline_says(monkeypatch: pytest.MonkeyPatch) -> None:
    views = {}
    for where in ("unconditional", "always", "never"):
        pipeline = shake(DiffPortraitPipeline.from_sizes(tiny_sizes(), mid_view_attention=where))
        assert isinstance(pipeline.unet.mid_view_attention, ViewAttention)
        batches = count_calls(monkeypatch, pipeline.unet.mid_view_attention)
        views_of(pipeline, [0, 1])
        views[where] = sum(batches)
    assert views == {"unconditional": 2 * 2, "always": 2 * 4, "never": 0}


def test_the_batch_halves_when_the_device_is_out_of_memory(
    pipeline: DiffPortraitPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = list(range(8))
    expected = views_of(pipeline, views, view_group=ViewGroup(2))
    forward = pipeline.unet.forward

    def small_device(sample: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if sample.shape[0] > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(pipeline.unet, "forward", small_device)
    assert_same(views_of(pipeline, views, view_group=ViewGroup(2)), expected)
    assert_same(views_of(pipeline, views[:2], view_group=ViewGroup(2)), expected[:2])
    with pytest.raises(torch.cuda.OutOfMemoryError):
        views_of(pipeline, views, view_group=ViewGroup(4))


def test_slices_halve_when_the_device_is_out_of_memory(caplog: pytest.LogCaptureFixture) -> None:
    images, tried = torch.arange(7.0), []

    def small_device(part: slice) -> Tensor:
        tried.append(part.stop - part.start)
        if tried[-1] > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return images[part] * 2

    assert torch.equal(in_slices(small_device, 7, 5), images * 2)
    assert tried == [5, 2, 2, 2, 1]
    assert "5 images at once: now 2" in caplog.text

    def no_device(part: slice) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.cuda.OutOfMemoryError):
        in_slices(no_device, 3, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_saved_pipeline_is_the_same_after_loading(
    own_pipeline: DiffPortraitPipeline, tmp_path: Path, dtype: torch.dtype
) -> None:
    own_pipeline.register_to_config(mid_view_attention="always")
    own_pipeline.to(dtype).save_pretrained(tmp_path, safe_serialization=True, variant="fp16")
    loaded = DiffPortraitPipeline.from_pretrained(tmp_path, variant="fp16").to(torch.float32)
    assert not list(tmp_path.rglob("*.bin"))
    assert loaded.config.mid_view_attention == "always"
    own_pipeline.to(torch.float32)
    for name in ("unet", "reference_unet", "controlnet", "vae", "empty_prompt"):
        kept = getattr(own_pipeline, name).state_dict()
        torch.testing.assert_close(getattr(loaded, name).state_dict(), kept, atol=0.0, rtol=0.0)
    assert_same(views_of(loaded, [0]), views_of(own_pipeline, [0]))


def test_half_precision_stays_close(own_pipeline: DiffPortraitPipeline) -> None:
    exact = views_of(own_pipeline, [0, 1], eta=0.0, guidance_scale=1.0)
    half = views_of(own_pipeline.to(torch.bfloat16), [0, 1], eta=0.0, guidance_scale=1.0)
    assert half.dtype == torch.float32
    assert (half - exact).square().mean().sqrt() < 0.1 * exact.square().mean().sqrt()


def test_a_preset_gives_the_views_of_synthesize() -> None:
    """Every setting of the preset counts, and a call may depart from any of them."""
    preset = load_preset("nano", ["sampler.num_inference_steps=4", "sampler.noise_strength=0.5", "seed=3"])
    pipeline = DiffPortraitPipeline.from_preset(preset, device="cpu")
    cameras, proxies = random_images(2, size=64), random_images(2, seed=4, size=64)
    arguments = (random_images(1, seed=9, size=64), cameras, proxies)
    found = pipeline(*arguments, output_type="pt").latents
    assert pipeline.preset == preset
    spelled = DiffPortraitPipeline.from_pretrained(resolve("nano"), low_cpu_mem_usage=False)(
        *arguments,
        num_inference_steps=4,
        guidance_scale=1.0,
        noise_strength=0.5,
        refine_proxy=True,
        proxy_detail=1.0,
        fusion=1.0,
        seed=3,
        view_group=ViewGroup(8, "overlap", 4),
        output_type="pt",
    ).latents
    assert torch.equal(found, spelled)
    assert not torch.equal(pipeline(*arguments, seed=4, output_type="pt").latents, found)


def test_a_preset_may_ask_for_another_solver_and_number_format() -> None:
    preset = load_preset("nano", ["sampler.scheduler=unipc", "dtype=bfloat16"])
    pipeline = DiffPortraitPipeline.from_preset(preset, device="cpu")
    assert isinstance(pipeline.scheduler, UniPCMultistepScheduler)
    assert pipeline.unet.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "execution",
    [{"channels_last": True}, {"share_batch": False}, {"max_views_per_call": 1}],
    ids=lambda setting: next(iter(setting)),
)
def test_the_way_of_execution_changes_rounding_only(execution: dict[str, Any]) -> None:
    overrides = ["noise_strength=0.5", "guidance_scale=2", "view_group={size: 1}"]
    plain = load_preset("nano", overrides)
    other = plain.model_copy(update={"execution": ExecutionSettings(**execution)})
    arguments = (random_images(1, seed=9, size=64), random_images(2, size=64), random_images(2, size=64))
    expected, found = (
        DiffPortraitPipeline.from_preset(preset, device="cpu")(*arguments, output_type="pt").images
        for preset in (plain, other)
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_the_backbone_compiles_as_one_graph_for_all_timesteps(own_pipeline: DiffPortraitPipeline) -> None:
    torch._dynamo.reset()
    expected = views_of(own_pipeline, [0, 1], num_inference_steps=4)
    own_pipeline.unet.compile(backend="eager")
    found = views_of(own_pipeline, [0, 1], num_inference_steps=4)
    assert_same(found, expected)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_a_preset_whose_weights_are_missing_says_what_gets_them() -> None:
    with pytest.raises(WeightsError, match="dp3d weights"):
        DiffPortraitPipeline.from_preset("diffportrait3d")


def test_output_kinds_agree(pipeline: DiffPortraitPipeline) -> None:
    run = {
        kind: pipeline(REFERENCE, random_images(2), num_inference_steps=1, output_type=kind).images
        for kind in ("pil", "np", "pt")
    }
    assert run["np"].dtype == np.uint8
    assert run["np"].shape == (2, 16, 16, 3)
    assert np.array_equal(np.stack([np.asarray(image) for image in run["pil"]]), run["np"])
    assert np.array_equal(to_uint8(run["pt"]), run["np"])
    assert np.array_equal(to_uint8(to_image_tensor(run["np"], torch.device("cpu"))), run["np"])


def test_truncation_cuts_off_where_rounding_rounds() -> None:
    image = torch.full((1, 3, 1, 1), 99.9 / 127.5 - 1)
    assert to_uint8(image)[0, 0, 0, 0] == 100
    assert to_uint8(image, truncate=True)[0, 0, 0, 0] == 99


def test_pictures_of_any_accepted_kind_are_the_same(pipeline: DiffPortraitPipeline) -> None:
    array = to_uint8(random_images(2))
    expected = to_image_tensor(array, torch.device("cpu"))
    pictures = [Image.fromarray(each) for each in array]
    assert torch.equal(to_image_tensor(pictures, torch.device("cpu")), expected)
    assert torch.equal(to_image_tensor(pictures[0], torch.device("cpu")), expected[:1])
    assert torch.equal(to_image_tensor(expected, torch.device("cpu")), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"references": torch.zeros(1, 3, 8, 8)}, "resize them to one size"),
        ({"camera_conditions": torch.zeros(2, 3, 12, 12)}, "multiples of 8"),
        ({"proxies": torch.zeros(3, 3, 16, 16)}, "do not match"),
        ({"references": torch.zeros(1, 4, 16, 16)}, "expected RGB images"),
        ({"references": torch.zeros(1, 3, 16, 16, dtype=torch.uint8)}, "floating point"),
        ({"references": np.zeros((1, 16, 16, 3))}, "uint8"),
        ({"proxies": None, "noise_strength": 0.5}, "none were given"),
        ({"view_names": ["000"]}, "1 names or generators for 2 views"),
    ],
)
def test_misuse_is_named(pipeline: DiffPortraitPipeline, arguments: dict[str, Any], message: str) -> None:
    given = {
        "references": REFERENCE,
        "camera_conditions": random_images(2),
        "proxies": random_images(2),
        **arguments,
    }
    with pytest.raises(ValueError, match=message):
        pipeline(**given)


def test_a_network_with_a_hint_asks_for_proxies(hint_pipeline: DiffPortraitPipeline) -> None:
    with pytest.raises(ValueError, match="pass `proxies`"):
        hint_pipeline(REFERENCE, random_images(2))


def test_an_unknown_place_of_the_middle_view_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="mid_view_attention"):
        DiffPortraitPipeline.from_sizes(tiny_sizes(), mid_view_attention="sometimes")


def test_fresh_schedulers_predict_what_was_asked() -> None:
    assert ddim_scheduler("v_prediction").config.prediction_type == "v_prediction"
