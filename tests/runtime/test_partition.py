"""Cells and what levels are worth there -> areas, against every way to cut a few cells."""

import numpy as np
import pytest

from nmcompile.runtime.areas import cells
from nmcompile.runtime.partition import partition


def chosen(levels, count=3):
    """Values that are 1 where a cell has its level, else 0."""
    return np.eye(count)[np.asarray(levels)]


@pytest.mark.parametrize("seed", range(6))
def test_areas_cover_every_pixel_once_with_their_overlap(seed):
    random = np.random.default_rng(seed)
    rows, columns = (cells(int(random.integers(10, 400)), 40, 8) for _ in range(2))
    values = random.random((len(rows), len(columns), 3))
    size = rows[-1].inner.stop, columns[-1].inner.stop
    covered = np.zeros(size, int)
    for area in partition(rows, columns, values, [1e-5, 2e-5, 3e-5], 64):
        covered[area.rows.inner.slice, area.columns.inner.slice] += 1
        for cut_, n in ((area.rows, size[0]), (area.columns, size[1])):
            assert cut_.window.start == max(0, cut_.inner.start - 4)
            assert cut_.window.stop == min(n, cut_.inner.stop + 4)
    assert (covered == 1).all()


def test_where_overlap_is_free_every_cell_has_its_best_level():
    rows, columns = cells(170, 64, 8), cells(280, 64, 8)
    levels = np.random.default_rng(0).integers(0, 3, (len(rows), len(columns)))
    expected, found = (np.zeros((170, 280), int) for _ in range(2))
    for i, row in enumerate(rows):
        for k, column in enumerate(columns):
            expected[row.inner.slice, column.inner.slice] = levels[i, k]
    for area in partition(rows, columns, chosen(levels), [0, 0, 0], 64):
        found[area.rows.inner.slice, area.columns.inner.slice] = area.level
    np.testing.assert_array_equal(found, expected)


def test_one_level_is_one_area():
    rows, columns = cells(300, 64, 8), cells(500, 64, 8)
    (area,) = partition(rows, columns, chosen([[1] * len(columns)] * len(rows)), [1e-6] * 3, 64)
    assert (area.rows.window, area.columns.window, area.level) == ((0, 300), (0, 500), 1)


def test_bands_are_cut_along_themselves():
    rows, columns = cells(168, 64, 8), cells(336, 64, 8)
    levels = np.zeros((len(rows), len(columns)), int)
    levels[1] = 1
    assert len(partition(rows, columns, chosen(levels), [1e-6] * 3, 64)) == 3
    assert len(partition(columns, rows, chosen(levels.T), [1e-6] * 3, 64)) == 3


def test_a_cell_whose_level_gains_less_than_its_overlap_takes_joins_the_others():
    rows, columns = cells(168, 64, 8), cells(168, 64, 8)
    values = np.zeros((3, 3, 2))
    values[:, :, 1] = -0.5
    values[1, 1, 1] = 1  # 53 x 53 pixels of its own, 61 x 64 computed, and its neighbours' more
    found = [partition(rows, columns, values, [price] * 2, 64) for price in (1e-5, 2e-3)]
    assert [[area.level for area in areas] for areas in found] == [[0, 0, 1, 0, 0], [0]]


def test_cells_join_one_whose_level_gains_more_than_their_overlap_takes():
    rows, columns = cells(168, 64, 8), cells(60, 64, 8)
    values = np.zeros((3, 1, 2))
    values[:, :, 1], values[1, 0, 1] = -0.1, 5
    found = [partition(rows, columns, values, [price] * 2, 64) for price in (1e-5, 1e-3)]
    assert [[area.level for area in areas] for areas in found] == [[0, 1, 0], [1]]


def test_an_area_pays_for_full_widths():
    """Windows of 61 and 115 columns for one of 168: 8 more, or 112 where 56 are one full width."""
    rows, columns = cells(60, 64, 8), cells(168, 64, 8)
    values = chosen([[1, 0, 0]], 2)
    for one, other, worth in ((rows, columns, values), (columns, rows, values.swapaxes(0, 1))):
        found = [partition(one, other, worth, [1e-3] * 2, full) for full in (1, 56)]
        assert [[area.level for area in areas] for areas in found] == [[1, 0], [0]]


def brute(rows, columns, values, prices, full):
    """The best value of all ways to cut where levels change, found without remembering any."""

    def span(cuts):
        first, last = cuts[0], cuts[-1]
        return last.window.stop - first.window.start, last.inner.stop - first.inner.start

    (tall, high), (broad, wide) = span(rows), span(columns)
    work = min(tall * -(-broad // full), broad * -(-tall // full)) * full
    beyond = work - high * wide
    found, levels = max(values.sum((0, 1)) - np.multiply(prices, beyond)), values.argmax(2)
    for i in range(1, len(rows)):
        if (levels[i] != levels[i - 1]).any():
            parts = (rows[:i], values[:i]), (rows[i:], values[i:])
            found = max(found, sum(brute(r, columns, v, prices, full) for r, v in parts))
    for i in range(1, len(columns)):
        if (levels[:, i] != levels[:, i - 1]).any():
            parts = (columns[:i], values[:, :i]), (columns[i:], values[:, i:])
            found = max(found, sum(brute(rows, c, v, prices, full) for c, v in parts))
    return found


@pytest.mark.parametrize("full", [1, 32, 64])
@pytest.mark.parametrize("seed", range(6))
def test_no_way_of_cutting_is_better(seed, full):
    rows, columns = cells(150, 64, 8), cells(200, 64, 8)
    values = np.random.default_rng(seed).random((len(rows), len(columns), 2))
    prices, total = [1e-5, 3e-4], 0.0
    for area in partition(rows, columns, values, prices, full):
        within = [
            [cut_.inner.start in range(*span.inner) for cut_ in cuts]
            for span, cuts in ((area.rows, rows), (area.columns, columns))
        ]
        beyond = area.work(full) - area.rows.inner.size * area.columns.inner.size
        total += values[np.outer(*within)][:, area.level].sum() - prices[area.level] * beyond
    assert total == pytest.approx(brute(rows, columns, values, prices, full))


def test_many_cells_are_halved_until_they_are_few():
    rows, columns = cells(1000, 64, 8), cells(1000, 64, 8)
    levels = np.zeros((len(rows), len(columns)), int)
    levels[:, len(columns) // 2 :] = 1
    found = partition(rows, columns, chosen(levels), [1e-6] * 3, 64)
    assert [area.level for area in found] == [0, 1]
