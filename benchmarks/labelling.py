"""Counts the decisions by which a simulated person labels a run's images.

  python -m benchmarks.labelling --workdir=DIR [--piles=test,unseen] [--seeds=3]
  python -m benchmarks.labelling --encoder=plankton --images=FOLDER

The second begins without any class, on a folder of class folders; --images
replaces the piles of a --workdir, too. `persons` says what a person does and
what counts as a decision.
"""

import logging
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.figures.style import plt
from analysis.files import inputs, pile, result
from analysis.files.inputs import Embeddings, Source
from analysis.files.result import Drawing, Result, Shown
from analysis.review import prepare
from benchmarks import cells, persons
from benchmarks.persons import Person, Task
from plankton_jax import host
from plankton_jax.cli import command
from plankton_jax.errors import InputError

SHARES = (0.5, 0.8, 0.9, 0.95)  # of all images, in the table
SHOWN = {  # measures in the terminal, and their decimals
  'decisions to 50%': 0,
  'decisions to 80%': 0,
  'decisions to 90%': 0,
  'precision at 90%': 3,
  'right a decision to 90%': 1,
}


class Curve(NamedTuple):
  """Counts the images that are labelled after each decision."""

  keys: np.ndarray  # [T] decisions until then
  labelled: np.ndarray  # [T]
  right: np.ndarray  # [T]


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  flags.DEFINE_string('workdir', None, 'An embedded run.', flag_values=values)
  flags.DEFINE_string(
    'encoder', None, 'An encoder in place of a run.', flag_values=values
  )
  flags.DEFINE_string(
    'images', None, 'Class folders in place of piles.', flag_values=values
  )
  flags.DEFINE_list(
    'piles', ['test', 'unseen'], 'Splits, each labelled.', flag_values=values
  )
  flags.DEFINE_integer('seeds', 3, 'Simulated persons.', flag_values=values)
  flags.DEFINE_string(
    'out', None, 'Folder [workdir/analysis/labelling].', flag_values=values
  )


def curve(task: Task, way: str, seed: int) -> Curve:
  """Labels all images in one way."""
  truth = task.truth
  label = np.full(len(truth), '', object)
  keys, right, labelled = [0], [0], [0]
  for cost, rows, name in persons.WAYS[way](task, Person(truth, seed)):
    label[rows] = name
    keys.append(keys[-1] + cost)
    right.append(right[-1] + int(np.sum(truth[rows] == name)))
    labelled.append(labelled[-1] + len(rows))
  assert (label != '').all()
  return Curve(np.array(keys), np.array(labelled), np.array(right))


def reached(one: Curve, share: float) -> tuple[float, float]:
  """Returns the decisions to a share of all rightly labelled, and precision.

  NaN where it is never reached.
  """
  wanted = share * one.labelled[-1]
  if one.right[-1] < wanted:
    return np.nan, np.nan
  at = int(np.searchsorted(one.right, wanted))
  return float(one.keys[at]), float(one.right[at] / one.labelled[at])


def measures(one: Curve) -> dict[str, float]:
  """Measures a curve: decisions, and what they gave, to SHARES of all images.

  NaN where a share is never reached.
  """
  found = {}
  for share in SHARES:
    keys, precision = reached(one, share)
    found[f'decisions to {share:.0%}'] = keys
    if share in (SHARES[0], 0.9):
      found[f'right a decision to {share:.0%}'] = (
        share * one.labelled[-1] / keys
      )
      found[f'precision at {share:.0%}'] = precision
  return found


def summary(
  pile: str, way: str, curves: Sequence[Curve]
) -> tuple[dict[str, Any], dict[str, str]]:
  """Makes a way's lines of labelling.csv and of the terminal.

  Means over persons and half their 95 % intervals; NaN where one of the
  persons never reaches a share.
  """
  line: dict[str, Any] = {'pile': pile, 'way': way, 'persons': len(curves)}
  text = {'pile': pile, 'way': way}
  each = [measures(one) for one in curves]
  for name in each[0]:
    values = [found[name] for found in each]
    if np.isnan(values).any():
      values = []
    line[name], line[f'{name} ±'] = cells.interval(values)
    if name in SHOWN:
      text[name] = cells.shown(values, digits=SHOWN[name])
  return line, text


