"""The proxy stage, through the engine."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from dp3d_cli.core.cameras.camera import Camera, Trajectory
from dp3d_cli.core.cameras.trajectories import gen_videos
from dp3d_cli.core.errors import InputError
from dp3d_cli.core.images import read_image, resize, write_png
from dp3d_cli.core.videos import read_frames
from dp3d_cli.stages.engine.progress import Outcome
from dp3d_cli.stages.engine.run import RunOptions, run_stage
from dp3d_cli.stages.engine.stage import Item
from dp3d_cli.stages.proxy import (
    ProxyStage,
    choose_reference,
    proxy_files,
    read_proxies,
    references_of,
    sidecar_of,
    template_proxies,
)
from tests.core.faces.pictures import portrait_path
from tests.core.proxies.portraits import BOX, SIDE, drawn_portrait
from tests.fakes.progress import Recorder

TWO = gen_videos(2)


def aligned(path: Path, *, box: bool = True, camera: Camera | None = None) -> Path:
    """A drawn portrait with the JSON that align would write beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, drawn_portrait())
    content = {"format": "dp3d-aligned", "version": 1, "box": None, "camera": None}
    if box:
        content["box"] = {"original": list(BOX), "crop": list(BOX)}
    if camera is not None:
        content["camera"] = {"label": camera.label.tolist()}
    sidecar_of(path).write_text(json.dumps(content))
    return path


def run(stage: ProxyStage, items: list[Item], output: Path) -> list[Outcome]:
    recorder = Recorder()
    run_stage(stage, stage.items_of(items), output, RunOptions(), recorder)
    return recorder.outcomes


