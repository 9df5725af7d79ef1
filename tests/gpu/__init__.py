"""What is said of GPUs, on a real one: `make gpu` starts real servers where there is one, and records what was seen.

`recorded/` holds what a GPU was seen to do; tests read it again everywhere. It is empty until somebody had a GPU.
"""
