"""How a frame is turned, mirrored and stretched to be seen, by the geometry of its display matrix."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipcap_video.video.picture import MOST_PIXELS, is_mirrored, mirror_of, shown_size, turns

# What ffmpeg's documentation says that its filters do, of arrays [rows, columns].
FILTERS = {
    ("hflip", ""): np.fliplr,
    ("vflip", ""): np.flipud,
    ("transpose", "clock"): lambda image: np.rot90(image, -1),
    ("transpose", "cclock"): np.rot90,
    ("transpose", "cclock_flip"): np.transpose,
    ("transpose", "clock_flip"): lambda image: np.flipud(np.rot90(image, -1)),
}
QUARTERS = [
    (a, b, 0, c, d, 0, 0, 0, 1)
    for a, b, c, d in [
        *[(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)],
        *[(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)],
    ]
]


def placed(image: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """Each pixel (x, y) where the matrix puts it, x' = a x + c y, y' = b x + d y, moved back to begin at 0."""
    a, b, _, c, d = matrix[:5]
    rows, columns = np.indices(image.shape)
    across, down = a * columns + c * rows, b * columns + d * rows
    shown = np.zeros((np.ptp(down) + 1, np.ptp(across) + 1), image.dtype)
    shown[down - down.min(), across - across.min()] = image
    return shown


@pytest.mark.parametrize("matrix", QUARTERS)
def test_a_frame_is_shown_as_its_display_matrix_says(matrix: tuple[int, ...]) -> None:
    image = shown = np.arange(6).reshape(2, 3)
    for filter_ in turns(tuple(65536 * value for value in matrix)):
        shown = FILTERS[filter_](shown)
    assert shown.tolist() == placed(image, matrix).tolist()
    assert is_mirrored(matrix) == (np.linalg.det(np.reshape(matrix, (3, 3))) < 0)


def test_a_matrix_that_says_nothing_turns_nothing() -> None:
    assert turns(None) == turns((0,) * 9) == []
    assert not is_mirrored(None)


def test_other_angles_are_rotated_but_where_opencv_takes_the_nearest_quarter() -> None:
    cosine, sine = 0.94, 0.342  # of 20 degrees
    matrix = tuple(round(65536 * value) for value in (cosine, sine, 0, -sine, cosine, 0, 0, 0, 1))
    assert turns(matrix) == [("rotate", "20*PI/180")]
    assert turns(matrix, plain=True) == []


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mirrors_of_exif_are_those_of_pillow(tmp_path: Path, orientation: int) -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    matrix = mirror_of(tmp_path / "a.png")
    assert (matrix is not None) == (orientation in (2, 4, 5, 7))
    if matrix is not None:
        with Image.open(tmp_path / "a.png") as image:
            assert placed(pixels, matrix).tolist() == np.asarray(ImageOps.exif_transpose(image)).tolist()


def test_pixels_become_square_within_reason() -> None:
    assert shown_size(720, 576, Fraction(16, 15)) == (768, 576)
    assert shown_size(720, 576, Fraction(301, 300)) == (720, 576)  # nearly square
    assert shown_size(720, 576, Fraction(100)) == (720, 576)  # a broken header
    width, height = shown_size(20_000, 10_000, Fraction(1))
    assert width * height <= MOST_PIXELS * 1.001
    assert width == pytest.approx(2 * height, abs=2)
