"""Speed and memory with random weights of the real sizes."""
