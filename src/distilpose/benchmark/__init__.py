"""What models cost and how fast things are on this machine."""
