"""The arithmetic and the plumbing of the speed table; no time is asserted."""

import csv
import json
import pathlib
import subprocess
import sys

import pytest

from analysis.files import tables
from benchmarks import contest, speed
from plankton_jax.cli import command
from plankton_jax.errors import InputError
from tests import flagged

ROOT = pathlib.Path(__file__).parents[1]


def _parse(argv):
  return speed.parse(flagged.parse(speed, *argv))


# Speaks as a worker does, takes its seconds from the spec, notes its turns.
WORKER = """
import json, pathlib, sys
name = sys.argv[0].rpartition('/')[2].removesuffix('.py')
spec = json.loads(sys.argv[1])
if spec.get('fails') == name:
  sys.exit('cover open\\nout of paper')
print(json.dumps(spec['facts'][name]), flush=True)
seconds = iter(spec['seconds'][name])
for _ in sys.stdin:
  with pathlib.Path('turns').open('a') as file:
    file.write(name + ' ')
  print(json.dumps({'seconds': next(seconds)}), flush=True)
"""


@pytest.fixture
def workers(tmp_path, monkeypatch):
  """Workers in place of the real ones; the folder where they run."""
  (tmp_path / 'benchmarks').mkdir()
  for name in ('__init__', 'ours', 'peer'):
    text = '' if name == '__init__' else WORKER
    (tmp_path / f'benchmarks/{name}.py').write_text(text)
  monkeypatch.setattr(contest, 'ROOT', tmp_path)
  monkeypatch.setattr(contest, 'PAUSE', 0)
  monkeypatch.setattr(contest, 'LISTEN', 0)
  return tmp_path


def _spec(ours=(), peer=(), checks=(1.0, 1.0), **more):
  return {
    'facts': {
      'ours': {'checks': {'loss': checks[0]}},
      'peer': {'checks': {'loss': checks[1]}},
    },
    'seconds': {'ours': ours, 'peer': peer},
    **more,
  }


