"""Videos and cameras: reading, writing, tracking, smoothing."""
