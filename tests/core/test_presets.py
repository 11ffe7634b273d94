from pathlib import Path

import pytest

from dp3d_cli.core.errors import UsageError
from dp3d_cli.core.presets import load_preset, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_every_shipped_preset_is_valid(name: str) -> None:
    assert load_preset(name).name == name


def test_the_shipped_presets_are_those_of_the_documentation() -> None:
    assert preset_names() == ["diffportrait3d", "diffportrait3d-fast", "diffportrait3d-official", "nano"]


def test_overrides_take_full_or_unique_short_keys() -> None:
    preset = load_preset("nano", ["sampler.eta=0.5", "num_inference_steps=7", "view_group.size=6", "seed=3"])
    assert preset.sampler.eta == 0.5
    assert preset.sampler.num_inference_steps == 7
    assert preset.sampler.view_group.size == 6
    assert preset.seed == 3  # the preset's own seed, not the cameras' seed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampler.steps=3", "unknown setting 'sampler.steps'"),
        ("eta=2", "'sampler.eta' is 2"),
        ("eta", "not of the form key=value"),
        ("size=300", "'size' is 300"),
        ("size.x=1", "'size' is not a section"),
        ("eta=[", "not valid YAML"),
        ("view_group.size=3", "groups of 3 views overlap by less"),
        ("guidance_interval=[0.8, 0.2]", "the lower end comes first"),
    ],
)
def test_a_wrong_override_names_the_key(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        load_preset("nano", [override])


def test_an_unknown_key_suggests_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("weights: nano\nsize: 256\nsampler: {guidance_scal: 2}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"did you mean 'sampler\.guidance_scale'"):
        load_preset(path)


def test_a_users_own_file_works_like_a_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("weights: /data/w\nsize: 512\n", encoding="utf-8")
    preset = load_preset(str(path))
    assert (preset.name, preset.weights) == ("mine", "/data/w")


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", ""])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"bad\.yaml"):
        load_preset(path)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'nano'"):
        load_preset("nanno")
