"""Live pictures: their numbers are the library's, they answer, and their HTML never changes."""

from __future__ import annotations

import importlib
import json
import re

import pytest
import torch

pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Page, sync_playwright  # noqa: E402

from meanflow_lite.data.toys import toy  # noqa: E402
from meanflow_lite.fields import instantaneous  # noqa: E402
from meanflow_lite.notebook.live import PICTURES, law_of, live_html  # noqa: E402
from meanflow_lite.samplers import euler, heun, integrate, rk4, uniform_times  # noqa: E402
from tools import check_live as tool  # noqa: E402
from tools import check_pages  # noqa: E402

# The package offers functions by these names, so that the modules have to be asked for.
module = importlib.import_module("meanflow_lite.notebook.live")
asking = importlib.import_module("meanflow_lite.notebook.predict")
CAPTION = "What there is to see in this picture."
DOUBLE = torch.float64


@pytest.fixture(scope="module")
def browser():
    if check_pages.find_browser() is None:
        pytest.skip("no browser is installed")
    with sync_playwright() as play:
        found = check_pages.launch(play)
        yield found
        found.close()


@pytest.fixture(scope="module")
def page(browser):
    context = browser.new_context(viewport={"width": 800, "height": 900}, has_touch=True)
    yield context.new_page()
    context.close()


def put(page: Page, *parts: str) -> list[str]:
    """Show a page made of ``parts``; returns the list that errors are added to."""
    errors: list[str] = []
    page.goto("about:blank")  # a new window: scripts are read again
    page.on("pageerror", lambda e: errors.append(str(e)))
    body = "\n".join(parts)
    page.set_content(f"<!doctype html><html lang='en'><title>x</title><body>{body}</body></html>")
    return errors


def shown(page: Page, kind: str, **options: object) -> list[str]:
    return put(page, live_html(kind, id="p", caption=CAPTION, **options))


def numbers(page: Page, **state: object) -> dict:
    """What the picture computes in this state, and computes from."""
    page.evaluate("state => meanflow.shown.p.set(state)", state)
    return page.evaluate("meanflow.shown.p.picture.numbers()")


