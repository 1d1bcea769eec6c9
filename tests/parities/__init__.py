"""One file a method: what this package gives for every key of its golden files."""
