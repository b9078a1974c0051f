"""Serves the page of a review and answers it.

Every address begins with a token, which only the person who started the review
was told; all others are refused. The page loads nothing from other hosts.
"""

import hmac
import json
import pathlib
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.files import result
from analysis.review import outcome, store
from analysis.review.choice import View
from analysis.review.session import Session
from plankton_jax.errors import InputError

if TYPE_CHECKING:
  import flask

PAGE = pathlib.Path(__file__).parent / 'page'
FILES = {
  '': ('review.html', 'text/html'),
  'review.css': ('review.css', 'text/css'),
  'tiles.js': ('tiles.js', 'text/javascript'),
  'review.js': ('review.js', 'text/javascript'),
}
HOSTS = ('127.0.0.1', 'localhost')  # a name of another host may be a trick
MOST_PICTURES = 256  # in one answer
LARGEST = 32 * 2**20  # bytes of a question
POLICY = (
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src"
  " 'self'; img-src blob: data:; base-uri 'none'; form-action 'none';"
  " frame-ancestors 'none'"
)
BINARY = 'application/octet-stream'


def make_app(session: Session, token: str, out: pathlib.Path) -> 'flask.Flask':
  """Makes the application; it writes its tables into `out`."""
  import flask

  app = flask.Flask(__name__, static_folder=None)
  app.config['MAX_CONTENT_LENGTH'] = LARGEST
  writing = threading.Lock()  # two browsers would write the same files

  @app.before_request
  def refuse_strangers() -> None:
    """Refuses requests without the token, or under another host's name."""
    given = flask.request.path.split('/')[1]
    known = hmac.compare_digest(given.encode(), token.encode())
    host = flask.request.host.rpartition(':')[0] or flask.request.host
    if not known or host not in HOSTS:
      flask.abort(403)

  @app.after_request
  def protect(response: flask.Response) -> flask.Response:
    response.headers['Content-Security-Policy'] = POLICY
    response.headers['Referrer-Policy'] = 'no-referrer'
    response.headers['X-Content-Type-Options'] = 'nosniff'
    response.headers.setdefault('Cache-Control', 'no-store')
    return response

  @app.errorhandler(InputError)
  def explain(error: InputError) -> tuple[dict[str, str], int]:
    return {'error': str(error)}, 400

  def asked() -> dict[str, Any]:
    found = flask.request.get_json()
    if not isinstance(found, dict):
      raise InputError('the request is not a JSON object')
    return found

  def answer_view(view: View) -> flask.Response:
    """Sends rows as int32, and the rest in a header."""
    above = view.rows[: view.line]
    about = {
      'line': view.line,
      'name': view.name,
      'names': session.names(above),
    }
    data = view.rows.astype('<i4').tobytes()
    return flask.Response(data, mimetype=BINARY, headers=_header(about))

  def page(name: str = '') -> flask.Response:
    if name not in FILES:
      flask.abort(404)
    file, kind = FILES[name]
    return flask.Response((PAGE / file).read_bytes(), mimetype=kind)

  def start() -> dict[str, Any]:
    return {
      'name': session.images.name,
      'images': len(session.images.ids),
      'seq': session.seq(),
    }

  def sets() -> dict[str, Any]:
    state = session.state()
    used = np.bincount(
      state.label[state.label != store.UNDECIDED], minlength=len(state.names)
    )
    return {
      'sets': [one._asdict() for one in session.sets()],
      'decided': [
        {'name': name, 'images': int(count)}
        for name, count in zip(state.names, used.tolist(), strict=True)
        if count
      ],
    }

  def situation() -> flask.Response:
    """Sends labels and predictions as int16, and confidence in 255ths."""
    state, fitted = session.state(), session.fitted()
    about = {
      'seq': fitted.seq,
      'names': state.names,
      'classes': fitted.predicted.names,
      'decisions': state.decisions,
    }
    parts = (
      state.label.astype('<i2'),
      fitted.predicted.first.astype('<i2'),
      np.round(255 * fitted.predicted.confidence).astype(np.uint8),
    )
    text = json.dumps(about).encode()
    text += b' ' * (-len(text) % 4)
    data = struct.pack('<I', len(text)) + text
    data += b''.join(part.tobytes() for part in parts)
    return flask.Response(data, mimetype=BINARY)

  def thumbs() -> flask.Response:
    """Sends pictures one after the other, after their sizes as uint32."""
    numbers = flask.request.args.get('rows', '').split(',')
    if len(numbers) > MOST_PICTURES or not all(n.isdecimal() for n in numbers):
      raise InputError(f'rows: give 1 to {MOST_PICTURES} numbers of images')
    rows = list(map(int, numbers))
    if max(rows) >= len(session.images.ids):
      raise InputError(f'rows: there is no image {max(rows)}')
    found = [session.images.thumbnails.of(row) for row in rows]
    sizes = np.array([len(one) for one in found], '<u4').tobytes()
    response = flask.Response(sizes + b''.join(found), mimetype=BINARY)
    response.headers['Cache-Control'] = 'private, max-age=86400'
    return response

  def view(kind: str) -> flask.Response:
    return answer_view(session.view(kind, flask.request.args.get('of', '')))

  def like() -> flask.Response:
    return answer_view(session.like(asked().get('rows', [])))

  def about(row: int) -> dict[str, Any]:
    nearest = session.nearest(row)
    return {'id': session.images.ids[row], 'nearest': nearest}

  def decide() -> dict[str, Any]:
    given = asked()
    return session.decide(
      given.get('who', ''),
      str(given.get('kind')),
      given.get('seen', 0),
      given,
    )._asdict()

  def undo() -> dict[str, Any]:
    return session.undo(asked().get('who', ''))._asdict()

  def redo() -> dict[str, Any]:
    return session.redo(asked().get('who', ''))._asdict()

  def seq() -> dict[str, Any]:
    return {'seq': session.seq()}

  def write() -> dict[str, Any]:
    folders = bool(asked().get('classes'))
    state, predicted = session.state(), session.fitted().predicted
    lines = outcome.rows(session.images, state, predicted, session.events())
    found = outcome.gather(session.images, lines)
    notes = list(found.notes)
    written = [*found.tables, *(n for n, w in found.files.items() if w)]
    with writing:
      result.write(found, out)
      if folders:
        count, gone = outcome.write_classes(
          out / 'classes', session.images, lines
        )
        written.append(f'classes ({count:,} images)')
        if gone:
          notes.append(f'{gone:,} images are no longer there: in no folder')
    return {'folder': str(out), 'written': written, 'notes': notes}

  reads: dict[str, Callable[..., Any]] = {
    '': page,
    '<name>': page,
    'api/start': start,
    'api/sets': sets,
    'api/state': situation,
    'api/seq': seq,
    'api/thumbs': thumbs,
    'api/view/<kind>': view,
    'api/about/<int:row>': about,
  }
  writes: dict[str, Callable[..., Any]] = {
    'api/like': like,
    'api/decide': decide,
    'api/undo': undo,
    'api/redo': redo,
    'api/write': write,
  }
  for method, routes in (('GET', reads), ('POST', writes)):
    for path, function in routes.items():
      app.add_url_rule(
        f'/{token}/{path}', f'{method} {path}', function, methods=[method]
      )
  return app


def _header(about: dict[str, Any]) -> dict[str, str]:
  return {'X-View': json.dumps(about)}  # of ASCII alone
