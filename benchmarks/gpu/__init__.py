"""Figures of the full-size model on a card; README.md says how they are run."""
