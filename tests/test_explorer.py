"""The latent explorer in a real browser: its networks against PyTorch, and every way to use it."""

import base64
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import report.explorer as explorer
from vae_utils import VAE, get_preset

CHROMIUM = shutil.which("chromium")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


def make_run(out_dir, **changes):
    """An untrained best-2d, its weights scaled so that codes and pictures vary as trained ones."""
    torch.manual_seed(0)
    config = get_preset("best-2d", **changes)
    model = VAE(config).eval()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    blobs = torch.nn.functional.interpolate(torch.rand(600, 1, 5, 5), 28, mode="bicubic")
    test = TensorDataset((3 * blobs - 1.2).clamp(0, 1), torch.arange(600) % 10)
    with torch.no_grad():
        for head, size in ((model.encoder.mu, 1.5), (model.encoder.logvar, 0.3)):
            head.weight *= size / head(model.encoder.body(test.tensors[0])).std()
        model.encoder.logvar.bias -= 3
        last = [layer for layer in model.decoder.body if isinstance(layer, torch.nn.Linear)][-1]
        last.weight *= 4 / model.decode(1.5 * torch.randn(500, 2)).std()
    return SimpleNamespace(model=model, history=[], config=config, out_dir=out_dir), test


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    run, test = make_run(tmp_path_factory.mktemp("run"))
    page, still = explorer.write_explorer(run, test)
    return SimpleNamespace(run=run, test=test, page=page, still=still)


