"""The page's engine against Python with the same rounded weights: points, readings, hands and verdicts."""

import base64
import json
import re
import shutil
import subprocess
import zlib
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import load_module

from handwriting import sampling
from handwriting.checks import judge_lines, load_recogniser
from handwriting.hands import random_vector, steer
from handwriting.sampling import Line, Sampler, default_steps, sample_noise
from handwriting.writer import TAMENESS, WILDEST, load_network
from handwriting.writer import _load as load_anew
from model import Model

build = load_module("page/build.py")
SCRIPTS = ("network", "products", "ink", "accents", "engine", "readers", "pen")
TEXTS = (
    "We had", "my own", "Paris?", "at 10.45", "ijk", "Queen", "it is", "t", "fox, dog", "(50)", "zip", "Born in",
    "well", "7/12", "Dear", "so-so", "Hmm!", "Xylo", "BBC", "of it", "little joints", "at 5.15?",
)  # fmt: skip
BIASES = (0.0, 0.5, 1.0)
RUNNER = """
const { vm, fs } = { vm: require("vm"), fs: require("fs") };
const { folder, scripts, lines } = JSON.parse(fs.readFileSync(0, "utf8"));
const source = scripts.map((name) => fs.readFileSync(`${folder}/${name}.js`, "utf8")).join("\\n");
vm.runInThisContext(`${source}
async function run(lines) {
  const weights = await unpackWeights(NETWORK), [plain, fast] = [new PlainProducts(), makeProducts(PRODUCTS)];
  const pens = [plain, fast].map((products) => new Network(weights, products));
  const readers = new Readers(weights, fast), forms = { ...weights.forms, mean: weights.handMean };
  return {
    products: fast.constructor.name,
    lines: lines.map(({ text, codes, hand, noise, steps, points, characters, said }) => {
      const ink = Float32Array.from(points.flat());
      let row = 0;
      const line = writeLine(pens[0], codes, hand, () => noise[row++], steps, true);
      const outputs = pens.map((pen) => {
        pen.start(codes, hand);
        for (const [x, y, end] of points.slice(0, 20)) pen.step(x / 40, y / 40, end);
        return [...pen.outputs];
      });
      const read = readers.read(ink), vector = [...readers.encode(ink)];
      const verdict = judge({ points: ink, characters, finished: line.finished }, text, said, 0);
      const steered = steer(Float32Array.from(hand), pens[1], 0.8), phi = line.inside.phi.length;
      const own = [0, 0.4, 2].map((bias) => Pen.prototype.randomHand.call({ forms }, text.length, bias));
      return { ...line, points: [...line.points], phi, outputs, read, vector, verdict, steered, own };
    }),
  };
}`);
run(lines).then((found) => console.log(JSON.stringify(found, (key, v) => (ArrayBuffer.isView(v) ? [...v] : v))));
"""


@torch.no_grad()
def rounded(network: Any) -> Any:
    """The network, changed in place, with the weights that the page has."""
    parts = build.writing_parts(network) if isinstance(network, Model) else build.reading_parts(network, "")
    for part in parts.values():
        if part.ndim > 1:
            weights, scales = build.round_weights(part.flatten(1).numpy())
            part.copy_(torch.from_numpy(weights * scales[:, None]).view(part.shape))
    return network


