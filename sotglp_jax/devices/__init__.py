"""Where arrays live, who computes what, and what fits."""
