"""What composing costs beside a Docker build of the same image, measured with both in one run on one machine."""
