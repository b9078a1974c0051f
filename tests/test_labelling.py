"""What benchmarks.labelling and .discovery count."""

import numpy as np
import pytest
from absl import flags

from analysis.files.inputs import Source
from analysis.files.pile import Pile
from analysis.measures import groups
from analysis.review import refit
from analysis.review.choice import View
from analysis.review.refit import Known, Predicted
from benchmarks import discovery, labelling, persons
from plankton_jax.errors import InputError
from tests import analysis_runs

EAGER, PATIENT = persons.DEMANDS


@pytest.fixture
def careful(monkeypatch):
  """A person who makes no mistakes."""
  monkeypatch.setattr(persons, 'MISTAKES', 0.0)


@pytest.fixture(scope='module')
def task():
  rows = analysis_runs.blobs([40, 30, 30], noise=0.1, seed=5)
  known = Known(('ant', 'bee'), np.eye(2, 6), np.array([5, 5]), 0.2, np.eye(6))
  found = groups.find(rows.embedding)
  links = refit.link(rows.embedding, found.near)
  return persons.Task(rows, rows.embedding, known, found, links)


def likely(count, names):
  """Predictions by which all classes are likely of all rows."""
  chance = np.full((count, len(names)), 1 / len(names), np.float32)
  ones = np.ones(count)
  return Predicted(names, np.zeros(count, int), ones, ones, chance)


def test_the_line_is_put_where_it_pays_most(careful):
  truth = np.array(['ant'] * 6 + ['bee'] + ['ant'] * 3 + ['bee'] * 4)
  person = persons.Person(truth, 0)
  view, both = View(np.arange(14), 6, 'ant'), likely(14, ('ant', 'bee'))
  # 6 ants by one key beat 10 images by three (take, name a bee, move the line).
  found = persons.best(view, both, person, EAGER)
  assert (found.keys, found.rows.tolist(), found.name) == (
    1,
    [*range(6)],
    'ant',
  )
  assert not found.named and not found.odd.size
  # From a line at 2 these are two keys, and one more has 4 images to give.
  short = view._replace(line=2)
  found = persons.best(short, both, person, EAGER)
  assert (found.keys, found.named) == (3, [(6, 'bee')])
  assert found.rows.tolist() == [*range(6), 7, 8, 9] and not found.odd.size
  # A digit stands for another name; one that is not likely is typed.
  assert persons.best(view._replace(name='bee'), both, person, EAGER).keys == 1
  other = persons.best(
    view._replace(name='bee'), likely(14, ('bee',)), person, EAGER
  )
  assert other.keys == persons.TAKE + persons.NAME and other.name == 'ant'
  # For less, one decision more takes seven images more.
  found = persons.best(view, both, person, PATIENT)
  assert (found.keys, len(found.rows), len(found.named)) == (4, 9, 1)
  # An odd one for which no digit stands is marked, and has no name yet.
  found = persons.best(short, likely(14, ('ant',)), person, EAGER)
  assert found.odd.tolist() in ([], [6]) and not found.named


def test_one_in_twenty_is_left_in(careful):
  truth = np.array(['ant'] * 19 + ['bee', 'ant', 'bee'] + ['ant'] * 18)
  view = View(np.arange(40), 40, 'ant')
  person = persons.Person(truth, 0)
  found = persons.best(view, likely(40, ('ant', 'bee')), person, EAGER)
  assert (found.keys, found.rows.tolist()) == (1, [*range(40)])
  truth[5] = 'cow'  # which no digit names: it stays, and a bee is named
  found = persons.best(view, likely(40, ('ant', 'bee')), person, EAGER)
  assert (found.keys, len(found.rows)) == (2, 39)
  assert found.named in ([(19, 'bee')], [(21, 'bee')])


@pytest.mark.parametrize('way', persons.WAYS)
def test_every_way_labels_every_image_rightly(task, careful, way, monkeypatch):
  monkeypatch.setattr(persons, 'LEFT', 0.0)
  found = labelling.curve(task, way, seed=0)
  assert found.labelled[-1] == found.right[-1] == 100
  assert (np.diff(found.labelled) >= 0).all() and (
    np.diff(found.keys) > 0
  ).all()
  if way == 'review':
    assert found.keys[-1] < 30
  if way == 'file by file':
    # A key for each image of the two known classes, a name for the others.
    assert found.keys[-1] == 70 + 30 * persons.NAME


def test_without_a_class_groups_come_first_all_the_same(task, careful):
  none = Known((), np.zeros((0, 6)), np.zeros(0, int), 0.2, np.eye(6))
  blank = task._replace(known=none)
  for way in persons.WAYS:
    found = labelling.curve(blank, way, seed=0)
    assert found.labelled[-1] == 100
    if way == 'review':
      assert found.keys[-1] < 40 and found.labelled[1] > 5
    elif way != 'groups once':
      assert found.keys[-1] == 100 * persons.NAME  # each is typed


