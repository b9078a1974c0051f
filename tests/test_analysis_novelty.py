"""Open-set measures against loops over images; thresholds; what is missing."""

import collections
import csv
import itertools
import json

import numpy as np
import pytest
from sklearn import metrics

from analysis import novelty
from analysis.files import result
from analysis.measures import openset
from plankton_jax.errors import InputError
from plankton_jax.neighbours import search
from tests.analysis_runs import NAMES, blobs, empty, source
from tests.analysis_runs import run as run_analysis


def run(out, *sources, neighbours=10, acceptance=0.95):
  run_analysis(
    novelty, sources, out, neighbours=neighbours, acceptance=acceptance
  )


def seen_and_unseen(seed):
  """Distances on a coarse grid, so that many are tied, and which are right."""
  rng = np.random.default_rng(seed)
  seen = rng.integers(0, 12, 60) / 8.0
  unseen = rng.integers(4, 16, 45) / 8.0
  return seen, rng.random(60) < 0.8 - 0.2 * seen, unseen


def test_nearest_matches_loops():
  rng = np.random.default_rng(0)
  gallery = rng.normal(size=(40, 3)).astype(np.float32)
  gallery[[7, 21, 30]] = gallery[3]  # duplicates are neighbours, self is not
  queries = rng.normal(size=(9, 3)).astype(np.float32)
  for q, g, k in ((queries, gallery, 5), (gallery, None, 2)):
    distance, rows = search.nearest(q, g, k)
    assert distance.shape == rows.shape == (len(q), k)
    other = gallery if g is None else g
    for i in range(len(q)):
      far = {
        j: np.linalg.norm(q[i].astype(float) - other[j].astype(float))
        for j in range(len(other))
        if g is not None or j != i
      }
      assert len(set(rows[i])) == k and (g is not None or i not in rows[i])
      np.testing.assert_allclose(distance[i], sorted(far.values())[:k], 1e-12)
      np.testing.assert_allclose(distance[i], [far[j] for j in rows[i]], 1e-12)


def test_nearest_in_blocks_and_of_few(monkeypatch):
  rows = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32)
  whole = search.nearest(rows, None, 3)
  monkeypatch.setattr(search, 'ENTRIES', 7 * 50)
  np.testing.assert_array_equal(search.nearest(rows, None, 3)[1], whole[1])
  assert search.nearest(rows[:3], None, 10)[1].shape == (3, 2)
  assert search.nearest(rows[:1], None, 10)[0].shape == (1, 0)
  assert search.nearest(rows[:0], None, 10)[0].shape == (0, 0)


@pytest.mark.parametrize('seed', range(3))
def test_detection_matches_pairs_of_images(seed):
  seen, _, unseen = seen_and_unseen(seed)
  curve, found = openset.detection(seen, unseen)
  pairs = [(s < u) + 0.5 * (s == u) for s, u in itertools.product(seen, unseen)]
  assert curve.area == pytest.approx(np.mean(pairs))
  # The largest threshold needed to accept 95 % of the seen.
  limit = min(t for t in seen if np.mean(seen <= t) >= 0.95)
  assert found['fpr_at_95'] == pytest.approx(np.mean(unseen <= limit))
  novel = np.repeat([0, 1], [len(seen), len(unseen)])
  distance = np.concatenate([seen, unseen])
  assert found['aupr_unseen'] == pytest.approx(
    metrics.average_precision_score(novel, distance)
  )
  assert found['aupr_seen'] == pytest.approx(
    metrics.average_precision_score(1 - novel, -distance)
  )
  assert found['aupr_seen'] != pytest.approx(found['aupr_unseen'], abs=0.01)


def test_fpr_where_exactly_95_percent_are_accepted():
  unseen = np.array([5.0, 18.0, 18.5, 30.0])
  _, found = openset.detection(np.arange(20.0), unseen)
  assert found['fpr_at_95'] == 0.5


@pytest.mark.parametrize('seed', range(3))
def test_oscr_matches_each_threshold(seed):
  seen, right, unseen = seen_and_unseen(seed)
  curve = openset.oscr(seen, right, unseen)
  rates = {(0.0, 0.0)} | {
    (np.mean(unseen <= t), np.mean((seen <= t) & right))
    for t in [*seen, *unseen]
  }
  # A threshold at a wrong image alone moves nothing.
  np.testing.assert_allclose(
    sorted(rates), sorted(set(zip(*curve[:2], strict=True)))
  )
  pairs = [
    r * ((s < u) + 0.5 * (s == u))
    for (s, r), u in itertools.product(zip(seen, right, strict=True), unseen)
  ]
  assert curve.area == pytest.approx(np.mean(pairs))
  assert curve.area < openset.detection(seen, unseen)[0].area


def test_oscr_of_mistakes_alone_is_nothing():
  curve = openset.oscr(np.arange(3.0), np.zeros(3, bool), np.arange(4.0))
  assert curve.area == 0.0 and not curve.y.any()