def draw(found: dict[str, dict[str, list[Curve]]], run: str) -> plt.Figure:
  """Draws images rightly labelled against decisions, a panel a pile."""
  figure, axes = plt.subplots(
    1, len(found), figsize=(4.6 * len(found), 4.0), squeeze=False,
    layout='constrained',
  )  # fmt: skip
  for ax, (name, ways) in zip(axes[0], found.items(), strict=True):
    for i, (way, curves) in enumerate(ways.items()):
      for k, one in enumerate(curves):
        ax.plot(one.keys, one.right, color=f'C{i}', lw=1.3, alpha=0.8,
                label=way if k == 0 else None)  # fmt: skip
    total = next(iter(ways.values()))[0].labelled[-1]
    ax.axhline(0.9 * total, color='0.6', ls=':', lw=1)
    ax.set_title(f'{run}, {name}: {total:,} images', parse_math=False)
    ax.set_xlabel('decisions (clicks and keys)')
    ax.set_xlim(0, None)
    ax.set_ylim(0, 1.03 * total)
  axes[0, 0].set_ylabel('images rightly labelled')
  axes[0, -1].legend(loc='lower right', title='dotted: 90 %')
  return figure


def of_splits(source: Source, splits: Sequence[str]) -> Embeddings:
  """Gathers the labelled images of some splits.

  Raises:
    InputError: a split is missing or holds no labelled image.
  """
  parts = {}
  for name in splits:
    rows, notes = inputs.labelled(source, name)
    if rows is None:
      raise InputError(notes[0])
    parts[name] = rows
  return inputs.numbered(inputs.together(source.name, parts))


def of_folder(source: Source, path: str) -> Embeddings:
  """Embeds the labelled images of class folders.

  Raises:
    InputError: there is no such folder, or no labelled image in it.
  """
  rows = pile.gather(source, images=path, splits=()).rows
  rows = inputs.take(rows, np.flatnonzero(rows.label >= 0))
  if not len(rows.id):
    raise InputError(f'{path}: no image is in a class folder')
  return rows


def analyse(
  source: Source,
  piles: Sequence[str],
  seeds: int,
  images: str | None = None,
) -> Result:
  """Labels each pile in every way by `seeds` persons.

  A pile is a split, or several joined by +; or else there are `images`, a
  folder of class folders. An encoder without a run begins without classes.

  Raises:
    InputError: there is no labelled image.
  """
  given = (
    {pathlib.Path(images).name: of_folder(source, images)}
    if images
    else {name: of_splits(source, name.split('+')) for name in piles}
  )
  size = next(iter(given.values())).embedding.shape[1]
  known = prepare.known_classes(source, size, 0.95)
  found: dict[str, dict[str, list[Curve]]] = {}
  for name, rows in given.items():
    made = persons.task(rows, known)
    found[name] = {
      way: [curve(made, way, seed) for seed in range(seeds)]
      for way in persons.WAYS
    }
  summaries = [
    summary(name, way, curves)
    for name, ways in found.items()
    for way, curves in ways.items()
  ]
  lines = [line for line, _ in summaries]
  points = [
    {'pile': name, 'way': way, 'seed': seed, 'decisions': k, 'labelled': n,
     'right': r}
    for name, ways in found.items()
    for way, curves in ways.items()
    for seed, one in enumerate(curves)
    for k, n, r in zip(*(part.tolist() for part in one), strict=True)
  ]  # fmt: skip
  return Result(
    shown=[
      Shown(
        'labelling: decisions of a simulated person; mean ± 95 % interval over'
        f' {seeds} persons',
        [text for _, text in summaries],
      )
    ],
    tables={'labelling.csv': lines, 'curves.csv': points},
    figures={
      'labelling': Drawing(
        lambda: draw(found, source.name), inputs.citations([source])
      )
    },
    announced={'labelling.csv': '', 'labelling.png': ''},
  )


def main(values: flags.FlagValues) -> None:
  """Runs the command."""
  host.show_log(logging.WARNING)
  if bool(values.workdir) == bool(values.encoder):
    raise InputError(
      'give --workdir=DIR, an embedded run, or --encoder with --images'
    )
  if values.encoder and not values.images:
    raise InputError('--images is missing: class folders for --encoder')
  if values.seeds < 1:
    raise InputError(f'--seeds={values.seeds}: give 1 or more')
  if values.workdir:
    workdir = pathlib.Path(values.workdir)
    (source,) = inputs.from_workdirs([workdir])
  else:
    source = inputs.from_encoder(values.encoder)
    workdir = pathlib.Path('runs', source.name)
  found = analyse(source, values.piles, values.seeds, values.images)
  out = pathlib.Path(values.out or workdir / 'analysis' / 'labelling')
  result.show('labelling', found)
  result.write(found, out)


if __name__ == '__main__':
  define(flags.FLAGS)
  command.run(lambda argv: main(flags.FLAGS))
