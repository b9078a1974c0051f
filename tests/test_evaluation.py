"""Validation against float64 loops over its batches, the last one partial."""

import math
import types

import chex
import jax
import numpy as np
import pytest
import reference

from configs import arcface
from plankton_jax.data import pipeline
from plankton_jax.errors import DivergedError
from plankton_jax.nn import whitening
from plankton_jax.train import batches, evaluation, experiment, step

MARGIN, SIZE = 0.5, 8


def _data(val_labels, classes=5):
  """Images whose classes differ in brightness; `val_labels` validate."""
  rng = np.random.default_rng(0)
  labels = np.concatenate([np.arange(40) % classes, val_labels])
  images = rng.integers(0, 90, (len(labels), 16, 16, 1))
  right = np.arange(16)[:, None] > 7
  images += 30 * labels[:, None, None, None] * right
  return pipeline.Data(
    images=images.astype(np.uint8),
    labels=labels.astype(np.int32),
    ids=np.array([f'{row}.png' for row in range(len(labels))]),
    class_names=tuple('abcdefghijklmnopqrstuvw'[:classes]),
    num_seen=classes,
    splits={'train': np.arange(40), 'val': np.arange(40, len(labels))},
    fingerprint='',
    originals=None,
  )


def _run(config, data):
  """The parts of a run, its fresh state and the order that it validates in."""
  made = experiment.assemble(config, data)
  state = jax.jit(made.create)(jax.random.key(0, impl='rbg'))
  rows = np.random.default_rng(0).permutation(data.splits['val'])
  embed = step.make_embed_step(apply_fn=made.model.apply, normalise=None)
  embeddings = np.asarray(
    embed(state.params, state.batch_stats, data.images[rows])
  )
  return made, state, rows, embeddings


def _looked_up(data, *, losses=(), **columns):
  """An experiment that looks embeddings up, and metrics by the batch's number.

  Returns:
    The experiment, a state of step 7, embeddings [N, 3] of all images, and the
    batches that it is asked for.
  """
  rng = np.random.default_rng(1)
  # Wide in one direction, so that a whitening is not the identity.
  table = rng.normal(scale=(1, 0.5, 0.1), size=(len(data.labels), 3))
  table = table.astype(np.float32)
  table /= np.linalg.norm(table, axis=1, keepdims=True)
  data.images[:, 0, 0, 0] = np.arange(len(table))
  asked = []

  def eval_step(state, batch):
    asked.append(batch)
    loss = losses[len(asked) - 1] if losses else 1.0
    valid = float(batch['valid'].sum())
    return {'loss': loss, 'count': valid}, table[batch['image'][:, 0, 0, 0]]

  made = types.SimpleNamespace(
    sampler=types.SimpleNamespace(size=SIZE),
    mesh=None,
    columns={'image': data.images, 'label': data.labels, **columns},
    eval_step=eval_step,
  )
  return made, types.SimpleNamespace(step=7), table, asked


def _loops(embeddings, labels, fallback):
  """Sums over batches of the anchors' hinges and distances, by loops."""
  sums = dict.fromkeys(('loss', 'd_ap', 'd_an', 'anchors', 'kept'), 0.0)
  for start in range(0, len(labels), SIZE):
    x = embeddings[start : start + SIZE].astype(np.float64)
    own = labels[start : start + SIZE]
    dists = reference.squared_loop(x, x)
    p, n, anchor, fell = reference.mine_loop(
      dists, own, np.ones(len(own), bool),
      positive='hard', negative='hard', margin=MARGIN,
    )  # fmt: skip
    for row in np.flatnonzero(anchor):
      d_ap, d_an = dists[row, p[row]], dists[row, n[row]]
      sums['anchors'] += 1
      sums['d_ap'] += d_ap
      sums['d_an'] += d_an
      if fallback == 'nearest' or not fell[row]:
        sums['kept'] += 1
        sums['loss'] += max(d_ap - d_an + MARGIN, 0.0)
  return sums


# In batches of 8, 8 and 5; one class is rare, so that their anchors differ.
LABELS = np.array([0] * 9 + [1] * 6 + [2, 3, 4, 2, 3, 1])


