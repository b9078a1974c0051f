"""Trains the variants of ablation_plan.py on a folder: one table an idea.

  python -m benchmarks.ablation --path=FOLDER [--tables=mining,margin] \
    [--unseen=10] [--seeds=2] [--out=runs/ablation]

Killed and run again it goes on where it was. docs/ablation.md is made of the
tables that it writes to ablation.md in --out; --show writes them from what is
finished and trains nothing.
"""

import argparse
import pathlib
import shlex
import sys
from collections.abc import Sequence

from benchmarks import cells, recipes
from benchmarks.ablation_plan import TABLES, Configs, Table
from plankton_jax import atomic
from plankton_jax.cli import host
from plankton_jax.errors import InputError

COLUMNS = (
  'unseen MAP@R',
  'unseen SVC n=30',
  'test MAP@R',
  'test macro MAP@R',
)
GAIN = 'gain in unseen MAP@R'


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """The command line; `tables` becomes a list of names."""
  parser = argparse.ArgumentParser(
    'python -m benchmarks.ablation', description=__doc__.splitlines()[0]
  )
  recipes.add_flags(parser, epochs=16, seeds=2, out='runs/ablation')
  parser.add_argument(
    '--tables',
    type=lambda text: text.split(','),
    default=list(TABLES),
    help=f'of {",".join(TABLES)}',
  )
  parser.add_argument('--encoder', default='resnet10')
  parser.add_argument('--show', action='store_true', help='train nothing')
  args = parser.parse_args(argv)
  for name in args.tables:
    if name not in TABLES:
      parser.error(f'--tables: {name!r} is not one of {", ".join(TABLES)}')
  if args.seeds < 1:
    parser.error('--seeds must be at least 1')
  return args


def specs(
  table: Table | Configs, ground: recipes.Ground, seeds: int
) -> cells.Specs:
  """What a table's variants are trained with."""
  return {
    name: [
      {'config': recipes.place(recipe, ground, seed), 'peer': False}
      for seed in range(seeds)
    ]
    for name, recipe in table.recipes().items()
  }


def markdown(title: str, variants: cells.Specs, out: pathlib.Path) -> str:
  """A table of what is finished; gains are over the first variant.

  A gain is the mean of differences between runs of one seed, which share
  their split, with the interval of that mean.
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


def main(argv: Sequence[str]) -> None:
  host.use_fast_settings()
  args = parse(argv)
  path = args.out / 'ablation.md'
  try:
    ground = recipes.ground(args, args.encoder)
    planned = {n: specs(TABLES[n], ground, args.seeds) for n in args.tables}

    def write():
      made = [
        markdown(TABLES[name].title, variants, args.out)
        for name, variants in planned.items()
      ]
      atomic.text(path, f'{_heading(argv, ground, args)}\n' + '\n'.join(made))

    args.out.mkdir(parents=True, exist_ok=True)
    write()
    failed = []
    if not args.show:
      queue = [
        (f'{table}: {title}', spec)
        for table, variants in planned.items()
        for title, spec in cells.queue(variants)
      ]
      failed = cells.run(args.out, queue, after=write)
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  print(path.read_text())
  for reason in failed:
    print(f'failed: {reason}', file=sys.stderr)
  sys.exit(bool(failed))


def _heading(argv, ground, args) -> str:
  shared = [a for a in argv if not a.startswith(('--path', '--out', '--show'))]
  return '\n'.join(
    [
      '```sh',
      f'python -m benchmarks.ablation --path=FOLDER {shlex.join(shared)}',
      '```',
      '',
      f'{ground.encoder} of width {ground.width}, {ground.size} px,'
      f' {ground.epochs} epochs, seeds 0 to {args.seeds - 1}; unseen classes:'
      f' {", ".join(ground.unseen)}. {ground.citation}'.rstrip(),
      '',
    ]
  )


if __name__ == '__main__':
  main(sys.argv[1:])
