"""SOT-GLP in JAX: local-global prompt learning for CLIP via sparse optimal transport."""

__version__ = "0.1.0"
