"""A call of every public function that takes arrays, of the rooms above divergences.

Traced, not computed; those of NumPy arrays are in `public_plain`.
"""

import importlib
import inspect
import pkgutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from kljax import decoding, metrics
from kljax.divergences import Hidden, Logits
from kljax.models import answering, attention, dense, embedding, layers, mlp
from kljax.models.functional import pure
from kljax.models.language import rope, task_arithmetic
from kljax.models.language.transformer import TransformerConfig, transformer
from kljax.models.vision import classifier, edm
from kljax.models.vision import images as pictures
from kljax.models.vision.discriminator import Discriminator
from kljax.models.vision.dit import DiT
from kljax.models.vision.unet import UNet
from kljax.objectives import (
    attacks,
    balance,
    bottleneck,
    diffusion,
    distillation,
    mutual,
    on_policy,
    partition,
    preference,
    ratio,
    targets,
)
from kljax.objectives.policy import (
    advantages,
    dpg,
    losses,
    penalty,
    references,
    superhf,
)
from kljax.objectives.policy.arguments import counted
from kljax.theory import (
    adaptive,
    best_of_n,
    boolean,
    budget,
    concentration,
    conjugate,
    kde,
    matching,
    sdpi,
    stationary,
    universal,
)
from kljax.theory import generalization as gaps
from kljax.theory import layers as layered
from kljax.theory import posterior as exact
from kljax.theory import sequences as enumerated
from kljax.theory.linear_network import LinearNetwork, mean_layer_kl
from kljax.theory.matching import LineMatching, fixed_point
from kljax.theory.mixtures import GaussianMixture, noised_log_ratio
from kljax.theory.weights import weight_variance
from kljax.training import langevin, one_step

ROOMS = "objectives", "metrics", "theory", "decoding", "training", "data", "models"
KEY = jax.random.key(0)


def ones(*sizes, dtype=np.float32):
    return jnp.asarray(np.ones(sizes, dtype))


ids, mask = partial(ones, dtype=np.int32), partial(ones, dtype=bool)


# ----------------------------------------------------------------- objectives, theory
EVENT = {"sigma": ones(4), "example_weights": ones(4)}
PAIR = {
    "teacher": Hidden(ones(2, 3, 4), ones(4, 5)),
    "student": Logits(ones(2, 3, 5)),
}
LABELS, WEIGHTS = {"labels": ids(2, 3)}, {"weights": mask(2, 3)}
BINS = ratio.RatioBins.init(2, sigma_min=0.1, sigma_max=1.0)
POLICY = {k: ones(2, 3) for k in ("log_q", "log_p", "log_behavior")}
POLICY["where"] = mask(2, 3)
LAWS = {"alpha": ones(4), "variances": ones(3)}
LAW = GaussianMixture(ones(2), ones(2, 1), ones(2))


def of_laws(law, x):
    return (
        law.joint(x),
        law.log_density(x, 0.5),
        law.score(x),
        law.denoise(x, 1.0),
        law.nearest(x),
        law.sample(KEY, 3),
        law.balanced(KEY, 3),
    )


def of_lines(law, sigma, start):
    line = LineMatching.build(law, sigma)
    return (
        fixed_point(line, "alpha", start, steps=2, alpha=0.5),
        line.student(start),
        line.value(start, "reverse_kl"),
    )


def of_paths(law, sigma, starts):
    line = LineMatching.build(law, sigma)
    names, given = ("reverse_kl", "forward_kl"), (KEY, law, starts, sigma)
    return (
        matching.fixed_points(line, names, starts, steps=2),
        adaptive.adaptive_paths(line, starts, steps=2, clip=(0.1, 20.0)),
        adaptive.sampled_paths(*given, steps=2, samples=5),
    )


CODE = bottleneck.Code(ones(4, 2), ones(4, 2), ones(4, 2), ones(4, 1))
CODED = {"x": ones(4, 3, 2), "y": ones(4, 1), "code": CODE}
MOVED = {"inputs": {"a": ones(4, 2)}, "epsilon": ones()}
PATHS = of_paths, {"law": LAW, "sigma": ones(3), "starts": ones(4, 2)}


