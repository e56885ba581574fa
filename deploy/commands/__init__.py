"""One module for each command of `illo`: read flags, call, show."""
