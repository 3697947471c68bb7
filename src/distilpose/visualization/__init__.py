"""Poses drawn on images and videos, and faces made unrecognizable."""
