"""What is minimised: each objective is two functions, bound once.

`init(key) -> params` and `loss(params, embeddings, batch, *, stage, key) ->
(scalar, metrics)`. A batch holds `label` [B] and `valid` [B]. Every metric is
a mean over `metrics['count']` rows, so that batches can be averaged rightly.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from plankton_jax.curriculum import Policy
from plankton_jax.encoder import unit_norm
from plankton_jax.errors import InputError
from plankton_jax.mining import SELECTS, mine_embeddings


class Objective(NamedTuple):
  """A loss and the parameters that it owns."""

  init: Callable  # key -> params
  loss: Callable  # (params, embeddings, batch, *, stage, key) -> loss, metrics


def masked_mean(x: jax.Array, where: jax.Array) -> jax.Array:
  """Mean over `where`; 0 if nothing is selected."""
  return jnp.sum(jnp.where(where, x, 0.0)) / jnp.maximum(jnp.sum(where), 1)


def triplet(
  *, margin: float, stages: tuple[Policy, ...], select: str = 'nearest'
) -> Objective:
  """Triplet loss, mean over anchors of relu(d_ap - d_an + margin).

  Weinberger and Saul 2009, JMLR 10, in the form of Schroff et al. 2015,
  arXiv:1503.03832, section 3.1, on squared distances. Triplets are mined
  without gradient and the loss is recomputed from the chosen rows, so that
  backward costs O(B D). No anchors: exactly 0, with zero gradient.

  Args:
    margin: in squared distance of unit vectors (0 to 4).
    stages: (positive, negative) policies; `stage` indexes them.
    select: 'nearest' or 'random' among the negatives that meet the policy.
  """

  def loss(params, embeddings, batch, *, stage, key=None):
    del params
    chex.assert_rank(embeddings, 2)
    chex.assert_type(embeddings, jnp.float32)
    positive, negative = stages[stage]
    mined = mine_embeddings(
      embeddings,
      batch['label'],
      batch['valid'],
      positive=positive,
      negative=negative,
      margin=margin,
      select=select,
      key=key,
    )
    d_ap = _rowwise_squared(embeddings, embeddings[mined.positive])
    d_an = _rowwise_squared(embeddings, embeddings[mined.negative])
    hinge = jax.nn.relu(d_ap - d_an + margin)
    mean = lambda x: masked_mean(x, mined.valid)
    return mean(hinge), {
      'd_ap': mean(d_ap),
      'd_an': mean(d_an),
      'active_fraction': mean(hinge > 0),
      'fallback_fraction': mean(mined.fallback),
      'count': jnp.sum(mined.valid),
    }

  return Objective(init=lambda key: {}, loss=loss)


def _rowwise_squared(x, y):
  return jnp.sum(jnp.square(x - y), axis=-1)


def arcface(
  *,
  num_classes: int,
  embedding_dim: int,
  margin: float = 0.5,
  scale: float = 64.0,
) -> Objective:
  """Additive angular margin, s cos(θ + m) at the true class.

  Deng, Guo, Xue and Zafeiriou 2019, ArcFace, arXiv:1801.07698, equation 3.
  Where θ + m > π the monotone continuation cos θ - m sin m is used, as in the
  authors' code. Accuracy uses the logits without margin.

  Args:
    num_classes: N; the parameters are prototypes [N, D].
    embedding_dim: D.
    margin: m, radians.
    scale: s.
  """
  return _prototypes(num_classes, embedding_dim, margin, scale)


def softmax(
  *, num_classes: int, embedding_dim: int, scale: float = 20.0
) -> Objective:
  """Softmax cross-entropy of s cos θ: the baseline without a margin.

  Wang, Xiang, Cheng and Yuille 2017, NormFace, arXiv:1704.06369; scale is one
  over the temperature.
  """
  return _prototypes(num_classes, embedding_dim, 0.0, scale)


def _prototypes(num_classes, embedding_dim, margin, scale):
  def init(key):
    shape = (num_classes, embedding_dim)
    return {'prototypes': unit_norm(jax.random.normal(key, shape))}

  def loss(params, embeddings, batch, *, stage, key=None):
    del stage, key
    chex.assert_rank(embeddings, 2)
    chex.assert_type(embeddings, jnp.float32)
    # A padded row may carry any label: clip it, the mask drops it.
    label = jnp.clip(batch['label'], 0, num_classes - 1)
    cos = cosines(params, embeddings)  # [B, N]
    correct = jnp.argmax(cos, axis=-1) == label
    true = jax.nn.one_hot(label, num_classes, dtype=bool)
    own = unit_norm(params['prototypes'])[label]
    cos_own = jnp.take_along_axis(cos, label[:, None], axis=-1)[:, 0]
    with_margin = _add_margin(cos_own, _sine(embeddings, own), margin)
    logits = scale * jnp.where(true, with_margin[:, None], cos)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    valid = batch['valid']
    return masked_mean(each, valid), {
      'accuracy': masked_mean(correct, valid),
      'count': jnp.sum(valid),
    }

  return Objective(init=init, loss=loss)


def cosines(params: dict, embeddings: jax.Array) -> jax.Array:
  """cos θ of embeddings [B, D] and an objective's prototypes, [B, N]."""
  prototypes = unit_norm(params['prototypes'])
  return jnp.dot(embeddings, prototypes.T, precision='highest')


def _sine(x, y):
  """sin of the angle of unit rows as |x - y| |x + y| / 2, [B].

  sqrt(1 - cos²) loses half of float32's digits near cos = ±1, which a scale
  of 64 would turn into errors of 1e-2 in the logit; this form does not.
  """
  x, y = jax.lax.stop_gradient((x, y))
  chord = jnp.linalg.norm(x - y, axis=-1)
  return chord * jnp.linalg.norm(x + y, axis=-1) / 2


@jax.custom_jvp
def _add_margin(cos, sin, margin):
  """cos(θ + m) = cos θ cos m - sin θ sin m, or its continuation."""
  inside = cos > -jnp.cos(margin)  # θ + m < π
  return jnp.where(
    inside,
    cos * jnp.cos(margin) - sin * jnp.sin(margin),
    cos - margin * jnp.sin(margin),
  )


@_add_margin.defjvp
def _add_margin_jvp(primals, tangents):
  """d sin θ / d cos θ = -cot θ, bounded where the angle is 0 or π."""
  cos, sin, margin = primals
  inside = cos > -jnp.cos(margin)
  cotangent = cos / jnp.maximum(sin, 1e-3)
  slope = jnp.where(inside, jnp.cos(margin) + cotangent * jnp.sin(margin), 1.0)
  return _add_margin(cos, sin, margin), slope * tangents[0]


_OBJECTIVES = {'triplet': triplet, 'arcface': arcface, 'softmax': softmax}


def make(
  *,
  name: str,
  stages: tuple[Policy, ...],
  num_classes: int,
  embedding_dim: int,
  **hparams,
) -> Objective:
  """The objective that a config's `objective` section names.

  Raises:
    InputError: an unknown name or selection.
  """
  if name not in _OBJECTIVES:
    raise InputError(
      f'objective.name={name!r} is unknown; choose from'
      f' {", ".join(_OBJECTIVES)}'
    )
  if name == 'triplet':
    if hparams['select'] not in SELECTS:
      raise InputError(
        f'objective.select={hparams["select"]!r} is not one of {SELECTS}'
      )
    if not all(stages):
      raise InputError('objective triplet needs a curriculum of stages')
    return triplet(stages=stages, **hparams)
  return _OBJECTIVES[name](
    num_classes=num_classes, embedding_dim=embedding_dim, **hparams
  )
