"""Sentences on what a method's authors have published no settings for; see `Method.unpublished`."""

from sotglp_jax.data.catalog import BENCHMARKS

SHOTS = (1, 2, 4, 8, 16)


def by_set(dataset: str, what: str, others: str) -> str:
    """Of settings that differ between the field's data sets: what a data set of none has."""
    if dataset in BENCHMARKS:
        return ""
    return f"{what} are published for the field's eleven data sets alone: {others} stand in"


def by_shots(dataset: str, shots: int) -> str:
    """Of epochs that CoOp's scripts give by the number of shots, but for ImageNet."""
    if dataset == "imagenet" or shots in SHOTS:
        return ""
    return (
        f"epochs are published for {', '.join(map(str, SHOTS))} shots alone: those of 16 stand in"
    )


def by_protocol(protocol: str, *known: str) -> str:
    """Of settings of some protocols, the first of which stands in for all others."""
    if protocol in known:
        return ""
    titles = {"few_shot": "few shots of all classes", "base_to_new": "base to new classes"}
    titles["transfer"] = "transfer to other data sets"
    return (
        f"settings for {titles[protocol]} are not published: those for {titles[known[0]]} stand in"
    )


def listed(*said: str) -> str:
    """One sentence of those that there are."""
    return "; ".join(filter(None, said))
