import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dp3d_cli.core.diffusion.checkpoint import read_checkpoint
from dp3d_cli.core.diffusion.clip_text import empty_prompt_embedding
from dp3d_cli.core.diffusion.convert import convert_checkpoint, convert_tensors
from dp3d_cli.core.diffusion.pipeline import DiffPortraitPipeline
from dp3d_cli.core.diffusion.published_names import CONTROL, REFERENCE, UNET, VAE, network_name, vae_name
from dp3d_cli.core.diffusion.published_sizes import PublishedConfig, read_published_config
from dp3d_cli.core.errors import WeightsError
from tests.core.diffusion.tiny import published_sizes, shake

KEY_LIST = Path(__file__).parents[3] / "../shared/diffportrait3d/checkpoint_keys.json"
HEADS = PublishedConfig(heads=2, view_heads=2, scaling_factor=0.5)


@pytest.fixture(scope="module")
def original() -> DiffPortraitPipeline:
    return shake(DiffPortraitPipeline.from_sizes(published_sizes()))


@pytest.fixture(scope="module")
def published(original: DiffPortraitPipeline) -> dict[str, Tensor]:
    """The original's weights under their published names."""
    tensors: dict[str, Tensor] = {}
    for prefix, network in (
        (UNET, original.unet),
        (REFERENCE, original.reference_unet),
        (CONTROL, original.controlnet),
    ):
        for name, parameter in network.named_parameters():
            tensors[prefix + network_name(name, 1, lambda _level: True)] = parameter.data
    for name, parameter in original.vae.named_parameters():
        theirs = vae_name(name, 3)
        is_kernel = "attn_1" in theirs and parameter.ndim == 2
        tensors[VAE + theirs] = parameter.data[:, :, None, None] if is_kernel else parameter.data
    return tensors


@pytest.fixture(scope="module")
def prompt(original: DiffPortraitPipeline) -> Tensor:
    return original.empty_prompt.embedding.data


def convert(tensors: dict[str, Tensor], prompt: Tensor) -> DiffPortraitPipeline:
    return convert_tensors(tensors, HEADS, empty_prompt=prompt).pipeline


def assert_equal(found: DiffPortraitPipeline, expected: DiffPortraitPipeline) -> None:
    for name in ("unet", "reference_unet", "controlnet", "vae", "empty_prompt"):
        theirs, ours = getattr(expected, name), getattr(found, name)
        for key in ("block_out_channels", "attention_levels", "num_attention_heads", "layers_per_block"):
            if key in theirs.config:
                assert np.array_equal(ours.config[key], theirs.config[key]), (name, key)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=0.0, rtol=0.0)


def test_conversion_finds_every_weight_and_size(
    original: DiffPortraitPipeline, published: dict[str, Tensor], prompt: Tensor
) -> None:
    conversion = convert_tensors(published, HEADS, empty_prompt=prompt)
    assert_equal(conversion.pipeline, original)
    assert conversion.used == published.keys()
    assert conversion.dropped == {}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "safetensors", "state_dict", "model"])
def test_files_and_wrappers_of_every_kind_are_read(
    published: dict[str, Tensor], tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    tensors = {prefix + name: tensor for name, tensor in published.items()}
    if wrapper == "safetensors":
        path = tmp_path / "checkpoint.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        path = tmp_path / "checkpoint.th"
        torch.save(tensors if wrapper is None else {wrapper: tensors, "epoch": 3}, path)
    found = read_checkpoint(path)
    assert found.keys() == published.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in published.items())


def test_a_converted_folder_loads_as_a_pipeline(
    original: DiffPortraitPipeline, published: dict[str, Tensor], prompt: Tensor, tmp_path: Path
) -> None:
    torch.save(published, tmp_path / "checkpoint.th")
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model": {
                    "scale_factor": 0.5,
                    "unet_config": {
                        "params": {
                            "num_heads": 2,
                            "unet_additional_kwargs": {"motion_module_kwargs": {"num_attention_heads": 2}},
                        }
                    },
                }
            }
        )
    )
    convert_checkpoint(
        tmp_path / "checkpoint.th", tmp_path / "out", config=tmp_path / "config.json", empty_prompt=prompt
    )
    assert_equal(DiffPortraitPipeline.from_pretrained(tmp_path / "out"), original)