def of_network(w, mu, n):
    net, drawn = LinearNetwork(w, mu, n), LinearNetwork.draw(KEY, 3, mu, n)
    shown = net.kl(net.rows(2)), net.last_kl(), net.sign_kl(), net.zero_one_gap()
    gap = net.logistic_gap(), net.linear_gap()
    return shown, gap, net.w1(net.rows(2)), net.last_w1(), drawn.kl(), drawn.w1()


CLASSES = np.arange(6) % 2
SIDES = {"x_p": ones(6, 3), "x_q": ones(6, 3)}


def of_sides(function):
    return lambda x_p, x_q: function(x_p, CLASSES, x_q, CLASSES)


def of_layers(x_p, x_q):
    show = lambda params, x, features: (x, [params * x])
    sides = (x_p, CLASSES), (x_q, CLASSES)
    alone = layered.layer_bounds(show, ones(), *sides)
    assert alone.wasserstein_bound is None
    return layered.layer_bounds(show, ones(), *sides, norms=ones(2))


ENUMERATED = {"log_prior": ones(3, 5), "reward": ones(5)}
TILTED = {**ENUMERATED, "beta": ones(3)}
ASKED = {"log_q": ones(3, 5), **TILTED}
ALLOWED = {"log_prior": ones(3, 5), "allowed": mask(5)}
CLASS = {"divergence": ones(3), "log_weights": ones(3)}
VARIANCES = {"noise": ones(), "prior": ones()}
TRACED = {
    "fit_moments": (
        targets.fit_moments,
        {"log_weights": ones(4), "features": ones(4, 2), "means": ones(2)},
    ),
    "estimated": (partition.estimated, {"log_weights": ones(3, 4)}),
    "bracket": (
        partition.bracket,
        {"log_weights": ones(3, 4), "log_weights_target": ones(3, 5)},
    ),
    "bottleneck_loss": (
        partial(bottleneck.bottleneck_loss, fit="conditional_cs", rate="cs"),
        {**CODED, "beta": ones(), "where": mask(4)},
    ),
    "coded": (
        lambda mean, log_var: bottleneck.coded(
            mean, log_var, lambda t: t[:, :1], key=KEY
        ),
        {"mean": ones(4, 2), "log_var": ones(4, 2)},
    ),
    "information_plane": (bottleneck.information_plane, CODED),
    "vib_rate": (bottleneck.vib_rate, {k: ones(4, 2) for k in ("mean", "log_var")}),
    "nib_rate": (
        bottleneck.nib_rate,
        {**{k: ones(4, 2) for k in ("mean", "log_var")}, "log_weights": ones(4)},
    ),
    "fgsm": (partial(attacks.fgsm, lambda x: x["a"].sum(1)), MOVED),
    "pgd": (
        partial(attacks.pgd, lambda x: x["a"].sum(1), iterations=2, key=KEY),
        {**MOVED, "step": ones()},
    ),
    "balance_loss": (
        balance.balance_loss,
        {"load": ones(2, 4), "probability": ones(2, 4)},
    ),
    "adversarial_loss": (diffusion.adversarial_loss, {"logits": ones(4, 2)}),
    "denoising_loss": (
        diffusion.denoising_loss,
        {"denoised": ones(4, 3), "clean": ones(4, 3), "sigma": ones(4)},
    ),
    "discriminator_loss": (
        partial(diffusion.discriminator_loss, r1_weight=1.0),
        {k: ones(4, 2) for k in ("real_logits", "fake_logits", "perturbed_logits")},
    ),
    "generator_loss": (
        diffusion.generator_loss,
        {
            **{k: ones(4, 3) for k in ("sample", "fake_denoised", "real_denoised")},
            **EVENT,
            "logits": ones(4, 2),
            "bins": BINS,
            "gan_weight": ones(),
            "scale": ones(4),
            "decay": ones(),
        },
    ),
    "guide": (
        diffusion.guide,
        {"conditional": ones(4, 3), "negative": ones(4, 3), "guidance": ones()},
    ),
    "karras_sigma": (lambda: diffusion.karras_sigma(KEY, (3,)), {}),
    "log_normal_sigma": (lambda: diffusion.log_normal_sigma(KEY, (3, 1)), {}),
    "log_uniform_sigma": (
        lambda: diffusion.log_uniform_sigma(KEY, (), low=0.1, high=1.0),
        {},
    ),
    "scale_weight": (
        diffusion.scale_weight,
        {"sample": ones(4, 3, 2), "real_denoised": ones(4, 3, 2)},
    ),
    "distillation_loss": (
        partial(distillation.distillation_loss, label_weight=0.5),
        {**PAIR, **LABELS, **WEIGHTS, "temperature": ones()},
    ),
    "per_sequence": (
        distillation.per_sequence,
        {"weighted": ones(2, 3), "weights": ones(2, 3)},
    ),
    "best": (superhf.best, {"rewards": ones(2, 3), "samples": ids(2, 3, 4)}),
    "superhf_loss": (
        lambda sides, labels, coefficient: superhf.superhf_loss(
            sides["teacher"], sides["student"], labels, coefficient=coefficient
        ),
        {"sides": PAIR, **LABELS, "coefficient": ones()},
    ),
    "sequence_level_loss": (
        distillation.sequence_level_loss,
        {"student": PAIR["student"], **LABELS, **WEIGHTS},
    ),
    "mixed_batch": (
        lambda batch, fraction: on_policy.mixed_batch(
            KEY, batch, lambda key, batch: batch, fraction=fraction, per="example"
        ),
        {"batch": {"tokens": ids(4, 3)}, "fraction": ones()},
    ),
    "next_token": (on_policy.next_token, {"tokens": ids(2, 3), "where": mask(2, 3)}),
    **{
        name: (
            lambda alpha, arrays, form=form: form("alpha", alpha=alpha)(**arrays),
            {"alpha": ones(), "arrays": POLICY},
        )
        for name, form in (("score", penalty.score), ("value", penalty.value))
    },
    "f_dpg": (
        lambda alpha, **arrays: dpg.f_dpg("alpha", alpha=alpha, **arrays),
        {
            **{k: ones(2, 3) for k in ("log_q", "log_score", "log_behavior")},
            **{k: ones(2) for k in ("log_partition", "baseline")},
            "alpha": ones(),
        },
    ),
    "counted": (counted, {"where": mask(2, 3), "x": ones(2, 3)}),
    "policy_loss": (
        partial(losses.policy_loss, advantages=ones(2)),
        {**POLICY, "beta": ones()},
    ),
    "value_loss": (
        losses.value_loss,
        {k: ones(2, 3) for k in ("values", "returns", "old_values")},
    ),
    "unsolved": (losses.unsolved, {"correct": mask(2, 3)}),
    "leave_one_out_advantages": (
        advantages.leave_one_out_advantages,
        {"rewards": ones(2, 3)},
    ),
    "group_advantages": (advantages.group_advantages, {"rewards": ones(2, 3)}),
    "generalized_advantages": (
        advantages.generalized_advantages,
        {"rewards": ones(2, 3), "values": ones(2, 3), "last_value": ones(2)},
    ),
    "arithmetic_reference": (
        references.arithmetic_reference,
        {"log_p": ones(2, 3, 4), "weights": ones(4)},
    ),
    "geometric_reference": (
        references.geometric_reference,
        {"logits": ones(2, 3, 5, 4), "tokens": ids(2, 3)},
    ),
    "preference_loss": (
        lambda alpha, arrays: preference.preference_loss(
            **arrays, divergence="alpha", alpha=alpha
        ),
        {"alpha": ones(), "arrays": {k: ones(4, 2) for k in ("log_q", "log_p")}},
    ),
    "kto_pair_loss": (
        preference.kto_pair_loss,
        {k: ones(4, 2) for k in ("log_q", "log_p")},
    ),
    "student_turn": (partial(on_policy.student_turn, KEY), {"fraction": ones()}),
    "adapt_alpha": (
        ratio.adapt_alpha,
        {"state": ratio.AlphaController.init(0.5), "ess": ones()},
    ),
    "effective_fraction": (
        ratio.effective_fraction,
        {"log_weights": ones(4), "example_weights": ones(4)},
    ),
    "mean_logit": (ratio.mean_logit, {"logits": ones(4, 2)}),
    "ratio_weights": (
        partial(ratio.ratio_weights, divergence="le_cam"),
        {"logits": ones(4, 2), "bins": BINS, **EVENT},
    ),
    "GaussianMixture": (of_laws, {"law": LAW, "x": ones(3, 1)}),
    "noised_log_ratio": (
        partial(noised_log_ratio, KEY),
        {"p": LAW, "q": LAW, "sigma": ones(4)},
    ),
    "LineMatching": (
        of_lines,
        {"law": LAW, "sigma": ones(3), "start": ones(2)},
    ),
    "fixed_point": (of_lines, {"law": LAW, "sigma": ones(3), "start": ones(2)}),
    **dict.fromkeys(("adaptive_paths", "sampled_paths", "fixed_points"), PATHS),
    "log_std": (matching.log_std, {"students": ones(3, 2)}),
    "with_std": (matching.with_std, {"theta": ones(3, 2)}),
    "weight_variance": (
        partial(weight_variance, "le_cam"),
        {"distance": ones(), "draws": ones(5)},
    ),
    "noised": (
        one_step.noised,
        {"x": ones(4, 3, 2), "noise": ones(4, 3, 2), "sigma": ones(4)},
    ),
    "mutual_loss": (
        lambda peer_logits, own_logits, temperature: mutual.mutual_loss(
            peer_logits, own_logits, ids(2), mutual.bd_kd(), temperature=temperature
        ),
        {"peer_logits": ones(3, 2, 5), "own_logits": ones(2, 5), "temperature": ones()},
    ),
    "gaussian_phases": (
        lambda alpha, variances, h: kde.gaussian_phases(
            alpha, variances, dims=3
        ).stable_index(h),
        {**LAWS, "h": ones(4)},
    ),
    "log_density_rate": (kde.log_density_rate, {**LAWS, "h": ones(4)}),
    "relative_variance": (
        partial(kde.relative_variance, count=10),
        {"h": ones(4), "variances": ones(3)},
    ),
    "condensed_log_density": (
        partial(kde.condensed_log_density, index=0.5, dims=3),
        {"h": ones(4), "nearest": ones(4), "alpha": ones(4)},
    ),
    "energy_cgf": (kde.energy_cgf, {"order": ones(4), "h": ones(4)}),
    "concentration": (
        concentration.concentration,
        {"query": ones(4, 3), "data": ones(5, 3), "bandwidth": ones()},
    ),
    "leave_one_out": (
        concentration.leave_one_out,
        {"data": ones(5, 3), "bandwidths": ones(3)},
    ),
    "expected": (exact.expected, {"log_q": ones(3, 5), "value": ones(5)}),
    "log_partition": (exact.log_partition, TILTED),
    "posterior": (exact.posterior, TILTED),
    "objective": (exact.objective, ASKED),
    "elbo_gap": (exact.elbo_gap, ASKED),
    "distances": (exact.distances, ASKED),
    "log_success": (exact.log_success, ALLOWED),
    "conditioned": (exact.conditioned, ALLOWED),
    "budget": (budget.budget, TILTED),
    "beta_at": (budget.beta_at, {"kl": ones(3), **ENUMERATED}),
    "efficiency": (budget.efficiency, {"log_q": ones(3, 5), **ENUMERATED}),
    "compared": (
        lambda first, second: budget.compared(
            {"first": first, "second": second}, ones(5), 0.5, "first"
        ),
        {"first": ones(3, 5), "second": ones(3, 5)},
    ),
    "best_of_n": (
        best_of_n.best_of_n,
        {"log_p": ones(3, 5), "reward": ones(5), "n": ones(3)},
    ),
    "best_of_n_round": (
        best_of_n.best_of_n_round,
        {
            **dict.fromkeys(("log_p", "log_prior"), ones(3, 5)),
            "reward": ones(5),
            "n": ones(3),
            "coefficient": ones(3),
        },
    ),
    "best_of_n_bound": (best_of_n.best_of_n_bound, {"n": ones(3)}),
    "log_eta_channel": (sdpi.log_eta_channel, {"log_channel": ones(3, 4)}),
    "log_eta_dobrushin": (sdpi.log_eta_dobrushin, {"distance": ones(3)}),
    "log_eta_gaussian": (sdpi.log_eta_gaussian, {"distance": ones(3)}),
    "log_eta_dropout": (sdpi.log_eta_dropout, {"delta": ones(3), "width": ones()}),
    "log_eta_dropconnect": (
        sdpi.log_eta_dropconnect,
        {"delta": ones(3), "inputs": ones(), "outputs": ones(3)},
    ),
    "kl_bound": (gaps.kl_bound, {"kl": ones(2, 3), "sigma": ones(3)}),
    "norms_behind": (gaps.norms_behind, {"norms": ones(2, 3)}),
    "wasserstein_bound": (
        gaps.wasserstein_bound,
        {"w1": ones(2, 4), "norms": ones(2, 3)},
    ),
    "contracted_kl": (
        gaps.contracted_kl,
        {"kl_labels": ones(2), "kl_inputs": ones(2), "log_eta": ones()},
    ),
    "grid_bound": (
        gaps.grid_bound,
        {"weights": ones(3), "levels": ones(), "n": ones(), "log_eta": ones(3)},
    ),
    "depth_bound": (
        gaps.depth_bound,
        {k: ones(3) for k in ("depth", "weights", "levels", "n", "delta")},
    ),
    "gibbs_bound": (gaps.gibbs_bound, {"gamma": ones(3), "n": ones(), "sigma": ones()}),
    "gibbs": (
        partial(gaps.gibbs, n=3),
        {"log_prior": ones(4), "loss": ones(4, 2), "log_p": ones(2), "gamma": ones(3)},
    ),
    "mean_layer_kl": (mean_layer_kl, {"rank": ones(3), "n": ones()}),
    "LinearNetwork": (of_network, {"w": ones(4, 3), "mu": ones(3), "n": ones()}),
    "class_kl": (of_sides(layered.class_kl), SIDES),
    "class_w1": (of_sides(layered.class_w1), SIDES),
    "layer_bounds": (of_layers, SIDES),
    "mixture_regret": (
        universal.mixture_regret,
        {"log_q": ones(4, 3), "log_p": ones(4), "log_weights": ones(3)},
    ),
    "weight_curve": (universal.weight_curve, CLASS),
    **{
        name: (getattr(universal, name), {**CLASS, other: ones(2, 4)})
        for name, other in (
            ("soft_bound", "n"),
            ("kl_ball_bound", "n"),
            ("samples_needed", "excess"),
        )
    },
    "bernoulli_models": (
        partial(conjugate.bernoulli_models, points=5),
        {"theta": ones()},
    ),
    "linear_regret": (
        conjugate.linear_regret,
        {"x": ones(4, 3), "mean": ones(4), **VARIANCES},
    ),
    "linear_posterior": (
        conjugate.linear_posterior,
        {"x": ones(4, 3), "y": ones(4), **VARIANCES},
    ),
    "stationary_variance": (
        stationary.stationary_variance,
        {"curvature": ones(3), "rate": ones(), "gradient_noise": ones(3)},
    ),
    "drawn_functions": (
        lambda inputs: boolean.drawn_functions(
            dense.normal_mlp((2, 3, 1)), inputs, KEY, 5
        ),
        {"inputs": ones(4, 2)},
    ),
    "label_divergence": (
        partial(boolean.label_divergence, noise=0.1),
        {"functions": mask(5, 4), "truth": mask(4)},
    ),
    "label_regret": (
        partial(boolean.label_regret, noise=0.1, stops=(1, 3)),
        {
            "functions": mask(5, 4),
            "truth": mask(4),
            "x": ids(3),
            "flipped": mask(3),
        },
    ),
    "snapshots": (
        lambda start, rate: langevin.snapshots(
            lambda x, key: jnp.sum(x**2), start, rate, key=KEY, keep=2
        ),
        {"start": ones(3), "rate": ones()},
    ),
    "posterior_predictive": (
        lambda params, x: langevin.posterior_predictive(jnp.multiply, params, x),
        {"params": ones(4), "x": ones(2, 3)},
    ),
    "sequences": (lambda: enumerated.sequences(2, 3), {}),
    "chained": (
        lambda first, second: enumerated.chained([first, second]),
        {"first": ones(1, 2), "second": ones(2, 2)},
    ),
    "sequence_log_probs": (
        lambda table: enumerated.sequence_log_probs(lambda x: table[len(x)], 2, 2),
        {"table": ones(2, 2)},
    ),
    # ------------------------------------------------------------ tokens, decoding
    "exact_match": (
        metrics.exact_match,
        {"labels": ids(2, 3), "q_logits": ones(2, 3, 5), "where": mask(2, 3)},
    ),
    "token_measures": (
        partial(metrics.token_measures, distances=("jensen_shannon",)),
        {"labels": ids(2), "q_logits": ones(2, 5), "p_logits": ones(2, 5)},
    ),
    "token_similarity": (
        metrics.token_similarity,
        {"tokens": ids(2, 3, 4), "where": mask(2, 3, 4)},
    ),
    "token_constraint": (
        partial(metrics.token_constraint, must=[1], most=2),
        {"tokens": ids(2, 3), "where": mask(2, 3)},
    ),
    "greedy": (decoding.greedy, {"logits": ones(2, 5)}),
    "sample": (partial(decoding.sample, KEY), {"logits": ones(2, 5)}),
    "warp": (
        partial(decoding.warp, sampling=decoding.Sampling(top_k=2, top_p=0.5)),
        {"logits": ones(2, 5)},
    ),
}
THREE = {
    "large_logits": ones(2, 5),
    "base_logits": ones(2, 5),
    "expert_logits": ones(2, 3, 5),
}
CONFIG = TransformerConfig(
    vocab_size=7, width=8, depth=1, heads=2, kv_heads=1, hidden=8, max_length=16
)
APPLY, INITIAL = transformer(CONFIG)
PARAMS = jax.eval_shape(INITIAL, KEY)
ROLLOUTS = decoding.Rollouts(
    ids(2, 3), mask(2, 3), ids(2, 2, 4), mask(2, 2, 4), ones(2, 2, 4)
)


