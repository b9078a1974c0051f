"""`python -m benchmarks.long_run` tells growth from noise."""

import json
import re
import subprocess
import sys
from typing import NamedTuple

import pytest

from benchmarks import long_run
from benchmarks.long_run import Sample


def _samples(count=100, **growing):
  """Level but for the columns that grow, from 100 by a number each step."""
  return [
    Sample(
      seconds=step,
      step=step,
      compiled=3,
      **{
        name: 100 + growing.get(name, 0) * step
        for name in ('megabytes', 'threads', 'files')
      },
    )
    for step in range(count)
  ]


@pytest.mark.parametrize('name', ['megabytes', 'threads', 'files'])
def test_growth_is_from_the_second_quarter_to_the_last(name):
  level = long_run.growth(_samples())
  assert set(level.values()) == {0.0}
  found = long_run.growth(_samples(**{name: 1}))
  assert found[name] == pytest.approx((100 + 87) / (100 + 37) - 1, abs=0.01)
  assert all(found[other] == 0 for other in found if other != name)
  # What is filled in the first quarter is no growth.
  filled = [s._replace(**{name: min(s.step, 25)}) for s in _samples() if s.step]
  assert long_run.growth(filled)[name] == 0


def test_compilations_are_late_outside_of_first_epochs():
  samples = [
    s._replace(compiled=1 + (s.step >= 20) + (s.step >= 35))
    for s in _samples(50)
  ]
  first = [range(0, 10), range(20, 30)]
  assert [s.step for s in long_run.late(samples, first)] == [35]
  assert [s.step for s in long_run.late(samples, first[:1])] == [20, 35]
  assert long_run.late(samples, [range(50)]) == []


# In a process of its own: here, other tests' threads and memory come and go.
WATCHED = """
import json, os, pathlib, sys, threading
import jax, jax.numpy as jnp, numpy as np
from benchmarks import long_run

log = pathlib.Path(sys.argv[1])
over = threading.Event()
with long_run.Watch(log, interval=60.0) as watch:  # its thread opens files too
  jax.block_until_ready(jax.jit(lambda x: x * 3.25 - 1)(jnp.ones(7)))
  log.write_text('{"split": "train"}\\n{"split": "val"}\\n' * 4)
  before = watch._sample()
  opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(9)]
  more = [threading.Thread(target=over.wait) for _ in range(5)]
  for thread in more:
    thread.start()
  held = np.ones(64 << 17)  # 64 MiB of doubles
  after = watch._sample()
over.set()
print(json.dumps([before, after, *watch.samples]))
"""


def test_a_watch_sees_files_threads_memory_steps_and_compilations(tmp_path):
  argv = [sys.executable, '-c', WATCHED, str(tmp_path / 'metrics.jsonl')]
  done = subprocess.run(argv, check=True, capture_output=True, text=True)
  samples = [Sample(*values) for values in json.loads(done.stdout)]
  before, after, *watched = samples
  assert before.compiled >= 1
  assert after.files - before.files == 9
  assert after.threads - before.threads == 5
  assert after.megabytes - before.megabytes > 60
  assert before.step == after.step == 4
  assert watched[-1].compiled == after.compiled
  long_run.draw([*watched, after], tmp_path / 'figure.png')
  assert (tmp_path / 'figure.png').stat().st_size > 10_000


class _Flag(NamedTuple):
  value: int | str


def test_the_command_watches_a_run_to_its_end(tmp_path, capsys, monkeypatch):
  make_config = long_run._config

  def smaller(steps, place):
    config = make_config(steps, place)
    return config | {'data': config['data'] | {'per_class': 40}}

  monkeypatch.setattr(long_run, '_config', smaller)
  monkeypatch.setattr(long_run, 'STEPS', _Flag(40))
  monkeypatch.setattr(long_run, 'PLACE', _Flag(str(tmp_path)))
  long_run.main([])
  said = capsys.readouterr().out.splitlines()
  assert re.fullmatch(
    r'45 steps, 3 epochs, \d+ s, \d+ programs compiled, \d+ after .*',
    said[0],
  )
  assert [line.partition(':')[0] for line in said[1:]] == [
    'megabytes', 'threads', 'files'
  ]  # fmt: skip
  table = (tmp_path / 'long_run.csv').read_text().splitlines()
  assert table[0] == ','.join(Sample._fields)
  assert f'{said[0].split()[0]}' == table[-1].split(',')[1]
  assert (tmp_path / 'long_run.png').is_file()
