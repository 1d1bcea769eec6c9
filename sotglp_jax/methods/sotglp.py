"""SOT-GLP: shared global prompts and class-specific local prompts (paper, section 3).

A method is a frozen dataclass of options whose functions are pure:
  init            the trainable tree;
  per_class       which of its leaves have the classes as their first axis;
  encode_classes  text features of all classes;
  score           logits and what they were made of;
  loss            the scalar to minimise, and metrics, as sums over images.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sotglp_jax import collectives, losses, transport
from sotglp_jax.clip import ImageFeatures, Towers
from sotglp_jax.clip.packing import PackedClasses
from sotglp_jax.collectives import Axes
from sotglp_jax.errors import InputError
from sotglp_jax.methods import prompts


@struct.dataclass
class ClassFeatures:
    """Text features of all classes, as the text tower gives them (not normalised)."""

    global_: Float[Array, "C Ng D"]
    local: Float[Array, "C Nl D"]


@struct.dataclass
class Scores:
    """Logits of a batch and their parts.

    Attributes:
      logits: "global", "local" and "fused", each (B, C).
      sim_global: cosines of images and global prompts.
      sim_local: cosines of patches and local prompts.
      support: the K most salient patches per image and class.
      plan: transport plan between them and the local prompts.
      phi: transport-weighted similarity, Σ plan·sim (equation 10).
    """

    logits: dict[str, Float[Array, "B C"]]
    sim_global: Float[Array, "B C Ng"]
    sim_local: Float[Array, "B P C Nl"]
    support: Int[Array, "B C K"]
    plan: Float[Array, "B C K Nl"]
    phi: Float[Array, "B C"]


@dataclasses.dataclass(frozen=True)
class SotGlp:
    """Options of the method; the two recipes are combinations of them.

    Attributes:
      towers: CLIP's modules.
      template_ids: token ids of the template that prompts start from; M is their number.
      n_global: N_g, global prompts.
      n_local: N_l, local prompts per class.
      topk: K, patches kept per image and class; 0 keeps all.
      matching: "transport" shares the kept patches out among the prompts; "uniform" averages over
        them; "independent" averages over each prompt's own K patches, as GalLoP does.
      epsilon: entropic regularisation of the transport.
      iterations: Sinkhorn iterations.
      tau: see `transport.plan`.
      plan_gradient: "stop" takes the plan as a constant, "unroll" differentiates the solver.
      fusion_weight: λ, weight of the local branch in the loss and in the prediction.
      global_weight: the same of the global branch; 1 in the paper.
      learn_fusion: learn the λ of the prediction too, one scalar that starts from `fusion_weight`.
      mean_over_prompts: divide φ by N_l (recipe official).
      mean_of_branches: divide the fused logit by the branches' weights (recipe official).
      global_dropout: share of the global prompts left out per training image.
      local_init: "template", "random" or "gram".
      class_specific: local prompts per class; False is one pool shared by all classes.
      projection: learn W_local; False is the paper's "w/o Proj".
      axes: mesh axes of whoever calls `loss` inside `jax.shard_map`.
    """

    towers: Towers
    template_ids: tuple[int, ...]
    n_global: int = 4
    n_local: int = 4
    topk: int = 10
    matching: str = "transport"
    epsilon: float = 0.1
    iterations: int = 20
    tau: float = 1.0
    plan_gradient: str = "stop"
    fusion_weight: float = 0.25
    global_weight: float = 1.0
    learn_fusion: bool = False
    mean_over_prompts: bool = False
    mean_of_branches: bool = False
    global_dropout: float = 0.75
    local_init: str = "template"
    class_specific: bool = True
    projection: bool = True
    axes: Axes = Axes()

    def __post_init__(self):
        patches = self.towers.vision.tokens - 1
        if self.topk > patches:
            raise InputError(
                f"method.topk={self.topk} asks for more patches than the {patches} that this CLIP "
                f"sees in an image: set --config.method.topk to {patches} or less."
            )

    def init(self, key: PRNGKeyArray, frozen: dict, n_classes: int) -> dict:
        """The trainable tree, float32.

        Returns:
          global_prompts (N_g, M, D_t); local_prompts (C, N_l, M, D_t), without C when shared;
          local_projection (W, W), applied as patches @ local_projection; log_fusion ().
        """
        template = frozen["text"]["token_embedding"][np.array(self.template_ids)]
        shape = (n_classes,) * self.class_specific + (self.n_local, *template.shape)
        initialise = {
            "template": lambda: prompts.from_template(key, shape, template),
            "random": lambda: prompts.xavier_uniform(key, shape),
            "gram": lambda: prompts.orthonormal(key, shape),
        }
        trainable = {
            "global_prompts": jnp.tile(template, (self.n_global, 1, 1)).astype(jnp.float32),
            "local_prompts": initialise[self.local_init]().astype(jnp.float32),
        }
        if self.projection:
            trainable["local_projection"] = jnp.eye(self.towers.vision.width)
        if self.learn_fusion:
            trainable["log_fusion"] = jnp.log(jnp.float32(self.fusion_weight))
        return trainable

    def select_classes(self, trainable: dict, labels: tuple[int, ...]) -> dict:
        """The trained tree for some of the classes it was trained on."""
        if not self.class_specific:
            return trainable
        return trainable | {"local_prompts": trainable["local_prompts"][np.array(labels)]}

    @property
    def per_class(self) -> tuple[str, ...]:
        """Leaves of the trainable tree that hold a row for each class."""
        return ("local_prompts",) if self.class_specific else ()

    def encode_classes(
        self, trainable: dict, frozen: dict, classes: PackedClasses
    ) -> ClassFeatures:
        """Text features of every prompt of every class (equation 1), in the classes' order."""
        features = self._encode(trainable, frozen, classes)[classes.places]
        return ClassFeatures(features[:, : self.n_global], features[:, self.n_global :])

    def _encode(
        self, trainable: dict, frozen: dict, classes: PackedClasses
    ) -> Float[Array, "r N D"]:
        """The same of this device's places alone, global prompts first."""
        shared, own = trainable["global_prompts"], trainable["local_prompts"]
        if not self.class_specific:
            shared = jnp.concatenate([shared, own])
            own = jnp.zeros((len(classes.mask), 0, *own.shape[1:]))
        return prompts.encode(self.towers, frozen["text"], shared, own, classes)

    def score(
        self, trainable: dict, frozen: dict, text: ClassFeatures, image: ImageFeatures
    ) -> Scores:
        """Both branches on a batch (sections 3.3 and 3.4)."""
        f_global = unit(self._project(frozen, image.cls))
        f_local = unit(self._project(frozen, self._adapt(trainable, image.patches)))
        sim_global = cosines("bd,cnd->bcn", f_global, unit(text.global_))
        sim_local = cosines("bpd,cnd->bpcn", f_local, unit(text.local))
        support, plan, phi = self.match(sim_local)
        weight = jnp.exp(trainable["log_fusion"]) if self.learn_fusion else self.fusion_weight
        logits = self._logits(jnp.exp(frozen["logit_scale"]), sim_global.mean(-1), phi, weight)
        return Scores(logits, sim_global, sim_local, support, plan, phi)

    def match(
        self, sim_local: Float[Array, "B P C Nl"]
    ) -> tuple[Int[Array, "B C K"], Float[Array, "B C K Nl"], Float[Array, "B C"]]:
        """Support, plan and φ of the local similarities (equations 8 to 10).

        With independent matching each prompt has a support of its own, (B, C, K, N_l).
        """
        kept = self.topk or sim_local.shape[1]
        constant = jax.lax.stop_gradient(sim_local)
        if self.matching == "independent":
            support = jnp.moveaxis(transport.support(constant, kept), -1, 2)
            chosen = support
        else:
            support = transport.support(constant.mean(-1), kept)
            chosen = support[..., None]
        sim_BxCxKxN = jnp.take_along_axis(sim_local.transpose(0, 2, 1, 3), chosen, axis=2)
        plan = self._plan(sim_BxCxKxN)
        return support, plan, jnp.sum(plan * sim_BxCxKxN, axis=(-2, -1))

    def loss(
        self,
        trainable: dict,
        frozen: dict,
        classes: PackedClasses,
        image: ImageFeatures,
        labels: Int[Array, " B"],
        mask: Bool[Array, " B"],
        key: PRNGKeyArray,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """L_global + λ L_local with global prompt dropout (section 3.5), and metrics.

        All are sums over the images, of which "images" is the number. On a mesh, a device has some
        of the images, some of the places, and the rows of local prompts for these; its gradient is
        whole for its local prompts and to be added up over the devices for all other leaves.

        Args:
          trainable: the tree of `init`.
          frozen: CLIP's weights.
          classes: the bare class names, laid out by `packing.pack`.
          image: frozen features of the batch.
          labels: class indices.
          mask: False for padding.
          key: randomness of the dropout.
        """
        text = collectives.gather(self._encode(trainable, frozen, classes), self.axes.images)
        text = ClassFeatures(text[:, : self.n_global], text[:, self.n_global :])
        scores = self.score(trainable, frozen, text, image)
        scale, keep = jnp.exp(frozen["logit_scale"]), self._drawn(key, len(labels))
        dropped = scale * jnp.einsum("bcn,bn->bc", scores.sim_global, keep, precision="highest")
        logits = jnp.where(classes.mask, jnp.stack([dropped, *scores.logits.values()]), -jnp.inf)
        places = classes.places[labels] - len(text.local) * collectives.index(self.axes.classes)
        entropy = transport.normalised_entropy(scores.plan)
        entropy = jnp.sum(entropy, axis=-1, where=classes.mask) / len(classes.places)
        losses_, correct, entropy = losses.judge(logits, places, entropy, self.axes.classes)
        dropped, *losses_ = (losses.masked_sum(x, mask) for x in losses_)
        of_branch = dict(zip(scores.logits, losses_, strict=True))
        total = self.global_weight * dropped + self.fusion_weight * of_branch["local"]
        if self.learn_fusion:
            total += of_branch["fused"]
        metrics = {
            "images": jnp.sum(mask, dtype=jnp.float32),
            "loss": total,
            "loss_global": dropped,
            "loss_local": of_branch["local"],
            "plan_entropy": losses.masked_sum(entropy, mask),
        }
        for name, x in zip(scores.logits, correct[1:], strict=True):
            metrics[f"accuracy_{name}"] = losses.masked_sum(x, mask)
        if self.learn_fusion:  # of all images the same
            metrics["fusion_weight"] = metrics["images"] * jnp.exp(trainable["log_fusion"])
        return total, metrics

    def _drawn(self, key: PRNGKeyArray, images: int) -> Float[Array, "B Ng"]:
        """Weights of the global prompts for this device's images, of what is drawn for all."""
        images *= collectives.size(self.axes.images)
        keep = keep_prompts(images, self.n_global, self.global_dropout, key)
        return collectives.own_part(keep, self.axes.images)

    def _adapt(self, trainable: dict, patches: Float[Array, "B P W"]) -> Float[Array, "B P W"]:
        """W_local on the patch features (equation 3)."""
        if not self.projection:
            return patches
        return jnp.matmul(patches, trainable["local_projection"], precision="highest")

    def _project(self, frozen: dict, features: Float[Array, "... W"]) -> Float[Array, "... D"]:
        return self.towers.vision.apply({"params": frozen["vision"]}, features, method="project")

    def _plan(self, sim: Float[Array, "B C K Nl"]) -> Float[Array, "B C K Nl"]:
        if self.matching != "transport":
            return jnp.full_like(sim, 1 / (sim.shape[-2] * sim.shape[-1]))
        constant = self.plan_gradient == "stop"
        sim = jax.lax.stop_gradient(sim) if constant else sim
        return transport.plan(sim, self.epsilon, self.iterations, self.tau)

    def _logits(
        self, scale, sim_global: Float[Array, "B C"], phi: Float[Array, "B C"], weight
    ) -> dict:
        s_global = scale * sim_global
        s_local = scale * (phi / self.n_local if self.mean_over_prompts else phi)
        branches = s_global, s_local
        if self.learn_fusion:  # the branches learn from losses of their own
            branches = jax.lax.stop_gradient(branches)
        fused = self.global_weight * branches[0] + weight * branches[1]
        if self.mean_of_branches:
            fused = fused / (self.global_weight + weight)
        return {"fused": fused, "global": s_global, "local": s_local}


def keep_prompts(
    images: int, n_global: int, share: float, key: PRNGKeyArray
) -> Float[Array, "B Ng"]:
    """Weights of the mean over the prompts that each image keeps, drawn with replacement.

    Args:
      images: B.
      n_global: N_g.
      share: left out of N_g, rounded down; at least one is kept, and 0 keeps exactly all.
      key: randomness.
    """
    if not share:
        return jnp.full((images, n_global), 1 / n_global)
    keep = max(n_global - int(share * n_global), 1)
    drawn = jax.random.randint(key, (images, keep), 0, n_global)
    return jax.nn.one_hot(drawn, n_global).mean(1)


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """x / |x| along the last axis."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def cosines(pattern: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Products of unit vectors in full float32: the similarities decide, so no TF32 or bf16."""
    return jnp.einsum(pattern, a, b, precision="highest")
