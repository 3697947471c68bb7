"""Backbones: crops (B, 3, H, W) -> feature map (B, C, H / stride, W / stride)."""
