"""Our Dockerfiles against those that every release's own compose.py writes."""
