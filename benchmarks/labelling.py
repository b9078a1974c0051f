"""Counts the decisions by which a simulated person labels a run's images.

  python -m benchmarks.labelling --workdir=DIR [--piles=test,unseen] [--seeds=3]
  python -m benchmarks.labelling --encoder=plankton --images=FOLDER

The second begins without any class, on a folder of class folders; --images
replaces the piles of a --workdir, too. The person knows the truth, and of
every hundred images judges two wrongly. A decision is a click or a key (TAKE
to NAME say what each thing costs); to look, to scroll and to point costs
nothing. As the aim is 95 % precision, in every way the person leaves up to
LEFT odd images in of all that one decision takes. Ways to label:

- review: analysis.review, with its lists, line, keys for the likeliest classes
  and predictions that follow each decision
- groups once: the groups of analysis.discover, each taken without its odd ones
  or rejected, then the rest one by one (MorphoCluster's way)
- predictions by class: pages of PAGE, the surest first, their odd ones named
  together by class (EcoTaxa's way)
- file by file: in any order, the prediction confirmed or replaced

The person of review opens the list that the page shows first, names the odd
ones in it by their digits, takes what is above the line, and passes over a list
that gives fewer than LEAST images a decision. Where no list is left, the page
shows the images whose decision teaches most: of these the person names REFIT
one by one, then goes on with the lists that promise more than before. Before
that, it opens the lists that it passed over once more, for as many images as
LESS says: they pay more than images one by one.
"""

import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from scipy import sparse

from analysis.figures.style import plt
from analysis.files import inputs, pile, result
from analysis.files.inputs import Embeddings, Source
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import groups
from analysis.review import choice, prepare, refit, store
from analysis.review.choice import Set, View
from analysis.review.refit import Known, Predicted
from analysis.review.store import Event
from benchmarks import cells
from plankton_jax import host
from plankton_jax.cli import command
from plankton_jax.errors import InputError

TAKE, MARK, MOVE, SKIP, OPEN = 1, 1, 1, 1, 1  # keys or clicks
NAME = 4  # N, two letters, Enter
MISTAKES = 0.02  # share of images judged wrongly
PAGE = 100  # images on a page of predictions
LOOKED = 300  # images of a list that a person looks over at most
LEFT = 0.05  # odd images that a person leaves in, of what a decision takes
GROWN = 1.2  # times more that a list passed over promises before it comes again
SHARES = (0.5, 0.8, 0.9, 0.95)  # of all images, in the table
SHOWN = {  # measures in the terminal, and their decimals
  'decisions to 50%': 0,
  'decisions to 80%': 0,
  'decisions to 90%': 0,
  'precision at 90%': 3,
  'right a decision to 90%': 1,
}
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
    """The true class of each row, by its name."""
    return np.array(self.rows.class_names)[self.rows.label]


class Curve(NamedTuple):
  """How many images are labelled after each decision."""

  keys: np.ndarray  # [T] decisions until then
  labelled: np.ndarray  # [T]
  right: np.ndarray  # [T]


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  flags.DEFINE_string('workdir', None, 'An embedded run.', flag_values=values)
  flags.DEFINE_string(
    'encoder', None, 'An encoder in place of a run.', flag_values=values
  )
  flags.DEFINE_string(
    'images', None, 'Class folders in place of piles.', flag_values=values
  )
  flags.DEFINE_list(
    'piles', ['test', 'unseen'], 'Splits, each labelled.', flag_values=values
  )
  flags.DEFINE_integer('seeds', 3, 'Simulated persons.', flag_values=values)
  flags.DEFINE_string(
    'out', None, 'Folder [workdir/analysis/labelling].', flag_values=values
  )


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


def curve(task: Task, way: str, seed: int) -> Curve:
  """Labels all images in one way."""
  truth = task.truth
  label = np.full(len(truth), '', object)
  keys, right, labelled = [0], [0], [0]
  for cost, rows, name in WAYS[way](task, Person(truth, seed)):
    label[rows] = name
    keys.append(keys[-1] + cost)
    right.append(right[-1] + int(np.sum(truth[rows] == name)))
    labelled.append(labelled[-1] + len(rows))
  assert (label != '').all()
  return Curve(np.array(keys), np.array(labelled), np.array(right))


def reached(one: Curve, share: float) -> tuple[float, float]:
  """Returns the decisions to a share of all rightly labelled, and precision.

  NaN where it is never reached.
  """
  wanted = share * one.labelled[-1]
  if one.right[-1] < wanted:
    return np.nan, np.nan
  at = int(np.searchsorted(one.right, wanted))
  return float(one.keys[at]), float(one.right[at] / one.labelled[at])


def measures(one: Curve) -> dict[str, float]:
  """Measures a curve: decisions, and what they gave, to SHARES of all images.

  NaN where a share is never reached.
  """
  found = {}
  for share in SHARES:
    keys, precision = reached(one, share)
    found[f'decisions to {share:.0%}'] = keys
    if share in (SHARES[0], 0.9):
      found[f'right a decision to {share:.0%}'] = (
        share * one.labelled[-1] / keys
      )
      found[f'precision at {share:.0%}'] = precision
  return found


