"""Images: where they come from, how shots are drawn, and how batches are made."""
