"""A run afterwards: its classifier, its export, its parameters under other names."""