def tree(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".dp3d" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_view_gets_picture_confidence_and_coverage(tmp_path: Path) -> None:
    item = Item("team/anna", (aligned(tmp_path / "anna.png"),))
    (outcome,) = run(ProxyStage(TWO, 64), [item], tmp_path / "out")
    assert outcome.status == "done"
    made = tree(tmp_path / "out/team/anna")
    views = {f"{inner}{view}.png" for inner in ("", "confidence/", "coverage/") for view in ("000", "001")}
    assert set(made) == views | {"proxy.json"}
    assert read_image(tmp_path / "out/team/anna/000.png").shape == (64, 64, 3)
    facts = json.loads((tmp_path / "out/team/anna/proxy.json").read_text())
    assert facts["reference"] == "anna.png"
    assert facts["box_from"] == "alignment"
    assert 0 < facts["outline_doubt"] < 1
    assert facts["reference_camera"]["from"] == "estimated"
    assert facts["placement"]["scale"] == pytest.approx(0.966, abs=0.01)
    assert [view["file"] for view in facts["views"]] == ["000.png", "001.png"]


def test_results_do_not_depend_on_the_other_portraits(tmp_path: Path) -> None:
    items = [Item(name, (aligned(tmp_path / f"{name}.png"),)) for name in ("a", "b")]
    run(ProxyStage(TWO, 64), items, tmp_path / "both")
    run(ProxyStage(TWO, 64), items[1:], tmp_path / "one")
    both, one = tree(tmp_path / "both"), tree(tmp_path / "one")
    assert one.items() <= both.items()
    assert len(both) == 2 * len(one)


def test_what_is_read_back_is_what_was_made(tmp_path: Path) -> None:
    reference = aligned(tmp_path / "anna.png")
    run(ProxyStage(TWO, 64), [Item("anna", (reference,))], tmp_path / "out")
    read = read_proxies(tmp_path / "out", "anna", TWO.view_names, 64)
    made = template_proxies(reference, TWO.labels, 64)
    assert np.array_equal(read.images, made.images)
    assert np.array_equal(read.confidences, made.confidences)
    assert np.array_equal(read.coverages, made.coverages)
    assert read.warnings == ()
    assert len(proxy_files(tmp_path / "out", "anna")) == 6


def test_a_portrait_without_a_face_fails_with_its_reason(tmp_path: Path) -> None:
    grey = tmp_path / "grey.png"
    write_png(grey, np.full((SIDE, SIDE, 3), 128, np.uint8))
    good = Item("good", (aligned(tmp_path / "good.png"),))
    bad, done = sorted(
        run(ProxyStage(TWO, 64), [Item("grey", (grey,)), good], tmp_path / "out"),
        key=lambda o: o.status != "failed",
    )
    assert (bad.status, bad.reason) == ("failed", "no-face")
    assert "grey.png" in bad.message
    assert done.status == "done"
    assert not (tmp_path / "out/grey").exists()


def test_an_alignment_without_a_face_is_looked_at_again(tmp_path: Path) -> None:
    path = aligned(tmp_path / "a.png", box=False)
    write_png(path, np.full((SIDE, SIDE, 3), 128, np.uint8))
    with pytest.raises(InputError) as caught:
        template_proxies(path, TWO.labels, 64)
    assert caught.value.reason == "no-face"


def test_a_portrait_that_is_not_square_was_not_aligned(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    write_png(path, np.zeros((64, 80, 3), np.uint8))
    with pytest.raises(InputError, match="80x64") as caught:
        template_proxies(path, TWO.labels, 64)
    assert caught.value.reason == "not-aligned"


def test_the_known_camera_is_the_reference(tmp_path: Path) -> None:
    camera = Camera.look_at(0.2, 0.05)
    path = aligned(tmp_path / "a.png", camera=camera)
    made = template_proxies(path, camera.label[None].astype(np.float32), SIDE)
    assert made.facts["reference_camera"]["from"] == "alignment"
    trusted = made.confidences[0] > 250
    difference = np.abs(made.images[0].astype(int) - drawn_portrait())[trusted]
    assert trusted.mean() > 0.5
    assert difference.mean() < 5


def test_a_portrait_that_is_turned_far_is_made_with_a_warning(tmp_path: Path) -> None:
    made = template_proxies(aligned(tmp_path / "a.png", camera=Camera.look_at(-0.5, 0.0)), TWO.labels, 64)
    assert any("turned by 29 degrees" in warning for warning in made.warnings)
    made = template_proxies(aligned(tmp_path / "b.png", camera=Camera.look_at(0.2, 0.0)), TWO.labels, 64)
    assert not any("turned" in warning for warning in made.warnings)


def test_the_most_frontal_reference_is_chosen_if_all_cameras_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = aligned(tmp_path / "a.png", camera=Camera.look_at(0.5, 0))
    frontal = aligned(tmp_path / "b.png", camera=Camera.look_at(-0.1, 0.2))
    estimated = aligned(tmp_path / "c.png")
    assert choose_reference([turned, frontal]) == frontal
    assert choose_reference([turned, frontal, estimated]) == estimated  # drawn without a turn
    write_png(tmp_path / "grey.png", np.full((SIDE, SIDE, 3), 128, np.uint8))
    assert choose_reference([turned, frontal, tmp_path / "grey.png"]) == turned  # one without a face
    monkeypatch.setattr("dp3d_cli.stages.proxy.portrait_camera", lambda image, box: None)
    assert choose_reference([turned, frontal, estimated]) == turned
    item = ProxyStage(TWO).items_of([Item("s", (turned, frontal))])[0]
    assert references_of(item) == (turned, frontal)
    assert item.inputs[2:] == (sidecar_of(turned), sidecar_of(frontal))


def test_proxies_made_elsewhere_are_taken_over(tmp_path: Path) -> None:
    for index in range(2):
        picture = tmp_path / f"given/anna/{index:07d}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_png(picture, np.full((32, 32, 3), 10 * index, np.uint8))
    items = [Item(name, (aligned(tmp_path / f"{name}.png"),)) for name in ("anna", "berta")]
    anna, berta = run(ProxyStage(TWO, 64, images=tmp_path / "given"), items, tmp_path / "out")
    assert anna.status == "done"
    assert "trusted everywhere" in anna.warnings[0]
    assert read_image(tmp_path / "out/anna/001.png").shape == (64, 64, 3)
    assert (berta.status, berta.reason) == ("failed", "no-proxies")


def test_settings_tell_cameras_and_size_apart() -> None:
    stages = [ProxyStage(TWO), ProxyStage(gen_videos(3)), ProxyStage(TWO, 128)]
    settings = [json.dumps(dict(stage.settings), sort_keys=True) for stage in stages]
    assert len(set(settings)) == 3
    assert set(stages[0].weights) == {"landmarks", "foreground"}
    assert ProxyStage(TWO, images=Path("elsewhere")).weights == {}
    renamed = Trajectory("other", TWO.cameras, TWO.closed)
    assert ProxyStage(renamed).settings == ProxyStage(TWO).settings


@pytest.mark.slow
@pytest.mark.parametrize("name", ["0000167", "0000270"])
def test_real_portraits_turn_as_published_views_do(tmp_path: Path, name: str) -> None:
    published = read_frames(portrait_path(name).with_name("official_views.mp4"))
    write_png(tmp_path / "a.png", read_image(portrait_path(name)))
    labels = gen_videos(16).labels
    made = template_proxies(tmp_path / "a.png", labels, 256)
    mirrored = template_proxies(tmp_path / "a.png", gen_videos(16).labels[(-np.arange(16)) % 16], 256)
    assert made.facts["box_from"] == "detected"
    assert made.facts["reference_camera"]["from"] == "estimated"
    right, wrong = (
        np.mean([likeness(views.images[at], resize(published[at], 256)) for at in (3, 4, 5, 11, 12, 13)])
        for views in (made, mirrored)
    )
    assert right > 0.65
    assert right > wrong + 0.1


def likeness(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Correlation of the luma in the face, [-1, 1]."""
    a, b = (image[56:196, 62:194].astype(float) @ [0.299, 0.587, 0.114] for image in (ours, theirs))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
