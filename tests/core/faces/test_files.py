import json
from pathlib import Path

import numpy as np
import pytest

from dp3d_cli.core.errors import InputError, UsageError
from dp3d_cli.core.faces.face import FaceBox
from dp3d_cli.core.faces.files import Source, read_face_box, read_landmarks, write_alignment
from dp3d_cli.core.faces.portrait import AlignOptions, align_portrait
from tests.core.faces.test_portrait import PICTURE, Fake, boxed, points_at


def written(path: Path, *faces: object, align: bool = True, **given: object) -> dict[str, object]:
    options = AlignOptions(size=128, align=align)
    aligned = align_portrait(PICTURE, "a", Fake(*faces), options, **given)  # type: ignore[arg-type]
    write_alignment(path, "team/anna", Source("anna.jpg", 400, 300, 6), aligned)
    content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_transform_leads_from_the_crop_back_to_the_original(tmp_path: Path) -> None:
    content = written(tmp_path / "a.json", landmarks=points_at(200, 150, 60))
    transform = np.array(content["crop_to_original"])
    landmarks = content["landmarks"]
    assert isinstance(landmarks, dict)
    crop = np.array(landmarks["crop"])
    back = np.hstack([crop + 0.5, np.ones((5, 1))]) @ transform.T
    np.testing.assert_allclose(back[:, :2] - 0.5, landmarks["original"], atol=1e-3)
    np.testing.assert_allclose(landmarks["original"], points_at(200, 150, 60), atol=1e-4)
    assert content["source"] == {
        "file": "anna.jpg",
        "width": 400,
        "height": 300,
        "exif_orientation": 6,
        "frame": None,
    }
    camera = content["camera"]
    assert isinstance(camera, dict)
    assert len(camera["label"]) == 25


def test_face_box_is_read_back_in_crop_pixels(tmp_path: Path) -> None:
    written(tmp_path / "a.json", boxed(150, 90, 100))
    box = read_face_box(tmp_path / "a.json")
    assert box is not None
    np.testing.assert_allclose(box.width, 0.67 * 128, atol=1e-3)
    np.testing.assert_allclose(box.centre, (64, 0.46 * 128), atol=1e-3)


def test_no_face_is_read_back_as_none(tmp_path: Path) -> None:
    written(tmp_path / "a.json", align=False)
    assert read_face_box(tmp_path / "a.json") is None


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": "other", "version": 1}', '{"format": "dp3d-aligned"}']
)
def test_other_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match="dp3d align"):
        read_face_box(tmp_path / "a.json")


def test_equal_facts_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        written(tmp_path / f"{name}.json", boxed(150, 90, 100))
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_landmarks_for_one_portrait_fit_any_id(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text(json.dumps(points_at(10, 20, 5).tolist()))
    given = read_landmarks(tmp_path / "l.json")
    np.testing.assert_allclose(given.of("whatever"), points_at(10, 20, 5))


def test_landmarks_by_id(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text(json.dumps({"team/anna": np.eye(68)[:, :2].tolist()}))
    given = read_landmarks(tmp_path / "l.json")
    assert given.of("team/anna").shape == (5, 2)
    with pytest.raises(InputError) as caught:
        given.of("team/bert")
    assert caught.value.reason == "no-landmarks"


@pytest.mark.parametrize("content", ["", "3", "[[1, 2]]", '{"a": [[1, 2], [3]]}', '{"a": "b"}', "[[1, NaN]]"])
def test_other_landmark_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "l.json").write_text(content)
    with pytest.raises(UsageError, match=r"l\.json"):
        read_landmarks(tmp_path / "l.json")


def test_missing_landmark_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_landmarks(tmp_path / "l.json")


def test_boxes_need_a_size() -> None:
    with pytest.raises(ValueError, match="positive size"):
        FaceBox(0, 0, 0, 5)