def summary(
  pile: str, way: str, curves: Sequence[Curve]
) -> tuple[dict[str, Any], dict[str, str]]:
  """Makes a way's lines of labelling.csv and of the terminal.

  Means over persons and half their 95 % intervals; NaN where one of the
  persons never reaches a share.
  """
  line: dict[str, Any] = {'pile': pile, 'way': way, 'persons': len(curves)}
  text = {'pile': pile, 'way': way}
  each = [measures(one) for one in curves]
  for name in each[0]:
    values = [found[name] for found in each]
    if np.isnan(values).any():
      values = []
    line[name], line[f'{name} ±'] = cells.interval(values)
    if name in SHOWN:
      text[name] = cells.shown(values, digits=SHOWN[name])
  return line, text


def draw(found: dict[str, dict[str, list[Curve]]], run: str) -> plt.Figure:
  """Draws images rightly labelled against decisions, a panel a pile."""
  figure, axes = plt.subplots(
    1, len(found), figsize=(4.6 * len(found), 4.0), squeeze=False,
    layout='constrained',
  )  # fmt: skip
  for ax, (name, ways) in zip(axes[0], found.items(), strict=True):
    for i, (way, curves) in enumerate(ways.items()):
      for k, one in enumerate(curves):
        ax.plot(one.keys, one.right, color=f'C{i}', lw=1.3, alpha=0.8,
                label=way if k == 0 else None)  # fmt: skip
    total = next(iter(ways.values()))[0].labelled[-1]
    ax.axhline(0.9 * total, color='0.6', ls=':', lw=1)
    ax.set_title(f'{run}, {name}: {total:,} images', parse_math=False)
    ax.set_xlabel('decisions (clicks and keys)')
    ax.set_xlim(0, None)
    ax.set_ylim(0, 1.03 * total)
  axes[0, 0].set_ylabel('images rightly labelled')
  axes[0, -1].legend(loc='lower right', title='dotted: 90 %')
  return figure


def of_splits(source: Source, splits: Sequence[str]) -> Embeddings:
  """Gathers the labelled images of some splits.

  Raises:
    InputError: a split is missing or holds no labelled image.
  """
  parts = {}
  for name in splits:
    rows, notes = inputs.labelled(source, name)
    if rows is None:
      raise InputError(notes[0])
    parts[name] = rows
  return inputs.numbered(inputs.together(source.name, parts))


def of_folder(source: Source, path: str) -> Embeddings:
  """Embeds the labelled images of class folders.

  Raises:
    InputError: there is no such folder, or no labelled image in it.
  """
  rows = pile.gather(source, images=path, splits=()).rows
  rows = inputs.take(rows, np.flatnonzero(rows.label >= 0))
  if not len(rows.id):
    raise InputError(f'{path}: no image is in a class folder')
  return rows


def task(rows: Embeddings, known: Known) -> Task:
  """Makes the task to label some images."""
  white = rows.embedding @ known.axes
  found = groups.find(rows.embedding)
  return Task(rows, white, known, found, refit.link(rows.embedding, found.near))


def analyse(
  source: Source,
  piles: Sequence[str],
  seeds: int,
  images: str | None = None,
) -> Result:
  """Labels each pile in every way by `seeds` persons.

  A pile is a split, or several joined by +; or else there are `images`, a
  folder of class folders. An encoder without a run begins without classes.

  Raises:
    InputError: there is no labelled image.
  """
  given = (
    {pathlib.Path(images).name: of_folder(source, images)}
    if images
    else {name: of_splits(source, name.split('+')) for name in piles}
  )
  size = next(iter(given.values())).embedding.shape[1]
  known = prepare.known_classes(source, size, 0.95)
  found: dict[str, dict[str, list[Curve]]] = {}
  for name, rows in given.items():
    made = task(rows, known)
    found[name] = {
      way: [curve(made, way, seed) for seed in range(seeds)] for way in WAYS
    }
  summaries = [
    summary(name, way, curves)
    for name, ways in found.items()
    for way, curves in ways.items()
  ]
  lines = [line for line, _ in summaries]
  points = [
    {'pile': name, 'way': way, 'seed': seed, 'decisions': k, 'labelled': n,
     'right': r}
    for name, ways in found.items()
    for way, curves in ways.items()
    for seed, one in enumerate(curves)
    for k, n, r in zip(*(part.tolist() for part in one), strict=True)
  ]  # fmt: skip
  return Result(
    shown=[
      Shown(
        'labelling: decisions of a simulated person; mean ± 95 % interval over'
        f' {seeds} persons',
        [text for _, text in summaries],
      )
    ],
    tables={'labelling.csv': lines, 'curves.csv': points},
    figures={
      'labelling': Drawing(
        lambda: draw(found, source.name), inputs.citations([source])
      )
    },
    announced={'labelling.csv': '', 'labelling.png': ''},
  )


def main(values: flags.FlagValues) -> None:
  """Runs the command."""
  host.show_log(logging.WARNING)
  if bool(values.workdir) == bool(values.encoder):
    raise InputError(
      'give --workdir=DIR, an embedded run, or --encoder with --images'
    )
  if values.encoder and not values.images:
    raise InputError('--images is missing: class folders for --encoder')
  if values.seeds < 1:
    raise InputError(f'--seeds={values.seeds}: give 1 or more')
  if values.workdir:
    workdir = pathlib.Path(values.workdir)
    (source,) = inputs.from_workdirs([workdir])
  else:
    source = inputs.from_encoder(values.encoder)
    workdir = pathlib.Path('runs', source.name)
  found = analyse(source, values.piles, values.seeds, values.images)
  out = pathlib.Path(values.out or workdir / 'analysis' / 'labelling')
  result.show('labelling', found)
  result.write(found, out)


if __name__ == '__main__':
  define(flags.FLAGS)
  command.run(lambda argv: main(flags.FLAGS))
