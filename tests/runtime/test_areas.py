"""Cells and their levels -> areas that cover each cell once, and weights that sum to 1."""

import numpy as np
import pytest

from nmcompile.runtime.areas import cells, weights


@pytest.mark.parametrize("size", [8, 24, 64, 68, 120, 124, 320, 324, 1000])
@pytest.mark.parametrize(("multiple", "minimum"), [(1, 1), (4, 1), (4, 24), (1, 8)])
def test_cells_partition_an_axis_and_windows_hold_their_overlap(size, multiple, minimum):
    found = cells(size, 64, 8, multiple, min(minimum, size))
    edges = [0, *(cell.inner.stop for cell in found)]
    assert edges[-1] == size
    assert len(found) == max(1, -(-(size - 8) // 56))
    for cell, start in zip(found, edges, strict=False):
        window = cell.window
        assert cell.inner.start == start
        assert window.start <= max(0, start - 4)
        assert window.stop >= min(size, cell.inner.stop + 4)
        assert window.start % multiple == window.stop % multiple == 0
        assert min(size, minimum) <= window.size <= max(64 + 2 * (multiple - 1), minimum)


def test_two_windows_fill_what_they_can():
    """120 pixels are 60 and 60 of windows of 64, which end where the image does."""
    assert [cell.window for cell in cells(120, 64, 8)] == [(0, 64), (56, 120)]


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("overlap", [0, 1, 2, 3, 8, 9, 20])
@pytest.mark.parametrize("size", [7, 60, 61, 137, 1000])
def test_weights_sum_to_one(size, overlap, scale):
    total = np.zeros(size * scale)
    for piece in cells(size, 40, overlap):
        found = weights(piece, size, overlap, scale)
        assert ((found >= 0) & (found <= 1)).all()
        total[piece.window.times(scale).slice] += found
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)
