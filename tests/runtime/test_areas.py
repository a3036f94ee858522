"""Cells and their levels -> areas that cover each cell once, and weights that sum to 1."""

import numpy as np
import pytest

from nmcompile.runtime.areas import joined, weights
from nmcompile.runtime.cuts import cut


def _cells(size, tile, overlap, multiple=1):
    return cut(size, tile - overlap, overlap // 2, multiple)


@pytest.mark.parametrize("seed", range(6))
def test_every_cell_is_in_one_area_of_its_level(seed):
    random = np.random.default_rng(seed)
    rows, columns = (_cells(int(random.integers(10, 400)), 40, 8) for _ in range(2))
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
    rows, columns = _cells(300, 64, 8), _cells(500, 64, 8)
    (area,) = joined(rows, columns, np.ones((len(rows), len(columns)), int))
    assert (area.rows.window, area.columns.window) == ((0, 300), (0, 500))


def test_cells_are_joined_along_what_takes_less():
    """Rows of bands: two areas along them, and a column of its own would be wasted."""
    rows, columns = _cells(168, 64, 8), _cells(336, 64, 8)
    levels = np.zeros((len(rows), len(columns)), int)
    levels[1] = 1
    assert len(joined(rows, columns, levels)) == 3
    assert len(joined(columns, rows, levels.T)) == 3


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("overlap", [0, 1, 2, 3, 8, 9, 20])
@pytest.mark.parametrize("size", [7, 60, 61, 137, 1000])
def test_weights_sum_to_one(size, overlap, scale):
    cells = _cells(size, 40, overlap, 1)
    total = np.zeros(size * scale)
    for piece in cells:
        found = weights(piece, size, overlap, scale)
        assert ((found >= 0) & (found <= 1)).all()
        total[piece.window.times(scale).slice] += found
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)
