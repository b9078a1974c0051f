"""Mines triplets as extrema over masked distance matrices.

An index is the first place of the extremum's value: XLA turns minima and
comparisons into vector instructions, and argmin into a scalar loop.

Easy and hard positives after Xuan, Stylianou and Pless 2020, Improved
embeddings with easy positive triplet mining, arXiv:1904.04370; semi-hard
negatives after Schroff, Kalenichenko and Philbin 2015, FaceNet,
arXiv:1503.03832 (section 3.2).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

POSITIVES = ('easy', 'hard')
NEGATIVES = ('semihard', 'hard')
SELECTS = ('nearest', 'random')

# Bytes of a tile of distances: on a CPU it stays in the caches of the cores,
# elsewhere fewer and larger steps keep the device busy.
CPU_TILE = 2 << 20
TILE = 32 << 20

# How far two roundings of one distance between unit vectors may lie apart.
ROUNDING = 2.0**-20


class PairMasks(NamedTuple):
  """Boolean [A, B]: rows are anchors."""

  positive: jax.Array
  negative: jax.Array


class Triplets(NamedTuple):
  """One triplet for each anchor; other rows hold index 0."""

  positive: jax.Array  # [B] int32
  negative: jax.Array  # [B] int32
  valid: jax.Array  # [B] bool: the row is an anchor
  fallback: jax.Array  # [B] bool: no negative met the policy


class _Anchor(NamedTuple):
  """A row of the batch to mine for; all rows, once stacked."""

  row: jax.Array  # its place in the batch
  label: jax.Array
  valid: jax.Array
  draw: jax.Array | None  # uniform in [0, 1), for select='random'


def pair_masks(labels: jax.Array, valid: jax.Array) -> PairMasks:
  """Masks same-class (minus self) and other-class pairs of valid rows, [B, B].

  Self is left out by index: two identical images are a legal pair.

  Args:
    labels: [B] integers.
    valid: [B] bool; padded rows are False.
  """
  chex.assert_rank([labels, valid], 1)
  anchors = _Anchor(jnp.arange(labels.shape[0]), labels, valid, draw=None)
  return jax.vmap(lambda anchor: _masks(anchor, labels, valid))(anchors)


def mine_triplets(
  dists: jax.Array,
  labels: jax.Array,
  valid: jax.Array,
  *,
  positive: str,
  negative: str,
  margin: float,
  select: str = 'nearest',
  key: jax.Array | None = None,
) -> Triplets:
  """Mines a triplet for every row that can be an anchor.

  A row is an anchor if it is valid and has another valid row of its class and
  one of another class. Where no negative meets the policy, the nearest
  negative is taken and `fallback` set. Ties go to the lowest index.

  Args:
    dists: [B, B] squared Euclidean distances, compared in float32 at least.
    labels: [B] integers.
    valid: [B] bool.
    positive: 'easy' (the nearest of the class) or 'hard' (the farthest).
    negative: 'semihard' (d_ap < d_an < d_ap + margin) or 'hard'
      (d_an < d_ap), both strict.
    margin: of the triplet loss, in squared distance.
    select: 'nearest' or 'random' (uniform) among those that meet the policy.
    key: for select='random'.

  Raises:
    ValueError: a policy is unknown, or select='random' has no key.
  """
  chex.assert_rank([dists, labels, valid], [2, 1, 1])
  chex.assert_type(dists, float)
  # In bfloat16 d_ap + margin would round to d_ap, or past the next distance.
  dists = dists.astype(jnp.promote_types(dists.dtype, jnp.float32))
  anchors, policy = _prepared(
    labels,
    valid,
    positive=positive,
    negative=negative,
    margin=margin,
    select=select,
    key=key,
  )
  mine = lambda row, anchor: _mine(row, anchor, labels, valid, **policy)
  return jax.vmap(mine)(dists, anchors)


def mine_embeddings(
  embeddings: jax.Array,
  labels: jax.Array,
  valid: jax.Array,
  *,
  metric: Callable[[jax.Array, jax.Array], jax.Array],
  **policy: Any,
) -> Triplets:
  """Mines as `mine_triplets` does, without holding the distances [B, B].

  Anchors are taken a tile at a time, so that time grows as B² and memory as
  B. The triplets are those of `metric(embeddings)`, except that pairs whose
  distances differ by less than its rounding error may change places.

  Args:
    embeddings: [B, D] float32; no gradient flows through the choice.
    labels: [B] integers.
    valid: [B] bool.
    metric: such as `distances.squared`, [A, D], [B, D] -> [A, B].
    **policy: every keyword of `mine_triplets`.

  Raises:
    ValueError: as in `mine_triplets`.
  """
  chex.assert_rank([embeddings, labels, valid], [2, 1, 1])
  chex.assert_type(embeddings, jnp.float32)
  anchors, policy = _prepared(labels, valid, **policy)
  mine = functools.partial(_mine_in_tiles, metric=metric, **policy)
  return jax.lax.platform_dependent(
    jax.lax.stop_gradient(embeddings),
    anchors,
    labels,
    valid,
    cpu=functools.partial(mine, tile=CPU_TILE),
    default=functools.partial(mine, tile=TILE),
  )


def meets_policy(
  d_an: jax.Array, d_ap: jax.Array, negative: str, margin: float
) -> jax.Array:
  """Marks distances to negatives that are 'semihard' or 'hard', [...] bool."""
  if negative == 'semihard':
    return (d_an > d_ap) & (d_an < d_ap + margin)
  return d_an < d_ap


def map_row_tiles(
  function: Callable[[Any], Any], x: jax.Array, *others: Any, tile: int
) -> Any:
  """Maps `function` over (row of `x`, its rows of `others`) and stacks.

  Takes as many rows at once as fit their distances to all of `x` [B, D] in
  `tile` bytes.
  """
  rows = max(1, tile // (x.shape[0] * x.itemsize))
  return jax.lax.map(function, (x, *others), batch_size=rows)


def _prepared(labels, valid, *, positive, negative, margin, select, key):
  """Prepares every row as an anchor, and the other arguments of `_mine`."""
  for value, known in (
    (positive, POSITIVES),
    (negative, NEGATIVES),
    (select, SELECTS),
  ):
    if value not in known:
      raise ValueError(f'mining policy {value!r} is not one of {known}')
  draw = None
  if select == 'random':
    if key is None:
      raise ValueError("select='random' needs a key")
    draw = jax.random.uniform(key, labels.shape)
  anchors = _Anchor(jnp.arange(labels.shape[0]), labels, valid, draw)
  return anchors, {'positive': positive, 'negative': negative, 'margin': margin}


def _mine_in_tiles(x, anchors, labels, valid, *, metric, tile, **policy):
  def mine(pair):
    row, anchor = pair
    # Even fused into a reduction, a distance stays the same to the bit:
    # doubling is exact, so that a fused multiply-add rounds the same way.
    dists = metric(row[None], x)[0]
    return _mine(dists, anchor, labels, valid, **policy)

  return map_row_tiles(mine, x, anchors, tile=tile)


def _masks(anchor, labels, valid):
  """Masks the positives and negatives of one anchor, [B] each."""
  same = anchor.label == labels
  distinct = anchor.row != jnp.arange(labels.shape[0])
  usable = anchor.valid & valid
  return PairMasks(same & usable & distinct, ~same & usable)


def _mine(dists, anchor, labels, valid, *, positive, negative, margin):
  """Mines the triplet of one anchor by its distances [B] to the batch."""
  masks = _masks(anchor, labels, valid)
  is_anchor = masks.positive.any() & masks.negative.any()
  if positive == 'easy':
    d_ap = _least(dists, masks.positive)
  else:
    d_ap = -_least(-dists, masks.positive)
  p = _first_at(d_ap, dists, masks.positive)

  nearest = _least(dists, masks.negative)
  meets = masks.negative & meets_policy(dists, d_ap, negative, margin)
  if negative == 'semihard':
    chosen = _least(dists, meets)
    found = chosen < jnp.inf
  else:
    chosen = nearest  # which meets the policy if any does
    found = nearest < d_ap
  n = _first_at(jnp.where(found, chosen, nearest), dists, masks.negative)
  if anchor.draw is not None:
    drawn = _drawn(meets, anchor.draw, masks.negative)
    n = jnp.where(found, drawn, n)
  return Triplets(
    positive=jnp.where(is_anchor, p, 0),
    negative=jnp.where(is_anchor, n, 0),
    valid=is_anchor,
    fallback=is_anchor & ~found,
  )


def _least(dists, mask):
  """Finds the smallest distance where `mask` [B]; inf if it is empty."""
  return jnp.min(dists, where=mask, initial=jnp.inf)


def _first_at(value, dists, mask):
  """Finds the first index of `mask` [B] with this distance, int32.

  A compiler may compute `dists` once for the extremum and again here, with
  other rounding. If no distance equals `value` then, takes the first within
  rounding error of it.
  """
  error = ROUNDING * jnp.maximum(jnp.abs(value), 1.0)
  close = jnp.abs(dists - value) <= error
  return _first(dists == value, close, mask)


def _drawn(meets, draw, mask):
  """Draws an index of `meets` [B] uniformly, by `draw` in [0, 1); int32."""
  ranks = jnp.cumsum(meets)
  chosen = ranks > (draw * ranks[-1]).astype(jnp.int32)
  return _first(meets & chosen, meets, mask)


def _first(best, good, mask):
  """Finds the first index of `mask` [B] that is best, else good, else any.

  Takes one minimum over the columns, ordered by rank. The index, int32, is in
  `mask` unless that is empty.
  """
  size = mask.size
  columns = jnp.arange(size, dtype=jnp.int32)
  places = columns + jnp.where(best, 0, jnp.where(good, size, 2 * size))
  return jnp.min(jnp.where(mask, places, 3 * size)) % size