@pytest.fixture
def open_page(browser):
    """Opens a file with the network off; at the end there was no error and no other request."""
    contexts, trouble = [], []

    def guard(route):
        if route.request.url.startswith(("file:", "data:", "about:")):
            return route.continue_()
        trouble.append(f"request {route.request.url}")
        route.abort()

    def opener(path, width=900, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        context.route("**/*", guard)
        page = context.new_page()
        page.on("console", lambda m: m.type == "error" and trouble.append(m.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(path.as_uri())
        return page

    yield opener
    for context in contexts:
        context.close()
    assert trouble == []


def picture(page, canvas):
    """The 784 grey values that a canvas of 28 × 28 shows, in [0, 1], as (28, 28)."""
    values = page.evaluate(
        "id => Array.from(document.getElementById(id).getContext('2d')"
        ".getImageData(0, 0, 28, 28).data.filter((_, i) => i % 4 == 0))",
        canvas,
    )
    return np.array(values).reshape(28, 28) / 255


def pair(text):
    """Numbers of 'z = (1.20, −0.31)'."""
    inside = text.replace("−", "-").split("(")[1].rstrip(")")
    return [float(value) for value in inside.split(",")]


def settle(page):
    """Wait for the next frames to be drawn."""
    page.evaluate("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")


def stroke(page, points):
    """Draw on the pad with the mouse through points in [0, 1]²."""
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    places = [(box["x"] + u * box["width"], box["y"] + v * box["height"]) for u, v in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()
    settle(page)


COMPARE = """([code, inputs, expected]) => {  // largest difference over 200 rows
    const floats = (text) =>
        new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
    const [x, y] = [floats(inputs), floats(expected)], [n, m] = [x.length / 200, y.length / 200];
    const run = eval(code);
    let worst = 0;
    for (let i = 0; i < 200; i++) {
        const ours = run(x.subarray(i * n, (i + 1) * n));
        for (let j = 0; j < m; j++) worst = Math.max(worst, Math.abs(ours[j] - y[i * m + j]));
    }
    return worst;
}"""


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu"])
def test_networks_match_pytorch(open_page, tmp_path, activation):
    run, test = make_run(tmp_path, activation=activation)
    page = open_page(explorer.write_explorer(run, test)[0])
    images, codes = test.tensors[0][:200], 1.5 * torch.randn(200, 2)
    with torch.no_grad():
        mu, logvar = run.model.encode(images)
        decoded = torch.sigmoid(run.model.decode(codes)).flatten(1)
        rebuilt = run.model.reconstruct(images).flatten(1)
    assert decoded.min() < 0.05 and decoded.max() > 0.95 and mu.std() > 0.5  # not a weak test

    def difference(function, inputs, expected):
        sent = [
            base64.b64encode(part.numpy().astype("<f4").tobytes()).decode()
            for part in (inputs, expected)
        ]
        return page.evaluate(COMPARE, [function, *sent])

    assert difference("z => explorer.decode(z)", codes, decoded) <= 0.02
    assert difference("x => explorer.encode(x).mu", images, mu) <= 0.02
    assert difference("x => explorer.encode(x).sigma", images, torch.exp(0.5 * logvar)) <= 0.02
    assert difference("x => explorer.decode(explorer.encode(x).mu)", images, rebuilt) <= 0.02


def test_size_and_speed(open_page, built):
    assert built.page.stat().st_size <= 4_000_000
    page = open_page(built.page)
    times = page.evaluate("""() => Array.from({ length: 101 }, (_, i) => {
        const start = performance.now();
        window.explorer.decode([i / 50 - 1, 0.5]);
        return performance.now() - start;
    })""")
    assert np.median(times) <= 4


def test_hover_click_and_leave(open_page, built):
    page = open_page(built.page)
    start = page.inner_text("#z"), picture(page, "decoded")
    box = page.locator("#cursor").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle[0] + 90, middle[1] + 40)
    settle(page)
    hovered = pair(page.inner_text("#z"))
    assert page.inner_text("#z") != start[0]
    with torch.no_grad():
        expected = torch.sigmoid(built.run.model.decode(torch.tensor([hovered])))[0, 0].numpy()
    assert np.abs(picture(page, "decoded") - expected).max() < 0.1  # z is shown rounded
    assert np.abs(picture(page, "decoded") - start[1]).max() > 0.2
    page.mouse.move(middle[0] - 60, middle[1])
    settle(page)
    assert pair(page.inner_text("#z"))[0] < hovered[0]  # z1 grows to the right
    page.mouse.move(5, 5)
    settle(page)
    assert page.inner_text("#z") == start[0]  # not kept
    page.mouse.click(*middle)
    settle(page)
    kept = page.inner_text("#z")
    page.mouse.move(5, 5)
    settle(page)
    assert page.inner_text("#z") == kept != start[0]


def test_arrow_keys_and_status(open_page, built):
    page = open_page(built.page)
    page.focus("#cursor")
    z1, z2 = pair(page.inner_text("#z"))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    settle(page)
    assert pair(page.inner_text("#z")) == pytest.approx([z1 - 0.1, z2 - 0.5], abs=0.011)
    page.wait_for_function("document.getElementById('status').textContent.startsWith('z1 ')")
    assert "Nearest test image" in page.inner_text("#status")


def test_drawing_is_centred_encoded_and_rebuilt(open_page, built):
    page = open_page(built.page)
    page.click("#clear")
    assert picture(page, "seen").max() == 0 and page.inner_text("#mu") == "–"
    stroke(page, [(0.1, 0.1), (0.4, 0.1), (0.15, 0.5)])  # a small 7 in a corner
    seen, first = picture(page, "seen"), page.inner_text("#mu")
    rows, columns = np.nonzero(seen.max(1))[0], np.nonzero(seen.max(0))[0]
    assert 19 <= np.ptp(rows) + 1 <= 22 and np.ptp(columns) < np.ptp(rows)  # a box of 20, scaled
    grid = np.arange(28)
    centre = [(seen.sum(axis) * grid).sum() / seen.sum() for axis in (0, 1)]
    assert centre == pytest.approx([14, 14], abs=0.25)  # as MNIST's images
    assert ((seen > 0.1) & (seen < 0.9)).sum() > 10  # grey at the edges
    x = torch.tensor(seen, dtype=torch.float32)[None, None]
    assert pair(first) == pytest.approx(built.run.model.encode(x)[0][0].tolist(), abs=0.05)
    rebuilt = built.run.model.reconstruct(x)[0, 0].numpy()
    assert np.abs(picture(page, "rebuilt") - rebuilt).max() < 0.05
    stroke(page, [(0.1, 0.8), (0.8, 0.9)])
    assert page.inner_text("#mu") != first


def test_keyboard_alone(open_page, built):
    """Tab reaches every control; the pen draws; test images come by a button."""
    page = open_page(built.page)
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    assert {"cursor", "play", "set-a", "set-b", "step", "pad", "clear", "example"} <= reached
    assert {str(digit) for digit in range(10)} <= reached  # the legend
    page.focus("#example")
    before = page.inner_text("#mu")
    page.keyboard.press("Enter")
    assert page.inner_text("#pad-name") == "test image: 1" and page.inner_text("#mu") != before
    page.focus("#pad")
    for key in ["Space", *["ArrowDown"] * 6, *["ArrowRight"] * 4, "Space", "ArrowLeft"]:
        page.keyboard.press(key)
    settle(page)
    assert page.inner_text("#pad-name") == "your drawing" and picture(page, "seen").max() > 0.9


def test_walk(open_page, built):
    page = open_page(built.page)
    page.locator("#cursor").click(position={"x": 60, "y": 60})
    page.click("#set-a")
    start = page.inner_text("#z")
    page.locator("#cursor").click(position={"x": 250, "y": 200})
    page.click("#set-b")
    settle(page)
    end = page.inner_text("#z")
    assert start != end and page.input_value("#step") == "1"
    page.click("#play")
    page.wait_for_function("Number(document.getElementById('step').value) < 0.9")
    assert page.inner_text("#play") == "Pause"
    page.click("#play")
    settle(page)
    held = page.input_value("#step")
    settle(page)
    assert page.inner_text("#play") == "Play" and page.input_value("#step") == held
    assert page.inner_text("#z") not in (start, end)


def test_walk_without_motion(open_page, built):
    page = open_page(built.page, reduced_motion="reduce")
    assert page.inner_text("#play") == "Step"
    page.click("#play")
    page.wait_for_timeout(150)
    assert page.input_value("#step") == "0.1"


def test_finger_on_a_phone(open_page, built):
    page = open_page(built.page, width=358, has_touch=True, is_mobile=True)
    before = page.inner_text("#z")
    page.locator("#cursor").tap(position={"x": 40, "y": 200})
    settle(page)
    assert page.inner_text("#z") != before


@pytest.mark.parametrize("width", [320, 358, 390, 768, 1440])
def test_no_sideways_scroll(open_page, built, width):
    page = open_page(built.page, width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_shown_in_a_notebook(open_page, built, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(explorer, "display", lambda data, **options: shown.append((data, options)))
    explorer.show_explorer(built.run, built.test)
    (data, options), = shown  # fmt: skip
    metadata = options["metadata"]
    assert metadata["explorer"] == str(built.page) and metadata["still"] == str(built.still)
    assert built.still.stat().st_size > 10_000 and metadata["alt"] and metadata["filename"]
    cell = tmp_path / "cell.html"
    cell.write_text(f"<!doctype html><body style='margin: 0'>{data['text/html']}", encoding="utf-8")
    page = open_page(cell, width=700)
    inside = page.frame_locator("iframe")
    assert inside.locator("#z").inner_text().startswith("z = (")
    page.wait_for_function("""() => {
        const frame = document.querySelector("iframe");
        const needed = frame.contentDocument.querySelector("main").offsetHeight;
        return Math.abs(frame.clientHeight - needed) <= 1;
    }""")


@pytest.mark.parametrize("preset", ["best-16d", "conv-2d"])
def test_other_models_are_refused(tmp_path, preset):
    run, test = make_run(tmp_path)
    run.config = get_preset(preset)
    with pytest.raises(ValueError, match=r"explorer .*(latent_dim|architecture)"):
        explorer.show_explorer(run, test)
    assert list(tmp_path.iterdir()) == []
