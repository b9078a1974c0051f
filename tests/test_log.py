import json
import math

import numpy as np
import pytest

from plankton_jax.train import log as logs


def _log(workdir, step=0):
  return logs.Log(workdir, step=step, total_steps=9, batch_size=2)


def _where(step):
  return {'step': step, 'epoch': step / 4, 'stage': 0}


def _read(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_lines_are_written_in_their_order(tmp_path):
  with _log(tmp_path) as log:
    for step in range(1, 9):
      log.write('train', _where(step), {'loss': float(step)})
    log.write('val', _where(8), {'loss': 0.5})
  lines = _read(tmp_path)
  assert [line['step'] for line in lines] == [*range(1, 9), 8]
  assert [line['loss'] for line in lines] == [*range(1, 9), 0.5]
  assert lines[-1]['split'] == 'val'


def test_an_undefined_number_is_null(tmp_path):
  with _log(tmp_path) as log:
    log.write('val', _where(8), {'loss': math.nan, 'map_at_r': 0.0})
  (line,) = _read(tmp_path)
  assert line['loss'] is None and line['map_at_r'] == 0.0
  assert 'NaN' not in (tmp_path / 'metrics.jsonl').read_text()


def test_resuming_drops_later_lines_the_test_and_a_torn_end(tmp_path):
  with _log(tmp_path) as log:
    for step in range(1, 6):
      log.write('train', _where(step), {'loss': float(step)})
    log.write('test', {'step': 2, 'epoch': 0.5}, {'loss': 0.0})
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"split": "train", "step": 3, "lo')
  with _log(tmp_path, step=3) as log:
    log.write('train', _where(4), {'loss': 40.0})
  assert [line['loss'] for line in _read(tmp_path)] == [1, 2, 3, 40]


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
   '{"split": ["train"], "step": 2}', '{"split": "train", "step": null}',
   '{"split": "train", "step": 1e999}', '{"split": "train", "step": true}',
   '[' * 100_000],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_counted(cut, tmp_path):
  good = '{"split": "train", "step": 1}'
  found = _write(tmp_path / 'metrics.jsonl', good, cut)
  assert found == ({'train': [{'split': 'train', 'step': 1}]}, 1)


@pytest.mark.parametrize('line', ['[]', 'null', '{"step": 2}', '[' * 100_000])
def test_a_run_resumes_beside_lines_that_are_no_rows(line, tmp_path):
  good = '{"split": "train", "step": 1}'
  (tmp_path / 'metrics.jsonl').write_text(f'{good}\n{line}\n{good}\n')
  with _log(tmp_path, step=1):
    pass
  assert _read(tmp_path) == [json.loads(good)] * 2


def test_column_has_nan_where_there_is_no_number():
  rows = [{'a': 1}, {}, {'a': None}, {'a': 'x'}, {'a': 2.5}, {'a': 10**400}]
  np.testing.assert_array_equal(
    logs.column(rows, 'a'), [1.0, *[np.nan] * 3, 2.5, np.nan]
  )


def test_a_missing_log_has_no_lines(tmp_path):
  assert logs.read(tmp_path / 'metrics.jsonl') == ({}, 0)
