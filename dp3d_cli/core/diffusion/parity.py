"""Compare this core with numbers that the published code produced.

`python -m dp3d_cli.core.diffusion.parity FIXTURE_DIR` converts the fixture's `state_dict.safetensors` and
`config.json` by the public converter, loads the result as a pipeline, replays every quantity of
`io.safetensors` in float32, and prints the errors as JSON. Exit status 1 if one is above its tolerance.

`--quirk-free` leaves out those departures of the released sampler that do not change these quantities: it
plans no extra timesteps where the steps divide the training timesteps, and adds no noise in the last step of
a deterministic run. `--branches-apart` runs the two branches of guidance one after the other.

Errors are in units of the expected values' RMS: "relative" is the largest one, "relative_rms" their RMS.
Reference banks and control residuals must keep `relative_rms` below 1e-5; every quantity must keep `relative`
below 1e-4. A single value of a recorded bank carries a rounding error of up to 6e-6 of its own, which leaves
no room for 1e-5.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from diffusers.utils import logging
from safetensors.torch import load_file
from torch import Tensor

from dp3d_cli.core.diffusion.codec import decode_latents, encode_images
from dp3d_cli.core.diffusion.convert import convert_checkpoint
from dp3d_cli.core.diffusion.denoising import Conditions, Guidance
from dp3d_cli.core.diffusion.grouping import ViewGroup, view_groups
from dp3d_cli.core.diffusion.noise import three_d_aware_noise
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.diffusion.sampler import Scheduler, clean_latents, plan_timesteps
from dp3d_cli.core.presets import ExecutionSettings

TOLERANCE = 1e-4
"""Of the largest error."""
RMS_TOLERANCE = 1e-5
"""Of the errors' RMS, for reference banks and control residuals."""
_TIGHT = ("bank.", "pose.")
_INPUTS = ("in.", "vae.image", "vae.noise", "vae.decode_in")


class Replay:
    """The quantities of one fixture, computed by this core.

    Args:
        pipeline: converted from the fixture's checkpoint.
        recorded: the fixture's tensors.
        config: the fixture's configuration.
        quirk_free: without the quirks that change nothing here.
        execution: how the networks are run.
    """

    def __init__(
        self,
        pipeline: DiffPortraitPipeline,
        recorded: Mapping[str, Tensor],
        config: Mapping[str, object],
        *,
        quirk_free: bool = False,
        execution: ExecutionSettings | None = None,
    ) -> None:
        self.pipeline = pipeline
        self.recorded = recorded
        self.config = config
        self.latents = recorded["in.x"]
        self.views = list(range(self.latents.shape[0]))
        size = config.get("views_per_clip", len(self.views))
        self.groups = view_groups(len(self.views), ViewGroup(cast("int", size)))
        self.denoiser = pipeline.denoiser(execution)
        self.quirk_free = quirk_free
        hint = (recorded["in.hint_u8"].float() / 255 - 0.5) / 0.5
        self.conditions: Conditions = pipeline.conditions(recorded["in.ref_latent"], hint)

    def quantities(self) -> Iterator[tuple[str, Tensor]]:
        """Name and value of everything that can be computed."""
        yield "pose.guided_hint", self.conditions.hint_embedding[:1]
        yield from self._networks()
        yield from self._noise()
        yield from self._sampler()
        yield from self._codec()

    def _networks(self) -> Iterator[tuple[str, Tensor]]:
        reference = self.conditions.reference_latents
        stored = cast("list[int]", self.config.get("pose_views_stored") or self.views)
        size = len(self.groups[0])
        for timestep in cast("list[int]", self.config["timesteps_tested"]):
            bank = self.pipeline.reference_unet(
                reference, timestep, self.conditions.prompt, num_references=reference.shape[0]
            )
            for index, features in enumerate(bank.features):
                yield f"bank.t{timestep}.{index:02d}", features
            residuals = self.denoiser.control(self.latents, timestep, self.conditions, self.views)
            for index, residual in enumerate((*residuals.down, residuals.mid)):
                yield f"pose.t{timestep}.{index:02d}", residual[stored]
            projected = self.pipeline.unet.project_reference(bank)
            arguments = (self.latents, timestep, self.conditions, self.views, size)
            yield f"eps_cond.t{timestep}", self.denoiser.predict(*arguments, projected)
            yield f"eps_uncond.t{timestep}", self.denoiser.predict(*arguments, None)
            yield f"eps_cfg3.t{timestep}", self._guided(self.latents, timestep)

    def _guidance(self) -> float:
        return float(cast("float", self.config.get("guidance_scale", 3.0)))

    def _guided(self, latents: Tensor, timestep: int) -> Tensor:
        return self.denoiser.predict_groups(latents, timestep, self.conditions, self.groups, self._guidance())

    def _noise(self) -> Iterator[tuple[str, Tensor]]:
        alphas = self.pipeline.scheduler.alphas_cumprod
        yield "schedule.alphas_cumprod", alphas
        start = cast("int", self.config.get("noise_timestep", 999))
        yield (
            "x_T",
            three_d_aware_noise(self.recorded["in.proxy_latent"], self.recorded["in.noise_T"], alphas[start]),
        )

    def _sampler(self) -> Iterator[tuple[str, Tensor]]:
        runs = {
            name: run
            for name, run in self.config.items()
            if name.startswith("ddim") and isinstance(run, dict)
        }
        for name, run in {"ddim50": {"S": 50, "eta": 0.5}, **runs}.items():
            scheduler: Scheduler = self.pipeline.scheduler
            divides = int(scheduler.config.num_train_timesteps) % int(run["S"]) == 0
            extra_steps = not (self.quirk_free and divides)
            timesteps = plan_timesteps(scheduler, int(run["S"]), extra_steps=extra_steps)
            eta = float(run["eta"])
            for part, values in ddim_coefficients(scheduler, timesteps[::-1], eta).items():
                yield f"{name}.{part}", values
            if f"{name}.latents" in self.recorded:
                yield from self._run(name, timesteps, eta)

    def _run(self, name: str, timesteps: list[int], eta: float) -> Iterator[tuple[str, Tensor]]:
        noise = iter(self.recorded.get(f"{name}.noise", ()))
        path = [self.recorded["x_T"]]
        final = self.denoiser.denoise(
            path[0],
            self.conditions,
            self.pipeline.scheduler,
            timesteps,
            self.groups,
            guidance=Guidance(self._guidance()),
            eta=eta,
            last_step="no-noise" if self.quirk_free and eta == 0 else "noise",
            draw_noise=lambda: next(noise),
            callback=lambda _step, _timestep, latents: path.append(latents),
        )
        yield f"{name}.latents", torch.stack(path)
        yield f"{name}.final", final
        last = timesteps[-1]
        prediction = self._guided(path[-2], last)
        yield f"{name}.pred_x0_last", clean_latents(self.pipeline.scheduler, prediction, last, path[-2])

    def _codec(self) -> Iterator[tuple[str, Tensor]]:
        vae, images = self.pipeline.vae, self.recorded["vae.image"]
        posterior = vae.encode(images).latent_dist
        yield "vae.mean", posterior.mean
        yield "vae.logvar", posterior.logvar
        yield "vae.latent_mode", encode_images(vae, images)
        yield "vae.latent_sample", encode_images(vae, images, noise=self.recorded["vae.noise"])
        yield "vae.decode_out", decode_latents(vae, self.recorded["vae.decode_in"])


