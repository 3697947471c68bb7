"""Backbones: image (B, 3, H, W) -> feature map (B, C, H / 4, W / 4)."""
