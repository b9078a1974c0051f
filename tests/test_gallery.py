"""The gallery's ranks against loops, and what it does without images."""

import csv

import numpy as np

from analysis import gallery
from analysis.files import originals
from analysis.files.inputs import Embeddings, Source
from analysis.measures import classes, ranks
from analysis.page import lists
from tests.analysis_runs import run as run_analysis


def loops(embedding, label, this):
  """Rows by kind and the distance of each row, one row at a time."""
  own = [i for i in range(len(label)) if label[i] == this]
  centre = sum(embedding[i].astype(np.float64) for i in own) / len(own)
  far = [float(np.sqrt(((x - centre) ** 2).sum())) for x in embedding]
  kinds = {
    'nearest': sorted(own, key=lambda i: (far[i], i)),
    'farthest': sorted(own, key=lambda i: (-far[i], i)),
    'other': sorted(
      set(range(len(label))) - set(own), key=lambda i: (far[i], i)
    ),
  }
  return {kind: rows[:5] for kind, rows in kinds.items()}, far


def test_rank_matches_loops():
  rng = np.random.default_rng(0)
  embedding = rng.normal(size=(60, 5)).astype(np.float32)
  label = rng.choice([0, 2, 3, 7], size=60, p=[0.5, 0.3, 0.15, 0.05])
  found = ranks.rank(embedding, label)
  assert [one.label for one in found] == sorted(set(label))
  for one in found:
    kinds, far = loops(embedding, label, one.label)
    assert one.size == np.sum(label == one.label)
    for kind, rows in kinds.items():
      wanted = [far[i] for i in rows]
      np.testing.assert_allclose(one.distance[kind], wanted, rtol=1e-12)
    own = [far[i] for i in range(len(label)) if label[i] == one.label]
    np.testing.assert_allclose(one.median, np.median(own), rtol=1e-12)
    assert {k: rows.tolist() for k, rows in one.rows.items()} == kinds


def test_rank_of_duplicates_goes_by_index():
  embedding = np.tile(np.float32([[1.0, 0.0]]), (8, 1))
  found = ranks.rank(embedding, np.array([1, 0, 1, 1, 1, 1, 1, 1]))[1]
  assert found.rows['nearest'].tolist() == [0, 2, 3, 4, 5]
  assert found.rows['farthest'].tolist() == [0, 2, 3, 4, 5]
  assert found.rows['other'].tolist() == [1]


def test_rank_of_one_image_and_of_one_class():
  found = ranks.rank(np.float32([[3.0, 4.0]]), np.array([2]))[0]
  assert (
    found.rows['nearest'].tolist() == [0] == found.rows['farthest'].tolist()
  )
  assert found.rows['other'].size == 0
  assert found.distance['nearest'].tolist() == [0.0] == [found.median]


def source(tmp_path, workdir=True):
  rows = Embeddings(
    np.float32([[0, 0], [1, 0], [4, 0], [9, 0]]),
    np.int32([0, 0, 1, -1]),
    np.array(['a/1.png', 'a/2.png', 'b/1.png', 'x']),
    ('$a_$', '<b>'),
  )
  config = {'citation': 'Someone 2015'}
  where = (tmp_path, config) if workdir else (None, None)
  return Source('run', {'test': rows}, *where)


def test_analyse_draws_the_originals(tmp_path, monkeypatch, capsys):
  wanted = []

  def read(key):
    wanted.append(key)
    return np.full((3, 9) if key == 'a/1.png' else (9, 3, 3), 128, np.uint8)

  monkeypatch.setattr(originals, 'reader', lambda source: read)
  run = source(tmp_path)._replace(name='$run^$')
  run_analysis(gallery, [run], tmp_path, splits=['test', 'unseen'])
  said = capsys.readouterr().out
  assert 'gallery: $run^$ has no unseen split: skipped' in said
  assert 'gallery: $run^$, test: 1 rows have no label: left out' in said
  assert set(wanted) == {'a/1.png', 'a/2.png', 'b/1.png'}
  assert (tmp_path / 'gallery_$run^$_test_1.png').stat().st_size > 1000
  with (tmp_path / 'gallery.csv').open(newline='') as file:
    rows = list(csv.DictReader(file))
  other = [r for r in rows if r['class'] == '$a_$' and r['kind'] == 'other']
  assert [(r['id'], r['true_class'], float(r['distance'])) for r in other] == [
    ('b/1.png', '<b>', 3.5)
  ]


def test_many_classes_are_paged(tmp_path, monkeypatch):
  rows = Embeddings(
    np.eye(7, dtype=np.float32),
    np.arange(7, dtype=np.int32),
    np.arange(7).astype(str),
    tuple('abcdefg'),
  )
  run = Source('run', {'test': rows}, tmp_path, {'citation': ''})
  image = np.zeros((4, 4), np.uint8)
  monkeypatch.setattr(originals, 'reader', lambda source: lambda key: image)
  run_analysis(gallery, [run], tmp_path, splits=['test'])
  assert sorted(p.name for p in tmp_path.glob('*.png')) == [
    'gallery_run_test_1.png',
    'gallery_run_test_2.png',
  ]


def test_of_very_many_classes_the_largest_are_drawn(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(classes, 'MOST_SHOWN', 3)
  monkeypatch.setattr(classes, 'FEW_SHOWN', 2)
  monkeypatch.setattr(gallery, 'PAGE', 1)
  label = np.repeat(np.arange(4, dtype=np.int32), [1, 3, 1, 2])
  rows = Embeddings(
    np.eye(7, dtype=np.float32),
    label,
    np.arange(7).astype(str),
    tuple('abcd'),
  )
  run = Source('run', {'test': rows}, tmp_path, {'citation': ''})
  image = np.zeros((4, 4), np.uint8)
  monkeypatch.setattr(originals, 'reader', lambda source: lambda key: image)
  found = run_analysis(gallery, [run], tmp_path, splits=['test'])
  assert 'the 2 largest of 4 classes are shown' in capsys.readouterr().out
  assert len(list(tmp_path.glob('*.png'))) == 2
  table = found.tables['gallery.csv']
  assert {row['class'] for row in table} == set('abcd')
  assert {row['class'] for row in lists.shown(table)} == set('bd')


def test_without_a_workdir_the_numbers_remain(tmp_path, capsys):
  run_analysis(gallery, [source(tmp_path, False)], tmp_path, splits=['test'])
  assert 'gallery: run: images need a workdir' in capsys.readouterr().out
  assert (tmp_path / 'gallery.csv').exists()
  assert not list(tmp_path.glob('*.png'))


def test_an_only_image_has_no_distance_to_the_centre():
  found = Embeddings(
    np.float32([[1, 0], [0, 1], [0, 3]]), np.array([0, 1, 1]), np.array('abc'),
    ('ant', 'bee'),
  )  # fmt: skip
  ranked = ranks.rank(found.embedding, found.label)
  ant, bee = gallery.summary('run', 'test', found, ranked)
  own = ('nearest', 'median', 'farthest')
  assert np.isnan([ant[name] for name in own]).all()
  assert [bee[name] for name in own] == [1, 1, 1]
  assert ant['other'] == 2**0.5 and ant['of class'] == 'bee'
