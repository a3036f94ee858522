"""NMConv in onnxruntime-gpu on a real GPU -> the plain convolution, to the last bit?"""

import numpy as np
import onnxruntime
import pytest

from nmcompile.backends.nmconv_pack import single
from nmcompile.errors import NmcompileError
from nmcompile.runtime.cuda import open_device
from nmcompile.runtime.custom_ops import custom_ops_library
from nmcompile.runtime.executor import CUDA_PROVIDER, OrtExecutor, check_provider
from nmcompile.runtime.native.blob import Residual
from nmcompile.runtime.native.cuda_pack import Half
from tests.native.cuda.cases import CASES, convolve, finish, whole_numbers
from tests.native.ort.test_cuda_emulated import call_of


@pytest.fixture(scope="module")
def library():
    try:
        open_device()
        check_provider(onnxruntime, CUDA_PROVIDER)
        return custom_ops_library(cuda=True)
    except NmcompileError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_case_is_the_convolution(library, tmp_path, case):
    random = np.random.default_rng(7)
    call = call_of(case, random)
    x = whole_numbers(random, case.batch, case.height, case.width, case.inputs)
    plain = convolve(case, x, call.weight, call.bias)
    residual = whole_numbers(random, *finish(case, plain, 0).shape)
    inputs = {"x": x.astype(np.float16)}
    if case.residual is not Residual.NONE:
        inputs["residual"] = residual.astype(np.float16)
    path = tmp_path / "call.onnx"
    path.write_bytes(single(call, Half.FP16, "NHWC").SerializeToString())
    (found,) = OrtExecutor(path, 1, library, CUDA_PROVIDER).run(inputs)
    np.testing.assert_array_equal(found, finish(case, plain, residual).astype(np.float16))
