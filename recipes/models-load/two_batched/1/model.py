"""The mean of some numbers, found in many small steps: each costs about as much for eight rows as for one."""

from __future__ import annotations

import numpy as np
import triton_python_backend_utils as pb  # type: ignore[import-not-found, unused-ignore]

STEPS = 1000


class TritonPythonModel:
    """Y is the mean of X, each row by itself. As in a recurrent network, no step can begin before the last is done."""

    def execute(self, requests: list[pb.InferenceRequest]) -> list[pb.InferenceResponse]:
        """Answer all requests of a batch at once: they come as a list, and nobody puts them together but this."""
        rows = [pb.get_input_tensor_by_name(request, "X").as_numpy() for request in requests]
        wanted = np.concatenate(rows).mean(axis=1, keepdims=True)
        found = np.zeros_like(wanted)
        for _ in range(STEPS):
            found += (wanted - found) / 2
        ends = np.cumsum([len(one) for one in rows])[:-1]
        return [pb.InferenceResponse([pb.Tensor("Y", part)]) for part in np.split(found, ends)]