def ddim_coefficients(scheduler: Scheduler, timesteps: list[int], eta: float) -> dict[str, Tensor]:
    """What diffusers' DDIM step uses at each timestep: abar, the next abar, and the share of fresh noise."""
    step = int(scheduler.config.num_train_timesteps) // scheduler.num_inference_steps
    table = scheduler.alphas_cumprod
    following = [table[t - step] if t >= step else scheduler.final_alpha_cumprod for t in timesteps]
    variances = [scheduler._get_variance(t, t - step) for t in timesteps]
    return {
        "timesteps": torch.tensor(timesteps),
        "alphas": table[timesteps],
        "alphas_prev": torch.stack(following),
        "sigmas": eta * torch.stack(variances).sqrt(),
    }


def compare(expected: Tensor, found: Tensor) -> dict[str, float]:
    """Largest error, absolute and in units of the expected values' RMS; the errors' RMS in these units."""
    if expected.shape != found.shape:
        raise ValueError(f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    expected, found = expected.double(), found.double()
    error = expected - found
    largest, unit = error.abs().max().item(), expected.square().mean().sqrt().item() or 1.0
    return {
        "max_abs": largest,
        "relative": largest / unit,
        "relative_rms": error.square().mean().sqrt().item() / unit,
    }


@torch.no_grad()
def replay_fixture(
    folder: Path,
    weights: Path | None = None,
    *,
    quirk_free: bool = False,
    execution: ExecutionSettings | None = None,
) -> dict[str, object]:
    """Convert, replay and compare a fixture.

    Args:
        folder: holds `config.json`, `io.safetensors` and, unless `weights` is given,
            `state_dict.safetensors`.
        weights: the checkpoint, if it lies elsewhere.
        quirk_free: leave out the quirks that change none of the quantities.
        execution: how the networks are run.

    Returns:
        "quantities": errors of each; "not_replayed": recorded ones that this core does not compute; "passed".
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    recorded = load_file(folder / "io.safetensors")
    with tempfile.TemporaryDirectory() as converted:
        convert_checkpoint(
            weights or folder / "state_dict.safetensors",
            Path(converted),
            config=folder / "config.json",
            empty_prompt=recorded["in.context"],
        )
        pipeline = DiffPortraitPipeline.from_pretrained(converted, low_cpu_mem_usage=False)
    replay = Replay(pipeline, recorded, config, quirk_free=quirk_free, execution=execution)
    quantities: dict[str, dict[str, float | bool]] = {}
    for name, found in replay.quantities():
        if name in recorded:
            errors = compare(recorded[name], found)
            tight = not name.startswith(_TIGHT) or errors["relative_rms"] <= RMS_TOLERANCE
            quantities[name] = {**errors, "passed": tight and errors["relative"] <= TOLERANCE}
    others = [
        name
        for name in recorded
        if name not in quantities and not name.startswith(_INPUTS) and "noise" not in name
    ]
    passed = bool(quantities) and all(each["passed"] for each in quantities.values())
    return {"quantities": quantities, "not_replayed": sorted(others), "passed": passed}


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m dp3d_cli.core.diffusion.parity", description=__doc__)
    parser.add_argument(
        "fixture", type=Path, help="folder with config.json, io.safetensors, state_dict.safetensors"
    )
    parser.add_argument("--weights", type=Path, help="checkpoint, if it is not in the folder")
    parser.add_argument("--quirk-free", action="store_true", help="without quirks that change nothing here")
    parser.add_argument("--branches-apart", action="store_true", help="no common batch in guidance")
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    result = replay_fixture(
        options.fixture,
        options.weights,
        quirk_free=options.quirk_free,
        execution=ExecutionSettings(share_batch=not options.branches_apart),
    )
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
