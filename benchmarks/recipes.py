"""Makes the configs to train: a file, its overrides, a table's ground."""

import ast
import functools
import importlib.util
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from plankton_jax.cli import command
from plankton_jax.data import classes
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError
from plankton_jax.files.config_file import Config
from plankton_jax.nn import transfer

ROOT = pathlib.Path(__file__).parents[1]


class Ground(NamedTuple):
  """The data and settings that every contestant of a table shares."""

  path: str  # one folder a class
  unseen: tuple[str, ...]
  citation: str
  size: int  # px
  encoder: str
  width: int
  epochs: int


class Options(NamedTuple):
  """The flags that tables share; `define` says what each means."""

  path: str
  unseen: str
  split_seed: int
  citation: str
  size: int
  width: int
  epochs: int
  seeds: int
  out: pathlib.Path


class Recipe(NamedTuple):
  """A config file with its preset, and overrides by dotted name."""

  file: str
  overrides: Mapping[str, Any]

  def config(self) -> ConfigDict:
    """Builds the config.

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
  """Parses `NAME=FILE[:preset] field=value …` to a name and its recipe.

  Values are Python literals without spaces, or else strings.

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
  """Puts the recipe's config on a table's ground, as a plain dict.

  The curriculum's stages begin at the same shares of the run as in the
  recipe. Every epoch is validated once and none stops the run early, so that
  all contestants choose among as many checkpoints. The seed draws the images'
  split, weights, batches and augmentation, but not the unseen classes.

  Raises:
    InputError: the recipe begins from an encoder of another network, or from
      one that was trained on an unseen class.
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
  placed = config.to_dict()
  transfer.check(placed)
  begun = placed['encoder']['pretrained']
  seen = transfer.common(transfer.seen_classes(begun), ground.unseen)
  if seen:
    raise InputError(
      f'{recipe.file}: encoder.pretrained={begun} was trained on'
      f' {", ".join(seen)}, which the table calls unseen; begin from one that'
      ' benchmarks.starting_encoder trained with --leave_out of them'
    )
  return placed


def define(
  values: flags.FlagValues, *, epochs: int, seeds: int, out: str
) -> None:
  """Defines the flags that tables share, with the defaults that they do not."""
  string = functools.partial(flags.DEFINE_string, flag_values=values)
  integer = functools.partial(flags.DEFINE_integer, flag_values=values)
  string('path', None, 'Folder of images, one folder a class.')
  string('unseen', '3', 'Unseen classes: names with commas, or a count.')
  integer('split_seed', 0, 'Draws the unseen classes.')
  string('citation', '', "The images' source.")
  integer('size', 64, 'Side of the images, px.')
  integer('width', 16, "The encoder's first features.")
  integer('epochs', epochs, 'Length of every run.')
  integer('seeds', seeds, 'How many runs of each, seeded from 0.')
  string('out', out, 'Folder of the results.')


def run(main: Callable[[flags.FlagValues], int | None]) -> None:
  """Runs a table's command, once its flags are defined."""
  command.run(
    lambda argv: main(flags.FLAGS),
    fast=True,
    interrupted='interrupted; the same command goes on where it was',
  )


def options(values: flags.FlagValues) -> Options:
  """Reads the flags of `define`.

  Raises:
    InputError: no path, or no seed.
  """
  if not values.path:
    raise InputError(
      '--path is missing: a folder of images, one folder a class'
    )
  if values.seeds < 1:
    raise InputError('--seeds must be at least 1')
  read: dict[str, Any] = {name: values[name].value for name in Options._fields}
  return Options(**read | {'out': pathlib.Path(values.out)})


def ground(options: Options, encoder: str) -> Ground:
  """Finds the classes that the options name.

  Raises:
    InputError: a folder or a class that is not there.
  """
  unseen = options.unseen
  names, seen = classes.order(
    folder.scan_classes(options.path).images.class_names,
    int(unseen) if unseen.isdigit() else unseen.split(','),
    options.split_seed,
  )
  return Ground(
    path=options.path,
    unseen=names[seen:],
    citation=options.citation,
    size=options.size,
    encoder=encoder,
    width=options.width,
    epochs=options.epochs,
  )


def _module(name: str):
  path = ROOT / name
  spec = importlib.util.spec_from_file_location(path.stem, path)
  if not (path.is_file() and spec and spec.loader):  # none loads another kind
    raise InputError(f'{name}: no such config file')
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
  """Stretches stages by `factor`; drops those left without an epoch."""
  begun = {round(row[0] * factor): row[1:] for row in reversed(stages)}
  return tuple((first, *begun[first]) for first in sorted(begun))
