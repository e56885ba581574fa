"""The HTTP side: it validates, saves, wakes workers and shows; it never draws."""
