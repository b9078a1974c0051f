"""Keeps every decision of a review in SQLite, and folds them to a state.

The log of events is append-only: a decision is one row, committed before the
browser hears of it. What is decided now is a fold of the log, so that undoing
an event means to fold without it, however long ago it was.
"""

import contextlib
import datetime
import json
import pathlib
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from plankton_jax.errors import InputError

FILE = 'review.sqlite'
UNDECIDED = -1  # label of a row that nobody has decided
LONGEST = 100  # letters of a name or a person
WAIT = 1.0  # seconds for another process to close the file

_SCHEMA = """
create table if not exists images (
  place integer primary key, id text not null unique, start_group integer
);
create table if not exists events (
  seq integer primary key autoincrement, time text not null,
  who text not null, kind text not null, body text not null
);
create trigger if not exists events_stay before update on events
  begin select raise(abort, 'events are never changed'); end;
create trigger if not exists events_remain before delete on events
  begin select raise(abort, 'events are never removed'); end;
"""


class Event(NamedTuple):
  """A decision, or the undoing of one."""

  seq: int
  time: str  # UTC, ISO 8601
  who: str
  kind: str  # of KINDS, or undo and redo
  body: Mapping[str, Any]


class State(NamedTuple):
  """Holds all that is decided of N rows."""

  names: list[str]  # in order of their first use
  label: np.ndarray  # [N] index into names, or UNDECIDED
  group: np.ndarray  # [N]; groups of its own begin after the first ones
  last: np.ndarray  # [N] the event that last touched each row; 0 for none
  refused: dict[int, set[int]]  # rows that are not of a name, by its index
  decisions: int  # events in force


def fold(events: Iterable[Event], group: np.ndarray) -> State:
  """Applies the events that are not undone to rows of some groups [N]."""
  events = list(events)
  gone = undone(events)
  label = np.full(len(group), UNDECIDED, np.int32)
  last = np.zeros(len(group), np.int64)
  state = State([], label, group.copy(), last, {}, 0)
  for event in events:
    if event.kind in KINDS and event.seq not in gone:
      state = apply(state, event)
  return state


def undone(events: Iterable[Event]) -> dict[int, int]:
  """Maps each event that is undone to the event that undid it."""
  gone: dict[int, int] = {}
  for event in events:
    if event.kind == 'undo':
      gone[event.body['event']] = event.seq
    elif event.kind == 'redo':
      gone.pop(event.body['event'], None)
  return gone


def apply(state: State, event: Event) -> State:
  """Applies one decision; changes the arrays of `state`."""
  KINDS[event.kind](state, event)
  return state._replace(decisions=state.decisions + 1)


def _take(state: State, event: Event) -> None:
  name = _index(state, event.body['name'])
  rows = np.array(event.body['rows'], int)
  state.label[rows] = name
  refused = state.refused.setdefault(name, set())
  refused.difference_update(event.body['rows'])
  refused.update(event.body['odd'])
  state.last[rows] = event.seq


def _clear(state: State, event: Event) -> None:
  rows = np.array(event.body['rows'], int)
  state.label[rows] = UNDECIDED
  state.last[rows] = event.seq


def _split(state: State, event: Event) -> None:
  rows = np.array(event.body['rows'], int)
  state.group[rows] = event.body['group']


def _join(state: State, event: Event) -> None:
  state.group[state.group == event.body['other']] = event.body['group']


def _index(state: State, name: str) -> int:
  if name not in state.names:
    state.names.append(name)
  return state.names.index(name)


KINDS = {'take': _take, 'clear': _clear, 'split': _split, 'join': _join}


class Stored(NamedTuple):
  """The images of a file of decisions, in the order of their rows."""

  ids: list[str]
  groups: np.ndarray  # [N] at the beginning
  most: int  # the largest number that a group has or ever had; -1 without any


