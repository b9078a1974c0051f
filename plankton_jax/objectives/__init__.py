"""Makes the losses that training minimises; `base` declares their interface."""

from collections.abc import Callable
from typing import Any

import numpy as np

from plankton_jax.curriculum import Policy
from plankton_jax.errors import InputError
from plankton_jax.objectives.base import Objective, masked_mean
from plankton_jax.objectives.pairs import multi_similarity, supcon
from plankton_jax.objectives.prototypes import (
  arcface,
  cosface,
  cosines,
  proxy_anchor,
  softmax,
  subcenter_arcface,
)
from plankton_jax.objectives.triplets import triplet

__all__ = [
  'Objective',
  'arcface',
  'cosface',
  'cosines',
  'make',
  'masked_mean',
  'multi_similarity',
  'proxy_anchor',
  'softmax',
  'subcenter_arcface',
  'supcon',
  'triplet',
]

CLASS_WEIGHTS = ('none', 'inverse', 'sqrt_inverse', 'effective')
BETA = 0.999  # of the effective number; beyond 1000 images all weigh the same

_CLASSES = ('num_classes', 'embedding_dim')
# Each with what it needs besides its section of the config.
_OBJECTIVES: dict[str, tuple[Callable[..., Objective], tuple[str, ...]]] = {
  'triplet': (triplet, ('stages',)),
  'arcface': (arcface, _CLASSES),
  'cosface': (cosface, _CLASSES),
  'subcenter_arcface': (subcenter_arcface, _CLASSES),
  'softmax': (softmax, _CLASSES),
  'proxy_anchor': (proxy_anchor, _CLASSES),
  'supcon': (supcon, ()),
  'multi_similarity': (multi_similarity, ()),
}


def make(
  *,
  name: str,
  stages: tuple[Policy, ...],
  num_classes: int,
  embedding_dim: int,
  class_counts: np.ndarray,
  **hparams: Any,
) -> Objective:
  """Makes the objective that a config's `objective` section names.

  Args:
    name: of the objective.
    stages: the curriculum's policies, for an objective that mines.
    num_classes: N.
    embedding_dim: D.
    class_counts: [N] training images of each class, for class weights.
    **hparams: the rest of the section.

  Raises:
    InputError: a name or choice is unknown.
  """
  if name not in _OBJECTIVES:
    raise InputError(
      f'objective.name={name!r} is unknown; choose from'
      f' {", ".join(_OBJECTIVES)}'
    )
  shared: dict[str, Any] = {
    'stages': stages,
    'num_classes': num_classes,
    'embedding_dim': embedding_dim,
  }
  if 'class_weights' in hparams:
    hparams['class_weights'] = class_weights(
      hparams['class_weights'], class_counts
    )
  build, needs = _OBJECTIVES[name]
  return build(**{field: shared[field] for field in needs}, **hparams)


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
