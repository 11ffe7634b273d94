import pytest
import torch
from torch import Tensor

from dp3d_cli.core.diffusion.noise import draw_views, three_d_aware_noise, view_generator
from dp3d_cli.core.diffusion.sampler import (
    PredictionType,
    SchedulerName,
    ddim_scheduler,
    plan_timesteps,
    sampler_step,
    scheduler_named,
)

SOLVERS: tuple[SchedulerName, ...] = ("ddim", "dpm-solver++", "unipc")


def test_published_timesteps_are_one_and_every_twentieth() -> None:
    assert plan_timesteps(ddim_scheduler(), 50, extra_steps=True) == list(range(981, 0, -20))


@pytest.mark.parametrize(("steps", "actual"), [(50, 50), (30, 31), (6, 7), (7, 8), (5, 5)])
def test_a_step_count_that_does_not_divide_gives_the_published_extra_step(steps: int, actual: int) -> None:
    assert len(plan_timesteps(ddim_scheduler(), steps, extra_steps=True)) == actual
    assert len(plan_timesteps(ddim_scheduler(), steps)) == steps


@pytest.mark.parametrize("steps", [3, 9, 27, 101, 333, 501])
def test_step_counts_that_crash_the_released_sampler_stay_below_the_end(steps: int) -> None:
    assert max(plan_timesteps(ddim_scheduler(), steps, extra_steps=True)) < 1000


@pytest.mark.parametrize("solver", SOLVERS)
def test_noise_strength_leaves_out_the_noisiest_timesteps(solver: SchedulerName) -> None:
    scheduler = scheduler_named(solver, ddim_scheduler())
    whole = plan_timesteps(scheduler, 20)
    half = plan_timesteps(scheduler, 20, 0.5)
    assert half == [t for t in whole if t < 500]
    assert plan_timesteps(scheduler, 20, 0.0) == []


@pytest.mark.parametrize(("steps", "strength"), [(0, 1.0), (1001, 1.0), (10, -0.1), (10, 1.1)])
def test_impossible_plans_are_refused(steps: int, strength: float) -> None:
    with pytest.raises(ValueError, match=r"inference steps|noise strength"):
        plan_timesteps(ddim_scheduler(), steps, strength)


def exact_prediction(scheduler: object, clean: Tensor, timestep: int, noisy: Tensor) -> Tensor:
    alpha = scheduler.alphas_cumprod[timestep]
    noise = (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    if scheduler.config.prediction_type == "epsilon":
        return noise
    return alpha.sqrt() * noise - (1 - alpha).sqrt() * clean


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_arrives_at_what_a_perfect_network_says(
    solver: SchedulerName, strength: float, prediction: PredictionType
) -> None:
    scheduler = scheduler_named(solver, ddim_scheduler(prediction))
    clean, noise = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    timesteps = plan_timesteps(scheduler, 10, strength)
    latents = three_d_aware_noise(clean, noise, scheduler.alphas_cumprod[timesteps[0]])
    for timestep in timesteps:
        predicted = exact_prediction(scheduler, clean, timestep, latents)
        latents, estimate = sampler_step(scheduler, predicted, timestep, latents, 0.0, None)
        torch.testing.assert_close(estimate, clean, atol=1e-4, rtol=1e-4)
    end = 0.05 if solver == "ddim" else 1e-3  # DDIM ends at abar[0] = 0.99915, which leaves a little noise
    torch.testing.assert_close(latents, clean, atol=3 * end, rtol=0.0)


def test_a_ddim_step_is_the_formula() -> None:
    scheduler = ddim_scheduler()
    timesteps = plan_timesteps(scheduler, 50)
    x, eps, noise = torch.randn(3, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    a, b = (scheduler.alphas_cumprod[t].double() for t in timesteps[10:12])
    sigma = 0.5 * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
    x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
    expected = b.sqrt() * x0 + (1 - b - sigma**2).sqrt() * eps + sigma * noise
    found, clean = sampler_step(scheduler, eps, timesteps[10], x, 0.5, noise)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clean, x0, atol=1e-5, rtol=1e-5)


def test_the_noise_schedule_is_that_of_stable_diffusion() -> None:
    root = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)
    expected = torch.cumprod(1 - root**2, 0)
    torch.testing.assert_close(ddim_scheduler().alphas_cumprod.double(), expected, atol=1e-6, rtol=1e-5)


def test_three_d_aware_noise_has_the_published_weights() -> None:
    alpha = ddim_scheduler().alphas_cumprod[999]
    x = three_d_aware_noise(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), alpha)
    assert x.item() == pytest.approx(0.068265, abs=1e-6)
    x = three_d_aware_noise(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), alpha)
    assert x.item() == pytest.approx(0.997667, abs=1e-6)


def test_a_views_noise_depends_on_seed_subject_and_name_only() -> None:
    def draw(seed: int, subject: str, view: str) -> Tensor:
        return draw_views([view_generator(seed, subject, view)], (4,), torch.device("cpu"))[0]

    first = draw(0, "team/anna", "003")
    assert torch.equal(first, draw(0, "team/anna", "003"))
    for other in (draw(1, "team/anna", "003"), draw(0, "team/ann", "a003"), draw(0, "team/anna", "004")):
        assert not torch.equal(first, other)
    golden = [-0.2472, -0.7488, -0.4028, 0.5390]
    torch.testing.assert_close(first, torch.tensor(golden), atol=1e-4, rtol=0.0)
