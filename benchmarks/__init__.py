"""Figures measured on this machine, each beside a peer or a physical limit of the same run."""
