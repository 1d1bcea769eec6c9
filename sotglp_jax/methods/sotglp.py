"""SOT-GLP: shared global prompts and class-specific local prompts (paper, section 3)."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from sotglp_jax.clip.tokenizer import Tokenizer
from sotglp_jax.clip.weights import SAME, TRANSPOSE
from sotglp_jax.errors import InputError
from sotglp_jax.methods import averaging, prompts, published, transport
from sotglp_jax.methods.contract import (
    Images,
    Method,
    Moment,
    Params,
    Scores,
    Stage,
    Variant,
    accuracies,
    at_least,
    masked_mean,
    one_of,
    readable,
)
from sotglp_jax.methods.prompts import ClassFeatures
from sotglp_jax.methods.similarity import classify, cosines, unit
from sotglp_jax.methods.zeroshot import ZeroShot

# Weights of the global and the local branch that are tried on validation images: λ from 0 over
# powers of 2 to infinity. The same pairs weigh the learned logits and those of zero-shot CLIP.
GRID = ((1.0, 0.0), *((1.0, 2.0**k) for k in range(-4, 4)), (0.0, 1.0))

EPSILONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # that are tried on validation images

# Epochs, batch size, learning rate and N_l of the official code's scripts.
OFFICIAL = {
    "imagenet": (50, 256, 0.01, 4),
    "caltech101": (200, 32, 0.005, 6),
    "stanford_cars": (200, 32, 0.005, 4),
    "flowers102": (200, 32, 0.005, 6),
    "oxford_pets": (200, 32, 0.005, 6),
    "food101": (200, 128, 0.005, 6),
    "fgvc_aircraft": (200, 128, 0.01, 2),
    "sun397": (200, 128, 0.005, 4),
    "ucf101": (200, 128, 0.005, 4),
    "dtd": (200, 128, 0.002, 4),
    "eurosat": (200, 10, 0.001, 4),
}
OTHERS = OFFICIAL["caltech101"]
# Data sets whose labels the official code numbers by first appearance, and one whose shots it draws
# from the validation images too.
RENUMBERED, POOLED = ("stanford_cars", "flowers102"), ("fgvc_aircraft",)


@dataclasses.dataclass(frozen=True)
class SotGlp(Method):
    """The method; its two recipes are combinations of these options.

    Attributes:
      context: words that prompts start from; M is the number of their tokens.
      keep_underscores: leave `_` in class names as it is (recipe official).
      n_global: N_g, global prompts.
      n_local: N_l, local prompts per class.
      topk: K, patches kept per image and class; 0 keeps all.
      matching: "transport" shares the kept patches out among the prompts; "uniform" averages over
        them; "independent" averages over each prompt's own K patches, as GalLoP does.
      epsilon: entropic regularisation of the transport.
      validated_epsilon: choose the ε of the prediction on the validation shots after training.
      iterations: Sinkhorn iterations.
      tau: below 1 the transport is unbalanced, see `transport.plan`.
      plan_gradient: "stop" takes the plan as a constant, "unroll" differentiates the solver.
      fusion_weight: λ, weight of the local branch in the loss and in the prediction.
      global_weight: weight of the global branch in both; 1 in the paper.
      fusion: λ of the prediction: "fixed" as in training, "validated" on the validation shots
        after it, or "learned" with the prompts, one scalar that starts from `fusion_weight`.
      ensemble: add the logits of zero-shot CLIP to those that decide, with a weight that is chosen
        on the validation shots.
      average_mean: μ of the weights of an average over the epochs, as a share of their number.
      average_std: σ of these weights, as such a share; 0 ends with the last parameters.
      mean_over_prompts: divide φ by N_l (recipe official).
      mean_of_branches: divide the fused logit by the branches' weights (recipe official).
      global_dropout: share of the global prompts left out per training image.
      local_init: what local prompts start from, see the functions of `prompts`: "random" is
        Xavier-uniform over the whole tensor, "template" the words of `context` with a little noise,
        "gram" orthonormal rows. The paper does not say; from the template they stay equal.
      class_specific: local prompts per class; False is one pool shared by all classes.
      projection: learn W_local; False is the paper's "w/o Proj".
      vv: patches come from the V-V stream; False is the paper's "w/o V-V".
      vv_first_layer_leak: see `clip.vision` (recipe official).
    """

    context: str = "A photo of a"
    keep_underscores: bool = False
    n_global: int = 4
    n_local: int = 4
    topk: int = 10
    matching: str = "transport"
    epsilon: float = 0.1
    validated_epsilon: bool = False
    iterations: int = 20
    tau: float = 1.0
    plan_gradient: str = "stop"
    fusion_weight: float = 0.25
    global_weight: float = 1.0
    fusion: str = "fixed"
    ensemble: bool = False
    average_mean: float = 0.9
    average_std: float = 0.0
    mean_over_prompts: bool = False
    mean_of_branches: bool = False
    global_dropout: float = 0.75
    local_init: str = "random"
    class_specific: bool = True
    projection: bool = True
    vv: bool = True
    vv_first_layer_leak: bool = False

    title: ClassVar[str] = "SOT-GLP"
    logits: ClassVar[Mapping[str, str]] = {
        "fused": "fused",
        "global": "global only",
        "local": "local only",
    }
    recipes: ClassVar[tuple[str, ...]] = ("paper", "official")
    # On validation shots of three seeds as good as the paper's 0.05, at which the loss rises again.
    tiny: ClassVar[Mapping[str, Any]] = {"train.lr": 0.02}
    variants: ClassVar[Mapping[str, Variant]] = {
        "no_vv": Variant("w/o V-V attention", {"vv": False}),
        "no_proj": Variant("w/o projection", {"projection": False}),
        "shared_local": Variant("w/o class-specific prompts", {"class_specific": False}),
        "no_ot": Variant("w/o transport", {"matching": "uniform"}),
        "no_topk": Variant("w/o top-K", {"topk": 0}),
        "independent_topk": Variant("independent top-K", {"matching": "independent"}),
        "global_only": Variant("global branch alone", {"fusion_weight": 0.0}),
        "local_only": Variant("local branch alone", {"global_weight": 0.0}),
        "validated_epsilon": Variant("ε validated", {"validated_epsilon": True}),
        "learned_fusion": Variant("λ learned", {"fusion": "learned"}),
        "ensemble": Variant("with zero-shot CLIP", {"ensemble": True}),
        "averaged": Variant("averaged over epochs", {"average_std": 0.1}),
    }
    symbols: ClassVar[Mapping[str, str]] = {"fusion_weight": "λ", "topk": "K", "epsilon": "ε"}
    decay: ClassVar[Mapping[str, float]] = {"log_fusion": 0.0}  # decay would draw λ to 1
    torch_names: ClassVar[Mapping[str, tuple]] = {
        "global_prompts": ("global_prompt", SAME),
        "local_prompts": ("local_prompts", SAME),
        "local_projection": ("local_proj.linear.weight", TRANSPOSE),
        "log_fusion": ("log_fusion", SAME),  # theirs has none: of fusion="learned"
    }
    # Parameters that their model carries from earlier forms.
    torch_unused: ClassVar[str] = (
        r"[AB]|(multi_head_attention_layer|ff_begin|ln1_begin|ln2_begin)\..+"
    )

    def __post_init__(self):
        at_least(1, n_global=self.n_global, n_local=self.n_local, iterations=self.iterations)
        at_least(0, topk=self.topk, global_dropout=self.global_dropout)
        at_least(0, fusion_weight=self.fusion_weight, global_weight=self.global_weight)
        at_least(0, average_std=self.average_std)
        one_of(("transport", "uniform", "independent"), matching=self.matching)
        one_of(("fixed", "validated", "learned"), fusion=self.fusion)
        one_of(("template", "random", "gram"), local_init=self.local_init)
        one_of(("stop", "unroll"), plan_gradient=self.plan_gradient)
        if not self.epsilon > 0:
            raise InputError("method.epsilon must be above 0: 0.1 is the paper's.")
        if self.validated_epsilon and self.matching != "transport":
            raise InputError(
                f"method.matching={self.matching} knows no ε: leave out method.validated_epsilon."
            )
        if not 0 < self.tau <= 1:
            raise InputError("method.tau must be above 0 and at most 1, which is the paper's.")
        if self.fusion == "learned" and not self.fusion_weight > 0:
            raise InputError(
                "method.fusion=learned starts from method.fusion_weight: set it above 0."
            )
        if not self.fusion_weight + self.global_weight > 0:
            raise InputError(
                "method.fusion_weight and method.global_weight are both 0: set one of them."
            )
        if self.towers and self.topk > (patches := self.towers.vision.tokens - 1):
            raise InputError(
                f"method.topk={self.topk} asks for more patches than the {patches} that this CLIP "
                f"sees in an image: set --config.method.topk to {patches} or less."
            )

    @classmethod
    def recipe(cls, name: str, dataset: str, shots: int, protocol: str) -> dict[str, Any]:
        """The paper's section 4, or what the authors' code and scripts do."""
        if name == "paper":
            values = {"epochs": 50, "batch_size": 32, "lr": 0.05, "warmup_epochs": 5}
            return {f"train.{key}": value for key, value in values.items()}
        epochs, batch_size, lr, n_local = OFFICIAL.get(dataset, OTHERS)
        return {
            "data.sampler": "stratified",
            "data.renumber": dataset in RENUMBERED,
            "data.pool": "train+val" if dataset in POOLED else "train",
            "data.full_stop": False,
            "method.keep_underscores": True,
            "method.n_global": 3,
            "method.n_local": n_local,
            "method.fusion_weight": 1.0,
            "method.mean_over_prompts": True,
            "method.mean_of_branches": True,
            "method.vv_first_layer_leak": True,
            "train.epochs": epochs,
            "train.batch_size": batch_size,
            "train.lr": lr,
            "train.warmup_epochs": 0,
            "train.drop_last": "always",
        }

    @classmethod
    def unpublished(cls, name: str, dataset: str, shots: int, protocol: str) -> str:
        """There are scripts for 16 shots of the field's data sets."""
        if name == "paper":
            return ""
        return published.listed(
            "" if shots == 16 else "scripts are published for 16 shots alone, which stand in",
            published.by_set(dataset, "scripts", "those of Caltech101"),
        )

    @property
    def validation(self) -> str:
        """λ, ε and the weight of zero-shot CLIP may be chosen by validation."""
        settings = {
            "method.fusion=validated": self.fusion == "validated",
            "method.validated_epsilon": self.validated_epsilon,
            "method.ensemble": self.ensemble,
        }
        return next((setting for setting, chosen in settings.items() if chosen), "")

    def tokenize(self, tokenizer: Tokenizer, class_names: tuple[str, ...], template: str) -> dict:
        """The bare class names, the ids of the context's tokens (M,), and zero-shot sentences."""
        context = tokenizer.encode(self.context)
        most = tokenizer.context_length // 2
        if not 0 < len(context) <= most:
            raise InputError(
                f'method.context="{self.context}" has {len(context)} tokens: set '
                f"--config.method.context to words of 1 to {most} tokens."
            )
        names = class_names if self.keep_underscores else readable(class_names)
        found = {
            "names": tokenizer(names, room=len(context)),
            "context": np.array(context, np.int32),
        }
        if self.ensemble:
            found["zero_shot"] = self._plain.tokenize(tokenizer, class_names, template)
        return found

    def text_tokens(self, length: int) -> int:
        """Names behind shared contexts, and own contexts with their names."""
        m = len(self.context.split())
        return self.n_global * length + self.n_local * (m + length)

    def init(self, key: PRNGKeyArray, frozen: dict, names: dict) -> Params:
        """The parameters before the first step, float32.

        Returns:
          global_prompts (N_g, M, D_t); local_prompts (C, N_l, M, D_t), without C when shared;
          local_projection (W, W), applied as patches @ local_projection; log_fusion ().
        """
        template = self.towers.embed(frozen, names["context"])
        classes = (len(names["names"].places),) * self.class_specific
        shape = (*classes, self.n_local, *template.shape)
        initialise = {
            "template": lambda: prompts.from_template(key, shape, template),
            "random": lambda: prompts.xavier_uniform(key, shape),
            "gram": lambda: prompts.orthonormal(key, shape),
        }
        params = {
            "global_prompts": jnp.tile(template, (self.n_global, 1, 1)).astype(jnp.float32),
            "local_prompts": initialise[self.local_init]().astype(jnp.float32),
        }
        if self.projection:
            params["local_projection"] = jnp.eye(self.towers.vision.width)
        if self.fusion == "learned":
            params["log_fusion"] = jnp.log(jnp.float32(self.fusion_weight))
        return params

    def stages(self, train: Mapping[str, Any]) -> tuple[Stage, ...]:
        """One stage, whose parameters may be averaged over its epochs."""
        (stage,) = super().stages(train)
        if not self.average_std:
            return (stage,)
        epochs = stage.epochs
        weights = averaging.gaussian(epochs, self.average_mean * epochs, self.average_std * epochs)
        return (dataclasses.replace(stage, average=weights),)

    @property
    def local(self) -> str:
        """Patches of the V-V stream, or of the original one."""
        return "vv" if self.vv else "tokens"

    def encode_images(
        self, params: Params, frozen: dict, pixels: UInt8[Array, "B R R 3"]
    ) -> dict[str, Array]:
        """The class token, and patches of the stream that `local` names."""
        return self.towers.images(frozen, pixels, local=self.local, leak=self.vv_first_layer_leak)

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> ClassFeatures:
        """Text features of global and local prompts before every class name."""
        text = self._prompted(params, frozen, names)
        if not self.ensemble:
            return text
        plain = self._plain.encode_classes({}, frozen, names["zero_shot"])
        return text.replace(zero_shot=plain)

    def encode_step(
        self, params: Params, frozen: dict, names: dict, moment: Moment
    ) -> ClassFeatures:
        """The prompts' features alone: the loss does not see zero-shot CLIP."""
        return self._prompted(params, frozen, names)

    def _prompted(self, params: Params, frozen: dict, names: dict) -> ClassFeatures:
        shared, own = params["global_prompts"], params["local_prompts"]
        if not self.class_specific:
            shared, own = jnp.concatenate([shared, own]), None
        text = self.towers.texts(frozen, names["names"], shared, own)
        return ClassFeatures(text[:, : self.n_global], text[:, self.n_global :])

    def score(self, params: Params, frozen: dict, text: ClassFeatures, image: dict) -> Scores:
        """Both branches on a batch (sections 3.3 and 3.4)."""
        f_global = unit(self.towers.project(frozen, image["cls"]))
        f_local = unit(self.towers.project(frozen, self._adapt(params, image["patches"])))
        sims = {
            "global": cosines("bd,cnd->bcn", f_global, unit(text.global_)),
            "local": cosines("bpd,cnd->bpcn", f_local, unit(text.local)),
        }
        support, plan, phi = self.match(sims["local"], params.get("epsilon", self.epsilon))
        logits = self._logits(params, frozen, sims["global"].mean(-1), phi)
        if "ensemble" in params:
            of_learned, of_plain = params["ensemble"]
            plain = self._plain.score({}, frozen, text.zero_shot, {"cls": image["cls"]}).logits
            logits["fused"] = of_learned * logits["fused"] + of_plain * plain["zero_shot"]
        return Scores(logits, sims, {"support": support, "plan": plan, "phi": phi})

    def match(
        self, sim_local: Float[Array, "B P C Nl"], epsilon: float | Float[Array, ""] | None = None
    ) -> tuple[Int[Array, "B C K"], Float[Array, "B C K Nl"], Float[Array, "B C"]]:
        """Support, plan and φ of the local similarities (equations 8 to 10).

        With independent matching each prompt has a support of its own, (B, C, K, N_l). Of the
        transport `epsilon` is the regularisation; None takes the option's.
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
        plan = self._plan(sim_BxCxKxN, self.epsilon if epsilon is None else epsilon)
        return support, plan, jnp.sum(plan * sim_BxCxKxN, axis=(-2, -1))

    def loss(
        self,
        params: Params,
        frozen: dict,
        text: ClassFeatures,
        image: dict,
        labels: Int[Array, " B"],
        moment: Moment,
    ) -> tuple[Float[Array, " B"], dict[str, Array]]:
        """L_global + λ L_local of each image, with global prompt dropout (section 3.5)."""
        scores = self.score(params, frozen, text, image)
        keep = prompts.keep_prompts(len(labels), self.n_global, self.global_dropout, moment.key)
        sim = scores.sims["global"]
        dropped = jnp.einsum("bcn,bn->bc", sim, keep, precision="highest")
        dropped = jnp.exp(frozen["logit_scale"]) * dropped
        entropy = partial(optax.softmax_cross_entropy_with_integer_labels, labels=labels)
        of_global, of_local = entropy(dropped), entropy(scores.logits["local"])
        total = self.global_weight * of_global + self.fusion_weight * of_local
        metrics = {
            "loss_global": of_global,
            "loss_local": of_local,
            "loss_global_worst": _worst(jnp.exp(frozen["logit_scale"]) * sim, labels),
            "plan_entropy": transport.normalised_entropy(scores.parts["plan"]).mean(-1),
            **accuracies(scores.logits, labels),
        }
        if self.fusion == "learned":
            total += entropy(scores.logits["fused"])
            metrics["fusion_weight"] = jnp.exp(params["log_fusion"])
        return total, metrics

    def finish(self, params: Params, frozen: dict, text: ClassFeatures, images: Images) -> Params:
        """Adds what is validated: "epsilon" (), and (2,) weights, "fusion" and "ensemble".

        One after the other they get the value with the best validation accuracy; of equals, the one
        nearest to what training had.
        """
        for name, (values, distances) in self._tried().items():
            right = sum(
                self._right(name, values, params, frozen, text, image, labels)
                for image, labels in images("val")
            )
            best = max(range(len(values)), key=lambda i: (int(right[i]), -distances[i]))
            params = params | {name: values[best]}
        return params

    def _tried(self) -> dict[str, tuple[Float[np.ndarray, "G ..."], Float[np.ndarray, " G"]]]:
        """Values that are tried by name, and how far each is from what training had."""
        pairs, epsilons = np.array(GRID, np.float32), np.array(EPSILONS, np.float32)
        angles = np.arctan2(*np.array(GRID).T)
        tried = {
            "epsilon": (epsilons, np.abs(np.log(np.array(EPSILONS) / self.epsilon))),
            "fusion": (pairs, np.abs(angles - np.arctan2(1.0, self.fusion_weight))),
            "ensemble": (pairs, np.abs(angles - np.arctan2(1.0, 0.0))),
        }
        asked = self.validated_epsilon, self.fusion == "validated", self.ensemble
        return {name: x for (name, x), wanted in zip(tried.items(), asked, strict=True) if wanted}

    def on(self, params: Params, labels: tuple[int, ...]) -> tuple[Method, Params]:
        """The local prompts of known classes; else the global branch alone."""
        if not self.class_specific:
            return self, params
        if not labels:
            return GlobalBranch(self.towers), params
        return self, params | {"local_prompts": params["local_prompts"][np.array(labels)]}

    def summary(self, params: Params, classes: int) -> dict[str, dict[str, float]]:
        """The weights in the prediction, and ε where it was chosen."""
        of_global, of_local = map(float, self._weights(params))
        found = {"fusion": {"global": of_global, "local": of_local}}
        if "ensemble" in params:
            learned, plain = map(float, params["ensemble"])
            found["ensemble"] = {"learned": learned, "zero-shot": plain}
        if "epsilon" in params:
            found["transport"] = {"epsilon": float(params["epsilon"])}
        return found

    def contexts(self, params: Params) -> dict[str, Array]:
        """Global and local prompts."""
        return {"global": params["global_prompts"], "local": params["local_prompts"]}

    def prompt_features(self, text: ClassFeatures) -> Float[Array, "C Nl D"]:
        """The local prompts'."""
        return text.local

    @property
    def _plain(self) -> ZeroShot:
        """Zero-shot CLIP, whose sentences have the names as the prompts have them."""
        return ZeroShot(self.towers, keep_underscores=self.keep_underscores, local="")

    def _adapt(self, params: Params, patches: Float[Array, "B P W"]) -> Float[Array, "B P W"]:
        """W_local on the patch features (equation 3)."""
        if not self.projection:
            return patches
        return jnp.matmul(patches, params["local_projection"], precision="highest")

    def _plan(
        self, sim: Float[Array, "B C K Nl"], epsilon: float | Float[Array, ""]
    ) -> Float[Array, "B C K Nl"]:
        if self.matching != "transport":
            return jnp.full_like(sim, 1 / (sim.shape[-2] * sim.shape[-1]))
        constant = self.plan_gradient == "stop"
        sim = jax.lax.stop_gradient(sim) if constant else sim
        return transport.plan(sim, epsilon, self.iterations, self.tau)

    def _weights(self, params: Params) -> tuple:
        """Of the global and the local branch in the prediction."""
        if "fusion" in params:
            return params["fusion"][0], params["fusion"][1]
        if self.fusion == "learned":
            return self.global_weight, jnp.exp(params["log_fusion"])
        return self.global_weight, self.fusion_weight

    def _logits(
        self, params: Params, frozen: dict, sim: Float[Array, "B C"], phi: Float[Array, "B C"]
    ) -> dict[str, Float[Array, "B C"]]:
        scale, (of_global, of_local) = jnp.exp(frozen["logit_scale"]), self._weights(params)
        s_global = scale * sim
        s_local = scale * (phi / self.n_local if self.mean_over_prompts else phi)
        branches = s_global, s_local
        if self.fusion == "learned":  # the branches learn from losses of their own
            branches = jax.lax.stop_gradient(branches)
        fused = of_global * branches[0] + of_local * branches[1]
        if self.mean_of_branches:
            fused = fused / (of_global + of_local)
        return {"fused": fused, "global": s_global, "local": s_local}

    @partial(jax.jit, static_argnums=(0, 1))
    def _right(
        self,
        name: str,
        values: Float[Array, "G ..."],
        params: Params,
        frozen: dict,
        text: ClassFeatures,
        image: dict,
        labels: Int[Array, " B"],
    ) -> Int[Array, " G"]:
        """Correctly classified images for each value of a parameter."""

        def right(value):
            logits = self.score(params | {name: value}, frozen, text, image).logits["fused"]
            return jnp.sum(logits.argmax(-1) == labels)

        return jax.lax.map(right, values)


