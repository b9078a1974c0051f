"""Tests what the loop logs, says and saves, on a run without a network."""

import contextlib
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from plankton_jax import curriculum
from plankton_jax.data import pipeline
from plankton_jax.errors import DivergedError
from plankton_jax.train import experiment, job, loop, progress
from plankton_jax.train.progress import Measure, Progress
from plankton_jax.train.state import INIT, TRAIN, TrainState, make_key

STAGES = curriculum.make(((0, 'easy', 'semihard'), (1, 'hard', 'hard')))
CONFIG = {
  'seed': 5,
  'epochs': 2,
  'early_stop_validations': 0,
  'on_collapse': 'warn',
  'data': {'white': 0},
  'encoder': {'embedding_dim': 6, 'pretrained': '', 'whitening': 0.0},
}
VALUES = {'spread': 0.1, 'effective_rank': 3.0, 'grad_norm': 1.0}


class _Heard:
  """Keeps what is logged, said, saved and waited for, in its order."""

  def __init__(self):
    self.lines, self.events = [], []

  def write(self, split, where, values):
    self.lines.append((split, where, values))

  def say(self, text):
    self.events.append(text)

  def wait_until_finished(self):
    self.events.append('waited')

  @property
  def said(self):
    return [text for text in self.events if text != 'waited']

  def of(self, split):
    """Returns the lines of a split by their step."""
    return {at['step']: line for name, at, line in self.lines if name == split}


@pytest.fixture
def heard(monkeypatch):
  """Hears a run whose clock moves by ten seconds whenever it is read."""
  clock = iter(range(0, 1000, 10))
  monkeypatch.setattr(loop, 'time', SimpleNamespace(monotonic=clock.__next__))
  monkeypatch.setattr(
    loop.job, 'sigterm_noticed', lambda: contextlib.nullcontext(lambda _: False)
  )
  return _Heard()


@pytest.fixture
def saved(heard, monkeypatch):
  """Returns what was saved, by its step."""
  saves = {}

  def save(manager, state, **fields):
    assert manager is heard
    heard.events.append(f'saves {int(state.step)}')
    saves[int(state.step)] = fields

  monkeypatch.setattr(loop.store, 'save', save)
  return saves


def _data(**fields):
  labels = np.array([0, 0, 1, 1, 2, 2, 2], np.int32)
  return pipeline.Data(
    images=np.zeros((7, 2, 2, 1), np.uint8),
    labels=labels,
    ids=np.array([f'{i}.png' for i in range(7)]),
    class_names=('a', 'b', 'c'),
    num_seen=2,
    splits={'train': np.arange(3), 'val': np.array([3]), 'unseen': labels[4:]},
    fingerprint='',
    originals=None,
    **fields,
  )


class _Sampler:
  size, steps_per_epoch = 3, 4

  def __call__(self, step):
    return np.arange(3)

  def coverage(self, epoch):
    return (epoch + 1) / 4


def _run(heard, config=CONFIG, data=None, **parts):
  """A run of two epochs of four steps, each validated twice."""
  experiment = SimpleNamespace(
    schedule=progress.Schedule(2, 4, 2, STAGES),
    sampler=_Sampler(),
    objective=SimpleNamespace(collapsed_loss=0.5),
    model=SimpleNamespace(size=False),
    mesh=None,
    columns={},
    **parts,
  )
  return loop._Run(config, 'runs/x', data or _data(), experiment, heard, heard)


def _state(step=0):
  params = {'encoder': {'a': jnp.ones((3, 4))}, 'objective': {'b': jnp.ones(5)}}
  return TrainState(jnp.int32(step), params, {'n': jnp.int8(1)}, ())


class _Late(float):
  """A loss that the device is still computing."""

  def is_ready(self):
    return False


def _train(heard, monkeypatch, *, start=0, losses=(4, 3, 2, 1), **config):
  """Trains with these validations; returns what the steps were given."""
  maps = iter((0.5, 0.4, 0.5, 0.6))
  results = iter(losses)
  seen = []

  def train_step(state, batch, key, *, stage):
    seen.append((batch, stage, jax.random.key_data(key).tolist()))
    metrics = {'loss': _Late(10 + batch), **VALUES}
    return state.replace(step=state.step + 1), metrics

  def evaluate(experiment, data, split, state):
    assert split == 'val'
    return {'loss': next(results), 'map_at_r': next(maps)}

  monkeypatch.setattr(loop, 'evaluate', evaluate)
  monkeypatch.setattr(loop.batches, 'training', lambda *given: given[3])
  run = _run(heard, CONFIG | config, train_step=train_step)
  state = loop._train(run, _state(start), Progress())
  assert int(state.step) == start + len(seen)
  return seen


