"""Runs an analysis as a command: flags to sources, the Result to files."""

import logging
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from absl import flags

from analysis.files import inputs, result
from analysis.files.inputs import Source
from analysis.files.result import Result
from plankton_jax import host
from plankton_jax.cli import command
from plankton_jax.errors import InputError
from plankton_jax.files import home
from plankton_jax.neighbours import choice

Options = TypeVar('Options', bound=NamedTuple)

WORKDIR = flags.DEFINE_multi_string(
  'workdir',
  [],
  'The folder of a finished run, or one that analysis.embed made; repeat the'
  ' flag to compare several.',
)
EMBEDDINGS = flags.DEFINE_multi_string(
  'embeddings', [], 'An embedding file (.npz, .parquet) in place of a workdir.'
)
ENCODER = flags.DEFINE_string(
  'encoder',
  None,
  'An encoder in place of a workdir, to use without training: plankton, which'
  ' is bundled, or a folder that plankton_jax.export wrote.',
)
OUT = flags.DEFINE_string(
  'out',
  None,
  "Folder for the results, or analysis.embed's file [first workdir/analysis].",
)
# What several commands ask for.
IMAGES = flags.DEFINE_string(
  'images', None, 'A folder of images, or an archive of one, labelled or not.'
)
EXPORT = flags.DEFINE_string(
  'export', None, 'An EcoTaxa export, a table, IFCB bins or FlowCam runs.'
)
BY = flags.DEFINE_string(
  'by', 'sample', 'Groups: sample, acquisition, day, or a regex of ids.'
)
PIXEL_UM = flags.DEFINE_float(
  'pixel_um', None, "Side of a pixel of new images, micrometres [the run's]."
)
ACCEPTANCE = flags.DEFINE_float(
  'acceptance',
  0.95,
  'Share of images of known classes to name; the rest of them, and what lies as'
  ' far from every class, is unknown.',
)
SEARCH = flags.DEFINE_enum(
  'search',
  'auto',
  choice.WAYS,
  'How neighbours are found: exactly, or by an index of FAISS; auto chooses by'
  ' their number.',
)
TAXA = flags.DEFINE_string(
  'taxa', None, 'A table of taxa: lineage, EcoTaxa and WoRMS numbers.'
)


def options(kind: type[Options]) -> Options:
  """Fills a tuple of options from the flags that its fields are named after."""
  return kind._make(flags.FLAGS[name].value for name in kind._fields)


def check_share(flag: str, share: float) -> None:
  """Raises InputError unless a flag's value is a share between 0 and 1."""
  if not 0.0 < share < 1.0:
    raise InputError(f'--{flag}={share}: give a share between 0 and 1')


def given(*, untrained: bool = False) -> tuple[list[Source], pathlib.Path]:
  """Reads the sources that the flags name; returns them and the folder to fill.

  Several workdirs are compared side by side, in the first one's `analysis`
  folder; results of an encoder go to runs/ENCODER/analysis.

  Args:
    untrained: whether --encoder is a source too, one without embeddings.

  Raises:
    InputError: no kind of source or several are given, or one cannot be read.
  """
  kinds = [bool(flag.value) for flag in (WORKDIR, EMBEDDINGS, ENCODER)]
  if ENCODER.value and not untrained:
    raise InputError(
      '--encoder: embed your images first by python -m analysis.embed'
      f' --encoder={ENCODER.value} --images=FOLDER --out=DIR, then give'
      ' --workdir=DIR'
    )
  if sum(kinds) != 1:
    also = ', --encoder=NAME' if untrained else ''
    raise InputError(f'give --workdir=DIR{also} or --embeddings=FILE.npz')
  if ENCODER.value:
    source = inputs.from_encoder(ENCODER.value)
    default = pathlib.Path('runs', source.name, 'analysis')
    return [source], home.expand(OUT.value or default)
  workdirs = [home.expand(path) for path in WORKDIR.value]
  files = [home.expand(path) for path in EMBEDDINGS.value]
  sources = inputs.from_workdirs(workdirs) if workdirs else []
  sources += [inputs.from_files(files)] if files else []
  default = (workdirs or [files[0].parent])[0] / 'analysis'
  return sources, home.expand(OUT.value or default)


def one_source(sources: Sequence[Source], name: str) -> Source:
  """Returns the only source, or raises InputError."""
  if len(sources) > 1:
    raise InputError(f'{name} takes one --workdir')
  return sources[0]


def one_run(sources: Sequence[Source], name: str) -> Source:
  """Returns the only source, a workdir or an encoder, or raises InputError."""
  (source, *others) = sources
  if others or (source.workdir is None and source.encoder is None):
    raise InputError(f'{name} takes one --workdir')
  return source


def run(
  name: str,
  analyse: Callable[[list[Source]], Result],
  *,
  folder: str | None = None,
  untrained: bool = False,
  fast: bool = False,
) -> None:
  """Runs `analyse` on what the flags name; prints and writes its Result.

  Args:
    name: of the command; precedes each note.
    analyse: takes the sources.
    folder: a subfolder, for results that would crowd the default one.
    untrained: as in `given`.
    fast: as in `plankton_jax.cli.command.run`.
  """

  def main(argv: Sequence[str]) -> None:
    del argv
    host.show_log(logging.WARNING)
    sources, out = given(untrained=untrained)
    if folder and not OUT.value:
      out /= folder
    found = analyse(sources)
    result.show(name, found)
    result.write(found, out)
    print(f'results are in {out.resolve()}')

  # --help shows what every command takes; absl knows the one that is run by its
  # path.
  taken = ('workdir', 'embeddings', 'out', *(['encoder'] if untrained else []))
  for flag in taken:
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag])
  command.run(main, fast=fast)
