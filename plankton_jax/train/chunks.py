"""Embeds a large batch a chunk at a time, so that memory follows the chunk.

Gradient caching: Gao, Zhang, Han and Callan 2021, Scaling deep contrastive
learning batch size under memory limited setup, arXiv:2101.06983. All chunks
are embedded without keeping what the gradient needs; the loss of the whole
batch gives the gradient of every embedding; then each chunk is embedded again
and takes these gradients on to the parameters. It costs one more forward pass.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# (params, inputs, key) -> embeddings [B, D] and batch_stats
Embed = Callable[[Any, dict[str, jax.Array], jax.Array], tuple[jax.Array, Any]]
# (params, embeddings) -> loss and metrics
Loss = Callable[[Any, jax.Array], tuple[jax.Array, dict[str, jax.Array]]]


class Gradient(NamedTuple):
  """A batch's loss and its gradient."""

  loss: jax.Array
  metrics: dict[str, jax.Array]
  embeddings: jax.Array  # [B, D]
  batch_stats: Any
  params: Any  # the gradient, {'encoder': ..., 'objective': ...}


def whole(
  embed: Embed,
  loss: Loss,
  params: Any,
  inputs: dict[str, jax.Array],
  key: jax.Array,
) -> Gradient:
  """Computes the gradient with the whole batch in memory."""

  def loss_fn(params):
    embeddings, batch_stats = embed(params['encoder'], inputs, key)
    value, metrics = loss(params['objective'], embeddings)
    return value, (metrics, embeddings, batch_stats)

  (value, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
  metrics, embeddings, batch_stats = aux
  return Gradient(value, metrics, embeddings, batch_stats, grads)


def cached(
  embed: Embed,
  loss: Loss,
  params: Any,
  inputs: dict[str, jax.Array],
  key: jax.Array,
  *,
  chunk: int,
  batch_stats: Any,
) -> Gradient:
  """Computes the same gradient with a chunk of the images in memory.

  What `embed` draws from its key, and the statistics that it takes of its rows,
  are of a chunk; an `embed` without either has the gradient of `whole`. New
  statistics are the mean of the chunks' own.

  Args:
    embed: gives one or several embeddings of each row, next to each other.
    loss: of all embeddings.
    params: {'encoder': ..., 'objective': ...}.
    inputs: [B, ...] each.
    key: of the step; each chunk gets its own.
    chunk: images in a chunk; it divides B.
    batch_stats: those that `embed` begins from.
  """
  part = _parts(inputs, chunk)
  count = _rows(inputs) // chunk
  numbers = jnp.arange(count)

  def embed_part(encoder, i):
    return embed(encoder, part(i), jax.random.fold_in(key, i))

  stacked, each = jax.lax.map(
    lambda i: embed_part(params['encoder'], i), numbers
  )
  embeddings = _in_order(stacked, chunk)
  (value, metrics), (own, slopes) = jax.value_and_grad(
    loss, argnums=(0, 1), has_aux=True
  )(params['objective'], embeddings)
  # As `stacked` is.
  slopes = slopes.reshape(chunk, count, -1, slopes.shape[-1])
  slopes = jnp.moveaxis(slopes, 1, 0).reshape(stacked.shape)

  def add(total, at):
    i, slope = at
    _, pull = jax.vjp(
      lambda encoder: embed_part(encoder, i)[0], params['encoder']
    )
    return jax.tree.map(jnp.add, total, *pull(slope)), None

  zero = jax.tree.map(jnp.zeros_like, params['encoder'])
  encoder, _ = jax.lax.scan(add, zero, (numbers, slopes))
  return Gradient(
    value,
    metrics,
    embeddings,
    jax.tree.map(_mean_of_updates, batch_stats, each),
    {'encoder': encoder, 'objective': own},
  )


def embed_all(
  embed: Callable[[dict[str, jax.Array]], jax.Array],
  inputs: dict[str, jax.Array],
  chunk: int,
) -> jax.Array:
  """Embeds inputs [B, ...] to [B, D], a chunk at a time; 0 takes all at once.

  A chunk that does not divide B counts as 0.
  """
  if not chunk or _rows(inputs) % chunk:
    return embed(inputs)
  part = _parts(inputs, chunk)
  numbers = jnp.arange(_rows(inputs) // chunk)
  return _in_order(jax.lax.map(lambda i: embed(part(i)), numbers), chunk)


def _rows(inputs):
  return len(next(iter(inputs.values())))


def _parts(inputs, chunk):
  """Makes a function from a number to a chunk.

  Chunk i of n holds rows i, i + n, i + 2n, ..., so that each device, which has
  rows that follow each other, has its share of every chunk.
  """
  split = {
    name: x.reshape(chunk, -1, *x.shape[1:]) for name, x in inputs.items()
  }
  return lambda i: {
    name: jax.lax.dynamic_index_in_dim(x, i, axis=1, keepdims=False)
    for name, x in split.items()
  }


def _in_order(stacked, chunk):
  """Puts embeddings of chunks [n, chunk * views, D] in their batch's order."""
  count, _, dim = stacked.shape
  apart = stacked.reshape(count, chunk, -1, dim)
  return jnp.moveaxis(apart, 0, 1).reshape(-1, dim)


def _mean_of_updates(old, new):
  """Moves a statistic by the mean of its updates [n, ...].

  One that does not change stays the same to the bit; flags never change.
  """
  if not jnp.issubdtype(old.dtype, jnp.floating):
    return old
  return old + jnp.mean(new - old, axis=0)
