"""The worker: claims jobs, draws them, stores the images."""
