"""The lab: its network beside PyTorch's, and the page in a browser."""

import importlib
import json
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import axe_finds, needs_axe
from torch import nn
from torch.nn import functional as F

from explorer import page
from vae_data import get_files

lab = importlib.import_module("explorer.lab")  # explorer.lab is its function
SRC = lab.SRC
CHROMIUM = shutil.which("chromium")
ARGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
BATCH, PIXELS, HIDDEN = 64, 784, 128

# --------------------------------------------------------------------------- the network


class Network(nn.Module):
    """nn.js in PyTorch; its parameters are in nn.js's order."""

    def __init__(self, d):
        super().__init__()
        sizes = [(PIXELS, HIDDEN), (HIDDEN, 2 * d), (d, HIDDEN), (HIDDEN, PIXELS)]
        self.layers = nn.ModuleList(nn.Linear(*size) for size in sizes)

    def loss(self, x, eps, beta=1.0, noise=True, scale=1.0):
        hidden, heads, wide, out = self.layers
        mu, logvar = heads(F.relu(hidden(x))).chunk(2, dim=1)
        logits = out(F.relu(wide(mu + noise * (logvar / 2).exp() * eps)))
        recon = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(1).mean()
        kl = ((mu**2 + logvar.exp() - 1 - logvar) / 2).sum(1).mean()
        return scale * recon + beta * kl


DRIVER = """
import { readFileSync, writeFileSync } from "node:fs";
const [src, folder, wasm, text] = process.argv.slice(1);
const { BATCH, PIXELS, VAE, makeKernel, makeRandom } = await import(`file://${src}/nn.js`);
const { d, steps, rate, objective } = JSON.parse(text);
const floats = (name) => new Float32Array(new Uint8Array(readFileSync(`${folder}/${name}`)).buffer);
const kernel = makeKernel(wasm === "true" ? readFileSync(`${src}/nn.wasm`) : null);
const vae = new VAE(kernel, d, makeRandom(0));
const arrays = (names) => vae.layers.flatMap((layer) => names.map((name) => layer[name]));
let at = 0;
const start = floats("weights");
for (const array of arrays(["W", "b"])) array.set(start.subarray(at, (at += array.length)));
const [images, noise] = [floats("images"), floats("noise")];
function load(step) {
  for (let b = 0; b < BATCH; b++) {
    const n = step * BATCH + b;
    const from = (n * PIXELS) % images.length;
    for (let i = 0; i < PIXELS; i++) vae.x[i * BATCH + b] = images[from + i];
    for (let k = 0; k < d; k++) vae.eps[k * BATCH + b] = noise[n * d + k];
  }
}
const losses = [];
for (let step = 0; step < steps; step++) {
  load(step);
  losses.push(vae.loss(objective).loss);
  if (rate) vae.update(rate);
}
const gradients = arrays(["dW", "db"]).flatMap((array) => Array.from(array));
writeFileSync(`${folder}/gradients`, Float32Array.from(gradients));
console.log(JSON.stringify({ kernel: kernel.name, losses }));
"""


