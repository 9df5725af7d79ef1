"""A Triton backend in Python over the real ONNX Runtime: inputs and outputs of the model go by their names."""

from __future__ import annotations

from pathlib import Path

import onnxruntime  # type: ignore[import-not-found, import-untyped, unused-ignore]
import triton_python_backend_utils as pb  # type: ignore[import-not-found, unused-ignore]


class TritonPythonModel:
    """One instance of the `model.onnx` in the directory of the model's version."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model. The configuration must be complete: nothing is derived from the model."""
        path = Path(args["model_repository"], args["model_version"], "model.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        """Answer each request with the outputs it asks for."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: pb.InferenceRequest) -> pb.InferenceResponse:
        feed = {name: pb.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        names = list(request.requested_output_names())
        try:
            values = self.session.run(names, feed)
        except Exception as error:  # noqa: BLE001 - whatever the runtime says is the answer
            return pb.InferenceResponse(error=pb.TritonError(str(error)))
        return pb.InferenceResponse([pb.Tensor(name, value) for name, value in zip(names, values, strict=True)])
