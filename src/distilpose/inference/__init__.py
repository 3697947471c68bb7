"""Prediction: from images and person boxes to poses, drawings and files. Nothing here imports torch by itself."""
