"""Work in processes: its order, its errors, and what they leave behind."""

import os
import signal
import subprocess
import sys

import pytest

from plankton_jax.data import processes
from plankton_jax.errors import InputError

PID = '__import__("os").getpid()'


@pytest.fixture(autouse=True)
def always(monkeypatch):
  monkeypatch.setattr(processes, 'FEWEST', 1)
  monkeypatch.setattr(os, 'cpu_count', lambda: 2)


def run(function, items, load=lambda item: item):
  return list(processes.in_order(load, function, items, desc='test'))


def test_results_keep_their_order():
  assert run(abs, range(-200, 0), lambda item: 2 * item) == [*range(400, 0, -2)]
  assert run(abs, ()) == []


def test_work_is_done_in_processes_that_do_not_import_jax(monkeypatch):
  pids = run(eval, [PID] * 200)
  assert 1 <= len(set(pids)) <= 2 and os.getpid() not in pids
  assert run(eval, ['"jax" in __import__("sys").modules'] * 3) == [False] * 3
  monkeypatch.setattr(processes, 'FEWEST', 41)
  assert run(eval, [PID] * 40) == [os.getpid()] * 40


def test_loading_keeps_pace_with_what_is_read():
  loaded = []

  def load(item):
    loaded.append(item)
    return item

  results = processes.in_order(load, abs, range(10_000), desc='test')
  assert next(results) == 0
  results.close()
  assert len(loaded) < 1000


def test_errors_are_those_of_the_function_and_of_loading():
  with pytest.raises(ValueError, match=r"^invalid literal .* 'x'"):
    run(int, ['1'] * 99 + ['x'])
  with pytest.raises(ZeroDivisionError):
    run(abs, [0] * 99, load=lambda item: 1 / item)
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
from plankton_jax.data import processes
processes.FEWEST = 1
print('started')
print(sum(processes.in_order(str, int, range(100), desc='test')))
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
