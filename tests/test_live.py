"""Live pictures: their numbers are the library's, they answer, and their HTML never changes."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("playwright.sync_api")

from playwright.sync_api import Page, sync_playwright  # noqa: E402

from meanflow_lite.data.toys import toy  # noqa: E402
from meanflow_lite.fields import Guided, ProductMixture, instantaneous  # noqa: E402
from meanflow_lite.identity import total_derivative  # noqa: E402
from meanflow_lite.losses import adaptive_weight  # noqa: E402
from meanflow_lite.notebook.live import PICTURES, law_of, live_html  # noqa: E402
from meanflow_lite.objectives.drifting import drift  # noqa: E402
from meanflow_lite.runs import PRESETS as SETTINGS  # noqa: E402
from meanflow_lite.runs import cost  # noqa: E402
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
    for z, r, t in zip(*(x.tolist() for x in states(20, 4)), strict=True):
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


def test_ranks_and_density_are_those_of_the_law(page):
    law = toy("mixture_a")
    for kind in ("ranks", "density"):
        shown(page, kind)
        for z, r, t in zip(*(x.tolist() for x in states(20, 6)), strict=True):
            got = numbers(page, z=z, t=t, **({"r": r} if kind == "ranks" else {}))
            time = torch.tensor([t], dtype=DOUBLE)
            if kind == "ranks":
                state, end = torch.tensor([[z]], dtype=DOUBLE), torch.tensor([r], dtype=DOUBLE)
                close(got["end"], law.transport(state, end, time))
                close(got["u"], law.average(state, end, time))
                close(got["rank"], law.cdf(state, time))
                continue
            state = torch.tensor([[got["at"]]], dtype=DOUBLE, requires_grad=True)
            rank = law.cdf(state, time)
            close(got["rank"], rank.detach())
            close(got["density"], torch.autograd.grad(rank.sum(), state)[0])


def test_posterior_is_that_of_two_points(page):
    shown(page, "posterior")
    assert round(numbers(page, z=0.5, t=0.5)["v"], 2) == -0.52  # by hand: 2 tanh(1) halves
    two = ProductMixture([[0.5, 0.5]], [[-1.0, 1.0]], [[1e-5, 1e-5]])
    z, _, t = states(40, 7)
    for a, b in zip(z.tolist(), (0.1 + 0.9 * t).tolist(), strict=True):
        got = numbers(page, z=a, t=b)
        v = two.velocity(torch.tensor([[a]], dtype=DOUBLE), torch.tensor([b], dtype=DOUBLE))
        close(got["v"], v)
        assert abs(got["mean"] - (2 * got["upper"] - 1)) < 1e-12


def test_steps_shows_errors_of_all_noises(page):
    shown(page, "steps")
    law = toy("mixture_a")
    noise = torch.special.ndtri((torch.arange(41, dtype=DOUBLE) + 0.5) / 41)[:, None]
    one = torch.ones(41, dtype=DOUBLE)
    true = law.transport(noise, 0 * one, one)
    for name, step, calls in (("euler", euler, 1), ("heun", heun, 2), ("rk4", rk4, 4)):
        ends = integrate(instantaneous(law.velocity), noise, uniform_times(6), step=step)
        got = numbers(page, solver=name, n=6)
        close(got["error"], (ends - true).square().mean().sqrt())
        close(got["nothing"], (noise - true).square().mean().sqrt())
        assert got["calls"] == 6 * calls


def test_pinned_chord_shows_the_total_derivative(page):
    shown(page, "pinned")
    law = toy("mixture_a")
    for z, r, t in zip(*(x.tolist() for x in states(12, 8)), strict=True):
        t, r = max(t, 0.1), min(r, t - 0.05, 0.9)
        got = numbers(page, z=z, r=max(r, 0.0), t=t)
        state = torch.tensor([[got["z"]]], dtype=DOUBLE)
        times = [torch.tensor([x], dtype=DOUBLE) for x in (max(r, 0.0), t)]
        v = law.velocity(state, times[1])
        u, change = total_derivative(law.average, state, *times, v)
        close([got["u"], got["change"]], torch.stack([u, change]))


def test_dual_numbers_are_forward_mode(page):
    shown(page, "dual")
    directions = {"total": (1.0, 1.0), "partial": (0.0, 1.0), "space": (1.0, 0.0)}
    for z, t, v in zip(*(x.tolist() for x in states(10, 9)), strict=True):
        for along, (space, time) in directions.items():
            got = numbers(page, z=z, t=t, v=v, along=along)
            given = [torch.tensor(x, dtype=DOUBLE) for x in (z, t)]
            tangents = [torch.tensor(x, dtype=DOUBLE) for x in (space * v, time)]
            value, slope = torch.func.jvp(  # type: ignore[reportAssignmentType]
                lambda a, b: a**2 * b + a.tanh(), tuple(given), tuple(tangents)
            )
            close([got["value"], got["derivative"]], torch.stack([value, slope]), 1e-12)
            assert abs(got["difference"] - got["derivative"]) < 1e-6


def curve(law, z: torch.Tensor, keep: float, n: int) -> torch.Tensor:
    """The mean of v on dz/dtau = keep v from (z, 1) to 0, by the library's own solver; ``[B]``."""
    state = torch.stack([z, torch.zeros_like(z)], 1)

    def both(pair, r, t, y=None):
        v = law.velocity(pair[:, :1], t)
        return torch.cat([keep * v, v], 1)

    return -integrate(both, state, uniform_times(n), step=rk4)[:, 1]


