"""Simulates persons who label images, in four ways.

A person knows the truth, and of every hundred images judges two wrongly. A
decision is a click or a key (TAKE to NAME say what each thing costs); to look,
to scroll and to point costs nothing. As the aim is 95 % precision, in every way
the person leaves up to LEFT odd images in of all that one decision takes. Ways:

- review: analysis.review, with its lists, line, keys for the likeliest classes
  and predictions that follow each decision
- groups once: the groups of analysis.discover, each taken without its odd ones
  or rejected, then the rest one by one (MorphoCluster's way)
- predictions by class: pages of PAGE, the surest first, their odd ones named
  together by class (EcoTaxa's way)
- file by file: in any order, the prediction confirmed or replaced

The person of review opens the list that the page shows first, names the odd
ones in it by their digits, takes what is above the line, and passes over a list
that gives too few images a decision (DEMANDS). Where no list is left, it opens
those that it passed over once more, for fewer images. After these the page
shows the images whose decision teaches most: of them the person names REFIT one
by one, then goes on with the lists that promise more than before.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse

from analysis.files.inputs import Embeddings
from analysis.measures import groups
from analysis.review import choice, refit, store
from analysis.review.choice import Set, View
from analysis.review.refit import Known, Predicted
from analysis.review.store import Event

TAKE, MARK, MOVE, SKIP, OPEN = 1, 1, 1, 1, 1  # keys or clicks
NAME = 4  # N, two letters, Enter
MISTAKES = 0.02  # share of images judged wrongly
PAGE = 100  # images on a page of predictions
LOOKED = 300  # images of a list that a person looks over at most
LEFT = 0.05  # odd images that a person leaves in, of what a decision takes
GROWN = 1.2  # times more that a list passed over promises before it comes again
DIGITS = 9  # classes that one key names
REFIT = 20  # images named one by one before lists are looked at again


class Demand(NamedTuple):
  """Says what a person asks of a list."""

  least: float  # images a decision, or it is passed over
  worth: float  # images that one more decision must give
  opened: int  # decisions to open it


# The page opens lists by itself, but not again those that were passed over.
# Least is more than images named one by one give.
DEMANDS = (Demand(2.0, 2.5, 0), Demand(1.3, 1.3, OPEN))

Step = tuple[int, np.ndarray, str]  # keys, rows and the name they get


class Task(NamedTuple):
  """Images to label, and what is known before."""

  rows: Embeddings  # with true labels
  white: np.ndarray  # [N, D] as known.axes whitens them
  known: Known
  found: groups.Groups
  links: sparse.csr_array

  @property
  def truth(self) -> np.ndarray:
    """Names the true class of each row."""
    return np.array(self.rows.class_names)[self.rows.label]


def task(rows: Embeddings, known: Known) -> Task:
  """Makes the task to label some images."""
  white = rows.embedding @ known.axes
  found = groups.find(rows.embedding)
  return Task(rows, white, known, found, refit.link(rows.embedding, found.near))


class Person:
  """Knows the truth, and is wrong now and then."""

  def __init__(self, truth: np.ndarray, seed: int) -> None:
    self._truth = truth
    self._rng = np.random.default_rng(seed)
    self._names = np.unique(truth)

  def sees(self, rows: np.ndarray) -> np.ndarray:
    """Returns the class that the person takes each row for."""
    seen = self._truth[rows].copy()
    wrong = self._rng.random(len(rows)) < MISTAKES
    seen[wrong] = self._rng.choice(self._names, int(wrong.sum()))
    return seen

  def shuffled(self, count: int) -> np.ndarray:
    """Returns an order of rows that tells nothing."""
    return self._rng.permutation(count)


def review(task: Task, person: Person) -> Iterator[Step]:
  """Labels as analysis.review lets a person do."""
  state = store.fold([], task.found.of)
  predicted = at_first(task)
  events = 0

  def take(rows: Sequence[int], odd: Sequence[int], name: str) -> None:
    nonlocal state, events
    events += 1
    body = {'rows': list(rows), 'odd': list(odd), 'name': name}
    state = store.apply(state, Event(events, '', 'person', 'take', body))

  def refitted() -> Predicted:
    of = refit.means(task.known, task.white, state)
    scale = task.known.temperature
    return refit.predict(task.white, of, scale, task.links, state, predicted)

  def most_useful() -> tuple[Set, Demand] | None:
    sets = choice.sets(state, predicted, task.rows.embedding)
    for demand in DEMANDS:
      for one in sets:
        before = passed.get((one.kind, one.key, demand), 0.0)
        if one.likely >= demand.least and one.likely > GROWN * before:
          return one, demand
    return None

  # Lists that did not pay, by what they promised then.
  passed: dict[tuple[str, int, Demand], float] = {}
  while (state.label == store.UNDECIDED).any():
    if chosen := most_useful():
      one, demand = chosen
      view = (
        choice.of_group(state, predicted, task.rows.embedding, one.key)
        if one.kind == 'group'
        else choice.of_class(state, predicted, one.key)
      )
      found = best(view, predicted, person, demand)
      if len(found.rows) + len(found.named) < demand.least * found.keys:
        passed[one.kind, one.key, demand] = one.likely
        yield SKIP, np.zeros(0, int), ''
        continue
      for row, name in found.named:
        take([row], [], name)
        yield 1, np.array([row]), name
      take(found.rows.tolist(), found.odd.tolist(), found.name)
      yield found.keys - len(found.named), found.rows, found.name
    else:
      yield OPEN, np.zeros(0, int), ''
      unsure = choice.unsure(state, predicted, task.found.density, REFIT)
      for row in unsure.rows.tolist():
        (name,) = person.sees(np.array([row])).tolist()
        likely = choice.likeliest(predicted, np.array([row]), DIGITS)
        yield (1 if name in likely else NAME), np.array([row]), name
        take([row], [], name)
    predicted = refitted()


class Taken(NamedTuple):
  """Says what a person does with a list."""

  keys: int  # decisions, those that name odd ones among them
  rows: np.ndarray  # that are taken
  name: str  # which they get
  odd: np.ndarray  # rows above the line that are marked
  named: list[tuple[int, str]]  # and those that get their own name


def best(
  view: View, predicted: Predicted, person: Person, demand: Demand
) -> Taken:
  """Puts the line where the list gives most beyond what decisions are worth.

  Another name than the suggested one costs no more if a digit stands for it. Of
  the odd ones above the line a few are left in; each of the others is named by
  its digit or, where none stands for it, marked.
  """
  shown = view.rows[:LOOKED]
  seen = person.sees(shown)
  names, counts = np.unique(seen[: max(view.line, 1)], return_counts=True)
  name = str(names[counts.argmax()])
  fits = seen == name
  above = shown[: max(view.line, 1)]
  typed = name not in (view.name, *choice.likeliest(predicted, above, DIGITS))
  likely = [
    seen[i] in choice.likeliest(predicted, shown[i : i + 1], DIGITS)
    for i in range(len(shown))
  ]
  digit = ~fits & np.array(likely, bool)
  places = np.arange(1, len(shown) + 1)
  worked = np.maximum(np.cumsum(~fits) - left_in(places), 0)
  keys = demand.opened + TAKE + MARK * worked
  keys += MOVE * (places != view.line) + NAME * typed
  named = np.minimum(np.cumsum(digit), worked)
  end = int(np.argmax(np.cumsum(fits) + named - demand.worth * keys)) + 1
  odd = np.flatnonzero(~fits[:end])
  odd = odd[np.argsort(digit[odd], kind='stable')]  # left in: the costly first
  odd = odd[len(odd) - worked[end - 1] :]
  taken = np.ones(end, bool)
  taken[odd] = False
  return Taken(
    int(keys[end - 1]),
    shown[:end][taken],
    name,
    shown[odd[~digit[odd]]],
    [(int(shown[i]), str(seen[i])) for i in odd[digit[odd]]],
  )


def left_in(taken: np.ndarray) -> np.ndarray:
  """Counts the odd images that are left in among some taken."""
  return np.floor(LEFT * taken).astype(int)


def groups_once(task: Task, person: Person) -> Iterator[Step]:
  """Takes each group without its odd ones, or rejects it."""
  predicted = at_first(task)
  left = np.ones(len(task.rows.label), bool)
  for rows in task.found.order:
    view = View(rows, len(rows), choice.suggestion(predicted, rows)[0])
    seen = person.sees(rows)
    names, counts = np.unique(seen, return_counts=True)
    name = str(names[counts.argmax()])
    fits = seen == name
    fits[np.flatnonzero(~fits)[: left_in(np.array(len(rows)))]] = True
    keys = TAKE + MARK * int(np.sum(~fits)) + NAME * (name != view.name)
    if fits.sum() > keys:
      left[rows[fits]] = False
      yield keys, rows[fits], name
    else:
      yield SKIP, rows[:0], ''
  yield from _singly(np.flatnonzero(left), predicted, person)


def by_class(task: Task, person: Person) -> Iterator[Step]:
  """Confirms pages of predictions, naming their odd ones class by class."""
  predicted = at_first(task)
  for i in range(len(predicted.names)):
    rows = np.flatnonzero(predicted.first == i)
    rows = rows[np.argsort(-predicted.confidence[rows], kind='stable')]
    for start in range(0, len(rows), PAGE):
      page = rows[start : start + PAGE]
      seen = person.sees(page)
      fits = seen == predicted.names[i]
      names, place, counts = np.unique(
        seen, return_inverse=True, return_counts=True
      )
      odd = np.flatnonzero(~fits)
      odd = odd[np.argsort(counts[place[odd]], kind='stable')]  # rare ones cost
      fits[odd[: left_in(np.array(len(page)))]] = True
      yield TAKE, page[fits], predicted.names[i]
      for name in names:
        odd = page[(seen == name) & ~fits]
        if len(odd):
          yield MARK * len(odd) + NAME, odd, str(name)
  yield from _singly(np.flatnonzero(predicted.first < 0), predicted, person)


def file_by_file(task: Task, person: Person) -> Iterator[Step]:
  """Confirms or replaces each prediction, in any order."""
  order = person.shuffled(len(task.rows.label))
  yield from _singly(order, at_first(task), person)


def at_first(task: Task) -> Predicted:
  """Predicts all rows before any decision."""
  state = store.fold([], task.found.of)
  of = refit.means(task.known, task.white, state)
  scale = task.known.temperature
  return refit.predict(task.white, of, scale, task.links, state)


def _singly(
  rows: np.ndarray, predicted: Predicted, person: Person
) -> Iterator[Step]:
  guesses = np.array([*predicted.names, ''])[predicted.first[rows]]
  for row, name, guess in zip(rows, person.sees(rows), guesses, strict=True):
    yield (TAKE if name == guess else NAME), np.array([row]), str(name)


WAYS: dict[str, Callable[[Task, Person], Iterator[Step]]] = {
  'review': review,
  'groups once': groups_once,
  'predictions by class': by_class,
  'file by file': file_by_file,
}
