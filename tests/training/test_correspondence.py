"""Where attention should look: answers from geometry, and the loss that teaches them."""

import numpy as np
import torch

from dp3d_cli.core.cameras.camera import PIVOT, Camera
from dp3d_cli.core.diffusion.configs import build_networks
from dp3d_cli.core.diffusion.trunk import parts_of
from dp3d_cli.training.correspondence import (
    Looked,
    attention_error,
    right_answers,
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


def test_attention_error_falls_to_the_answers_entropy() -> None:
    answers = torch.eye(4)[[2, 0, 3, 1]][None]
    query = torch.eye(4)[[2, 0, 3, 1]].view(1, 1, 4, 4)
    key = torch.eye(4).view(1, 1, 4, 4)
    unsure = attention_error(torch.zeros_like(query), key, answers)
    torch.testing.assert_close(unsure, torch.tensor(4.0).log())
    assert float(attention_error(200 * query, key, answers)) < 1e-3
    assert float(attention_error(200 * query.flip(2), key, answers)) > 5
    nothing = attention_error(query, key, torch.zeros_like(answers))
    assert float(nothing) == 0


def test_the_decoders_queries_and_keys_are_seen_and_carry_gradients() -> None:
    torch.manual_seed(0)
    networks = build_networks(tiny_sizes())
    unet, prompt = networks.unet, networks.empty_prompt()
    latents = torch.randn(2, 4, 8, 8)
    bank = unet.project_reference(networks.reference_unet(latents[:1], 5, prompt))
    looked: list[Looked] = []
    with watch_decoder(unet, bank, looked):
        unet(latents, 5, prompt, num_views=2, reference_bank=bank)
    decoder = [layer for block in unet.up_blocks for layer in parts_of(block, "attentions")]
    assert len(looked) == len(decoder)
    for query, key in looked:
        assert query.shape[0] == 2
        assert query.shape[1] == key.shape[1]
        assert query.shape[2:] == key.shape[2:]
        assert query.requires_grad
    count = len(looked)
    unet(latents, 5, prompt, num_views=2, reference_bank=bank)
    assert len(looked) == count
