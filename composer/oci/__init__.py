"""Images and where they live: names, manifests, layers, and the five kinds of store. Knows nothing of Triton."""
