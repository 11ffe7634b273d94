"""The denoising stages and the codec's on tiny networks; their starts; the loop on several processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dp3d_cli.core.diffusion.configs import build_networks
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.errors import UsageError, WeightsError
from dp3d_cli.training.checkpointing import recompute_blocks
from dp3d_cli.training.groups import DropRates, ViewBatch, ViewBatches
from dp3d_cli.training.loop import LoopSettings, sample_noise, share_of
from dp3d_cli.training.preset import StageName, TrainPreset, load_train_preset
from dp3d_cli.training.stages import denoising
from dp3d_cli.training.stages.denoising import DENOISING_STAGES, DenoisingNetworks
from dp3d_cli.training.stages.vae import VaeStage
from dp3d_cli.training.start import load_start
from tests.core.diffusion.tiny import shake, tiny_sizes
from tests.training.subjects import Ellipsoids

DENOISING: tuple[StageName, ...] = ("backbone", "reference", "camera", "views")
LEARNS = {
    "backbone": {"unet", "empty_prompt"},
    "reference": {"reference_unet"},
    "camera": {"controlnet"},
    "views": {"unet"},
}


@pytest.fixture(autouse=True)
def _no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ellipsoids stand in for heads, on both sides."""
    monkeypatch.setattr("dp3d_cli.training.groups.ProceduralSubjects", lambda split: Ellipsoids())
    monkeypatch.setattr(denoising, "open_subjects", lambda text, split: Ellipsoids())
    monkeypatch.setattr("dp3d_cli.training.stages.vae.open_subjects", lambda text, split: Ellipsoids())


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with all networks, random in every parameter."""
    folder = tmp_path_factory.mktemp("trained")
    shake(DiffPortraitPipeline.from_sizes(tiny_sizes())).save_pretrained(folder)
    return folder


def preset_of(stage: StageName, start: Path, **step: object) -> TrainPreset:
    step = {"batch": 4, "views": 2, "held_out_subjects": 1, "sample_steps": 2, **step}
    if stage == "vae":
        step = {"crop_px": 16, "batch": 2, "heads": 1, "head_pictures": 2, "held_out_subjects": 2}
    loop = LoopSettings(steps=3, decay_steps=1, workers=0)
    return TrainPreset(
        name="tiny", stage=stage, sizes=tiny_sizes(), size=16, loop=loop, step=step, start=(start,)
    )


def batch_of(stage: StageName, preset: TrainPreset) -> ViewBatch:
    return DENOISING_STAGES[stage].batches(preset, Ellipsoids(), 0, 3)[0]


def gradients(stage: StageName, module: DenoisingNetworks, batch: ViewBatch) -> dict[str, Tensor]:
    module.zero_grad(set_to_none=True)
    loss, _ = DENOISING_STAGES[stage].loss(module, batch, torch.Generator())
    loss.backward()
    return {name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("stage", DENOISING)
def test_a_stage_trains_its_own_part_and_nothing_else(stage: StageName, trained: Path) -> None:
    preset = preset_of(stage, trained)
    module = DENOISING_STAGES[stage].build(preset)
    wanted = {name for name, each in module.named_parameters() if each.requires_grad}
    assert {name.split(".")[0] for name in wanted} == LEARNS[stage]
    if stage == "backbone":
        assert not any("view_attention" in name for name in wanted)
    if stage == "views":
        assert all("view_attention" in name for name in wanted)
    found = gradients(stage, module, batch_of(stage, preset))
    # The released sampler runs the middle view attention in the unconditional call alone.
    idle = {name for name in wanted if "mid_view_attention" in name}
    assert wanted - found.keys() == idle
    assert found.keys() <= wanted
    assert sum(bool(each.any()) for each in found.values()) > 0.9 * len(found)


def test_dropped_conditions_train_the_middle_view_attention(trained: Path) -> None:
    preset = preset_of("views", trained, drop={"both": 0.999})
    module = DENOISING_STAGES["views"].build(preset)
    batch = batch_of("views", preset)
    assert not batch.use_reference.any()
    assert not batch.use_camera.any()
    assert any("mid_view_attention" in name for name in gradients("views", module, batch))


def test_a_dropped_condition_has_no_effect_on_its_subject(trained: Path) -> None:
    stage = DENOISING_STAGES["views"]
    preset = preset_of("views", trained)
    module = stage.build(preset)
    batch = batch_of("views", preset)
    dropped = replace(
        batch, use_reference=torch.tensor([True, False]), use_camera=torch.tensor([True, False])
    )
    assert batch.cameras is not None
    other = replace(
        dropped,
        references=torch.stack([dropped.references[0], -dropped.references[1]]),
        cameras=torch.stack([batch.cameras[0], -batch.cameras[1]]),
    )
    with torch.no_grad():
        losses = [float(stage.loss(module, each, torch.Generator())[0]) for each in (batch, dropped, other)]
    assert losses[1] == losses[2] != losses[0]


@pytest.mark.parametrize("stage", DENOISING)
def test_an_update_lowers_the_loss(stage: StageName, trained: Path) -> None:
    preset = preset_of(stage, trained)
    module = DENOISING_STAGES[stage].build(preset)
    batch = batch_of(stage, preset)
    parameters = [each for each in module.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-3)
    before, _ = DENOISING_STAGES[stage].loss(module, batch, torch.Generator())
    before.backward()
    optimizer.step()
    after, _ = DENOISING_STAGES[stage].loss(module, batch, torch.Generator())
    assert float(after.detach()) < float(before.detach())


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of Stable Diffusion 1.5, of tiny sizes."""
    folder = tmp_path_factory.mktemp("sd")
    torch.manual_seed(3)
    sizes = tiny_sizes()
    UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    networks = build_networks(sizes)
    networks.vae.save_pretrained(folder / "vae")
    networks.empty_prompt.save_pretrained(folder / "empty_prompt")
    return folder