def test_stages_keys_lines_and_checkpoints_follow_the_schedule(
  heard, saved, monkeypatch
):
  recent = []

  def diagnose(metrics, **given):
    recent.append(([line['loss'] for line in metrics], given['stage']))

  monkeypatch.setattr(loop.failures, 'diagnose_collapse', diagnose)
  key = jax.random.key_data(make_key(5, TRAIN)).tolist()
  seen = _train(heard, monkeypatch)
  assert seen == [(step, step // 4, key) for step in range(8)]
  losses = {step: line['loss'] for step, line in heard.of('train').items()}
  assert losses == {step: 9.0 + step for step in range(1, 9)}
  assert list(heard.of('val')) == [2, 4, 6, 8]
  # The clock is read as training begins and as each epoch ends.
  assert heard.of('epoch') == {
    step: {'coverage': share, 'seconds': 10, 'images_per_second': 1.2}
    for step, share in ((4, 0.25), (8, 0.5))
  }
  assert heard.events[-2:] == [
    'epoch 2/2 hard+hard  train loss 17.0000  val loss 1.0000'
    '  map_at_r 0.6000  coverage 50.0%  10.0 s',
    'saves 8',
  ]
  stages = ['easy+semihard'] * 2 + ['hard+hard'] * 2
  starts = range(10, 18, 2)
  assert recent == [
    ([float(loss), loss + 1.0], stage)
    for loss, stage in zip(starts, stages, strict=True)
  ]
  # The third validation is no better than the first, and ends no epoch.
  measures = {step: fields['measure'] for step, fields in saved.items()}
  assert measures == {2: 0.5, 4: 0.4, 8: 0.6}
  assert saved[4]['meta']['progress'] == {
    'best_measure': 0.5, 'best_loss': 3, 'without_best': 0, 'collapsed': False
  }  # fmt: skip


def test_a_resumed_run_takes_the_steps_that_are_left(heard, saved, monkeypatch):
  seen = _train(heard, monkeypatch, start=6)
  assert [batch for batch, _, _ in seen] == [6, 7]
  assert heard.of('epoch')[8]['images_per_second'] == 0.6  # of two steps


def test_an_early_stop_saves_where_it_stops(heard, saved, monkeypatch):
  _train(heard, monkeypatch, losses=(1, 2, 3), early_stop_validations=2)
  # The measure was best at 2, and at 6 no epoch ends.
  assert list(saved) == [2, 4, 6]
  assert saved[6]['meta']['progress']['without_best'] == 2
  assert heard.said[-1] == (
    'stopped at step 6: 2 validations without a new minimum of the loss, 1.0000'
  )


@pytest.mark.parametrize(
  ('last', 'measure', 'without_best'), [(3, -math.inf, 0), (4, 0.4, 1)]
)
def test_sigterm_saves_the_step_in_which_it_arrives(
  last, measure, without_best, heard, saved, monkeypatch
):
  noticed = contextlib.nullcontext(lambda step: step >= last)
  monkeypatch.setattr(loop.job, 'sigterm_noticed', lambda: noticed)
  with pytest.raises(SystemExit) as left:
    _train(heard, monkeypatch, losses=(1, 2))
  assert left.value.code == 143
  assert list(heard.of('train')) == list(range(1, last + 1))
  assert list(heard.of('val')) == [2, 4][: last - 2]
  # Between validations nothing is better; at one its measure is kept.
  assert saved[last]['measure'] == measure
  assert saved[last]['meta']['progress']['without_best'] == without_best
  assert heard.events[-3:] == [
    f'saves {last}',
    'waited',
    f'SIGTERM: saved step {last}; the same command resumes the run',
  ]


def test_a_collapse_is_told_once_or_ends_the_run(heard, saved, monkeypatch):
  monkeypatch.setattr(
    loop.failures, 'diagnose_collapse', lambda *_, **__: 'a point'
  )
  _train(heard, monkeypatch)
  assert heard.of('collapse') == {2: {'warning': 'a point'}}
  assert heard.said.count('WARNING: a point') == 1
  assert saved[2]['meta']['progress']['collapsed']
  with pytest.raises(DivergedError, match=r'^step 2: a point$'):
    _train(heard, monkeypatch, on_collapse='stop')


NAN = math.nan


@pytest.mark.parametrize(
  ('found', 'patience', 'told'),
  [
    ({'loss': 1.0, 'map_at_r': 0.5}, 1, None),
    (
      {'loss': 1.0, 'map_at_r': NAN},
      1,
      'MAP@R: too few images of each class; the checkpoint with the lowest loss'
      ' counts as the best. Raise',
    ),
    (
      {'loss': 1.0, 'map_at_r': NAN, 'accuracy': 0.5},
      1,
      'MAP@R: too few images of each class; the checkpoint with the best'
      ' accuracy is kept. Raise',
    ),
    (
      {'loss': NAN, 'map_at_r': NAN},
      0,
      'the loss and MAP@R: too few images of each class; the newest checkpoint'
      ' counts as the best. Raise',
    ),
    (
      {'loss': NAN, 'map_at_r': 0.5},
      1,
      'the loss: too few images of each class; the checkpoint with the best'
      ' MAP@R is kept, and training does not stop early. Raise',
    ),
  ],
)
def test_what_validation_leaves_undefined_is_told(found, patience, told):
  measure = progress.measure_of(found, 2)
  assert progress.explain_undefined(found, measure, patience) == (
    told
    and f'validation does not define {told} the validation share of'
    ' data.fractions'
  )


@pytest.mark.parametrize(
  ('found', 'given', 'want'), [(4095, 0, 4095), (0, 9, 9), (0, 0, 0)]
)
def test_a_checkpoint_holds_the_white_and_the_classes_trained_on(
  found, given, want, heard, saved
):
  run = _run(heard, CONFIG | {'data': {'white': given}}, _data(white=found))
  loop._save(run, _state(3), Progress(), Measure('MAP@R', 0.25))
  assert saved == {
    3: {
      'meta': {
        'config': CONFIG | {'data': {'white': want}},
        'class_names': ('a', 'b'),
        'progress': Progress()._asdict(),
      },
      'splits': run.data.splits,
      'measure': 0.25,
    }
  }


def test_a_run_says_what_it_trains_and_from_where(heard):
  run = _run(heard)
  loop._announce(run, _state())
  devices = f'{jax.device_count()} {jax.default_backend()} device(s)'
  first = (
    '2 of 3 classes trained on; 3 train, 1 val, 3 unseen images; 12'
    f' parameters; {devices}'
  )
  assert heard.said == [first]
  loop._announce(run, _state(6))
  assert heard.said[1:] == [
    first,
    'resuming runs/x at step 6 of 8 (epoch 1.50 of 2)',
  ]


def test_a_run_resumes_from_its_newest_checkpoint(monkeypatch):
  monkeypatch.setattr(loop, '_restored', lambda *given: given[-1])
  manager = SimpleNamespace(latest_step=lambda: 6, best_step=lambda: 2)
  assert loop._start(CONFIG, None, manager) == 6


def test_a_fresh_run_draws_by_its_own_key():
  made = SimpleNamespace(create=jax.random.key_data, mesh=None)
  manager = SimpleNamespace(latest_step=lambda: None)
  state, begun = loop._start(CONFIG, made, manager)
  np.testing.assert_array_equal(state, jax.random.key_data(make_key(5, INIT)))
  assert begun == Progress()


@pytest.mark.parametrize('best', [None, 4, 8])
def test_the_test_is_of_the_best_checkpoint(best, heard, monkeypatch):
  monkeypatch.setattr(
    loop, '_restored', lambda *given: (_state(given[-1]), None)
  )

  def evaluate(experiment, data, split, state, whitening):
    assert whitening is None
    return {'loss': NAN, 'accuracy': 0.25, 'split': split, 'at': state.step}

  monkeypatch.setattr(loop, 'evaluate', evaluate)
  heard.best_step = lambda: best
  loop._finish(_run(heard), _state(8))
  if best is None:
    assert not heard.lines and not heard.said
    return
  ((name, where, values),) = heard.lines
  assert (name, where) == ('test', {'step': best, 'epoch': best / 4})
  assert (values['split'], int(values['at'])) == ('test', best)
  assert heard.said == [
    f'test, by the best checkpoint (step {best}): accuracy 0.2500'
  ]


def test_a_checkpoint_s_bytes_are_those_of_its_arrays():
  made = SimpleNamespace(create=lambda key: _state())
  assert loop._checkpoint_bytes(CONFIG, made) == 4 + (12 + 5) * 4 + 1


def test_the_log_knows_the_run_and_other_processes_write_none(
  heard, tmp_path, monkeypatch
):
  def make(*given, **options):
    return given, options

  monkeypatch.setattr(loop, 'Log', make)
  parts = _run(heard).experiment
  found = loop._first_log(CONFIG, tmp_path, parts, 6)
  options = {'step': 6, 'total_steps': 8, 'batch_size': 3}
  assert found == ((tmp_path,), options)
  (tmp_path / 'config.json').unlink()
  monkeypatch.setattr(job, 'is_first', lambda: False)
  assert isinstance(loop._first_log(CONFIG, tmp_path, parts, 6), loop.Quiet)
  assert not list(tmp_path.iterdir())


def test_data_is_loaded_by_the_run_s_seed(tmp_path, monkeypatch):
  asked = []
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setattr(
    experiment.config_file, 'build', lambda *_, **given: asked.append(given)
  )
  monkeypatch.setattr(
    experiment.write_errors,
    'explained',
    lambda place: contextlib.nullcontext(asked.append(place)),
  )
  config = CONFIG | {'data': {'cache_dir': '~/cache'}}
  experiment.load_data(config, 'runs/x', writes=False)
  experiment.load_data(config, 'runs/x')
  given = {'workdir': 'runs/x', 'seed': 5}
  assert asked == [
    tmp_path / 'cache',
    given | {'writes': False},
    tmp_path / 'cache',
    given | {'writes': True},
  ]
