"""Annotated people: reading, augmenting, batching, and drawing them when there is no real data."""