def drive(folder, network, images, eps, wasm=True, rate=0.0, **objective):
    """Run nn.js in node from the network's weights: its answer, and the last gradients."""
    objective = {"beta": 1.0, "noise": True, "scale": 1.0, **objective}
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    for name, array in (("weights", weights), ("images", images), ("noise", eps)):
        (folder / name).write_bytes(array.numpy().tobytes())
    settings = {"d": eps.shape[1], "steps": len(eps) // BATCH}
    settings |= {"rate": rate, "objective": objective}
    command = ["node", "--input-type=module", "-e", DRIVER, "--", str(SRC), str(folder)]
    command += [json.dumps(wasm), json.dumps(settings)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout), np.fromfile(folder / "gradients", np.float32)


@pytest.fixture(scope="module")
def digits():
    raw = get_files("mnist")
    images = np.fromfile(raw / "train-images-idx3-ubyte", np.uint8, 4096 * PIXELS, offset=16)
    return torch.tensor(images.reshape(-1, PIXELS) / 255, dtype=torch.float32)


needs_node = pytest.mark.skipif(not shutil.which("node"), reason="no node on this machine")


@needs_node
@pytest.mark.parametrize("wasm", [True, False], ids=["WebAssembly", "JavaScript"])
@pytest.mark.parametrize(
    ("d", "objective"),
    [
        (2, {"beta": 4.0}),
        (2, {"beta": 0.5, "noise": False}),
        (3, {"beta": 1.0, "scale": 1 / PIXELS}),
        (1, {"beta": 20.0}),
    ],
)
def test_gradients_equal_pytorchs(tmp_path, digits, wasm, d, objective):
    torch.manual_seed(d)
    network, noise = Network(d), torch.randn(BATCH, d)
    answer, gradients = drive(tmp_path, network, digits[:BATCH], noise, wasm, **objective)
    assert answer["kernel"] == ("WebAssembly" if wasm else "JavaScript")
    loss = network.loss(digits[:BATCH], noise, **objective)
    loss.backward()
    assert answer["losses"][0] == pytest.approx(loss.item(), rel=1e-5)
    at = 0
    for name, parameter in network.named_parameters():
        ours = gradients[at : at + parameter.numel()].reshape(parameter.shape)
        at += parameter.numel()
        theirs = parameter.grad.numpy()
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max(), name
    assert at == len(gradients)


@needs_node
def test_a_thousand_steps_end_where_pytorch_ends(tmp_path, digits):
    torch.manual_seed(0)
    network, steps, rate = Network(2), 1000, 3e-3
    noise = torch.randn(steps * BATCH, 2)
    answer, _ = drive(tmp_path, network, digits, noise, rate=rate)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    losses = []
    for step in range(steps):
        here = slice(step * BATCH, (step + 1) * BATCH)
        x = digits[torch.arange(here.start, here.stop) % len(digits)]
        loss = network.loss(x, noise[here])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    ours, theirs = np.mean(answer["losses"][-64:]), np.mean(losses[-64:])  # over an epoch
    assert abs(ours - theirs) < 2, (ours, theirs)
    assert ours < 175


def test_nn_wasm_is_nn_wat_assembled():
    wasmtime = pytest.importorskip("wasmtime", reason="pip install wasmtime, to assemble nn.wat")
    assert wasmtime.wat2wasm((SRC / "nn.wat").read_text()) == (SRC / "nn.wasm").read_bytes()


# ------------------------------------------------------------------------------ the page


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM:
        pytest.skip("no chromium on this machine (Debian: apt install chromium)")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("lab") / "lab.html"
    path.write_text(lab.page(), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, file):
    """A function that opens the page; what goes wrong in it fails the test."""
    contexts, wrong = [], []

    def open_page(path=file, **options):
        contexts.append(
            browser.new_context(**{"viewport": {"width": 1000, "height": 900}} | options)
        )
        tab = contexts[-1].new_page()
        tab.set_default_timeout(120_000)  # of a busy machine
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on(
            "request",
            lambda request: wrong.append(request.url) if request.url.startswith("http") else None,
        )
        tab.goto(path.as_uri())
        if path == file:
            tab.wait_for_function("window.lab?.state.snapshot")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def train(tab, steps):
    """Press Play, and Pause after some steps."""
    tab.click("#play")
    tab.wait_for_function(f"lab.state.snapshot?.step >= {steps}")
    tab.click("#play")
    tab.wait_for_function("!lab.state.snapshot.running")
    return measures(tab)


def measures(tab):
    return tab.evaluate("lab.state.measures")


def test_the_page_is_one_file_of_two_megabytes(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) <= 2_000_000
    assert "/*SCRIPT*/" not in text and "__DATA__" not in text


def test_it_trains_from_a_file_and_the_classes_come_apart(opened):
    tab = opened()
    before = measures(tab)
    gaps = """() => { window.gaps = []; let last = performance.now(); const next = (now) => {
      window.gaps.push(now - last); last = now; requestAnimationFrame(next); };
      requestAnimationFrame(next); }"""
    tab.evaluate(gaps)
    after = train(tab, 300)
    gaps = np.array(tab.evaluate("window.gaps"))
    assert tab.evaluate("lab.state.snapshot.kernel") == "WebAssembly"  # in a worker from a Blob
    assert after["loss"] < 190 < 500 < before["loss"]
    assert after["same"] > before["same"] + 0.1
    assert np.median(gaps) <= 50, gaps  # the page stays smooth; a busy machine may lose a frame
    assert tab.inner_text("#loss") == f"{after['loss']:.1f}"
    assert len(tab.evaluate("lab.state.history")) >= 2


def test_questions_say_what_to_expect_and_what_happened(opened):
    tab = opened()
    tab.evaluate(
        "document.querySelectorAll('[data-steps]').forEach((b) => (b.dataset.steps = 400))"
    )

    def ask(label):
        tab.get_by_role("button", name=label).click()
        assert "xpect" in tab.inner_text("#expect")
        tab.wait_for_function("lab.state.answer")
        answer = tab.inner_text("#happened")
        assert not {"{", "undefined", "NaN"} & set(answer.split()), answer
        return answer, measures(tab)

    answer, now = ask("Average over the pixels")
    assert "KL is 0.0" in answer and now["kl"] < 0.05 and now["recon"] > 195  # collapsed
    answer, now = ask("Turn β up to 20")  # trains anew first, with the usual settings
    assert "KL went from" in answer and now["kl"] < 1.5 < tab.evaluate("lab.state.asked.kl")
    assert tab.input_value("[data-setting=beta]") == "20"
    tab.click("#standard")
    tab.get_by_role("button", name="Garments instead of digits").click()
    tab.wait_for_function("lab.state.snapshot?.step > 0")
    assert tab.inner_text("#legend").split()[0] == "T-shirt"
    tab.click("#again")  # the reader takes over
    assert tab.locator("#answer").is_hidden()


def test_beta_acts_while_it_runs_and_a_step_is_a_step(opened):
    tab = opened()
    free = train(tab, 200)
    tab.locator("[data-setting=beta]").fill("15")
    assert tab.inner_text("#beta-set") == "15.0"
    assert train(tab, free["step"] + 150)["kl"] < 0.5 * free["kl"]
    step = measures(tab)["step"]
    tab.click("#one")
    tab.wait_for_function(f"lab.state.snapshot.step === {step + 1} && !lab.state.running")
    tab.wait_for_function("document.getElementById('play').innerText === 'Play'")
    tab.click("#again")
    tab.wait_for_function("lab.state.snapshot?.step === 0")


def test_the_keyboard_does_everything(opened):
    tab = opened()
    tab.focus("#play")
    tab.keyboard.press("Enter")
    tab.wait_for_function("lab.state.snapshot.step > 20")
    tab.keyboard.press("Space")
    tab.wait_for_function("!lab.state.snapshot.running")
    tab.select_option("[data-setting=d]", "3")
    tab.wait_for_function("lab.state.snapshot?.d === 3")
    view = tab.evaluate("lab.state.snapshot.view.u")
    tab.focus("#map")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function(f"lab.state.snapshot.view.u[0] !== {view[0]}")
    nameless = """[...document.querySelectorAll("button, select, input, canvas")].filter((e) => !(
      e.ariaLabel || e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)"""
    assert tab.evaluate(nameless) == []
    assert "768 codes after" in tab.evaluate("document.getElementById('map').ariaLabel")


def test_a_phone_in_the_dark(opened):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    dark, light = (opened(**phone, color_scheme=scheme) for scheme in ("dark", "light"))
    ground = "getComputedStyle(document.body).backgroundColor"
    assert dark.evaluate(ground) != light.evaluate(ground)
    assert dark.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("#play", "#one", "#pace", "#questions button"):
        assert dark.locator(name).first.bounding_box()["height"] >= 44, name
    dark.tap("#play")
    dark.wait_for_function("lab.state.snapshot.step > 20")
    dark.tap("#play")
    corner = """document.getElementById("samples").getContext("2d").getImageData(0, 0, 168, 28).data
      .reduce((a, b) => a + b) / 168 / 28 / 4"""
    assert 64 < dark.evaluate(corner) < 250  # pictures are there


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened, scheme):
    tab = opened(color_scheme=scheme)
    tab.get_by_role("button", name="Average over the pixels").click()  # its answer is there too
    assert axe_finds(tab) == []


