"""Work in processes: its order, its errors, and what they leave behind."""

import os
import signal
import subprocess
import sys

import pytest

from plankton_jax.data import workers
from plankton_jax.errors import InputError

PID = '__import__("os").getpid()'


@pytest.fixture(autouse=True)
def always(monkeypatch):
  monkeypatch.setattr(workers, 'FEWEST', 1)
  monkeypatch.setattr(os, 'cpu_count', lambda: 2)


def run(function, items):
  return list(workers.in_order(function, items, desc='test', processes=True))


def test_results_keep_their_order():
  assert run(abs, range(-200, 0)) == [*range(200, 0, -1)]
  assert run(abs, ()) == []


def test_work_is_done_in_processes_that_do_not_import_jax(monkeypatch):
  pids = run(eval, [PID] * 200)
  assert 1 <= len(set(pids)) <= 2 and os.getpid() not in pids
  assert run(eval, ['"jax" in __import__("sys").modules'] * 3) == [False] * 3
  monkeypatch.setattr(workers, 'FEWEST', 41)
  assert run(eval, [PID] * 40) == [os.getpid()] * 40


def test_what_a_function_holds_is_opened_once_in_a_process():
  opened = (
    '__import__("plankton_jax.data.workers", fromlist="_")'
    '._unpickled.cache_info().misses'
  )
  for _ in range(2):
    found = run(eval, [f'({PID}, {opened})'] * 500)
    assert len(set(found)) == len(dict(found))


@pytest.mark.parametrize('processes', [False, True])
def test_parts_are_begun_at_the_pace_at_which_they_are_read(processes):
  class Items:
    taken = 0

    def __len__(self):
      return 20_000

    def __getitem__(self, part):
      Items.taken += part.stop - part.start
      return [0] * (part.stop - part.start)

  # Two workers, two blocks of four parts each.
  limit = 2 * 2 * workers.AHEAD * workers.PART
  results = workers.in_parts(len, Items(), desc='test', processes=processes)
  for read in range(1, 17):
    assert next(results) == workers.PART
    assert Items.taken <= read * workers.PART + limit
  results.close()
  assert 16 * workers.PART < Items.taken < 3000


@pytest.mark.parametrize('count', [0, 1, 63, 64, 65, 511, 512, 513, 3000])
def test_every_item_is_in_one_part(count):
  parts = list(
    workers.in_parts(tuple, range(count), desc='test', processes=True)
  )
  assert [item for part in parts for item in part] == [*range(count)]
  assert all(len(part) == workers.PART for part in parts[:-1])
  assert all(parts)


def test_errors_are_those_of_the_function():
  with pytest.raises(ValueError, match=r"^invalid literal .* 'x'"):
    run(int, ['1'] * 99 + ['x'])
  assert run(abs, [-1] * 99) == [1] * 99


def test_an_ended_process_is_an_error_of_one_line():
  with pytest.raises(InputError, match=r'^test: a process ended .*: free some'):
    run(signal.raise_signal, [signal.SIGKILL] * 99)
  assert run(abs, [-1] * 99) == [1] * 99


def test_a_script_is_not_run_again(tmp_path):
  script = tmp_path / 'script.py'
  script.write_text(f"""
import sys
sys.path.insert(0, {os.getcwd()!r})
from plankton_jax.data import workers
workers.FEWEST = 1
print('started')
print(sum(workers.in_parts(
  sum, range(100), desc='test', processes=True)))
""")
  for command in ([script], ['-c', script.read_text()]):
    found = subprocess.run(
      [sys.executable, *command],
      cwd=tmp_path,
      check=True,
      capture_output=True,
      text=True,
    )
    assert found.stdout == 'started\n4950\n'
    assert 'Error' not in found.stderr and 'Warning' not in found.stderr
