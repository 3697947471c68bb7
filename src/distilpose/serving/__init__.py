"""Poses over HTTP: ``distilpose serve``."""
