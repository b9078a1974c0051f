"""Takes the size of an object, and other measures of it, into its embedding.

Images are resized before the encoder sees them, which loses the first thing
that a taxonomist looks at. The measures come as they are, height, width and a
pixel's side among them, NaN where unknown; the features made of them, the
standardisation and the units that see them are all part of the encoder.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

SIZE = ('height', 'width', 'pixel_um')  # px, px, and a pixel's side in µm

_UNITS = 32
_JITTER = 0.1  # standard deviation, as a share of the training images'
_DROPPED = 0.1  # share of images, and of the features of the others
_LEAST_DEVIATION = 1e-6  # below it all training images have the same value


def columns(size: bool, others: Sequence[str]) -> tuple[str, ...]:
  """Names the measures that an encoder takes, in their order."""
  return (SIZE if size else ()) + tuple(others)


def matrix(
  names: Sequence[str], measures: Mapping[str, np.ndarray], count: int
) -> np.ndarray:
  """Stacks measures [N] of `count` images to float32 [N, M], NaN if missing."""
  unknown = np.full(count, np.nan)
  found = [measures.get(name, unknown) for name in names]
  return np.stack(found, axis=1, dtype=np.float32, casting='unsafe')


def features(
  measures: jax.Array, *, size: bool, in_um: jax.Array | bool
) -> jax.Array:
  """Computes what the encoder standardises; NaN where a measure is missing.

  With `size` the first two are log √(h w), in pixels or µm, and log of the long
  side by the short one. The ratio has no orientation, as training turns and
  mirrors images; a zoom of the augmentation changes neither, as it does not
  change the object. Any other measure x becomes sign(x) log(1 + |x|), which
  suits lengths and areas as well as angles and skewness.

  Args:
    measures: float32 [B, M], in the order of `columns`.
    size: whether the first three are those of `SIZE`.
    in_um: whether to measure in µm, for which an image needs `pixel_um`.

  Returns:
    float32 [B, F], where F is M, or M - 1 with `size`.
  """
  chex.assert_rank(measures, 2)
  found = []
  if size:
    height, width, pixel = (_log(measures[:, i]) for i in range(3))
    side = (height + width) / 2 + jnp.where(in_um, pixel, 0.0)
    found = [side, jnp.abs(height - width)]
    measures = measures[:, 3:]
  others = jnp.sign(measures) * jnp.log1p(jnp.abs(measures))
  return jnp.concatenate([*(x[:, None] for x in found), others], axis=1)


def _log(x: jax.Array) -> jax.Array:
  """Takes the logarithm; NaN where x is not positive."""
  good = x > 0
  return jnp.where(good, jnp.log(jnp.where(good, x, 1.0)), jnp.nan)


def statistics(measures: np.ndarray, *, size: bool) -> dict[str, np.ndarray]:
  """Measures the training images: the `batch_stats` of `Measures`.

  Sizes are in µm if every image has `pixel_um`, and in pixels otherwise.

  Args:
    measures: float32 [N, M] of the training images, in the order of `columns`.
    size: as `features` takes it.
  """
  in_um = size and bool((measures[:, 2] > 0).all())
  found = np.asarray(features(jnp.asarray(measures), size=size, in_um=in_um))
  known = np.isfinite(found)
  count = np.maximum(known.sum(axis=0), 1)
  mean = np.sum(found, axis=0, where=known, dtype=np.float64) / count
  squares = np.square(found - mean)
  deviation = np.sqrt(np.sum(squares, axis=0, where=known) / count)
  return {
    'mean': mean.astype(np.float32),
    'deviation': np.where(deviation < _LEAST_DEVIATION, 1.0, deviation).astype(
      np.float32
    ),
    'in_um': np.array(in_um),
  }


def unit(measures: np.ndarray, *, in_um: bool) -> str:
  """Says in which unit sizes are, and why or with what loss.

  Args:
    measures: float32 [N, M] of the training images, those of `SIZE` first.
    in_um: of the `statistics`, or of the encoder that training began from.
  """
  without = int((~(measures[:, 2] > 0)).sum())
  lack = f'{without:,} of {len(measures):,} training images have no pixel_um'
  if in_um:
    loss = f'; {lack}, so that their size is unknown' if without else ''
    return f'encoder.size: sizes are in µm{loss}'
  why = lack if without else 'those of the encoder that it began from are'
  return f'encoder.size: sizes are in pixels, as {why}'


class Measures(nn.Module):
  """Measures [B, M] to their share of the projected embedding [B, D].

  A layer of 32 units sees the standardised features, 0 where unknown, and for
  each whether it is known. Its projection is added to that of the pooled
  features, which is the same as to concatenate both before one projection; an
  encoder of images alone keeps its arrays and gains these.

  In training the features are jittered, and dropped: all those of an image, or
  one of them. So the encoder works where they are unknown.

  Attributes:
    size: as `features` takes it.
    others: names of further measures.
    embedding_dim: D.
    pooled: how many pooled features the embedding has beside these units; for
      the initial scale of their projection.
  """

  size: bool
  others: tuple[str, ...]
  embedding_dim: int
  pooled: int

  @nn.compact
  def __call__(self, measures: jax.Array, *, train: bool) -> jax.Array:
    x = features(measures, size=self.size, in_um=self._statistic('in_um'))
    x = (x - self._statistic('mean')) / self._statistic('deviation')
    known = jnp.isfinite(x)
    if train:
      jitter, image, single = jax.random.split(self.make_rng('measures'), 3)
      x = x + _JITTER * jax.random.normal(jitter, x.shape)
      known &= ~jax.random.bernoulli(image, _DROPPED, (len(x), 1))
      known &= ~jax.random.bernoulli(single, _DROPPED, x.shape)
    x = jnp.concatenate([jnp.where(known, x, 0.0), known], axis=1)
    x = nn.relu(nn.Dense(_UNITS, dtype=jnp.float32)(x))
    return nn.Dense(
      self.embedding_dim,
      use_bias=False,
      dtype=jnp.float32,
      kernel_init=nn.initializers.variance_scaling(
        _UNITS / (_UNITS + self.pooled), 'fan_in', 'truncated_normal'
      ),
    )(x)

  def _statistic(self, name: str) -> Any:
    """Reads one of `statistics`, which training never changes."""
    count = len(columns(self.size, self.others)) - self.size
    fresh = {
      'mean': lambda: jnp.zeros(count),
      'deviation': lambda: jnp.ones(count),
      'in_um': lambda: jnp.zeros((), bool),
    }
    return self.variable('batch_stats', name, fresh[name]).value
