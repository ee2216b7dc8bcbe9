"""Live pictures answer: each handle to mouse, touch and keys, other controls to clicks and keys.

Used by `tools.check_pages` on the built pages and by the tests on single pictures. A page must have
been opened in a context with ``has_touch=True`` for fingers to be tried.
"""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Locator, Page

FINGER = 44  # pixels that a finger needs
# What a picture looks like now, as a number: drawings, sentences, values that are read aloud.
LOOK = """figure => {
  let sum = 7;
  for (const e of figure.querySelectorAll('svg, .mf-say, [aria-valuetext]'))
    for (const letter of e.outerHTML) sum = (sum * 31 + letter.charCodeAt(0)) | 0;
  return sum;
}"""


class Live:
    """One picture of a page, and what is wrong with it."""

    def __init__(self, page: Page, figure: Locator) -> None:
        self.page, self.figure = page, figure
        self.name = figure.locator(".mf-body").get_attribute("id")
        self.problems: list[str] = []

    def look(self) -> int:
        """The picture as it is drawn now."""
        return self.figure.evaluate(LOOK)

    def tell(self, control: str, way: str, act: Callable[[], object]) -> None:
        """Add a problem if ``act`` does not change the picture."""
        before = self.look()
        act()
        if self.look() == before:
            self.problems.append(f"live picture {self.name}: {control} does not answer {way}")

    def handle(self, node: Locator) -> None:
        """A point to drag."""
        name = repr(node.get_attribute("aria-label"))
        small = node.evaluate("e => Math.min(e.getBBox().width, e.getBBox().height)")
        if small < FINGER:
            self.problems.append(f"live picture {self.name}: {name} is {small:.0f} px for a finger")
        # In the middle: the header of a page lies over what is at the top.
        node.evaluate("e => e.scrollIntoView({block: 'center', behavior: 'instant'})")
        self.tell(name, "the keyboard", lambda: self.press(node, "Home", "End"))
        self.tell(
            name, "the arrow keys", lambda: self.press(node, "ArrowDown", "ArrowUp", "ArrowLeft")
        )
        self.tell(name, "the page keys", lambda: self.press(node, "PageDown", "PageUp"))
        # Two goals, since a point may stand where it is moved to.
        self.tell(name, "the mouse", lambda: self.anywhere(node, self.drag))
        self.tell(name, "a finger", lambda: self.anywhere(node, self.swipe))

    def press(self, node: Locator, *keys: str) -> None:
        """Press the first key, and the others until something changes."""
        before = self.look()
        for key in keys:
            node.focus()
            self.page.keyboard.press(key)
            if self.look() != before:
                return

    def anywhere(
        self, node: Locator, way: Callable[[tuple[float, float], tuple[float, float]], None]
    ) -> None:
        """Move a point towards the middle of its drawing, then away from it."""
        before = self.look()
        for goal in (0.5, 0.3, 0.8):
            box, room = node.bounding_box(), node.locator("xpath=..").bounding_box()
            assert box and room
            start = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            way(start, (room["x"] + goal * room["width"], room["y"] + goal * room["height"]))
            if self.look() != before:
                return

    def drag(self, start: tuple[float, float], goal: tuple[float, float]) -> None:
        """With the mouse."""
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*goal, steps=3)
        self.page.mouse.up()

    def swipe(self, start: tuple[float, float], goal: tuple[float, float]) -> None:
        """With a finger."""
        session = self.page.context.new_cdp_session(self.page)
        places = {"touchStart": start, "touchMove": goal, "touchEnd": None}
        for kind, place in places.items():
            points = [{"x": place[0], "y": place[1]}] if place else []
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        session.detach()

    def slider(self, node: Locator) -> None:
        """A range: keys, and a click and a tap on its track."""
        name = f"slider {node.get_attribute('data-key')}"
        box = node.bounding_box()
        if not box or box["height"] < FINGER:
            self.problems.append(f"live picture {self.name}: {name} is too low for a finger")
            return
        self.tell(name, "the keyboard", lambda: self.press(node, "Home", "End"))
        at = {"y": box["height"] / 2}
        near, far = (
            {**at, "x": 0.2 * box["width"]},
            {**at, "x": 0.8 * box["width"]},
        )
        node.click(position=near)  # type: ignore[arg-type]
        self.tell(name, "the mouse", lambda: node.click(position=far))  # type: ignore[arg-type]
        if self.page.evaluate("navigator.maxTouchPoints"):
            self.tell(name, "a finger", lambda: node.tap(position=near))  # type: ignore[arg-type]

    def choice(self, labels: list[Locator]) -> None:
        """Buttons of which one is chosen."""
        for label in labels:
            box = label.bounding_box()
            if not box or box["height"] < FINGER:
                self.problems.append(f"live picture {self.name}: a choice is too low for a finger")
        labels[0].click()
        self.tell("a choice", "the mouse", labels[-1].click)
        first = labels[-1].locator("input")
        self.tell("a choice", "the keyboard", lambda: self.press(first, "ArrowLeft", "ArrowRight"))

    def check(self) -> list[str]:
        """All that is wrong."""
        handles = self.figure.locator(".mf-handle").all()
        ranges = self.figure.locator("input[type=range]").all()
        sets = self.figure.locator("fieldset").all()
        if not (handles or ranges or sets):
            return [f"live picture {self.name} has nothing to move"]
        for node in handles:
            self.handle(node)
        for node in ranges:
            self.slider(node)
        for node in sets:
            self.choice(node.locator("label").all())
        return self.problems


def check_live(page: Page) -> list[str]:
    """What is wrong with the live pictures of a page."""
    return [p for f in page.locator("figure.mf-live").all() for p in Live(page, f).check()]
