"""Speed, size and accuracy of models on this machine."""
