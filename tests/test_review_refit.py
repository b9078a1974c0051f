"""Predictions and lists of a review, against loops in float64."""

import math

import numpy as np
import pytest
from scipy import sparse

from analysis.review import choice, refit, store
from analysis.review.refit import Known, Predicted
from analysis.review.store import Event

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(20, 4)).astype(np.float32)
AXES = np.eye(4, dtype=np.float32)
MEANS, IMAGES = RNG.normal(size=(2, 4)), np.array([5, 2])
KNOWN = Known(('ant', 'bee'), MEANS, IMAGES, 0.7, AXES)
GROUP = np.arange(20) % 4
APART = sparse.csr_array((20, 20), dtype=np.float32)  # no links
NEAR = np.array([[j for j in range(20) if j != i] for i in range(20)])


def taken(*decisions, group=GROUP):
  """The state after decisions, each (rows, name, odd)."""
  events = [
    Event(i, '', 'Ann', 'take', {'rows': rows, 'name': name, 'odd': odd})
    for i, (rows, name, odd) in enumerate(decisions, 1)
  ]
  return store.fold(events, group)


def predict(state, links=None, before=None):
  of = refit.means(KNOWN, ROWS, state)
  links = APART if links is None else links
  return of, refit.predict(ROWS, of, 0.7, links, state, before)


def chances(state, wanted, refused):
  """Each row's chances by the means alone, times what was met; NumPy loops."""
  names = list(wanted)
  met = {name: 2.0 for name in names}
  for label in state.label[state.label >= 0]:
    if state.names[label] in met:
      met[state.names[label]] += 1
  found = np.zeros((20, len(names)))
  for i, row in enumerate(ROWS.astype(np.float64)):
    for c, name in enumerate(names):
      if (name, i) not in refused:
        apart = np.sum((row - wanted[name]) ** 2)
        found[i, c] = math.exp(-apart / 0.7) * met[name]
    found[i] /= found[i].sum()
  return found


def test_predictions_match_loops():
  state = taken(
    ([3, 4, 5], 'cat', []), ([6], 'bee', [7, 8]), ([9], 'unknown', [])
  )
  of, found = predict(state)
  rows = ROWS.astype(np.float64)
  wanted = {
    'ant': KNOWN.means[0],
    'bee': (2 * KNOWN.means[1] + rows[6]) / 3,
    'cat': (rows[3] + rows[4] + rows[5]) / 3,
  }
  assert of.names == ('ant', 'bee', 'cat', 'unknown')
  for name, mean in wanted.items():
    np.testing.assert_allclose(of.means[of.names.index(name)], mean, rtol=1e-6)
  loops = chances(state, wanted, {('bee', 7), ('bee', 8)})
  names = list(wanted)
  for i in range(20):
    if state.label[i] >= 0 and i != 9:  # decided, and 9 teaches nothing
      loops[i] = [name == state.names[state.label[i]] for name in names]
    order = np.argsort(-loops[i])
    assert of.names[found.first[i]] == names[order[0]]
    np.testing.assert_allclose(
      found.chance[i], [*loops[i], 0.0], rtol=1e-4, atol=1e-6
    )
    assert found.confidence[i] == pytest.approx(loops[i].max(), rel=1e-4)
    margin = loops[i][order[0]] - loops[i][order[1]]
    assert found.margin[i] == pytest.approx(margin, rel=1e-4, abs=1e-5)
  likely = choice.likeliest(found, np.array([0, 1]), 2)
  total = loops[:2].sum(axis=0)
  assert likely == [names[c] for c in np.argsort(-total)[:2]]


def test_links_are_those_of_loops():
  found = refit.link(ROWS, NEAR).toarray()
  rows = ROWS.astype(np.float64)
  apart = ((rows[:, None] - rows) ** 2).sum(axis=2)
  near = [sorted(NEAR[i], key=lambda j: apart[i, j])[:5] for i in range(20)]
  unit = np.mean([apart[i, j] for i in range(20) for j in near[i]])
  wanted = np.zeros((20, 20))
  for i in range(20):
    for j in near[i]:
      wanted[i, j] += math.exp(-apart[i, j] / unit)
      wanted[j, i] += math.exp(-apart[i, j] / unit)
  wanted /= wanted.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7)
  assert found.dtype == np.float32
  alone = refit.link(ROWS[:1], np.zeros((1, 0), int))
  assert alone.shape == (1, 1) and alone.nnz == 0
  copies = refit.link(np.ones((3, 4), np.float32), np.array([[1], [2], [0]]))
  np.testing.assert_allclose(copies.toarray(), (1 - np.eye(3)) / 2)