def read(path: pathlib.Path) -> Stored:
  """Reads the images of a file; there are none where there is no file.

  Raises:
    InputError: another process has it open, or it is no such file.
  """
  if not path.exists():
    return Stored([], np.zeros(0, int), -1)
  with _explained(path), contextlib.closing(_connect(path)) as db:
    ids, groups = _images(db)
    (split,) = db.execute(
      "select max(json_extract(body, '$.group')) from events"
      " where kind = 'split'"
    ).fetchone()
  most = max(groups.max(initial=-1), -1 if split is None else split)
  return Stored(ids, groups, int(most))


def _images(db: sqlite3.Connection) -> tuple[list[str], np.ndarray]:
  """Reads the ids and first groups [N] of the images, by row."""
  found = db.execute(
    'select id, start_group from images order by place'
  ).fetchall()
  return [key for key, _ in found], np.array([group for _, group in found], int)


def _connect(path: pathlib.Path) -> sqlite3.Connection:
  db = sqlite3.connect(path, timeout=WAIT, check_same_thread=False)
  try:
    # A committed event survives the end of the process and of the power.
    db.execute('pragma locking_mode = exclusive')
    db.execute('pragma journal_mode = wal')
    db.execute('pragma synchronous = full')
    db.executescript(_SCHEMA)
  except sqlite3.DatabaseError:
    db.close()
    raise
  return db


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
  """Turns what SQLite raises into InputErrors."""
  try:
    yield
  except sqlite3.OperationalError as error:
    if 'locked' not in str(error):
      raise InputError(f'{path}: {error}') from None
    raise InputError(
      f'{path} is open elsewhere: end the other review, or give another folder'
      ' with --out'
    ) from None
  except sqlite3.DatabaseError as error:
    raise InputError(
      f'{path}: not a file of decisions ({error}); give another folder with'
      ' --out'
    ) from None


def check_name(name: object, field: str) -> str:
  """Returns a name of a class or person without spaces around it.

  Raises:
    InputError: it is empty, too long, or not printable text.
  """
  text = name.strip() if isinstance(name, str) else ''
  if not text or len(text) > LONGEST or not text.isprintable():
    raise InputError(f'{field}: give a name of 1 to {LONGEST} letters')
  return text


class Store:
  """An open file of decisions; only one process has it open at a time."""

  def __init__(
    self, path: pathlib.Path, ids: Sequence[str], groups: np.ndarray
  ) -> None:
    """Opens or makes the file.

    Args:
      path: of the file.
      ids: of the images, in the order of the rows; an existing file's first.
      groups: [N] of the rows at the beginning; those of an existing file stay.

    Raises:
      InputError: another process has it open, it is no such file, or it holds
        decisions on other images.
    """
    self._lock = threading.Lock()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _explained(path):
      self._db = _connect(path)
      try:
        self._open(path, ids, groups)
      except (sqlite3.DatabaseError, InputError):
        self._db.close()
        raise

  def _open(
    self, path: pathlib.Path, ids: Sequence[str], groups: np.ndarray
  ) -> None:
    known, before = _images(self._db)
    count = len(known)
    if known != list(ids[:count]):
      raise InputError(
        f'{path} holds decisions on {count:,} other images: give another folder'
        ' with --out'
      )
    places = range(count, len(ids))
    added = zip(places, ids[count:], groups[count:].tolist(), strict=True)
    with self._db:
      self._db.executemany('insert into images values (?, ?, ?)', added)
    self.groups = np.concatenate([before, groups[count:]])

  def append(self, who: str, kind: str, body: Mapping[str, Any]) -> Event:
    """Commits one event and returns it."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec='milliseconds')
    with self._lock, self._db:
      seq = self._db.execute(
        'insert into events (time, who, kind, body) values (?, ?, ?, ?)',
        (now, who, kind, json.dumps(body, separators=(',', ':'))),
      ).lastrowid
    assert seq is not None
    return Event(seq, now, who, kind, body)

  def events(self) -> list[Event]:
    """Reads the whole log, in order."""
    with self._lock:
      lines = self._db.execute('select * from events order by seq').fetchall()
    return [
      Event(seq, time, who, kind, json.loads(body))
      for seq, time, who, kind, body in lines
    ]

  def close(self) -> None:
    """Closes the file; another process may then open it."""
    self._db.close()
