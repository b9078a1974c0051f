"""Triplet mining as extrema over masked distance matrices.

An index is the first place of the extremum's value: XLA turns minima and
comparisons into vector instructions, and argmin into a scalar loop.

Easy and hard positives after Xuan, Stylianou and Pless 2020, Improved
embeddings with easy positive triplet mining, arXiv:1904.04370; semi-hard
negatives after Schroff, Kalenichenko and Philbin 2015, FaceNet,
arXiv:1503.03832 (section 3.2).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

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
  """One triplet an anchor; rows that are no anchor hold index 0."""

  positive: jax.Array  # [B] int32
  negative: jax.Array  # [B] int32
  valid: jax.Array  # [B] bool: the row is an anchor
  fallback: jax.Array  # [B] bool: no negative met the policy


class _Anchor(NamedTuple):
  """A row of the batch to mine for; stacked, all of them."""

  row: jax.Array  # where it stands in the batch
  label: jax.Array
  valid: jax.Array
  draw: jax.Array | None  # uniform in [0, 1), for select='random'


def pair_masks(labels: jax.Array, valid: jax.Array) -> PairMasks:
  """Same-class (minus self) and different-class pairs of valid rows, [B, B].

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
  """One triplet for every row that can be an anchor.

  A row is an anchor if it is valid and has another valid row of its class and
  one of another class. Where no negative meets the policy, the nearest
  negative stands in and `fallback` says so. Ties go to the lowest index.

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
    ValueError: an unknown policy, or select='random' without a key.
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
  **policy,
) -> Triplets:
  """`mine_triplets` of embeddings, without their distances [B, B].

  Anchors are taken a tile at a time, so that time grows as B² and memory as
  B. The triplets are those of `metric(embeddings)`, but that pairs within its
  rounding error of each other may change places.

  Args:
    embeddings: [B, D] float32; no gradient flows through the choice.
    labels: [B] integers.
    valid: [B] bool.
    metric: `distances.squared` or its like, [A, D], [B, D] -> [A, B].
    **policy: every keyword of `mine_triplets`.

  Raises:
    ValueError: as `mine_triplets`.
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
  """Which distances to negatives are 'semihard' or 'hard', [...] bool."""
  if negative == 'semihard':
    return (d_an > d_ap) & (d_an < d_ap + margin)
  return d_an < d_ap


def map_rows(function: Callable, x: jax.Array, *others, tile: int):
  """`function` of (row of `x`, its rows of `others`), stacked.

  As many rows at once as have their distances to all of `x` [B, D] in `tile`
  bytes.
  """
  rows = max(1, tile // (x.shape[0] * x.itemsize))
  return jax.lax.map(function, (x, *others), batch_size=rows)


def _prepared(labels, valid, *, positive, negative, margin, select, key):
  """Every row as an anchor, and what `_mine` takes beside it."""
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
  return anchors, {
    'positive': positive,
    'negative': negative,
    'margin': margin,
  }


def _mine_in_tiles(x, anchors, labels, valid, *, metric, tile, **policy):
  def mine(pair):
    row, anchor = pair
    # Fused into every reduction, a distance is still the same to the bit:
    # it doubles exactly, so that a fused multiply-add rounds no other way.
    dists = metric(row[None], x)[0]
    return _mine(dists, anchor, labels, valid, **policy)

  return map_rows(mine, x, anchors, tile=tile)


def _masks(anchor, labels, valid):
  """Of one anchor, [B] each."""
  same = anchor.label == labels
  distinct = anchor.row != jnp.arange(labels.shape[0])
  usable = anchor.valid & valid
  return PairMasks(same & usable & distinct, ~same & usable)


def _mine(dists, anchor, labels, valid, *, positive, negative, margin):
  """The triplet of one anchor by its distances [B] to the batch."""
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
  """The smallest distance of `mask` [B]; infinite where that is empty."""
  return jnp.min(dists, where=mask, initial=jnp.inf)


def _first_at(value, dists, mask):
  """The first index of `mask` [B] with this distance, int32.

  A compiler may compute `dists` once for their extremum and once more here,
  and round them in another way. Where none equals `value` any more, the first
  within rounding error of it is taken.
  """
  error = ROUNDING * jnp.maximum(jnp.abs(value), 1.0)
  close = jnp.abs(dists - value) <= error
  return _first(dists == value, close, mask)


def _drawn(meets, draw, mask):
  """One index of `meets` [B], each as likely, by `draw` in [0, 1); int32."""
  ranks = jnp.cumsum(meets)
  chosen = ranks > (draw * ranks[-1]).astype(jnp.int32)
  return _first(meets & chosen, meets, mask)


def _first(best, good, mask):
  """The first index of `mask` [B] that is best, else good, else any; int32.

  One minimum over the columns, those of lesser rank behind all others: unless
  `mask` is empty, the index is one of its own.
  """
  size = mask.size
  columns = jnp.arange(size, dtype=jnp.int32)
  places = columns + jnp.where(best, 0, jnp.where(good, size, 2 * size))
  return jnp.min(jnp.where(mask, places, 3 * size)) % size
