"""ONNX Runtime (its MLAS kernels) at its best: one session per case, input and output bound to
memory that stays, so that nothing is allocated or copied in a call."""

from __future__ import annotations

from functools import partial

import onnx
import onnxruntime
import torch
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from torch import Tensor

from benchmarks.cases import FORWARD, Case, Inputs
from benchmarks.peers import Step

OPERATORS = {"softmax": "Softmax", "log_softmax": "LogSoftmax"}
TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float64: onnx.TensorProto.DOUBLE,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.bfloat16: onnx.TensorProto.BFLOAT16,
}


def session(operator: str, axis: int, like: Tensor) -> onnxruntime.InferenceSession:
    """A model of the one operator."""
    described = [make_tensor_value_info(name, TYPES[like.dtype], like.shape) for name in "xy"]
    node = make_node(operator, ["x"], ["y"], axis=axis)
    graph = make_graph([node], operator, described[:1], described[1:])
    model = make_model(graph, opset_imports=[make_opsetid("", 13)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def step(case: Case, inputs: Inputs) -> Step | None:
    """Softmax and log-softmax forward, where it has a kernel for the dtype."""
    source, masked = inputs.arguments["input"], inputs.arguments.get("mask") is not None
    if case.op not in OPERATORS or case.direction != FORWARD or masked:
        return None
    try:
        runner = session(OPERATORS[case.op], case.dim, source)
    except Exception as error:  # its own exception types are not public
        if "NOT_IMPLEMENTED" in str(error) or "INVALID_GRAPH" in str(error):
            return None
        raise
    output = torch.empty_like(source)
    binding = runner.io_binding()
    described = ("cpu", 0, TYPES[source.dtype], source.shape)
    binding.bind_input("x", *described, source.data_ptr())
    binding.bind_output("y", *described, output.data_ptr())
    run = partial(runner.run_with_iobinding, binding)

    def bound() -> Tensor:
        run()
        return output

    return Step(bound)
