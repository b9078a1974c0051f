"""The comparison of scores: its draws, its sums and its table."""

import csv

import numpy as np
import pytest

from analysis.files import inputs
from analysis.measures import openset
from benchmarks import unknowns
from plankton_jax.errors import InputError
from tests import flagged
from tests.analysis_runs import blobs, save


def run(*arguments):
  unknowns.main(flagged.parse(unknowns, *arguments))


def gathered(counts=(60, 50, 40, 30, 30)):
  return inputs.together('x', {'x': blobs(counts, seed=1)})


def test_a_draw_keeps_unseen_classes_apart():
  rows = gathered()
  train, others = unknowns.draw(rows, 2, np.random.default_rng(0))
  where = {key.tobytes(): name for key, name in zip(*rows[:2], strict=True)}
  split = [{where[x.tobytes()] for x in part} for part in others]
  labelled = {train.class_names[c] for c in train.label}
  assert split[0] <= labelled and split[1] <= labelled
  assert len(split[2]) == 2 and not split[2] & labelled
  sizes = [len(train.id), *map(len, others)]
  assert sum(sizes) == 210 and sizes[1] == pytest.approx(
    sum(sizes[:3]) / 20, abs=1
  )
  for one, name in zip(train.embedding, train.label, strict=True):
    assert where[one.tobytes()] == train.class_names[name]


def test_thresholds_of_classes_are_subtracted():
  val = np.concatenate([np.arange(30.0), [40.0, 50.0]])
  distances = unknowns.Parts(val, np.array([7.0, 9.0]), np.array([5.0]))
  label = unknowns.Parts(
    np.repeat([0, 1], [30, 2]), np.array([0, 1]), np.array([2])
  )
  common = openset.threshold(val, 0.95)
  own = openset.threshold(val[:30], 0.95)
  found = unknowns.less_thresholds(distances, label, 0)
  assert found.test.tolist() == [7.0 - own, 9.0 - common]
  assert found.unseen.tolist() == [5.0 - common]
  found = unknowns.less_thresholds(distances, label, 10)
  assert found.test[0] == pytest.approx(7 - (30 * own + 10 * common) / 40)
  assert found.test[1] == pytest.approx(9 - (2 * 50.0 + 10 * common) / 12)


def test_scores_are_measured_and_tabulated(tmp_path, capsys):
  path = save(tmp_path / 'x.npz', blobs([180, 170, 160, 150, 140], seed=1))
  run(f'--embeddings={path}', '--draws=2', '--unseen=2', f'--out={tmp_path}')
  assert '2 draws of 2 unseen classes' in capsys.readouterr().out
  with (tmp_path / 'unknowns.csv').open(encoding='utf-8') as file:
    rows = {row['score']: row for row in csv.DictReader(file)}
  assert {unknowns.BASE, 'neighbour 10', *unknowns.SUMS} < rows.keys()
  assert rows[unknowns.BASE]['gain'] == ''
  for row in rows.values():
    assert 0.5 < float(row['AUROC'].split()[0]) <= 1.0
  rows = gathered((180, 170, 160, 150, 140))
  train, others = unknowns.draw(rows, 2, np.random.default_rng(0))
  found = unknowns.scores(train, others)
  parts = [found[name].unseen for name in ('mean', 'angle', 'density')]
  np.testing.assert_allclose(
    found['mean + angle + density'].unseen, np.sum(parts, axis=0)
  )
  measured = unknowns.measure(found['mean'])
  limit = openset.threshold(found['mean'].val, 0.95)
  assert measured.unknown == np.mean(found['mean'].unseen > limit)


def test_mistaken_flags_end_in_a_line(tmp_path):
  with pytest.raises(InputError, match=r'--embeddings=FILE\.npz is missing'):
    run()
  path = save(tmp_path / 'x.npz', blobs([3, 3]))
  with pytest.raises(InputError, match='fewer classes than the 2'):
    run(f'--embeddings={path}', '--unseen=2')
  path = save(tmp_path / 'y.npz', blobs([9, 9, 9]))
  with pytest.raises(InputError, match='1 validation images in a draw are too'):
    run(f'--embeddings={path}', '--unseen=1')
