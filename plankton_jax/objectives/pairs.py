"""Defines losses over all pairs of a batch, on the cosines of unit vectors.

Their batches need several images of each class: with many classes, set
batch.classes and batch.per_class.
"""

import jax
import jax.numpy as jnp

from plankton_jax.mining import PairMasks, pair_masks
from plankton_jax.objectives.base import (
  Objective,
  log_one_plus_sum_exp,
  masked_mean,
  without_padding,
)


def supcon(*, temperature: float = 0.1) -> Objective:
  """Makes the supervised contrastive loss, L_out, averaged over anchors.

  Khosla et al. 2020, arXiv:2004.11362, equation 2, with one view of each image:
  the positives are the other images of the class. A row is an anchor if it has
  any. No anchors: exactly 0, with zero gradient.

  Args:
    temperature: τ, by which cosines are divided.
  """

  def loss(params, embeddings, batch, *, stage, key=None):
    del params, stage, key
    masks, cos = _pairs(embeddings, batch)
    anchor = masks.positive.any(axis=1)
    logits = cos / temperature
    # An empty logsumexp is -inf: give rows without pairs every column, then
    # mask them.
    others = masks.positive | masks.negative | ~anchor[:, None]
    log_total = jax.nn.logsumexp(logits, axis=1, where=others)
    each = log_total - masked_mean(logits, masks.positive, axis=1)
    return masked_mean(each, anchor), _distances(masks, cos, anchor)

  return Objective(init=lambda key: {}, loss=loss)


def multi_similarity(
  *,
  alpha: float = 2.0,
  beta: float = 50.0,
  base: float = 0.5,
  epsilon: float = 0.1,
) -> Objective:
  """Makes the multi-similarity loss on the pairs that its own mining keeps.

  Wang, Han, Huang, Dong and Scott 2019, arXiv:1904.06627, equation 15. Keeps
  negatives more similar than the least similar positive less ε, and positives
  less similar than the most similar negative plus ε. Averages over anchors,
  which are rows with a positive and a negative; others would add 0. No anchors:
  exactly 0, with zero gradient.

  Args:
    alpha: α, sharpness among positives.
    beta: β, sharpness among negatives.
    base: λ, the cosine that positives should exceed and negatives not.
    epsilon: ε, in cosine.
  """

  def loss(params, embeddings, batch, *, stage, key=None):
    del params, stage, key
    masks, cos = _pairs(embeddings, batch)
    anchor = masks.positive.any(axis=1) & masks.negative.any(axis=1)
    fixed = jax.lax.stop_gradient(cos)
    positive, negative = _mined_pairs(masks, fixed, epsilon)
    pull = log_one_plus_sum_exp(-alpha * (cos - base), positive, axis=1)
    push = log_one_plus_sum_exp(beta * (cos - base), negative, axis=1)
    return masked_mean(pull / alpha + push / beta, anchor), {
      **_distances(masks, cos, anchor),
      'active_fraction': masked_mean(negative.any(axis=1), anchor),
    }

  return Objective(init=lambda key: {}, loss=loss)


def _mined_pairs(masks, cos, epsilon):
  """Masks the pairs that the mining keeps: some of both kinds, or none."""
  farthest = jnp.min(cos, 1, where=masks.positive, initial=jnp.inf)[:, None]
  nearest = jnp.max(cos, 1, where=masks.negative, initial=-jnp.inf)[:, None]
  return PairMasks(
    positive=masks.positive & (cos < nearest + epsilon),
    negative=masks.negative & (cos > farthest - epsilon),
  )


def _pairs(embeddings, batch):
  embeddings = without_padding(embeddings, batch['valid'])
  masks = pair_masks(batch['label'], batch['valid'])
  return masks, jnp.dot(embeddings, embeddings.T, precision='highest')


def _distances(masks, cos, anchor):
  """Averages squared distances of unit vectors, as triplet loss logs them."""
  dists = 2.0 - 2.0 * jax.lax.stop_gradient(cos)
  mean = lambda mask: masked_mean(masked_mean(dists, mask, axis=1), anchor)
  return {
    'd_ap': mean(masks.positive),
    'd_an': mean(masks.negative),
    'count': jnp.sum(anchor),
  }