def test_contestants_take_turns(workers):
  spec = _spec([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
  times = contest.race(spec, repeats=3, peer_python=sys.executable)
  assert times.ours == [1.0, 2.0, 3.0]
  assert times.peer == [4.0, 5.0, 6.0]
  assert (workers / 'turns').read_text().split() == ['ours', 'peer'] * 3


def test_alone_without_a_peer(workers):
  times = contest.race(_spec([1.0, 2.0]), repeats=2, peer_python=None)
  assert (times.ours, times.peer) == ([1.0, 2.0], [])
  assert contest.ratio(times) is None


def test_our_own_job_in_the_place_of_the_peer(workers):
  rival = _spec([4.0, 5.0])
  times = contest.race(
    _spec([1.0, 2.0]), repeats=2, peer_python='nobody', rival=rival
  )
  assert (times.ours, times.peer) == ([1.0, 2.0], [4.0, 5.0])
  assert (workers / 'turns').read_text().split() == ['ours'] * 4


def test_other_numbers_are_refused(workers):
  for checks in ((1.0, 1.01), (0.0, 0.1), (1.0, float('nan'))):
    with pytest.raises(InputError, match='loss is'):
      contest.race(_spec(checks=checks), repeats=1, peer_python=sys.executable)


@pytest.mark.parametrize('who', ['ours', 'peer'])
def test_a_failure_is_named(workers, who, capfd):
  spec = _spec([1.0], [1.0], fails=who)
  with pytest.raises(InputError, match=f'{who} of .*ended: out of paper'):
    contest.race(spec, repeats=1, peer_python=sys.executable)
  assert 'cover open\nout of paper' in capfd.readouterr().err


def test_ratio_is_of_medians_and_extremes_of_pairs():
  times = contest.Times([1.0, 2.0, 4.0], [3.0, 9.0, 2.0], {}, 0.0)
  assert contest.ratio(times) == (1.5, 0.5, 4.5)


def test_a_rate_and_its_share_of_the_limit():
  row = speed.Row('steps', {}, images=10)
  times = contest.Times([2.0, 1.0, 4.0], [8.0, 4.0, 5.0], {'flops': 60.0}, 0.0)
  line = speed.line(row, times, {'flops': 120.0, 'bytes': 1.0})
  assert (line['unit'], line['ours'], line['peer']) == ('images/s', 5.0, 2.0)
  assert (line['ratio'], line['lowest'], line['highest']) == (2.5, 1.25, 4.0)
  assert line['share_of_limit'] == 0.25
  assert line['temporary_mib'] is None


def test_a_time_alone():
  row = speed.Row('mine', {}, peer=False)
  times = contest.Times([0.5], [], {'temporary': 3 << 20}, 0.0)
  line = speed.line(row, times, {'flops': 1.0})
  assert (line['unit'], line['ours']) == ('ms', 500.0)
  assert [line[k] for k in ('peer', 'ratio', 'share_of_limit')] == [None] * 3
  assert line['temporary_mib'] == 3.0
  times = contest.Times([2.0], [], {}, 0.0)
  assert speed.line(row, times, {})['unit'] == 's'


def test_work_of_others_is_idle_time_that_is_missing(monkeypatch):
  # user nice system idle iowait irq softirq steal guest guest_nice
  first = 'cpu  10 0 5 100 5 0 0 0 3 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n'
  assert contest._ticks(first) == (105, 120)
  ticks = iter([(105, 120), (135, 160)])
  monkeypatch.setattr(contest, '_ticks', lambda stat: next(ticks))
  if pathlib.Path('/proc/stat').exists():
    assert contest._busy(0) == 0.25


def test_limits_are_the_best_of_both():
  times = contest.Times([2.0, 4.0], [1.0, 8.0], {'flops': 6e9}, 0.0)
  assert speed.best('flops', times) == 6e9
  line = speed.line(speed.MATMUL, times, {'flops': 6e9})
  assert (line['unit'], line['ours']) == ('GFLOP/s', 2.0)


def test_table_and_csv(tmp_path, capsys):
  times = contest.Times([0.5], [1.25], {'flops': 1.0}, 0.0)
  table = [
    speed.line(speed.Row('a', {}, images=1000), times, {'flops': 8.0}),
    speed.line(speed.Row('b', {}), times._replace(peer=[]), {}),
  ]
  path = tables.write_csv(tmp_path / 'speed.csv', table)
  with path.open(newline='') as file:
    first, second = csv.DictReader(file)
  assert (first['ours'], first['ratio']) == ('2000.0', '2.5')
  assert (second['peer'], second['ratio']) == ('', '')
  tables.show(speed.shown(table))
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert lines[1] == [
    'a',
    'images/s',
    '2,000',
    '800',
    *['2.5'] * 3,
    '25%',
    '-',
    '0%',
  ]
  assert lines[2] == ['b', 'ms', '500', *['-'] * 6, '0%']


def test_command_line():
  assert _parse([]).repeats == 5
  assert _parse([]).only == list(speed.GROUPS)
  args = _parse(['--only=step,mining', '--repeats=7', '--out=x'])
  assert (args.only, args.repeats) == (['step', 'mining'], 7)
  assert args.out == pathlib.Path('x')


@pytest.mark.parametrize('wrong', ['--only=stop', '--only=', '--repeats=0'])
def test_mistakes_end_in_a_line(wrong, capsys):
  with pytest.raises(SystemExit) as end, command.errors_as_lines():
    _parse([wrong])
  assert end.value.code == 2
  (said,) = capsys.readouterr().err.splitlines()
  assert said.startswith(f'error: {wrong.partition("=")[0]}')


def test_missing_peers_end_in_a_line(tmp_path, capsys):
  peer = f'--peer_python={tmp_path / "none"}'
  values = flagged.parse(speed, peer, f'--out={tmp_path}')
  with pytest.raises(SystemExit) as end, command.errors_as_lines():
    speed.main(values)
  assert end.value.code == 2
  assert 'requirements-bench.txt' in capsys.readouterr().err


def test_answers_are_apart_from_prints():
  script = (
    'from benchmarks import serve\n'
    'serve.LEAST_SECONDS = 0.0\n'
    "job = lambda word: (serve.each(lambda: print(word)), {'word': word})\n"
    "serve.serve({'talk': job})\n"
  )
  said = subprocess.run(
    [sys.executable, '-c', script, '{"job": "talk", "word": "hello"}'],
    cwd=ROOT,
    input='again\nagain\n',
    capture_output=True,
    text=True,
    check=True,
  )
  facts, *answers = map(json.loads, said.stdout.splitlines())
  assert facts == {'word': 'hello', 'calls': 1}
  assert [list(answer) for answer in answers] == [['seconds']] * 2
  # Warm-up, its timing, and then an uncounted call before each timed one.
  assert said.stderr.split() == ['hello'] * 6


def test_operations_of_the_network():
  from benchmarks import ours

  width, side, batch = 4, 32, 2
  # (side, kernel, inputs, features) of every convolution, at its output.
  layers = [(16, 3, 1, 2), (8, 3, 2, 4)]
  inputs, at = width, 8
  for stage in range(4):
    features = width * 2**stage
    for block in range(2):
      if stage and not block:
        at //= 2
        layers.append((at, 1, inputs, features))
      layers += [(at, 3, inputs, features), (at, 3, features, features)]
      inputs = features
  products = sum(s * s * k * k * i * f for s, k, i, f in layers) + 32 * 128
  facts = ours.size(ours._config(width, side), batch)
  assert facts['flops'] == 2 * batch * products
  weights = sum(k * k * i * f for _, k, i, f in layers) + 32 * 128
  norms = 2 * sum(f for *_, f in layers)
  assert facts['parameters'] == weights + norms


def test_the_measured_step_runs_at_its_batch_size():
  from benchmarks import ours

  steps, facts = ours.step(
    width=2, side=32, batch=128, dtype='float32', compiled=False
  )
  steps(1)
  forward = ours.size(ours._config(2, 32), 128)
  assert facts == forward | {'flops': 3 * forward['flops']}
