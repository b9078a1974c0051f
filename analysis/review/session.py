"""Holds a review: decisions, predictions from them, and lists to look at."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.formats.darwin_core import ARTEFACT, NOT_LIVING
from analysis.measures.openset import no_class
from analysis.review import choice, refit, store
from analysis.review.choice import Set, View
from analysis.review.prepare import Images
from analysis.review.refit import Predicted
from analysis.review.store import Event, State, Store
from plankton_jax.data.classes import meant
from plankton_jax.errors import InputError

NEAREST = 9  # classes that a digit chooses from
UNSURE = 500  # rows listed to be decided one by one


class Decided(NamedTuple):
  """Tells which rows a decision changed."""

  seq: int
  kind: str
  rows: int  # that it changed
  left: int  # that another person had decided meanwhile, left as they are


class Fitted(NamedTuple):
  """Predictions after the events up to `seq`."""

  seq: int
  predicted: Predicted


class Session:
  """Shared by the threads of the server."""

  def __init__(self, images: Images, log: Store) -> None:
    self.images = images
    self._log = log
    self._lock = threading.Lock()  # of the events and the state
    self._fitting = threading.Lock()
    self._events = log.events()
    self._state = store.fold(self._events, log.groups)
    self._fitted: Fitted | None = None

  def special(self) -> dict[str, str]:
    """Names what a key alone says: U, A and L.

    A class of the run that is another spelling of one is what is meant by it,
    but for unknown: see `no_class`.
    """
    known = self.images.known.names
    return {
      'u': no_class(known),
      'a': meant(ARTEFACT, known),
      'l': meant(NOT_LIVING, known),
    }

  def state(self) -> State:
    """Returns a copy that later decisions do not change."""
    with self._lock:
      return self._copy()

  def seq(self) -> int:
    """Returns the number of the last event."""
    with self._lock:
      return self._seq()

  def events(self) -> list[Event]:
    """Returns the log."""
    with self._lock:
      return list(self._events)

  def decide(
    self, who: str, kind: str, seen: int, body: Mapping[str, Any]
  ) -> Decided:
    """Commits a decision on the state after event `seen`.

    Rows that someone else has decided since stay as they are.

    Raises:
      InputError: the decision names no class, rows or groups that are there.
    """
    who = store.check_name(who, 'who')
    with self._lock:
      made, left = self._checked(who, kind, seen, body)
      rows = len(made.get('rows', ()))
      if not rows and kind != 'join':
        return Decided(self._seq(), kind, 0, left)
      event = self._append(who, kind, made)
      self._state = store.apply(self._state, event)
      return Decided(event.seq, kind, rows, left)

  def undo(self, who: str) -> Decided:
    """Undoes the last decision of a person that is in force, if any."""
    who = store.check_name(who, 'who')
    with self._lock:
      gone = store.undone(self._events)
      own = [
        event
        for event in self._events
        if event.who == who
        and event.kind in store.KINDS
        and event.seq not in gone
      ]
      return self._turn(who, 'undo', own[-1] if own else None)

  def redo(self, who: str) -> Decided:
    """Takes back a person's last undoing, if no decision came after it."""
    who = store.check_name(who, 'who')
    with self._lock:
      own = [event for event in self._events if event.who == who]
      after = [event.seq for event in own if event.kind in store.KINDS]
      gone = {
        by: seq
        for seq, by in store.undone(own).items()
        if by > (after[-1] if after else 0)
      }
      which = gone[max(gone)] if gone else None
      event = next((e for e in own if e.seq == which), None)
      return self._turn(who, 'redo', event)

  def fitted(self) -> Fitted:
    """Returns predictions that follow every decision, refitted if needed."""
    with self._fitting:
      with self._lock:
        seq = self._seq()
        if self._fitted is not None and self._fitted.seq == seq:
          return self._fitted
        state = self._copy()
      images = self.images
      predicted = refit.predict(
        images.white,
        refit.means(images.known, images.white, state),
        images.known.temperature,
        images.links,
        state,
        None if self._fitted is None else self._fitted.predicted,
      )
      self._fitted = Fitted(seq, predicted)
      return self._fitted

  def sets(self) -> list[Set]:
    """Lists groups and predicted classes, the most useful first."""
    predicted = self.fitted().predicted
    return choice.sets(self.state(), predicted, self.images.embedding)

  def view(self, kind: str, key: str) -> View:
    """Orders the images of a set, a decided name, a draw, or the unsure ones.

    Raises:
      InputError: there is no such list.
    """
    predicted, state = self.fitted().predicted, self.state()
    embedding = self.images.embedding
    if kind == 'drawn' and self.images.drawn is not None:
      return choice.drawn(state, self.images.drawn)
    if kind == 'unsure':
      return choice.unsure(state, predicted, self.images.density, UNSURE)
    if kind == 'decided' and key in state.names:
      return choice.decided(state, embedding, state.names.index(key))
    if kind == 'group' and key.isdecimal():
      return choice.of_group(state, predicted, embedding, int(key))
    if kind == 'class' and key in predicted.names:
      return choice.of_class(state, predicted, predicted.names.index(key))
    raise InputError(f'there is no list {kind!r} of {key!r}')

  def like(self, rows: Sequence[int]) -> View:
    """Orders what is most like some rows after them."""
    chosen = self._rows(rows)
    if not len(chosen):
      raise InputError('rows: choose an image first')
    predicted = self.fitted().predicted
    return choice.like(self.state(), predicted, self.images.embedding, chosen)

  def nearest(self, row: int) -> list[str]:
    """Lists the classes that an image is likeliest of."""
    return self.names(self._rows([row]))

  def names(self, rows: np.ndarray) -> list[str]:
    """Lists the classes that rows are likeliest of, for the keys 1 to 9."""
    return choice.likeliest(self.fitted().predicted, rows, NEAREST)

  def _seq(self) -> int:
    return self._events[-1].seq if self._events else 0

  def _copy(self) -> State:
    state = self._state
    return state._replace(
      names=list(state.names),
      label=state.label.copy(),
      group=state.group.copy(),
      last=state.last.copy(),
      refused={name: set(rows) for name, rows in state.refused.items()},
    )

  def _append(self, who: str, kind: str, body: Mapping[str, Any]) -> Event:
    event = self._log.append(who, kind, body)
    self._events.append(event)
    return event

  def _turn(self, who: str, kind: str, event: Event | None) -> Decided:
    if event is None:
      return Decided(self._seq(), kind, 0, 0)
    made = self._append(who, kind, {'event': event.seq})
    self._state = store.fold(self._events, self._log.groups)
    return Decided(made.seq, kind, len(event.body.get('rows', ())), 0)

  def _rows(self, rows: object) -> np.ndarray:
    if not isinstance(rows, Sequence) or not all(
      type(row) is int and 0 <= row < len(self.images.ids) for row in rows
    ):
      raise InputError(
        f'rows: give numbers of images, 0 to {len(self.images.ids) - 1}'
      )
    return np.array(list(dict.fromkeys(rows)), int)

  def _checked(
    self, who: str, kind: str, seen: int, body: Mapping[str, Any]
  ) -> tuple[dict[str, Any], int]:
    """Returns the body to keep, and how many rows it leaves to others."""
    if kind == 'join':
      pair = [body.get('group'), body.get('other')]
      present = set(self._state.group[self._state.group >= 0].tolist())
      if any(type(g) is not int or g not in present for g in pair):
        raise InputError('join: give the numbers of two groups')
      return {'group': pair[0], 'other': pair[1]}, 0
    if kind not in store.KINDS:
      raise InputError(f'{kind!r} is no decision; give {list(store.KINDS)}')
    if type(seen) is not int:
      raise InputError('seen: give the number of the last event')
    rows = self._rows(body.get('rows'))
    by_other = np.array(
      [self._other(who, seen, event) for event in self._state.last[rows]], bool
    )
    made: dict[str, Any] = {'rows': rows[~by_other].tolist()}
    if kind == 'take':
      made['name'] = self._name(body.get('name'))
      made['odd'] = self._rows(body.get('odd', [])).tolist()
      if set(made['odd']) & set(made['rows']):
        raise InputError('odd: an image is both taken and left out')
    elif kind == 'split':
      made['group'] = (
        int(max(self._state.group.max(initial=-1), self._most)) + 1
      )
    return made, int(by_other.sum())

  def _name(self, given: object) -> str:
    """Returns the class that is meant by a name, which may be a new one."""
    names = {*self.images.known.names, *self._state.names}
    names |= set(self.special().values())
    return meant(store.check_name(given, 'name'), names)

  @property
  def _most(self) -> int:
    """Finds the largest number that any event gave to a group."""
    given = [e.body['group'] for e in self._events if e.kind == 'split']
    return max(given, default=-1)

  def _other(self, who: str, seen: int, seq: int) -> bool:
    """Tells whether an event came after `seen` from someone else."""
    if seq <= seen:
      return False
    # Numbers of events begin at 1 and none is missing.
    return self._events[seq - self._events[0].seq].who != who
