"""The explorer in a real browser: its networks against PyTorch, and every way to use it."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import axe_finds, needs_axe
from PIL import Image
from torch.utils.data import TensorDataset

import explorer.explorer as explorer
import explorer.page as page_of
import vae_utils as vae

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium")
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


def strokes(n, seed=0):
    """n images ``(n, 1, 28, 28)`` of a thick bent line each, in MNIST's box, and labels."""
    random = np.random.default_rng(seed)
    images, labels = torch.zeros(n, 1, 28, 28), torch.arange(n) % 10
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    for image, label in zip(images, labels.tolist()):
        angle = label * np.pi / 10 + 0.1 * random.standard_normal()
        bend = 0.03 * random.standard_normal()
        along = (x - 13.5) * np.cos(angle) + (y - 13.5) * np.sin(angle)
        across = (y - 13.5) * np.cos(angle) - (x - 13.5) * np.sin(angle) + bend * along**2
        image[0] = (2.5 - across.abs()).clamp(0, 1) * (along.abs() < 9)
    return images, labels


def make_run(out_dir, latent_dim, images, **changes):
    """A small VAE, trained for a moment, so that codes and pictures are like a real one's."""
    torch.manual_seed(0)
    settings = {"architecture": "residual", "hidden": (96, 96), "activation": "silu"} | changes
    config = vae.Config("small", latent_dim=latent_dim, **settings)
    model = vae.VAE(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        logits, mu, logvar = model(images)
        optimizer.zero_grad()
        vae.elbo(logits, images, mu, logvar)[0].mean().backward()
        optimizer.step()
    return SimpleNamespace(model=model.eval(), config=config, out_dir=out_dir)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run")
    images, labels = strokes(400)
    runs = [make_run(folder, d, images) for d in (2, 16)]
    content, still = explorer.build(*runs, TensorDataset(images, labels))
    path = folder / "explorer.html"
    path.write_text(content, encoding="utf-8")
    return SimpleNamespace(runs=runs, images=images, labels=labels, path=path, still=still)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file with the network off; at the end there was no error and no other request."""
    contexts, trouble = [], []

    def guard(route):
        if route.request.url.startswith(("file:", "data:", "about:")):
            return route.continue_()
        trouble.append(f"request {route.request.url}")
        route.abort()

    def opener(path, width=1100, height=900, place="", ready="window.explorer?.state.code", **more):
        context = browser.new_context(viewport={"width": width, "height": height}, **more)
        contexts.append(context)
        context.route("**/*", guard)
        page = context.new_page()
        page.on("console", lambda m: m.type == "error" and trouble.append(m.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.goto(path.as_uri() + place)
        page.wait_for_function(ready)
        settle(page)
        return page

    yield opener
    for context in contexts:
        context.close()
    assert trouble == []


def settle(page):
    """Wait for the next frames to be drawn."""
    page.evaluate("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")


def picture(page, canvas):
    """The 784 grey values that a canvas of 28 × 28 shows, in [0, 1], as (28, 28)."""
    values = page.locator(canvas).first.evaluate(
        "canvas => Array.from(canvas.getContext('2d')"
        ".getImageData(0, 0, 28, 28).data.filter((_, i) => i % 4 == 0))"
    )
    return np.array(values).reshape(28, 28) / 255


def look(page, expression):
    return page.evaluate(f"() => {{ const {{ state }} = window.explorer; return {expression}; }}")


def shown_number(page, element):
    return float(page.inner_text(element).replace("−", "-"))


@torch.no_grad()
def decoded(run, z):
    return torch.sigmoid(run.model.decode(torch.tensor([z])))[0, 0].numpy()


RUN = """([name, number, rows]) => rows.map((row) => {
    const out = window.explorer.models[number][name](row);
    return name === "encode" ? [...out.mu, ...out.sigma] : [...out];
})"""


@pytest.mark.parametrize("variant", ["presets", "others"])
def test_networks_match_pytorch(open_page, built, tmp_path, variant):
    runs, path = built.runs, built.path
    if variant == "others":
        runs = [
            make_run(tmp_path, 2, built.images, activation="relu", decoder_hidden=(64, 64, 64)),
            make_run(tmp_path, 5, built.images, activation="gelu", architecture="mlp"),
        ]
        path = tmp_path / "explorer.html"
        page, _ = explorer.build(*runs, TensorDataset(built.images, built.labels))
        path.write_text(page, encoding="utf-8")
    page = open_page(path)
    for number, run in enumerate(runs):
        d = run.config.latent_dim
        codes, x = 1.5 * torch.randn(40, d), built.images[:40]
        with torch.no_grad():
            mu, logvar = run.model.encode(x)
            pictures = torch.sigmoid(run.model.decode(codes)).flatten(1).numpy()
        assert pictures.min() < 0.05 and pictures.max() > 0.95 and mu.std() > 0.5  # no weak test
        ours = page.evaluate(RUN, ["decode", number, codes.tolist()])
        assert np.abs(np.array(ours) - pictures).max() <= 0.02
        ours = np.array(page.evaluate(RUN, ["encode", number, x.flatten(1).tolist()]))
        assert np.abs(ours[:, :d] - mu.numpy()).max() <= 0.03
        assert np.abs(ours[:, d:] - torch.exp(0.5 * logvar).numpy()).max() <= 0.02


def test_rounded_weights_are_near_also_beside_large_ones():
    torch.manual_seed(0)
    weight, inputs = 0.01 * torch.randn(8, 40), torch.randn(500, 40)
    weight[:, 0] = 1.0
    off = {}
    for group in (16, 40):
        restored = explorer.restore_weights(*explorer.round_weights(weight, inputs, group), group)
        off[group] = (restored - weight)[:, 16:].abs().max().item()
        assert (restored - weight).abs().max() < 1 / 127
    assert off[16] < 0.5 * off[40]  # what is left is made good for the rounding of the large ones


def test_an_image_goes_through(open_page, built):
    page = open_page(built.path, place="#image=7")
    assert np.allclose(picture(page, "#seen"), built.images[7, 0], atol=0.003)
    run, x = built.runs[0], built.images[7:8]
    mu, logvar = run.model.encode(x)
    assert look(page, "state.code.mu") == pytest.approx(mu[0].tolist(), abs=0.03)
    kl = vae.kl_divergence(mu, logvar).item()
    assert shown_number(page, "#kl") == pytest.approx(kl, rel=0.03, abs=0.1)

    def shown_draw():
        """The code of the chosen draw, whose picture and cost are those shown."""
        z = look(page, "state.draws[1]")
        with torch.no_grad():
            logits = run.model.decode(torch.tensor([z]))
        recon = vae.reconstruction_loss(logits, x).item()
        assert shown_number(page, "#recon") == pytest.approx(recon, rel=0.02)
        shown = picture(page, "#picture")
        assert np.abs(shown - torch.sigmoid(logits)[0, 0].numpy()).max() < 0.02
        return z

    before, kl, face = shown_draw(), page.inner_text("#kl"), page.inner_text("#die")
    page.click("#die")
    settle(page)
    assert page.inner_text("#die") != face
    assert page.inner_text("#kl") == kl and shown_draw() != before
    assert look(page, "state.draws.length") == 11 and look(page, "state.index") == 7
    page.get_by_label("the mean μ, without noise").check(force=True)
    assert look(page, "state.draws[state.chosen]") == look(page, "state.code.mu")
    page.keyboard.press("ArrowRight")  # among the draws
    settle(page)
    assert look(page, "state.chosen") == 1
    page.wait_for_function("document.getElementById('status').textContent.includes('draw 1 of')")
    # The lens: its ellipses are large, whatever sigma is.
    drawn = page.evaluate("""() => {
        const canvas = document.getElementById("lens"), side = canvas.width;
        const { data } = canvas.getContext("2d").getImageData(0, side >> 1, side, 1);
        const at = [...Array(side).keys()].filter((i) => data[4 * i + 3] > 200);
        return (at.at(-1) - at[0]) / side;
    }""")
    assert drawn > 0.5


def test_pointer_keys_and_nearest(open_page, built):
    page = open_page(built.path)
    page.locator("#cursor").scroll_into_view_if_needed()
    box = page.locator("#cursor").bounding_box()
    start, middle = (
        page.inner_text("#z"),
        (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2),
    )
    page.mouse.move(middle[0] + 90, middle[1] + 60)
    settle(page)
    point = look(page, "state.point")
    assert page.inner_text("#z") != start
    assert np.abs(picture(page, "#decoded") - decoded(built.runs[0], point)).max() < 0.02
    near = look(page, "state.near")
    assert np.allclose(picture(page, "#near"), built.images[near, 0], atol=0.003)
    assert page.inner_text("#near-name") == str(built.labels[near].item())
    page.mouse.move(5, 5)
    settle(page)
    assert page.inner_text("#z") == start  # not kept
    page.mouse.click(*middle)
    settle(page)
    kept = look(page, "state.kept")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    settle(page)
    moved = look(page, "state.kept")
    assert moved[0] > kept[0] and kept[1] - moved[1] > 2 * (moved[0] - kept[0])
    page.click("#through")
    settle(page)
    assert look(page, "state.index") == look(page, "state.near")
    page.click("#from-image")
    settle(page)
    assert look(page, "state.kept") == look(page, "state.code.mu")
    page.wait_for_function("document.getElementById('status').textContent.includes('Nearest')")


def ink(page):
    """What the map shows, as bytes, once the pictures of the plane have come and nothing moves."""
    read = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].join()"
    before, now = None, ""
    while now != before:
        before = now
        page.wait_for_timeout(400)
        now = page.locator("#cloud").evaluate(read)
    return now


def test_zoom_and_pan(open_page, built):
    page = open_page(built.path, width=500)
    canvas = page.locator("#cursor")
    whole = ink(page)
    scrolled = page.evaluate("scrollY")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    under = look(page, "state.point")
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(200)
    assert ink(page) == whole or page.evaluate("scrollY") != scrolled  # the wheel scrolls
    canvas.focus()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    settle(page)
    under = look(page, "state.point")
    page.mouse.wheel(0, -200)
    page.wait_for_timeout(200)
    assert ink(page) != whole
    page.mouse.move(box["x"] + 101, box["y"] + 100)
    settle(page)
    assert look(page, "state.point") == pytest.approx(under, abs=0.05)  # what was there stays there
    page.mouse.down()
    page.mouse.move(box["x"] + 161, box["y"] + 130, steps=3)
    page.mouse.up()
    settle(page)
    assert look(page, "state.point") == pytest.approx(under, abs=0.05)  # it went with the mouse
    page.click("#zoom-all")
    assert ink(page) == whole
    page.click("#zoom-image")
    close = ink(page)
    page.keyboard.press("Tab")
    canvas.press("-")
    assert ink(page) != close
    canvas.press("0")
    page.uncheck("#show-dots")
    without = ink(page)
    page.uncheck("#show-mosaic")
    assert len({whole, without, ink(page)}) == 3


def test_from_a_to_b(open_page, built):
    page = open_page(built.path)
    page.click("#zoom-all")
    start = look(page, "[state.a, state.b]")
    page.locator("#cursor").scroll_into_view_if_needed()
    page.locator("#cursor").click(position={"x": 40, "y": 200})
    page.click("#set-b")
    settle(page)
    assert look(page, "state.b") == look(page, "state.kept") != start[1]
    page.locator("#cursor").scroll_into_view_if_needed()
    box = page.locator("#cursor").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 200)  # take hold of B
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 250, steps=4)
    page.mouse.up()
    page.wait_for_timeout(300)
    end = look(page, "state.b")
    assert end[0] > start[0][0] or end != start[1]
    assert look(page, "state.a") == start[0] and page.input_value("#step") == "1"
    assert (
        np.abs(picture(page, "#film canvas:last-child") - decoded(built.runs[0], end)).max() < 0.02
    )
    line = picture(page, "#film canvas:nth-child(6)")
    halfway = [(a + b) / 2 for a, b in zip(start[0], end)]
    assert np.abs(line - decoded(built.runs[0], halfway)).max() < 0.02
    page.click("#arc")
    page.wait_for_timeout(300)
    assert np.abs(picture(page, "#film canvas:nth-child(6)") - line).max() > 0.02
    assert page.is_checked("#arc")
    boxes = """() => [...document.querySelectorAll("section, h2, canvas, button, input, .note")]
        .map((e) => Object.values(e.getBoundingClientRect().toJSON()).map(Math.round).join())
        .join(";")"""
    page.mouse.move(5, 5)
    before = page.evaluate(boxes)
    page.click("#play")
    seen = set()
    for _ in range(4):
        page.wait_for_timeout(150)
        seen.add(page.evaluate(boxes))
    assert seen == {before}  # nothing jumps while it plays
    assert page.inner_text("#play") == "Pause"
    page.click("#play")
    held = page.input_value("#step")
    settle(page)
    assert page.inner_text("#play") == "Play" and page.input_value("#step") == held != "1"


def test_walk_without_motion(open_page, built):
    page = open_page(built.path, reduced_motion="reduce")
    assert page.inner_text("#play") == "Step"
    page.click("#play")
    page.wait_for_timeout(100)
    assert page.input_value("#step") == "0.1"


def test_sixteen_sliders(open_page, built):
    page = open_page(built.path, place="#model=16&image=3")
    kl = [
        0.0 if "dead" in text else float(text.split("KL ")[1])
        for text in page.locator(".slider label").all_inner_texts()
    ]
    assert len(kl) == 16 and kl == sorted(kl, reverse=True) and kl[0] > 0.5
    with torch.no_grad():
        mu, logvar = built.runs[1].model.encode(built.images)
    expected = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).mean(0)
    order = expected.argsort(descending=True).tolist()
    assert kl == pytest.approx(expected[order].tolist(), abs=0.01)
    assert page.locator(".slider.dead").count() == (expected < 0.01).sum()
    page.click("#from-image")
    settle(page)
    point = look(page, "state.kept")
    assert point == pytest.approx(mu[3].tolist(), abs=0.05)
    slider = page.locator(f"#dim-{order[0]}")
    slider.fill("-2.5")
    page.wait_for_timeout(300)
    point[order[0]] = -2.5
    assert np.abs(picture(page, "#decoded") - decoded(built.runs[1], point)).max() < 0.02
    assert "−2.50" in page.locator(".slider label").first.inner_text()
    point[order[0]] = 3.0  # the picture at the right end
    ends = page.locator(".slider").first.locator("canvas")
    ends.last.evaluate("canvas => canvas.id = 'right-end'")
    assert np.abs(picture(page, "#right-end") - decoded(built.runs[1], point)).max() < 0.02
    page.click("text=A plane")
    settle(page)
    assert page.is_visible("#cursor") and len(look(page, "state.kept")) == 2
    assert look(page, "state.index") == 3  # the same image, the other model
    page.click("text=16 numbers")
    settle(page)
    assert look(page, "state.kept")[order[0]] == pytest.approx(-2.5)


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


def test_drawing_is_centred_and_encoded(open_page, built):
    page = open_page(built.path)
    page.click("#clear")
    assert look(page, "state.code") is None and page.inner_text("#recon") == "–"
    page.click("#die")  # nothing to roll for
    stroke(page, [(0.1, 0.1), (0.4, 0.1), (0.15, 0.5)])  # a small 7 in a corner
    seen, first = picture(page, "#seen"), look(page, "state.code.mu")
    rows, columns = (np.nonzero(seen.max(axis) > 0.25)[0] for axis in (1, 0))
    assert 19 <= np.ptp(rows) + 1 <= 21 and np.ptp(columns) < np.ptp(rows)  # a box of 20, scaled
    centre = [(seen.sum(axis) * np.arange(28)).sum() / seen.sum() for axis in (0, 1)]
    assert centre == pytest.approx([14, 14], abs=0.6)  # as MNIST's images
    assert ((seen > 0.1) & (seen < 0.9)).sum() > 10  # grey at the edges
    x = torch.tensor(seen, dtype=torch.float32)[None, None]
    assert first == pytest.approx(built.runs[0].model.encode(x)[0][0].tolist(), abs=0.1)
    with page.expect_download() as saved:  # for 11_applications
        page.click("#save")
    file = np.array(Image.open(saved.value.path()).convert("L")) / 255
    assert saved.value.suggested_filename == "drawing.png" and np.array_equal(file, seen)
    stroke(page, [(0.1, 0.8), (0.8, 0.9)])
    assert look(page, "state.code.mu") != first and page.inner_text("#image-name") == "your drawing"


def test_a_picture_of_ones_own(open_page, built, tmp_path):
    """A photo: dark on light, uneven light, wide, the digit small and off the middle."""
    page = open_page(built.path)
    large = np.kron(built.images[3, 0].numpy(), np.ones((9, 9)))  # 252 × 252
    photo = np.linspace(200, 230, 500)[None] * np.ones((400, 1))
    photo[80:332, 110:362] -= 150 * large
    clean, file = tmp_path / "clean.png", tmp_path / "photo.png"
    seen = []
    for path, values in ((clean, 255 * large), (file, photo)):
        Image.fromarray(values.astype(np.uint8)).convert("RGB").save(path)
        page.click("#example")
        page.set_input_files("#file", path)
        page.wait_for_function("window.explorer.state.index === undefined")
        settle(page)
        seen.append(picture(page, "#seen"))
    assert np.corrcoef(seen[0].ravel(), seen[1].ravel())[0, 1] > 0.97 and seen[0].max() == 1
    page.click("#example")
    data = page.evaluate_handle("""([bytes]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], "photo.png", { type: "image/png" }));
        return transfer;
    }""", [list(file.read_bytes())])  # fmt: skip
    page.dispatch_event("#pad", "drop", {"dataTransfer": data})
    page.wait_for_function("window.explorer.state.index === undefined")
    assert np.array_equal(picture(page, "#seen"), seen[1])
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#file", tmp_path / "notes.txt")
    page.wait_for_function("document.getElementById('image-name').innerText.includes('no picture')")
    assert look(page, "state.x") is None  # the pad is as empty as its name says


def test_places_in_the_address(open_page, built):
    page = open_page(built.path, place="#z=0.5,-0.25&a=image4&way=arc&image=5")
    assert look(page, "[state.kept, state.index, state.arc]") == [[0.5, -0.25], 5, True]
    with torch.no_grad():
        code = built.runs[0].model.encode(built.images[4:5])[0][0].tolist()
    assert look(page, "state.a") == pytest.approx(code, abs=0.01)
    page.locator("#cursor").press("ArrowUp")
    page.wait_for_function("location.hash.startsWith('#model=2&image=5&z=0.50,-0.1')")
    page.evaluate("location.hash = '#model=16&image=2'")
    page.wait_for_function("window.explorer.state.model.d === 16")
    settle(page)
    assert look(page, "state.index") == 2
    assert page.is_visible("#home") and page.get_attribute("#home", "href") == "index.html"


def test_a_link_to_a_place_leads_to_it(open_page, built):
    assert open_page(built.path).evaluate("scrollY") == 0
    page = open_page(built.path, place="#z=3,3")
    top = page.evaluate("document.getElementById('space-title').getBoundingClientRect().top")
    assert page.evaluate("scrollY") > 0 and -1 <= top < 100
    box = page.evaluate("document.getElementById('decoded').getBoundingClientRect().toJSON()")
    assert box["top"] >= 0 and box["bottom"] <= page.viewport_size["height"]


def test_keyboard_alone(open_page, built):
    """Tab reaches every control; the pen draws; the map and the walk are moved."""
    page = open_page(built.path)
    reached = set()
    for _ in range(45):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    wanted = (
        "pad die example clear save file cursor "
        "zoom-in zoom-image through from-image play set-a step"
    )
    assert set(wanted.split()) | {"0", "9"} <= reached
    page.focus("#pad")
    for key in ["Space", *["ArrowDown"] * 6, *["ArrowRight"] * 4, "Space", "ArrowLeft"]:
        page.keyboard.press(key)
    settle(page)
    assert page.inner_text("#image-name") == "your drawing" and picture(page, "#seen").max() > 0.9
    page.locator("#step").press("ArrowRight")
    settle(page)
    assert look(page, "state.t") == pytest.approx(0.01)


@pytest.mark.parametrize("width", [320, 390, 768, 1440])
def test_no_sideways_scroll(open_page, built, width):
    page = open_page(built.path, width=width)
    for button in ("16 numbers", "A plane"):
        page.click(f"text={button}")
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_fingers_on_a_phone(open_page, built):
    page = open_page(built.path, width=390, height=844, has_touch=True, is_mobile=True)
    before = page.inner_text("#z")
    page.locator("#cursor").tap(position={"x": 40, "y": 200})
    settle(page)
    assert page.inner_text("#z") != before
    page.locator("#pad").tap(position={"x": 60, "y": 60})
    settle(page)
    assert page.inner_text("#image-name") == "your drawing"


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page, built, scheme):
    page = open_page(built.path, color_scheme=scheme)
    for button in ("A plane", "16 numbers"):
        page.click(f"text={button}")
        assert axe_finds(page) == []


def test_shown_in_a_notebook(open_page, built, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(page_of, "display", lambda data, **options: shown.append((data, options)))
    explorer.show(*built.runs, TensorDataset(built.images, built.labels))
    (data, options), = shown  # fmt: skip
    metadata = options["metadata"]
    assert metadata["page"] == "explorer.html" and metadata["alt"]
    assert Path(metadata["still"]).read_bytes() == built.still and len(built.still) > 10_000
    assert page_of.unframe(data["text/html"]) == built.path.read_text(encoding="utf-8")
    cell = tmp_path / "cell.html"
    cell.write_text(f"<!doctype html><body style='margin: 0'>{data['text/html']}", encoding="utf-8")
    page = open_page(cell, width=836, ready="frames[0].explorer?.state.code")
    inside = page.frame_locator("iframe")
    assert not inside.locator("#home").is_visible()  # no link that leads nowhere
    inside.locator("#example").click()
    page.wait_for_function("""() => {
        const frame = document.querySelector("iframe");
        const needed = frame.contentDocument.querySelector("main").offsetHeight;
        return Math.abs(frame.clientHeight - needed) <= 1;
    }""")


def test_other_models_are_refused(built, tmp_path):
    test = TensorDataset(built.images, built.labels)
    flat, deep = built.runs
    with pytest.raises(ValueError, match="latent_dim 2, not 16"):
        explorer.build(deep, deep, test)
    conv = SimpleNamespace(config=deep.config.replace(architecture="conv"), model=deep.model)
    with pytest.raises(ValueError, match="conv"):
        explorer.build(flat, conv, test)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("file", ["explorer.test.js", "lab.test.js"])
def test_modules_in_node(file):
    command = ["node", "--test", f"test/{file}"]
    subprocess.run(command, cwd=ROOT / "explorer", check=True, capture_output=True, timeout=300)


TOOLS = ROOT / "tests" / "node_modules" / ".bin"
CHECKS = {"prettier": ["--check", "src/*.js", "test/*.js"], "tsc": ["-p", "jsconfig.json"]}


@pytest.mark.parametrize("tool", CHECKS)
def test_javascript_is_formatted_and_its_types_fit(tool):
    if not (TOOLS / tool).exists():
        pytest.skip("npm install --prefix tests")
    done = subprocess.run(
        [TOOLS / tool, *CHECKS[tool]], cwd=ROOT / "explorer", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
