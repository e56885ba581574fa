"""The drawing itself: the only place that imports torch and diffusers."""
