"""Compares powers of the whitening, on runs that are there.

  python -m benchmarks.whitening --workdirs=DIR,DIR [--powers=0.5,0.75,1]

Each run's best encoder is taken as it was trained. Its embeddings are whitened
by how they differ within the training classes, as `encoder.whitening` does, and
for comparison by how all of them differ. The table is written to whitening.csv
in --out too.
"""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags

from analysis.files import tables
from plankton_jax import checkpoints, host, retrieval
from plankton_jax.cli import command
from plankton_jax.encoder import Encoder
from plankton_jax.errors import InputError
from plankton_jax.nn import whitening
from plankton_jax.nn.whitening import WHITENING
from plankton_jax.train import experiment

_MEASURES = {
  'R@1': 'recall_at_1',
  'MAP@R': 'map_at_r',
  'macro MAP@R': 'macro_map_at_r',
}

Split = tuple[np.ndarray, np.ndarray]  # embeddings [N, D], labels [N]


def plain(encoder: Encoder) -> Encoder:
  """Takes an encoder's whitening off."""
  statistics = {
    name: values
    for name, values in encoder.variables['batch_stats'].items()
    if name != WHITENING
  }
  fields = encoder.config['encoder'] | {'whitening': 0.0}
  return encoder.replace(
    batch_stats=statistics, config=encoder.config | {'encoder': fields}
  )


def embed(workdir: pathlib.Path) -> dict[str, Split]:
  """Embeds a run's splits without whitening.

  Raises:
    InputError: there is no finished run, or its images are gone.
  """
  encoder = plain(checkpoints.load_encoder(workdir))
  data = experiment.load_data(encoder.config, workdir, writes=False)
  return {
    split: (
      encoder.embed(data.images[rows], measures=data.measures_of(rows)),
      data.labels[rows],
    )
    for split, rows in data.splits.items()
    if split in ('train', 'test', 'unseen') and len(rows)
  }


def measure(
  splits: dict[str, Split], powers: Sequence[float]
) -> Iterator[dict[str, str]]:
  """Yields a row of measures for each way to whiten and each power."""
  rows, labels = splits['train']
  ways = {'none': np.eye(rows.shape[1], dtype=np.float32)}
  for power in powers:
    ways[f'within classes, {power:g}'] = whitening.fit(
      rows, labels, power=power
    )
  for power in powers:
    ways[f'all, {power:g}'] = whitening.fit(
      rows, np.zeros_like(labels), power=power
    )
  for way, matrix in ways.items():
    row = {'whitened by': way}
    for split, (embedding, label) in splits.items():
      if split == 'train':
        continue
      embedding = whitening.apply(matrix, embedding)
      found = retrieval.evaluate(embedding, label, ks=(1,))
      for name, measured in _MEASURES.items():
        row[f'{split} {name}'] = f'{found[measured]:.3f}'
    yield row


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  flags.DEFINE_list('workdirs', [], "Runs' folders.", flag_values=values)
  flags.DEFINE_list(
    'powers', ['0.5', '0.75', '1'], 'Powers to compare.', flag_values=values
  )
  flags.DEFINE_string(
    'out', 'runs/whitening', 'Folder of the table.', flag_values=values
  )


def main(values: flags.FlagValues) -> None:
  """Measures every run and writes the table."""
  host.show_log(0)
  if not values.workdirs:
    raise InputError('--workdirs is missing; see --help')
  try:
    powers = [float(power) for power in values.powers]
  except ValueError as error:
    raise InputError(f'--powers: {error}') from None
  table = []
  for workdir in map(pathlib.Path, values.workdirs):
    found = list(measure(embed(workdir), powers))
    tables.show(found, str(workdir))
    table += [{'workdir': workdir.name, **row} for row in found]
  out = pathlib.Path(values.out)
  out.mkdir(parents=True, exist_ok=True)
  print(f'\n{tables.write_csv(out / "whitening.csv", table)}')


if __name__ == '__main__':
  define(flags.FLAGS)
  command.run(lambda argv: main(flags.FLAGS), fast=True)
