"""Ablations: which codebook, which start, which sizes; each cell is one short training run, kept as a JSON file."""
