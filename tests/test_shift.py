"""Alarms on made shifts, none on exchangeable images, and left-out groups."""

import csv

import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from analysis import shift
from analysis.files.inputs import Embeddings
from analysis.measures import drift, fitted, left_out
from analysis.measures.drift import Rows
from plankton_jax.errors import InputError
from tests.analysis_runs import NAMES, blobs, run, save, source


def rows(counts, seed, move=0.0):
  found = blobs(counts, seed=seed, dim=4)
  return Rows(found.embedding + np.float32(move), found.label)


def test_the_statistic_is_that_of_loops():
  reference, sample = rows([4, 3], 1), rows([2, 3], 2)
  every = np.concatenate([sample.embedding, reference.embedding])
  label = np.concatenate([sample.label, reference.label])
  new = np.arange(12) < 5
  similarity = drift.kernel(every)
  found = drift.statistics(
    similarity, label, new, permutations=3, rng=np.random.default_rng(0)
  )
  gaps = [
    np.sum((every[i].astype(float) - every[j]) ** 2)
    for i in range(12)
    for j in range(i)
  ]
  np.testing.assert_allclose(
    similarity[3, 7],
    np.exp(-np.sum((every[3].astype(float) - every[7]) ** 2) / np.median(gaps)),
  )
  # The reference is weighted to the sample's two and three of five.
  signed = np.array(
    [0.2] * 5 + [-(2 / 5) / 4 if c == 0 else -(3 / 5) / 3 for c in label[5:]]
  )
  total = sum(
    signed[i] * signed[j] * similarity[i, j]
    for i in range(12)
    for j in range(12)
  )
  assert found[0] == pytest.approx(total)


def test_permutations_stay_within_the_predicted_class():
  # A kernel that marks class 1: only exchanges between classes would show.
  label = np.repeat([0, 1], [6, 6])
  new = np.tile([True, False, False], 4)
  inside = (label == 1).astype(float)
  found = drift.statistics(
    np.outer(inside, inside),
    label,
    new,
    permutations=20,
    rng=np.random.default_rng(0),
  )
  np.testing.assert_allclose(found, 0.0, atol=1e-12)


def test_false_alarms_are_about_as_many_as_said():
  rng = np.random.default_rng(3)
  alarms = 0
  for seed in range(200):
    # Other shares than the reference's, which are no shift.
    found = drift.test(
      rows([20, 6], 1000 + seed),
      rows([4, 8], 3000 + seed),
      permutations=39,
      rng=rng,
    )
    alarms += found.p <= 0.1
  assert 8 <= alarms <= 35, alarms  # 20 expected


def test_a_move_alarms_and_p_says_so():
  rng = np.random.default_rng(4)
  found = drift.test(
    rows([30, 30], 5), rows([10, 10], 6, 0.5), permutations=199, rng=rng
  )
  assert found == (20, 1 / 200)
  other = drift.test(rows([30], 5), rows([0, 9], 6), permutations=9, rng=rng)
  assert other.compared == 0 and np.isnan(other.p)


def test_power_grows_with_the_sample(monkeypatch):
  monkeypatch.setattr(drift, 'TRIALS', 10)
  monkeypatch.setattr(drift, 'CHECKS', 19)
  reference = rows([40, 40], 7)
  small, large = (
    drift.find_power(reference, size, level=0.06, rng=np.random.default_rng(8))
    for size in (4, 32)
  )
  assert large < small
  assert (
    drift.find_power(reference, 1, level=0.06, rng=np.random.default_rng(8))
    == np.inf
  )
  # Nothing can be told of copies of one image.
  copies = reference._replace(embedding=np.ones_like(reference.embedding))
  found = drift.find_power(copies, 8, level=0.06, rng=np.random.default_rng(8))
  assert found == np.inf


def test_alarms_are_those_of_holm():
  p = [0.04, 0.01, np.nan, 0.02, 0.012]
  assert drift.alarm(p, 0.05).tolist() == [False, True, False, False, True]
  assert drift.alarm([0.02, 0.04], 0.05).tolist() == [True, True]
  assert drift.alarm([0.03, 0.04], 0.05).tolist() == [False, False]


def test_what_to_label_is_far_from_all_and_from_each_other():
  labelled = np.array([[0.0, 0.0], [1.0, 0.0]], np.float32)
  new = np.array([[5, 0], [5, 0.1], [0, 3], [0, 0.2], [1, 0]], np.float32)
  found = drift.farthest_first(labelled, new, 4)
  assert found.tolist() == [1, 2, 3, 0]
  assert len(drift.farthest_first(labelled, new, 9)) == 5


def grouped(counts, seed, *, last=0.0):
  """Rows whose ids name cruise a, b or c; those of c are moved by `last`."""
  found = blobs(counts, seed=seed)
  cruise = np.array(['a', 'b', 'c'])[np.arange(len(found.label)) % 3]
  ids = [f'{c}_{id}' for c, id in zip(cruise, found.id, strict=True)]
  moved = found.embedding + np.float32(last) * (cruise == 'c')[:, None]
  return Embeddings(moved, found.label, np.array(ids), NAMES)


def made_run(last=0.0):
  return source(
    train=grouped([24, 24, 24], 1, last=last),
    val=grouped([24, 24, 24], 2, last=last),
    test=grouped([24, 24, 24], 3, last=last),
  )


def leave_one_out(made):
  whole = fitted.fit(made, None, acceptance=0.95)
  return left_out.by_group(made, whole, '^(.)_', 0.95)


