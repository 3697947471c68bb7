"""Ground truth and a model, or a results file alone -> COCO AP, per-joint PCK and AP by size."""
