"""A model card: what the hub shows of a repository that holds a run."""

import io
import json
from collections.abc import Mapping

from sotglp_jax.clip.hub import OPENAI
from sotglp_jax.evaluators.maps import Examples
from sotglp_jax.reports import figures, gallery, tables
from sotglp_jax.workdir import CLASSES

MAPS = "maps.png"
ROWS = 6  # images of the picture
DPI = 110
TEXT = """
# {repository}

{title} (`{method}`) on `{dataset}`: {classes} classes, {images} training images, for the frozen
CLIP `{clip}`. Trained by sotglp_jax {version}, which is
[SOT-GLP](https://github.com/Deniz2304988/SOT-GLP) and its peers in JAX.

## Accuracy

{accuracy}

{note}

## Use

```sh
sotglp predict hf:{repository} picture.jpg
```

```python
from sotglp_jax import Classifier

found = Classifier.load("hf:{repository}")(["picture.jpg"])
print(found.names, found.best.max(-1), found.is_ood)
```

CLIP's weights are not here: they are those of `{clip}`, whose SHA-256 over all weights is
`{clip_sha256}`; any others are refused.

{threshold}

## Classes

{names}
"""
LOOKS = """
## Where its local prompts look

![Test images with the maps of the prompts of their classes]({picture})

The first test image of a class and what the run says of it, the cosines of its patches and each
local prompt of the class, and their mean with the patches that are kept.
"""
FLAGGED = (
    "A picture looks out of distribution below {value:.4g} in {score}, which 95 % of {images} "
    "{part} images reach."
)
PARTS = {"val": "validation", "test": "test"}


def make(
    repository: str, files: Mapping[str, bytes], examples: Examples | None
) -> dict[str, bytes | None]:
    """Makes README.md, and its picture where there are maps; None where there is none.

    Args:
      repository: owner/name.
      files: of the repository, see `trained.hub.contents`.
      examples: images with maps; None leaves the picture out.
    """
    results, names = (json.loads(files[name]) for name in ("results.json", CLASSES))
    method, protocol = results["method"], results["protocol"]
    text = TEXT.format(
        **{key: protocol[key] for key in ("method", "dataset", "clip", "clip_sha256")},
        repository=repository,
        title=method["title"],
        classes=len(names),
        images=results["images"]["train"],
        version=results["versions"]["sotglp_jax"],
        accuracy=_verbatim(tables.of_run(results)),
        note=f"Note: {protocol['unpublished']}." if protocol["unpublished"] else "",
        threshold=_threshold(results),
        names=_verbatim("\n".join(names)),
    )
    text += LOOKS.format(picture=MAPS) if examples else ""
    whole = f"---\n{_metadata(repository, results)}\n---\n{text}"
    return {"README.md": whole.encode(), MAPS: _picture(examples) if examples else None}


def _verbatim(text: str) -> str:
    """As a block of code, which no name can end."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def _threshold(results: Mapping) -> str:
    if not (found := results.get("ood_threshold")):
        return ""
    score = tables.OOD_SCORES.get(found["score"], found["score"])
    return FLAGGED.format(**found | {"score": score, "part": PARTS[found["part"]]})


def _metadata(repository: str, results: Mapping) -> str:
    """What the hub searches and lists, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    clip, dataset = (results["protocol"][key] for key in ("clip", "dataset"))
    accuracy = results["accuracy"][tables.deciding(results["method"], results["accuracy"])]
    return ModelCardData(
        library_name="sotglp_jax",
        pipeline_tag="image-classification",
        tags=["clip", "few-shot", "prompt-learning", results["method"]["name"]],
        base_model=OPENAI.get(clip, clip if "/" in clip else None),
        model_name=repository,
        eval_results=[
            EvalResult("image-classification", dataset, dataset, "accuracy", round(accuracy, 4))
        ],
    ).to_yaml()


def _picture(examples: Examples) -> bytes:
    some = examples.take(range(len(examples.names))[:ROWS])
    drawn = io.BytesIO()
    gallery.draw(some.images, some.maps, figures.titles(some)).savefig(drawn, format="png", dpi=DPI)
    return drawn.getvalue()