def _worst(logits: Float[Array, "B C N"], labels: Int[Array, " B"]) -> Float[Array, ""]:
    """The cross-entropy of the worst of N classifiers; a mean over all hides one that ran away."""
    entropy = optax.softmax_cross_entropy_with_integer_labels
    values = jax.vmap(lambda x: masked_mean(entropy(x, labels), labels), in_axes=2)(logits)
    return values.max()


@dataclasses.dataclass(frozen=True)
class GlobalBranch(Method):
    """The shared global prompts alone, for classes without local prompts (section 3.3)."""

    title: ClassVar[str] = SotGlp.title
    logits: ClassVar[Mapping[str, str]] = {"global": SotGlp.logits["global"]}
    note: ClassVar[str] = (
        "global branch: these classes were not trained on and have no local prompts of their own"
    )

    def encode_classes(self, params: Params, frozen: dict, names: dict) -> Float[Array, "C Ng D"]:
        """Text features of the global prompts before every class name."""
        return self.towers.texts(frozen, names["names"], params["global_prompts"])

    def score(
        self, params: Params, frozen: dict, text: Float[Array, "C Ng D"], image: dict
    ) -> Scores:
        """s · mean over the prompts of f · t_c."""
        return classify(self.towers, frozen, image["cls"], text, "global")
