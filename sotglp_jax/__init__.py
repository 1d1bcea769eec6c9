"""SOT-GLP in JAX: local-global prompt learning for CLIP via sparse optimal transport."""

__version__ = "0.1.0"
__all__ = ["Classifier"]


def __getattr__(name: str):
    """Loads `Classifier` with its first use: the commands read their flags before they load JAX."""
    if name != "Classifier":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sotglp_jax.trained.classifier import Classifier

    return Classifier