def test_where_no_list_pays_images_that_teach_are_named(
  task, careful, monkeypatch
):
  monkeypatch.setattr(persons, 'DEMANDS', ())
  found = labelling.curve(task, 'review', seed=0)
  # Five times the list is opened; of cats, the first ones are typed.
  typed, rest = divmod(found.keys[-1] - 105, persons.NAME - 1)
  assert rest == 0 and 1 <= typed < persons.REFIT
  assert np.sum(np.diff(found.labelled) == 0) == 5


def test_a_list_passed_over_comes_again_when_it_promises_more(
  task, monkeypatch
):
  promised = iter([10.0, 11.0, 11.5, 12.1, *[0.0] * 9])
  seen = []

  def sets(state, predicted, embedding):
    return [persons.Set('group', 0, 'ant', 40, next(promised))]

  def best(view, predicted, person, demand):
    seen.append(demand.least)
    return persons.Taken(9, np.zeros(0, int), '', np.zeros(0, int), [])

  monkeypatch.setattr(persons.choice, 'sets', sets)
  monkeypatch.setattr(persons, 'best', best)
  list(persons.review(task, persons.Person(task.truth, 0)))
  # At 10, then at 11 for less, not at 11.5, and at 12.1.
  assert seen == [2.0, 1.3, 2.0]


def test_mistakes_are_as_many_as_said(task, monkeypatch):
  monkeypatch.setattr(persons, 'MISTAKES', 0.3)
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
  slow = one._replace(keys=2 * one.keys)
  line, text = labelling.summary('test', 'review', [one, slow])
  # Of two values the half is t(0.975, 1) = 12.706 times half their difference.
  assert line['decisions to 50%'] == 7.5
  assert line['decisions to 50% ±'] == pytest.approx(12.706 * 2.5, rel=1e-4)
  assert line['right a decision to 50%'] == (10 + 5) / 2
  assert line['persons'] == 2 and np.isnan(line['decisions to 90%'])
  assert text['decisions to 50%'] == '8 ± 32'
  assert text['decisions to 90%'] == '-'
  # Where one of them never reaches a share, the others' mean would flatter.
  best = one._replace(right=one.labelled)
  line, _ = labelling.summary('test', 'review', [best, one])
  assert np.isnan(line['decisions to 90%'])


def test_tables_and_figure_of_a_run(tmp_path):
  source = analysis_runs.source(workdir=tmp_path / 'run')
  found = labelling.analyse(source, ['test', 'test+unseen'], seeds=1)
  lines = found.tables['labelling.csv']
  assert [line['pile'] for line in lines] == ['test'] * 4 + ['test+unseen'] * 4
  analysis_runs.result.write(found, tmp_path)
  assert (tmp_path / 'labelling.png').stat().st_size > 1000
  with pytest.raises(InputError, match='no night split'):
    labelling.analyse(source, ['night'], seeds=1)


def test_class_folders_are_labelled_from_nothing(tmp_path, monkeypatch):
  rows = analysis_runs.blobs([12, 9], noise=0.1)
  rows = rows._replace(label=np.where(rows.label == 1, -1, rows.label))
  gathered = []

  def gather(source, *, images, splits):
    gathered.append(images)
    return Pile('here', rows, None, (), ())

  monkeypatch.setattr(labelling.pile, 'gather', gather)
  source = Source('plankton', {}, None, None, encoder='an encoder')
  found = labelling.analyse(source, [], seeds=1, images='there/here')
  assert gathered == ['there/here']
  line = found.tables['labelling.csv'][0]
  assert (line['pile'], line['way']) == ('here', 'review')
  assert line['decisions to 90%'] <= 12
  rows = rows._replace(label=np.full(21, -1))
  with pytest.raises(InputError, match='there/here: no image is in a class'):
    labelling.analyse(source, [], seeds=1, images='there/here')


@pytest.mark.parametrize(
  ('given', 'match'),
  [
    ([], 'give --workdir=DIR'),
    (['--workdir=a', '--encoder=b'], 'give --workdir=DIR'),
    (['--encoder=plankton'], '--images is missing'),
    (['--workdir=a', '--seeds=0'], '--seeds=0'),
  ],
)
def test_flags_that_name_nothing_are_refused(given, match):
  values = flags.FlagValues()
  labelling.define(values)
  values(['labelling', *given])
  with pytest.raises(InputError, match=match):
    labelling.main(values)


def test_ways_to_group_are_compared_in_each_space():
  rows = analysis_runs.blobs([30, 20, 40], noise=0.05, dim=40)
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(90, 8)).astype(np.float32)
  lines = discovery.table(
    {'embeddings': rows.embedding, 'noise': noise}, rows.label
  )
  by = {(line['groups by'], line['of']): line for line in lines}
  assert len(by) == 8
  assert by['k-means, 100', 'noise']['groups'] == 90  # one a row
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
