"""Lists the tables of the ablation, which vary one field or idea at a time.

The first variant of a table is the default that the others have to beat.
Curricula are for runs of 35 epochs; shorter runs shrink them.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from benchmarks.recipes import Recipe


class Table(NamedTuple):
  """Variants of one config file, each with its overrides."""

  title: str
  file: str
  variants: Mapping[str, Mapping[str, Any]]
  shared: Mapping[str, Any] = MappingProxyType({})

  def recipes(self) -> dict[str, Recipe]:
    return {
      name: Recipe(self.file, {**self.shared, **overrides})
      for name, overrides in self.variants.items()
    }


class Configs(NamedTuple):
  """Whole configs side by side."""

  title: str
  files: tuple[str, ...]

  def recipes(self) -> dict[str, Recipe]:
    return {file: Recipe(file, {}) for file in self.files}


TRIPLET, ARCFACE = 'configs/triplet.py', 'configs/arcface.py'


def _one(positive, negative):
  return {'curriculum': ((0, positive, negative),)}


def _each(field, *values):
  """Lists the config's own value, then other values of one field."""
  return {'default': {}} | {f'{v}': {field: v} for v in values}


# ArcFace's tables vary this config.
_PLAIN = {
  'batch.size': 64,
  'batch.sampling': 'images',
  'augment.scale': 0.1,
  'augment.translate': 0.05,
  'augment.brightness': 0.0,
  'augment.contrast': 0.1,
  'encoder.embedding_dim': 128,
  'optimizer.weight_decay': 0.0,
}
_SHUFFLED = {'batch.classes': 0}
_ROTATED = {'augment.scale': 0.0, 'augment.translate': 0.0}
_FLIPPED = _ROTATED | {'augment.rotate': 0.0, 'augment.contrast': 0.0}

TABLES = {
  'mining': Table(
    'Mining policy (positive+negative)',
    TRIPLET,
    {
      'default: easy+semihard, hard+semihard from 25': {},
      'easy+semihard, hard+semihard from 10': {
        'curriculum': ((0, 'easy', 'semihard'), (10, 'hard', 'semihard'))
      },
      'easy+semihard, easy+hard from 10, hard+hard from 25': {
        'curriculum': (
          (0, 'easy', 'semihard'),
          (10, 'easy', 'hard'),
          (25, 'hard', 'hard'),
        )
      },
      'easy+semihard': _one('easy', 'semihard'),
      'easy+hard': _one('easy', 'hard'),
      'hard+hard': _one('hard', 'hard'),
      'hard+semihard': _one('hard', 'semihard'),
    },
  ),
  'select': Table(
    'Which of the negatives that meet the policy',
    TRIPLET,
    _each('objective.select', 'random', 'all'),
  ),
  'fallback': Table(
    'An anchor without a negative that meets the policy',
    TRIPLET,
    _each('objective.fallback', 'none'),
  ),
  'margin': Table(
    'Margin of the triplet loss (default 0.5)',
    TRIPLET,
    _each('objective.margin', 0.1, 0.2, 0.3, 0.7),
  ),
  'distance': Table(
    'Squared or plain distances (default: squared, margin 0.5)',
    TRIPLET,
    {'default': {}}
    | {
      f'euclidean, margin {margin}': {
        'objective.distance': 'euclidean',
        'objective.margin': margin,
      }
      for margin in (0.2, 0.5)
    },
  ),
  'batches': Table(
    'Batches of all images alike, or of P classes times K images',
    TRIPLET,
    {
      'default: 8 x 4': {},
      '16 x 2': {'batch.classes': 16},
      '4 x 8': {'batch.classes': 4},
      'classes alike': _SHUFFLED | {'batch.sampling': 'uniform'},
      'shuffled': _SHUFFLED,
      'shuffled, 64': _SHUFFLED | {'batch.size': 64},
    },
  ),
  'ground': Table(
    'ArcFace: from plain batches, one step at a time',
    ARCFACE,
    {
      'stretched, batches of 64, 1.4e-3, cosine': {},
      'padded': {'data.resize': 'pad'},
      'batches of 32': {'batch.size': 32},
      'batches of 128': {'batch.size': 128},
      '1.4e-3, constant': {'optimizer.schedule': 'constant'},
      '5e-4, cosine': {'optimizer.learning_rate': 5e-4},
      'eight poses': {'encoder.poses': 8},
      'weight decay 0.05': {'optimizer.weight_decay': 0.05},
      '32, classes alike, 256 dimensions, weight decay 0.05': {
        'batch.size': 32,
        'batch.sampling': 'uniform',
        'encoder.embedding_dim': 256,
        'optimizer.weight_decay': 0.05,
      },
    },
    _PLAIN,
  ),
  'arcface': Table(
    'ArcFace: margin, radians, and scale',
    ARCFACE,
    {'default: 0.2, 10': {}}
    | {
      f'{margin}, {scale}': {
        'objective.margin': margin,
        'objective.scale': scale,
      }
      for margin, scale in (
        (0.1, 10.0),
        (0.5, 10.0),
        (0.2, 20.0),
        (0.2, 64.0),
        (0.5, 64.0),
      )
    },
    _PLAIN,
  ),
  'dim': Table(
    'ArcFace: length of the embedding',
    ARCFACE,
    {'128': {}}
    | {f'{dim}': {'encoder.embedding_dim': dim} for dim in (16, 32, 64, 256)},
    _PLAIN,
  ),
  'augment': Table(
    'ArcFace: augmentation',
    ARCFACE,
    {
      'default': {},
      'none': _FLIPPED | {'augment.flip': False},
      'flips and quarter turns': _FLIPPED,
      'flips, any angle, contrast': _ROTATED,
      'stronger': {
        'augment.scale': 0.3,
        'augment.translate': 0.1,
        'augment.contrast': 0.3,
        'augment.brightness': 0.1,
      },
    },
    _PLAIN,
  ),
  'imbalance': Table(
    'ArcFace: images drawn alike, or classes by size; class weights',
    ARCFACE,
    {
      'images alike': {},
      'sqrt': {'batch.sampling': 'sqrt'},
      'uniform': {'batch.sampling': 'uniform'},
    }
    | {
      f'weights {name}': {'objective.class_weights': name}
      for name in ('sqrt_inverse', 'inverse', 'effective')
    },
    _PLAIN,
  ),
  'softmax': Table(
    'Softmax: scale (default 10)',
    'configs/softmax.py',
    _each('objective.scale', 5.0, 20.0, 40.0),
  ),
  'objectives': Configs(
    'Objectives, each by its own config',
    (
      'configs/softmax.py',
      TRIPLET,
      ARCFACE,
      'configs/cosface.py',
      'configs/subcenter.py',
      'configs/supcon.py',
      'configs/proxy_anchor.py',
      'configs/multi_similarity.py',
    ),
  ),
}
