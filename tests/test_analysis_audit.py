"""Flipped labels come first; near-duplicates are found, at any density."""

import json

import numpy as np
import pytest

from analysis import audit
from analysis.files import originals
from analysis.files.inputs import Embeddings
from analysis.measures import classes, suspects
from analysis.page import lists
from plankton_jax.errors import InputError
from plankton_jax.neighbours import search
from tests.analysis_runs import NAMES, blobs, make_report, source
from tests.analysis_runs import run as run_analysis
from tests.written import read_csv


def ranked(embedding, label):
  _, rows = search.nearest(embedding, None, suspects.NEIGHBOURS)
  return suspects.rank(rows, embedding, label)


def loops(embedding, label):
  """Score and suggested label of each row, one at a time; None if alone."""
  points = embedding.astype(float)
  found = []
  for i, x in enumerate(points):
    mine = [j for j in range(len(points)) if j != i and label[j] == label[i]]
    if not mine:
      found.append(None)
      continue
    far = np.linalg.norm(points - x, axis=1)
    order = sorted(
      (j for j in range(len(points)) if j != i), key=far.__getitem__
    )
    near = [label[j] for j in order[: min(10, len(mine))]]
    own = np.linalg.norm(x - points[mine].mean(axis=0))
    centre = {
      c: np.linalg.norm(x - points[label == c].mean(axis=0))
      for c in np.unique(label)
      if c != label[i]
    }
    other = min(centre.values())
    others = sum(c != label[i] for c in near)
    gap = (own - other) / (own + other)
    score = (others + (1 + gap) / 2) / (len(near) + 1)
    best = min(centre, key=lambda c: (-near.count(c), centre[c]))
    found.append((score, best, others / len(near), own - centre[best]))
  return found


@pytest.mark.parametrize('block', [classes.ENTRIES, 35])
def test_rank_matches_loops(block, monkeypatch):
  monkeypatch.setattr(classes, 'ENTRIES', block)  # 7 rows of 5 classes
  rows = blobs([30, 25, 4, 1, 12], noise=0.5, seed=3)
  label = 10 * rows.label + 1  # need not count from 0
  found = ranked(rows.embedding, label)
  wanted = loops(rows.embedding, label)
  judged = [i for i, one in enumerate(wanted) if one]
  assert len(judged) == 71  # the lone one is left out
  assert sorted(found.row) == judged
  for place, i in enumerate(found.row):
    score, suggested, others, margin = wanted[i]
    assert found.score[place] == pytest.approx(score, abs=1e-9)
    assert found.suggested[place] == suggested
    assert found.others[place] == pytest.approx(others)
    assert found.margin[place] == pytest.approx(margin)
  assert (np.diff(found.score) <= 0).all()
  assert found.score.min() >= 0.0 and found.score.max() <= 1.0


@pytest.mark.parametrize('seed', range(3))
def test_flipped_labels_come_first(seed):
  rows = blobs([400, 300, 200, 100], noise=0.33, seed=seed)
  rng = np.random.default_rng(seed)
  flipped = rng.choice(1000, 20, replace=False)
  label = rows.label.copy()
  label[flipped] = (label[flipped] + rng.integers(1, 4, 20)) % 4
  clean = ranked(rows.embedding, rows.label)
  assert np.sum(clean.others > 0.5) > 20  # the classes do overlap
  found = ranked(rows.embedding, label)
  first = found.row[:50]
  assert np.isin(flipped, first).sum() >= 15
  at = np.flatnonzero(np.isin(found.row, flipped))
  restored = found.suggested[at] == rows.label[found.row[at]]
  assert restored.mean() > 0.7


def test_a_rare_class_is_not_doubtful_for_being_rare():
  rng = np.random.default_rng(0)
  label = np.repeat([0, 1], [200, 4])
  embedding = np.eye(2, 8)[label] + 0.05 * rng.normal(size=(204, 8))
  found = ranked(embedding.astype(np.float32), label)
  rare = np.isin(found.row, np.arange(200, 204))
  assert (found.others == 0.0).all() and found.score[rare].max() < 0.2


