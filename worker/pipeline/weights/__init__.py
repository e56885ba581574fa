"""Weights: reading, checking, describing, assembling."""