def states(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random points z and times r <= t, [n] each."""
    g = torch.Generator().manual_seed(seed)
    t = torch.rand(n, generator=g, dtype=DOUBLE) * 0.98 + 0.02
    r = t * torch.rand(n, generator=g, dtype=DOUBLE)
    return 6 * torch.rand(n, generator=g, dtype=DOUBLE) - 3, r, t


def close(got, want: torch.Tensor, tolerance: float = 1e-6) -> None:
    got = torch.as_tensor(got, dtype=DOUBLE)
    torch.testing.assert_close(got, want.double().view_as(got), rtol=tolerance, atol=tolerance)


FORMS = """([law, z, r, t]) => {
  const m = meanflow.mixture(law), each = f => z.map((_, i) => f(z[i], r[i], t[i]));
  return {
    velocity: each((z, r, t) => m.velocity(z, t)), average: each(m.average),
    transport: each(m.transport), cdf: each((z, r, t) => m.cdf(z, t)),
    variance: each((z, r, t) => m.variance(z, t)),
    back: each((z, r, t) => m.quantile(m.cdf(z, t), t)),
  };
}"""


def forms(page: Page, law: dict, *given: torch.Tensor) -> dict[str, list[float]]:
    return page.evaluate(FORMS, [law, *(g.tolist() for g in given)])


@pytest.mark.parametrize("name", ["mixture_a", "mixture_c"])
@pytest.mark.parametrize("seed", [0, 1])
def test_closed_forms_are_those_of_the_library(page, name, seed):
    assert shown(page, "path") == []
    z, r, t = states(300, seed)
    law, state = toy(name), z[:, None]
    got = forms(page, law_of(name), z, r, t)
    close(got["velocity"], law.velocity(state, t), 1e-9)
    close(got["average"], law.average(state, r, t))
    close(got["transport"], law.transport(state, r, t))
    close(got["cdf"], law.cdf(state, t), 1e-12)
    close(got["variance"], law.velocity_variance(state, t), 1e-9)
    close(got["back"], z)


def test_short_jumps_are_averages_too(page):
    shown(page, "path")
    z, _, t = states(200, 2)
    law = toy("mixture_a")
    for gap in (0.0, 1e-9, 5e-5, 2e-4):
        r = (t - gap).clamp(min=0)
        close(forms(page, law_of("mixture_a"), z, r, t)["average"], law.average(z[:, None], r, t))


def test_another_law_is_told_apart(page):
    shown(page, "path")
    z, r, t = states(200, 3)
    law = law_of("mixture_a")
    law["stds"] = [s * (1 + 1e-4) for s in law["stds"]]
    with pytest.raises(AssertionError):
        close(forms(page, law, z, r, t)["average"], toy("mixture_a").average(z[:, None], r, t))


# The numbers of each picture


def test_path_shows_the_chord_the_tangent_and_the_miss(page):
    shown(page, "path")
    law = toy("mixture_a")
    for z, r, t in zip(*(x.tolist() for x in states(40, 4)), strict=True):
        got = numbers(page, z=z, r=r, t=t)
        at = [torch.tensor([x], dtype=DOUBLE) for x in (r, t)]
        state = torch.tensor([[z]], dtype=DOUBLE)
        v, end = law.velocity(state, at[1]), law.transport(state, *at)
        close([got["v"], got["end"]], torch.stack([v, end]))
        close(got["u"], law.average(state, *at))
        close(got["miss"], state - (t - r) * v - end)


def test_hero_shows_the_errors_of_the_samplers(page):
    shown(page, "hero")
    law = toy("mixture_a")
    noise = torch.special.ndtri((torch.arange(41, dtype=DOUBLE) + 0.5) / 41)[:, None]
    one = torch.ones(41, dtype=DOUBLE)
    true = law.transport(noise, 0 * one, one)
    for n in (1, 4, 50):
        ends = integrate(instantaneous(law.velocity), noise, uniform_times(n), step=euler)
        got = numbers(page, n=n)
        close(got["many"], (ends - true).square().mean().sqrt())
        assert got["average"] < 1e-12 < got["many"]


def test_steps_are_those_of_the_samplers(page):
    shown(page, "path")
    law = toy("mixture_a")
    z = states(30, 5)[0]
    walk = "([law, z, n, s]) => z.map(x => meanflow.walk(meanflow.mixture(law).velocity, x, n, s))"
    for name, step in (("euler", euler), ("heun", heun), ("rk4", rk4)):
        for n in (1, 3, 8):
            got = page.evaluate(walk, [law_of("mixture_a"), z.tolist(), n, name])
            field = instantaneous(law.velocity)
            want = integrate(field, z[:, None], uniform_times(n), step=step)
            close([states[-1] for states in got], want)


# How pictures behave


@pytest.mark.parametrize("kind", sorted(PICTURES))
def test_a_picture_answers_and_fits(page, kind):
    assert shown(page, kind) == []
    assert tool.check_live(page) == []
    for width in (360, 800):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(60)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for text in page.locator("svg text").all():
            box = text.bounding_box()
            assert box and box["x"] >= -1 and box["x"] + box["width"] <= width + 1, (
                text.inner_text()
            )
    page.set_viewport_size({"width": 800, "height": 900})


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('addEventListener("keydown"', 'addEventListener("off"', "the keyboard"),
        ('addEventListener("pointermove"', 'addEventListener("off"', "the mouse"),
        ('addEventListener("pointermove"', 'addEventListener("off"', "a finger"),
        ("[22, 9, 3]", "[12, 9, 3]", "px for a finger"),
        ('"input", () =>', '"off", () =>', "slider n does not answer"),
    ],
)
def test_a_dead_control_is_told(page, old, new, says):
    text = live_html("hero", id="p", caption=CAPTION)
    assert old in text
    put(page, text.replace(old, new))
    assert any(says in p for p in tool.check_live(page))


def test_words_of_the_prose_act(page):
    words = '<p><span data-live="chord">chord</span> <span data-live="p:t=0.5,r=0.25">x</span></p>'
    put(page, words, live_html("path", id="p", caption=CAPTION))
    word, setter = page.locator("span[data-live]").all()
    word.hover()
    assert page.locator(".mf-lit").count() == 2  # the chord and its end
    page.mouse.move(0, 0)
    assert page.locator(".mf-lit").count() == 0
    setter.focus()
    page.keyboard.press("Enter")
    assert numbers(page)["t"] == 0.5 and numbers(page)["r"] == 0.25
    assert word.get_attribute("role") == "button"


def test_parts_and_state_are_what_the_table_says(page):
    for kind, picture in PICTURES.items():
        shown(page, kind)
        drawn = page.evaluate(
            "[...document.querySelectorAll('[data-part]')].map(e => e.dataset.part)"
        )
        assert set(picture.parts) == set(drawn), kind
        assert set(page.evaluate("Object.keys(meanflow.shown.p.state)")) == set(picture.start), kind


def test_the_html_is_the_same_twice_and_asks_for_nothing():
    for kind in PICTURES:
        first = live_html(kind, id="p", caption=CAPTION)
        assert first == live_html(kind, id="p", caption=CAPTION)
        assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org)", first), kind
        assert len(first) < 32_000, (kind, len(first))
        assert "<noscript>" in first and CAPTION in first


def test_two_pictures_share_a_page(page):
    parts = [live_html(kind, id=f"p-{kind}", caption=CAPTION) for kind in PICTURES]
    assert put(page, *parts) == []
    assert set(page.evaluate("Object.keys(meanflow.shown)")) == {f"p-{kind}" for kind in PICTURES}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "paths"}, "choose one of"),
        ({"id": "Path 1"}, "lower-case letters"),
        ({"caption": "A path"}, "four words"),
        ({"law": "ring"}, "one dimension"),
        ({"law": "nothing"}, "unknown toy"),
        ({"speed": 3}, "has no speed"),
    ],
)
def test_what_cannot_be_shown_is_told(change, says):
    given = {"kind": "path", "id": "p", "caption": CAPTION, **change}
    with pytest.raises(ValueError, match=says):
        live_html(given.pop("kind"), **given)


def test_live_displays_html_and_plain_words(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "display", lambda data, raw: seen.append(data))
    module.live("path", id="p", caption=f"  {CAPTION}\n", t=0.5)
    assert seen[0]["text/plain"] == CAPTION
    assert '"t": 0.5' in seen[0]["text/html"]


# Predictions


@pytest.fixture
def asked(monkeypatch):
    """Pages that `predict` and `score` display, in order."""
    seen: list[str] = []
    monkeypatch.setattr(asking, "display", lambda data, raw: seen.append(data["text/html"]))
    asking.predict("10-loss", "Which of these tells you early?", ["the loss", "samples <b>", "no"])
    asking.score("10-loss", right=1, why="It costs 3 seconds & a look.")
    return seen


def test_a_prediction_is_kept_and_scored(browser, asked, tmp_path):
    file = tmp_path / "page.html"
    file.write_text("<!doctype html><meta charset='utf-8'>" + "".join(asked), "utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    yours, buttons = page.locator(".mf-yours"), page.locator(".mf-predict button")
    assert "not predicted yet" in yours.inner_text()
    buttons.nth(0).click()
    assert "the loss" in yours.inner_text() and "not what happens" in yours.inner_text()
    buttons.nth(1).focus()
    page.keyboard.press("Enter")
    assert yours.inner_text() == "You predicted: samples <b>. That is right."
    page.reload()
    assert buttons.nth(1).get_attribute("aria-pressed") == "true"
    assert "That is right" in yours.inner_text()
    assert all(b.bounding_box()["height"] >= 44 for b in buttons.all())
    page.close()


def test_a_prediction_is_read_without_a_script(asked):
    assert "samples &lt;b&gt;" in asked[0] and "<b>samples &lt;b&gt;</b>. It costs" in asked[1]
    assert json.loads(re.search(r'data-right="([^"]+)"', asked[1]).group(1)) == [1]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: asking.predict("A", "Which of these is it?", ["a", "b"]), "lower-case"),
        (lambda: asking.predict("a", "Which?", ["a", "b"]), "sentence"),
        (lambda: asking.predict("a", "Which of these is it?", ["a"]), "two to six"),
        (lambda: asking.predict("a", "Which of these is it?", ["a", "a"]), "different"),
        (lambda: asking.score("never-asked", 0, "Because it is."), r"predict\(\) first"),
        (lambda: asking.score("10-loss", 3, "Because it is."), "options 0 to 2"),
    ],
)
def test_what_cannot_be_asked_is_told(asked, call, says):
    with pytest.raises(ValueError, match=says):
        call()
