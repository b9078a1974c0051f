"""Measures a split by the objective and by retrieval."""

import math

import jax
import numpy as np

from plankton_jax import retrieval
from plankton_jax.nn import whitening as whitenings
from plankton_jax.train import batches, failures, job, sharding
from plankton_jax.train.experiment import Data, Experiment
from plankton_jax.train.state import TrainState

_RETRIEVAL_IMAGES = 5000  # the most, drawn once: retrieval is quadratic in them
_WHITENING_IMAGES = 20_000  # the most, drawn once
_OF_ALL_ROWS = ('spread', 'effective_rank')  # means over all rows


def evaluate(
  experiment: Experiment,
  data: Data,
  split: str,
  state: TrainState,
  *,
  whitening: np.ndarray | None = None,
) -> dict[str, float]:
  """Computes the objective's metrics, Recall@1 and MAP@R of a split.

  The loss mines hard+hard in batches. It falls when the space collapses, and
  rises as training begins; MAP@R does neither, so it chooses the best
  checkpoint.

  Args:
    experiment: the run's.
    data: the run's.
    split: to measure.
    state: not whitened yet, so that the objective sees the space that it was
      trained in.
    whitening: [D, D] of the embeddings that retrieval ranks; None for not.

  Returns:
    Metrics by name; NaN where the split does not define one, such as a
    triplet loss or MAP@R of images that are each alone in their class.
    Recall@1 and MAP@R are of `retrieval_images` images, which is listed if
    they are not all.

  Raises:
    DivergedError: a loss or an embedding is not finite.
  """
  rows = data.splits[split]
  # A fixed shuffle: rows are sorted by class, and a batch must mix them.
  rows = np.random.default_rng(0).permutation(rows)
  size = experiment.sampler.size
  metrics, embeddings = _measured(experiment, rows, state)
  finite = np.isfinite(embeddings).all(axis=1)
  losses = np.array([values['loss'] for values in metrics])
  finite &= np.repeat(np.isfinite(losses), size)[: len(rows)]
  failures.check_split(split, finite, data.ids[rows], int(state.step))
  sizes = [min(size, len(rows) - start) for start in range(0, len(rows), size)]
  kept = min(len(rows), _RETRIEVAL_IMAGES)
  if whitening is not None:
    embeddings = whitenings.apply(whitening, embeddings)
  ranked = retrieval.evaluate(
    embeddings[:kept], data.labels[rows[:kept]], ks=(1,)
  )
  measured = {
    **as_logged(average(metrics, np.array(sizes))),
    'recall_at_1': float(ranked['recall_at_1']),
    'map_at_r': float(ranked['map_at_r']),
    **({'retrieval_images': kept} if kept < len(rows) else {}),
  }
  return job.from_first(f'{split} at step {int(state.step)}', measured)


def fit_whitening(
  experiment: Experiment,
  data: Data,
  state: TrainState,
  *,
  power: float,
) -> np.ndarray:
  """Fits the whitening [D, D] of a state's encoder to the training images."""
  rows = data.splits['train']
  rows = np.random.default_rng(0).permutation(rows)[:_WHITENING_IMAGES]
  _, embeddings = _measured(experiment, rows, state)
  return whitenings.fit(embeddings, data.labels[rows], power=power)


def _measured(
  experiment: Experiment, rows: np.ndarray, state: TrainState
) -> tuple[list[dict[str, float]], np.ndarray]:
  """Computes each batch's metrics, and the embeddings [N, D] of N rows."""
  found = jax.device_get(
    [
      sharding.gather(experiment.mesh, experiment.eval_step(state, batch))
      for batch in batches.evaluation(
        experiment.columns, rows, experiment.sampler.size, experiment.mesh
      )
    ]
  )
  metrics = [values for values, _ in found]
  embeddings = np.concatenate([embedded for _, embedded in found])
  return metrics, embeddings[: len(rows)]


def average(
  metrics: list[dict[str, float]], sizes: np.ndarray
) -> dict[str, float]:
  """Averages batches as if all their rows had been one batch.

  Weighs each metric by the rows that it is a mean of: the loss by `loss_count`
  if the objective gives it, the spread by `sizes`, all rows of the batch
  [batches], any other metric by `count`. NaN if there is no such row.

  Returns:
    The means, and the sum of `count`.
  """

  def mean(name):
    if name in _OF_ALL_ROWS:
      weights = sizes
    elif name == 'loss' and 'loss_count' in metrics[0]:
      weights = np.array([values['loss_count'] for values in metrics])
    else:
      weights = np.array([values['count'] for values in metrics])
    weights = np.asarray(weights, np.float64)
    if not weights.sum():
      return float('nan')
    values = np.array([values[name] for values in metrics], np.float64)
    return float(np.dot(weights / weights.sum(), values))

  names = metrics[0].keys() - {'count', 'loss_count'}
  return {name: mean(name) for name in metrics[0] if name in names} | {
    'count': float(sum(values['count'] for values in metrics))
  }


def describe(values: dict[str, float]) -> str:
  """Describes a split's measures in a line, without those not defined."""
  names = ('loss', 'accuracy', 'd_ap', 'd_an', 'recall_at_1', 'map_at_r')
  return '  '.join(
    f'{name} {values[name]:.4f}'
    for name in names
    if name in values and not math.isnan(values[name])
  )


def as_logged(values: dict[str, float]) -> dict[str, float]:
  """Renames metrics for the log: a triplet batch's `count` is `anchors`."""
  kept = {
    name: value
    for name, value in values.items()
    if name not in ('count', 'loss_count')
  }
  return {**kept, 'anchors': values['count']} if 'd_ap' in values else kept
