"""The short form of benchmarks.faults: a killed run ends as one that is not."""

import json

import numpy as np
import pytest

from benchmarks import faults, fuzz_readers


@pytest.fixture
def smallest(caches, monkeypatch, start_python):
  """The smallest run, whose programs are compiled once for all tests."""

  def start(arguments, log):
    command = start_python(*arguments)
    log.unlink(missing_ok=True)
    log.symlink_to(command.folder / 'errors')
    return command

  monkeypatch.setattr(faults, 'start', start)
  for name, value in {
    'epochs': 2,
    'curriculum': "((0,'easy','semihard'),)",
    'data.per_class': 8,
    'optimizer.schedule': 'constant',
    'compilation_cache_dir': caches / 'compiled',
  }.items():
    monkeypatch.setitem(faults.FLAGS, name, value)


def test_a_run_killed_in_three_phases_ends_the_same(tmp_path, smallest):
  rng = np.random.default_rng(0)
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  faults.chain(whole, (), rng, last='embed')
  phases = ('cache', 'checkpoint', 'embedding')
  kills = faults.chain(killed, phases, rng, last='embed')
  assert [kill.phase for kill in kills if kill.reached] == list(phases)
  assert not [name for kill in kills for name in kill.broken]
  want, got = faults.results(whole), faults.results(killed)
  assert len(want) > 60 and not faults.differences(got, want)
  assert faults.size(killed) < 1.5 * faults.size(whole)


def test_results_tell_runs_apart(tmp_path):
  one, other = {'a': '1', 'b': '2'}, {'a': '1', 'b': '3', 'c': '4'}
  assert faults.differences(one, one) == []
  assert faults.differences(one, other) == ['b', 'c']


@pytest.mark.parametrize(
  ('name', 'whole'),
  [
    ('config.json', b'{"a": 1}'),
    ('rows.npy', None),
    ('test.npz', None),
    ('map.png', fuzz_readers.picture()),
    ('report.html', b'<html></html>\n'),
  ],
)
def test_a_file_cut_short_under_its_final_name_is_found(name, whole, tmp_path):
  file = tmp_path / name
  if whole is not None:
    file.write_bytes(whole)
  elif name.endswith('.npy'):
    np.save(file, np.arange(99))
  else:
    np.savez(file, rows=np.arange(99))
  assert list(faults.broken(tmp_path)) == []
  data = file.read_bytes()
  for part in (data[: len(data) // 2], b''):
    file.write_bytes(part)
    assert len(list(faults.broken(tmp_path))) == 1
  # Under a temporary name it may be anything.
  file.rename(tmp_path / f'.{name}.123')
  assert list(faults.broken(tmp_path)) == []


def test_a_failing_command_is_named_with_its_last_line(tmp_path):
  with pytest.raises(faults.InputError, match=r'ended with 3.*the reason'):
    faults.finish(
      ['-c', 'print("the reason"); raise SystemExit(3)'], tmp_path / 'log.txt'
    )


def test_rows_of_the_log_are_compared_without_timings(tmp_path):
  # The same loss at another speed is the same run; another loss is not.
  row = {'split': 'epoch', 'step': 3, 'loss': 0.5, 'seconds': 1.0}
  found = []
  for change in ({}, {'seconds': 2.0}, {'loss': 0.25}):
    (tmp_path / 'log').write_text(json.dumps(row | change) + '\n')
    found.append(faults.logged(tmp_path / 'log'))
  assert found[0] == found[1] != found[2]
