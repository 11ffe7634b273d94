"""Where attention should look: answers from geometry, and the loss that teaches them."""

from dataclasses import replace

import numpy as np
import torch

from dp3d_cli.core.cameras.camera import PIVOT, Camera
from dp3d_cli.core.diffusion.attention import ProjectedBank
from dp3d_cli.core.diffusion.configs import build_networks
from dp3d_cli.core.diffusion.trunk import parts_of
from dp3d_cli.core.diffusion.view_unet import ViewUNet
from dp3d_cli.training.correspondence import (
    Looked,
    attention_error,
    right_answers,
    taken_error,
    watch_decoder,
    world_points,
)
from tests.core.diffusion.tiny import tiny_sizes

SIDE = 16


def label(yaw: float) -> torch.Tensor:
    return torch.from_numpy(np.array(Camera.look_at(yaw, 0.0).label, np.float32))[None]


def ball(yaw: float) -> torch.Tensor:
    """[1, 3, 2 T, 2 T]: what a camera sees of a ball of radius 0.2 around the pivot; NaN beside it."""
    camera = label(yaw)
    origin = camera[0, :16].view(4, 4)[:3, 3].view(1, 3, 1, 1)
    ray = world_points(torch.ones(1, 2 * SIDE, 2 * SIDE), camera) - origin
    towards = torch.tensor(PIVOT).view(1, 3, 1, 1) - origin
    middle = (ray * towards).sum(1) / ray.square().sum(1)
    inside = middle**2 - (towards.square().sum(1) - 0.2**2) / ray.square().sum(1)
    return world_points((middle - inside.clamp_min(0).sqrt()) * (inside > 0), camera)


