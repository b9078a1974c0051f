"""Trains variants of one field or idea on a folder, a table for each idea.

  python -m benchmarks.ablation --path=FOLDER [--tables=mining,margin] \
    [--unseen=10] [--seeds=2] [--out=runs/ablation]

Run again after a kill, it goes on where it stopped. docs/ablation.md is made of
the tables that it writes to ablation.md in --out; --show writes those of the
finished runs and trains nothing.

The first variant of a table is the default that the others have to beat.
Curricula are for runs of 35 epochs; shorter runs shrink them.
"""

import pathlib
import shlex
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from absl import flags

from benchmarks import cells, recipes
from benchmarks.recipes import Recipe
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

COLUMNS = ('unseen MAP@R', 'unseen SVC n=30', 'test MAP@R', 'test macro MAP@R')
GAIN = 'gain in unseen MAP@R'


class Table(NamedTuple):
  """Variants of one config file, each with its overrides."""

  title: str
  file: str
  variants: Mapping[str, Mapping[str, Any]]
  shared: Mapping[str, Any] = MappingProxyType({})

  def recipes(self) -> dict[str, Recipe]:
    """Makes the recipe of each variant."""
    return {
      name: Recipe(self.file, {**self.shared, **overrides})
      for name, overrides in self.variants.items()
    }


class Configs(NamedTuple):
  """Whole configs side by side."""

  title: str
  files: tuple[str, ...]

  def recipes(self) -> dict[str, Recipe]:
    """Makes a recipe of each file."""
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

TABLES: Mapping[str, Table | Configs] = {
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


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  recipes.define(values, epochs=16, seeds=2, out='runs/ablation')
  flags.DEFINE_list(
    'tables', list(TABLES), 'Which are made.', flag_values=values
  )
  flags.DEFINE_string(
    'encoder', 'resnet10', 'Name of the encoder.', flag_values=values
  )
  flags.DEFINE_bool(
    'show', False, 'Write what is finished, train nothing.', flag_values=values
  )


def parse(values: flags.FlagValues) -> recipes.Options:
  """Reads the shared flags, after checking that the tables exist.

  Raises:
    InputError: a table does not exist, or as in `recipes.options`.
  """
  for name in values.tables:
    if name not in TABLES:
      raise InputError(f'--tables: {name!r} is not one of {", ".join(TABLES)}')
  return recipes.options(values)


def specs(
  table: Table | Configs, ground: recipes.Ground, seeds: int
) -> cells.Specs:
  """Builds the training specs of a table's variants."""
  return {
    name: [
      {'config': recipes.place(recipe, ground, seed), 'peer': False}
      for seed in range(seeds)
    ]
    for name, recipe in table.recipes().items()
  }


def markdown(title: str, variants: cells.Specs, out: pathlib.Path) -> str:
  """Tabulates the finished runs, with gains over the first variant.

  A gain is the mean difference between runs of the same seed, which share their
  split, with the interval of that mean.
  """
  found = {
    name: [cells.result(out, spec) for spec in own]
    for name, own in variants.items()
  }
  base = next(iter(found.values()))
  names = ('variant', 'runs', *COLUMNS, GAIN, '')
  lines = [f'### {title}', '', _row(names), _row(['---'] * len(names))]
  for name, results in found.items():
    done = [r for r in results if r]
    both = [(r, b) for r, b in zip(results, base, strict=True) if r and b]
    ours, theirs = (
      cells.numbers([pair[i] for pair in both], COLUMNS[0]) for i in (0, 1)
    )
    gains = [x - y for x, y in zip(ours, theirs, strict=True)]
    values = [cells.shown(cells.numbers(done, c)) for c in COLUMNS]
    gain = '' if results is base else cells.shown(gains, '+')
    lines.append(_row([name, len(done), *values, gain, cells.notes(done)]))
  return '\n'.join(lines) + '\n'


def _row(fields) -> str:
  return '| ' + ' | '.join(str(field) for field in fields) + ' |'


def main(values: flags.FlagValues) -> int:
  """Trains what is not finished, prints the tables; 1 if a run failed."""
  options = parse(values)
  path = options.out / 'ablation.md'
  ground = recipes.ground(options, values.encoder)
  planned = {
    name: specs(TABLES[name], ground, options.seeds) for name in values.tables
  }

  def write():
    made = [
      markdown(TABLES[name].title, variants, options.out)
      for name, variants in planned.items()
    ]
    atomic.text(
      path, f'{_heading(values, ground, options.seeds)}\n' + '\n'.join(made)
    )

  options.out.mkdir(parents=True, exist_ok=True)
  write()
  failed = []
  if not values.show:
    queue = [
      (f'{table}: {title}', spec)
      for table, variants in planned.items()
      for title, spec in cells.queue(variants)
    ]
    failed = cells.run(options.out, queue, after=write)
  print(path.read_text())
  for reason in failed:
    print(f'failed: {reason}', file=sys.stderr)
  return int(bool(failed))


def _heading(values, ground, seeds) -> str:
  given = [
    values[name].serialize()
    for name in values
    if values[name].present and name not in ('path', 'out', 'show')
  ]
  return '\n'.join(
    [
      '```sh',
      f'python -m benchmarks.ablation --path=FOLDER {shlex.join(given)}',
      '```',
      '',
      f'{ground.encoder} of width {ground.width}, {ground.size} px,'
      f' {ground.epochs} epochs, seeds 0 to {seeds - 1}; unseen classes:'
      f' {", ".join(ground.unseen)}. {ground.citation}'.rstrip(),
      '',
    ]
  )


if __name__ == '__main__':
  define(flags.FLAGS)
  flags.adopt_module_key_flags(recipes)
  recipes.run(main)
