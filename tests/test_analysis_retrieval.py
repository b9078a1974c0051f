import collections
import csv
import json

import numpy as np
import pytest

from analysis import retrieval
from analysis.measures import scores
from plankton_jax.neighbours import search
from plankton_jax.retrieval import averages, evaluate, per_query
from tests.analysis_runs import blobs, empty, source
from tests.analysis_runs import run as run_analysis


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
  monkeypatch.setattr(scores, 'DRAWS', 50)
  monkeypatch.setattr(scores, 'HALVES', 4)


def read(path):
  rows = json.loads(path.read_text())
  return {(r['source'], r['split'], r['measure']): r for r in rows}


def knn_hits(rows, train):
  gallery = None if train is None else train.embedding
  _, near = search.nearest(rows.embedding, gallery, 10)
  return scores.knn_hits(near, (train or rows).label, rows.label)


def test_analyse_writes_what_evaluate_gives(tmp_path, capsys):
  run = source(
    workdir=tmp_path,
    train=blobs([20, 15, 12], noise=0.7, seed=1),
    test=blobs([8, 6, 5], noise=0.7, seed=3),
    unseen=blobs([14, 12], noise=0.7, first=3, seed=4),
  )
  run_analysis(retrieval, [run, source('files')], tmp_path)
  found = read(tmp_path / 'retrieval.json')
  for split in ('test', 'unseen'):
    rows = run.splits[split]
    want = evaluate(rows.embedding, rows.label)
    for name in ('recall_at_1', 'recall_at_10', 'r_precision', 'map_at_r'):
      line = found['run', split, name]
      assert line['micro'] == pytest.approx(want[name])
      assert line['macro'] == pytest.approx(want[f'macro_{name}'])
      assert line['micro_low'] <= line['micro'] <= line['micro_high']
    assert found['run', split, 'nmi']['macro'] is None
  line = found['run', 'test', 'knn_accuracy']
  hits = knn_hits(run.splits['test'], run.splits['train'])
  assert line['knn_from'] == 'train'
  want = averages({'hits': hits}, run.splits['test'].label)
  assert line['micro'] == pytest.approx(want['hits'])
  assert line['macro'] == pytest.approx(want['macro_hits'])
  assert want['hits'] != pytest.approx(want['macro_hits'])
  line = found['run', 'unseen', 'knn_accuracy']
  hits = knn_hits(run.splits['unseen'], None)
  assert line['knn_from'] == 'other images'
  assert line['micro'] == pytest.approx(hits.mean())
  with (tmp_path / 'retrieval.csv').open() as file:
    assert len(list(csv.DictReader(file))) == 9 * (2 + 4)
  picture = (tmp_path / 'retrieval.svg').read_text()
  assert '<!-- run, mean of images -->' in picture
  assert (tmp_path / 'retrieval.png').stat().st_size > 10_000
  told = capsys.readouterr().out
  assert 'every image counts alike' in told and 'Recall@1' in told


def test_analyse_of_one_class_and_lone_images(tmp_path, capsys):
  run = source(workdir=tmp_path, test=blobs([3, 1, 1]), unseen=blobs([4]))
  run_analysis(retrieval, [run], tmp_path)
  told = capsys.readouterr().out
  assert 'run, test: 2 images are alone in their class: no queries' in told
  assert 'run, unseen: one class only: no clustering, no silhouette' in told
  found = read(tmp_path / 'retrieval.json')
  assert found['run', 'test', 'map_at_r']['queries'] == 3
  assert found['run', 'test', 'map_at_r']['images'] == 5
  assert found['run', 'test', 'knn_accuracy']['knn_from'] == 'other images'
  assert found['run', 'unseen', 'recall_at_1']['micro'] == 1.0
  assert found['run', 'unseen', 'silhouette']['micro'] is None


def test_class_means_leave_lone_images_out(tmp_path):
  rows = blobs([1, 9, 1, 4], noise=0.8)
  run_analysis(retrieval, [source(test=rows)], tmp_path)
  found = read(tmp_path / 'retrieval.json')
  want = evaluate(rows.embedding, rows.label)
  for name in ('recall_at_1', 'r_precision', 'map_at_r'):
    line = found['run', 'test', name]
    assert 0.0 < want[name] < 1.0
    assert line['micro'] == pytest.approx(want[name])
    assert line['macro'] == pytest.approx(want[f'macro_{name}'])
    assert line['macro'] != pytest.approx(line['micro'])