@pytest.mark.parametrize('fallback', ['nearest', 'none'])
@pytest.mark.parametrize('negative', ['semihard', 'hard'])
def test_triplet_validation_is_hard_and_weighs_by_anchors(
  fallback, negative, make_config
):
  config = make_config(
    curriculum=((0, 'easy', negative),),
    batch__size=SIZE,
    objective__margin=MARGIN,
    objective__fallback=fallback,
  )
  data = _data(LABELS)
  made, state, rows, embeddings = _run(config, data)
  found = evaluation.evaluate(made, data, 'val', state)
  sums = _loops(embeddings, data.labels[rows], fallback)
  assert 0 < sums['kept'] <= sums['anchors'] < len(LABELS)
  if fallback == 'none':
    assert sums['kept'] < sums['anchors']
  assert found['anchors'] == sums['anchors']
  for name, count in (('loss', 'kept'), ('d_ap', 'anchors')):
    np.testing.assert_allclose(
      found[name], sums[name] / sums[count], rtol=1e-4, err_msg=name
    )
  np.testing.assert_allclose(
    found['d_an'], sums['d_an'] / sums['anchors'], rtol=1e-4
  )
  ranked = reference.retrieval_loop(embeddings, data.labels[rows], (1,))
  expected = reference.mean_loop(ranked, data.labels[rows])
  assert found['recall_at_1'] == pytest.approx(expected['recall_at_1'])
  assert found['map_at_r'] == pytest.approx(expected['map_at_r'])
  starts = range(0, len(rows), SIZE)
  parts = [embeddings[start : start + SIZE] for start in starts]
  spreads = [len(part) * part.std(axis=0).mean() for part in parts]
  np.testing.assert_allclose(
    found['spread'], sum(spreads) / len(rows), rtol=1e-4
  )
  assert found.keys() == {
    'loss', 'd_ap', 'd_an', 'anchors', 'active_fraction', 'fallback_fraction',
    'spread', 'effective_rank', 'recall_at_1', 'map_at_r',
  }  # fmt: skip


def test_softmax_validation_weighs_by_rows(make_config):
  config = make_config(arcface.get_config, batch__size=SIZE)
  data = _data(LABELS)
  made, state, rows, embeddings = _run(config, data)
  found = evaluation.evaluate(made, data, 'val', state)
  labels = data.labels[rows]
  prototypes = np.asarray(state.params['objective']['prototypes'])
  objective = config['objective']
  loss = reference.prototype_loss(
    prototypes, embeddings, labels, np.ones(len(rows), bool),
    scale=objective['scale'], angular=objective['margin'],
  )  # fmt: skip
  np.testing.assert_allclose(found['loss'], loss, rtol=1e-4)
  unit = prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)
  right = (embeddings @ unit.T).argmax(axis=1) == labels
  np.testing.assert_allclose(found['accuracy'], right.mean(), rtol=1e-6)


def test_the_last_batch_is_padded_and_masked():
  images = np.arange(7 * 4, dtype=np.uint8).reshape(7, 2, 2, 1)
  labels = np.arange(7, dtype=np.int32)
  rows = np.array([6, 0, 3, 2, 5])
  columns = {'image': images, 'label': labels}
  first, last = batches.evaluation(columns, rows, 3, None)
  np.testing.assert_array_equal(first['valid'], [True, True, True])
  np.testing.assert_array_equal(last['valid'], [True, True, False])
  np.testing.assert_array_equal(first['label'], [6, 0, 3])
  np.testing.assert_array_equal(last['label'][:2], [2, 5])
  np.testing.assert_array_equal(last['image'][:2], images[[2, 5]])
  chex.assert_equal_shape([first['image'], last['image']])


def test_each_metric_weighs_the_rows_that_it_is_a_mean_of():
  rows = [(1.0, 2, 1), (3.0, 6, 1), (9.0, 0, 0)]
  names = ('loss', 'd_ap', 'spread', 'effective_rank')
  metrics = [
    {**dict.fromkeys(names, x), 'count': count, 'loss_count': kept}
    for x, count, kept in rows
  ]
  found = evaluation.average(metrics, np.array([8, 8, 4]))
  assert found == {
    'loss': 2.0,
    'd_ap': 2.5,
    'spread': pytest.approx(3.4),
    'effective_rank': pytest.approx(3.4),
    'count': 8.0,
  }
  none = [values | {'count': 0, 'loss_count': 0} for values in metrics]
  found = evaluation.average(none, np.array([8, 8, 4]))
  assert math.isnan(found['loss']) and math.isnan(found['d_ap'])
  assert found['spread'] == pytest.approx(3.4) and found['count'] == 0


def test_counts_are_logged_as_anchors_of_triplets_alone():
  values = {'loss': 1.0, 'count': 5.0, 'loss_count': 3.0}
  assert evaluation.as_logged(values) == {'loss': 1.0}
  mined = values | {'d_ap': 0.5}
  want = {'loss': 1.0, 'd_ap': 0.5, 'anchors': 5.0}
  assert evaluation.as_logged(mined) == want


def test_without_pairs_what_needs_them_is_undefined(make_config):
  data = _data(np.arange(5))
  config = make_config(batch__size=SIZE)
  made, state, _, _ = _run(config, data)
  found = evaluation.evaluate(made, data, 'val', state)
  for name in ('loss', 'd_ap', 'active_fraction', 'recall_at_1', 'map_at_r'):
    assert math.isnan(found[name]), name
  assert found['anchors'] == 0 and found['spread'] > 0
  config = make_config(arcface.get_config, batch__size=SIZE)
  made, state, _, _ = _run(config, data)
  found = evaluation.evaluate(made, data, 'val', state)
  assert math.isfinite(found['loss']) and 0 <= found['accuracy'] <= 1
  assert math.isnan(found['map_at_r'])