def test_memory_is_steady_over_ten_restarts(opened):
    tab = opened()
    session = tab.context.new_cdp_session(tab)
    used = []
    for _ in range(10):
        tab.click("#again")
        tab.wait_for_function("lab.state.snapshot?.step === 0")
        train(tab, 3)
        session.send("HeapProfiler.collectGarbage")
        used.append(session.send("Runtime.getHeapUsage")["usedSize"])
    assert used[-1] - used[2] < 1_000_000, used


def test_in_a_notebook_it_is_the_same_page_in_a_frame(opened, file, monkeypatch):
    shown = []
    monkeypatch.setattr(page, "display", lambda bundle, **kind: shown.append((bundle, kind)))
    lab.lab()
    (bundle, kind) = shown[0]
    assert kind["metadata"]["page"] == "lab.html" and Path(kind["metadata"]["still"]).exists()
    assert page.unframe(bundle["text/html"]) == file.read_text(encoding="utf-8")
    notebook = file.with_name("notebook.html")
    notebook.write_text(f"<meta charset=utf-8>{bundle['text/html']}", encoding="utf-8")
    inside = opened(notebook).frames[1]
    inside.wait_for_function("window.lab?.state.snapshot")
    inside.click("#one")
    inside.wait_for_function("lab.state.snapshot.step === 1")


def test_the_still_picture_is_small():
    still = lab.HERE / "lab.png"
    assert still.stat().st_size <= 150_000
    assert struct.unpack(">4xI", still.read_bytes()[8:16])  # a PNG's first chunk
