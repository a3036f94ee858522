"""NMConv in onnxruntime-gpu on a real GPU -> the plain convolution, to the last bit?"""

import onnxruntime
import pytest

from nmcompile.errors import NmcompileError
from nmcompile.runtime.cuda import open_device
from nmcompile.runtime.custom_ops import custom_ops_library
from nmcompile.runtime.executor import CUDA_PROVIDER, OrtExecutor, check_provider
from tests.native.cuda.cases import CASES
from tests.native.ort.test_cuda_emulated import check_case


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
    def run(model, inputs):
        path = tmp_path / "call.onnx"
        path.write_bytes(model.SerializeToString())
        (found,) = OrtExecutor(path, 1, library, CUDA_PROVIDER).run(inputs)
        return found

    check_case(case, run)
