"""What is trained on: a config, its overrides, and the ground of a table."""

import argparse
import ast
import importlib.util
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from plankton_jax.config_file import Config
from plankton_jax.data import classes
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]


class Ground(NamedTuple):
  """What every contestant of a table shares."""

  path: str  # one folder a class
  unseen: tuple[str, ...]
  citation: str
  size: int  # px
  encoder: str
  width: int
  epochs: int


class Recipe(NamedTuple):
  """A config file with its preset, and overrides by dotted name."""

  file: str
  overrides: Mapping[str, Any]

  def config(self) -> ConfigDict:
    """The config that they give.

    Raises:
      InputError: no such file, an unknown field, or a value that it refuses.
    """
    name, _, preset = self.file.partition(':')
    found = _module(name).get_config(*filter(None, [preset]))
    found.lock()
    try:
      found.update_from_flattened_dict(self.overrides)
    except (KeyError, TypeError) as error:
      raise InputError(f'{self.file}: {error.args[0]}') from None
    return found


def parse(text: str) -> tuple[str, Recipe]:
  """`NAME=FILE[:preset] field=value …` as a name and its recipe.

  Values are Python literals without spaces; what is none is a string.

  Raises:
    InputError: text of another form.
  """
  first, *rest = text.split() or ['']
  pairs = [part.partition('=') for part in (first, *rest)]
  if not all(name and equals and value for name, equals, value in pairs):
    raise InputError(f'{text!r} is not NAME=configs/FILE.py field=value ...')
  (name, _, file), *fields = pairs
  return name, Recipe(file, {field: _value(text) for field, _, text in fields})


def place(recipe: Recipe, ground: Ground, seed: int) -> Config:
  """The recipe's config on a table's ground, a plain dict.

  The curriculum's stages begin at the same shares of the run as in the
  recipe. Every epoch is validated once and none stops the run early, so that
  all contestants choose among as many checkpoints. The seed draws the images'
  split, weights, batches and augmentation, but not the unseen classes.
  """
  config = recipe.config()
  config.curriculum = _stretched(
    config.curriculum, ground.epochs / config.epochs
  )
  config.update_from_flattened_dict(
    {
      'seed': seed,
      'epochs': ground.epochs,
      'validations_per_epoch': 1,
      'early_stop_validations': 0,
      'citation': ground.citation,
      'data.source': 'folder',
      'data.path': str(pathlib.Path(ground.path).resolve()),
      'data.size': ground.size,
      'data.unseen_classes': ground.unseen,
      'encoder.name': ground.encoder,
      'encoder.width': ground.width,
    }
  )
  return config.to_dict()


def add_flags(
  parser: argparse.ArgumentParser, *, epochs: int, seeds: int, out: str
) -> None:
  """The flags that tables share, with the defaults that they do not."""
  add = parser.add_argument
  add('--path', required=True, help='folder of images, one folder a class')
  add(
    '--unseen',
    default='3',
    help='unseen classes: names with commas, or a count',
  )
  add('--split_seed', type=int, default=0, help='draws the unseen classes')
  add('--citation', default='', help="the images' source")
  add('--size', type=int, default=64, help='side of the images, px')
  add('--width', type=int, default=16, help="the encoder's first features")
  add('--epochs', type=int, default=epochs, help=f'[{epochs}]')
  add('--seeds', type=int, default=seeds, help=f'how many, from 0 [{seeds}]')
  add('--out', type=pathlib.Path, default=out, help=f'folder [{out}]')


def ground(args: argparse.Namespace, encoder: str) -> Ground:
  """The ground that the shared flags name.

  Raises:
    InputError: a folder or a class that is not there.
  """
  unseen = int(args.unseen) if args.unseen.isdigit() else args.unseen.split(',')
  names, seen = classes.order(
    folder.scan_classes(args.path).class_names, unseen, args.split_seed
  )
  return Ground(
    path=args.path,
    unseen=names[seen:],
    citation=args.citation,
    size=args.size,
    encoder=encoder,
    width=args.width,
    epochs=args.epochs,
  )


def _module(name: str):
  path = ROOT / name
  if not path.is_file():
    raise InputError(f'{name}: no such config file')
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _value(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def _stretched(
  stages: Sequence[tuple[int, str, str]], factor: float
) -> tuple[tuple[int, str, str], ...]:
  """Stages of a run `factor` times as long; one without an epoch is gone."""
  begun = {round(first * factor): row for first, *row in reversed(stages)}
  return tuple((first, *begun[first]) for first in sorted(begun))
