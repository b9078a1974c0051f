"""Trains us and pytorch-metric-learning on a folder: one table of measures.

  python -m benchmarks.quality --path=FOLDER [--unseen=NAMES] [--seeds=3] \
    [--contestants=NAMES] [--ours='NAME=configs/FILE.py field=value ...'] \
    [--out=runs/quality] [--peer_python=PATH]

Killed and run again it goes on where it was. docs/quality.md says how to read
the table, which also lands in quality.csv in --out.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from analysis.files import tables
from benchmarks import cells, contest, recipes
from benchmarks.recipes import Recipe
from plankton_jax.cli import host
from plankton_jax.errors import InputError


class Contestant(NamedTuple):
  """Who trains, and with what."""

  recipe: Recipe
  peer: bool = False


# What PyTorch's users begin with; nothing of it follows our own defaults.
PEERS_SETTINGS = {
  'data.resize': 'stretch',
  'batch.size': 128,
  'batch.classes': 0,
  'batch.per_class': 0,
  'batch.sampling': 'images',
  'augment.flip': True,  # with quarter turns
  'augment.rotate': 0.0,
  'augment.scale': 0.0,
  'augment.translate': 0.0,
  'augment.brightness': 0.0,
  'augment.contrast': 0.0,
  'augment.noise': 0.0,
  'encoder.stem': 'quarter',
  'encoder.poses': 1,
  'encoder.centred': False,
  'encoder.embedding_dim': 128,
  'encoder.dtype': 'float32',
  'optimizer.learning_rate': 1.4e-3,
  'optimizer.schedule': 'constant',
  'optimizer.warmup_epochs': 0.0,
  'optimizer.weight_decay': 0.0,
  'optimizer.objective_rate': 1.0,
  'epochs': 35,  # of which the curriculum's stages begin at 10 and 25
}
PEERS_OBJECTIVES = {
  'triplet': {
    'objective.distance': 'squared',
    'objective.margin': 0.5,
    'objective.select': 'nearest',
    'objective.fallback': 'nearest',
    'curriculum': (
      (0, 'easy', 'semihard'),
      (10, 'easy', 'hard'),
      (25, 'hard', 'hard'),
    ),
  },
  'arcface': {
    'objective.margin': 0.5,  # radians, 28.6°
    'objective.scale': 64.0,
    'objective.class_weights': 'none',
  },
  'softmax': {
    'objective.scale': 20.0,  # temperature 0.05
    'objective.class_weights': 'none',
  },
}


def contestants() -> dict[str, Contestant]:
  """The peer, ours with the peer's settings, and ours, of each objective."""
  same = {
    name: Recipe(f'configs/{name}.py', PEERS_SETTINGS | fields)
    for name, fields in PEERS_OBJECTIVES.items()
  }
  return {
    **{f'peer.{name}': Contestant(r, peer=True) for name, r in same.items()},
    **{f'same.{name}': Contestant(r) for name, r in same.items()},
    **{name: Contestant(Recipe(r.file, {})) for name, r in same.items()},
  }


def parse(
  argv: Sequence[str],
) -> tuple[argparse.Namespace, dict[str, Contestant]]:
  """The command line, and the contestants that it chooses, in its order."""
  parser = argparse.ArgumentParser(
    'python -m benchmarks.quality', description=__doc__.splitlines()[0]
  )
  recipes.add_flags(parser, epochs=35, seeds=3, out='runs/quality')
  known = contestants()
  parser.add_argument(
    '--contestants',
    type=lambda text: text.split(','),
    help=f'of {",".join(known)} and those of --ours [all]',
  )
  parser.add_argument(
    '--ours',
    action='append',
    default=[],
    metavar='NAME=configs/FILE.py[:preset] field=value ...',
    help='one more of ours, in place of the one of its name; may be repeated',
  )
  parser.add_argument(
    '--peer_python', default=sys.executable, help="the peers' Python"
  )
  args = parser.parse_args(argv)
  try:
    more = [recipes.parse(text) for text in args.ours]
  except InputError as error:
    parser.error(f'--ours: {error}')
  known |= {name: Contestant(recipe) for name, recipe in more}
  for name in args.contestants or ():
    if name not in known:
      parser.error(f'--contestants: {name!r} is not one of {", ".join(known)}')
  if args.seeds < 1:
    parser.error('--seeds must be at least 1')
  return args, {name: known[name] for name in args.contestants or known}


def specs(
  chosen: dict[str, Contestant], ground: recipes.Ground, *, seeds: int
) -> cells.Specs:
  """What each contestant is trained with, a spec a seed."""
  return {
    name: [
      {'config': recipes.place(who.recipe, ground, seed), 'peer': who.peer}
      for seed in range(seeds)
    ]
    for name, who in chosen.items()
  }


def lines(results: dict[str, list[cells.Result]]) -> list[dict[str, Any]]:
  """Rows of quality.csv: means and halves of their 95 % intervals."""
  table = []
  for name, found in results.items():
    row = {'contestant': name, 'runs': len(found)}
    for measure in (*cells.MEASURES, 'seconds'):
      mean, half = cells.interval(cells.numbers(found, measure))
      row |= {measure: mean, f'{measure} ±': half}
    table.append(row | {'notes': cells.notes(found)})
  return table


def shown(results: dict[str, list[cells.Result]]) -> list[dict[str, str]]:
  """Rows as the terminal shows them."""
  return [
    {
      'contestant': name,
      'runs': len(found),
      **{m: cells.shown(cells.numbers(found, m)) for m in cells.MEASURES},
      'seconds': f'{cells.interval(cells.numbers(found, "seconds"))[0]:.0f}',
      'notes': cells.notes(found),
    }
    for name, found in results.items()
  ]


def main(argv: Sequence[str]) -> None:
  host.use_fast_settings()
  args, chosen = parse(argv)
  try:
    if any(who.peer for who in chosen.values()):
      contest.need(args.peer_python, 'torch, pytorch_metric_learning')
    ground = recipes.ground(args, 'resnet18')
    planned = specs(chosen, ground, seeds=args.seeds)
    finished = lambda: {
      name: [r for spec in own if (r := cells.result(args.out, spec))]
      for name, own in planned.items()
    }
    write = lambda: tables.write_csv(
      args.out / 'quality.csv', lines(finished())
    )
    failed = cells.run(
      args.out, cells.queue(planned), peer_python=args.peer_python, after=write
    )
  except InputError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  tables.show(
    shown(finished()),
    f'ResNet-18 of width {ground.width}, {ground.size} px, {ground.epochs}'
    f' epochs; mean ± 95 % interval over the runs; unseen:'
    f' {", ".join(ground.unseen)}',
  )
  print(f'\n{write()}\n{ground.citation}'.rstrip())
  for reason in failed:
    print(f'failed: {reason}', file=sys.stderr)
  sys.exit(bool(failed))


if __name__ == '__main__':
  main(sys.argv[1:])
