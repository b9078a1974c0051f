"""Detects a failing run: numbers that are not finite, a collapsed space.

Hard mining often ends in a triplet loss that stays at its margin, or a space
that shrinks to a point or a line: see Xuan, Stylianou, Liu and Pless 2020, Hard
negative examples are hard, but useful, arXiv:2007.12749.
"""

import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from plankton_jax.errors import DivergedError, shorten_list
from plankton_jax.files import atomic

POINT = 1e-2  # mean squared distances of unit vectors below this count as 0
LINE = 2.0  # effective rank below which a space is hardly more than a line
SHARE = 0.1  # of the spread of vectors all over the sphere, 1/√D

_FILE = 'diverged.txt'  # of the workdir: the images of the step that diverged


def check_step(
  values: dict[str, float],
  step: int,
  image_names: Callable[[int], Sequence[str]],
  workdir: pathlib.Path | None,
) -> None:
  """Checks a training step's loss and gradient norm.

  Args:
    values: the step's metrics.
    step: from 1.
    image_names: step -> ids of its batch; called if the step diverged.
    workdir: where diverged.txt is, with these ids; None does not write it.

  Raises:
    DivergedError: the loss or the norm is not finite.
  """
  for name in ('loss', 'grad_norm'):
    if math.isfinite(values[name]):
      continue
    images, listed = image_names(step), ''
    if workdir is not None:
      atomic.text(workdir / _FILE, '\n'.join(images) + '\n')
      listed = f', listed in {workdir / _FILE}'
    raise DivergedError(
      f'{name} is {values[name]} at step {step}, on {shorten_list(images)}'
      f'{listed}; the last checkpoint is kept. Look at these images, or lower'
      ' optimizer.learning_rate, and resume with --accept_changes'
    )


def check_split(
  split: str, finite: np.ndarray, ids: np.ndarray, step: int
) -> None:
  """Checks the rows of a split that was evaluated.

  Args:
    split: its name.
    finite: [N] bool, whether a row's embedding and its batch's loss are
      finite.
    ids: [N] of the images.
    step: of the state.

  Raises:
    DivergedError: a row is not finite.
  """
  if finite.all():
    return
  raise DivergedError(
    f'{split} loss or embeddings are not finite at step {step}, on'
    f' {shorten_list(ids[~finite].tolist())}; the last checkpoint is kept.'
    ' Lower optimizer.learning_rate and resume with --accept_changes'
  )


def forget(workdir: pathlib.Path) -> None:
  """Removes an earlier attempt's diverged.txt."""
  (workdir / _FILE).unlink(missing_ok=True)


def diagnose_collapse(
  recent: Sequence[dict[str, float]],
  *,
  collapsed_loss: float | None,
  embedding_dim: int,
  stage: str,
) -> str | None:
  """Says what collapsed over recent steps, and the remedy; None if nothing.

  Tells a collapsed space from a hard batch.

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