def test_chances_spread_along_links_as_in_loops(monkeypatch):
  state = taken(([3, 4], 'cat', [11]), ([6], 'bee', []))
  links = refit.link(ROWS, NEAR)
  of, found = predict(state, links)
  assert of.names == ('ant', 'bee', 'cat')
  index = {'cat': 2, 'bee': 1}
  names = {i: of.means[c].astype(float) for i, c in enumerate(range(3))}
  own = chances(
    state._replace(names=[of.names.index(n) for n in state.names]),
    names,
    {(2, 11)},
  )

  def clamp(rows):
    for i in np.flatnonzero(state.label >= 0):
      rows[i] = np.eye(3)[index[state.names[state.label[i]]]]
    rows[11, 2] = 0.0
    return rows

  loops = clamp(own.copy())
  weights = links.toarray().astype(float)
  for _ in range(refit.ROUNDS):
    again = np.zeros_like(loops)
    for i in range(20):
      for j in range(20):
        again[i] += refit.SPREAD * weights[i, j] * loops[j]
      again[i] += (1 - refit.SPREAD) * own[i]
    loops = clamp(again)
  loops /= loops.sum(axis=1, keepdims=True)
  np.testing.assert_allclose(found.chance, loops, rtol=1e-3, atol=1e-5)
  # From chances of before, fewer rounds lead on to where many do.
  monkeypatch.setattr(refit, 'ROUNDS', 200)
  end = predict(state, links)[1].chance
  before = predict(taken(([3, 4], 'cat', [11])), links)[1]
  monkeypatch.setattr(refit, 'MORE', 200)
  again = predict(state, links, before)[1].chance
  np.testing.assert_allclose(again, end, atol=1e-5)


def test_blocks_make_no_difference(monkeypatch):
  state = taken(([3], 'cat', [7, 12, 19]))
  links = refit.link(ROWS, NEAR)
  whole = predict(state, links)[1]
  monkeypatch.setattr(refit, 'BLOCK', 7)
  monkeypatch.setattr(refit.os, 'cpu_count', lambda: 4)
  for one, other in zip(whole[1:], predict(state, links)[1][1:], strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6)


def test_without_any_class_nothing_is_predicted():
  none = Known((), np.zeros((0, 4)), np.zeros(0, int), 1.0, AXES)
  state = taken(([0], 'unknown', []))
  of = refit.means(none, ROWS, state)
  found = refit.predict(ROWS, of, 1.0, refit.link(ROWS, NEAR), state)
  assert set(found.first.tolist()) == {-1} and not found.confidence.any()
  for one in choice.sets(state, found, ROWS):
    assert one.name == '' and one.images == np.sum(GROUP[1:] == one.key)


def test_one_class_alone_is_predicted_of_nothing():
  none = Known((), np.zeros((0, 4)), np.zeros(0, int), 1.0, AXES)
  links = refit.link(ROWS, NEAR)
  before = None
  for state in (
    taken(([0, 4], 'cat', []), ([9], 'unknown', [])),
    taken(([0, 4], 'cat', []), ([9], 'dog', [])),
  ):
    of = refit.means(none, ROWS, state)
    before = refit.predict(ROWS, of, 1.0, links, state, before)
    alone = 'dog' not in of.names
    assert before.first[[0, 4]].tolist() == [0, 0]
    assert before.confidence[0] == 1.0
    rest = before.first[state.label == store.UNDECIDED]
    assert set(rest.tolist()) == ({-1} if alone else {0, 1})
  fresh = refit.predict(ROWS, of, 1.0, links, state)
  np.testing.assert_array_equal(before.chance, fresh.chance)


