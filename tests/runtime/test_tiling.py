"""Sizes, tiles and halos -> windows that cover the image once and see all they need."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.runtime.cuts import Cut, Span, blend_weights, cut, cut_fixed
from nmcompile.runtime.tiling import MEMORY_VARIABLE, plan_tiles
from tests.engines import PLAIN

SMALL_MEMORY = dataclasses.replace(PLAIN, halo=10, bytes_per_pixel=1 << 10)


def partitions(cuts: tuple[Cut, ...], size: int) -> bool:
    inner = [piece.inner for piece in cuts]
    meet = all(left.stop == right.start for left, right in itertools.pairwise(inner))
    return meet and inner[0].start == 0 and inner[-1].stop == size and all(s.size for s in inner)


@pytest.mark.parametrize("multiple", [1, 4, 7])
@pytest.mark.parametrize("halo", [0, 1, 9, 50])
@pytest.mark.parametrize("tile", [1, 8, 30, 1000])
@pytest.mark.parametrize("length", [1, 2, 13, 40])
def test_windows_see_the_halo_and_inner_spans_partition_the_axis(length, tile, halo, multiple):
    size = length * multiple
    cuts = cut(size, tile, halo, multiple)
    assert partitions(cuts, size)
    for window, inner in cuts:
        assert window.start <= max(0, inner.start - halo)
        assert window.stop >= min(size, inner.stop + halo)
        assert 0 <= window.start < window.stop <= size
        assert window.start % multiple == window.stop % multiple == 0
        assert inner.size <= math.ceil(tile / multiple) * multiple
        assert window.size < inner.size + 2 * (halo + multiple)


@pytest.mark.parametrize(("size", "tile", "minimum"), [(64, 8, 32), (36, 4, 20), (20, 4, 20)])
def test_no_window_is_smaller_than_the_network_takes(size, tile, minimum):
    cuts = cut(size, tile, halo=1, multiple=4, minimum=minimum)
    assert partitions(cuts, size)
    assert all(window.size >= minimum and window.stop <= size for window, _ in cuts)
    assert all(window.start % 4 == 0 for window, _ in cuts)


@pytest.mark.parametrize(("size", "halo"), [(32, 4), (33, 4), (48, 4), (100, 15), (101, 0)])
def test_fixed_windows_have_one_size_and_keep_only_what_they_see_whole(size, halo):
    cuts = cut_fixed(size, 32, 2 * halo)
    assert partitions(cuts, size)
    for window, inner in cuts:
        assert window.size == 32
        assert window.start >= 0
        assert window.stop <= size
        assert window.start == 0 or inner.start - window.start >= halo
        assert window.stop == size or window.stop - inner.stop >= halo


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize(("size", "tile"), [(100, 30), (100, 7), (31, 30), (64, 64)])
def test_blending_weights_sum_to_one_and_fade_at_seams(size, tile, scale):
    cuts = cut(size, tile, 16)
    total = np.zeros(size * scale)
    for piece, weights in zip(cuts, blend_weights(cuts, scale), strict=True):
        window = piece.window.times(scale)
        total[window.slice] += weights
        if window.stop < size * scale:
            assert weights[-1] < 0.1
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_blending_two_windows_is_linear():
    cuts = (Cut(Span(0, 6), Span(0, 4)), Cut(Span(2, 8), Span(4, 8)))
    left, right = blend_weights(cuts, 1)
    np.testing.assert_allclose(left, [1, 1, 0.875, 0.625, 0.375, 0.125])
    np.testing.assert_allclose(right, [0.125, 0.375, 0.625, 0.875, 1, 1])


def test_the_image_is_padded_to_the_multiple():
    plan = plan_tiles(dataclasses.replace(PLAIN, multiple=8), 17, 24)
    assert (plan.height, plan.width, plan.count, plan.note) == (24, 24, 1, "")


def test_an_image_is_tiled_only_when_memory_asks_for_it(monkeypatch):
    monkeypatch.setenv(MEMORY_VARIABLE, "64")  # 65,536 pixels of 1 KiB: 256x256
    assert plan_tiles(SMALL_MEMORY, 256, 256).count == 1
    plan = plan_tiles(SMALL_MEMORY, 256, 257)
    assert plan.count == 4
    windows = [(row.window.size, col.window.size) for row in plan.rows for col in plan.columns]
    assert max(height * width for height, width in windows) <= 256 * 256
    assert (plan.blend, plan.note) == (False, "")


def test_without_the_variable_the_budget_is_a_gibibyte(monkeypatch):
    monkeypatch.delenv(MEMORY_VARIABLE, raising=False)
    assert plan_tiles(SMALL_MEMORY, 1024, 1024).count == 1
    assert plan_tiles(SMALL_MEMORY, 1024, 1025).count > 1


def test_a_network_that_sees_the_whole_image_is_never_tiled_unasked(monkeypatch):
    monkeypatch.setenv(MEMORY_VARIABLE, "1")
    manifest = dataclasses.replace(SMALL_MEMORY, halo=None, halo_reason="mean of layer 3")
    assert plan_tiles(manifest, 500, 500).count == 1
    plan = plan_tiles(manifest, 500, 500, tile=128)
    assert plan.count == 16
    assert plan.blend
    assert "differs" in plan.note
    assert "mean of layer 3" in plan.note
    assert plan_tiles(manifest, 100, 128, tile=128).note == ""


def test_a_fixed_size_is_the_window():
    manifest = dataclasses.replace(PLAIN, halo=4, fixed_size=(32, 48))
    plan = plan_tiles(manifest, 20, 100)
    assert {row.window.size for row in plan.rows} == {32}
    assert {column.window.size for column in plan.columns} == {48}
    assert (plan.height, plan.width, plan.blend) == (32, 100, False)
    with pytest.raises(NmcompileError, match="32x48 only"):
        plan_tiles(manifest, 20, 100, tile=16)


@pytest.mark.parametrize(("halo", "said"), [(None, "whole image"), (16, "16 pixels far")])
def test_fixed_windows_that_see_too_little_are_blended(halo, said):
    manifest = dataclasses.replace(PLAIN, halo=halo, fixed_size=(32, 32))
    assert said in plan_tiles(manifest, 64, 64).note
    assert plan_tiles(manifest, 32, 32).note == ""


@pytest.mark.parametrize(
    ("changes", "size", "tile", "said"),
    [
        ({"minimum": 16}, (40, 15), None, "at least 16x16"),
        ({}, (0, 4), None, "empty"),
        ({}, (4, 4), 0, "--tile 0"),
    ],
)
def test_what_cannot_be_is_said(changes, size, tile, said):
    with pytest.raises(NmcompileError, match=said):
        plan_tiles(dataclasses.replace(PLAIN, **changes), *size, tile)


def test_padding_may_reach_the_minimum():
    plan = plan_tiles(dataclasses.replace(PLAIN, multiple=16, minimum=16), 9, 3)
    assert (plan.height, plan.width) == (16, 16)


@pytest.mark.parametrize("text", ["", "-1", "1G"])
def test_a_budget_that_is_no_number_is_said(monkeypatch, text):
    monkeypatch.setenv(MEMORY_VARIABLE, text)
    with pytest.raises(NmcompileError, match=MEMORY_VARIABLE):
        plan_tiles(PLAIN, 8, 8)
