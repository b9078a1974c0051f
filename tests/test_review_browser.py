"""The review's page in a real browser, or two, as a person uses it."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from analysis.files.taxa import Taxa, Taxon
from tests import review_images
from tests import test_report_browser as browsers

serving = pytest.importorskip('werkzeug.serving', reason='no flask installed')
pytestmark = browsers.pytestmark

MANY = 200_000
KEYS = browsers.webdriver.Keys
ROOT = pathlib.Path(__file__).parents[1]
# Serves a review in a process that can be killed.
SERVE = """
import pathlib, sys, waitress
from analysis.review import server
from tests import review_images
folder = pathlib.Path(sys.argv[1])
made = review_images.session(folder)
app = server.make_app(made, 'token', folder)
listening = waitress.create_server(app, listen=f'127.0.0.1:{sys.argv[2]}')
print(listening.effective_port, flush=True)
listening.run()
"""


@contextlib.contextmanager
def served(session, folder):
  """Serves a review in a thread; yields its address."""
  from analysis.review import server

  app = server.make_app(session, 'token', folder)
  made = serving.make_server('127.0.0.1', 0, app, threaded=True)
  thread = threading.Thread(target=made.serve_forever)
  thread.start()
  try:
    yield f'http://127.0.0.1:{made.port}/token/'
  finally:
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def review(tmp_path):
  made = review_images.session(tmp_path, review_images.make(60))
  yield made
  made._log.close()


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
  made = browsers.driver(tmp_path_factory.mktemp('profile'))
  yield made
  made.quit()


def start(browser, address):
  browser.get(address)
  browser.implicitly_wait(10)
  browser.find_element('css selector', 'body[data-ready]')
  browser.implicitly_wait(0)


def wait(browser, script):
  """Waits until a script is true."""
  browser.execute_async_script(
    f"""const timer = setInterval(() => {{
      if (!({script})) return;
      clearInterval(timer);
      arguments[0]();
    }}, 20);"""
  )


def press(browser, *keys):
  """Presses keys, then waits until what they asked for is done."""
  browsers.webdriver.ActionChains(browser).send_keys(*keys).perform()
  browser.execute_async_script('busy.then(arguments[0])')


def complaints(browser, address):
  """Lists what the console says of this page; others may miss their server."""
  return [
    found['message']
    for found in browser.get_log('browser')
    if found['level'] != 'INFO' and address in found['message']
  ]


def visible(browser):
  """The classes of the tiles that are seen, by their place."""
  return browser.execute_script(
    """return Object.fromEntries([...document.querySelectorAll('.tile')]
      .filter((tile) => !tile.hidden)
      .map((tile) => [tile.dataset.place, tile.className]))"""
  )


def said(browser):
  return browser.find_element('id', 'said').text


def test_a_person_takes_marks_names_grows_and_undoes(browser, review, tmp_path):
  with served(review, tmp_path) as address:
    start(browser, address)
    wait(browser, "document.querySelectorAll('.tile img[src]').length > 5")
    first = browser.find_element('css selector', '#sets [aria-current=true]')
    name = browser.find_element('id', 'name').get_attribute('value')
    assert name in first.text and name in ('ant', 'bee')
    # A list passed over does not come back until it changes.
    key = browser.execute_script('return view.kind + view.key')
    press(browser, ']')
    assert browser.execute_script('return view.kind + view.key') != key
    browser.execute_script('queue(next)')
    press(browser)
    assert browser.execute_script('return view.kind + view.key') != key
    browser.execute_script('passed.clear(); queue(next)')
    press(browser)
    assert browser.execute_script('return view.kind + view.key') == key
    rows = browser.execute_script('return Array.from(view.rows)')
    line = browser.execute_script('return line')
    # Marked by click and by key, the rest is taken by one key.
    browser.find_element('css selector', '.tile[data-place="1"]').click()
    press(browser, KEYS.ARROW_RIGHT, KEYS.SPACE)
    wait(browser, "document.querySelectorAll('.tile.marked').length === 2")
    press(browser, KEYS.ENTER)
    state = review.state()
    taken = [row for i, row in enumerate(rows[:line]) if i not in (1, 2)]
    assert np.flatnonzero(state.label == 0).tolist() == sorted(taken)
    assert state.names == [name] and state.refused[0] == set(rows[1:3])
    # Another name, typed; and fewer images, by the line.
    browser.execute_script("queue(() => open('group', '2'))")
    press(browser)
    rows = browser.execute_script('return Array.from(view.rows)')
    line = browser.execute_script('return line')
    assert line > 4
    press(browser, 'gh')
    assert browser.execute_script('return line') == line
    press(browser, KEYS.END, KEYS.HOME, *[KEYS.ARROW_RIGHT] * 4, 't')
    assert browser.execute_script('return line') == 4
    wait(browser, "document.querySelectorAll('.tile.below').length > 0")
    assert 'below' in visible(browser)['4'].split()
    assert 'below' not in visible(browser)['3'].split()
    press(browser, 'n', 'salp', KEYS.ENTER)
    assert len(review.events()) == 1  # Enter only left the field
    press(browser, KEYS.ENTER)
    state = review.state()
    assert state.names == [name, 'salp']
    assert np.flatnonzero(state.label == 1).tolist() == sorted(rows[:4])
    # Single ones, by a digit and by a letter.
    press(browser, 'o')
    row = browser.execute_script('return view.rows[0]')
    wait(browser, 'nearest.length === 3')
    second = browser.execute_script('return nearest[1]')
    press(browser, '2')
    state = review.state()
    assert state.names[state.label[row]] == second
    row = browser.execute_script('return view.rows[focus]')
    press(browser, 'a')
    state = review.state()
    assert state.names[state.label[row]] == 'artefact'
    # Undone one by one to the beginning, and done again.
    press(browser, 'zzz')
    assert np.flatnonzero(review.state().label >= 0).tolist() == sorted(taken)
    press(browser, 'zz')
    assert not (review.state().label >= 0).any()
    assert said(browser) == 'Nothing to undo.'
    press(browser, 'y')
    assert np.flatnonzero(review.state().label >= 0).tolist() == sorted(taken)
    assert complaints(browser, address) == []


def test_a_draw_is_confirmed_and_corrected_one_by_one(browser, tmp_path):
  draw = np.array([40, 7, 22, 13])
  known = Taxa({'ant': Taxon(('living', 'ant'))})
  images = review_images.make(60)._replace(drawn=draw, taxa=known)
  review = review_images.session(tmp_path, images)
  with served(review, tmp_path) as address:
    start(browser, address)
    assert browser.find_element('id', 'heading').text == 'As they were drawn'
    rows = browser.execute_script('return Array.from(view.rows)')
    assert rows == draw.tolist()
    names = browser.execute_script(
      'return Object.fromEntries('
      "[...byId('names').options].map((one) => [one.value, one.label]))"
    )
    assert names.keys() == {
      'ant', 'bee', 'living', 'unknown', 'artefact', 'not living',
    }  # fmt: skip
    assert (names['ant'], names['bee']) == ('living > ant', '')
    wait(browser, 'nearest.length === 2')
    first = browser.execute_script('return nearest[0]')
    press(browser, '1')  # confirmed; the next one is in focus
    press(browser, 'l')
    press(browser, KEYS.ENTER)
    assert said(browser).startswith('Give a name first')
    press(browser, 'n', 'salp', KEYS.ENTER, KEYS.ENTER)  # the next by its name
    press(browser, KEYS.ENTER)  # which is not that of the one after it
    press(browser, 'u')
    state = review.state()
    names = [state.names[label] for label in state.label[draw]]
    assert names == [first, 'not living', 'salp', 'unknown']
    assert state.decisions == 4
    browser.find_element('id', 'drawn').click()
    press(browser)
    assert browser.execute_script('return view.rows.length') == 0
    shown = browser.find_element('id', 'none').text
    assert shown.startswith('Every image that was drawn is decided')
    assert complaints(browser, address) == []
  review._log.close()


def test_groups_are_split_and_joined_and_more_found(browser, review, tmp_path):
  with served(review, tmp_path) as address:
    start(browser, address)
    browser.execute_script("queue(() => open('group', '1'))")
    press(browser)
    rows = browser.execute_script('return Array.from(view.rows)')
    press(browser, KEYS.SPACE, KEYS.ARROW_RIGHT, KEYS.SPACE, 's')
    assert np.flatnonzero(review.state().group == 3).tolist() == sorted(
      rows[:2]
    )
    press(browser, 'j')
    browser.find_element(
      'css selector', '#sets button[title="group 2"]'
    ).click()
    press(browser)
    assert np.sum(review.state().group == 1) == 38
    press(browser, 'm')
    found = browser.execute_script('return Array.from(view.rows)')
    first = review.images.embedding[found[0]]
    near = review.images.embedding[found[1:]] @ first
    assert (np.diff(near) <= 1e-6).all() and len(found) == 60
    browser.find_element('id', 'write').click()
    press(browser)
    assert 'review.csv' in said(browser) and (tmp_path / 'review.csv').exists()


def test_a_run_is_dragged_and_a_tile_pointed_at(browser, review, tmp_path):
  def tile(place):
    return browser.find_element('css selector', f'.tile[data-place="{place}"]')

  def marked():
    return browser.execute_script(
      'return [...marked].map((row) => view.rows.indexOf(row))'
    )

  with served(review, tmp_path) as address:
    start(browser, address)
    browser.execute_script("queue(() => open('group', '2'))")
    press(browser)
    rows = browser.execute_script('return Array.from(view.rows)')
    line = browser.execute_script('return line')
    names = browser.execute_script('return view.names')
    assert sorted(names) == ['ant', 'bee']
    assert f'1 {names[0]}' in browser.find_element('id', 'likely').text
    drag = browsers.webdriver.ActionChains(browser)
    drag.click_and_hold(tile(4)).move_to_element(tile(3))
    drag.move_to_element(tile(1)).perform()
    assert sorted(
      int(p) for p, kinds in visible(browser).items() if 'swept' in kinds
    ) == [1, 2, 3, 4]
    browser.get_screenshot_as_file(str(tmp_path / 'drag.png'))
    browsers.webdriver.ActionChains(browser).release().perform()
    assert sorted(marked()) == [1, 2, 3, 4]
    tile(2).click()  # a click after a drag is a click
    assert sorted(marked()) == [1, 3, 4]
    drag = browsers.webdriver.ActionChains(browser)
    drag.click_and_hold(tile(3)).move_to_element(tile(4)).release().perform()
    assert marked() == [1]
    press(browser, KEYS.ESCAPE)
    # A digit names the tile under the pointer, without a click.
    hover = browsers.webdriver.ActionChains(browser)
    hover.move_to_element(tile(5)).perform()
    wait(browser, 'focus === 5 && nearest.length === 2')
    second = browser.execute_script('return nearest[1]')
    press(browser, '2')
    state = review.state()
    assert state.names[state.label[rows[5]]] == second
    # Shift and a digit takes what is left above the line by a likely class.
    wanted = browser.execute_script('return view.names[1]')
    shifted = browsers.webdriver.ActionChains(browser)
    shifted.key_down(KEYS.SHIFT).send_keys('2').key_up(KEYS.SHIFT).perform()
    press(browser)
    state = review.state()
    taken = [row for i, row in enumerate(rows[:line]) if i != 5]
    assert {state.names[i] for i in state.label[taken]} == {wanted}
    assert np.sum(state.label >= 0) == line
    assert complaints(browser, address) == []


def test_two_browsers_lose_no_decision(browser, review, tmp_path):
  other = browsers.driver(tmp_path / 'other')
  try:
    with served(review, tmp_path) as address:
      for one, who in ((browser, 'Ann'), (other, 'Bob')):
        start(one, address)
        one.execute_script(f"byId('who').value = '{who}'")
        one.execute_script("queue(() => open('group', '0'))")
        press(one)
      press(browser, KEYS.ENTER)
      # The other has not heard of it: what is taken stays as it is.
      other.execute_script('about.seq = 0; now.label.fill(-1)')
      press(other, 'n', 'mine', KEYS.ENTER, KEYS.ENTER)
      assert 'decided by someone else' in said(other)
      state = review.state()
      assert {state.names[i] for i in state.label[state.label >= 0]} == {'ant'}
      other.execute_script("queue(() => open('group', '2'))")
      press(other)
      press(other, 'n', 'mine', KEYS.ENTER, KEYS.ENTER)
      wait(browser, "now.names.includes('mine')")  # it hears by itself
      shown = browser.find_element('id', 'progress').text
      assert shown == '40 of 60 decided, 2 decisions'
  finally:
    other.quit()


def test_a_reload_after_a_kill_shows_every_decision(browser, tmp_path):
  def serve(port):
    made = subprocess.Popen(
      [sys.executable, '-c', SERVE, str(tmp_path), str(port)],
      stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    return made, int(made.stdout.readline())

  run, port = serve(0)
  try:
    start(browser, f'http://127.0.0.1:{port}/token/')
    press(browser, KEYS.ENTER)
    before = browser.find_element('id', 'progress').text
    assert re.match(r'[1-9]\d* of 12 decided, 1 decision$', before)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    press(browser, KEYS.ENTER)
    assert said(browser).startswith('The review has ended')
    run.stdout.close()
    run, _ = serve(port)
    start(browser, f'http://127.0.0.1:{port}/token/')
    assert browser.find_element('id', 'progress').text == before
  finally:
    run.kill()
    run.wait()
    run.stdout.close()


def test_of_many_images_only_the_visible_have_tiles(browser, tmp_path):
  images = review_images.make(MANY)
  session = review_images.session(tmp_path, images)
  with served(session, tmp_path) as address:
    start(browser, address)
    browser.execute_script(
      'view.rows = Int32Array.from({length: about.images}, (_, i) => i);'
      'grid.open(view.rows)'
    )
    for share in (0.5, 1.0):
      browser.execute_script(
        'const t = byId("tiles");'
        f't.scrollTop = {share} * (t.scrollHeight - t.clientHeight)'
      )
      wait(browser, f'grid.planned === false && {share} * about.images <= 1 +'
           ' Math.max(...grid.pool.map((t) => t.dataset.place))')  # fmt: skip
    places = sorted(map(int, visible(browser)))
    assert places[-1] == MANY - 1 and len(places) < 200
    tiles = browser.execute_script(
      "return document.querySelectorAll('.tile').length"
    )
    assert tiles < 200
  session._log.close()
