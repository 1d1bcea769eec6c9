"""What a run is judged by; each yields (name, value)."""