def test_rank_of_equal_rows_is_finite():
  rows = np.ones((12, 3), np.float32)
  found = ranked(rows, np.repeat([0, 1, 2], 4))
  assert np.isfinite(found.score).all() and np.isfinite(found.margin).all()
  assert sorted(found.row) == list(range(12))


def test_duplicates_by_the_density_about_them():
  rng = np.random.default_rng(0)
  loose = rng.normal(size=(150, 8))
  tight = 50.0 + 0.001 * rng.normal(size=(150, 8))  # close, but all alike
  copies = np.stack(
    [loose[3] + 0.05, loose[7], tight[5] + 0.00002, tight[9] + 0.02]
  )
  embedding = np.concatenate([loose, tight, copies])
  found = suspects.duplicates(*search.nearest(embedding, None, 10))
  pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
  assert pairs == {(3, 300), (7, 301), (155, 302)}  # 303 is an outlier
  assert found.ratio[0] == found.distance[0] == 0.0
  assert (found.first[0], found.second[0]) == (7, 301)
  assert (np.diff(found.ratio) >= 0).all()
  distance, _ = search.nearest(embedding, None, 10)
  for a, b, far, ratio in zip(*found, strict=True):
    gap = embedding[a] - embedding[b]
    assert far == pytest.approx(np.linalg.norm(gap), abs=0)
    reach = min(distance[a, -1], distance[b, -1])
    assert ratio == pytest.approx(far / reach)
  # Larger or smaller by a factor, the pairs are the same.
  scaled = suspects.duplicates(*search.nearest(4.0 * embedding, None, 10))
  assert scaled.first.tolist() == found.first.tolist()


def test_duplicates_of_few_rows_and_of_equal_ones():
  def pairs(embedding):
    found = suspects.duplicates(*search.nearest(embedding, None, 10))
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))

  assert pairs(np.ones((0, 2))) == pairs(np.ones((1, 2))) == []
  assert pairs(np.ones((2, 2))) == [(0, 1)]
  assert pairs(np.arange(6.0).reshape(3, 2)) == []
  assert len(pairs(np.ones((5, 2)))) == 10


@pytest.fixture
def run(tmp_path, monkeypatch):
  """A workdir whose test split repeats a train image under another label."""
  names = ('$a_$', '<b>', 'c')
  train = blobs([30, 30, 1], seed=1)._replace(class_names=names)
  test = blobs([12, 12], seed=3)._replace(class_names=names)
  label = test.label.copy()
  test.embedding[4] = train.embedding[8]
  label[4] = 1 - train.label[8]
  test = test._replace(label=label)
  unseen = blobs([15], first=2, seed=4)._replace(class_names=names)
  shade = np.full((9, 12), 90, np.uint8)
  monkeypatch.setattr(originals, 'reader', lambda source: lambda key: shade)
  return source(workdir=tmp_path / 'run', train=train, test=test, unseen=unseen)


def test_analyse_lists_and_draws(run, tmp_path, capsys):
  run_analysis(audit, [run], tmp_path)
  rows = read_csv(tmp_path / 'audit.csv')
  twin = run.splits['train'].id[8]
  mislabelled = run.splits['test'].id[4]
  assert [int(row['rank']) for row in rows] == list(range(1, 85))
  assert {row['split'] for row in rows} == {'train', 'test'}
  (own,) = [row for row in rows if row['id'] == mislabelled]
  assert int(own['rank']) <= 4 and float(own['score']) > 0.9
  assert own['neighbour_1'] == twin
  assert own['suggested'] == own['neighbour_1_label'] != own['label']
  (pair,) = [
    row
    for row in read_csv(tmp_path / 'audit_duplicates.csv')
    if float(row['distance']) == 0.0
  ]
  assert (pair['id_a'], pair['split_a']) == (twin, 'train')
  assert (pair['id_b'], pair['split_b']) == (mislabelled, 'test')
  assert pair['across_splits'] == 'True'
  (summary,) = json.loads((tmp_path / 'audit.json').read_text())
  assert summary['images judged'] == 84
  assert summary['across splits'] >= 1 and summary['of two labels'] >= 1
  for name in ('audit_run.png', 'audit_run_pairs.png'):
    assert (tmp_path / name).stat().st_size > 5000
  assert 'Someone 2015' in (tmp_path / 'audit_run.svg').read_text()
  assert 'run: alone in its class, so not judged: c' in capsys.readouterr().out