def test_weights_may_be_stored_in_half_precision(published: dict[str, Tensor], prompt: Tensor) -> None:
    pipeline = convert_tensors(published, HEADS, empty_prompt=prompt, dtype=torch.float16).pipeline
    assert {p.dtype for p in pipeline.unet.parameters()} == {torch.float16}


def test_every_fault_is_listed(published: dict[str, Tensor], prompt: Tensor) -> None:
    tensors = dict(published)
    del tensors["control_model.time_embed.0.weight"]
    tensors["model.diffusion_model.out.2.bias"] = torch.zeros(7)
    tensors["model_ema.decay"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        convert(tensors, prompt)
    assert caught.value.reason == "checkpoint-mismatch"
    for fault in (
        "missing control_model.time_embed.0.weight",
        "model.diffusion_model.out.2.bias is (7,), expected (4,)",
        "unexpected model_ema.decay",
    ):
        assert fault in str(caught.value)


def test_what_has_no_effect_is_dropped_by_name(published: dict[str, Tensor], prompt: Tensor) -> None:
    tail = "control_model.output_blocks.3.1.transformer_blocks.0.ff.net.2.weight"
    hint = "control_model.input_hint_block.0.weight"
    tensors = {**published, tail: torch.zeros(1), hint: torch.zeros(1), "betas": torch.zeros(1000)}
    conversion = convert_tensors(tensors, HEADS, empty_prompt=prompt)
    assert conversion.dropped.keys() == {tail, hint, "betas"}


def test_a_foreign_noise_schedule_is_refused(published: dict[str, Tensor], prompt: Tensor) -> None:
    tensors = {**published, "alphas_cumprod": torch.linspace(1, 0, 1000)}
    with pytest.raises(WeightsError, match="noise schedule"):
        convert(tensors, prompt)


def test_a_foreign_positional_encoding_is_refused(published: dict[str, Tensor], prompt: Tensor) -> None:
    name = "model.diffusion_model.x.pos_encoder.pe"
    with pytest.raises(WeightsError, match="sinusoidal"):
        convert({**published, name: torch.zeros(1, 32, 32)}, prompt)


def test_a_checkpoint_without_text_encoder_needs_the_prompt(published: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match="no text encoder"):
        convert_tensors(published, HEADS)


def test_the_full_key_list_is_accounted_for() -> None:
    if not KEY_LIST.is_file():
        pytest.skip(f"{KEY_LIST} is absent")
    listing = json.loads(KEY_LIST.read_text())
    tensors = {name: torch.empty(shape, device="meta") for name, shape in listing["keys"].items()}
    conversion = convert_tensors(tensors)
    assert conversion.used | conversion.dropped.keys() == tensors.keys()
    assert not conversion.used & conversion.dropped.keys()
    unused = {name for name in conversion.dropped if not name.endswith(".pe") and "." in name}
    assert unused == set(listing["unused_at_inference"])
    assert conversion.pipeline.empty_prompt.embedding.shape == (1, 77, 768)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path, mark = tmp_path / "checkpoint.th", tmp_path / "executed"
    content = {"state_dict": {"model.diffusion_model.time_embed.0.weight": Bomb(mark)}}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert caught.value.reason == "unsafe-checkpoint"
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".th"])
@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.99])
def test_a_truncated_file_is_called_damaged(
    published: dict[str, Tensor], tmp_path: Path, suffix: str, kept: float
) -> None:
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".th":
        torch.save(published, path)
    else:
        save_file({name: tensor.contiguous() for name, tensor in published.items()}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    with pytest.raises(WeightsError, match=r"Fetch it again|refused"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [[1, 2], {}, {"state_dict": {}}, {"weight": torch.zeros(1)}, {"weight": torch.zeros(1), "step": 3}],
)
def test_a_file_with_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "checkpoint.th"
    torch.save(content, path)
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path)
    assert caught.value.reason == "foreign-checkpoint"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "nothing.th")


def test_a_configuration_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected a number"):
        read_published_config({"linear_start": "small"})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="no readable JSON"):
        convert_checkpoint(tmp_path / "checkpoint.th", config=tmp_path / "config.json")


def test_the_empty_prompt_equals_that_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=50,
            hidden_size=128,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=9,
            bos_token_id=48,
            eos_token_id=49,
        )
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        expected = model(torch.tensor([[48] + [49] * 8])).last_hidden_state
        torch.testing.assert_close(empty_prompt_embedding(weights), expected, atol=1e-4, rtol=1e-4)
