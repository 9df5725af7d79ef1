"""tricompose: slim NVIDIA Triton Inference Server images from a recipe."""
