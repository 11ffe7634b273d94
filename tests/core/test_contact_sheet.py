from __future__ import annotations

import numpy as np
import pytest

from dp3d_cli.core.contact_sheet import contact_sheet, fit


def plain(value: int, height: int = 10, width: int = 10) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_tiles_stand_where_the_grid_says() -> None:
    sheet = contact_sheet([[plain(10), plain(20)], [plain(30)]], gap=2)
    assert sheet.shape == (2 + 2 * 12, 2 + 2 * 12, 3)
    assert (sheet[2:12, 2:12] == 10).all()
    assert (sheet[2:12, 14:24] == 20).all()
    assert (sheet[14:24, 2:12] == 30).all()
    assert (sheet[14:24, 14:24] == 255).all()
    assert (sheet[:2] == 255).all()


def test_long_rows_go_on_in_the_next_line() -> None:
    sheet = contact_sheet([[plain(i) for i in range(5)]], columns=2, gap=0)
    assert sheet[::10, ::10, 0].tolist() == [[0, 1], [2, 3], [4, 255]]


def test_mixed_sizes_are_fitted_and_centred() -> None:
    sheet = contact_sheet([[plain(0, 20, 40), plain(0, 10, 10)]], tile=20, gap=0)
    assert sheet.shape == (20, 40, 3)
    assert (sheet[5:15, :20] == 0).all()
    assert (sheet[:5, :20] == 255).all()
    assert (sheet[:, 20:] == 0).all()


def test_labels_and_headers_take_room_beside_the_tiles() -> None:
    rows = [[plain(0, 60, 60)], [], [plain(0, 60, 60)]]
    bare = contact_sheet(rows)
    labelled = contact_sheet(rows, ["reference", "left out", "view"], headers=["front"])
    assert labelled.shape[0] > bare.shape[0]
    assert labelled.shape[1] > bare.shape[1]
    left = labelled[:, : labelled.shape[1] - 64]
    assert left.min() < 100
    assert (labelled[-64:-4, -64:-4] == 0).all()


def test_same_input_gives_the_same_pixels() -> None:
    rows = [[plain(7), plain(9)]]
    np.testing.assert_array_equal(contact_sheet(rows, ["a"]), contact_sheet(rows, ["a"]))


def test_fit_keeps_the_aspect_ratio_of_extreme_images() -> None:
    assert fit(plain(3, 1, 1000), 50).shape == (1, 50, 3)
    assert fit(plain(3, 8, 4), 16).shape == (16, 8, 3)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([[], []])
    with pytest.raises(ValueError, match="2 labels for 1 rows"):
        contact_sheet([[plain(1)]], ["a", "b"])
    with pytest.raises(ValueError, match="uint8"):
        contact_sheet([[plain(1).astype(np.float32)]])  # type: ignore[list-item]
