"""The measures of a split, whatever the objective."""

import math
from typing import TYPE_CHECKING

import jax
import numpy as np

from plankton_jax import retrieval
from plankton_jax.errors import DivergedError
from plankton_jax.train import batches, sharding
from plankton_jax.train.experiment import Experiment
from plankton_jax.train.log import as_logged, shorten_list
from plankton_jax.train.state import TrainState

if TYPE_CHECKING:  # reads image files, for which it needs more packages
  from plankton_jax.data import pipeline

_RETRIEVAL_ROWS = 5000  # at most, drawn once: it is quadratic in them


def evaluate(
  experiment: Experiment,
  data: 'pipeline.Data',
  split: str,
  state: TrainState,
) -> dict[str, float]:
  """The objective's metrics, Recall@1 and MAP@R of a split.

  The loss mines hard+hard in batches. It falls when a space collapses, and
  rises when training leaves the start's; MAP@R does neither, which is why the
  best checkpoint is chosen by it.

  Raises:
    DivergedError: a loss or an embedding that is not finite.
  """
  rows = data.splits[split]
  # A fixed shuffle: rows stand by class, and a batch must mix them.
  rows = np.random.default_rng(0).permutation(rows)
  stream = batches.evaluation(
    data.images, data.labels, rows, experiment.sampler.size
  )
  found = jax.device_get(
    [
      experiment.eval_step(state, sharding.split(experiment.mesh, batch))
      for batch in stream
    ]
  )
  counts = np.array([metrics['count'] for metrics, _ in found], np.float64)
  # Each batch weighs as much as the rows that it counts.
  weights = counts / max(counts.sum(), 1)
  means = {
    name: float(np.dot(weights, [metrics[name] for metrics, _ in found]))
    for name in found[0][0]
    if name != 'count'
  }
  embeddings = np.concatenate([embedded for _, embedded in found])[: len(rows)]
  # Without anchors a loss is 0 even of vectors that are not finite.
  bad = ~np.isfinite(embeddings).all(axis=1)
  losses = np.array([metrics['loss'] for metrics, _ in found])
  bad |= np.repeat(~np.isfinite(losses), experiment.sampler.size)[: len(rows)]
  if bad.any():
    names = shorten_list(data.ids[rows[bad]].tolist())
    raise DivergedError(
      f'{split} loss or embeddings are not finite at step {int(state.step)}, on'
      f' {names}; the last checkpoint is kept.'
      ' Lower optimizer.learning_rate and resume with --accept_changes'
    )
  kept = min(len(rows), _RETRIEVAL_ROWS)
  ranked = retrieval.evaluate(
    embeddings[:kept], data.labels[rows[:kept]], ks=(1,)
  )
  return as_logged({**means, 'count': float(counts.sum())}) | {
    # Without two images of any class there is nothing to retrieve.
    name: 0.0 if math.isnan(ranked[name]) else float(ranked[name])
    for name in ('recall_at_1', 'map_at_r')
  }
