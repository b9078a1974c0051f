"""Groups of like images, against loops, and the command that finds them."""

import math

import numpy as np
import pytest
from scipy.sparse import csgraph

from analysis import discover
from analysis.files import folders, inputs, originals
from analysis.measures import groups
from plankton_jax.errors import InputError
from plankton_jax.neighbours import search
from tests import shades
from tests.analysis_runs import blobs, run, source


@pytest.fixture(autouse=True)
def pictures(monkeypatch):
  monkeypatch.setattr(
    originals,
    'reader',
    lambda source: lambda key: np.full((5, 9), 90, np.uint8),
  )


def test_separate_blobs_are_groups_and_a_lone_row_is_the_last_of_one():
  rows = blobs([30, 20, 40], noise=0.05, dim=40)
  lone = np.zeros((1, 40), np.float32)
  lone[0, 35] = -1.0
  found = groups.find(np.concatenate([rows.embedding, lone]), smallest=15)
  assert len(rows.id) in [some[-1] for some in found.order]
  assert np.bincount(found.of[:-1]).tolist() == [40, 30, 20]
  for g, label in enumerate((2, 0, 1)):
    np.testing.assert_array_equal(found.of[:-1] == g, rows.label == label)
  agreement = groups.agreement(found._replace(of=found.of[:-1]), rows.label)
  assert agreement == pytest.approx(
    {'groups': 3, 'grouped': 1, 'pure': 1, 'ami': 1, 'branches_ami': 1}
  )


def test_closest_matches_loops():
  rng = np.random.default_rng(0)
  points = rng.normal(size=(40, 3)).astype(np.float32)
  candidates = np.stack([rng.permutation(40)[:9] for _ in range(40)])
  distance, near = groups.closest(points, candidates, 4)
  for i in range(40):
    far = {int(j): math.dist(points[i], points[j]) for j in candidates[i]}
    wanted = sorted(far, key=far.__getitem__)[:4]
    assert near[i].tolist() == wanted
    np.testing.assert_allclose(distance[i], [far[j] for j in wanted], rtol=1e-6)


def test_a_graph_in_parts_is_tied_by_edges_longer_than_any_other():
  rng = np.random.default_rng(1)
  middles = np.repeat([[0, 0], [50, 0], [0, 70]], 15, axis=0)
  points = (middles + rng.normal(size=(45, 2))).astype(np.float32)
  candidates = search.nearest(points, None, 12)[1]
  found = groups.graph(points, candidates)
  assert csgraph.connected_components(found, directed=False)[0] == 1
  assert abs(found - found.T).max() == 0
  part = np.repeat(np.arange(3), 15)
  start, end = found.nonzero()
  across = part[start] != part[end]
  weight = found.data
  assert across.sum() == 4  # two ties, both ways
  assert weight[across].min() > weight[~across].max()
  inside = groups.closest(points, candidates, groups.EDGES)[0]
  assert weight[~across].max() == pytest.approx(inside.max())


def test_centres_cohesion_and_order_match_loops():
  rng = np.random.default_rng(2)
  rows = rng.normal(size=(12, 4)).astype(np.float32)
  of = np.array([1, 0, 1, -1, 1, 0, 1, 2, 2, 2, 2, 2])
  found = groups.describe(rows, of, rows)
  assert found.of.tolist() == [1, 2, 1, -1, 1, 2, 1, 0, 0, 0, 0, 0]
  for g, old in enumerate((2, 1, 0)):
    members = [i for i in range(12) if of[i] == old]
    centre = rows[members].astype(np.float64).mean(axis=0)
    cosine = {
      i: float(rows[i] @ centre)
      / (np.linalg.norm(rows[i]) * np.linalg.norm(centre))
      for i in members
    }
    np.testing.assert_allclose(found.centres[g], centre)
    assert found.cohesion[g] == pytest.approx(np.mean(list(cosine.values())))
    wanted = sorted(members, key=cosine.__getitem__, reverse=True)
    assert found.order[g].tolist() == wanted
  assert found.tree.shape == (2, 4)
  assert len(set(groups.branches(found, 2).tolist())) == 2


def test_purity_counts_rows_of_groups_of_nine_tenths():
  of = np.array([0] * 10 + [1] * 10 + [groups.NONE] * 5)
  truth = np.array([7] * 9 + [3] + [3] * 8 + [7] * 2 + [3] * 5)
  assert groups.pure(of, truth) == 10 / 25


