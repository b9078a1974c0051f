"""What a process needs before its first computation on this machine."""

import logging
import os
import pathlib
import sys

import absl.logging

_TUNABLE = 'glibc.malloc.hugetlb=1'


def use_huge_pages() -> None:
  """Re-executes the process once with huge pages for malloc, and says so.

  A training step on the CPU is bound by page faults on fresh temporaries,
  and glibc reads this tunable only at start-up. Elsewhere than on Linux, or
  where the variable names the tunable already, nothing happens.
  """
  tunables = os.environ.get('GLIBC_TUNABLES', '')
  if not sys.platform.startswith('linux') or 'malloc.hugetlb' in tunables:
    return
  joined = ':'.join(filter(None, [tunables, _TUNABLE]))
  print(f'restarting with GLIBC_TUNABLES={joined} (faster)', file=sys.stderr)
  sys.stderr.flush()
  os.execve(
    sys.executable,
    [sys.executable, *sys.orig_argv[1:]],
    {**os.environ, 'GLIBC_TUNABLES': joined},
  )


def show_log(level: int) -> None:
  """Prints plankton_jax's log from a level up, and the others' errors."""
  absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax is loud
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter('%(message)s'))
  own = logging.getLogger('plankton_jax')
  own.addHandler(handler)
  own.setLevel(level)
  own.propagate = False


def use_compilation_cache(folder: str) -> None:
  """Keeps compiled programs in `folder` from one process to the next.

  Args:
    folder: `~` is expanded; '' keeps nothing.
  """
  import jax

  if folder:
    path = pathlib.Path(folder).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update('jax_compilation_cache_dir', str(path))