def test_risk_coverage_is_the_mean_over_orders_of_ties():
  distance = np.array([0.1, 0.3, 0.2, 0.3, 0.3])
  right = np.array([True, False, False, True, True])
  curve = openset.risk_coverage(distance, right)
  orders = [
    order
    for order in itertools.permutations(range(5))
    if all(np.diff(distance[list(order)]) >= 0)
  ]
  risks = [np.cumsum(~right[list(o)]) / np.arange(1, 6) for o in orders]
  assert len(orders) == 6
  np.testing.assert_allclose(curve.y, np.mean(risks, axis=0))
  np.testing.assert_allclose(curve.x, [0.2, 0.4, 0.6, 0.8, 1.0])
  assert curve.area == pytest.approx(np.mean(risks))


def test_threshold_holds_for_new_images():
  rng = np.random.default_rng(0)
  for acceptance, n in ((0.95, 19), (0.95, 40), (0.8, 4), (0.5, 7)):
    drawn = rng.random((4000, n + 1))
    limits = [openset.threshold(one[:n], acceptance) for one in drawn]
    share = np.mean(drawn[:, n] <= limits)
    rank = np.ceil(round((n + 1) * acceptance, 9))
    assert share == pytest.approx(rank / (n + 1), abs=0.02)
    assert rank / (n + 1) >= acceptance
    assert openset.fewest(acceptance) <= n
  assert openset.fewest(0.95) == 19 and openset.fewest(0.9) == 9
  for acceptance in (0.5, 0.8, 0.9, 0.95, 0.99):
    n = openset.fewest(acceptance)
    assert np.isfinite(openset.threshold(np.arange(n), acceptance))
    assert np.isinf(openset.threshold(np.arange(n - 1), acceptance))


def test_scores_match_loops():
  train, new = blobs([9, 1, 6], noise=0.5, seed=1), blobs([9] * 5, seed=2)
  points = train.embedding.astype(float)
  centroid = openset.by_centroid(train, new.embedding)
  neighbour = openset.by_neighbour(train, new.embedding, 4)
  for i, x in enumerate(new.embedding.astype(float)):
    means = {
      c: np.linalg.norm(x - points[train.label == c].mean(axis=0))
      for c in np.unique(train.label)
    }
    assert centroid.label[i] == min(means, key=means.get)
    assert centroid.distance[i] == pytest.approx(min(means.values()))
    far = np.linalg.norm(x - points, axis=1)
    near = np.argsort(far)[:4]
    assert neighbour.distance[i] == pytest.approx(far[near[-1]], rel=1e-5)
    votes = np.bincount(train.label[near])
    assert neighbour.label[i] == votes.argmax()


def big(workdir=None, **replaced):
  splits = {
    'train': blobs([60, 50, 40], seed=1),
    'val': blobs([40, 30, 25], seed=2),
    'test': blobs([30, 20, 20], seed=3),
    'unseen': blobs([25, 20], first=3, seed=4),
  }
  return source(workdir=workdir, **{**splits, **replaced})


def test_analyse_predicts_unknown(tmp_path, capsys):
  run(tmp_path, big(tmp_path / 'a'), big()._replace(name='$b_$'))
  scores = json.loads((tmp_path / 'novelty.json').read_text())['scores']
  assert [(s['source'], s['by']) for s in scores] == [
    (name, by)
    for name in ('run', '$b_$')
    for by in ('whitened', 'nearest centroid', 'neighbour 10')
  ]
  with (tmp_path / 'novelty_predictions.csv').open() as file:
    rows = [row for row in csv.DictReader(file) if row['source'] == 'run']
  assert len(rows) == 3 * (70 + 45)
  for row in rows:
    beyond = float(row['distance']) > float(row['threshold'])
    wanted = 'unknown' if beyond else row['nearest_class']
    assert row['predicted'] == wanted and row['split'] in ('test', 'unseen')
  for score in scores[:3]:
    own = [row for row in rows if row['by'] == score['by']]
    seen = [row for row in own if row['split'] == 'test']
    unseen = [row for row in own if row['split'] == 'unseen']
    known = [row['predicted'] != 'unknown' for row in seen]
    assert score['seen_accepted'] == pytest.approx(np.mean(known))
    assert score['seen_accepted'] > 0.85
    unknown = np.mean([row['predicted'] == 'unknown' for row in unseen])
    assert score['unseen_unknown'] == pytest.approx(unknown) and unknown > 0.5
    right = [row['nearest_class'] == row['class'] for row in seen]
    assert score['accuracy'] == pytest.approx(np.mean(right))
    assert score['oscr'] <= min(score['auroc'], score['accuracy'])
    counted = collections.Counter(row['predicted'] for row in own)
    true = collections.Counter(
      row['class'] if row['split'] == 'test' else 'unknown' for row in own
    )
    gap = sum(abs(counted[name] - true[name]) for name in counted | true)
    assert score['bray_curtis'] == pytest.approx(gap / (2 * len(own)))
  for name in ('novelty', 'novelty_scores'):
    assert (tmp_path / f'{name}.png').stat().st_size > 10_000
  assert 'Someone 2015' in (tmp_path / 'novelty.svg').read_text()
  told = capsys.readouterr().out
  assert 'has no' not in told
  named = round((1 - scores[0]['unseen_unknown']) * 45)
  assert (
    f'of 45 images of classes it never saw it would have named {named} ('
    in told
  )


