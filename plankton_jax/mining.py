"""Triplet mining as extrema over masked distance matrices: no loops.

Easy and hard positives after Xuan, Stylianou and Pless 2020, Improved
embeddings with easy positive triplet mining, arXiv:1904.04370; semi-hard
negatives after Schroff, Kalenichenko and Philbin 2015, FaceNet,
arXiv:1503.03832 (section 3.2).
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

POSITIVES = ('easy', 'hard')
NEGATIVES = ('semihard', 'hard')
SELECTS = ('nearest', 'random')


class PairMasks(NamedTuple):
  """Boolean [B, B]: rows are anchors."""

  positive: jax.Array
  negative: jax.Array


class Triplets(NamedTuple):
  """One triplet an anchor; rows that are no anchor hold index 0."""

  positive: jax.Array  # [B] int32
  negative: jax.Array  # [B] int32
  valid: jax.Array  # [B] bool: the row is an anchor
  fallback: jax.Array  # [B] bool: no negative met the policy


def pair_masks(labels: jax.Array, valid: jax.Array) -> PairMasks:
  """Same-class (minus self) and different-class pairs of valid rows.

  Self is left out by index: two identical images are a legal pair.

  Args:
    labels: [B] integers.
    valid: [B] bool; padded rows are False.
  """
  chex.assert_rank([labels, valid], 1)
  same = labels[:, None] == labels[None, :]
  usable = valid[:, None] & valid[None, :]
  distinct = ~jnp.eye(labels.shape[0], dtype=bool)
  return PairMasks(same & usable & distinct, ~same & usable)


def _nearest(dists, mask):
  return jnp.argmin(jnp.where(mask, dists, jnp.inf), axis=1)


def _farthest(dists, mask):
  return jnp.argmax(jnp.where(mask, dists, -jnp.inf), axis=1)


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
    dists: [B, B] squared Euclidean distances, float32.
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
  for value, known in (
    (positive, POSITIVES),
    (negative, NEGATIVES),
    (select, SELECTS),
  ):
    if value not in known:
      raise ValueError(f'mining policy {value!r} is not one of {known}')
  if select == 'random' and key is None:
    raise ValueError("select='random' needs a key")

  masks = pair_masks(labels, valid)
  anchor = masks.positive.any(axis=1) & masks.negative.any(axis=1)
  choose = _nearest if positive == 'easy' else _farthest
  p = choose(dists, masks.positive)
  d_ap = jnp.take_along_axis(dists, p[:, None], axis=1)  # [B, 1]

  if negative == 'semihard':
    meets = (dists > d_ap) & (dists < d_ap + margin)
  else:
    meets = dists < d_ap
  meets &= masks.negative
  found = meets.any(axis=1)
  if select == 'nearest':
    chosen = _nearest(dists, meets)
  else:
    chosen = _farthest(jax.random.uniform(key, dists.shape), meets)
  n = jnp.where(found, chosen, _nearest(dists, masks.negative))
  return Triplets(
    positive=jnp.where(anchor, p, 0).astype(jnp.int32),
    negative=jnp.where(anchor, n, 0).astype(jnp.int32),
    valid=anchor,
    fallback=anchor & ~found,
  )
