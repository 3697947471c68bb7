"""Teachers of any origin: whatever gives heatmaps, brought to a student's crops, keypoints and cells."""
