"""Checks that this device computes what the CPU does, without timing."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.worker import Job
from plankton_jax import distances, mining, objectives

KINDS = ('random', 'tied', 'duplicated', 'close')
SEEDS = 10  # batches of each
POLICIES = [(p, n) for p in mining.POSITIVES for n in mining.NEGATIVES]
MARGIN = 0.2
CLASSES = 8


class Rows(NamedTuple):
  """A batch for a miner or an objective."""

  embeddings: np.ndarray  # float32 [B, D]
  labels: np.ndarray  # int32 [B]
  valid: np.ndarray  # bool [B]


def batches(size: int, dim: int) -> dict[str, list[Rows]]:
  """Makes ten batches of each kind.

  'tied' rows lie on a grid, where float32 products are exact on any device and
  most distances are tied; 'duplicated' ones repeat an eighth of the rows;
  'close' ones lie 1e-2 from others, so that the order of their squared
  distances, about 1e-4, is within float32's error of 1e-7 and beyond TF32's
  of 1e-3.
  """
  made: dict[str, list[Rows]] = {name: [] for name in KINDS}
  for seed in range(SEEDS):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, size, np.int32)
    valid = rng.random(size) < 0.9
    x = _unit(rng.normal(size=(size, dim)))
    grid = rng.integers(-1, 2, (size, dim)).astype(np.float32)
    pairs = x[rng.integers(0, size // 2, size)]
    close = _unit(pairs + 1e-2 * rng.normal(size=(size, dim)) / np.sqrt(dim))
    made['random'].append(Rows(x, labels, valid))
    made['tied'].append(Rows(grid, labels, valid))
    few = x[rng.integers(0, max(1, size // 8), size)]
    made['duplicated'].append(Rows(few, labels, valid))
    made['close'].append(Rows(close, labels, valid))
  return made


def _unit(x):
  return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def mined_indices(*, size: int, dim: int) -> Job:
  """Compares mined rows with the CPU's, and with those of TF32 products.

  Excuses a different choice if the float64 distances of the two rows are within
  float32's error of each other: no device can tell them apart.
  """
  mine = jax.jit(_mine_all)
  rough = jax.jit(lambda x, labels, valid: _mine_all(x, labels, valid, _rough))
  cpu = jax.devices('cpu')[0]
  differ, excused, coarse, total = 0, 0, 0, 0
  for kind in batches(size, dim).values():
    for rows in kind:
      found = jax.device_get(mine(*rows))
      low = jax.device_get(rough(*rows))
      with jax.default_device(cpu):
        expected = jax.device_get(mine(*rows))
      for here, there, lower in zip(found, expected, low, strict=True):
        wrong, near = _compare(rows, here, there)
        differ, excused = differ + wrong, excused + near
        coarse += int((lower.negative != there.negative).sum())
        total += len(rows.labels)
  if differ:
    raise ValueError(f"{differ} of {total} mined triplets are not the CPU's")
  rounding = f' ({excused} of them between rows that float32 cannot tell apart)'
  return None, {
    'note': f"{total:,} triplets of 40 batches are the CPU's"
    f'{rounding if excused else ""}; distances are float32 products at the'
    ' highest precision, whose error is 1e-7;'
    f' at the default one {coarse:,} negatives would be others'
  }


def _mine_all(x, labels, valid, metric=distances.squared):
  return [
    mining.mine_embeddings(
      x,
      labels,
      valid,
      metric=metric,
      positive=positive,
      negative=negative,
      margin=MARGIN,
      select='nearest',
      key=None,
    )
    for positive, negative in POLICIES
  ]


def _rough(x, y):
  """Computes squared distances in the device's default precision."""
  gram = jnp.dot(x, y.T)
  norms = lambda z: jnp.sum(z * z, axis=1)
  return jnp.maximum(norms(x)[:, None] + norms(y) - 2.0 * gram, 0.0)


def _compare(rows, here, there):
  """Counts triplets that differ, and those that differ only by rounding."""
  x = np.where(rows.valid[:, None], rows.embeddings, 0).astype(np.float64)
  between = lambda index: ((x - x[index]) ** 2).sum(axis=1)
  error = 4e-7 * (1.0 + (x * x).sum(axis=1).max())
  other = (here.positive != there.positive) | (here.negative != there.negative)
  near = np.ones(len(x), bool)
  for a, b in zip(here[:2], there[:2], strict=True):
    gap = np.abs(between(a) - between(b))
    # Of two rows at the same distance, the first is right on any device.
    near &= (a == b) | ((gap > 0.0) & (gap <= error))
  wrong = (here.valid != there.valid) | (other & ~near)
  return int(wrong.sum()), int((other & near).sum())


def losses_and_gradients(*, size: int, dim: int) -> Job:
  """Compares losses and gradients by the embeddings with the CPU's.

  The gradient's error is relative to its norm.
  """
  cpu = jax.devices('cpu')[0]
  given = batches(size, dim)['random'][0]
  batch = {'label': given.labels, 'valid': given.valid}
  worst = 0.0
  for name, objective in {
    'hard+hard': objectives.triplet(margin=MARGIN, stages=(('hard', 'hard'),)),
    'easy+semihard': objectives.triplet(
      margin=MARGIN, stages=(('easy', 'semihard'),)
    ),
    'arcface': objectives.arcface(num_classes=CLASSES, embedding_dim=dim),
    'softmax': objectives.softmax(num_classes=CLASSES, embedding_dim=dim),
    'supcon': objectives.supcon(),
  }.items():
    with jax.default_device(cpu):
      params = jax.device_get(objective.init(jax.random.key(0)))

    def loss(x, params, batch, objective=objective):
      return objective.loss(params, x, batch, stage=0)[0]

    function = jax.jit(jax.value_and_grad(loss))
    found = jax.device_get(function(given.embeddings, params, batch))
    with jax.default_device(cpu):
      expected = jax.device_get(function(given.embeddings, params, batch))
    errors = [
      float(np.linalg.norm(a - b) / np.maximum(np.linalg.norm(b), 1e-6))
      for a, b in zip(found, expected, strict=True)
    ]
    if not max(errors) <= 1e-4:
      raise ValueError(f'{name}: loss and gradient are off by {errors}')
    worst = max(worst, *errors)
  return None, {
    'note': f'losses and gradients are off by {worst:.1e} at most, relative'
  }
