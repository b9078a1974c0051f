"""`python -m benchmarks.whitening` measures what other powers would give."""

import csv

import numpy as np
import pytest

from benchmarks import whitening as benchmark
from configs import arcface
from plankton_jax import checkpoints, retrieval
from plankton_jax.errors import InputError
from plankton_jax.train import experiment, loop
from tests import flagged


def _main(*argv):
  benchmark.main(flagged.parse(benchmark, *argv))


def test_the_run_s_own_power_has_its_row(make_config, tmp_path, capsys):
  config = make_config(
    arcface.get_config,
    epochs=1,
    encoder__poses=1,
    # An encoder of which no two rows round to the same figures.
    optimizer__schedule='cosine',
  )
  work = tmp_path / 'run'
  loop.train_and_evaluate(config, work)
  _main(f'--workdirs={work}', '--powers=0.5', f'--out={tmp_path}/out')
  assert 'whitened by' in capsys.readouterr().out
  with (tmp_path / 'out' / 'whitening.csv').open() as file:
    none, own, everything = csv.DictReader(file)
  assert [row['whitened by'] for row in (none, own, everything)] == [
    'none', 'within classes, 0.5', 'all, 0.5'
  ]  # fmt: skip
  data = experiment.load_data(config, work)
  encoder = checkpoints.load_encoder(work)
  rows = data.splits['unseen']
  for row, found in ((own, encoder), (none, benchmark.plain(encoder))):
    embedding = found.embed(data.images[rows])
    want = retrieval.evaluate(embedding, data.labels[rows], ks=(1,))
    assert row['unseen MAP@R'] == f'{want["map_at_r"]:.3f}'
    assert row['unseen R@1'] == f'{want["recall_at_1"]:.3f}'
  measured = [[*row.values()][2:] for row in (none, own, everything)]
  assert measured[0] != measured[1] and measured[1] != measured[2]
  assert np.isfinite(float(everything['test macro MAP@R']))


@pytest.mark.parametrize(
  ('argv', 'named'),
  [([], '--workdirs is missing'), (['--workdirs=x', '--powers=a'], '--powers')],
)
def test_mistakes_are_named(argv, named):
  with pytest.raises(InputError, match=f'^{named}'):
    _main(*argv)