def test_frozen_goes_from_the_partial_to_the_total_derivative(page):
    shown(page, "frozen")
    law = toy("mixture_a")
    points, mass = np.polynomial.legendre.leggauss(200)
    times = torch.tensor(points / 2 + 0.5, dtype=DOUBLE)
    noises = states(12, 10)[0]
    partly = curve(law, noises, 0.4, 400)
    for k, z in enumerate(noises.tolist()):
        still = law.velocity(torch.full((200, 1), z, dtype=DOUBLE), times)[:, 0]
        close(numbers(page, z=z, keep=0.0)["u"], (still * torch.tensor(mass) / 2).sum())
        close(numbers(page, z=z, keep=0.4)["u"], partly[k])
        got = numbers(page, z=z, keep=1.0)
        close(got["end"], torch.tensor(got["exact"]))


def test_rules_are_exact_where_both_pieces_are_jumps(page):
    shown(page, "rules")
    law = toy("mixture_a")
    for z, r, t in zip(*(x.tolist() for x in states(8, 11)), strict=True):
        gaps = {}
        for rule in ("eulerian", "lagrangian", "compositional"):
            for part in (0.02, 0.1):
                got = numbers(page, rule=rule, z=z, r=r, t=t, part=part)
                gaps[rule, part] = abs(got["gap"])
                at = [torch.tensor([x], dtype=DOUBLE) for x in (r, t)]
                whole = (t - r) * law.average(torch.tensor([[z]], dtype=DOUBLE), *at)
                close(got["whole"], whole)
        assert gaps["compositional", 0.1] < 1e-9
        for rule in ("eulerian", "lagrangian"):
            assert gaps[rule, 0.1] > gaps[rule, 0.02] or gaps[rule, 0.1] < 1e-3


def test_guidance_moves_the_cloud_as_the_library_does(page):
    shown(page, "guidance")
    law = toy("classes")
    noise = torch.tensor(page.evaluate("meanflow.cloud(160)"), dtype=DOUBLE)
    assert noise.mean(0).abs().max() < 0.1 and (noise.std(0) - 1).abs().max() < 0.1
    for y, omega in ((0, 1.0), (0, 2.5), (1, 0.0), (1, 4.0)):
        labels = torch.full((160,), y)
        field = instantaneous(Guided(law, omega).velocity)
        ends = integrate(field, noise, uniform_times(24), labels, step=rk4)
        got = numbers(page, y=str(y), omega=omega)
        close(got["mean"], ends.mean(0))
        close(got["spread"], (ends - ends.mean(0)).square().sum(1).mean().sqrt())