def test_a_start_from_stable_diffusion_copies_the_backbone(stable_diffusion: Path) -> None:
    networks = load_start(build_networks(tiny_sizes()), [stable_diffusion], ("unet", "vae", "empty_prompt"))
    theirs = load_file(stable_diffusion / "unet" / "diffusion_pytorch_model.safetensors")
    backbone = dict(networks.unet.named_parameters())
    assert all(torch.equal(backbone[name], tensor) for name, tensor in theirs.items())
    for copy in (networks.reference_unet, networks.controlnet):
        own = {name: p for name, p in copy.named_parameters() if not name.startswith("controlnet_")}
        assert len(own) > 50
        assert all(torch.equal(parameter, theirs[name]) for name, parameter in own.items())


def test_an_untrained_camera_and_views_stage_changes_nothing(stable_diffusion: Path) -> None:
    networks = load_start(build_networks(tiny_sizes()), [stable_diffusion], ("unet",))
    plain = UNet2DConditionModel.from_pretrained(stable_diffusion / "unet", low_cpu_mem_usage=False)
    sample, cameras = torch.randn(2, 4, 4, 4), torch.rand(2, 3, 16, 16)
    prompt = torch.randn(1, 3, 8)
    with torch.no_grad():
        hint = networks.controlnet.embed_hint(cameras)
        control = networks.controlnet(sample, 500, prompt, hint_embedding=hint)
        ours = networks.unet(
            sample, 500, prompt, num_views=2, control_residuals=control, mid_view_attention="always"
        )
        theirs = plain(sample, 500, prompt.expand(2, -1, -1)).sample
        bank = networks.reference_unet(sample[:1], 500, prompt)
        with_reference = [
            networks.unet(sample, 500, prompt, num_views=views, reference_bank=bank, control_residuals=added)
            for views, added in ((2, control), (1, None))
        ]
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(with_reference[0], with_reference[1])
    assert not torch.allclose(with_reference[0], ours, atol=1e-4)  # the copy is read, untrained as it is


