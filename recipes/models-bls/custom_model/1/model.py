"""Sees to it that another model gets only words that it knows, and passes on what that one answers."""

from __future__ import annotations

import numpy as np
import triton_python_backend_utils as pb  # type: ignore[import-not-found, unused-ignore]

WORDS = 100
OUTPUTS = ["output__0", "output__1"]


class TritonPythonModel:
    """output__0 and output__1 are those of fc_model_pt, for input__0 with 0 in place of words that it does not know."""

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        """Answer each request by asking fc_model_pt."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: pb.InferenceRequest) -> pb.InferenceResponse:
        words = pb.get_input_tensor_by_name(request, "input__0").as_numpy()
        known = np.where((words >= 0) & (words < WORDS), words, 0)
        inner = pb.InferenceRequest(
            model_name="fc_model_pt",
            requested_output_names=OUTPUTS,
            inputs=[pb.Tensor("input__0", known)],
        ).exec()
        if inner.has_error():
            return pb.InferenceResponse(error=pb.TritonError(inner.error().message()))
        # They may lie on a GPU, and stay there.
        return pb.InferenceResponse([pb.get_output_tensor_by_name(inner, name) for name in OUTPUTS])