def test_drift_moves_points_as_the_library_does(page):
    shown(page, "drift")
    normal = torch.tensor(page.evaluate("meanflow.cloud(40)"), dtype=DOUBLE)
    side = torch.where(torch.arange(40) % 2 == 1, 1.4, -1.4).double()
    data = torch.stack([side + 0.3 * normal[:, 0], 0.3 * normal[:, 1]], 1)
    others = torch.cat([~torch.eye(40, dtype=torch.bool), torch.ones(40, 40, dtype=torch.bool)], 1)
    for tau, place in ((0.2, (0.3, -0.5)), (0.5, (1.4, 0.0)), (1.0, (-3.0, 1.0))):
        points = torch.tensor(place, dtype=DOUBLE) + 0.3 * normal.flip(1)
        for _ in range(3):
            points = points + drift(points, points, data, tau, others)
        got = numbers(page, tau=str(tau).removesuffix(".0"), a=place[0], b=place[1], step=3)
        close(got["points"], points)
        close(got["drift"], drift(points, points, data, tau, others))


def test_floor_is_the_mean_variance_of_the_targets(page):
    shown(page, "floor")
    law = toy("mixture_a")
    grid = torch.linspace(-8, 8, 3201, dtype=DOUBLE)
    for z, _, t in zip(*(x.tolist() for x in states(12, 12)), strict=True):
        got = numbers(page, z=z, t=t)
        state, time = torch.tensor([[z]], dtype=DOUBLE), torch.tensor([t], dtype=DOUBLE)
        close(got["variance"], law.velocity_variance(state, time))
        close(got["v"], law.velocity(state, time))
        times = time.expand(3201)
        place = grid[:, None].clone().requires_grad_()
        density = torch.autograd.grad(law.cdf(place, times).sum(), place)[0][:, 0]
        variance = law.velocity_variance(grid[:, None], times)
        close(got["floor"], (variance * density).sum() * 16 / 3200)


def test_cost_is_the_estimate(page):
    shown(page, "cost")
    for run, gpu, precision, gpus in (("b2", "T4", "float32", 2), ("xl2", "H200", "bfloat16", 64)):
        settings = replace(SETTINGS[run], bf16=precision == "bfloat16", tf32=False)
        want = cost.estimate(settings, gpu, gpus, mfu=0.2)
        got = numbers(page, run=run, gpu=gpu, precision=precision, gpus=gpus, mfu=0.2)
        hours = [want.hours, want.hours_plain, want.hours_textbook]
        close([got["step"], got["plain"], got["textbook"]], torch.tensor(hours, dtype=DOUBLE), 1e-9)


def test_weight_is_the_adaptive_weight(page):
    shown(page, "weight")
    for p, c, error in ((1.0, 1e-3, 2.0), (0.5, 1.0, 0.3), (0.0, 0.1, 4.0)):
        got = numbers(page, p=p, c=c, error=error)
        weight = adaptive_weight(torch.tensor([error], dtype=DOUBLE), p, c)
        close(got["weight"], weight)
        close(got["printed"], weight * error)


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
        ('"input", () =>', '"off", () =>', "slider p does not answer"),
    ],
)
def test_a_dead_control_is_told(page, old, new, says):
    text = live_html("weight", id="p", caption=CAPTION)
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
        ({"law": "ring"}, "has dimension 2"),
        ({"law": "moons", "kind": "nothing"}, "choose one of"),
        ({"law": "product"}, "one dimension, or one in two with labels"),
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
    assert re.fullmatch(rf"Figure \d+\. {re.escape(CAPTION)}", seen[0]["text/plain"])
    assert re.search(r'<figure class="mf-live" id="figure-\d+">', seen[0]["text/html"])
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