def of_module(build, *inputs):
    """A module's function on arrays of these shapes, built where it is called."""

    def call(inputs):
        apply, initial = pure(build)
        return apply(initial(KEY), *inputs)

    return call, {"inputs": inputs}


MODULES = {
    "MLPDenoiser": of_module(
        lambda rngs: mlp.MLPDenoiser(2, width=8, rngs=rngs), ones(5, 2), ones(5)
    ),
    "UNet": of_module(
        lambda rngs: UNet(8, 1, width=8, rngs=rngs),
        ones(2, 8, 8, 1),
        ones(2),
    ),
    "DiT": of_module(
        lambda rngs: DiT(8, 1, patch=4, width=8, depth=1, heads=2, rngs=rngs),
        ones(2, 8, 8, 1),
        ones(2),
    ),
    "Discriminator": of_module(
        lambda rngs: Discriminator(((8,), (8,)), 10, rngs=rngs),
        (ones(2, 8), ones(2, 8)),
        ones(2),
    ),
}
POLICY_OF = answering.perceptron_policy(2, 3, 4, 5)
ANSWERING = {"params": POLICY_OF[1](KEY), "questions": ids(6, 2)}
TRACED |= {
    "answer_log_probs": (
        partial(answering.answer_log_probs, POLICY_OF[0]),
        {**ANSWERING, "answers": ids(6, 4, 3)},
    ),
    "sample_answers": (
        partial(answering.sample_answers, POLICY_OF[0], samples=4, length=3, key=KEY),
        ANSWERING,
    ),
    "fuse": (decoding.fuse, {**THREE, "alpha": ones(2, 3)}),
    "solve_weights": (decoding.solve_weights, {**THREE, "where": mask(2, 5)}),
    "Transformer": (APPLY, {"params": PARAMS, "tokens": ids(2, 3)}),
    **{
        name: (
            lambda params, found, of=of: of((APPLY, params), found),
            {"params": PARAMS, "found": ROLLOUTS},
        )
        for name, of in (
            ("log_probs", decoding.log_probs),
            ("token_logits", decoding.token_logits),
        )
    },
    "attend": (
        attention.attend,
        {
            "query": ones(2, 3, 4, 5),
            "key": ones(2, 2, 6, 5),
            "value": ones(2, 2, 6, 5),
            "visible": mask(1, 3, 6),
            "bias": ones(4, 3, 6),
        },
    ),
    "causal": (partial(attention.causal, 3), {"where": mask(2, 3)}),
    "nearest": (partial(attention.nearest, window=2), {"visible": mask(1, 3, 3)}),
    "rotate": (
        lambda x: rope.rotate(x, rope.rotation(rope.Rope(), ids(2, 3), 4)),
        {"x": ones(2, 3, 2, 4)},
    ),
    "looked_up": (
        partial(layers.looked_up, axis=0),
        {"table": ones(5, 4), "ids": ids(2, 3)},
    ),
    "modulated": (
        layers.modulated,
        {"x": ones(2, 3, 4), "scale": ones(2, 1, 4), "shift": ones(2, 1, 4)},
    ),
    "random_crop": (partial(pictures.random_crop, KEY), {"images": ones(2, 8, 8, 1)}),
    "random_shift": (
        partial(classifier.random_shift, KEY),
        {"images": ones(2, 4, 4, 1)},
    ),
    "heun_sampler": (
        partial(edm.heun_sampler, lambda x, sigma: x, steps=2),
        {"z": ones(2, 3)},
    ),
    "precondition": (
        partial(edm.precondition, lambda x, label: x, sigma_data=0.5),
        {"x": ones(2, 3), "sigma": ones(2)},
    ),
    "edm_loss_weight": (edm.edm_loss_weight, {"sigma": ones(2), "sigma_data": 0.5}),
    "karras_sigmas": (lambda: edm.karras_sigmas(3), {}),
    "add_task_vectors": (
        lambda base, vectors: task_arithmetic.add_task_vectors(base, vectors, 0.5),
        {"base": {"x": ones(3)}, "vectors": [{"x": ones(3)}]},
    ),
    "soup": (task_arithmetic.soup, {"models": [{"x": ones(3)}, {"x": ones(3)}]}),
    "sinusoidal": (partial(embedding.sinusoidal, size=4), {"label": ones(2)}),
    **MODULES,
}