@pytest.mark.parametrize(
    ("change", "fault"),
    [("drop", "missing conv_in.weight"), ("add", "unexpected stray"), ("reshape", r"conv_in.bias is \[3\]")],
)
def test_a_start_that_does_not_fit_is_refused(
    stable_diffusion: Path, tmp_path: Path, change: str, fault: str
) -> None:
    shutil.copytree(stable_diffusion, tmp_path / "sd")
    file = tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    if change == "drop":
        del tensors["conv_in.weight"]
    tensors |= {"add": {"stray": torch.zeros(1)}, "reshape": {"conv_in.bias": torch.zeros(3)}}.get(change, {})
    save_file(tensors, file)
    with pytest.raises(WeightsError, match=fault):
        load_start(build_networks(tiny_sizes()), [tmp_path / "sd"], ("unet",))


def test_a_missing_start_names_the_stage_that_gives_it(stable_diffusion: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run of the stage 'reference'"):
        load_start(build_networks(tiny_sizes()), [stable_diffusion], ("unet", "reference_unet"))
    with pytest.raises(UsageError, match="no networks here"):
        load_start(build_networks(tiny_sizes()), [tmp_path], ("unet",))


def test_stages_follow_one_another_by_their_exports(stable_diffusion: Path, tmp_path: Path) -> None:
    start = stable_diffusion
    networks: DenoisingNetworks | None = None
    for name in ("reference", "camera", "views"):
        preset = preset_of(name, start)
        module = DENOISING_STAGES[name].build(preset)
        if networks is not None:
            found = module.state_dict()
            for key, value in networks.state_dict().items():
                assert torch.equal(found[key], value), key
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.01)
        start = tmp_path / name
        DENOISING_STAGES[name].export(module, start)
        networks = module
    pipeline = DiffPortraitPipeline.from_pretrained(start, low_cpu_mem_usage=False)
    assert torch.equal(pipeline.controlnet.conv_in.weight, networks.controlnet.conv_in.weight)
    assert (start / "manifest.json").is_file()


@pytest.mark.parametrize("stage", DENOISING)
def test_validation_and_samples_repeat(stage: StageName, trained: Path) -> None:
    module = DENOISING_STAGES[stage].build(preset_of(stage, trained)).eval()
    with torch.inference_mode():
        first, again = (DENOISING_STAGES[stage].validate(module) for _ in range(2))
        grid = DENOISING_STAGES[stage].grid(module)
    assert first == again
    assert set(first) == {"loss", "psnr", "ssim"}
    assert grid.dtype == np.uint8
    assert grid.shape[2] == 3


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"drop": {"reference": 0.1}}, "learns nothing from a subject without it"),
        ({"batch": 3}, "no whole number of groups"),
        ({"drop": {"camera": 1.5}}, r"share in \[0, 1\)"),
        ({"pool": 1}, "too small for groups"),
        ({"bach": 3}, "Unknown setting 'bach'"),
    ],
)
def test_senseless_steps_are_refused(step: dict[str, object], message: str, trained: Path) -> None:
    with pytest.raises(UsageError, match=message):
        DENOISING_STAGES["reference"].build(preset_of("reference", trained, **step))


def batches(pool: int = 0, drop: DropRates | None = None, groups: int = 2) -> ViewBatches:
    drop = drop or DropRates()
    return ViewBatches(
        Ellipsoids(), "train", batch=3 * groups, views=3, size=16, drop=drop, pool=pool, seed=5, steps=10
    )


@pytest.mark.parametrize("pool", [0, 4])
def test_a_batch_depends_on_seed_and_step_alone(pool: int) -> None:
    once, again = batches(pool), batches(pool)
    first = [once[step] for step in (0, 1, 2)]
    second = [again[step] for step in (2, 1, 0)][::-1]
    for one, other in zip(first, second, strict=True):
        for name, value in vars(one).items():
            assert torch.equal(value, getattr(other, name)), name
    assert not torch.equal(first[0].images, first[1].images)
    assert first[0].images.shape == (2, 3, 3, 16, 16)


