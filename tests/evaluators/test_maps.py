"""Similarity maps of local prompts, and their pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from PIL import Image

from sotglp_jax import workdir
from sotglp_jax.data.sources import Dataset, Source
from sotglp_jax.data.transforms import Resize
from sotglp_jax.errors import InputError
from sotglp_jax.evaluators import maps
from sotglp_jax.methods import transport
from sotglp_jax.reports import gallery

B, C, SIDE, K, N = 3, 4, 5, 6, 2
LABELS = np.array([1, 0, 3], np.int32)


@struct.dataclass
class Scores:
    """The fields of a method's scores that maps are made of."""

    logits: dict
    sims: dict
    parts: dict


@pytest.fixture(scope="module")
def scores():
    sim = np.random.default_rng(0).uniform(-0.1, 0.6, (B, SIDE**2, C, N)).astype(np.float32)
    support = np.asarray(transport.support(sim.mean(-1), K))
    chosen = np.take_along_axis(sim.transpose(0, 2, 1, 3), support[..., None], 2)
    plan = transport.plan(jnp.asarray(chosen), 0.1, 20)
    return Scores({"fused": None}, {"local": sim}, {"support": support, "plan": plan})


def test_maps_are_of_the_labels_prompts_on_the_patch_grid(scores):
    found = jax.device_get(jax.jit(maps.compute)(scores, LABELS))
    assert found.prompts.shape == (B, N, SIDE, SIDE) and found.tops.shape == (B, N, 3)
    np.testing.assert_allclose(found.prompts.mean(1), found.combined, rtol=1e-6)
    for i, label in enumerate(LABELS):
        assert found.prompts[i, 1, 2, 4] == scores.sims["local"][i, 2 * SIDE + 4, label, 1]
        support = np.sort(scores.parts["support"][i, label])
        np.testing.assert_array_equal(np.flatnonzero(found.kept[i]), support)
        for n in range(N):
            best = np.argsort(-found.prompts[i, n].ravel())[:3]
            np.testing.assert_array_equal(found.tops[i, n], best)
            mostly = np.asarray(scores.parts["plan"][i, label]).argmax(-1) == n
            assert found.shares[i, n] == pytest.approx(mostly.mean())


def test_patches_that_each_prompt_keeps_for_itself_are_what_is_shown():
    cosines = [[9, 0], [8, 1], [5, 5], [0, 9]]  # the mean is largest at patch 2, which none keeps
    support, plan = np.array([[0, 3]]), np.full((1, 2), 0.5, np.float32)
    parts = {"support": support[None, None], "plan": plan[None, None]}
    sim = np.array(cosines, np.float32)[None, :, None]
    found = maps.compute(Scores({}, {"local": sim}, parts), np.array([0]))
    assert found.kept.tolist() == [[[True, False], [False, True]]]


def test_a_method_without_local_prompts_has_no_maps(scores):
    for name in ("plan", "support"):
        parts = {key: x for key, x in scores.parts.items() if key != name}
        assert maps.compute(scores.replace(parts=parts), LABELS) is None
    assert maps.compute(scores.replace(sims={"global": None}), LABELS) is None


def test_a_plan_without_preference_is_shared_equally(scores):
    plan = jnp.full_like(scores.parts["plan"], 1 / (K * N))
    even = scores.replace(parts=scores.parts | {"plan": plan})
    np.testing.assert_allclose(maps.compute(even, LABELS).shares, 1 / N)


def test_a_row_shows_the_image_every_prompt_and_all_combined(scores):
    images = np.zeros((B, 8, 8, 3), np.uint8)
    figure = gallery.draw(images, maps.compute(scores, LABELS), ["a", "b", "c"])
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == B * (N + 2) and panels[N + 2].get_title() == "b"
    assert [len(axes.patches) for axes in panels[: N + 2]] == [0, 3, 3, K]
    every = maps.compute(scores, LABELS).replace(kept=np.ones((B, SIDE, SIDE), bool))
    assert not gallery.draw(images, every, ["a", "b", "c"]).axes[N + 1].patches
    corner = panels[1].patches[0].get_xy()
    top = int(maps.compute(scores, LABELS).tops[0, 0, 0])
    assert (int(corner[1]), int(corner[0])) == divmod(top, SIDE)


def test_maps_are_kept_of_the_first_image_of_each_class(scores, tmp_path):
    assert maps.first_of_classes((2, 0, 2, 3, 0, 3)) == [0, 1, 3]
    assert len(maps.first_of_classes(tuple(range(300)))) == maps.CLASSES

    def draw(key):
        return Image.new("RGB", (300, 224), (key, 0, 0))

    source = Source(draw, range(9), range(9), (2, 0, 2, 3, 0, 3, 1, 1, 1), "drawn")
    dataset = Dataset("x", ("a", "b", "c", "d"), "{}", source, source, source)
    part = vars(jax.device_get(maps.compute(scores, LABELS)))
    part = {name: x[:2] for name, x in part.items()}
    answers = maps.Answers(np.array(["d", "a"]), np.array([0.5, 0.9]), np.array([True, False]))
    kept = maps.examples(dataset, [0, 1], part, answers, Resize(224))  # of labels 2 and 0
    assert kept.names == ("a", "c") and kept.images.shape == (2, maps.SIDE, maps.SIDE, 3)
    assert kept.images[:, 0, 0, 0].tolist() == [1, 0]
    np.testing.assert_allclose(kept.maps.prompts, part["prompts"][[1, 0]], atol=1e-3)
    assert maps.load(tmp_path) is None
    workdir.write_arrays(tmp_path / maps.FILE, **maps.arrays(kept))
    assert [path.name for path in tmp_path.iterdir()] == [maps.FILE]
    again = maps.load(tmp_path)
    assert again.names == kept.names and again.maps.prompts.dtype == np.float16
    assert again.maps.kept.dtype == bool
    jax.tree.map(np.testing.assert_array_equal, again.maps, kept.maps)
    assert again.answers.given.tolist() == ["a", "d"] and again.answers.flagged.tolist() == [0, 1]
    assert again.take([1]).answers.probability.tolist() == [0.5]
    assert again.take([1]).names == ("c",) and again.take([1]).maps.tops.shape == (1, N, 3)
    (tmp_path / maps.FILE).write_bytes((tmp_path / maps.FILE).read_bytes()[:-50])
    with pytest.raises(InputError, match="maps.npz is damaged: evaluate"):
        maps.load(tmp_path)