@pytest.mark.usefixtures('unsaved')
def test_community_takes_the_threshold_that_counts_best(tmp_path):
  for name, by_counts in (('share', False), ('counts', True)):
    (tmp_path / name).mkdir()
    run_analysis(
      novelty,
      [big(val=blobs([80, 60, 60], seed=2))],
      tmp_path / name,
      neighbours=10,
      acceptance=0.6,
      by_counts=by_counts,
    )
  share, counts = (
    json.loads((tmp_path / name / 'novelty.json').read_text())['scores'][0]
    for name in ('share', 'counts')
  )
  assert share['community_acceptance'] == counts['community_acceptance'] > 0.8
  assert counts['community_bray_curtis'] < share['bray_curtis']
  assert counts['seen_accepted'] > share['seen_accepted']
  with (tmp_path / 'counts/novelty_thresholds.csv').open() as file:
    first = next(csv.DictReader(file))
  assert float(first['acceptance']) == counts['community_acceptance']


@pytest.fixture
def unsaved(monkeypatch):
  """Figures are drawn and dropped, which saves most of the time."""

  monkeypatch.setattr(
    result, 'render', lambda drawing: result.Picture(b'', b'')
  )


@pytest.mark.usefixtures('unsaved')
def test_missing_splits_are_named(tmp_path, capsys):
  whole = big().splits

  def without(*names, **changed):
    out = tmp_path / '-'.join((*names, 'and', *changed))
    out.mkdir()
    splits = {k: v for k, v in whole.items() if k not in names} | changed
    run(out, source(**splits))
    return capsys.readouterr().out, {path.name for path in out.glob('*')}

  told, files = without('train')
  assert 'run has no train split: skipped' in told and not files
  told, files = without('unseen')
  assert 'no unseen images: only the risk on seen images' in told
  assert {'novelty.json', 'novelty_predictions.csv'} <= files
  assert 'n/a' in told
  told, files = without('val')
  assert 'no val images: no thresholds and no predictions' in told
  assert 'novelty.json' in files and 'novelty_predictions.csv' not in files
  told, files = without('test')
  assert 'no test images: no measures' in told
  assert files == {'novelty_predictions.csv', 'novelty_thresholds.csv'}
  told, files = without(val=blobs([5, 5, 5], seed=2))
  assert '15 validation images are too few for thresholds at 95%' in told
  assert 'novelty_predictions.csv' not in files
  told, files = without(unseen=empty())
  assert 'no unseen images' in told and 'novelty.json' in files


def test_new_images_without_labels_are_predicted(tmp_path):
  new = blobs([3, 3], first=2, seed=9)
  new = new._replace(label=np.full(6, -1, np.int32), class_names=('other',))
  files = {k: big().splits[k] for k in ('train', 'val')}
  run(tmp_path, source(**files, fresh=new))
  with (tmp_path / 'novelty_predictions.csv').open() as file:
    rows = list(csv.DictReader(file))
  assert [row['id'] for row in rows[:6]] == new.id.tolist()
  assert {row['class'] for row in rows} == {''}
  assert {row['predicted'] for row in rows} <= {*NAMES[:3], 'unknown'}


@pytest.mark.usefixtures('unsaved')
def test_one_class_and_equal_rows(tmp_path, capsys):
  same = blobs([20], noise=0.0)
  run(tmp_path, source(train=same, val=same, test=same, unseen=same))
  scores = json.loads((tmp_path / 'novelty.json').read_text())['scores']
  for score in scores:
    assert score['auroc'] == score['oscr'] == 0.5
    assert score['accuracy'] == score['fpr_at_95'] == 1.0
    assert score['seen_accepted'] == 1.0 and score['unseen_unknown'] == 0.0
  assert 'nan' not in capsys.readouterr().out


@pytest.mark.usefixtures('unsaved')
def test_fewer_train_images_than_neighbours(tmp_path, capsys):
  run(tmp_path, big(train=blobs([3, 2, 1])))
  assert 'run has 6 train images: k = 6 neighbours' in capsys.readouterr().out
  text = (tmp_path / 'novelty.csv').read_text()
  assert 'neighbour 6' in text and 'neighbour 10' not in text


def test_bad_input_is_one_line(tmp_path):
  with pytest.raises(InputError, match='--neighbours=0'):
    run(tmp_path, big(), neighbours=0)
  with pytest.raises(InputError, match=r'--acceptance=1\.0'):
    run(tmp_path, big(), acceptance=1.0)
  with pytest.raises(InputError, match=r'\[6, 6, 7, 6\] dimensions'):
    run(tmp_path, big(test=blobs([5, 5], dim=7)))
