import json
import signal
import time

import jax
import numpy as np
import pytest

from analysis.files import inputs
from analysis.measures import whitened
from configs import arcface, smoke
from plankton_jax import checkpoints, retrieval
from plankton_jax.data.pixels import images
from plankton_jax.errors import InputError
from plankton_jax.train import experiment, loop, sharding, store
from tests.written import read_csv, read_log


def _training(config, workdir, *more):
  """The arguments of launch.py, the config given by overrides."""
  flags = [
    f'--config.{name}={value}'
    for name, value in _flat(config)
    if value not in ('', {}, [])
  ]
  return (
    'launch.py', '--config=configs/smoke.py', f'--workdir={workdir}',
    *flags, *more,
  )  # fmt: skip


def _flat(tree, prefix=''):
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from _flat(value, f'{prefix}{name}.')
    else:
      yield f'{prefix}{name}', value


def _newest(workdir, like):
  with store.open_manager(workdir) as manager:
    step = manager.latest_step()
    state, _ = store.restore(manager, like, step)
  return step, jax.device_get(jax.tree.leaves(state))


@pytest.fixture(scope='module')
def finished(tmp_path_factory, make_config):
  """An uninterrupted run, shared: (workdir, config, state)."""
  config = make_config(
    curriculum=smoke.get_config().curriculum, optimizer__schedule='cosine'
  )
  workdir = tmp_path_factory.mktemp('runs') / 'whole'
  return workdir, config, loop.train_and_evaluate(config, workdir)


