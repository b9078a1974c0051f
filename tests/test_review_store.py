"""What a review keeps, whoever decides, undoes, or is killed."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest

from analysis.review import store
from analysis.review.store import Store
from plankton_jax.errors import InputError
from tests import review_images

IDS = [f'{i}.png' for i in range(8)]
GROUPS = np.array([0, 0, 0, 1, 1, 1, -1, -1])


@pytest.fixture
def opened(tmp_path):
  log = Store(tmp_path / 'review.sqlite', IDS, GROUPS)
  yield log
  log.close()


@pytest.fixture
def review(tmp_path):
  made = review_images.session(tmp_path)
  yield made
  made._log.close()


def take(rows, name, odd=()):
  return {'rows': list(rows), 'name': name, 'odd': list(odd)}


def test_a_fold_leaves_out_what_was_undone_however_long_ago(opened):
  first = opened.append('Ann', 'take', take([0, 1, 2], 'ant', [3]))
  opened.append('Bob', 'take', take([2, 3], 'bee'))
  opened.append('Ann', 'split', {'rows': [4], 'group': 2})
  opened.append('Ann', 'join', {'group': 0, 'other': 1})
  state = store.fold(opened.events(), GROUPS)
  assert [state.names[i] if i >= 0 else '' for i in state.label] == [
    'ant', 'ant', 'bee', 'bee', '', '', '', '',
  ]  # fmt: skip
  assert state.group.tolist() == [0, 0, 0, 0, 2, 0, -1, -1]
  assert state.refused[state.names.index('ant')] == {3}
  assert state.decisions == 4
  opened.append('Ann', 'undo', {'event': first.seq})
  state = store.fold(opened.events(), GROUPS)
  assert state.names == ['bee']
  assert state.label.tolist() == [-1, -1, 0, 0, -1, -1, -1, -1]
  assert state.refused == {0: set()} and state.decisions == 3
  opened.append('Ann', 'redo', {'event': first.seq})
  again = store.fold(opened.events(), GROUPS)
  assert again.names == ['ant', 'bee']
  assert again.label.tolist() == [0, 0, 1, 1, -1, -1, -1, -1]
  assert GROUPS.tolist() == [0, 0, 0, 1, 1, 1, -1, -1]  # of the caller


def test_a_row_taken_after_all_is_no_longer_refused(opened):
  opened.append('Ann', 'take', take([0], 'ant', [1, 2]))
  opened.append('Ann', 'take', take([1], 'ant'))
  state = store.fold(opened.events(), GROUPS)
  assert state.names == ['ant'] and state.refused == {0: {2}}


def test_events_are_never_changed_or_removed(opened):
  opened.append('Ann', 'take', take([0], 'ant'))
  for statement in ("update events set who = 'Bob'", 'delete from events'):
    with pytest.raises(sqlite3.IntegrityError, match='events are never'):
      opened._db.execute(statement)


def test_reopening_reads_the_log_and_the_first_groups(tmp_path):
  path = tmp_path / 'review.sqlite'
  log = Store(path, IDS, GROUPS)
  made = log.append('Ann', 'take', take([0], 'Ünïcode "name"'))
  log.close()
  assert store.read(path).most == 1
  log = Store(path, IDS, np.zeros(8, int))
  assert log.events() == [made] and made.time.endswith('+00:00')
  assert log._db.execute('pragma synchronous').fetchone() == (2,)  # full
  assert log.groups.tolist() == GROUPS.tolist()
  log.append('Ann', 'split', {'rows': [0], 'group': 9})
  log.close()
  assert store.read(path).most == 9


def test_a_second_process_is_told_that_the_file_is_open(tmp_path, opened):
  code = (
    'import sys, numpy as np\n'
    'from analysis.review import store\n'
    'store.WAIT = 0.1\n'
    'try:\n'
    "  store.Store(__import__('pathlib').Path(sys.argv[1]), ['a'],"
    ' np.zeros(1, int))\n'
    'except store.InputError as error:\n'
    '  print(error)\n'
  )
  path = tmp_path / 'review.sqlite'
  run = subprocess.run(
    [sys.executable, '-c', code, str(path)],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert f'{path} is open elsewhere' in run.stdout


def test_other_images_and_other_files_are_refused(tmp_path):
  path = tmp_path / 'review.sqlite'
  Store(path, IDS, GROUPS).close()
  with pytest.raises(InputError, match='decisions on 8 other images'):
    Store(path, IDS[:-1], GROUPS[:-1])
  path.write_bytes(b'a text of some length ' * 50)
  with pytest.raises(InputError, match='not a file of decisions'):
    Store(path, IDS, GROUPS)


def test_a_kill_loses_nothing_that_was_committed(tmp_path):
  code = (
    'import pathlib, sys, numpy as np\n'
    'from analysis.review.store import Store\n'
    "log = Store(pathlib.Path(sys.argv[1]), ['a'], np.zeros(1, int))\n"
    'for i in range(10 ** 6):\n'
    "  log.append('Ann', 'take', {'rows': [0], 'name': f'{i}', 'odd': []})\n"
    '  print(i, flush=True)\n'
  )
  path = tmp_path / 'review.sqlite'
  run = subprocess.Popen(
    [sys.executable, '-c', code, str(path)],
    stdout=subprocess.PIPE, text=True,
  )  # fmt: skip
  said = [run.stdout.readline() for _ in range(25)]
  os.kill(run.pid, signal.SIGKILL)
  said += run.stdout.read().splitlines()
  run.stdout.close()
  run.wait()
  log = Store(path, ['a'], np.zeros(1, int))
  kept = [event.body['name'] for event in log.events()]
  log.close()
  heard = [line.strip() for line in said if line.strip()]
  assert kept[: len(heard)] == heard and len(kept) <= len(heard) + 1


def test_decisions_of_many_threads_are_all_kept(review):
  def decide(who):
    for row in range(12):
      review.decide(who, 'take', 10**6, take([row], who))

  threads = [
    threading.Thread(target=decide, args=(who,)) for who in ('Ann', 'Bob')
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  events = review.events()
  assert [event.seq for event in events] == list(range(1, 25))
  for who in ('Ann', 'Bob'):
    own = [e.body['rows'][0] for e in events if e.who == who]
    assert own == list(range(12))
  again = store.fold(review._log.events(), review.images.group)
  np.testing.assert_array_equal(again.label, review.state().label)


def test_what_another_decided_meanwhile_stays(review):
  seen = review.decide('Ann', 'take', 0, take([0, 3], 'ant')).seq
  late = review.decide('Bob', 'take', 0, take([0, 3, 6], 'bee'))
  assert (late.rows, late.left) == (1, 2)
  state = review.state()
  assert state.names[state.label[0]] == 'ant'
  assert state.names[state.label[6]] == 'bee'
  assert review.decide('Bob', 'take', seen, take([0], 'bee')).left == 0
  assert review.decide('Ann', 'clear', 0, {'rows': [3]}).left == 0
  assert review.state().label[3] == store.UNDECIDED
  assert review.decide('Bob', 'take', seen, take([3], 'bee')).left == 1
  assert review.decide('Ann', 'take', 0, take([6], 'cat')).rows == 0


def test_what_was_handed_out_no_later_decision_changes(review):
  review.decide('Ann', 'take', 0, take([0], 'ant', [1]))
  state, events = review.state(), review.events()
  before = [state.label.copy(), state.group.copy(), state.last.copy()]
  review.decide('Ann', 'take', 1, take([2], 'ant', [3, 4]))
  review.decide('Ann', 'take', 2, take([5], 'bee'))
  review.decide('Ann', 'split', 3, {'rows': [6]})
  for part, was in zip(state[1:4], before, strict=True):
    np.testing.assert_array_equal(part, was)
  assert state.names == ['ant'] and state.refused == {0: {1}}
  assert len(events) == 1


def test_a_row_given_twice_is_one_and_none_decides_nothing(review):
  assert review.decide('Ann', 'take', 0, take([2, 2], 'ant')).rows == 1
  assert review.decide('Ann', 'take', 1, take([], 'ant')).rows == 0
  assert len(review.events()) == 1


def test_images_of_no_group_are_no_group_to_join(tmp_path):
  images = review_images.make()
  images.group[11] = -1
  alone = review_images.session(tmp_path, images)
  with pytest.raises(InputError, match='join: give the numbers'):
    alone.decide('Ann', 'join', 0, {'group': 0, 'other': -1})
  alone._log.close()


@pytest.mark.parametrize('letters', [store.LONGEST, store.LONGEST + 1])
def test_names_are_stripped_and_of_a_length(letters):
  name = 'a' * letters
  if letters <= store.LONGEST:
    assert store.check_name(f' {name} ', 'name') == name
  else:
    with pytest.raises(InputError, match='name of 1 to 100 letters'):
      store.check_name(name, 'name')


def test_each_undoes_and_redoes_their_own_without_limit(review):
  for row in range(5):
    review.decide('Ann', 'take', 100, take([row], 'ant'))
    review.decide('Bob', 'take', 100, take([row + 6], 'bee'))
  for _ in range(5):
    assert review.undo('Ann').rows == 1
  assert review.undo('Ann').rows == 0
  state = review.state()
  assert np.flatnonzero(state.label >= 0).tolist() == [6, 7, 8, 9, 10]
  for _ in range(3):
    assert review.redo('Ann').rows == 1
  label = review.state().label
  assert np.flatnonzero(label >= 0).tolist() == [0, 1, 2, 6, 7, 8, 9, 10]
  review.decide('Ann', 'take', 100, take([5], 'cat'))
  assert review.redo('Ann').rows == 0  # a decision came after the undoing
  assert review.redo('Bob').rows == 0


def test_split_groups_have_numbers_that_no_undoing_changes(review):
  review.decide('Ann', 'split', 0, {'rows': [0, 3]})
  review.undo('Ann')
  review.decide('Ann', 'split', 0, {'rows': [6]})
  assert review.state().group[[0, 3, 6]].tolist() == [0, 0, 4]
  review.decide('Ann', 'join', 0, {'group': 4, 'other': 1})
  assert review.state().group.tolist() == [0, 4, 2, 0, 4, 2, 4, 4, 2, 0, 4, 2]


@pytest.mark.parametrize(
  ('kind', 'body', 'message'),
  [
    ('take', take([0], ' '), 'name: give a name'),
    ('take', take([0], 'a\nb'), 'name: give a name'),
    ('take', take([12], 'ant'), 'rows: give numbers of images, 0 to 11'),
    ('take', take([-1], 'ant'), 'rows:'),
    ('take', take([True], 'ant'), 'rows:'),
    ('take', {'rows': 'all', 'name': 'ant'}, 'rows:'),
    ('take', take([0], 'ant', [0]), 'both taken and left out'),
    ('join', {'group': 0, 'other': 9}, 'join: give the numbers'),
    ('drop', {'rows': [0]}, "'drop' is no decision"),
  ],
)
def test_bad_decisions_are_refused_and_not_kept(review, kind, body, message):
  with pytest.raises(InputError, match=message):
    review.decide('Ann', kind, 0, body)
  with pytest.raises(InputError, match='who: give a name'):
    review.decide('', 'take', 0, take([0], 'ant'))
  assert review.events() == []
