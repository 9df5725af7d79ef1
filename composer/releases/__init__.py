"""Facts per Triton release."""