@pytest.mark.parametrize('count', [1, 2, 6, 60])
def test_copies_of_one_image_are_one_group_or_none(count):
  rows = np.tile(np.float32([0.6, 0.8, 0.0]), (count, 1))
  found = groups.find(rows)
  assert set(found.of.tolist()) == ({0} if count >= 5 else {groups.NONE})
  assert np.isfinite(found.cohesion).all()


def test_tables_name_the_nearest_class_and_the_images(tmp_path):
  made = source(
    workdir=tmp_path / 'run',
    train=blobs([20, 20, 20], seed=1),
    val=blobs([9, 9, 9], seed=2),
    unseen=blobs([30, 0, 20], noise=0.02, seed=4),
  )
  found = run(discover, [made], tmp_path, smallest=12)
  lines, members = found.tables['groups.csv'], found.tables['images.csv']
  assert [(o['images'], o['nearest_class'], o['most_are']) for o in lines] == [
    (30, 'ant', 'ant'),
    (20, 'cat', 'cat'),
  ]
  assert [one['purity'] for one in lines] == [1.0, 1.0]
  rows = made.splits['unseen']
  assert [one['id'] for one in members] == rows.id.tolist()
  assert [one['group'] for one in members] == [
    {0: 0, 2: 1}[label] for label in rows.label.tolist()
  ]
  first = next(one for one in members if one['rank'] == 0)
  assert first['id'] in [one['most_central'] for one in lines]
  (join,) = found.tables['tree.csv']
  assert (join['one'], join['other'], join['groups']) == (0, 1, 2)
  assert found.values['discover.json']['ami'] == pytest.approx(1.0)
  page = (tmp_path / 'discover.html').read_text()
  assert page.count('class="picture"') == 16 and 'Group 1 ' in page


def test_only_what_no_class_takes_is_grouped(tmp_path):
  made = source(
    workdir=tmp_path / 'run',
    train=blobs([20, 20], noise=0.05, seed=1),
    val=blobs([30, 30], noise=0.05, seed=2),
    unseen=blobs([25, 0, 20], noise=0.02, seed=4),
  )
  found = run(discover, [made], tmp_path, among='unknown')
  rows = made.splits['unseen']
  ids = [one['id'] for one in found.tables['images.csv']]
  assert ids == rows.id[rows.label == 2].tolist()


def test_files_alone_are_grouped_without_classes_or_pictures():
  rows = blobs([20, 20], noise=0.02)._replace(label=np.full(40, -1))
  files = inputs.Source('rows', {'rows': rows}, None, None)
  found = discover.analyse([files])
  assert len(found.tables['groups.csv']) >= 2
  assert 'nearest_class' not in found.tables['groups.csv'][0]
  assert 'ami' not in found.values['discover.json']
  page = found.files['discover.html']
  assert page is not None


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'splits': ['night']}, "no split 'night'"),
    ({'smallest': 1}, '--smallest=1'),
    ({'smallest': 500}, 'fewer than --smallest=500'),
    ({'images': '/nowhere'}, '/nowhere is not a folder'),
    ({'acceptance': 2.0}, 'acceptance'),
  ],
)
def test_bad_options_are_refused(options, message, tmp_path):
  made = source(workdir=tmp_path / 'run')
  with pytest.raises(InputError, match=message):
    discover.analyse([made], **options)
  with pytest.raises(InputError, match='discover takes one --workdir'):
    discover.analyse([made, made])


def test_unknown_needs_thresholds():
  files = inputs.Source('rows', {'rows': blobs([20])}, None, None)
  with pytest.raises(InputError, match='--among=unknown needs thresholds'):
    discover.analyse([files], among='unknown')


def test_a_folder_is_embedded_and_its_unreadable_files_listed(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(folders, 'encoder', lambda source: shades.Encoder())
  for i in range(8):
    shades.write(tmp_path / f'new/{i}.png', 30 + i)
  (tmp_path / 'new/ba\td.png').write_bytes(b'no image')
  made = shades.run(tmp_path / 'run')
  found = run(discover, [made], tmp_path, images=str(tmp_path / 'new'))
  assert len(found.tables['images.csv']) == 8
  assert (tmp_path / 'skipped.txt').read_text().startswith('ba\\td.png\t')
  assert {one['nearest_class'] for one in found.tables['groups.csv']} == {
    'dark'
  }
  # An export's objects are grouped in the same way.
  again = discover.analyse([made], export=str(tmp_path / 'new'))
  assert again.tables == found.tables
  with pytest.raises(InputError, match='exclude each other'):
    discover.analyse([made], images='a', export='b')
