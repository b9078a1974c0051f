"""Prepares a process for its first computation on this machine."""

import logging
import os
import sys

import absl.logging

from plankton_jax.files import home

_STARTED_IN = os.getcwd()  # relative paths of the command line begin there
# Huge pages, and one heap that never shrinks: a step's temporaries then reuse
# the last step's memory instead of fresh pages from the system.
_TUNABLES = ':'.join(
  f'glibc.malloc.{name}={value}'
  for name, value in {
    'hugetlb': 1,
    'arena_max': 1,  # the others cannot hold more than 64 MiB
    'mmap_threshold': 1 << 34,
    'trim_threshold': 1 << 34,
  }.items()
)


def use_fast_settings() -> None:
  """Restarts a command once with settings that make the CPU fast, and says so.

  Only for commands: a library must not restart the process that uses it. On a
  CPU a training step is bound by page faults on fresh temporaries, which malloc
  can avoid; and oneDNN's threads would by default spin between convolutions on
  the cores that XLA's threads need. Both settings are read from the environment
  at start-up only. Does nothing outside Linux, or if the variables are already
  set (malloc.hugetlb among the tunables).
  """
  if not sys.platform.startswith('linux'):
    return
  tunables = os.environ.get('GLIBC_TUNABLES', '')
  wanted = {'OMP_WAIT_POLICY': 'passive'} | dict(os.environ)
  if 'malloc.hugetlb' not in tunables:
    wanted['GLIBC_TUNABLES'] = ':'.join(filter(None, [tunables, _TUNABLES]))
  new = dict(wanted.items() - os.environ.items())
  if not new:
    return
  named = ', '.join(sorted(new))
  print(f'restarting with {named} set, for speed', file=sys.stderr)
  sys.stderr.flush()
  os.chdir(_STARTED_IN)
  os.execve(sys.executable, _command_line(), wanted)


def _command_line() -> list[str]:
  """Rebuilds the command that started this process, its script absolute."""
  line = [sys.executable, *sys.orig_argv[1:]]
  script = len(line) - len(sys.argv)  # its arguments follow it
  if line[script - 1] not in ('-m', '-c'):
    line[script] = os.path.join(_STARTED_IN, line[script])
  return line


def show_log(level: int) -> None:
  """Prints plankton_jax's own log from a level up, and no library's.

  Of lines that are alike the first is printed: a command may read its data more
  than once, and would be told of it as often.
  """
  printed: set[str] = set()

  def is_new(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    new = text not in printed
    printed.add(text)
    return new

  # Orbax logs a lot, and repeats with a traceback what it also raises.
  absl.logging.set_verbosity(absl.logging.FATAL)
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter('%(message)s'))
  handler.addFilter(is_new)
  own = logging.getLogger('plankton_jax')
  own.addHandler(handler)
  own.setLevel(level)
  own.propagate = False


def use_compilation_cache(folder: str) -> None:
  """Keeps compiled programs in `folder` from one process to the next.

  Args:
    folder: where to keep them; `~` is expanded, '' keeps nothing.
  """
  import jax

  if folder:
    path = home.expand(folder)
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update('jax_compilation_cache_dir', str(path))
