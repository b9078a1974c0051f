"""Defines losses whose anchors are the prototypes of the classes."""

import chex
import jax
import jax.numpy as jnp

from plankton_jax.objectives.base import (
  Objective,
  log_one_plus_sum_exp,
  masked_mean,
  without_padding,
)
from plankton_jax.objectives.prototypes import cosines, init_prototypes


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
    chex.assert_rank(embeddings, 2)
    chex.assert_type(embeddings, jnp.float32)
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
    init=lambda key: init_prototypes(key, num_classes, embedding_dim),
    loss=loss,
  )
