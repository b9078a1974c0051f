"""Trains us and pytorch-metric-learning on a folder: one table of measures.

  python -m benchmarks.quality --path=FOLDER [--unseen=NAMES] [--seeds=3] \
    [--contestants=NAMES] [--ours='NAME=configs/FILE.py field=value ...'] \
    [--peer='NAME=configs/FILE.py field=value ...'] [--out=runs/quality] \
    [--peer_python=PATH]

Run again after a kill, it goes on where it stopped. docs/quality.md says how to
read the table, which is also written to quality.csv in --out.
"""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from analysis.files import tables
from benchmarks import cells, contest, recipes
from benchmarks.recipes import Recipe
from plankton_jax.errors import InputError


class Contestant(NamedTuple):
  """A contestant and its settings."""

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
  'encoder.whitening': 0.0,
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


# What else the peer can minimise, and the fields that it heeds.
PEERS_LOSSES = (*PEERS_OBJECTIVES, 'supcon', 'multi_similarity')
PEERS_FIELDS = (
  *('objective.margin', 'objective.scale', 'objective.select'),
  *('objective.temperature', 'objective.alpha', 'objective.beta'),
  *('objective.base', 'objective.epsilon'),
  *('batch.size', 'batch.classes', 'batch.sampling', 'batch.views'),
  *('augment.rotate', 'augment.scale', 'augment.translate'),
  *('augment.brightness', 'augment.contrast', 'curriculum'),
  *('encoder.poses', 'encoder.centred', 'encoder.embedding_dim'),
  *('optimizer.learning_rate', 'optimizer.schedule', 'optimizer.weight_decay'),
)


# What a user of the peer adds who waits for quality: as long a schedule as the
# table has epochs, and two views of each image.
PEERS_BEST = {
  'batch.views': 2,
  'optimizer.schedule': 'cosine',
  'optimizer.weight_decay': 0.05,
}


def contestants() -> dict[str, Contestant]:
  """Lists the peer, ours with its settings, and ours, for each objective.

  `peer.best` is the peer's softmax, its best objective on unseen classes, with
  what ours have beside: views, a schedule, weight decay.
  """
  same = {
    name: Recipe(f'configs/{name}.py', PEERS_SETTINGS | fields)
    for name, fields in PEERS_OBJECTIVES.items()
  }
  return {
    **{f'peer.{name}': Contestant(r, peer=True) for name, r in same.items()},
    'peer.best': Contestant(
      Recipe(same['softmax'].file, {**same['softmax'].overrides, **PEERS_BEST}),
      peer=True,
    ),
    **{f'same.{name}': Contestant(r) for name, r in same.items()},
    **{name: Contestant(Recipe(r.file, {})) for name, r in same.items()},
  }


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  recipes.define(values, epochs=35, seeds=3, out='runs/quality')
  flags.DEFINE_list(
    'contestants',
    None,
    f'Of {",".join(contestants())} and those of --ours; all by default.',
    flag_values=values,
  )
  flags.DEFINE_multi_string(
    'ours',
    [],
    'NAME=configs/FILE.py[:preset] field=value ...: one more of ours, in place'
    ' of the one of its name.',
    flag_values=values,
  )
  flags.DEFINE_multi_string(
    'peer',
    [],
    "NAME=configs/FILE.py field=value ...: one more of the peer's, with the"
    f" file's objective; fields are {', '.join(PEERS_FIELDS)}.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    'draws',
    1,
    'Draws of the unseen classes, from --split_seed on; each has --seeds runs.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_string(
    'peer_python', sys.executable, "The peers' Python.", flag_values=values
  )


def parse(
  values: flags.FlagValues,
) -> tuple[recipes.Options, dict[str, Contestant]]:
  """Reads the flags: the shared options, and the chosen contestants in order.

  Raises:
    InputError: a contestant that does not exist, or as `recipes.options`.
  """
  known = contestants()
  for flag in ('ours', 'peer'):
    for text in values[flag].value or ():
      try:
        name, recipe = recipes.parse(text)
        known[name] = Contestant(recipe) if flag == 'ours' else _peer(recipe)
      except InputError as error:
        raise InputError(f'--{flag}: {error}') from None
  for name in values.contestants or ():
    if name not in known:
      raise InputError(
        f'--contestants: {name!r} is not one of {", ".join(known)}'
      )
  chosen = values.contestants or known
  return recipes.options(values), {name: known[name] for name in chosen}


