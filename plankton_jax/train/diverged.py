"""Stops a run whose numbers are no longer finite, and names its images."""

import math
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from plankton_jax.errors import DivergedError, shorten_list
from plankton_jax.files import atomic

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
  split: str,
  finite: np.ndarray,
  ids: np.ndarray,
  step: int,
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