def right_of_c(made, groups, first):
  """Labels val and test images of c by the centres of groups: which are right.

  Takes those of the classes from `first` on alone.
  """
  train = made.splits['train']
  keep = np.array([id[0] in groups for id in train.id])
  means = np.stack(
    [
      train.embedding[keep & (train.label == c)].astype(float).mean(axis=0)
      for c in range(3)
    ]
  )
  right = []
  for split in ('val', 'test'):
    for x, label, id in zip(*made.splits[split][:3], strict=True):
      if id[0] == 'c' and label >= first:
        right.append(np.sum((means - x) ** 2, axis=1).argmin() == label)
  return right


def test_a_class_of_one_group_alone_is_left_out_with_it():
  made = made_run()
  train = made.splits['train']
  ids = np.where(train.label == 0, [f'c{id[1:]}' for id in train.id], train.id)
  train = train._replace(id=ids)
  one = made._replace(splits=made.splits | {'train': train})
  line = leave_one_out(one)[0][2]
  right = right_of_c(one, 'abc', 1)
  assert (line['group'], line['images']) == ('c', len(right))
  assert line['accuracy_all'] == pytest.approx(np.mean(right))


def test_a_group_is_labelled_by_the_others_alone():
  lines, notes = leave_one_out(made_run())
  assert [line['group'] for line in lines] == ['a', 'b', 'c'] and not notes
  assert all(line['images'] == 48 for line in lines)
  one = lines[2]
  # The same by hand: centres of a and b label c's val and test images.
  right = right_of_c(made_run(), 'ab', 0)
  assert one['accuracy'] == pytest.approx(np.mean(right))
  moved, _ = leave_one_out(made_run(last=1.0))
  assert moved[2]['unknown'] > 0.5 > moved[2]['unknown_all']
  assert moved[0]['unknown'] < 0.3


def test_new_samples_alarm_and_are_to_be_labelled(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(drift, 'TRIALS', 3)
  monkeypatch.setattr(drift, 'CHECKS', 19)
  parts = [blobs([9, 3, 12], seed=seed) for seed in (5, 6)]
  moved = parts[1].embedding + np.float32(0.4)
  new = Embeddings(
    np.concatenate([parts[0].embedding, moved]),
    np.full(48, -1),
    np.array([f's{i // 24}_{i:02}.png' for i in range(48)]),
    (),
  )
  images = str(save(tmp_path / 'new.npz', new))
  found = run(
    shift,
    [made_run()],
    tmp_path / 'out',
    asked=shift.Asked(images, by='^([a-z][0-9]?)_', label_first=5),
  )
  told = capsys.readouterr().out
  assert 'sample s1 looks unlike anything outside of training; label 5' in told
  assert 'of the spread of classes' in told
  with (tmp_path / 'out/samples.csv').open() as file:
    same, other = csv.DictReader(file)
  assert (same['sample'], same['alarm'], same['images']) == (
    's0',
    'False',
    '24',
  )
  assert other['alarm'] == 'True' and float(other['p']) == pytest.approx(0.001)
  with (tmp_path / 'out/label_first.csv').open() as file:
    chosen = list(csv.DictReader(file))
  assert {line['sample'] for line in chosen} == {'s1'} and len(chosen) == 5
  assert (tmp_path / 'out/samples.png').stat().st_size > 10_000
  assert (tmp_path / 'out/groups.png').stat().st_size > 10_000
  assert len(found.values['shift.json']['groups']) == 3


def test_groups_that_are_not_left_out_are_named(monkeypatch):
  monkeypatch.setattr(left_out, 'MOST_GROUPS', 3)
  made = made_run()
  train, test = made.splits['train'], made.splits['test']
  ids = np.array([f'a{id[1:]}' for id in train.id])
  few = np.array(['d_1', 'd_2', *test.id[2:]])
  splits = {'train': train._replace(id=ids), 'test': test._replace(id=few)}
  one = made._replace(splits=made.splits | splits)
  lines, notes = leave_one_out(one)
  assert [line['group'] for line in lines] == ['b', 'c']
  assert notes == [
    '4 groups: the 3 of most images are left out',
    'a has all train images: not left out',
  ]


def test_bad_input_is_told_in_one_line(tmp_path):
  images = str(save(tmp_path / 'new.npz', blobs([3], seed=1)))

  def refuse(match, one=None, **fields):
    with pytest.raises(InputError, match=match):
      shift.analyse([one or made_run()], shift.Asked(**fields))

  refuse('all images are of one group', by='_')
  refuse('72 of 72 images have no such group', by='sample')
  refuse('--alarm_level=1', by='^(.)_', alarm_level=1.0)
  refuse('--label_first=0', by='^(.)_', label_first=0)
  refuse('no labelled train', source(val=blobs([3])), by='^(.)_')
  alone = source(train=grouped([9, 9], 1))
  refuse('val or test images: only those', alone, by='^(.)')
  refuse('val or test images: only those', alone, by='^(.)', images=images)


def test_flags_reach_the_analysis(monkeypatch):
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  called = []
  monkeypatch.setattr(shift, 'analyse', lambda _, asked: called.append(asked))
  with flagsaver.flagsaver(
    by='x', label_first=7, alarm_level=0.1, images='new'
  ):
    shift.asked([made_run()])
  shift.asked([made_run()])
  assert called == [
    shift.Asked('new', by='x', label_first=7, alarm_level=0.1),
    shift.Asked(),
  ]
