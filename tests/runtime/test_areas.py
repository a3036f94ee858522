"""Cells and their levels -> areas that cover each cell once, and weights that sum to 1."""

import numpy as np
import pytest

from nmcompile.runtime.areas import cells, joined, weights


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


@pytest.mark.parametrize("seed", range(6))
def test_every_cell_is_in_one_area_of_its_level(seed):
    random = np.random.default_rng(seed)
    rows, columns = (cells(int(random.integers(10, 400)), 40, 8) for _ in range(2))
    levels = random.integers(0, 1 + seed % 3, (len(rows), len(columns)))
    size = rows[-1].inner.stop, columns[-1].inner.stop
    covered, expected = np.zeros(size, int), np.zeros(size, int)
    for i, row in enumerate(rows):
        for k, column in enumerate(columns):
            expected[row.inner.slice, column.inner.slice] = levels[i, k]
    for area in joined(rows, columns, levels):
        covered[area.rows.inner.slice, area.columns.inner.slice] += 1
        assert (expected[area.rows.inner.slice, area.columns.inner.slice] == area.level).all()
        for cut_, n in ((area.rows, size[0]), (area.columns, size[1])):
            assert cut_.window.start == max(0, cut_.inner.start - 4)
            assert cut_.window.stop == min(n, cut_.inner.stop + 4)
    assert (covered == 1).all()


def test_one_level_is_one_area():
    rows, columns = cells(300, 64, 8), cells(500, 64, 8)
    (area,) = joined(rows, columns, np.ones((len(rows), len(columns)), int))
    assert (area.rows.window, area.columns.window) == ((0, 300), (0, 500))


def test_cells_are_joined_along_what_takes_less():
    """Rows of bands: two areas along them, and a column of its own would be wasted."""
    rows, columns = cells(168, 64, 8), cells(336, 64, 8)
    levels = np.zeros((len(rows), len(columns)), int)
    levels[1] = 1
    assert len(joined(rows, columns, levels)) == 3
    assert len(joined(columns, rows, levels.T)) == 3


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
