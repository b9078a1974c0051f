import json

import jax.numpy as jnp
import pytest

from plankton_jax.errors import DivergedError
from plankton_jax.train import log as logs


def _log(workdir, step=0):
  return logs.Log(
    workdir,
    step=step,
    total_steps=9,
    batch_size=2,
    image_names=lambda step: [f'{step}_{i}.png' for i in range(5)],
  )


def _read(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def _values(loss):
  return {'loss': jnp.float32(loss), 'grad_norm': jnp.ones(()), 'count': 2}


def test_lines_stand_in_the_order_of_the_steps(tmp_path):
  log = _log(tmp_path)
  for step in range(1, 9):
    log.train(_values(step), {'step': step, 'epoch': step / 4, 'stage': 0})
  log.write('val', {'step': 8, 'epoch': 2.0, 'stage': 0}, {'loss': 0.5})
  log.close()
  lines = _read(tmp_path)
  assert [line['step'] for line in lines] == [*range(1, 9), 8]
  assert [line['loss'] for line in lines] == [*range(1, 9), 0.5]
  assert lines[-1]['split'] == 'val'


def test_resuming_drops_later_lines_the_test_and_a_torn_end(tmp_path):
  log = _log(tmp_path)
  for step in range(1, 6):
    log.train(_values(step), {'step': step, 'epoch': 0.0, 'stage': 0})
  log.write('test', {'step': 2, 'epoch': 0.5}, {'loss': 0.0})
  log.close()
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"split": "train", "step": 3, "lo')
  log = _log(tmp_path, step=3)
  log.train(_values(40.0), {'step': 4, 'epoch': 0.0, 'stage': 0})
  log.flush()
  log.close()
  assert [line['loss'] for line in _read(tmp_path)] == [1, 2, 3, 40]


@pytest.mark.parametrize('name', ['loss', 'grad_norm'])
def test_a_number_that_is_not_finite_stops_with_its_step(tmp_path, name):
  log = _log(tmp_path)
  log.train(_values(1.0), {'step': 1, 'epoch': 0.0, 'stage': 0})
  bad = _values(1.0) | {name: jnp.float32(jnp.nan)}
  with pytest.raises(DivergedError, match=f'{name} is nan at step 2') as error:
    log.train(bad, {'step': 2, 'epoch': 0.0, 'stage': 0})
    log.flush()
  log.close()
  assert len(_read(tmp_path)) == 1
  assert '2_0.png, 2_1.png, 2_2.png and 2 more' in str(error.value)
  listed = tmp_path / 'diverged.txt'
  assert listed.read_text().split() == [f'2_{i}.png' for i in range(5)]
  _log(tmp_path, step=1).close()  # resumed, it is no longer true
  assert not listed.exists()


def test_a_triplet_batch_counts_anchors():
  triplet = logs.as_logged({'loss': 1.0, 'd_ap': 0.5, 'count': 7.0})
  assert triplet == {'loss': 1.0, 'd_ap': 0.5, 'anchors': 7.0}
  assert logs.as_logged({'loss': 1.0, 'count': 7.0}) == {'loss': 1.0}


def _write(path, *lines):
  path.write_text('\n'.join(lines))
  return logs.read(path)


def test_a_log_is_read_by_split_in_order_of_step(tmp_path):
  found = _write(
    tmp_path / 'metrics.jsonl',
    '{"split": "train", "step": 2, "loss": 0.2}',
    '{"split": "val", "step": 2, "loss": 0.5}',
    '{"split": "train", "step": 1, "loss": 0.1}',
    '{"split": "train", "step": 2, "loss": 0.3}',  # logged again on resuming
    '',
  )
  assert found.broken == 0
  assert found.by_split.keys() == {'train', 'val'}
  train = [(row['step'], row['loss']) for row in found.by_split['train']]
  assert train == [(1, 0.1), (2, 0.3)]


@pytest.mark.parametrize(
  'cut',
  ['{"split": "train", "st', '{"step": 2}', '[1]', 'null', '3', '\ufffd',
   '{"split": "train"}', '{"split": "train", "step": "2"}',
   '{"split": ["train"], "step": 2}', '{"split": "train", "step": null}'],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_counted(cut, tmp_path):
  good = '{"split": "train", "step": 1}'
  found = _write(tmp_path / 'metrics.jsonl', good, cut)
  assert found == ({'train': [{'split': 'train', 'step': 1}]}, 1)


def test_a_missing_log_has_no_lines(tmp_path):
  assert logs.read(tmp_path / 'metrics.jsonl') == ({}, 0)
