"""What is true: PalQuant in PyTorch, and the integer reference that keeps every layer's output."""