def test_before_any_class_large_groups_of_like_images_come_first(monkeypatch):
  angles = np.array([*[0, 60, -60, 30, -30, 0] * 2, *[90, 95] * 4, *[0.0] * 3])
  rows = np.stack([np.cos(angles * np.pi / 180), np.sin(angles * np.pi / 180)])
  rows = rows.T.astype(np.float32)
  state = store.fold([], np.repeat([0, 1, 2], [12, 8, 3]))
  nothing = flat([0] * 23, [0.0] * 23)
  found = choice.sets(state, nothing._replace(first=np.full(23, -1)), rows)
  assert [(one.key, one.images) for one in found] == [(1, 8), (0, 12), (2, 3)]
  # The mean cosine to the own mean: of the first group that is (1 + 1 + 2 cos
  # 60° + 2 cos 30°) / 6, of unit rows the length of their mean.
  cohesion = [
    math.cos(math.radians(2.5)),
    (2 + 2 * 0.5 + 2 * math.sqrt(0.75)) / 6,
    1.0,
  ]
  for one, alike in zip(found, cohesion, strict=True):
    assert one.likely == pytest.approx(one.images * alike**4, rel=1e-5)
  # A class that is known tells more than looks do.
  known = flat([0] * 23, [*[0.9] * 12, *[0.0] * 11])
  known = known._replace(first=np.where(known.confidence > 0.0, 0, -1))
  first = choice.sets(state, known, rows)[0]
  assert (first.key, first.name) == (0, 'ant')
  assert first.likely == pytest.approx(12 * 0.9)
  monkeypatch.setattr(choice, 'MOST', 5)  # what one decision takes at most
  assert choice.sets(state, nothing, rows)[0].likely <= 5.0


def test_a_row_refused_by_every_class_has_none():
  state = taken(([1], 'ant', [0]), ([2], 'bee', [0]))
  found = predict(state)[1]
  assert found.first[0] == -1 and found.confidence[0] == 0
  assert choice.likeliest(found, np.array([0]), 2) == []
  assert np.isfinite(found.confidence).all() and (found.first[1:] >= 0).all()


def flat(first, confidence, margin=None):
  """Predictions of two classes."""
  chance = np.zeros((len(first), 2), np.float32)
  chance[np.arange(len(first)), first] = confidence
  return Predicted(
    ('ant', 'bee'),
    np.array(first),
    np.array(confidence, np.float32),
    np.array(confidence if margin is None else margin, np.float32),
    chance,
  )


def test_the_most_useful_sets_come_first():
  state = taken(([0], 'ant', []), group=np.array([0, 0, 0, 0, 1, 1, 1, -1]))
  found = choice.sets(
    state,
    flat(
      [0, 0, 0, 1, 1, 1, 1, 1], [0.95, 0.95, 0.6, 0.95, 0.4, 0.4, 0.4, 0.95]
    ),
    ROWS[:8],
  )
  assert [(one.kind, one.key, one.name, one.images) for one in found] == [
    ('class', 1, 'bee', 5),
    ('group', 0, 'ant', 3),
    ('group', 1, 'bee', 3),
    ('class', 0, 'ant', 2),
  ]
  # Of bees 0.95, 0.95, 0.4 … two are above the line: 2.3 / 3 is below SURE.
  likely = [one.likely for one in found]
  assert likely == pytest.approx([1.9, 1.55, 1.2, 0.95])


def test_sets_are_of_groups_worth_showing_and_at_most_so_many(monkeypatch):
  state = taken(group=np.array([-1, -1, -1, 0, 0, 0, 0, 1, 1]))
  predicted = flat([0] * 7 + [1] * 2, [0.95] * 7 + [0.5] * 2)
  keys = lambda: [(o.kind, o.key) for o in choice.sets(state, predicted, ROWS)]
  assert keys() == [('class', 0), ('group', 0), ('class', 1)]
  monkeypatch.setattr(choice, 'LISTED', 2)
  assert keys() == [('class', 0), ('group', 0)]
  # Of four rows only as many count as one decision takes.
  monkeypatch.setattr(choice, 'MOST', 2)
  likely = {one.kind: one.likely for one in choice.sets(state, predicted, ROWS)}
  assert likely == pytest.approx({'class': 1.9, 'group': 1.9})


