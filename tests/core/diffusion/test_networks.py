"""The three networks against plain, slow readings of what they should compute."""

from collections.abc import Iterator

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from dp3d_cli.core.diffusion.attention import ReferenceBank, project_keys_values
from dp3d_cli.core.diffusion.configs import Networks, build_networks, nano, sd15
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.diffusion.view_attention import ViewAttention
from tests.core.diffusion.tiny import random_images, tiny_sizes

VIEWS = 3


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def latents(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 4, 4, 4, generator=torch.Generator().manual_seed(seed))


def bank_of(pipeline: DiffPortraitPipeline, references: Tensor, count: int = 1) -> ReferenceBank:
    return pipeline.reference_unet(references, 500, pipeline.empty_prompt(), num_references=count)


def predict(pipeline: DiffPortraitPipeline, sample: Tensor, **conditions: object) -> Tensor:
    return pipeline.unet(sample, 500, pipeline.empty_prompt(), num_views=VIEWS, **conditions)


def plain_attention(attn: torch.nn.Module, own: Tensor, context: Tensor) -> Tensor:
    """One view, one head at a time: softmax(q k^T / sqrt(d)) v over `context`."""
    query, key, value = attn.to_q(own), attn.to_k(context), attn.to_v(context)
    width = query.shape[-1] // attn.heads
    heads = []
    for head in range(attn.heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[:, part] @ key[:, part].T / width**0.5
        heads.append(scores.softmax(-1) @ value[:, part])
    return attn.to_out[0](torch.cat(heads, dim=-1))


@pytest.mark.parametrize("references", [1, 2, 3])
def test_self_attention_sees_its_own_tokens_and_those_of_every_reference(
    pipeline: DiffPortraitPipeline, references: int
) -> None:
    attn = pipeline.unet.reading_layers()[0].get_submodule("transformer_blocks.0.attn1")
    own, seen = torch.randn(VIEWS, 16, 16), torch.randn(references, 16, 16)
    bank = seen.reshape(1, -1, 16)
    found = attn(own, reference=project_keys_values(attn, bank))
    for view in range(VIEWS):
        context = torch.cat([own[view], *seen])
        torch.testing.assert_close(
            found[view], plain_attention(attn, own[view], context), atol=1e-5, rtol=1e-4
        )


def test_a_bank_of_several_references_is_their_banks_joined(pipeline: DiffPortraitPipeline) -> None:
    references = latents(3, seed=2)
    together = bank_of(pipeline, references, 3)
    alone = [bank_of(pipeline, reference[None]) for reference in references]
    for index, features in enumerate(together.features):
        joined = torch.cat([bank.features[index] for bank in alone], dim=1)
        torch.testing.assert_close(features, joined, atol=1e-5, rtol=1e-4)


def test_a_shared_bank_equals_one_repeated_for_every_view(pipeline: DiffPortraitPipeline) -> None:
    sample, bank = latents(VIEWS), bank_of(pipeline, latents(1, seed=2))
    repeated = ReferenceBank(tuple(features.repeat(VIEWS, 1, 1) for features in bank.features))
    torch.testing.assert_close(
        predict(pipeline, sample, reference_bank=bank), predict(pipeline, sample, reference_bank=repeated)
    )


def test_subjects_of_a_batch_do_not_mix(pipeline: DiffPortraitPipeline) -> None:
    sample, references, timesteps = latents(2 * VIEWS), latents(2, seed=2), torch.tensor([700, 20])
    cameras = random_images(2 * VIEWS)
    prompt = pipeline.empty_prompt()

    def run(part: slice, views: slice) -> Tensor:
        bank = pipeline.reference_unet(references[part], timesteps[part], prompt)
        control = pipeline.controlnet(
            sample[views],
            timesteps[part],
            prompt,
            hint_embedding=pipeline.controlnet.embed_hint(cameras[views]),
        )
        return pipeline.unet(
            sample[views],
            timesteps[part],
            prompt,
            num_views=VIEWS,
            reference_bank=bank,
            control_residuals=control,
        )

    together = run(slice(0, 2), slice(0, 2 * VIEWS))
    apart = [run(slice(b, b + 1), slice(b * VIEWS, (b + 1) * VIEWS)) for b in range(2)]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def published() -> Networks:
    """The published sizes, without storage."""
    with torch.device("meta"):
        return build_networks(sd15())


def test_the_bank_has_one_entry_per_reading_layer(published: Networks) -> None:
    bank = published.reference_unet(torch.empty(1, 4, 64, 64, device="meta"), 500, published.empty_prompt())
    tokens = [4096] * 2 + [1024] * 2 + [256] * 2 + [64] + [256] * 3 + [1024] * 3 + [4096] * 3
    widths = [320] * 2 + [640] * 2 + [1280] * 6 + [640] * 3 + [320] * 3
    assert [tuple(features.shape) for features in bank.features] == [
        (1, count, width) for count, width in zip(tokens, widths, strict=True)
    ]
    assert len(published.unet.project_reference(bank).layers) == 16


def test_the_published_size_has_the_published_number_of_parameters(published: Networks) -> None:
    def count(network: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    assert count(published.unet) == 1_441_254_084
    assert count(published.controlnet) == 361_279_120
    assert count(published.vae) == 83_653_863
    assert sum(isinstance(module, ViewAttention) for module in published.unet.modules()) == 27


def test_the_trunk_has_the_parameter_names_of_stable_diffusion(published: Networks) -> None:
    with torch.device("meta"):
        theirs = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    names = {name: p.shape for name, p in published.unet.named_parameters() if "view_attention" not in name}
    assert names == {name: p.shape for name, p in theirs.named_parameters()}


def test_the_reference_network_does_not_build_what_has_no_effect() -> None:
    with torch.device("meta"):
        networks = build_networks(nano())
    assert len(networks.reference_unet.up_blocks) == 2  # the highest resolution has no attention
    assert not hasattr(networks.reference_unet, "conv_out")
    bank = networks.reference_unet(torch.empty(1, 16, 32, 32, device="meta"), 500, networks.empty_prompt())
    assert len(bank.features) == len(networks.unet.reading_layers())


def test_a_fresh_view_attention_changes_nothing() -> None:
    hidden = torch.randn(2 * VIEWS, 16, 4, 4)
    assert torch.equal(ViewAttention(16, 2, 8)(hidden, VIEWS), hidden)


def test_fresh_view_attention_leaves_views_independent(own_pipeline: DiffPortraitPipeline) -> None:
    for module in own_pipeline.unet.modules():
        if isinstance(module, ViewAttention):
            module.proj_out.weight.zero_()
            module.proj_out.bias.zero_()
    sample = latents(VIEWS)
    alone = [own_pipeline.unet(view[None], 500, own_pipeline.empty_prompt(), num_views=1) for view in sample]
    torch.testing.assert_close(predict(own_pipeline, sample), torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_view_attention_equals_a_loop_over_positions() -> None:
    torch.manual_seed(0)
    module = ViewAttention(16, 2, 8)
    torch.nn.init.normal_(module.proj_out.weight)
    hidden = torch.randn(VIEWS, 16, 4, 4)
    found = module(hidden, VIEWS)
    block, normed = module.block, module.norm(hidden)
    for row in range(4):
        for column in range(4):
            tokens = module.proj_in(normed[:, :, row, column])
            for norm, attn in ((block.norm1, block.attn1), (block.norm2, block.attn2)):
                placed = norm(tokens) + block.pos_embed.pe[0, :VIEWS]
                tokens = tokens + plain_attention(attn, placed, placed)
            tokens = tokens + block.ff(block.norm3(tokens))
            expected = hidden[:, :, row, column] + module.proj_out(tokens)
            torch.testing.assert_close(found[:, :, row, column], expected, atol=1e-4, rtol=1e-4)


def test_view_order_matters(pipeline: DiffPortraitPipeline) -> None:
    sample = latents(VIEWS)
    turned = predict(pipeline, sample.roll(1, 0)).roll(-1, 0)
    assert not torch.allclose(turned, predict(pipeline, sample), atol=1e-3)


def test_fresh_control_changes_nothing() -> None:
    fresh = DiffPortraitPipeline.from_sizes(tiny_sizes())
    torch.nn.init.normal_(fresh.unet.conv_out.weight)
    sample, prompt = latents(VIEWS), fresh.empty_prompt()
    control = fresh.controlnet(
        sample, 500, prompt, hint_embedding=fresh.controlnet.embed_hint(random_images(VIEWS))
    )
    assert torch.equal(predict(fresh, sample, control_residuals=control), predict(fresh, sample))


def test_each_condition_has_an_effect(pipeline: DiffPortraitPipeline) -> None:
    sample, prompt = latents(VIEWS), pipeline.empty_prompt()
    control = pipeline.controlnet(
        sample, 500, prompt, hint_embedding=pipeline.controlnet.embed_hint(random_images(VIEWS))
    )
    plain = predict(pipeline, sample)
    for condition in (
        {"reference_bank": bank_of(pipeline, latents(1, seed=2))},
        {"control_residuals": control},
        {"mid_view_attention": "never"},
    ):
        assert not torch.allclose(predict(pipeline, sample, **condition), plain, atol=1e-3)


def test_a_fresh_network_with_a_hint_answers_minus_the_proxy() -> None:
    fresh = DiffPortraitPipeline.from_sizes(tiny_sizes(explicit_hint_channels=6)).unet
    hint = torch.randn(VIEWS, 6, 4, 4)
    out = fresh(latents(VIEWS), torch.tensor([999]), torch.zeros(1, 3, 8), num_views=VIEWS, hint=hint)
    assert torch.equal(out, -hint[:, :4])


def test_a_single_prompt_token_takes_the_short_way_with_the_same_result(
    pipeline: DiffPortraitPipeline,
) -> None:
    attn = pipeline.unet.reading_layers()[0].get_submodule("transformer_blocks.0.attn2")
    tokens, prompt = torch.randn(VIEWS, 16, 16), torch.randn(1, 1, 8)
    expected = torch.stack([plain_attention(attn, own, prompt[0]) for own in tokens])
    torch.testing.assert_close(attn(tokens, encoder_hidden_states=prompt), expected)


def test_misfits_are_refused(pipeline: DiffPortraitPipeline) -> None:
    bank = bank_of(pipeline, latents(1))
    with pytest.raises(ValueError, match="whole number of groups"):
        pipeline.unet(latents(4), 500, pipeline.empty_prompt(), num_views=VIEWS)
    with pytest.raises(ValueError, match="bank has"):
        predict(pipeline, latents(VIEWS), reference_bank=ReferenceBank(bank.features[:-1]))
    with pytest.raises(ValueError, match="shared out evenly"):
        predict(pipeline, latents(VIEWS), reference_bank=bank_of(pipeline, latents(2)))


def test_every_network_learns() -> None:
    with torch.enable_grad():
        fresh = DiffPortraitPipeline.from_sizes(tiny_sizes())
        torch.nn.init.normal_(fresh.empty_prompt.embedding)
        optimizer = torch.optim.Adam(
            [
                p
                for name in ("unet", "reference_unet", "controlnet")
                for p in getattr(fresh, name).parameters()
            ],
            1e-2,
        )
        before = {
            name: getattr(fresh, name).state_dict() for name in ("unet", "reference_unet", "controlnet")
        }
        before = {name: {k: v.clone() for k, v in state.items()} for name, state in before.items()}
        sample, references, cameras = latents(2 * VIEWS), latents(2), random_images(2 * VIEWS)
        timesteps = torch.tensor([700, 20])
        for _ in range(4):  # zero-initialised layers open one behind the other
            prompt = fresh.empty_prompt()
            bank = fresh.reference_unet(references, timesteps, prompt)
            control = fresh.controlnet(
                sample, timesteps, prompt, hint_embedding=fresh.controlnet.embed_hint(cameras)
            )
            out = fresh.unet(
                sample, timesteps, prompt, num_views=VIEWS, reference_bank=bank, control_residuals=control
            )
            (out - 1).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for name, state in before.items():
        changed = [
            key
            for key, value in getattr(fresh, name).state_dict().items()
            if not torch.equal(value, state[key])
        ]
        assert len(changed) > 0.9 * sum("pos_embed" not in key for key in state), name
