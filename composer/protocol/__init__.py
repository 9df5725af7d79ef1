"""KServe's v2 protocol as Triton speaks it: over HTTP with JSON or binary tensors, over gRPC, in streams.

Sources: KServe's predict protocol v2, and Triton's extensions to it: binary tensor data, sequences, decoupled models.
"""