def test_the_line_is_below_the_most_rows_that_are_sure_together():
  assert choice.line(np.array([0.98, 0.95, 0.85, 0.5, 0.1])) == 3
  assert choice.line(np.array([0.3, 0.2])) == 1
  assert choice.line(np.array([])) == 0
  assert choice.line(np.ones(choice.MOST + 5)) == choice.MOST


def test_views_order_by_confidence_and_likeness():
  state = taken(([0, 5], 'ant', []), ([6], 'bee', []))
  predicted = predict(state)[1]
  left = [i for i in range(20) if i not in (0, 5, 6)]
  bees = [i for i in left if predicted.first[i] == 1]
  view = choice.of_class(state, predicted, 1)
  assert view.name == 'bee'
  wanted = sorted(bees, key=lambda i: -predicted.confidence[i])
  assert view.rows.tolist() == wanted
  view = choice.of_group(state, predicted, ROWS, 1)
  own = [1, 9, 13, 17]
  others = [i for i in left if i not in own]

  def apart(i):
    found = 0.0
    for weight, values in ((1.0, ROWS), (3.0, predicted.chance)):
      row, mean = values[i].astype(np.float64), values[own].mean(axis=0)
      found -= weight * (row @ mean) / math.hypot(*row) / math.hypot(*mean)
    return found

  assert view.rows.tolist() == [
    *sorted(own, key=apart),
    *sorted(others, key=apart),
  ]
  assert view.line == 4
  near = lambda i: -float(ROWS[i] @ centre)
  view = choice.like(state, predicted, ROWS, np.array([7, 2]))
  centre = (ROWS[7].astype(np.float64) + ROWS[2]) / 2
  others = [i for i in left if i not in (7, 2)]
  assert view.rows.tolist() == [7, 2, *sorted(others, key=near)]
  view = choice.decided(state, ROWS, 0)
  centre = (ROWS[0].astype(np.float64) + ROWS[5]) / 2
  assert view.rows.tolist() == sorted([0, 5], key=near)[::-1]
  assert view.line == 0
  state.label[:] = store.UNDECIDED  # all that was decided is cleared
  for view in (
    choice.decided(state, ROWS, 0), choice.of_group(state, predicted, ROWS, 9)
  ):  # fmt: skip
    assert view.rows.size == view.line == 0


def test_a_group_grows_by_predictions_before_looks():
  state = taken(group=np.array([0, -1, -1]))
  rows = np.array([[1, 0], [1, 0.1], [1, 1]], np.float32)
  view = choice.of_group(state, flat([0, 1, 0], [0.9] * 3), rows, 0)
  assert (view.rows.tolist(), view.line) == ([0, 2, 1], 1)
  # Without a prediction, images alone tell.
  view = choice.of_group(state, flat([0, 1, 0], [0.0] * 3), rows, 0)
  assert view.rows.tolist() == [0, 1, 2]


def test_further_rows_are_the_nearest(monkeypatch):
  state = taken()
  every = choice.of_group(state, predict(state)[1], ROWS, 0).rows
  monkeypatch.setattr(choice, 'FURTHER', 6)
  some = choice.of_group(state, predict(state)[1], ROWS, 0).rows
  assert some.tolist() == every[:11].tolist()


def test_unsure_rows_are_of_dense_places_and_different_groups():
  state = taken(([5], 'ant', []), group=np.array([0, 0, 1, 1, -1, 0]))
  predicted = flat([0] * 6, [0.5] * 6, [0.1, 0.2, 0.5, 0.3, 0.0, 0.0])
  density = np.array([1.0, 1.0, 1.0, 1.0, 0.1, 1.0])
  view = choice.unsure(state, predicted, density, 10)
  # Gains: 0.9, 0.8 | 0.5, 0.7 | 0.1: the best of each group, then the next.
  assert view.rows.tolist() == [0, 3, 4, 1, 2]
  assert choice.unsure(state, predicted, density, 2).rows.tolist() == [0, 3]
