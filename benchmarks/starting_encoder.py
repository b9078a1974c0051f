"""Trains and exports an encoder to start from, with its card.

  python -m benchmarks.starting_encoder --path=FOLDER,FOLDER,... --out=DIR \
    [--leave_out=CLASS,CLASS] [--workdir=runs/starting_encoder] \
    [--fields='epochs=80 batch.views=1'] [--notes=FILE.md]

Each folder has one folder a class; none of them has a class of another's.
--leave_out trains one that may be measured on these classes, by
benchmarks.few_shot. Run again after a kill, it goes on where it stopped.
"""

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from absl import flags

import plankton_jax
from benchmarks import recipes
from configs import base
from plankton_jax import checkpoints, host
from plankton_jax.data.sources import folder
from plankton_jax.errors import InputError
from plankton_jax.export import card
from plankton_jax.files import encoder_folder, home
from plankton_jax.files.config_file import Config
from plankton_jax.train import log, loop

FILE = 'configs/scratch.py'
RECIPE: Mapping[str, Any] = base.PLANKTON_NETWORK | {
  'batch.views': 2,
  'epochs': 20,
  # For classes that it has not seen (docs/pretrained.md).
  'batch.sampling': 'sqrt',
  'encoder.whitening': 0.75,
  'objective.margin': 0.0,
  'objective.scale': 16.0,
  # It is measured on classes that it never saw, so that few images are enough
  # to choose the checkpoint by, and to see that nothing went wrong.
  'data.fractions': (0.9, 0.05, 0.05),
}
LICENSE = 'Apache-2.0'  # of the weights; the images' terms are their source's


class Options(NamedTuple):
  """Holds the flags' values; `define` says what each means."""

  path: list[str]
  leave_out: list[str]
  workdir: pathlib.Path
  out: pathlib.Path
  fields: str
  notes: str


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  flags.DEFINE_list(
    'path', [], 'Folders of images, one folder a class.', flag_values=values
  )
  flags.DEFINE_list(
    'leave_out', [], 'Classes that it must not see.', flag_values=values
  )
  for name, default, meaning in (
    ('workdir', 'runs/starting_encoder', 'Where the run is kept.'),
    ('out', None, 'The folder to export to.'),
    ('fields', '', "field=value ... in place of the recipe's."),
    ('notes', '', 'A file of Markdown to put into the card.'),
  ):
    flags.DEFINE_string(name, default, meaning, flag_values=values)


def parse(values: flags.FlagValues) -> Options:
  """Reads the flags.

  Raises:
    InputError: a folder is not named, --out exists, or there are no notes.
  """
  for name in ('path', 'out'):
    if not values[name].value:
      raise InputError(f'--{name} is missing; see --help')
  workdir, out = map(home.expand, (values.workdir, values.out))
  if out.exists():
    raise InputError(f'{out} exists; choose a new --out')
  if values.notes and not pathlib.Path(values.notes).is_file():
    raise InputError(f'--notes={values.notes}: no such file')
  return Options(
    values.path, values.leave_out, workdir, out, values.fields, values.notes
  )


def gather(paths: Sequence[str], place: pathlib.Path) -> None:
  """Fills a folder with links to the class folders of several.

  Raises:
    InputError: two of them have a class of the same name, or one is not a tree
      of one folder a class.
  """
  wanted: dict[str, pathlib.Path] = {}
  for path in paths:
    images = folder.scan_classes(path, field='--path').images
    for name in sorted({name.split('/')[0] for name in images.class_names}):
      if name in wanted:
        raise InputError(
          f'--path: {wanted[name].parent} and {path} both have a class {name};'
          ' rename one'
        )
      wanted[name] = pathlib.Path(images.place).resolve() / name
  place.mkdir(parents=True, exist_ok=True)
  for link in place.iterdir():
    if link.name not in wanted or link.resolve() != wanted[link.name]:
      raise InputError(f'{place} holds other classes; choose a new --workdir')
  for name, source in wanted.items():
    if not (place / name).is_symlink():
      (place / name).symlink_to(source)


def make_config(
  place: pathlib.Path, leave_out: Sequence[str], fields: str = ''
) -> Config:
  """Makes the run's config: the recipe, other fields, and the images."""
  _, changed = recipes.parse(f'encoder={FILE} {fields}')
  recipe = recipes.Recipe(FILE, {**RECIPE, **changed.overrides})
  images = {
    'data.source': 'folder',
    'data.path': str(place.resolve()),
    'data.class_level': 'path',
    'data.unseen_classes': tuple(leave_out),
    'citation': base.PLANKTONSET,
  }
  config = recipe.config()
  config.update_from_flattened_dict(images)
  return config.to_dict()


def export(options: Options) -> None:
  """Exports a run's best checkpoint, its kernels as float16."""
  encoder = checkpoints.load_encoder(options.workdir)
  encoder.config = encoder_folder.without_paths(encoder.config)
  text = card.write(
    encoder, options.workdir, license=LICENSE, notes=notes(options)
  )
  encoder.save(options.out, card=text, half=True)
  size = (options.out / encoder_folder.WEIGHTS).stat().st_size
  print(f'{options.out}: {size / 1e6:.1f} MB, and README.md, its card')


def notes(options: Options) -> str:
  """Writes the card's sections on the encoder's use, limits and making."""
  rows = log.read(options.workdir / 'metrics.jsonl').by_split
  minutes = sum(row['seconds'] for row in rows.get('epoch', [])) / 60
  # Without the folders of the machine.
  paths = ','.join(pathlib.Path(path).resolve().name for path in options.path)
  flags = [f'--path={paths}', f'--out={options.out.name}']
  if options.leave_out:
    flags.append(f'--leave_out={",".join(options.leave_out)}')
  if options.fields:
    flags.append(f'--fields={shlex.quote(options.fields)}')
  more = ''
  if options.notes:
    more = pathlib.Path(options.notes).read_text(encoding='utf-8')
  return _NOTES.format(
    command=' \\\n  '.join(['python -m benchmarks.starting_encoder', *flags]),
    version=plankton_jax.__version__,
    jax=jax.__version__,
    minutes=minutes,
    more=f'\n{more.strip()}\n' if more else '',
  )


_NOTES = """\
## Intended use

To embed images of plankton and like particles, one object an image, before
anything is trained: to search and group them, to label them by a few examples
of each class, and to begin a run on your own classes from
(`--config.encoder.pretrained`).

## Limits

- All its images are of one instrument, ISIIS-2: grey, dark on white, 20 to 430
  px long before they were stretched to a square. On other instruments, and on
  colour, it is a beginning, and a short run on labelled images gains most.
- It gives vectors, not names: the classes above are what it has seen, with the
  errors of their labels, and among them some that are no taxa ("other",
  "partial", "unknown", "artifacts").
- None of these classes is unseen to it. `benchmarks.quality` refuses to measure
  it on them, and a run that begins from it warns.
{more}
## How it was made

```sh
{command}
```

plankton_jax {version} with JAX {jax}; {minutes:.0f} minutes of training.
Kernels are kept as float16 and computed with as float32.
"""


def main(values: flags.FlagValues) -> None:
  """Trains, exports and writes the card."""
  options = parse(values)
  host.show_log(0)
  images = options.workdir / 'images'
  gather(options.path, images)
  config = make_config(images, options.leave_out, options.fields)
  loop.train_and_evaluate(config, options.workdir)
  export(options)


if __name__ == '__main__':
  define(flags.FLAGS)
  recipes.run(main)
