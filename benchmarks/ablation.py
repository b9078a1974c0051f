"""Trains the variants of ablation_plan.py on a folder, a table for each idea.

  python -m benchmarks.ablation --path=FOLDER [--tables=mining,margin] \
    [--unseen=10] [--seeds=2] [--out=runs/ablation]

Run again after a kill, it goes on where it stopped. docs/ablation.md is made of
the tables that it writes to ablation.md in --out; --show writes those of the
finished runs and trains nothing.
"""

import pathlib
import shlex
import sys
from collections.abc import Sequence

from absl import flags

from benchmarks import cells, recipes
from benchmarks.ablation_plan import TABLES, Configs, Table
from plankton_jax.cli import command
from plankton_jax.errors import InputError
from plankton_jax.files import atomic

COLUMNS = (
  'unseen MAP@R',
  'unseen SVC n=30',
  'test MAP@R',
  'test macro MAP@R',
)
GAIN = 'gain in unseen MAP@R'


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


def main(argv: Sequence[str], *, values: flags.FlagValues = flags.FLAGS) -> int:
  """Trains what is not finished, prints the tables; 1 if a run failed."""
  del argv  # flags only
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
  command.run(
    main,
    fast=True,
    interrupted='interrupted; the same command goes on where it was',
  )