def _peer(recipe: Recipe) -> Contestant:
  """Makes a contestant of the peer: its settings, but for the recipe's fields.

  Raises:
    InputError: the peer has no such objective, or heeds no such field.
  """
  for field in recipe.overrides:
    if field not in PEERS_FIELDS:
      raise InputError(f'{field} is not one of {", ".join(PEERS_FIELDS)}')
  settings = Recipe(recipe.file, PEERS_SETTINGS | dict(recipe.overrides))
  objective = settings.config().objective.name
  if objective not in PEERS_LOSSES:
    raise InputError(
      f"{recipe.file}: the peer's objective is one of"
      f' {", ".join(PEERS_LOSSES)}, not {objective}'
    )
  return Contestant(settings, peer=True)


def grounds(options: recipes.Options, draws: int) -> list[recipes.Ground]:
  """Draws the unseen classes so many times; all else stays.

  Raises:
    InputError: there are to be several draws, but the classes are named.
  """
  if draws > 1 and not options.unseen.isdigit():
    raise InputError(
      f'--draws={draws} takes --unseen=COUNT, not the names of classes'
    )
  first = options.split_seed
  return [
    recipes.ground(options._replace(split_seed=seed), 'resnet18')
    for seed in range(first, first + draws)
  ]


def specs(
  chosen: dict[str, Contestant], drawn: Sequence[recipes.Ground], *, seeds: int
) -> cells.Specs:
  """Builds the training specs of each contestant: each ground, each seed."""
  return {
    name: [
      {'config': recipes.place(who.recipe, ground, seed), 'peer': who.peer}
      for ground in drawn
      for seed in range(seeds)
    ]
    for name, who in chosen.items()
  }


def lines(results: dict[str, list[cells.Result]]) -> list[dict[str, Any]]:
  """Makes the rows of quality.csv: means and half their 95 % intervals."""
  table = []
  for name, found in results.items():
    row = {'contestant': name, 'runs': len(found)}
    for measure in (*cells.MEASURES, 'seconds'):
      mean, half = cells.interval(cells.numbers(found, measure))
      row |= {measure: mean, f'{measure} ±': half}
    table.append(row | {'notes': cells.notes(found)})
  return table


def shown(results: dict[str, list[cells.Result]]) -> list[dict[str, Any]]:
  """Formats rows for the terminal."""
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


def main(values: flags.FlagValues) -> int:
  """Trains what is not finished, prints the table; 1 if a run failed."""
  options, chosen = parse(values)
  if any(who.peer for who in chosen.values()):
    contest.need(values.peer_python, 'torch, pytorch_metric_learning')
  drawn = grounds(options, values.draws)
  ground = drawn[0]
  planned = specs(chosen, drawn, seeds=options.seeds)
  finished = lambda: {
    name: [r for spec in own if (r := cells.result(options.out, spec))]
    for name, own in planned.items()
  }
  write = lambda: tables.write_csv(
    options.out / 'quality.csv', lines(finished())
  )
  failed = cells.run(
    options.out,
    cells.queue(planned),
    peer_python=values.peer_python,
    after=write,
  )
  tables.show(
    shown(finished()),
    f'ResNet-18 of width {ground.width}, {ground.size} px, {ground.epochs}'
    f' epochs; mean ± 95 % interval over the runs; unseen:'
    f' {"; ".join(", ".join(found.unseen) for found in drawn)}',
  )
  print(f'\n{write()}\n{ground.citation}'.rstrip())
  for reason in failed:
    print(f'failed: {reason}', file=sys.stderr)
  return int(bool(failed))


if __name__ == '__main__':
  define(flags.FLAGS)
  flags.adopt_module_key_flags(recipes)
  recipes.run(main)