def test_conditions_show_somebody_else_at_the_same_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, Tensor]] = []

    class Watched(Ellipsoids):
        def __len__(self) -> int:
            return 2

        def views(self, index: int, labels: Tensor, size: int):  # type: ignore[no-untyped-def]
            asked.append((index, labels))
            return super().views(index, labels, size)

    monkeypatch.setattr("dp3d_cli.training.groups.ProceduralSubjects", lambda split: Watched())
    made = ViewBatches(
        Watched(), "train", batch=2, views=2, size=16, drop=DropRates(), pool=0, seed=0, steps=20
    )
    for step in range(20):
        made[step]
    for (subject, seen), (other, from_there) in zip(asked[::2], asked[1::2], strict=True):
        assert other == 1 - subject
        assert torch.equal(seen[1:], from_there)


def test_dropped_shares_are_those_of_the_preset() -> None:
    made = batches(pool=3, drop=DropRates(reference=0.1, camera=0.2, both=0.05), groups=4000)[0]
    reference, camera = made.use_reference, made.use_camera
    shares = [(~reference & camera), (reference & ~camera), (~reference & ~camera)]
    assert [float(share.float().mean()) for share in shares] == pytest.approx([0.1, 0.2, 0.05], abs=0.02)


def test_noise_belongs_to_the_sample_not_to_its_place() -> None:
    seeds = torch.tensor([3, 9])
    noise = sample_noise(seeds, (2, 4), torch.zeros(1))
    assert torch.equal(sample_noise(seeds.flip(0), (2, 4), torch.zeros(1)), noise.flip(0))
    assert not torch.equal(noise[0], noise[1])


def test_shares_of_a_batch_give_its_gradient(trained: Path) -> None:
    """What averaging over processes relies on; the loop's own test really starts two."""
    preset = preset_of("views", trained, batch=8, drop={"both": 0.5})
    module = DENOISING_STAGES["views"].build(preset)
    batch = batch_of("views", preset)
    assert len(set(batch.use_reference.tolist())) == 2
    whole = gradients("views", module, batch)
    parts = [gradients("views", module, share_of(batch, process, 2)) for process in (0, 1)]
    for name, gradient in whole.items():
        mean = sum(part.get(name, torch.zeros_like(gradient)) for part in parts) / 2
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match="3 processes cannot share"):
        share_of(batch, 0, 3)


@pytest.mark.parametrize("stage", ["reference", "views"])
def test_recomputed_blocks_give_the_same_gradients(stage: StageName, trained: Path) -> None:
    preset = preset_of(stage, trained)
    module = DENOISING_STAGES[stage].build(preset).train()
    batch = batch_of(stage, preset)
    plain = gradients(stage, module, batch)
    names = list(module.state_dict())
    assert recompute_blocks(module) > 20
    assert recompute_blocks(module) == 0
    calls = 0
    block: nn.Module = module.unet.mid_block.resnets[1].conv1

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    block.register_forward_hook(count)
    again = gradients(stage, module, batch)
    assert calls == 2  # forward, and again in the backward pass
    assert list(module.state_dict()) == names
    assert again.keys() == plain.keys()
    assert all(torch.equal(again[name], gradient) for name, gradient in plain.items())


def test_the_codec_trains_and_the_next_stage_takes_it(trained: Path, tmp_path: Path) -> None:
    stage = VaeStage()
    preset = replace(preset_of("vae", trained), start=())
    vae = stage.build(preset)
    batch = stage.batches(preset, Ellipsoids(), 0, 3)[0]
    loss, _ = stage.loss(vae, batch, torch.Generator())
    loss.backward()
    with torch.inference_mode():
        assert set(stage.validate(vae)) == {"psnr", "ssim"}
        assert stage.grid(vae).ndim == 3
    stage.export(vae, tmp_path / "export")
    factor = json.loads((tmp_path / "export" / "vae" / "config.json").read_text())["scaling_factor"]
    assert factor > 0
    module = DENOISING_STAGES["backbone"].build(preset_of("backbone", tmp_path))
    assert module.vae.config.scaling_factor == factor
    assert torch.equal(module.vae.decoder.conv_in.weight, vae.decoder.conv_in.weight)


