"""Weighs the images of each class in the loss, for unbalanced classes."""

import numpy as np

from plankton_jax.errors import InputError

CLASS_WEIGHTS = ('none', 'inverse', 'sqrt_inverse', 'effective')
BETA = 0.999  # of the effective number; beyond 1000 images all weigh the same


def class_weights(name: str, counts: np.ndarray) -> np.ndarray | None:
  """Computes a weight for each class, [N] float32, or None for 'none'.

  'inverse' is 1/n of a class's training images n, 'sqrt_inverse' 1/√n, and
  'effective' one over their effective number (1 - β^n) / (1 - β), β = 0.999:
  Cui, Jia, Lin, Song and Belongie 2019, arXiv:1901.05555, proposition 1.
  Weights are scaled to a mean of 1 over the training images, so that the loss
  keeps its size.

  Raises:
    InputError: the name is unknown.
  """
  if name not in CLASS_WEIGHTS:
    raise InputError(
      f'objective.class_weights={name!r} is not one of {CLASS_WEIGHTS}'
    )
  if name == 'none':
    return None
  counts = np.asarray(counts, np.float64)
  n = np.maximum(counts, 1)
  if name == 'effective':
    weights = (1 - BETA) / (1 - BETA**n)
  else:
    weights = n ** (-1.0 if name == 'inverse' else -0.5)
  return (weights * counts.sum() / (weights @ counts)).astype(np.float32)
