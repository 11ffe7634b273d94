"""Folders of pictures with cameras: formats, worlds, splits, and what is wrong with some of them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dp3d_cli.core.cameras.camera import FOCAL, Camera, Trajectory, look_at_cam2world, normalised_intrinsics
from dp3d_cli.core.cameras.files import write_cameras, write_transforms
from dp3d_cli.core.cameras.paths import gen_videos, panohead
from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.renderers.procedural import ProceduralHead
from dp3d_cli.training.data import ProceduralSubjects, open_subjects
from dp3d_cli.training.folders import FRONTAL, FolderSubjects, choose_views, split_of
from dp3d_cli.training.subject_files import axes_meet, read_subject, to_eg3d

SIZE = 48


def write_subject(
    folder: Path,
    trajectory: Trajectory | None = None,
    *,
    kind: str = "cameras.json",
    seed: int = 3,
    alpha: bool = False,
    masks: bool = False,
) -> Trajectory:
    """A subject of noise pictures, one a camera, each of another colour."""
    trajectory = trajectory or gen_videos(4)
    images = folder / "images"
    images.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    names = [f"images/{view}.png" for view in trajectory.view_names]
    for name in names:
        picture = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
        cover = np.zeros((SIZE, SIZE), np.uint8)
        cover[: SIZE // 2] = 255
        if alpha:
            picture = np.concatenate([picture, cover[..., None]], -1)
        Image.fromarray(picture).save(folder / name)
        if masks:
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(cover).save(folder / "masks" / Path(name).name)
    if kind == "cameras.json":
        write_cameras(folder / kind, trajectory, names)
    elif kind == "transforms.json":
        write_transforms(folder / kind, trajectory, SIZE, names, z_up=True)
    else:
        rows = [[Path(n).name, c.label.tolist()] for n, c in zip(names, trajectory.cameras, strict=True)]
        (folder / kind).write_text(json.dumps({"labels": rows}))
    return trajectory


def people(split: str, count: int) -> list[str]:
    """Names that the hash puts into a split."""
    names = (f"person{number}" for number in range(10_000))
    return [name for name in names if split_of(name) == split][:count]


@pytest.mark.parametrize("kind", ["cameras.json", "transforms.json", "dataset.json"])
def test_each_camera_file_gives_the_cameras_and_pictures_that_were_written(tmp_path: Path, kind: str) -> None:
    written = write_subject(tmp_path / people("train", 1)[0], kind=kind)
    subjects = FolderSubjects(tmp_path, "train")
    np.testing.assert_allclose(subjects.labels_of(0).numpy(), written.labels, atol=2e-6)
    views = subjects.views(0, subjects.labels_of(0)[[2]], SIZE)
    with Image.open(tmp_path / subjects.subjects[0].name / "images" / "002.png") as picture:
        expected = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255
    assert torch.equal(views.images, expected)


def test_pictures_may_lie_beside_the_camera_file_as_render_cams_writes_them(tmp_path: Path) -> None:
    folder = tmp_path / people("train", 1)[0]
    written = write_subject(folder)
    for path in list((folder / "images").iterdir()):
        path.rename(folder / path.name)
    (folder / "images").rmdir()
    write_cameras(folder / "cameras.json", written)
    write_transforms(folder / "transforms.json", written, SIZE)
    for kind in ("cameras.json", "transforms.json"):
        subject = read_subject(folder, "a")
        assert [path.name for path in subject.images] == ["000.png", "001.png", "002.png", "003.png"]
        (folder / kind).unlink()


def test_nerf_files_may_leave_the_suffix_out(tmp_path: Path) -> None:
    folder = tmp_path / people("train", 1)[0]
    write_subject(folder, kind="transforms.json")
    file = folder / "transforms.json"
    file.write_text(file.read_text().replace("images/00", "./images/00").replace(".png", ""))
    assert [path.name for path in read_subject(folder, "a").images][:2] == ["000.png", "001.png"]


def test_a_data_set_of_one_picture_a_person_is_not_taken_for_one_subject(tmp_path: Path) -> None:
    folder = tmp_path / people("train", 1)[0]
    write_subject(folder, kind="dataset.json")
    with pytest.raises(InputError, match="views of one subject"):
        FolderSubjects(folder, "train")
    assert len(FolderSubjects(tmp_path, "train")) == 1


def test_a_camera_that_a_subject_was_not_seen_from_is_refused(tmp_path: Path) -> None:
    write_subject(tmp_path / people("train", 1)[0])
    other = torch.from_numpy(Camera.look_at(0.5, 0.1).label)[None]
    with pytest.raises(ValueError, match="never seen from this camera"):
        FolderSubjects(tmp_path, "train").views(0, other, 16)


def test_a_sample_begins_near_frontal_and_repeats_no_view_needlessly(tmp_path: Path) -> None:
    write_subject(tmp_path / people("train", 1)[0], panohead(16))
    subjects = FolderSubjects(tmp_path, "train")
    for seed in range(5):
        labels = subjects.sample(0, 16, np.random.default_rng(seed), 16).labels
        reference = Camera.from_label(labels[0].numpy())
        assert max(abs(reference.yaw), abs(reference.pitch)) < FRONTAL + 0.2
        assert len(labels.unique(dim=0)) == 16
    assert len(subjects.sample(0, 40, np.random.default_rng(0), 8).labels) == 40


def test_equal_generators_give_equal_samples_and_others_others(tmp_path: Path) -> None:
    write_subject(tmp_path / people("train", 1)[0], gen_videos(12))
    subjects = FolderSubjects(tmp_path, "train")
    first, again, other = (subjects.sample(0, 5, np.random.default_rng(s), 16) for s in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)


def test_without_a_frontal_view_the_most_frontal_one_is_the_reference() -> None:
    cameras = [Camera.look_at(yaw, 0.0) for yaw in (-1.2, 0.7, 1.4)]
    assert all(choose_views(cameras, 2, np.random.default_rng(s))[0] == 1 for s in range(5))


@pytest.mark.parametrize("kind", ["alpha", "masks"])
def test_masks_come_from_their_folder_or_from_alpha(tmp_path: Path, kind: str) -> None:
    write_subject(tmp_path / people("train", 1)[0], alpha=kind == "alpha", masks=kind == "masks")
    views = FolderSubjects(tmp_path, "train").sample(0, 2, np.random.default_rng(0), SIZE)
    assert views.mask is not None
    assert views.mask[:, :, : SIZE // 2 - 1].min() == 1
    assert views.mask[:, :, SIZE // 2 + 1 :].max() == 0


def test_depth_and_points_follow_the_scale_of_the_world(tmp_path: Path) -> None:
    folder = tmp_path / people("train", 1)[0]
    shift = np.array([1.0, -2.0, 0.5])
    eg3d = gen_videos(6)
    metric = [
        Camera(_moved(camera.cam2world, 0.1 * camera.centre + shift), camera.intrinsics)
        for camera in eg3d.cameras
    ]
    write_subject(folder, Trajectory("metric", tuple(metric)))
    (folder / "depth").mkdir()
    for view in eg3d.view_names:
        np.save(folder / "depth" / f"{view}.npy", np.full((SIZE, SIZE), 0.25))
    points = ProceduralHead(5, detail=0.2).face_points.numpy()
    (folder / "face_points.json").write_text(json.dumps((0.1 * points + shift).tolist()))
    subjects = FolderSubjects(tmp_path, "train")
    views = subjects.sample(0, 2, np.random.default_rng(0), 32)
    assert subjects.subjects[0].scale == pytest.approx(10, rel=0.05)
    assert views.depth is not None
    assert views.face_points is not None
    assert float(views.depth.mean()) == pytest.approx(2.5, rel=0.05)
    np.testing.assert_allclose(views.face_points.numpy(), points, atol=0.02)
    np.testing.assert_allclose(subjects.labels_of(0).numpy()[:, 16:], eg3d.labels[:, 16:], atol=1e-6)
    for camera, expected in zip(subjects.subjects[0].cameras, eg3d.cameras, strict=True):
        assert camera.angle_to(expected) < 1e-6
        np.testing.assert_allclose(camera.centre, expected.centre, atol=0.1)


def _moved(cam2world: np.ndarray, centre: np.ndarray) -> np.ndarray:
    result = np.array(cam2world)
    result[:3, 3] = centre
    return result


@pytest.mark.parametrize("trajectory", [gen_videos(8), panohead(8)])
def test_eg3ds_and_panoheads_own_cameras_stay_as_they_are(trajectory: Trajectory) -> None:
    placed, scale, shift = to_eg3d(trajectory.cameras)
    assert placed == trajectory.cameras
    assert scale == 1
    assert not shift.any()


def test_axes_meet_where_cameras_look() -> None:
    point = (0.3, -0.1, 0.4)
    matrices = look_at_cam2world([0.1, 0.5, -0.7], [0.2, 0, -0.3], 2.0, point)
    cameras = [Camera(matrix, normalised_intrinsics()) for matrix in matrices]
    meeting = axes_meet(cameras)
    assert meeting is not None
    np.testing.assert_allclose(meeting, point, atol=1e-9)
    assert axes_meet([cameras[0], cameras[0]]) is None


def test_frames_that_are_not_square_are_cut_with_their_lens(tmp_path: Path) -> None:
    folder = tmp_path / people("train", 1)[0]
    trajectory = write_subject(folder, kind="transforms.json")
    data = json.loads((folder / "transforms.json").read_text())
    wide = SIZE + 20
    data.update(w=wide, cx=data["cx"] + 12)  # ten pixels to the left are cut, so the centre is 2 px off
    (folder / "transforms.json").write_text(json.dumps(data))
    for view in trajectory.view_names:
        picture = np.zeros((SIZE, wide, 3), np.uint8)
        picture[:, 10:-10] = 200
        Image.fromarray(picture).save(folder / "images" / f"{view}.png")
    subjects = FolderSubjects(tmp_path, "train")
    camera = subjects.subjects[0].cameras[0]
    assert camera.intrinsics[0, 0] == pytest.approx(FOCAL, abs=1e-5)
    assert camera.intrinsics[0, 2] == pytest.approx(0.5 + 2 / SIZE)
    assert camera.intrinsics[1, 2] == pytest.approx(0.5)
    views = subjects.sample(0, 2, np.random.default_rng(0), SIZE)
    assert torch.equal(views.images, torch.full_like(views.images, 200 / 255))


def test_a_field_of_view_is_that_of_the_whole_wide_frame(tmp_path: Path) -> None:
    folder = tmp_path / people("train", 1)[0]
    write_subject(folder, kind="transforms.json")
    data = json.loads((folder / "transforms.json").read_text())
    for key in ("fl_x", "fl_y", "cx", "cy"):
        del data[key]
    data.update(w=SIZE, h=2 * SIZE, camera_angle_x=2 * math.atan(0.5 / 4.0))
    (folder / "transforms.json").write_text(json.dumps(data))
    for path in (folder / "images").iterdir():
        Image.fromarray(np.zeros((2 * SIZE, SIZE, 3), np.uint8)).save(path)
    camera = FolderSubjects(tmp_path, "train").subjects[0].cameras[0]
    np.testing.assert_allclose(camera.intrinsics[:2], [[4, 0, 0.5], [0, 4, 0.5]], atol=1e-9)


def _cut_file(folder: Path) -> None:
    path = folder / "images" / "001.png"
    path.write_bytes(path.read_bytes()[:-200])


def _wrong_shape(folder: Path) -> None:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "images" / "001.png")


def _empty_cameras(folder: Path) -> None:
    (folder / "cameras.json").write_text("{}")


def _part_of_masks(folder: Path) -> None:
    (folder / "masks").mkdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "masks" / "000.png")


@pytest.mark.parametrize(
    ("spoil", "reason", "message"),
    [
        (lambda folder: (folder / "images" / "001.png").unlink(), "missing-file", "not there"),
        (lambda folder: (folder / "images" / "001.png").write_bytes(b""), "empty-file", "empty"),
        (_cut_file, "truncated-image", "cut short"),
        (_wrong_shape, "non-square-image", "60x40"),
        (_empty_cameras, "bad-cameras", "neither"),
        (_part_of_masks, "missing-file", "nothing for 001.png"),
        (
            lambda folder: Image.new("RGB", (SIZE, SIZE)).save(folder / "images" / "more.png"),
            "wrong-count",
            "5 pictures in images/, but cameras.json has 4",
        ),
        (lambda folder: (folder / "face_points.json").write_text("[1, 2]"), "bad-points", "5 x 3"),
    ],
)
def test_a_bad_subject_is_listed_with_its_reason_and_the_others_are_used(
    tmp_path: Path, spoil, reason: str, message: str
) -> None:
    good, bad = people("train", 2)
    write_subject(tmp_path / good)
    write_subject(tmp_path / bad)
    spoil(tmp_path / bad)
    with pytest.raises(InputError, match=message) as caught:
        read_subject(tmp_path / bad, bad)
    assert caught.value.reason == reason
    subjects = FolderSubjects(tmp_path, "train")
    assert [subject.name for subject in subjects.subjects] == [good]
    assert message in subjects.skipped[bad]


def test_damage_that_only_decoding_shows_is_listed_and_stepped_over(tmp_path: Path) -> None:
    good, bad = sorted(people("train", 2))
    write_subject(tmp_path / good)
    write_subject(tmp_path / bad, seed=4)
    for path in (tmp_path / bad / "images").iterdir():
        content = path.read_bytes()
        path.write_bytes(content[:41] + bytes(2) + content[43:])  # zlib's header
    subjects = FolderSubjects(tmp_path, "train")
    assert len(subjects) == 2
    first = subjects.sample(1, 2, np.random.default_rng(5), 16)
    assert "damaged" in subjects.skipped[bad]
    again = subjects.sample(1, 2, np.random.default_rng(5), 16)
    assert torch.equal(first.images, again.images)


def test_an_error_if_no_subject_is_left(tmp_path: Path) -> None:
    (name,) = people("train", 1)
    write_subject(tmp_path / name)
    _empty_cameras(tmp_path / name)
    with pytest.raises(InputError, match="none of 1 subjects is usable; the first: ") as caught:
        FolderSubjects(tmp_path, "train")
    assert caught.value.reason == "no-subjects"
    with pytest.raises(InputError, match="none of 1 subjects belongs to 'test'"):
        FolderSubjects(tmp_path, "test")
    with pytest.raises(InputError, match=r"no cameras\.json"):
        FolderSubjects(tmp_path / name / "images", "train")


def test_splits_share_nobody_and_a_person_keeps_theirs() -> None:
    names = [f"{number:03d}" for number in range(2000)]
    placed = {name: split_of(name) for name in names}
    assert {split: sum(s == split for s in placed.values()) / 2000 for split in ("train", "val", "test")} == {
        "train": pytest.approx(0.9, abs=0.03),
        "val": pytest.approx(0.05, abs=0.02),
        "test": pytest.approx(0.05, abs=0.02),
    }
    # Frozen: whoever trained with an earlier version must find the same people in the test set.
    assert [placed[name] for name in ("017", "018", "030", "124")] == ["train", "train", "train", "train"]
    assert [name for name in names[:100] if placed[name] == "test"] == ["062", "082", "096"]


def test_all_takes_of_a_person_are_in_one_split(tmp_path: Path) -> None:
    everyone = [*people("train", 2), *people("val", 1), *people("test", 1)]
    for person in everyone:
        for take in ("EMO-1_00000", "EXP-2_00010"):
            write_subject(tmp_path / person / take, gen_videos(2))
    members = {split: FolderSubjects(tmp_path, split) for split in ("train", "val", "test")}
    assert [len(subjects) for subjects in members.values()] == [4, 2, 2]
    assert {members["val"].person(0), members["val"].person(1)} == set(people("val", 1))
    used = [{s.name for s in subjects.subjects} for subjects in members.values()]
    assert len(used[0] | used[1] | used[2]) == sum(map(len, used)) == 8


def test_a_split_file_decides_and_must_not_contradict_itself(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_subject(tmp_path / name, gen_videos(2))
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["a"], "test": ["b"]}))
    assert [s.name for s in FolderSubjects(tmp_path, "train").subjects] == ["a"]
    assert [s.name for s in FolderSubjects(tmp_path, "test").subjects] == ["b"]
    with pytest.raises(InputError, match="belongs to 'val'"):
        FolderSubjects(tmp_path, "val")
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["a"], "test": ["a"]}))
    with pytest.raises(InputError, match="'a' is in 'train' and in 'test'"):
        FolderSubjects(tmp_path, "train")
    (tmp_path / "splits.json").write_text(json.dumps({"training": ["a"]}))
    with pytest.raises(InputError, match=r"splits\.json: extra inputs"):
        FolderSubjects(tmp_path, "train")


def test_subjects_are_opened_by_what_their_text_says(tmp_path: Path) -> None:
    write_subject(tmp_path / people("train", 1)[0])
    assert isinstance(open_subjects(str(tmp_path), "train"), FolderSubjects)
    few = open_subjects("procedural:7", "val")
    assert isinstance(few, ProceduralSubjects)
    assert len(few) == 7
    assert len(open_subjects("procedural", "test")) == 100_000


@pytest.mark.parametrize("text", ["procedural:", "procedural:many", "procedural:0", "nowhere/at/all"])
def test_text_that_names_no_subjects_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        open_subjects(text, "train")
