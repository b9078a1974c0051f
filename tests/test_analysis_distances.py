import csv
import json
import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from analysis import distances
from analysis.files import inputs
from analysis.measures import classes
from tests.analysis_runs import NAMES, blobs, empty, source
from tests.analysis_runs import run as run_analysis


def reference(rows, metric, *, include_self):
  x, classes = rows.embedding.astype(np.float64), np.unique(rows.label)
  means = np.empty((len(classes), len(classes)))
  for i, a in enumerate(classes):
    for j, b in enumerate(classes):
      left, right = x[rows.label == a], x[rows.label == b]
      if metric in ('euclidean', 'cosine'):
        dists = cdist(left, right, metric)
      else:
        cosines = 1 - cdist(left, right, 'cosine')
        dists = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
      if i == j:
        np.fill_diagonal(dists, 0.0)
      pairs = dists.size - (len(left) if i == j and not include_self else 0)
      means[i, j] = dists.sum() / pairs if pairs else np.nan
  return means


@pytest.mark.parametrize('include_self', [False, True])
@pytest.mark.parametrize('metric', ['euclidean', 'angular', 'cosine'])
def test_measure_equals_means_of_cdist(metric, include_self):
  rows = blobs([7, 1, 4], first=1)  # no class 0 or 4, and a class of one
  present, counts, means = distances.measure(
    rows, metric=metric, include_self=include_self
  )
  assert present.tolist() == [1, 2, 3] and counts.tolist() == [7, 1, 4]
  want = reference(rows, metric, include_self=include_self)
  np.testing.assert_allclose(means, want, atol=1e-5)
  assert np.isnan(means[1, 1]) != include_self


def test_separation_by_hand():
  nan = np.nan
  means = np.array([[2.0, 6.0, 9.0], [6.0, 4.0, 3.0], [9.0, 3.0, nan]])
  found = distances.separation(means)
  assert found == {'within': 3.0, 'between': 6.0, 'ratio': 2.0}
  lone = distances.separation(np.array([[0.5]]))
  assert (
    lone['within'] == 0.5 and np.isnan([lone['between'], lone['ratio']]).all()
  )
  same = distances.separation(np.array([[0.0, 1.0], [1.0, 0.0]]))
  assert same['between'] == 1.0 and np.isnan(same['ratio'])
  single = distances.separation(np.array([[nan, 1.0], [1.0, nan]]))
  assert np.isnan([single['within'], single['ratio']]).all()


@pytest.mark.parametrize('include_self', [False, True])
def test_analyse_writes_the_numbers_it_draws(tmp_path, include_self):
  run, other = source('run', workdir=tmp_path), source('other')
  run_analysis(distances, [run, other], tmp_path, include_self=include_self)
  found = json.loads((tmp_path / 'distances.json').read_text())
  assert found['include_self'] is include_self
  where = [(p['source'], p['split'], p['metric']) for p in found['panels']]
  splits = ['test', 'unseen', 'train', 'val', 'test', 'unseen']
  assert where[:6] == [
    (name, split, 'euclidean')
    for name, split in zip(['run'] * 2 + ['other'] * 4, splits, strict=True)
  ]
  panel = found['panels'][1]
  want = reference(run.splits['unseen'], 'euclidean', include_self=include_self)
  np.testing.assert_allclose(panel['means'], want, atol=1e-5)
  assert panel['classes'] == ['dog', 'eel'] and panel['counts'] == [14, 12]
  between = (want[0, 1] + want[1, 0]) / (want[0, 0] + want[1, 1])
  assert panel['ratio'] == pytest.approx(between, abs=1e-5)
  with (tmp_path / 'distances.csv').open() as file:
    rows = list(csv.DictReader(file))
  row = next(
    r
    for r in rows
    if (r['source'], r['split'], r['metric']) == ('run', 'unseen', 'angular')
    and (r['class'], r['other']) == ('dog', 'eel')
  )
  want = reference(run.splits['unseen'], 'angular', include_self=include_self)
  assert float(row['mean']) == pytest.approx(want[0, 1], abs=1e-4)
  assert row['unit'] == '°'
  picture = (tmp_path / 'distances_angular.svg').read_text()
  assert f'<!-- {want[0, 1]:.0f} -->' in picture
  assert ('these means include' in picture) is include_self
  assert (tmp_path / 'distances_euclidean.png').stat().st_size > 10_000