def write_with(sampler: Sampler, noise: np.ndarray, *arguments, **options) -> Line:
    """`Sampler.write` of one line with given noise (T, 3 + M)."""
    chunks = iter(np.split(noise[:, None], range(sampling.CHUNK, len(noise), sampling.CHUNK)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "sample_noise", lambda *_: next(chunks))
        return sampler.write(*arguments, **options)[0]


@pytest.fixture
def both() -> list[tuple[Line, dict]]:
    """Lines that Python wrote with the page's weights in float32, and what the page says of each."""
    if shutil.which("node") is None:
        pytest.skip("Node is missing; install it to test the page's engine")
    load_anew.cache_clear()  # what is rounded here is nobody else's
    network = load_network(None, "synthesis")
    load_anew.cache_clear()
    model, reader, encoder = map(rounded, (network.model, load_recogniser(), network.encoder))
    sampler, given, written = Sampler(model, network.alphabet.blank), [], []
    sampler.make = partial(sampling.PlainDecoder, model)  # the kernels round the weights once more
    for n, text in enumerate(TEXTS):
        codes, steps, hand = network.alphabet.encode(text), default_steps(text), random_vector(encoder, n)
        bias, generator = BIASES[n % 3], torch.Generator().manual_seed(n)
        noise = sample_noise([generator], [bias], 2 * sampling.CHUNK, model.config.num_clusters)[:, 0]
        line = write_with(sampler, noise, [codes], [0], bias, steps, hands=hand[None])
        written.append(Line(line.points, None, line.phi, line.finished, text))
        given.append(
            {
                "text": text,
                "codes": codes,
                "hand": hand,
                "noise": noise,
                "steps": steps,
                "points": line.points,
                "characters": written[-1].characters,
            }
        )
    verdicts = judge_lines(written, reader)
    vectors = encoder.encode([line.points for line in written])
    for each, verdict in zip(given, verdicts, strict=True):
        each["said"] = verdict.read
    steered = steer(np.array([each["hand"] for each in given]), model, encoder, 0.8)
    job = json.dumps({"folder": str(build.HERE), "scripts": SCRIPTS, "lines": given}, default=lambda a: a.tolist())
    done = subprocess.run(["node", "-e", RUNNER], input=job, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["products"] == "WasmProducts"
    return list(zip(written, verdicts, vectors, steered, found["lines"], strict=True))


def test_the_page_writes_and_reads_as_python_does(both):
    """In one test, so that one process has to write."""
    for line, verdict, vector, steered, page in both:
        points, places = np.reshape(page["points"], (-1, 3)), line.phi.argmax(1).clip(max=len(line.text) - 1)
        assert points.shape == line.points.shape, line.text
        np.testing.assert_allclose(points, line.points, atol=0.1)  # whiteboard units
        assert (page["finished"], page["phi"]) == (line.finished, line.phi.size)
        assert np.mean(np.append(places[:1], places) == page["characters"]) > 0.99, line.text
        plain, fast = np.array(page["outputs"])
        np.testing.assert_allclose(fast, plain, atol=0.02, err_msg=line.text)
        assert not np.array_equal(fast, plain)  # they are two
        np.testing.assert_allclose(page["vector"], vector, atol=1e-3)
        np.testing.assert_allclose(page["steered"], steered, atol=0.02)  # its weights are rounded, too
        mean = load_network(None, "synthesis").model.get_buffer("hand_mean").numpy()
        wild, usual, tame = np.array(page["own"]) - mean
        np.testing.assert_array_equal(wild, usual)
        np.testing.assert_allclose(tame, np.exp(-TAMENESS * (2.0 - WILDEST)) * usual, atol=1e-6)
        assert page["read"] == verdict.read
        told = page["verdict"]
        assert (told["isDoubtful"], bool(told["fault"])) == (verdict.is_doubtful, bool(verdict.fault)), line.text
        assert told["order"] == [float(each) for each in verdict.sort_key], (line.text, asdict(verdict))


def constants(script: str) -> dict[str, Any]:
    """What a generated script defines, by name."""
    return {name: json.loads(value) for name, value in re.findall(r"^const (\w+) = (.+);$", script, re.MULTILINE)}


def test_the_page_has_the_networks_that_ship():
    found, wanted = (
        constants(text) for text in ((build.HERE / "network.js").read_text("utf-8"), build.network_script())
    )
    assert found["NETWORK"]["shapes"] == json.loads(json.dumps(wanted["NETWORK"]["shapes"]))
    weights = [zlib.decompress(base64.b64decode(each["NETWORK"]["data"])) for each in (found, wanted)]
    assert weights[0] == weights[1]
    styles = [each["FACTS"].pop("styles") for each in (found, wanted)]  # computed: processors round differently
    assert found["FACTS"] == wanted["FACTS"] and styles[0].keys() == styles[1].keys()
    for name, vector in styles[0].items():
        np.testing.assert_allclose(vector, styles[1][name], atol=1e-4)


def test_the_page_has_the_products_that_are_in_c():
    if shutil.which("clang") is None or shutil.which("wasm-ld") is None:
        pytest.skip("clang or lld is missing; install them to compile page/products.c")
    found, made = (build.HERE / "products.js").read_text("utf-8"), build.products_script()
    if found.splitlines()[2] != made.splitlines()[2]:
        pytest.skip(f"page/products.js was compiled by another clang: {found.splitlines()[2]}")
    assert found == made
