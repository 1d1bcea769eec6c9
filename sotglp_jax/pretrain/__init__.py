"""How the tiny CLIP was made."""
