"""Makes the whole analysis one HTML file that needs no network.

`python -m analysis.report --workdir=DIR` runs every part, writes its files and
gathers the Results in DIR/analysis/report.html.
"""

import collections
import contextlib
import functools
import importlib
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import loky
from absl import flags

from analysis import (
  audit,
  classifiers,
  confusions,
  distances,
  gallery,
  novelty,
  projection,
  retrieval,
  taxonomy,
  training,
)
from analysis.files import command, result, tables, taxa
from analysis.files.inputs import Source
from analysis.files.result import Picture, Result
from analysis.measures import ranks
from analysis.page import html, lists, pictures, scatter, summary
from plankton_jax import host
from plankton_jax.cli import command as commands
from plankton_jax.errors import InputError

for flag in (
  'workdir', 'embeddings', 'out', 'acceptance', 'neighbours', 'taxa', 'method',
  'split', 'include_self', 'grid', 'loss', 'scaling',
):  # fmt: skip
  flags.declare_key_flag(flag)  # --help shows it

Part = Callable[[Sequence[Source]], Result]
# Parts that scripts show on the page instead of figures.
ON_THE_PAGE = ('projection', 'gallery', 'audit')


Wait = Callable[[], Picture]  # waits until a figure is saved
Save = Callable[..., Wait]  # begins result.save with these arguments


class Done(NamedTuple):
  """A part's Result, and its figures as they are saved."""

  result: Result = Result()
  pictures: Sequence[Wait] = ()


def parts() -> dict[str, Part]:
  """Lists every part by name, with its options from the flags."""
  return {
    'training': training.analyse,
    'distances': functools.partial(
      distances.analyse, include_self=distances.INCLUDE_SELF.value
    ),
    'projection': functools.partial(
      projection.analyse, method=projection.METHOD.value
    ),
    'gallery': functools.partial(gallery.analyse, splits=gallery.SPLIT.value),
    'classifiers': functools.partial(
      classifiers.analyse, options=classifiers.asked()
    ),
    'retrieval': retrieval.analyse,
    'confusions': confusions.analyse,
    'taxonomy': functools.partial(
      taxonomy.analyse, listed=taxa.given(command.TAXA.value)
    ),
    'novelty': functools.partial(
      novelty.analyse,
      neighbours=novelty.NEIGHBOURS.value,
      acceptance=command.ACCEPTANCE.value,
    ),
    'audit': audit.analyse,
  }


def at_once(*figure: Any) -> Wait:
  """Saves a figure before it returns."""
  picture = result.save(*figure)
  return lambda: picture


@contextlib.contextmanager
def beside() -> Iterator[Save]:
  """Yields a `Save` whose figures another process saves, one after another.

  The next part computes meanwhile, which Matplotlib's Python would hold up in a
  thread. A single core saves at once.

  Raises:
    InputError: the process was killed, by a user or for lack of memory.
  """
  if loky.cpu_count() == 1:
    yield at_once
    return
  pool = loky.ProcessPoolExecutor(
    1,
    initializer=importlib.import_module,
    initargs=('analysis.figures.style',),
  )
  try:
    yield lambda *figure: pool.submit(result.save, *figure).result
  except BrokenProcessPool as error:
    raise InputError(
      'report: the process that saves figures ended early: free some memory and'
      ' start again'
    ) from error
  finally:
    pool.shutdown(kill_workers=True)


def run(
  name: str,
  part: Part,
  sources: Sequence[Source],
  out: pathlib.Path,
  *,
  save: Save,
) -> Done:
  """Runs a part, prints and writes its Result; turns bad input into a note."""
  try:
    found = part(sources)
    result.show(name, found)
    result.write(found._replace(figures={}), out)
    saved = [save(figure, out, file) for file, figure in result.figures(found)]
  except InputError as error:
    found, saved = Result([str(error)]), []
    result.show(name, found)
  return Done(found, saved)


def gather(
  sources: Sequence[Source], done: Mapping[str, Done]
) -> dict[str, Any]:
  """Gathers all that the page shows from the Results of the parts."""
  found = collections.defaultdict(
    Result, {name: one.result for name, one in done.items()}
  )
  places = scatter.coordinates(
    found['projection'].tables.get('projection.csv', [])
  )
  placed = [scatter.place(s, places[s.name]) for s in sources if places]
  shown = lists.shown(found['gallery'].tables.get('gallery.csv', []))
  doubtful, twins = (
    [
      row
      for row in found['audit'].tables.get(f'{file}.csv', [])
      if row['rank'] <= audit.SHOWN
    ]
    for file in ('audit', 'audit_duplicates')
  )
  wanted = [
    # The gallery's come first, so that they lie on few sheets.
    [row['id'] for row in shown if row['source'] == source.name]
    + [
      key
      for row in doubtful + twins
      if row['source'] == source.name
      for key, _ in lists.images(row)
    ]
    + (placed[i].id if placed else [])
    for i, source in enumerate(sources)
  ]
  sheets, known, missing = pictures.collect(sources, wanted)
  saved = {
    name: [picture() for picture in one.pictures] for name, one in done.items()
  }
  by_source = dict(zip([s.name for s in sources], known, strict=True))
  return {
    'title': ' · '.join(by_source),
    'sources': sources,
    'measures': summary.measures(
      sources, lambda name: tables.plain(found[name].values.get(f'{name}.json'))
    ),
    'configuration': summary.configuration(sources),
    'versions': summary.versions(),
    'citations': list(
      dict.fromkeys(
        s.config['citation']
        for s in sources
        if s.config and s.config['citation']
      )
    ),
    'notes': {
      **{name: list(dict.fromkeys(r.notes)) for name, r in found.items()},
      'pictures': missing,
    },
    'figures': {
      name: [html.figure(one) for one in drawn]
      for name, drawn in saved.items()
      if name not in ON_THE_PAGE
    },
    'confused': (found['confusions'].values.get('confusions.json') or {}).get(
      'pairs', []
    ),
    'albums': lists.albums(shown, by_source),
    'audits': lists.audits(doubtful, twins, by_source),
    'kinds': ranks.KINDS,
    'planes': found['projection'].values.get('projection.json', []),
    'left_out': sum(one.left_out for one in placed),
    'data': {
      **pictures.payload(sheets),
      'plot': scatter.plot('plot'),
      'map': scatter.payload(sources, placed, known) if placed else None,
    },
  }


def analyse(
  sources: Sequence[Source],
  out: pathlib.Path,
  *,
  parts: Mapping[str, Part],
  save: Save = at_once,
) -> Result:
  """Runs the parts, which write to `out`; returns the page as a Result."""
  done = {}
  for name, part in parts.items():
    print(f'\n{name} …', flush=True)
    done[name] = run(name, part, sources, out, save=save)
  print('\nreport …', flush=True)
  scripts = {
    'bokeh': scatter.script(),
    'script': html.script('pictures.js', 'map.js'),
  }
  page = html.render('report.html.j2', scripts, **gather(sources, done))
  return Result(
    files={'report.html': result.content(page)},
    announced={'report.html': ' ({size})'},
  )


def main(argv: Sequence[str]) -> None:
  """Reports on the sources that the flags name."""
  del argv
  host.show_log(logging.WARNING)
  sources, out = command.given()
  with beside() as save:
    page = analyse(sources, out, parts=parts(), save=save)
  result.write(page, out)


if __name__ == '__main__':
  commands.run(main)
