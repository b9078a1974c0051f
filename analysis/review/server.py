"""Serves the page of a review, and the answers to it.

Every address begins with a token, which only the person who started the review
was told; all others are refused. The page loads nothing from other hosts.
"""

import hmac
import pathlib
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from analysis.review import answers
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
LARGEST = 32 * 2**20  # bytes of a question
POLICY = (
  "default-src 'none'; script-src 'self'; style-src 'self'; connect-src"
  " 'self'; img-src blob: data:; base-uri 'none'; form-action 'none';"
  " frame-ancestors 'none'"
)


def make_app(session: Session, token: str, out: pathlib.Path) -> 'flask.Flask':
  """Makes the application; it writes its tables into `out`."""
  import flask

  app = flask.Flask(__name__, static_folder=None)
  app.config['MAX_CONTENT_LENGTH'] = LARGEST
  writing = threading.Lock()  # two browsers would write the same files

  def write(session: Session, asked: answers.Asked) -> answers.Json:
    with writing:
      return answers.write(session, asked, out)

  def route(
    method: str,
    path: str,
    answer: Callable[..., Any],
    asked: Callable[[], Mapping[str, Any]],
  ) -> None:
    app.add_url_rule(
      f'/{token}/api/{path}',
      f'{method} {path}',
      lambda **parts: answer(session, asked(), **parts),
      methods=[method],
    )

  _guard(app, token)
  _serve_files(app, token)
  for path, answer in answers.READS.items():
    route('GET', path, answer, lambda: flask.request.args)
  for path, answer in (answers.WRITES | {'write': write}).items():
    route('POST', path, answer, _posted)
  return app


def _guard(app: 'flask.Flask', token: str) -> None:
  """Refuses strangers, protects the page, and explains what is wrong."""
  import flask

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


def _serve_files(app: 'flask.Flask', token: str) -> None:
  """Serves the files of the page."""
  import flask

  @app.get(f'/{token}/')
  @app.get(f'/{token}/<name>')
  def page(name: str = '') -> flask.Response:
    if name not in FILES:
      flask.abort(404)
    file, kind = FILES[name]
    return flask.Response((PAGE / file).read_bytes(), mimetype=kind)


def _posted() -> dict[str, Any]:
  """Reads the JSON object of a request.

  Raises:
    InputError: it holds something else.
  """
  import flask

  found = flask.request.get_json()
  if not isinstance(found, dict):
    raise InputError('the request is not a JSON object')
  return found
