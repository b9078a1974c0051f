"""Validation against float64 loops over its batches, the last one partial."""

import math

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
  first, last = batches.evaluation(images, labels, rows, 3, None)
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


def test_counts_are_logged_as_anchors_of_triplets_alone():
  values = {'loss': 1.0, 'count': 5.0, 'loss_count': 3.0}
  assert evaluation.as_logged(values) == {'loss': 1.0}
  mined = values | {'d_ap': 0.5}
  want = {'loss': 1.0, 'd_ap': 0.5, 'anchors': 5.0}
  assert evaluation.as_logged(mined) == want


def test_processes_go_on_with_the_first_one_s_measures(
  make_config, monkeypatch
):
  data = _data(LABELS)
  made, state, _, _ = _run(make_config(batch__size=SIZE), data)
  asked = []

  def from_first(what, value):
    asked.append((what, value.keys()))
    return 'of the first'

  monkeypatch.setattr(evaluation.job, 'from_first', from_first)
  state = state.replace(step=7)
  assert evaluation.evaluate(made, data, 'val', state) == 'of the first'
  ((what, names),) = asked
  assert what == 'val at step 7' and 'map_at_r' in names


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


def test_measures_of_a_part_say_so(make_config, monkeypatch):
  monkeypatch.setattr(evaluation, '_RETRIEVAL_IMAGES', 12)
  data = _data(LABELS)
  made, state, rows, embeddings = _run(make_config(batch__size=SIZE), data)
  found = evaluation.evaluate(made, data, 'val', state)
  assert found['retrieval_images'] == 12
  labels = data.labels[rows[:12]]
  ranked = reference.retrieval_loop(embeddings[:12], labels, (1,))
  expected = reference.mean_loop(ranked, labels)
  assert found['map_at_r'] == pytest.approx(expected['map_at_r'])


@pytest.mark.parametrize('most', [12, 100])
def test_a_whitening_is_of_a_draw_of_the_training_images(
  most, make_config, monkeypatch
):
  monkeypatch.setattr(evaluation, '_WHITENING_IMAGES', most)
  data = _data(LABELS)
  made, state, _, _ = _run(make_config(batch__size=SIZE), data)
  found = evaluation.fit_whitening(made, data, state, power=0.5)
  rows = np.random.default_rng(0).permutation(40)[:most]
  embed = step.make_embed_step(apply_fn=made.model.apply, normalise=None)
  rows_embedded = embed(state.params, state.batch_stats, data.images[rows])
  want = whitening.fit(np.asarray(rows_embedded), data.labels[rows], power=0.5)
  np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-3)


def test_rows_that_are_not_finite_are_named(make_config):
  data = _data(LABELS)
  made, state, rows, _ = _run(make_config(batch__size=SIZE), data)
  calls = []

  def broken(state, batch):
    metrics, embeddings = made.eval_step(state, batch)
    calls.append(1)
    if len(calls) == 2:  # one number of its third row
      embeddings = embeddings.at[2, 1].set(np.nan)
    return metrics, embeddings

  with pytest.raises(DivergedError) as error:
    evaluation.evaluate(made._replace(eval_step=broken), data, 'val', state)
  assert f'on {data.ids[rows[10]]};' in str(error.value)


@pytest.mark.parametrize(
  ('broken_call', 'first', 'rest'), [(2, 8, 5), (3, 16, 2)]
)
def test_a_loss_that_is_not_finite_names_all_of_its_batch(
  broken_call, first, rest, make_config
):
  data = _data(LABELS)
  made, state, rows, _ = _run(make_config(batch__size=SIZE), data)
  calls = []

  def broken(state, batch):
    metrics, embeddings = made.eval_step(state, batch)
    calls.append(1)
    if len(calls) == broken_call:
      metrics = metrics | {'loss': np.inf}
    return metrics, embeddings

  with pytest.raises(DivergedError) as error:
    evaluation.evaluate(made._replace(eval_step=broken), data, 'val', state)
  named = ', '.join(data.ids[rows[first : first + 3]])
  assert f'on {named} and {rest} more;' in str(error.value)