def test_by_class_counts_the_nearest_images_of_each(tmp_path, capsys):
  rows = blobs([6, 9, 1, 5], noise=0.9)
  run_analysis(retrieval, [source(test=rows)], tmp_path)
  with (tmp_path / 'retrieval_classes.csv').open() as file:
    found = {line['class']: line for line in csv.DictReader(file)}
  rank, values = per_query(rows.embedding, rows.label, ks=(1,))
  x = rows.embedding.astype(np.float64)
  seen = collections.defaultdict(collections.Counter)
  for i, row in enumerate(x):
    distance = ((x - row) ** 2).sum(1)
    distance[i] = np.inf
    nearest = np.argsort(distance)
    seen[rows.label[i]].update(rows.label[nearest[:10]])
  assert list(found) == sorted(found, key=lambda c: float(found[c]['map_at_r']))
  assert set(found) == {rows.class_names[i] for i in (0, 1, 3)}
  for label in (0, 1, 3):
    line = found[rows.class_names[label]]
    at = rows.label[rank] == label
    assert int(line['images']) == at.sum()
    for name in ('recall_at_1', 'map_at_r'):
      assert float(line[name]) == pytest.approx(values[name][at].mean())
    del seen[label][label]
    count = max(seen[label].values())
    assert seen[label][rows.class_names.index(line['mixed_with'])] == count
    assert float(line['share']) == pytest.approx(count / (10 * at.sum()))
  assert 'classes found worst' in capsys.readouterr().out


def test_by_class_of_equal_rows_leaves_the_query_out(tmp_path):
  rows = blobs([13, 12], noise=0.0)
  run_analysis(retrieval, [source(test=rows)], tmp_path)
  with (tmp_path / 'retrieval_classes.csv').open() as file:
    for line in csv.DictReader(file):
      assert (line['mixed_with'], float(line['share'])) == ('', 0.0)
      assert float(line['recall_at_1']) == 1.0


def test_of_many_images_some_are_queries_and_all_of_a_half(monkeypatch):
  monkeypatch.setattr(scores, 'QUERIES', 6)
  asked = []

  def measured(rows, labels, *, ks, queries=None):
    asked.append((len(rows), queries))
    return per_query(rows, labels, ks=ks, queries=queries)

  monkeypatch.setattr(retrieval.retrieval, 'per_query', measured)
  rows = blobs([14, 12], noise=0.8)
  found = retrieval.measure('run', 'test', rows, None)
  (count, queries), *halves = asked
  assert count == 26 and 0 < len(queries) <= 8
  assert halves == [(13, None)] * scores.HALVES
  images = {row['class']: row['images'] for row in found.by_class}
  assert images == {rows.class_names[0]: 14, rows.class_names[1]: 12}


def test_analyse_of_images_that_are_all_alone(tmp_path):
  of_file = source('$run^$', **{'$all^$': blobs([1, 1, 1])})
  run_analysis(retrieval, [of_file], tmp_path)
  found = read(tmp_path / 'retrieval.json')
  assert found['$run^$', '$all^$', 'recall_at_1']['micro'] is None
  assert found['$run^$', '$all^$', 'recall_at_1']['queries'] == 0


def test_many_images_and_classes_have_no_interval_of_clusters(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(scores, 'MOST_CLUSTERED', 10)
  run_analysis(retrieval, [source(test=blobs([14, 12]))], tmp_path)
  line = read(tmp_path / 'retrieval.json')['run', 'test', 'nmi']
  assert line['micro'] > 0.5 and line['micro_low'] is None
  assert 'NMI and AMI without intervals' in capsys.readouterr().out


def test_analyse_of_nothing(tmp_path, capsys):
  run = source(workdir=tmp_path / 'run', test=empty())
  run_analysis(retrieval, [run], tmp_path)
  assert capsys.readouterr().out.splitlines() == [
    'retrieval: run, test: no labelled images: skipped',
    'retrieval: run has no unseen split: skipped',
  ]
  assert not list(tmp_path.glob('retrieval*'))
