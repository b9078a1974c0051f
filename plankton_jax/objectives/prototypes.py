"""Defines losses on cosines of embeddings and learnt prototypes of classes.

With very many classes a cross-entropy may take a sample of them at each step,
`sample_prototypes`: Partial FC, An et al. 2022, arXiv:2203.15565.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from plankton_jax.distances import unit_norm
from plankton_jax.objectives.base import (
  Objective,
  log_one_plus_sum_exp,
  masked_mean,
  without_padding,
)


def arcface(
  *,
  num_classes: int,
  embedding_dim: int,
  margin: float = 0.5,
  scale: float = 64.0,
  class_weights: np.ndarray | None = None,
  sample_prototypes: float = 1.0,
) -> Objective:
  """Makes the additive angular margin loss, s cos(θ + m) at the true class.

  Deng, Guo, Xue and Zafeiriou 2019, ArcFace, arXiv:1801.07698, equation 3.
  Where θ + m > π the monotone continuation cos θ - m sin m is used, as in the
  authors' code. Accuracy uses the logits without margin.

  Args:
    num_classes: N; the parameters are prototypes [N, D].
    embedding_dim: D.
    margin: m, radians.
    scale: s.
    class_weights: [N], of each class's images in the mean; None for 1.
    sample_prototypes: share of the prototypes in a step's loss, at random
      beside those of the batch's classes; 1 for all.
  """
  shape = (num_classes, embedding_dim)
  return _prototypes(
    shape, _angular(margin), scale, class_weights, sample_prototypes
  )


def subcenter_arcface(
  *,
  num_classes: int,
  embedding_dim: int,
  centers: int = 3,
  margin: float = 0.5,
  scale: float = 64.0,
  class_weights: np.ndarray | None = None,
  sample_prototypes: float = 1.0,
) -> Objective:
  """Makes ArcFace with several prototypes a class, of which the nearest counts.

  Deng, Guo, Liu, Gong and Zafeiriou 2020, Sub-center ArcFace, ECCV: θ is
  arccos of the largest of a class's cosines.

  Args:
    num_classes: N; the parameters are prototypes [N, K, D].
    embedding_dim: D.
    centers: K.
    margin: m, radians.
    scale: s.
    class_weights: as in `arcface`.
    sample_prototypes: as in `arcface`.
  """
  shape = (num_classes, centers, embedding_dim)
  return _prototypes(
    shape, _angular(margin), scale, class_weights, sample_prototypes
  )


def cosface(
  *,
  num_classes: int,
  embedding_dim: int,
  margin: float = 0.35,
  scale: float = 64.0,
  class_weights: np.ndarray | None = None,
  sample_prototypes: float = 1.0,
) -> Objective:
  """Makes the additive cosine margin loss, s (cos θ - m) at the true class.

  Wang et al. 2018, CosFace, arXiv:1801.09414, equation 4. Accuracy uses the
  logits without margin.

  Args:
    num_classes: N; the parameters are prototypes [N, D].
    embedding_dim: D.
    margin: m, in cosine.
    scale: s.
    class_weights: as in `arcface`.
    sample_prototypes: as in `arcface`.
  """
  lower = lambda cos, sin: cos - margin
  shape = (num_classes, embedding_dim)
  return _prototypes(shape, lower, scale, class_weights, sample_prototypes)


def softmax(
  *,
  num_classes: int,
  embedding_dim: int,
  scale: float = 20.0,
  class_weights: np.ndarray | None = None,
  sample_prototypes: float = 1.0,
) -> Objective:
  """Makes the softmax cross-entropy of s cos θ: the baseline without a margin.

  Wang, Xiang, Cheng and Yuille 2017, NormFace, arXiv:1704.06369; scale is one
  over the temperature. `class_weights` and `sample_prototypes` as in `arcface`.
  """
  same = lambda cos, sin: cos
  shape = (num_classes, embedding_dim)
  return _prototypes(shape, same, scale, class_weights, sample_prototypes)


def proxy_anchor(
  *,
  num_classes: int,
  embedding_dim: int,
  margin: float = 0.1,
  scale: float = 32.0,
) -> Objective:
  """Makes the proxy-anchor loss: prototypes pull and push the whole batch.

  Kim, Kim, Cho and Kwak 2020, arXiv:2003.13911, equation 4. The first mean is
  over classes with an image in the batch, the second over all. No images:
  exactly 0, with zero gradient.

  Args:
    num_classes: N; the parameters are prototypes [N, D], the proxies.
    embedding_dim: D.
    margin: δ, in cosine.
    scale: α.
  """

  def loss(params, embeddings, batch, *, stage, key=None):
    del stage, key
    label, valid = batch['label'], batch['valid']
    embeddings = without_padding(embeddings, valid)
    cos = cosines(params, embeddings)  # [B, N]
    true = jax.nn.one_hot(label, num_classes, dtype=bool)
    positive, negative = true & valid[:, None], ~true & valid[:, None]
    pull = log_one_plus_sum_exp(-scale * (cos - margin), positive, axis=0)
    push = log_one_plus_sum_exp(scale * (cos + margin), negative, axis=0)
    total = masked_mean(pull, positive.any(axis=0)) + jnp.mean(push)
    return total, {
      'accuracy': masked_mean(jnp.argmax(cos, axis=-1) == label, valid),
      'count': jnp.sum(valid),
    }

  return Objective(
    init=lambda key: init_prototypes(key, num_classes, embedding_dim), loss=loss
  )


def _prototypes(
  shape: tuple[int, ...],
  add_margin: Callable,
  scale: float,
  class_weights: np.ndarray | None,
  sample_prototypes: float,
) -> Objective:
  """Makes a cross-entropy of cosines, `add_margin(cos, sin)` at the truth.

  Where `sample_prototypes` is below 1, a step's loss takes this share of the
  classes: those of the batch, and others by chance, see `sample_classes`. The
  other prototypes get a gradient of 0. Validation takes all classes.
  """
  num_classes = shape[0]

  def cross_entropy(prototypes, embeddings, batch, label):
    """Computes the loss among prototypes [N, K, D], of rows `label` [B]."""
    valid = batch['valid']
    embeddings = without_padding(embeddings, valid)
    each_center = _each_cosine(prototypes, embeddings)  # [B, N, K]
    cos = jnp.max(each_center, axis=-1)
    correct = jnp.argmax(cos, axis=-1) == label
    rows = jnp.arange(len(label))
    nearest = jnp.argmax(each_center[rows, label], axis=-1)
    sin_own = _sine(embeddings, prototypes[label, nearest])
    with_margin = add_margin(cos[rows, label], sin_own)
    true = jax.nn.one_hot(label, len(prototypes), dtype=bool)
    logits = scale * jnp.where(true, with_margin[:, None], cos)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    if class_weights is not None:
      each *= jnp.asarray(class_weights)[_existing(batch['label'], num_classes)]
    return masked_mean(each, valid), {
      'accuracy': masked_mean(correct, valid),
      'count': jnp.sum(valid),
    }

  def loss(params, embeddings, batch, *, stage, key=None):
    del stage, key
    label = _existing(batch['label'], num_classes)
    return cross_entropy(_centers(params), embeddings, batch, label)

  def sampled_loss(params, embeddings, batch, *, stage, key):
    del stage
    label = _existing(batch['label'], num_classes)
    count = math.ceil(sample_prototypes * num_classes)
    classes = sample_classes(
      key, label, batch['valid'], num_classes=num_classes, count=count
    )
    chosen = {'prototypes': params['prototypes'][classes]}
    among = _existing(jnp.searchsorted(classes, label), len(classes))
    return cross_entropy(_centers(chosen), embeddings, batch, among)

  init = lambda key: init_prototypes(key, *shape)
  if sample_prototypes == 1:
    return Objective(init=init, loss=loss)
  return Objective(init=init, loss=sampled_loss, validation_loss=loss)


def sample_classes(
  key: jax.Array,
  label: jax.Array,
  valid: jax.Array,
  *,
  num_classes: int,
  count: int,
) -> jax.Array:
  """Draws classes for a batch: all of its own, and others with equal chance.

  The sampling of Partial FC, An et al. 2022, arXiv:2203.15565.

  Args:
    key: of the draw.
    label: [B], each an existing class.
    valid: [B]; rows whose class is drawn for sure.
    num_classes: N.
    count: of the classes to draw, M; it is raised to the batch's B rows, which
      may be of as many classes, but not beyond N.

  Returns:
    Classes [M], sorted.
  """
  count = max(count, min(len(label), num_classes))
  own = jnp.zeros(num_classes, bool).at[label].max(valid)
  draw = jnp.where(own, 1.0, jax.random.uniform(key, (num_classes,)))
  return jnp.sort(jax.lax.top_k(draw, count)[1])


def _existing(label, num_classes):
  """Clips labels, as a padded row may carry any; a mask drops such rows."""
  return jnp.clip(label, 0, num_classes - 1)


def init_prototypes(key: jax.Array, *shape: int) -> dict[str, jax.Array]:
  """Draws prototypes [..., D] from a standard normal: of length √D.

  Their length does not enter the loss, but Adam's steps have one size: the
  longer a prototype, the less a step turns it. With unit length the prototypes
  would turn faster than their embeddings can follow.
  """
  return {'prototypes': jax.random.normal(key, shape)}


def cosines(params: dict, embeddings: jax.Array) -> jax.Array:
  """Computes cos θ of embeddings [B, D] and an objective's prototypes, [B, N].

  Of several prototypes of a class, [N, K, D], the nearest counts.
  """
  return jnp.max(_each_cosine(_centers(params), embeddings), axis=-1)


def _centers(params):
  """Normalises prototypes to [N, K, D]; K is 1 for one a class."""
  prototypes = unit_norm(params['prototypes'])
  return prototypes if prototypes.ndim == 3 else prototypes[:, None]


def _each_cosine(prototypes, embeddings):
  flat = prototypes.reshape(-1, prototypes.shape[-1])
  cos = jnp.dot(embeddings, flat.T, precision='highest')
  return cos.reshape(-1, *prototypes.shape[:2])


def _angular(margin):
  return lambda cos, sin: _add_margin(cos, sin, margin)


def _sine(x, y):
  """Computes the sine of unit rows' angle as |x - y| |x + y| / 2, [B].

  sqrt(1 - cos²) loses half of float32's digits near cos = ±1, which a scale
  of 64 would turn into errors of 1e-2 in the logit; this form does not.
  """
  x, y = jax.lax.stop_gradient((x, y))
  chord = jnp.linalg.norm(x - y, axis=-1)
  return chord * jnp.linalg.norm(x + y, axis=-1) / 2


@jax.custom_jvp
def _add_margin(cos, sin, margin):
  """Computes cos(θ + m) = cos θ cos m - sin θ sin m, or its continuation."""
  inside = cos > -jnp.cos(margin)  # θ + m < π
  return jnp.where(
    inside,
    cos * jnp.cos(margin) - sin * jnp.sin(margin),
    cos - margin * jnp.sin(margin),
  )


@_add_margin.defjvp
def _add_margin_jvp(primals, tangents):
  """Differentiates: d sin θ / d cos θ = -cot θ, bounded at 0 and π."""
  cos, sin, margin = primals
  inside = cos > -jnp.cos(margin)
  cotangent = cos / jnp.maximum(sin, 1e-3)
  slope = jnp.where(inside, jnp.cos(margin) + cotangent * jnp.sin(margin), 1.0)
  return _add_margin(cos, sin, margin), slope * tangents[0]
