"""Text -> patterns, and which masks they allow."""

import itertools

import numpy as np
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.pattern import ALL_OUTPUTS, DENSE, SKIP, Pattern


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("2:4", Pattern(1, 2, 4)),
        ("64x2:4", Pattern(64, 2, 4)),
        ("1:256", Pattern(1, 1, 256)),
        ("8x2:4k", Pattern(8, 2, 4, whole=True)),
        ("1:4k", Pattern(1, 1, 4, whole=True)),
        ("2:4c", Pattern(ALL_OUTPUTS, 2, 4, whole=True)),
        ("skip", SKIP),
        ("dense", DENSE),
    ],
)
def test_text_and_pattern_are_each_other(text, pattern):
    assert Pattern.parse(text) == pattern
    assert str(pattern) == text


@pytest.mark.parametrize(
    ("text", "written"), [(" 2:4\n", "2:4"), ("1x2:4", "2:4"), ("1:1", "dense"), ("08:016", "8:16")]
)
def test_other_spellings_are_read(text, written):
    assert str(Pattern.parse(text)) == written


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2",
        ":",
        "2:",
        "a:b",
        "2:4:8",
        "2:4x64",
        "-1:4",
        "1.5:4",
        "2 : 4",
        "x2:4",
        "DENSE",
        "2:4kk",
        "2:4kc",
        "8x2:4c",
        "densek",
    ],
)
def test_what_is_no_pattern_is_said(text):
    with pytest.raises(NmcompileError, match="unknown pattern") as caught:
        Pattern.parse(text)
    assert repr(text) in str(caught.value)
    assert "2:4" in str(caught.value)


@pytest.mark.parametrize("text", ["4:2", "4:4", "0:4", "0x2:4", "2:257", "5x1:1", "0:0", "1:1k"])
def test_an_impossible_pattern_is_named_as_it_was_written(text):
    with pytest.raises(NmcompileError, match="1 <= N < M") as caught:
        Pattern.parse(text)
    assert f"pattern {text}:" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "channels", "kept"),
    [
        ("2:4", 8, 4),
        ("2:4", 7, 4),  # 2 and, of 3, 1.5
        ("2:4", 6, 3),
        ("2:4", 5, 3),  # 2 and, of 1, 0.5
        ("1:4", 7, 2),
        ("3:4", 3, 3),  # of 3, 2.25
        ("8:16", 52, 26),
        ("2:32", 33, 3),
        ("dense", 7, 7),
    ],
)
def test_a_ragged_last_group_keeps_its_share_rounded_up(text, channels, kept):
    assert Pattern.parse(text).kept(channels) == kept


def test_groups_follow_each_other_and_keep_what_kept_says():
    for m, channels in itertools.product((2, 4, 5, 16), range(1, 40)):
        for n in range(1, m):
            pattern = Pattern(1, n, m)
            groups = pattern.group_sizes(channels)
            covered = [c for start, size, _ in groups for c in range(start, start + size)]
            assert covered == list(range(channels))
            assert sum(kept for _, _, kept in groups) == pattern.kept(channels)
            assert all(1 <= kept <= min(n, size) for _, size, kept in groups)


@pytest.mark.parametrize(
    ("text", "outputs", "inputs", "positions", "said"),
    [
        ("2:4", 1, 4, 1, None),
        ("2:4", 8, 3, 9, "3 input channels per group, pattern 2:4 needs 4"),
        ("16x2:4", 16, 4, 9, None),
        ("16x2:4", 15, 4, 9, "15 output channels per group, pattern 16x2:4 shares over 16"),
        ("8x2:4k", 8, 4, 9, None),
        ("8x2:4k", 8, 4, 1, "kernels of one weight, for which 8x2:4k is 8x2:4"),
        ("2:4c", 1, 2, 1, None),
        ("48:64c", 8, 4, 9, None),  # a share of any number
        ("48:64c", 8, 3, 9, "3 input channels per group, pattern 48:64c needs 4"),
        ("dense", 1, 1, 1, None),
    ],
)
def test_what_stands_in_the_way_of_a_layer(text, outputs, inputs, positions, said):
    assert Pattern.parse(text).obstacle(outputs, inputs, positions) == said


