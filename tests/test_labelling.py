"""The simulated person of benchmarks.labelling, and what it counts."""

import numpy as np
import pytest

from analysis.measures import groups
from analysis.review.choice import View
from analysis.review.refit import Known
from benchmarks import labelling
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
  return labelling.Task(
    rows, rows.embedding, known, groups.find(rows.embedding)
  )


def test_the_line_is_put_where_it_pays_most(careful):
  truth = np.array(['ant'] * 6 + ['bee'] + ['ant'] * 3 + ['bee'] * 4)
  person = labelling.Person(truth, 0)
  view = View(np.arange(14), 6, 'ant')
  # 6 ants by one key beat 9 by three (take, mark a bee, move the line).
  keys, rows, odd, name = labelling.best(view, person)
  assert (keys, rows.tolist(), odd.tolist(), name) == (
    1,
    [*range(6)],
    [],
    'ant',
  )
  # From a line at 3 that is two keys; another name costs its letters.
  keys, rows, odd, _ = labelling.best(view._replace(line=3), person)
  assert (keys, rows.tolist()) == (2, [*range(6)])
  keys, rows, odd, _ = labelling.best(view._replace(name='bee'), person)
  assert (
    keys == labelling.TAKE + labelling.MARK + labelling.MOVE + labelling.NAME
  )
  assert rows.tolist() == [*range(6), 7, 8, 9] and odd.tolist() == [6]


@pytest.mark.parametrize('way', labelling.WAYS)
def test_every_way_labels_every_image_rightly(task, careful, way):
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