def test_analyse_tells_of_lone_images_and_empty_splits(tmp_path, capsys):
  run = source('run', workdir=tmp_path, test=blobs([5, 1]), unseen=empty())
  run_analysis(distances, [run], tmp_path, include_self=False)
  told = capsys.readouterr().out
  assert 'distances: run, unseen: no labelled images: skipped' in told
  assert 'run, test: bee has one image, so no distance within it' in told
  found = json.loads((tmp_path / 'distances.json').read_text())
  assert found['panels'][0]['means'][1][1] is None
  assert '<!-- – -->' in (tmp_path / 'distances_euclidean.svg').read_text()


def test_analyse_of_nothing_and_of_one_class(tmp_path, capsys):
  run_analysis(distances, [source(test=empty())], tmp_path, include_self=False)
  assert 'no labelled images' in capsys.readouterr().out
  assert not list(tmp_path.iterdir())
  run_analysis(
    distances, [source(test=blobs([1]))], tmp_path, include_self=False
  )
  assert 'n/a' in capsys.readouterr().out
  assert (tmp_path / 'distances_euclidean.png').exists()


def test_many_classes_are_drawn_without_numbers(tmp_path):
  names = tuple(f'class_{i}' for i in range(34))
  many = blobs([2] * 34, dim=40, names=names)
  run_analysis(distances, [source(test=many)], tmp_path, include_self=False)
  picture = (tmp_path / 'distances_euclidean.svg').read_text()
  assert '<!-- class_33 -->' in picture
  assert len(NAMES) < 20 and picture.count('<!-- 1.') < 20  # the scale's ticks


def test_of_very_many_classes_the_largest_are_kept(
  tmp_path, monkeypatch, capsys
):
  for name in ('MOST_SHOWN', 'FEW_SHOWN'):
    monkeypatch.setattr(classes, name, 30)
  counts = np.full(300, 1)
  counts[[5, 290]] = 4
  names = tuple(f'class_{i}' for i in range(300))
  rows = blobs(counts, dim=300, names=names, noise=0.01)
  run_analysis(distances, [source(test=rows)], tmp_path, include_self=False)
  told = capsys.readouterr().out
  assert 'the figures show the 30 largest of 300 classes' in told
  assert "distances.csv each class's 20 nearest" in told
  panel = json.loads((tmp_path / 'distances.json').read_text())['panels'][0]
  assert len(panel['classes']) == 200 and len(panel['means']) == 200
  assert panel['classes'][-1] == 'class_290' and panel['counts'][5] == 4
  _, _, means = distances.measure(rows, metric='euclidean', include_self=False)
  with (tmp_path / 'distances.csv').open() as file:
    lines = [r for r in csv.DictReader(file) if r['metric'] == 'euclidean']
  assert len(lines) == 300 * 21
  own = {row['other'] for row in lines if row['class'] == 'class_7'}
  nearest = np.argsort(means[7])[:20]
  assert 'class_7' in own
  assert own >= {f'class_{i}' for i in nearest if i != 7}
  picture = (tmp_path / 'distances_euclidean.svg').read_text()
  assert '<!-- class_290 -->' in picture and '<!-- class_299' not in picture
  within = np.diag(means)[[5, 290]].mean()
  assert panel['within'] == pytest.approx(within)


@pytest.mark.parametrize('metric', ['angular', 'cosine'])
def test_the_distances_of_many_classes_are_held_once(metric):
  count = 1500
  names = tuple(map(str, range(count)))
  embedding = np.random.default_rng(0).normal(size=(count, 4))
  rows = inputs.Embeddings(
    embedding.astype(np.float32), np.arange(count), np.array(names), names
  )
  tracemalloc.start()
  panel = distances.make_panel(
    'run', 'test', rows, metric=metric, include_self=False
  )
  _, most = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  whole = 8 * count**2  # bytes
  assert most < 3 * whole
  assert sum(x.nbytes for x in panel if isinstance(x, np.ndarray)) < whole / 20
  means = distances.measure(rows, metric=metric, include_self=False)[2]
  between = means[~np.eye(count, dtype=bool)].mean()
  assert panel.separation['between'] == pytest.approx(between, rel=1e-12)
  assert panel.others[7].tolist() == sorted(
    [7, *np.argsort(np.where(np.arange(count) == 7, np.inf, means[7]))[:20]]
  )
  np.testing.assert_array_equal(panel.to_others[7], means[7, panel.others[7]])


def test_names_are_no_formulas(tmp_path):
  odd = blobs([2, 2], names=(r'a$\b$', '<i>$x$'))
  run = source(r'$\no$', test=odd)
  run_analysis(distances, [run], tmp_path, include_self=False)
  picture = (tmp_path / 'distances_euclidean.svg').read_text()
  assert r'<!-- a$\b$ -->' in picture and '&lt;i&gt;$x$' in picture
