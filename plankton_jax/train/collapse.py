"""Tells a collapsed space from a hard batch, and says what to try.

Hard mining often ends in a triplet loss that stays at its margin, or a space
that shrinks to a point or a line: see Xuan, Stylianou, Liu and Pless 2020, Hard
negative examples are hard, but useful, arXiv:2007.12749.
"""

from collections.abc import Sequence

import numpy as np

POINT = 1e-2  # mean squared distances of unit vectors below this count as 0
LINE = 2.0  # effective rank below which a space is hardly more than a line
SHARE = 0.1  # of the spread of vectors all over the sphere, 1/√D


def diagnose(
  recent: Sequence[dict[str, float]],
  *,
  collapsed_loss: float | None,
  embedding_dim: int,
  stage: str,
) -> str | None:
  """Says what collapsed over the recent steps, and the remedy; None if nothing.

  Args:
    recent: logged metrics of training steps; their means are judged.
    collapsed_loss: the objective's, `Objective.collapsed_loss`.
    embedding_dim: D.
    stage: the curriculum stage's name, or ''.
  """
  if not recent:
    return None
  mean = {
    name: float(np.mean([metrics[name] for metrics in recent]))
    for name in ('loss', 'spread', 'effective_rank', 'd_ap', 'd_an')
    if name in recent[0]
  }
  narrow = mean['spread'] < SHARE / np.sqrt(embedding_dim)
  stays = (
    collapsed_loss is not None
    and abs(mean['loss'] - collapsed_loss) < 0.01 * collapsed_loss
  )
  if narrow and stays:
    found = f'the loss stays at {mean["loss"]:.3f}, that of a single point'
  elif 'd_ap' in mean and max(mean['d_ap'], mean['d_an']) < POINT:
    found = f'd_ap {mean["d_ap"]:.4f} and d_an {mean["d_an"]:.4f} fall to 0'
  elif mean['effective_rank'] < LINE:
    found = f'the effective rank is {mean["effective_rank"]:.2f}'
  else:
    return None
  where = f' in stage {stage}' if stage else ''
  remedy = 'a lower optimizer.learning_rate, or its cosine schedule'
  if stage:
    remedy = (
      'a later or no hard+hard stage (curriculum), a smaller'
      ' objective.margin, batches of batch.classes times batch.per_class, or '
    ) + remedy
  return f'the embedding has collapsed{where}: {found}. Try {remedy}'