def test_processes_go_on_with_the_first_one_s_measures(monkeypatch):
  data = _data(LABELS)
  made, state, _, _ = _looked_up(data)
  asked = []

  def from_first(what, value):
    asked.append((what, value.keys()))
    return 'of the first'

  monkeypatch.setattr(evaluation.job, 'from_first', from_first)
  assert evaluation.evaluate(made, data, 'val', state) == 'of the first'
  ((what, names),) = asked
  assert what == 'val at step 7' and 'map_at_r' in names


def test_measures_of_a_part_say_so(monkeypatch):
  monkeypatch.setattr(evaluation, '_RETRIEVAL_IMAGES', 12)
  data = _data(LABELS)
  made, state, table, _ = _looked_up(data)
  found = evaluation.evaluate(made, data, 'val', state)
  assert found['retrieval_images'] == 12
  rows = np.random.default_rng(0).permutation(data.splits['val'])[:12]
  labels = data.labels[rows]
  ranked = reference.retrieval_loop(table[rows], labels, (1,))
  expected = reference.mean_loop(ranked, labels)
  assert found['map_at_r'] == pytest.approx(expected['map_at_r'])


@pytest.mark.parametrize('whitened', [False, True])
def test_retrieval_is_in_the_whitened_space_if_there_is_one(whitened):
  data = _data(LABELS)
  made, state, table, _ = _looked_up(data, losses=(1.0, 3.0, 8.0))
  matrix = np.array([[0.1, 3, 0], [0, 1, 0], [0, 2, 9]], np.float32)
  found = evaluation.evaluate(
    made, data, 'val', state, whitening=matrix if whitened else None
  )
  rows = data.splits['val']
  space = [table[rows], table[rows].astype(np.float64) @ matrix]
  space[1] /= np.linalg.norm(space[1], axis=1, keepdims=True)
  plain, other = (
    reference.mean_loop(
      reference.retrieval_loop(x, data.labels[rows], (1,)), data.labels[rows]
    )
    for x in space
  )
  want = other if whitened else plain
  for name in ('recall_at_1', 'map_at_r'):
    assert plain[name] != pytest.approx(other[name], abs=0.01)
    assert found[name] == pytest.approx(want[name])
  assert found['loss'] == pytest.approx((8 * 1.0 + 8 * 3.0 + 5 * 8.0) / 21)
  assert found.keys() == {'loss', 'recall_at_1', 'map_at_r'}


def test_batches_bring_the_measures_that_the_encoder_takes():
  data = _data(LABELS)
  measures = np.arange(2.0 * len(data.labels)).reshape(-1, 2)
  made, state, _, asked = _looked_up(data, measures=measures)
  evaluation.evaluate(made, data, 'val', state)
  rows = np.random.default_rng(0).permutation(data.splits['val'])
  np.testing.assert_array_equal(asked[0]['measures'], measures[rows[:SIZE]])
  assert len(asked) == 3


@pytest.mark.parametrize('most', [12, 100])
def test_a_whitening_is_of_a_draw_of_the_training_images(most, monkeypatch):
  monkeypatch.setattr(evaluation, '_WHITENING_IMAGES', most)
  data = _data(LABELS)
  made, state, table, _ = _looked_up(data)
  found = evaluation.fit_whitening(made, data, state, power=0.75)
  rows = np.random.default_rng(0).permutation(40)[:most]
  want = whitening.fit(table[rows], data.labels[rows], power=0.75)
  assert np.abs(want - np.eye(3)).max() > 0.1
  np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)


def test_rows_that_are_not_finite_are_named():
  data = _data(LABELS)
  made, state, table, _ = _looked_up(data)
  rows = np.random.default_rng(0).permutation(data.splits['val'])
  table[rows[10], 1] = np.nan
  table[rows[20], 2] = np.inf  # of the last batch, which is padded with it
  with pytest.raises(DivergedError) as error:
    evaluation.evaluate(made, data, 'val', state)
  named = f'{data.ids[rows[10]]}, {data.ids[rows[20]]}'
  text = str(error.value)
  assert text.startswith('val loss') and f'at step 7, on {named};' in text


@pytest.mark.parametrize(
  ('losses', 'first', 'rest'),
  [((1.0, np.inf, 1.0), 8, 5), ((1.0, 1.0, np.nan), 16, 2)],
)
def test_a_loss_that_is_not_finite_names_all_of_its_batch(losses, first, rest):
  data = _data(LABELS)
  made, state, _, _ = _looked_up(data, losses=losses)
  with pytest.raises(DivergedError) as error:
    evaluation.evaluate(made, data, 'val', state)
  rows = np.random.default_rng(0).permutation(data.splits['val'])
  named = ', '.join(data.ids[rows[first : first + 3]])
  assert f'on {named} and {rest} more;' in str(error.value)
