"""The command line, and the whole service on one machine."""
