"""Constrained decoding against its peers: the mask of a step, the index, allow-lists, and retrieval end to end."""