def mean_place(answers: torch.Tensor) -> torch.Tensor:
    """[V, T, 2] mean column and row of the answers in one reference, in tokens."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    places = torch.stack([columns.flatten(), rows.flatten()], -1).float()
    return answers @ places / answers.sum(-1, keepdim=True)


def test_points_lie_where_the_camera_sees_them() -> None:
    points = ball(0.4)
    seen = points[0].flatten(1).T
    seen = seen[~seen[:, 0].isnan()]
    assert 100 < len(seen) < 4 * SIDE**2
    torch.testing.assert_close((seen - torch.tensor(PIVOT)).norm(dim=-1), torch.full((len(seen),), 0.2))


def test_a_view_from_the_same_camera_looks_at_the_same_token() -> None:
    answers = right_answers(ball(0.2), ball(0.2), label(0.2), SIDE)
    assert answers.shape == (1, SIDE**2, SIDE**2)
    assert float(answers.sum(-1).max()) <= 1 + 1e-5
    place = mean_place(answers)[0]
    known = answers[0].sum(-1) > 0.99
    assert known.float().mean() > 0.85  # all but some of the outline
    own = torch.stack([torch.arange(SIDE).repeat(SIDE), torch.arange(SIDE).repeat_interleave(SIDE)], -1)
    assert float((place - own)[known].abs().max()) < 0.8


def test_a_turned_view_looks_where_the_place_went_and_nowhere_if_it_is_hidden() -> None:
    yaw = 0.6
    points, camera = ball(yaw), label(0.0)
    answers = right_answers(points, ball(0.0), camera, SIDE)
    cells = points[0].unflatten(-1, (SIDE, 2)).unflatten(1, (SIDE, 2))[:, :, 0, :, 0].flatten(1).T  # [T, 3]
    on_ball = ~cells[:, 0].isnan()
    facing = (cells[:, 2] - PIVOT[2]) / 0.2  # cosine between the surface and the reference's camera, nearly
    clear, hidden = on_ball & (facing > 0.5), on_ball & (facing < -0.3)
    assert clear.sum() > 20
    assert hidden.sum() > 2
    answered = answers[0].sum(-1)
    assert float(answered[clear].min()) > 0.4
    assert float(answered[hidden].max()) < 0.6
    world = torch.cat([cells[clear], torch.ones(int(clear.sum()), 1)], 1)
    seen = world @ torch.linalg.inv(camera[0, :16].view(4, 4)).T
    projected = seen[:, :3] @ camera[0, 16:].view(3, 3).T
    expected = projected[:, :2] / projected[:, 2:] * SIDE - 0.5
    error = (mean_place(answers)[0][clear] - expected).norm(dim=-1)
    assert float(error.mean()) < 0.6
    own = torch.stack([torch.arange(SIDE).repeat(SIDE), torch.arange(SIDE).repeat_interleave(SIDE)], -1)
    assert float((own[clear] - expected).norm(dim=-1).mean()) > 1.5  # nothing stays where it was


def test_a_second_reference_answers_for_what_the_first_does_not_see() -> None:
    points = ball(0.6)
    one = right_answers(points, ball(0.0), label(0.0), SIDE)
    references, labels = torch.cat([ball(0.0), ball(0.6)]), torch.cat([label(0.0), label(0.6)])
    both = right_answers(points, references, labels, SIDE)
    assert both.shape == (1, SIDE**2, 2 * SIDE**2)
    assert float(both.sum(-1).max()) <= 1 + 1e-5
    on_ball = ~points[0, 0, ::2, ::2].flatten().isnan()
    assert (both[0].sum(-1) > 0.9)[on_ball].sum() > (one[0].sum(-1) > 0.9)[on_ball].sum() + 5


def test_what_is_beside_the_subject_looks_at_its_own_place() -> None:
    answers = right_answers(ball(0.5), ball(0.0), label(0.0), SIDE)[0]
    corner = torch.tensor([0, SIDE - 1, SIDE * (SIDE - 1), SIDE**2 - 1])
    torch.testing.assert_close(answers[corner, corner], torch.ones(4))


def layer(query: torch.Tensor, key: torch.Tensor, own: torch.Tensor | None = None) -> Looked:
    """What a layer of one head and four tokens did."""
    mine = (
        torch.full((1, 1, 4, 4), -1e6) if own is None else own
    )  # by default it looks at no token of its own
    return Looked(query, mine, key, torch.zeros(1, 4, 4))


def test_attention_error_falls_to_the_answers_entropy() -> None:
    answers = torch.eye(4)[[2, 0, 3, 1]][None]
    query = torch.eye(4)[[2, 0, 3, 1]].view(1, 1, 4, 4)
    key = torch.eye(4).view(1, 1, 4, 4)
    unsure = attention_error(layer(1e-3 + torch.zeros_like(query), key), answers)
    torch.testing.assert_close(unsure, torch.tensor(4.0).log(), atol=1e-3, rtol=0)
    assert float(attention_error(layer(200 * query, key), answers)) < 1e-3
    assert float(attention_error(layer(200 * query.flip(2), key), answers)) > 5
    nothing = attention_error(layer(query, key), torch.zeros_like(answers))
    assert float(nothing) == 0


def test_attention_to_own_tokens_counts_as_an_error() -> None:
    answers = torch.eye(4)[None]
    query = 200 * torch.eye(4).view(1, 1, 4, 4)
    key = torch.eye(4).view(1, 1, 4, 4)
    half = attention_error(layer(query, key, own=key), answers)
    torch.testing.assert_close(half, torch.tensor(2.0).log())
    heads = Looked(*(torch.cat([each, each], 1) for each in (query, -key, key)), torch.zeros(1, 4, 8))
    assert float(attention_error(heads, answers)) < 1e-3
    one = Looked(
        heads.query, torch.cat([-key, 2 * key], 1), heads.key, heads.taken
    )  # the second looks at itself
    torch.testing.assert_close(attention_error(one, answers), torch.tensor(2.0).log())


def test_taken_error_is_that_of_the_latents_under_each_token_with_an_answer() -> None:
    images = torch.arange(16.0).view(1, 1, 4, 4)
    under = torch.tensor([[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]).float()[None]
    looked = replace(layer(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)), taken=under)
    answers = torch.eye(4)[None]
    assert float(taken_error(looked, torch.nn.Identity(), images, answers)) == 0
    wrong = replace(looked, taken=under + torch.tensor([2.0, 0, 0, 0]).view(1, 4, 1))
    assert float(taken_error(wrong, torch.nn.Identity(), images, answers)) == 1  # 4 of one token in four
    answers[0, 0, 0] = 0
    assert float(taken_error(wrong, torch.nn.Identity(), images, answers)) == 0


def watched() -> tuple[ViewUNet, ProjectedBank, list[Looked]]:
    """A tiny backbone, what one reference gave it, and what its decoder did with that for two views."""
    torch.manual_seed(0)
    networks = build_networks(tiny_sizes())
    unet, prompt = networks.unet, networks.empty_prompt()
    latents = torch.randn(2, 4, 8, 8)
    bank = unet.project_reference(networks.reference_unet(latents[:1], 5, prompt))
    looked: list[Looked] = []
    with watch_decoder(unet, bank, looked):
        unet(latents, 5, prompt, num_views=2, reference_bank=bank)
    count = len(looked)
    unet(latents, 5, prompt, num_views=2, reference_bank=bank)
    assert len(looked) == count  # it is over
    return unet, bank, looked


def test_what_the_decoder_looks_at_and_takes_is_seen_and_carries_gradients() -> None:
    unet, _, looked = watched()
    assert len(looked) == len([layer for block in unet.up_blocks for layer in parts_of(block, "attentions")])
    for each in looked:
        assert each.query.shape == each.own.shape == each.key.shape
        assert each.query.shape[0] == 2
        assert each.taken.shape == (2, each.query.shape[2], each.query.shape[1] * each.query.shape[3])
        assert each.query.requires_grad
        assert each.taken.requires_grad


def test_what_is_taken_is_attention_over_the_references_alone() -> None:
    unet, bank, looked = watched()
    attention = parts_of(unet.up_blocks[0], "attentions")[0].get_submodule("transformer_blocks.0.attn1")
    _, value = bank.layers[len(bank.layers) - len(looked)]
    query, key = looked[0].query, looked[0].key
    shares = torch.softmax(query @ key.transpose(-1, -2) / key.shape[-1] ** 0.5, -1)
    expected = attention.get_submodule("to_out.0")((shares @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(looked[0].taken, expected)
