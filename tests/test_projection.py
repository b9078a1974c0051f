"""The plane: PCA against NumPy, UMAP's fixed seed, its fallbacks."""

import csv
import importlib

import numpy as np
import pytest

from analysis import projection
from analysis.figures import style
from analysis.files.inputs import Embeddings, Source
from analysis.measures import planes
from plankton_jax.errors import InputError
from tests.analysis_runs import joined
from tests.analysis_runs import run as run_analysis


def split(count, label, *, seed, dim=6, names=('a', 'b', 'c')):
  rng = np.random.default_rng(seed)
  label = np.full(count, label, np.int32)
  centres = np.eye(len(names), dim)
  embedding = centres[label] + 0.1 * rng.normal(size=(count, dim))
  return Embeddings(
    embedding.astype(np.float32), label, np.arange(count).astype(str), names
  )


SPLITS = {
  'train': joined(split(30, 0, seed=0), split(30, 1, seed=1)),
  'test': split(7, 1, seed=2),
  'unseen': split(5, 2, seed=3),
}


def test_pca_matches_the_covariance_eigenvectors():
  plane = planes.project(SPLITS, 'pca')
  train = SPLITS['train'].embedding.astype(np.float64)
  values, vectors = np.linalg.eigh(np.cov(train.T))
  axes = vectors[:, np.argsort(-values)[:2]]
  axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
  for name, rows in SPLITS.items():
    want = (rows.embedding - train.mean(axis=0)) @ axes
    np.testing.assert_allclose(plane.xy[name], want, atol=1e-5)
  assert plane.how == 'PCA fitted on train (60 rows)'


@pytest.mark.parametrize('dim', [1, 6])
def test_pca_of_identical_rows_is_a_point(dim):
  rows = Embeddings(
    np.ones((4, dim), np.float32),
    np.zeros(4, np.int32),
    np.arange(4).astype(str),
    ('a',),
  )
  plane = planes.project({'test': rows}, 'pca')
  np.testing.assert_array_equal(plane.xy['test'], np.zeros((4, 2)))


def test_without_train_all_rows_are_fitted_and_kept_apart():
  rows = {name: SPLITS[name] for name in ('test', 'unseen')}
  plane = planes.project(rows, 'pca')
  assert plane.how == 'PCA fitted on test + unseen (12 rows)'
  both = planes.project({'all': joined(*rows.values())}, 'pca').xy['all']
  np.testing.assert_array_equal(plane.xy['test'], both[:7])
  np.testing.assert_array_equal(plane.xy['unseen'], both[7:])


def test_few_rows_fall_back_to_pca_and_say_so():
  few = {'train': split(15, 0, seed=0), 'test': SPLITS['test']}
  plane = planes.project(few, 'umap')
  assert 'PCA since UMAP wants more than 15 rows' in plane.how
  want = planes.project(few, 'pca').xy['test']
  np.testing.assert_array_equal(plane.xy['test'], want)


def test_no_rows_and_unequal_widths_are_bad_input():
  with pytest.raises(InputError, match='no rows'):
    planes.project({}, 'pca')
  with pytest.raises(InputError, match=r'have \[6, 3, 6\] dimensions'):
    planes.project({**SPLITS, 'test': split(4, 0, seed=0, dim=3)}, 'pca')


def test_graph_holds_the_neighbours_of_duplicates_too():
  points = np.random.default_rng(0).normal(size=(40, 3))
  points[20:] = points[:20]
  graph = planes._own_graph(points)
  assert (graph != graph.T).nnz == 0
  for i in range(40):
    row = graph[i]
    want = np.sort(np.linalg.norm(points - points[i], axis=1))
    np.testing.assert_allclose(np.sort(row.data)[:15], want[:15], atol=1e-7)
    assert graph[i, i] == 0.0 and i in row.indices
    for j, distance in zip(row.indices, row.data, strict=True):
      want = np.linalg.norm(points[i] - points[j])
      np.testing.assert_allclose(distance, want, atol=1e-7)


def test_umap_is_fixed_by_its_seed_and_keeps_clusters_apart():
  first = planes.project(SPLITS, 'umap')
  again = planes.project(SPLITS, 'umap')
  for name, rows in SPLITS.items():
    assert first.xy[name].shape == (len(rows.label), 2)
    np.testing.assert_array_equal(first.xy[name], again.xy[name])
  train, label = first.xy['train'], SPLITS['train'].label
  centres = [train[label == k].mean(axis=0) for k in (0, 1)]
  gaps = [np.linalg.norm(first.xy['test'] - c, axis=1) for c in centres]
  assert (gaps[1] < gaps[0]).all()  # the test rows are of class 1
  # What takes seconds to compile is compiled once on a machine.
  for name, module in planes.LOOPS.items():
    loop = getattr(importlib.import_module(module), name)
    assert loop.stats.cache_path


def test_many_rows_are_sampled_by_split_and_class(monkeypatch):
  source = Source('run', SPLITS, None, None)
  monkeypatch.setattr(planes, 'MOST', 36)  # half of them
  shown = planes.shown(source)
  counts = {name: len(rows.id) for name, rows in shown.items()}
  assert counts == {'train': 30, 'test': 4, 'unseen': 2}
  assert np.bincount(shown['train'].label).tolist() == [15, 15]
  for name, rows in shown.items():
    at = np.flatnonzero(np.isin(SPLITS[name].embedding, rows.embedding).all(1))
    np.testing.assert_array_equal(SPLITS[name].embedding[at], rows.embedding)
  found = projection.analyse([source], method='pca')
  assert found.notes == [
    'run: 36 of 72 images are shown, drawn by seed from each split and class'
  ]
  assert len(found.tables['projection.csv']) == 36


def test_analyse_writes_every_row_in_order(tmp_path, capsys):
  rows = SPLITS['test']._replace(label=np.int32([1] * 6 + [-1]))
  names = ('a', '$_<b>$', 'c')
  splits = {**SPLITS, 'test': rows._replace(class_names=names)}
  run = Source('$run^$', splits, tmp_path, {'citation': ''})
  run_analysis(projection, [run], tmp_path, method='pca')
  with (tmp_path / 'projection.csv').open(newline='') as file:
    found = list(csv.DictReader(file))
  assert [r['id'] for r in found if r['split'] == 'test'] == rows.id.tolist()
  assert {r['class'] for r in found if r['split'] == 'test'} == {
    '$_<b>$',
    'unlabelled',
  }
  xy = np.array([[r['x'], r['y']] for r in found], float)
  want = planes.project(splits, 'pca').xy
  np.testing.assert_allclose(
    xy, np.concatenate([want[s] for s in splits]), rtol=1e-4, atol=1e-6
  )
  assert (tmp_path / 'projection.png').stat().st_size > 1000
  assert 'PCA fitted on train (60 rows)' in capsys.readouterr().out


def test_a_class_has_one_mark_and_one_colour_everywhere():
  found = style.marks([SPLITS, {'test': SPLITS['unseen']}])
  assert found == {'a': 'o', 'b': 'o', 'c': 'D'}
  colours = style.colours(found)
  assert len(set(colours.values())) == 4
