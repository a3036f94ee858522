"""The plugin on the emulated GPU -> the plain convolution, to the last bit? And one line if not."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import numpy as np
import pytest

from nmcompile.runtime.native.blob import Activation, Residual
from nmcompile.runtime.native.cuda_pack import Half
from tests.native.cuda.cases import CASES, LEVELS, Case
from tests.native.trt.checks import check_run, expectation, images, node_of, run, tensors_of

SMALL = Case("2:4", height=5, width=6, residual=Residual.AFTER_ACTIVATION)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case_is_the_convolution(harness, device, case):
    check_run(harness, device, case)


def test_bf16_is_the_convolution(harness, device):
    check_run(harness, device, replace(SMALL, half=Half.BF16, activation=Activation.RELU))


@pytest.mark.parametrize("patterns", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("residual", [Residual.NONE, Residual.BEFORE_ACTIVATION])
def test_level_comes_from_the_device(harness, device, patterns, residual):
    check_run(harness, device, Case(patterns, height=5, width=7, residual=residual), routed=True)


def test_without_a_level_all_weights_are_applied(harness, device):
    check_run(harness, device, Case(("1:4", "2:4"), height=5, width=7))


def test_sizes_may_change_between_runs(harness, device):
    plugin = harness.plugin(node_of(SMALL)).attach()
    for height, width in ((5, 6), (3, 17), (1, 1)):
        case = replace(SMALL, height=height, width=width)
        expected = expectation(case, 0)
        tensors = tensors_of(case, node_of(case), (1, height, width), expected.shape)
        assert plugin.shape_change(tensors)
        np.testing.assert_array_equal(run(device, plugin, case, tensors, expected.shape), expected)


def test_clone_outlives_the_plugin_that_it_is_of(harness, device):
    plugin = harness.plugin(node_of(SMALL)).clone()
    expected = expectation(SMALL, 0)
    tensors = tensors_of(SMALL, node_of(SMALL), (1, 5, 6), expected.shape)
    found = run(device, plugin, SMALL, tensors, expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_weights_are_on_the_device_once_and_until_the_last_goes(harness, device):
    """For all clones and contexts, also where these are made at once."""
    before = device.allocations
    made = node_of(Case(kernel=1, padding=(0,) * 4, inputs=512, outputs=512))
    clones = [plugin.clone() for plugin in [harness.plugin(made)] * 8]
    start = Barrier(len(clones))

    def attach(plugin):
        start.wait()
        return plugin.attach()

    def taken():
        return tuple(device.allocations - before)

    assert taken() == (0, 0)
    with ThreadPoolExecutor(len(clones)) as pool:
        attached = list(pool.map(attach, clones))
    clones.clear()
    del attached[1:]
    assert taken() == (1, 1)
    attached.clear()
    assert taken() == (0, 1)


def test_threads_make_clone_keep_and_run_plugins(harness, device):
    """Layers of different weights in several threads at once, as contexts of engines would."""
    case = replace(SMALL, residual=Residual.NONE)
    nodes = [node_of(case, seed, name=f"body.{seed}") for seed in range(4)]
    expected = [expectation(case, 0, seed) for seed in range(4)]
    shape = expected[0].shape
    shared = [harness.plugin(made) for made in nodes]
    tensors = tensors_of(case, nodes[0], (1, 5, 6), shape)
    image = device.put(images(case, shape)[0])
    outputs = [device.put(np.full(shape, 0xFFFF, np.uint16)) for _ in range(16)]

    def live(index):
        plugin = shared[index % 4].clone()
        again = harness.create(plugin.serialised(), index % 2).attach()
        for part in (plugin, again):
            assert part.shape_change(tensors)
            assert part.enqueue(tensors, [image, outputs[index]])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(live, range(16)))
    for index, output in enumerate(outputs):
        np.testing.assert_array_equal(device.get(output, shape), expected[index % 4])
    assert harness.log() == []


def test_gpu_that_is_too_old_is_one_line(harness, device):
    plugin = harness.plugin(node_of(SMALL))
    device.configure(major=7)
    try:
        assert plugin.attach() is None
    finally:
        device.configure()
    (line,) = harness.log()
    assert line.startswith("1 nmcompile: layer body.0: found a GPU of compute capability 7.")


def test_cudas_own_error_names_the_layer(harness, device):
    case = replace(SMALL, residual=Residual.NONE)
    made = node_of(case)
    shape = expectation(case, 0).shape
    tensors = tensors_of(case, made, (1, 5, 6), shape)
    nobodys = np.zeros(1 << 16, np.uint16)
    output = device.put(np.zeros(shape, np.uint16))
    plugin = harness.plugin(made).attach()
    assert not plugin.enqueue(tensors, [nobodys.ctypes.data // 16 * 16 + 16, output])
    (line,) = harness.log()
    assert line.startswith("1 nmcompile: layer body.0: f16_sparse_64x16_s1 failed: an access outs")
