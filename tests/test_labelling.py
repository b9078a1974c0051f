"""What benchmarks.labelling and .discovery count."""

import numpy as np
import pytest

from analysis.measures import groups
from analysis.review import refit
from analysis.review.choice import View
from analysis.review.refit import Known, Predicted
from benchmarks import discovery, labelling
from plankton_jax.errors import InputError
from tests import analysis_runs


@pytest.fixture
def careful(monkeypatch):
  """A person who makes no mistakes."""
  monkeypatch.setattr(labelling, 'MISTAKES', 0.0)


@pytest.fixture(scope='module')
def task():
  rows = analysis_runs.blobs([40, 30, 30], noise=0.1, seed=5)
  known = Known(('ant', 'bee'), np.eye(2, 6), np.array([5, 5]), 0.2, np.eye(6))
  found = groups.find(rows.embedding)
  links = refit.link(rows.embedding, found.near)
  return labelling.Task(rows, rows.embedding, known, found, links)


def likely(count, names):
  """Predictions by which all classes are likely of all rows."""
  chance = np.full((count, len(names)), 1 / len(names), np.float32)
  ones = np.ones(count)
  return Predicted(names, np.zeros(count, int), ones, ones, chance)


def test_the_line_is_put_where_it_pays_most(careful):
  truth = np.array(['ant'] * 6 + ['bee'] + ['ant'] * 3 + ['bee'] * 4)
  person = labelling.Person(truth, 0)
  view, both = View(np.arange(14), 6, 'ant'), likely(14, ('ant', 'bee'))
  # 6 ants by one key beat 10 images by three (take, name a bee, move the line).
  found = labelling.best(view, both, person)
  assert (found.keys, found.rows.tolist(), found.name) == (
    1,
    [*range(6)],
    'ant',
  )
  assert not found.named and not found.odd.size
  # From a line at 2 these are two keys, and one more has 4 images to give.
  short = view._replace(line=2)
  found = labelling.best(short, both, person)
  assert (found.keys, found.named) == (3, [(6, 'bee')])
  assert found.rows.tolist() == [*range(6), 7, 8, 9] and not found.odd.size
  # A digit stands for another name; one that is not likely is typed.
  assert labelling.best(view._replace(name='bee'), both, person).keys == 1
  other = labelling.best(
    view._replace(name='bee'), likely(14, ('bee',)), person
  )
  assert other.keys == labelling.TAKE + labelling.NAME and other.name == 'ant'
  # An odd one for which no digit stands is marked, and has no name yet.
  found = labelling.best(short, likely(14, ('ant',)), person)
  assert found.odd.tolist() in ([], [6]) and not found.named


def test_one_in_twenty_is_left_in(careful):
  truth = np.array(['ant'] * 19 + ['bee', 'ant', 'bee'] + ['ant'] * 18)
  view = View(np.arange(40), 40, 'ant')
  person = labelling.Person(truth, 0)
  found = labelling.best(view, likely(40, ('ant', 'bee')), person)
  assert (found.keys, found.rows.tolist()) == (1, [*range(40)])
  truth[5] = 'cow'  # which no digit names: it stays, and a bee is named
  found = labelling.best(view, likely(40, ('ant', 'bee')), person)
  assert (found.keys, len(found.rows)) == (2, 39)
  assert found.named in ([(19, 'bee')], [(21, 'bee')])


@pytest.mark.parametrize('way', labelling.WAYS)
def test_every_way_labels_every_image_rightly(task, careful, way, monkeypatch):
  monkeypatch.setattr(labelling, 'LEFT', 0.0)
  found = labelling.curve(task, way, seed=0)
  assert found.labelled[-1] == found.right[-1] == 100
  assert (np.diff(found.labelled) >= 0).all() and (
    np.diff(found.keys) > 0
  ).all()
  if way == 'review':
    assert found.keys[-1] < 30
  if way == 'file by file':
    # A key for each image of the two known classes, a name for the others.
    assert found.keys[-1] == 70 + 30 * labelling.NAME


def test_mistakes_are_as_many_as_said(task, monkeypatch):
  monkeypatch.setattr(labelling, 'MISTAKES', 0.3)
  wrong = [
    100 - labelling.curve(task, 'file by file', seed).right[-1]
    for seed in range(20)
  ]
  # Of three classes drawn for a mistake one is the right one.
  assert np.mean(wrong) == pytest.approx(30 * 2 / 3, abs=3)


def test_decisions_to_a_share_are_read_off_the_curve():
  one = labelling.Curve(
    np.array([0, 1, 5, 9]),
    np.array([0, 40, 70, 100]),
    np.array([0, 38, 60, 85]),
  )
  assert labelling.reached(one, 0.5) == (5.0, pytest.approx(60 / 70))
  assert labelling.reached(one, 0.85) == (9.0, 0.85)
  assert np.isnan(labelling.reached(one, 0.9)).all()
  line = labelling.summary('test', 'review', [one, one])
  assert line['decisions to 50%'] == 5
  assert line['right a decision to 50%'] == 10


def test_tables_and_figure_of_a_run(tmp_path):
  source = analysis_runs.source(workdir=tmp_path / 'run')
  found = labelling.analyse(source, ['test', 'test+unseen'], seeds=1)
  lines = found.tables['labelling.csv']
  assert [line['pile'] for line in lines] == ['test'] * 4 + ['test+unseen'] * 4
  analysis_runs.result.write(found, tmp_path)
  assert (tmp_path / 'labelling.png').stat().st_size > 1000
  with pytest.raises(InputError, match='no night split'):
    labelling.analyse(source, ['night'], seeds=1)


def test_ways_to_group_are_compared_in_each_space():
  rows = analysis_runs.blobs([30, 20, 40], noise=0.05, dim=40)
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(90, 8)).astype(np.float32)
  lines = discovery.table(
    {'embeddings': rows.embedding, 'noise': noise}, rows.label
  )
  by = {(line['groups by'], line['of']): line for line in lines}
  assert len(by) == 6
  for way in ('discover', 'HDBSCAN', 'k-means, right k'):
    assert by[way, 'embeddings']['pure'] > 0.9
    assert by[way, 'noise']['ami'] < 0.2
  assert by['k-means, right k', 'embeddings']['groups'] == 3


def test_components_of_pixels_keep_their_distances():
  images = np.random.default_rng(0).integers(0, 256, (12, 9, 7, 1), np.uint8)
  found = discovery.pixels(images)
  flat = images.reshape(12, -1).astype(np.float64) / 255
  wanted = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
  apart = np.linalg.norm(found[:, None] - found[None], axis=-1)
  np.testing.assert_allclose(apart, wanted, atol=1e-4)