def test_a_run_logs_every_step_validation_epoch_and_its_test(finished):
  workdir, config, state = finished
  steps = int(state.step)
  train = read_log(workdir, 'train')
  assert [line['step'] for line in train] == list(range(1, steps + 1))
  assert [line['stage'] for line in train] == [
    stage for stage in range(3) for _ in range(steps // 3)
  ]
  assert len(read_log(workdir, 'val')) == 3 * config['validations_per_epoch']
  assert [line['epoch'] for line in read_log(workdir, 'epoch')] == [1, 2, 3]
  (test,) = read_log(workdir, 'test')
  assert test.keys() >= {'loss', 'd_ap', 'd_an', 'recall_at_1', 'map_at_r'}
  assert train[0].keys() == {
    'split', 'step', 'epoch', 'stage', 'loss', 'd_ap', 'd_an', 'anchors',
    'active_fraction', 'fallback_fraction', 'spread', 'effective_rank',
    'grad_norm',
  }  # fmt: skip
  assert all(np.isfinite(line['loss']) for line in train)
  assert list((workdir / 'tensorboard').iterdir())


def test_embedding_files_hold_every_image_once(finished, python):
  workdir, config, _ = finished
  run = python('-m', 'analysis.embed', f'--workdir={workdir}')
  assert run.returncode == 0, run.stderr
  data = experiment.load_data(config, workdir)
  encoder = checkpoints.load_encoder(workdir)
  assert encoder.class_names == data.class_names[: data.num_seen]
  ids = []
  for split in inputs.SPLITS:
    rows = inputs.read_embeddings(workdir / 'embeddings' / f'{split}.npz')
    np.testing.assert_array_equal(rows.id, data.ids[data.splits[split]])
    np.testing.assert_array_equal(rows.label, data.labels[data.splits[split]])
    assert rows.class_names == data.class_names
    norms = np.linalg.norm(rows.embedding, axis=1)
    np.testing.assert_allclose(norms, 1.0, rtol=1e-5)
    again = encoder.embed(data.images[data.splits[split]])
    np.testing.assert_allclose(rows.embedding, again, atol=1e-6)
    ids += rows.id.tolist()
  assert sorted(ids) == sorted(data.ids.tolist())
  fresh = checkpoints.untrained_encoder(workdir)
  assert (
    np.abs(fresh.embed(data.images[:4]) - encoder.embed(data.images[:4])).max()
    > 1e-3
  )
  with pytest.raises(InputError, match='the encoder takes uint8'):
    encoder.embed(data.images[:2].astype(np.float32))


def test_any_folder_can_be_embedded(finished, tmp_path, python):
  from PIL import Image

  workdir = finished[0]
  (tmp_path / 'images/Copepoda').mkdir(parents=True)
  picture = Image.fromarray(np.full((20, 30), 200, np.uint8))
  picture.save(tmp_path / 'images/Copepoda/a.png')
  picture.save(tmp_path / 'images/b.png')
  out = tmp_path / 'other.npz'
  python(
    '-m', 'analysis.embed', f'--workdir={workdir}',
    f'--images={tmp_path}/images', f'--out={out}',
  ).check_returncode()  # fmt: skip
  rows = inputs.read_embeddings(out)
  assert dict(zip(rows.id.tolist(), rows.label.tolist(), strict=True)) == {
    'Copepoda/a.png': 0,
    'b.png': -1,
  }
  np.testing.assert_allclose(rows.embedding[0], rows.embedding[1], atol=1e-6)


def test_new_images_are_labelled_and_looked_up(finished, tmp_path, python):
  """The whole path after the embeddings, with the encoder's own images."""
  workdir, config, _ = finished
  data = experiment.load_data(config, workdir)
  test = inputs.read_embeddings(workdir / 'embeddings/test.npz')
  (tmp_path / 'new').mkdir()
  for i, key in enumerate(test.id[:6]):
    pixels = data.originals.read(key)
    (tmp_path / f'new/{i}.png').write_bytes(images.encode(pixels))

  def run(module, *more):
    done = python('-m', module, f'--workdir={workdir}', *more)
    assert done.returncode == 0, done.stderr
    return done.stdout

  told = run('analysis.predict', f'--images={tmp_path}/new')
  out = workdir / 'analysis' / 'predict'
  *_, page, place = told.splitlines()
  assert page == f'{out}/predictions.html (0.1 MB)'
  assert place == f'results are in {out}'
  rows = read_csv(out / 'predictions.csv')
  train = inputs.read_embeddings(workdir / 'embeddings/train.npz')
  space = whitened.fit(train.embedding, train.label)
  for row, point in zip(rows, test.embedding.astype(float), strict=False):
    far = np.linalg.norm(train.embedding.astype(float) - point, axis=1)
    assert float(row['neighbour_1_distance']) == pytest.approx(
      far.min(), abs=1e-5
    )
    apart = whitened.squared(space, whitened.whiten(space, point[None]))
    nearest = train.class_names[space.classes[apart[0].argmin()]]
    assert row['nearest_class'] == nearest
  told = run('analysis.neighbors', f'--query={tmp_path}/new/4.png', '--count=3')
  assert test.id[4] in told and '0.0000' in told
  assert (workdir / 'analysis/neighbors_4.png').is_file()


def test_killed_twice_and_resumed_ends_bitwise_equal(
  finished, tmp_path, start_python
):
  workdir, config, state = finished
  killed = tmp_path / 'killed'
  like = jax.eval_shape(lambda: state)
  # Before any checkpoint, and in the second epoch; tests/test_faults.py kills
  # as a checkpoint is written.
  for lines in (2, 10):
    process = start_python(*_training(config, killed))
    while process.poll() is None:
      log = killed / 'metrics.jsonl'
      if log.exists() and log.read_text().count('\n') >= lines:
        process.kill()
      time.sleep(0.002)
    assert process.returncode == -signal.SIGKILL
  process = start_python(*_training(config, killed))
  _, said = process.communicate()
  assert process.returncode == 0, said
  assert 'resuming' in said
  step, resumed = _newest(killed, like)
  expected_step, expected = _newest(workdir, like)
  assert step == expected_step == int(state.step)
  for got, want in zip(resumed, expected, strict=True):
    np.testing.assert_array_equal(got, want)
  strip = lambda path: [
    {k: v for k, v in line.items() if 'seconds' not in k and 'per' not in k}
    for split in ('train', 'val', 'epoch', 'test')
    for line in read_log(path, split)
  ]
  assert strip(killed) == strip(workdir)


def test_images_kept_on_the_device_train_the_same_run(
  finished, tmp_path, monkeypatch
):
  workdir, config, state = finished
  monkeypatch.setattr(sharding, 'fits_on_device', lambda size: True)
  kept = loop.train_and_evaluate(config, tmp_path)
  for got, want in zip(*map(jax.tree.leaves, (kept, state)), strict=True):
    np.testing.assert_array_equal(got, want)
  assert read_log(tmp_path, 'val') == read_log(workdir, 'val')


def test_a_finished_run_is_not_trained_further(finished):
  workdir, config, state = finished
  before = (workdir / 'metrics.jsonl').read_text()
  again = loop.train_and_evaluate(config, workdir)
  assert int(again.step) == int(state.step)
  assert (workdir / 'metrics.jsonl').read_text() == before


def test_a_changed_config_is_refused_with_the_fields_that_differ(
  finished, make_config
):
  workdir, config, _ = finished
  changed = make_config(
    epochs=4,
    objective__margin=0.25,
    curriculum=config['curriculum'],
    optimizer__schedule='cosine',
  )
  with pytest.raises(InputError) as error:
    loop.train_and_evaluate(changed, workdir)
  message = str(error.value)
  assert 'epochs: 3 there, 4 now' in message
  assert 'objective.margin: 0.5 there, 0.25 now' in message
  assert 'encoder' not in message and '--accept_changes' in message
  assert json.loads((workdir / 'config.json').read_text())['epochs'] == 3


def test_arcface_stops_early_and_keeps_the_best(make_config, tmp_path):
  # A learning rate of 0: only the running statistics move.
  config = make_config(
    arcface.get_config,
    epochs=20,
    early_stop_validations=3,
    optimizer__learning_rate=0.0,
    data__unseen_classes=10,
    data__fractions=(0.5, 0.25, 0.25),
    batch__size=12,
  )
  state = loop.train_and_evaluate(config, tmp_path)
  losses = [line['loss'] for line in read_log(tmp_path, 'val')]
  best = int(np.argmin(losses))
  assert len(losses) == best + 1 + 3 < 40
  encoder = checkpoints.load_encoder(tmp_path)
  (test,) = read_log(tmp_path, 'test')
  assert 'accuracy' in test
  data = experiment.load_data(config, tmp_path)
  rows = data.splits['test']
  ranked = retrieval.evaluate(
    encoder.embed(data.images[rows]), data.labels[rows], ks=(1,)
  )
  assert test['map_at_r'] == pytest.approx(ranked['map_at_r'], abs=1e-6)
  epochs = {line['step']: line['epoch'] for line in read_log(tmp_path, 'val')}
  assert (test['step'], test['epoch']) == (encoder.step, epochs[encoder.step])
  maps = {line['step']: line['map_at_r'] for line in read_log(tmp_path, 'val')}
  assert maps[encoder.step] == max(maps.values()) > min(maps.values())
  scores = encoder.scores(np.eye(8, dtype=np.float32))
  assert scores.shape == (8, 2) and np.abs(scores).max() <= 64.0
  stopped = int(state.step)
  assert int(loop.train_and_evaluate(config, tmp_path).step) == stopped


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--config.objective.margni=0.3'], 'Did you mean "margin"'),
    (
      ['--config.data.source=folder', '--config.data.path=/nowhere'],
      '/nowhere',
    ),
    (['--config.epochs=many'], 'epochs'),
    (['--config.objective.name=tripplet'], 'objective.name'),
    (['--config.batch.size=1'], 'batch.size=1 must be a whole number from 2'),
    (['stray'], "'stray'"),
  ],
)
def test_mistakes_are_one_line(flags, message, tmp_path, make_config, python):
  run = python(*_training(make_config(), tmp_path / 'run', *flags))
  assert run.returncode == 2
  lines = [x for x in run.stderr.splitlines() if x.startswith('error: ')]
  assert len(lines) == 1 and message in lines[0]
  assert 'Traceback' not in run.stderr
