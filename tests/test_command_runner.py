"""Tests of commands rest on this: a fork is as a process of its own."""

import subprocess
import sys

import pytest

ENDS = {
  'prints': 'import sys; print(1, file=sys.stderr); print(2)',
  'a status': 'import sys; sys.exit(3)',
  'a reason': 'import sys; sys.exit("no such file")',
  'an error': 'print(2); raise ValueError("wrong")',
  'a signal': 'import os, signal; os.kill(os.getpid(), signal.SIGTERM)',
  'a thread': 'import threading; threading.Timer(0.1, print, [2]).start()',
  'at exit': 'import atexit; atexit.register(print, 2)',
}
LEAVES = """
import os, sys, warnings
import jax
from absl import flags
flags.DEFINE_string('left', '', '')
jax.config.update('jax_enable_x64', True)
os.environ['LEFT'] = os.environ['GIVEN']
os.chdir('/')
os.umask(0)
sys.path.append('/left')
sys.modules['left'] = sys
warnings.simplefilter('error')
print(jax.numpy.ones(2).dtype)
"""
SEES = """
import os, sys, warnings
import jax
from absl import flags
print(os.getcwd(), sys.path[0], sys.path, sys.argv, *sorted(os.environ))
print('left' in flags.FLAGS, 'left' in sys.modules, os.umask(0))
print(warnings.filters)
print(jax.numpy.ones(2).dtype, jax.devices())
"""


@pytest.mark.parametrize('code', ENDS.values(), ids=ENDS)
def test_a_fork_ends_as_a_process_does(python, code):
  fork = python('-c', code)
  process = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True
  )
  assert (fork.returncode, fork.stdout) == (process.returncode, process.stdout)
  # All lines of a traceback but the last name files.
  ends = [run.stderr.splitlines()[-1:] for run in (fork, process)]
  assert ends[0] == ends[1]
  assert ('Traceback' in fork.stderr) == ('Traceback' in process.stderr)


def test_a_command_leaves_nothing_to_the_next(python, tmp_path):
  before = python('-c', SEES, cwd=tmp_path)
  left = python('-c', LEAVES, cwd=tmp_path, GIVEN='here')
  assert (left.returncode, left.stdout, left.stderr) == (0, 'float64\n', '')
  after = python('-c', SEES, cwd=tmp_path)
  assert before.returncode == 0 and before.stdout.startswith(2 * f'{tmp_path} ')
  assert 'GIVEN' not in before.stdout and 'float32' in before.stdout
  assert vars(after) == vars(before)
