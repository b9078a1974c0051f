"""Tells a collapsed space from a hard batch, and says what to try.

A triplet loss that settles at its margin, or a space that shrinks to a point
or a line, is the ordinary fate of hard mining: see Xuan, Stylianou, Liu and
Pless 2020, Hard negative examples are hard, but useful, arXiv:2007.12749.
"""

from collections.abc import Sequence

import numpy as np

POINT = 1e-2  # squared distance of unit vectors below which a mean is none
LINE = 2.0  # effective rank below which a space is hardly more than a line
SHARE = 0.1  # of the spread of vectors all over the sphere, 1/√D


def diagnose(
  recent: Sequence[dict[str, float]],
  *,
  margin: float | None,
  embedding_dim: int,
  stage: str,
) -> str | None:
  """What has collapsed over the recent steps, with the remedy; or None.

  Args:
    recent: metrics of training steps, as logged; their means are judged.
    margin: of the triplet loss; None for objectives without one.
    embedding_dim: D.
    stage: the curriculum stage's name, '' where there is none.
  """
  if not recent:
    return None
  mean = {
    name: float(np.mean([metrics[name] for metrics in recent]))
    for name in ('loss', 'spread', 'effective_rank', 'd_ap', 'd_an')
    if name in recent[0]
  }
  narrow = mean['spread'] < SHARE / np.sqrt(embedding_dim)
  if margin and narrow and abs(mean['loss'] - margin) < 0.01 * margin:
    found = f'the loss stands at the margin ({mean["loss"]:.3f})'
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
