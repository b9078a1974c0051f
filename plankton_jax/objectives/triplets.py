"""Defines the triplet loss on mined triplets."""

import jax
import jax.numpy as jnp

from plankton_jax import distances, mining
from plankton_jax.curriculum import Policy
from plankton_jax.errors import InputError
from plankton_jax.objectives.base import Objective, masked_mean, without_padding

SELECTS = (*mining.SELECTS, 'all')
FALLBACKS = ('nearest', 'none')
# Between all rows, and from squared ones.
_DISTANCES = {
  'squared': (distances.squared, lambda dists: dists),
  'euclidean': (distances.euclidean, distances.root),
}


def triplet(
  *,
  margin: float,
  stages: tuple[Policy, ...],
  select: str = 'nearest',
  fallback: str = 'nearest',
  distance: str = 'squared',
) -> Objective:
  """Makes the triplet loss, relu(d_ap - d_an + margin) averaged over anchors.

  Weinberger and Saul 2009, JMLR 10, in the form of Schroff et al. 2015,
  arXiv:1503.03832, section 3.1, on squared distances; on plain ones as in
  Hermans, Beyer and Leibe 2017, arXiv:1703.07737, section 2. Triplets are
  mined without gradient and the loss is recomputed from the chosen rows, so
  that backward costs O(B D). No anchors: exactly 0, with zero gradient.

  An anchor's hinge is the mean over all negatives that meet the policy where
  `select` is 'all'; that costs O(B² D), and memory as the nearest does.

  Metrics are means over all `count` anchors, d_ap and d_an always squared; the
  loss is one over the `loss_count` anchors that it keeps.

  Args:
    margin: in `distance` of unit vectors (0 to 4 squared, 0 to 2 plain).
    stages: (positive, negative) policies; `stage` indexes them.
    select: 'nearest', 'random' or 'all' of the negatives that meet the policy.
    fallback: for an anchor without such a negative: 'nearest' takes the
      nearest one, 'none' leaves the anchor out of the loss.
    distance: 'squared' or 'euclidean', of mining and of the loss.

  Raises:
    InputError: a choice is unknown, or a stage has no policy.
  """
  for field, value, known in (
    ('select', select, SELECTS),
    ('fallback', fallback, FALLBACKS),
    ('distance', distance, tuple(_DISTANCES)),
  ):
    if value not in known:
      raise InputError(f'objective.{field}={value!r} is not one of {known}')
  if not all(stages):
    raise InputError('objective triplet needs a curriculum of stages')
  metric, scale = _DISTANCES[distance]

  def loss(params, embeddings, batch, *, stage, key=None):
    del params
    positive, negative = stages[stage]
    labels, valid = batch['label'], batch['valid']
    embeddings = without_padding(embeddings, valid)
    mined = mining.mine_embeddings(
      embeddings,
      labels,
      valid,
      metric=metric,
      positive=positive,
      negative=negative,
      margin=margin,
      select='nearest' if select == 'all' else select,
      key=key,
    )
    d_ap = _rowwise_squared(embeddings, embeddings[mined.positive])
    d_an = _rowwise_squared(embeddings, embeddings[mined.negative])
    hinge = jax.nn.relu(scale(d_ap) - scale(d_an) + margin)
    fallback_rows = mined.fallback
    if select == 'all':
      mean_hinge, mean_d_an, found = _means_over_all(
        embeddings,
        mined.positive,
        labels,
        valid,
        scale=scale,
        negative=negative,
        margin=margin,
      )
      hinge = jnp.where(found, mean_hinge, hinge)
      d_an = jnp.where(found, mean_d_an, d_an)
      fallback_rows = mined.valid & ~found
    kept = mined.valid
    if fallback == 'none':
      kept &= ~fallback_rows
    mean = lambda x: masked_mean(x, mined.valid)
    return masked_mean(hinge, kept), {
      'd_ap': mean(d_ap),
      'd_an': mean(d_an),
      'active_fraction': mean((hinge > 0) & kept),
      'fallback_fraction': mean(fallback_rows),
      'count': jnp.sum(mined.valid),
      'loss_count': jnp.sum(kept),
    }

  return Objective(init=lambda key: {}, loss=loss, collapsed_loss=margin)


def _rowwise_squared(x, y):
  return jnp.sum(jnp.square(x - y), axis=-1)


def _means_over_all(x, positive, labels, valid, *, scale, negative, margin):
  """Averages over the negatives that meet the policy of each row, [B] each.

  Returns the mean hinge, the mean squared distance and whether there are any.
  Takes rows a tile at a time, and recomputes them for the gradient.
  """

  @jax.checkpoint
  def means(anchor):
    row, label, p = anchor
    squared = distances.squared(row[None], x)[0]
    dists = scale(squared)
    meets = mining.meets_policy(dists, dists[p], negative, margin)
    meets &= valid & (labels != label)
    hinge = jax.nn.relu(dists[p] - dists + margin)
    return masked_mean(hinge, meets), masked_mean(squared, meets), meets.any()

  return mining.map_row_tiles(means, x, labels, positive, tile=mining.TILE)
