"""The sum and the difference of two inputs."""

from __future__ import annotations

import triton_python_backend_utils as pb  # type: ignore[import-not-found, unused-ignore]


class TritonPythonModel:
    """OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1."""

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        """Answer each request with both outputs."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: pb.InferenceRequest) -> pb.InferenceResponse:
        left, right = (pb.get_input_tensor_by_name(request, name).as_numpy() for name in ("INPUT0", "INPUT1"))
        return pb.InferenceResponse([pb.Tensor("OUTPUT0", left + right), pb.Tensor("OUTPUT1", left - right)])