# Run by another row, by tests that need what they are given (models, a file), or taking
# no array by themselves.
OTHERS = {
    "balance",
    "certify",
    "certify_all",
    "arithmetic",
    "roll_out",
    "mean",
    "targets",
    "bd_kd",
    "condensation_bandwidth",
    "descended",
    "selected",
    "drawn",
    "langevin",
    "likeliest_bandwidth",
    "mixed",
    "momentum",
    "perceptron_policy",
    "prompts",
    "normal_mlp",
    "stable_index",
    "widened",
    "check_batch",
    "check_call",
    "check_ids",
    "coefficients",
    "cropped",
    "for_lookup",
    "framed",
    "functional",
    "init_adapter",
    "linear",
    "on_examples",
    "pure",
    "read",
    "restricted",
    "rotation",
    "standardized",
    "transformer",
    "transformer_policy",
    "write_safetensors",
    "choose",
    "decoding_call",
    "differ",
    "each_row",
    "generate",
    "along",
    "grid_weights",
    "moments",
    "movement",
    "opened",
    "padded",
    "planned",
    "prepare",
    "project",
    "scan_start",
    "solving_call",
    "speculate",
    "stream",
    "triple",
    "wide",
    "write",
    "adam",
    "warmup_cosine",
}


def public_functions():
    """Names of functions with arrays in their signatures, by room."""
    for room in ROOMS:
        package = importlib.import_module(f"kljax.{room}")
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            try:
                module = importlib.import_module(info.name)
            except ModuleNotFoundError:  # of an extra that is not installed
                continue
            for name in getattr(module, "__all__", ()):
                value = getattr(module, name, None)
                own = getattr(value, "__module__", None) == module.__name__
                if own and inspect.isfunction(value):
                    words = str(inspect.signature(value))
                    if "Array" in words or "ndarray" in words:
                        yield name