def test_what_a_backbone_exports_starts_both_copies(trained: Path, tmp_path: Path) -> None:
    module = DENOISING_STAGES["backbone"].build(preset_of("backbone", trained))
    with torch.no_grad():
        module.unet.conv_in.weight.add_(1)
    DENOISING_STAGES["backbone"].export(module, tmp_path / "export")
    following = DENOISING_STAGES["reference"].build(preset_of("reference", tmp_path))
    for copy in (following.reference_unet, following.controlnet):
        assert torch.equal(copy.conv_in.weight, module.unet.conv_in.weight)


@pytest.mark.parametrize("stage", ["reference", "camera", "views"])
def test_the_full_preset_takes_a_step_at_tiny_sizes(
    stage: StageName, trained: Path, stable_diffusion: Path
) -> None:
    """The preset's own step, at 16 pictures, with only networks and pictures made small."""
    full = load_train_preset("full", stage)
    assert full.loop.learning_rate == 1e-5
    assert full.step["batch"] == 16
    assert full.step.get("views", 1) == (8 if stage == "views" else 1)
    start = stable_diffusion if stage == "reference" else trained
    preset = replace(full, sizes=tiny_sizes(), size=16, start=(start,))
    module = DENOISING_STAGES[stage].build(preset)
    batch = batch_of(stage, preset)
    assert batch.images.shape[:2].numel() == 16
    assert all(bool(torch.isfinite(each).all()) for each in gradients(stage, module, batch).values())


def test_the_full_preset_builds_the_published_sizes() -> None:
    with torch.device("meta"):
        networks = build_networks(load_train_preset("full", "views").sizes)
    assert (
        sum(p.numel() for n, p in networks.unet.named_parameters() if "view_attention" not in n)
        == 859_520_964
    )


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from torch import nn
from dp3d_cli.training.loop import LoopSettings, sample_noise, train

class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, step):
        generator = torch.Generator().manual_seed(step)
        return {"x": torch.randn(8, 3, generator=generator), "seeds": torch.arange(8) + 8 * step}

def loss_of(module, batch, generator):
    noise = 0.1 * sample_noise(batch["seeds"], (3,), batch["x"])
    return (module(batch["x"] + noise) - batch["x"].sum(1, keepdim=True)).square().mean(), {}

torch.manual_seed(0)
module = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1), nn.Linear(1, 1))
module[3].requires_grad_(False)
settings = LoopSettings(steps=6, decay_steps=1, warmup_steps=1, learning_rate=0.01, log_every=1, workers=0)
train(module, Numbers(), loss_of, settings, Path(sys.argv[1]))
Path(sys.argv[1] + "-processes.txt").write_text(str(PartialState().num_processes))
"""


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launch, str(script), str(tmp_path / "two")], check=True, timeout=120)
    subprocess.run([sys.executable, str(script), str(tmp_path / "one")], check=True, timeout=120)
    worlds = {name: (tmp_path / f"{name}-processes.txt").read_text() for name in ("one", "two")}
    assert worlds == {"one": "1", "two": "2"}
    one, two = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("one", "two"))
    for name, expected in one["module"].items():
        torch.testing.assert_close(two["module"][name], expected, rtol=1e-6, atol=1e-7)
    for key, value in one["optimizer"]["state"].items():
        found = two["optimizer"]["state"][key]["exp_avg"]
        torch.testing.assert_close(found, value["exp_avg"], rtol=1e-5, atol=1e-7)
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 6  # one process writes
    for line, other in zip(*logs, strict=True):
        assert json.loads(line)["grad_norm"] == pytest.approx(json.loads(other)["grad_norm"], rel=1e-5)
