"""Work in processes: its order, its errors, and what they leave behind."""

import os
import signal
import subprocess
import sys

import pytest

from plankton_jax.data.pixels import ordered, processes
from plankton_jax.errors import InputError

PID = '__import__("os").getpid()'


@pytest.fixture(autouse=True)
def always(monkeypatch):
  monkeypatch.setattr(processes, 'FEWEST', 1)
  monkeypatch.setattr(os, 'cpu_count', lambda: 2)


def run(function, items):
  return list(processes.in_order(function, items, desc='test'))


def test_results_keep_their_order():
  assert run(abs, range(-200, 0)) == [*range(200, 0, -1)]
  assert run(abs, ()) == []


def test_work_is_done_in_processes_that_do_not_import_jax(monkeypatch):
  pids = run(eval, [PID] * 200)
  assert 1 <= len(set(pids)) <= 2 and os.getpid() not in pids
  assert run(eval, ['"jax" in __import__("sys").modules'] * 3) == [False] * 3
  monkeypatch.setattr(processes, 'FEWEST', 41)
  assert run(eval, [PID] * 40) == [os.getpid()] * 40


def test_what_a_function_holds_is_opened_once_in_a_process():
  opened = (
    '__import__("plankton_jax.data.pixels.processes", fromlist="_")'
    '._opened.cache_info().misses'
  )
  for _ in range(2):
    found = run(eval, [f'({PID}, {opened})'] * 500)
    assert len(set(found)) == len(dict(found))


def test_parts_are_begun_at_the_pace_at_which_they_are_read():
  class Items:
    taken = 0

    def __len__(self):
      return 10_000

    def __getitem__(self, part):
      Items.taken += part.stop - part.start
      return [0] * (part.stop - part.start)

  results = processes.in_parts(len, Items(), desc='test')
  assert next(results) == processes.MOST
  results.close()
  assert processes.MOST < Items.taken < 1000


def test_parts_are_smaller_towards_the_end():
  sizes = list(processes.in_parts(len, range(3000), desc='test'))
  assert sum(sizes) == 3000
  assert sizes == sorted(sizes, reverse=True)
  assert sizes[0] == processes.MOST
  # What one worker still has to do when the other has nothing left is little.
  assert 1 <= sizes[-1] <= sizes[-2] == ordered.FEWEST


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
from plankton_jax.data.pixels import processes
processes.FEWEST = 1
print('started')
print(sum(processes.in_parts(sum, range(100), desc='test')))
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
