import json
import math
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from plankton_jax.errors import InputError
from plankton_jax.train import loop, rehearsal, store


def _contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.fixture(scope='module')
def rehearsed(tmp_path_factory, make_config):
  """A config, its rehearsal, and the run that was then made: (.., workdir)."""
  config = make_config(epochs=1)
  config['curriculum'] = ((0, 'easy', 'semihard'),)
  workdir = tmp_path_factory.mktemp('rehearsal') / 'run'
  found = rehearsal.rehearse(config, workdir)
  assert not workdir.exists()
  loop.train_and_evaluate(config, workdir)
  return config, found, workdir


def test_a_rehearsal_foretells_the_run(rehearsed):
  config, found, workdir = rehearsed
  split = json.loads((workdir / 'split.json').read_text())
  assert found.sizes == {k: len(v) for k, v in split['splits'].items()}
  assert (found.seen, found.unseen) == (9, 3)
  logged = [
    json.loads(line)['split']
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
  ]
  assert found.epochs * found.steps_per_epoch == logged.count('train')
  assert found.validations == logged.count('val')
  with store.open_manager(workdir) as manager:
    saved = manager.item_metadata(manager.latest_step())
    size = lambda tree: sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
    assert found.parameters == {
      name: size(tree) for name, tree in saved.model.tree['params'].items()
    }
    numbers = size(saved.model.tree) + size(saved.optimizer.tree)
  # All are of four bytes, and so is the step.
  assert found.state_bytes == found.state_on_device == 4 * (numbers + 1)
  batch = config['batch']['size'] * 16 * 16
  memory = found.pace.memory
  assert memory.total >= found.state_bytes + batch + memory.temporary
  assert found.pace.steps > 1


def test_time_is_that_of_all_steps_and_validations(rehearsed):
  found = rehearsed[1]
  pace = found.pace._replace(step=0.5)
  found = found._replace(
    pace=pace, epochs=4, steps_per_epoch=10, validations=8, validation=2.0
  )
  assert found.seconds == 4 * 10 * 0.5 + 8 * 2.0
  lines = rehearsal.describe(found, 20).splitlines()
  assert 'time        36 s at most: 0.5 s a step (40 images/s)' in lines[6]
  assert lines[4] == 'steps       40: 4 epochs of 10, 20 images each'


def test_the_state_is_told_of_a_device_and_of_all(rehearsed):
  found = rehearsed[1]._replace(
    state_bytes=3 * 2**20, state_on_device=3 * 2**20
  )
  assert 'of which state 3.0 MiB, temporary' in rehearsal.describe(found, 20)
  split = found._replace(state_on_device=2**20)
  assert (
    'of which state 1.0 MiB of 3.0 MiB, as each holds its share of the'
    ' prototypes, temporary'
  ) in rehearsal.describe(split, 20)


def test_a_begun_workdir_is_read_and_left_alone(rehearsed, monkeypatch):
  config, found, workdir = rehearsed
  before = _contents(workdir)
  # Steps know no workdir, and are measured above.
  monkeypatch.setattr(rehearsal, 'measure', lambda *_: found.pace)
  monkeypatch.setattr(rehearsal, 'evaluate', lambda *_: {})
  assert rehearsal.rehearse(config, workdir).sizes == found.sizes
  assert _contents(workdir) == before
  other = {**config, 'epochs': 2}
  with pytest.raises(InputError, match='epochs: 1 there, 2 now'):
    rehearsal.rehearse(other, workdir)
  again = rehearsal.rehearse(other, workdir, accept_changes=True)
  assert again.epochs == 2
  assert _contents(workdir) == before


def test_what_a_run_refuses_is_refused(make_config, tmp_path):
  with pytest.raises(InputError, match=r"batch\.sampling='squared'"):
    config = make_config(batch__sampling='squared')
    rehearsal.rehearse(config, tmp_path / 'run')
  with pytest.raises(InputError, match='on_collapse'):
    rehearsal.rehearse(make_config(on_collapse='no'), tmp_path / 'run')
  assert list(tmp_path.iterdir()) == []


def test_the_command_prints_all_and_keeps_nothing(caches, tmp_path, python):
  rng = np.random.default_rng(0)
  for name in ('a', 'b', 'c'):
    (tmp_path / 'images' / name).mkdir(parents=True)
    for i in range(12):
      pixels = rng.integers(0, 256, (20, 24), np.uint8)
      Image.fromarray(pixels).save(tmp_path / 'images' / name / f'{i}.png')
  (tmp_path / 'images/a/broken.png').write_bytes(b'no image')
  (tmp_path / 'images/a/b.heic').write_bytes(b'')
  (tmp_path / 'images/few').mkdir()
  shutil.copy(tmp_path / 'images/a/0.png', tmp_path / 'images/few')
  run = python(
    'launch.py', '--config=configs/smoke.py', '--dry_run',
    '--config.data.source=folder', f'--config.data.path={tmp_path}/images',
    '--config.data.unseen_classes=1', '--config.data.size=16',
    '--config.batch.size=8', '--config.encoder.width=4',
    f'--config.data.cache_dir={caches}/data',
    f'--config.compilation_cache_dir={caches}/compiled',
    f'--workdir={tmp_path}/run',
  )  # fmt: skip
  assert run.returncode == 0, run.stderr
  lines = run.stdout.splitlines()
  assert lines[:3] == [
    'classes     2 seen, 1 unseen, 1 rare',
    'images      18 train, 2 val, 4 test, 12 unseen, 1 rare',
    'left out    2',
  ]
  assert lines[-2:] == [
    '            1: file of .heic',
    '            a/broken.png: not a PNG, JPEG, TIFF, BMP, GIF or WebP image',
  ]
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('seconds', 'shown'),
  [(0.4, '0 s'), (89, '89 s'), (90, '2 min'), (5399, '1 h 30 min'),
   (5340, '89 min'), (7199, '2 h 0 min')],
)  # fmt: skip
def test_durations(seconds, shown):
  assert rehearsal.duration(seconds) == shown


@pytest.mark.parametrize(
  ('count', 'shown'),
  [(2**20, '1.0 MiB'), (3 * 2**30, '3.0 GiB'), (math.nan, 'unknown')],
)
def test_bytes(count, shown):
  assert rehearsal.mebibytes(count) == shown
