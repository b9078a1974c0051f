"""Declares the interface of objectives: two functions, bound once.

`init(key) -> params` and `loss(params, embeddings, batch, *, stage, key) ->
(scalar, metrics)`. A batch holds `label` [B] and `valid` [B]. Every metric is
a mean over `metrics['count']` rows, so that batches can be averaged rightly,
and so is the loss; where it is a mean over other rows, `metrics['loss_count']`
is their number.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Objective(NamedTuple):
  """A loss and the parameters that it owns."""

  init: Callable  # key -> params
  loss: Callable  # (params, embeddings, batch, *, stage, key) -> loss, metrics
  # The loss of a space that has shrunk to a point; None if it varies.
  collapsed_loss: float | None = None
  # The loss of validation, with the same arguments; None takes `loss`.
  validation_loss: Callable | None = None


def without_padding(embeddings: jax.Array, valid: jax.Array) -> jax.Array:
  """Zeroes the rows of embeddings [B, D] that are not `valid` [B].

  Losses mask padded rows too, but 0 times a slope that is not finite is NaN, so
  the content of such a row would reach every gradient. Embeddings are float32.
  """
  chex.assert_rank(embeddings, 2)
  chex.assert_type(embeddings, jnp.float32)
  return jnp.where(valid[:, None], embeddings, 0.0)


def masked_mean(
  x: jax.Array, where: jax.Array, axis: int | None = None
) -> jax.Array:
  """Averages over `where`; 0 if nothing is selected."""
  total = jnp.sum(jnp.where(where, x, 0.0), axis)
  return total / jnp.maximum(jnp.sum(where, axis), 1)


def log_one_plus_sum_exp(
  x: jax.Array, where: jax.Array, *, axis: int
) -> jax.Array:
  """Computes log(1 + Σ exp x) over `where` along an axis of a matrix.

  Exactly 0, with zero gradient, if nothing is selected.
  """
  one = [(0, 0), (0, 0)]
  one[axis] = (0, 1)  # an exponent of 0 beside the others
  exponents = jnp.pad(jnp.where(where, x, -jnp.inf), one)
  return jax.nn.logsumexp(exponents, axis=axis)