def full_mask(pattern, outputs, inputs, groups=1, kernel=2, seed=0):
    """A random mask that keeps exactly what the pattern permits: one more is one too many."""
    random = np.random.default_rng(seed)
    mask = np.zeros((groups, outputs // groups, inputs, kernel, kernel), bool)
    one = [slice(None)] if pattern.whole else range(kernel)  # a choice at each position, or one
    for group, y, x in itertools.product(range(groups), one, one):
        for row in range(0, outputs // groups, pattern.v):
            for start, size, kept in pattern.group_sizes(inputs):
                chosen = start + random.choice(size, kept, replace=False)
                mask[group, row : row + pattern.v, chosen, y, x] = True
    return mask.reshape(outputs, inputs, kernel, kernel)


@pytest.mark.parametrize(
    ("text", "outputs", "inputs", "groups"),
    [
        ("2:4", 6, 8, 1),
        ("2:4", 6, 7, 2),
        ("1:4", 4, 5, 4),
        ("4x2:4", 8, 8, 1),
        ("4x2:4", 10, 6, 1),  # the last choice is shared by two rows only
        ("2x1:4", 6, 9, 2),  # three rows in each group: two and one
        ("2:4k", 3, 7, 1),
        ("4x2:4k", 10, 6, 1),
        ("2x1:4k", 6, 9, 2),
        ("2:4c", 10, 6, 1),
        ("2:4c", 6, 9, 2),  # each group reads channels of its own
    ],
)
def test_one_weight_more_than_permitted_is_not_allowed(text, outputs, inputs, groups):
    pattern = Pattern.parse(text)
    mask = full_mask(pattern, outputs, inputs, groups)
    assert pattern.allows(mask, groups)
    pruned = list(zip(*np.nonzero(~mask), strict=True))
    assert pruned
    for place in pruned:
        more = mask.copy()
        more[place] = True
        assert not pattern.allows(more, groups), place


def test_a_kept_weight_may_be_zero():
    pattern = Pattern(4, 2, 4)
    mask = full_mask(pattern, 8, 8)
    mask[1] = False
    assert pattern.allows(mask)


def test_a_choice_is_not_shared_across_convolution_groups():
    pattern = Pattern(2, 1, 4)
    mask = np.zeros((6, 4, 1, 1), bool)
    mask[[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 2, 3]] = True
    assert pattern.allows(mask, groups=2)  # rows 0 1 | 2 and 3 4 | 5
    assert not pattern.allows(mask, groups=1)  # rows 0 1 | 2 3 | 4 5


@pytest.mark.parametrize("text", ["2:4", "3x1:4", "2:4k", "3x2:4k", "2:4c", "2:8c"])
def test_the_largest_are_what_a_pattern_just_allows(text):
    pattern = Pattern.parse(text)
    weight = np.random.default_rng(0).standard_normal((7, 6, 3, 2)).astype(np.float32)
    mask = pattern.largest(weight)
    assert pattern.allows(mask)
    assert (mask.sum(1) == pattern.kept(6)).all()
    v, places = min(pattern.v, 7), ((0, 1, 2), (0, 1))
    for row, (y, x) in itertools.product(range(0, 7, v), itertools.product(*places)):
        for start, size, _ in pattern.group_sizes(6):
            group = weight[row : row + v, start : start + size] ** 2
            score = group.sum((0, 2, 3)) if pattern.whole else group[..., y, x].sum(0)
            kept = mask[row, start : start + size, y, x]
            assert score[kept].min() > score[~kept].max()


def test_dense_allows_everything():
    assert DENSE.allows(np.ones((3, 5, 3, 3), bool))


def test_what_is_skipped_keeps_nothing():
    assert SKIP.kept(7) == 0
    assert SKIP.obstacle(1, 1, 1) is None
    assert SKIP.allows(np.zeros((2, 3, 3, 3), bool))
    one = np.zeros((2, 3, 3, 3), bool)
    one[1, 2, 0, 0] = True
    assert not SKIP.allows(one)