def test_page_shows_each_with_its_neighbours(run):
  found = audit.analyse([run])
  labels = found.tables['audit.csv'][: audit.SHOWN]
  pairs = found.tables['audit_duplicates.csv'][: audit.SHOWN]
  known = {'run': {labels[0]['id']: 5}}
  first, second = lists.audits(labels, pairs, known)
  assert (first['source'], first['kind']) == ('run', 'labels')
  assert second['kind'] == 'pairs' and len(second['rows']) == len(pairs)
  pictures = first['rows'][0]['pictures']
  assert len(pictures) == 1 + lists.NEIGHBOURS
  assert [one['picture'] for one in pictures] == [5, -1, -1, -1, -1]
  assert pictures[2]['class'] == labels[0]['neighbour_2_label']


def test_report_has_the_audit(run, tmp_path):
  config = {**run.config, 'objective': {'name': 'triplet'}}
  page = make_report(
    [run._replace(config=config)], tmp_path, {'audit': audit.analyse}
  )
  section = page[page.index('<section id="audit">') :]
  section = section[: section.index('</section>')]
  assert 'alone in its class, so not judged: c' in section
  assert '<b>' not in section.replace('<b>audit:</b>', '')
  assert 'rather &lt;b&gt;' in section or 'rather $a_<wbr>$' in section
  pairs = read_csv(tmp_path / 'audit_duplicates.csv')
  shown = section.count('data-picture="')
  assert shown == (1 + lists.NEIGHBOURS) * audit.SHOWN + 2 * len(pairs)
  assert 'data-picture="-1"' not in section
  assert 'Pairs of near-duplicates' in page  # in the summary


def test_without_images_the_lists_remain(tmp_path, capsys):
  few = blobs([2, 2], seed=1)._replace(class_names=NAMES)
  unlabelled = Embeddings(
    few.embedding + 1.0, np.full(4, -1, np.int32), few.id, NAMES
  )
  run_analysis(audit, [source(a=few, b=unlabelled)], tmp_path)
  told = capsys.readouterr().out
  assert 'audit: run: images need a workdir' in told
  assert 'audit: run, b: no labelled images: skipped' in told
  rows = read_csv(tmp_path / 'audit.csv')
  assert len(rows) == 4 and 'neighbour_3' in rows[0]
  assert 'neighbour_4' not in rows[0]
  assert len(lists.images(rows[0])) == 4
  assert not list(tmp_path.glob('*.png'))


def test_rare_classes_are_not_judged():
  run = source(train=blobs([9, 9]), rare=blobs([2], first=2, seed=2))
  table = audit.analyse([run]).tables['audit.csv']
  assert {row['split'] for row in table} == {'train'} and len(table) == 18


def test_what_cannot_be_judged_is_named(tmp_path, capsys):
  run_analysis(audit, [source(train=blobs([9]))], tmp_path)
  assert 'all images are of one class: none' in capsys.readouterr().out
  run_analysis(audit, [source(unseen=blobs([9, 9]))], tmp_path)
  assert 'audit: run: no labels to judge' in capsys.readouterr().out
  assert read_csv(tmp_path / 'audit.csv') == []
  with pytest.raises(InputError, match='run: a, b have'):
    run_analysis(audit, [source(a=blobs([9]), b=blobs([9], dim=7))], tmp_path)
