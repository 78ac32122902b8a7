"""Hands: the encoder that tells them apart, their vectors, and networks that read them."""

import json

import numpy as np
import pytest
import torch
from conftest import make_dataset
from made_up_ink import write_line

import generate
import train
from handwriting import hands
from handwriting.encoder import EncoderConfig, HandEncoder, contrastive_losses, hand_features
from handwriting.ink.formats import Ink
from handwriting.ink.geometry import find_level
from handwriting.ink.read_ink import read_ink
from handwriting.pages import HandSize
from handwriting.program import InputError
from handwriting.recogniser import Recogniser, RecogniserConfig
from handwriting.sampling import PlainDecoder, Sampler
from handwriting.strokes import to_points, to_strokes
from handwriting.training import tasks
from handwriting.writer import Writer
from model import Config, Model
from utils import load_checkpoint, load_encoder


def make_encoder(seed: int = 0) -> HandEncoder:
    torch.manual_seed(seed)
    return HandEncoder(EncoderConfig(hand_size=5, channels=8)).eval()


def make_model(hand_size: int, num_chars: int = 6) -> Model:
    torch.manual_seed(3)
    model = Model(Config(num_layers=3, cell_size=8, num_clusters=3, K=2, num_chars=num_chars, hand_size=hand_size))
    if hand_size:
        model.hand_mean.copy_(torch.randn(hand_size))
        model.hand_std.copy_(torch.rand(hand_size) + 0.5)
    return model.double().eval()


# The encoder


def test_vectors_have_length_1_and_do_not_depend_on_the_lines_beside_them():
    encoder = make_encoder()
    lines = [write_line(text).points for text in ("abc", "ab cab abc", "c")]
    vectors = encoder.encode(lines)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    for line, vector in zip(lines, vectors, strict=True):
        np.testing.assert_allclose(encoder.encode([line])[0], vector, atol=1e-5)


def test_what_the_encoder_sees_does_not_depend_on_how_densely_ink_was_recorded():
    ink, denser = write_line("abc ab cab"), []
    for stroke in to_strokes(ink.points):
        at = np.linspace(0, len(stroke) - 1, 3 * len(stroke))
        denser.append(np.column_stack([np.interp(at, np.arange(len(stroke)), stroke[:, axis]) for axis in (0, 1)]))
    one, other = hand_features(ink.points), hand_features(to_points(denser))
    assert abs(len(one) - len(other)) < 0.05 * len(one)
    np.testing.assert_allclose(one.mean(0), other.mean(0), atol=0.1)


def test_what_is_learned_from_is_a_part_of_the_line():
    points = write_line("abc ab cab abc").points
    whole, part = hand_features(points), hand_features(points, np.random.default_rng(0))
    assert 0.39 * len(whole) < len(part) < 0.81 * len(whole)
    starts = [n for n in range(len(whole)) if np.array_equal(whole[n : n + len(part)], part)]
    assert len(starts) == 1


def test_contrastive_loss_is_that_of_a_plain_loop():
    vectors = torch.nn.functional.normalize(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    forms = torch.tensor([4, 7, 4, 9])  # two pairs of one form
    losses, is_wrong = contrastive_losses(vectors, forms)
    for n in range(8):
        partner = (n + 4) % 8
        others = [m for m in range(8) if m == partner or forms[m % 4] != forms[n % 4]]
        cosines = {m: float(vectors[n] @ vectors[m]) / 0.07 for m in others}
        expected = np.log(sum(np.exp(c) for c in cosines.values())) - cosines[partner]
        assert losses[n].item() == pytest.approx(expected, rel=1e-4)
        assert bool(is_wrong[n]) == (max(cosines, key=cosines.get) != partner)


# Networks that read hands


def test_a_grown_network_computes_the_same_until_it_learns():
    network = make_model(0).float()
    larger = tasks.grow(network, 4, 5)
    points, text = torch.randn(7, 2, 3), torch.tensor([[1, 2, 3], [4, 5, -1]])
    wanted = network(points, network.one_hot(text))[0]
    found = larger.eval()(points, larger.one_hot(text), hand=torch.randn(2, 5))[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert larger.layers[1].weight_ih_l0.grad[:, 3:8].abs().max() > 0


@pytest.mark.parametrize("hand_size", [0, 5])
def test_a_network_for_other_characters_writes_those_that_it_knows_as_before(hand_size):
    network = make_model(hand_size).float()
    old = "abcdefghijklmnopqrstuvwxyz"[: network.config.num_chars]
    new = f"z{old[::-1]}\u03bb" if "z" not in old else f"{old[::-1]}\u03bb"
    changed = tasks.change_characters(network, old, new).eval()
    points, known = torch.randn(7, 1, 3), old[:4]
    before, after = (torch.tensor([[charset.index(c) for c in known]]) for charset in (old, new))
    wanted, found = network(points, network.one_hot(before)), changed(points, changed.one_hot(after))
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    others = [changed(points, changed.one_hot(torch.tensor([[new.index(c)] * 4])))[0] for c in (new[-1], *old)]
    assert all((others[0] - other).abs().max() > 1e-4 for other in others[1:])


def test_a_reader_of_other_characters_reads_those_that_it_knows_as_before():
    torch.manual_seed(0)
    reader = Recogniser(RecogniserConfig("abc", 1, 8, 6)).eval()
    changed, x = tasks.change_characters(reader, "abc", "c\u03bba").eval(), torch.randn(40, 2, 6)
    lengths = torch.tensor([40, 33])
    wanted, found = reader(x, lengths)[0], changed(x, lengths)[0]
    for old, new in ((1, 3), (3, 1)):  # a and c, against the label of no character
        torch.testing.assert_close(found[..., new] - found[..., 0], wanted[..., old] - wanted[..., 0])


def test_the_hand_is_read_beside_each_point(kernels_on_and_off):
    """Over whole lines, with kernels and without, and point by point with both decoders: all the same."""
    model, hand = make_model(5), torch.randn(2, 5, dtype=torch.double)
    points, text = torch.randn(6, 2, 3, dtype=torch.double), torch.tensor([[1, 2, 3], [4, 5, -1]])
    outputs = model(points, model.one_hot(text), hand=hand)[0]
    plain = PlainDecoder(model, text, 2, hand)
    fast = Sampler(model).start([text[0].numpy(), text[1, :2].numpy()], 2, hand.numpy())
    for x, wanted in zip(points.numpy(), outputs.detach().numpy(), strict=True):
        with torch.no_grad():
            np.testing.assert_allclose(plain.step(x)[0], wanted, atol=1e-9)
            np.testing.assert_allclose(fast.step(x)[0], wanted, atol=1e-6)
    other = model(points, model.one_hot(text), hand=hand + 1)[0]
    assert (other - outputs).abs().max() > 1e-3
    without = model(points, model.one_hot(text))[0]
    torch.testing.assert_close(model(points, model.one_hot(text), hand=torch.full_like(hand, torch.nan))[0], without)
    torch.testing.assert_close(model(points, model.one_hot(text), hand=model.hand_mean.expand(2, -1))[0], without)


def test_gradients_by_the_hands_weights_are_those_of_the_plain_code(monkeypatch):
    found = []
    for switch in ("1", "0"):
        monkeypatch.setenv("HANDWRITING_KERNELS", switch)
        model = make_model(5)
        torch.manual_seed(1)
        points, hand = torch.randn(9, 2, 3, dtype=torch.double), torch.randn(2, 5, dtype=torch.double)
        losses, _ = model.losses(points, torch.ones(8, 2, dtype=torch.bool), torch.tensor([[1, 2], [3, 4]]), hand)
        found.append(torch.autograd.grad(losses.sum(), list(model.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


# Training


def with_forms(lines_of_a_form: int = 4):
    dataset = make_dataset()
    object.__setattr__(dataset, "names", np.array([f"a01-{i // lines_of_a_form:03}-{i:02}" for i in range(40)]))
    return dataset


def test_hands_come_from_the_line_and_others_of_its_form():
    """Vectors that are all 0 but for a 1 at the line's number tell which lines a mean is of."""
    task = tasks.make_task("synthesis", with_forms(), encoder=make_encoder())
    task.vectors = np.eye(40, dtype=np.float32)
    found = [task.hand(line, seed) for seed in range(5) for line in range(40)]
    assert 0 < sum(np.isnan(hand).any() for hand in found) < 50
    counts = set()
    for n, hand in enumerate(found):
        sources = np.flatnonzero(hand > 0)
        assert (not len(sources) or n % 40 in sources) and {source // 4 for source in sources.tolist()} <= {n % 40 // 4}
        assert np.isnan(hand).all() or hand[sources] == pytest.approx(1 / len(sources))
        counts.add(len(sources))
    assert counts == {0, 1, 2, 3}
    assert [np.flatnonzero(task.hand(line, None)).tolist() for line in (4, 6, 7)] == [[5, 6, 7], [4, 5, 7], [4, 5, 6]]


def test_a_hand_is_changed_like_its_line():
    encoder, dataset = make_encoder(), with_forms(2)
    task = tasks.make_task("synthesis", dataset, augment=0.3, encoder=encoder)
    seed = next(s for s in range(9) if not np.isnan(task.hand(5, s)).any())
    points, _, _, hand = task.batch(np.array([5]), torch.device("cpu"), [seed])
    before = dataset.points(5)[:, :2].astype(float)
    matrix = np.linalg.lstsq(before, points[:, 0, :2].double().numpy(), rcond=None)[0]
    lines = [dataset.points(line) for line in (4, 5)]
    for line in lines:
        line[:, :2] = line[:, :2] @ matrix
    np.testing.assert_allclose(hand[0], encoder.encode(lines).mean(0), atol=1e-3)


def test_a_line_that_was_made_later_has_its_form_or_stands_for_itself():
    """What a line is put together from would show in its own vector: its hand is that of the form's recorded lines."""
    dataset = with_forms()
    dataset.names[1:3] = "written-written00001", "a01-000-composed00002"
    task = tasks.make_task("synthesis", dataset, encoder=make_encoder())
    task.vectors = np.eye(40, dtype=np.float32)
    assert [task.form_lines[line].tolist() for line in range(5)] == [[0, 3], [1], [0, 3], [0, 3], [4, 5, 6, 7]]
    for line, sources in ((1, {1}), (2, {0, 3})):
        found = [set(np.flatnonzero(task.hand(line, seed) > 0).tolist()) for seed in range(30)]
        assert set().union(*found) == sources and sum(map(len, found)) > 20


def test_an_encoder_and_a_network_that_reads_its_hands_are_trained(tmp_path, capsys):
    from handwriting.data.dataset import save_dataset

    data = tmp_path / "data.npz"
    save_dataset(with_forms(), data)
    common = ["--data", str(data), "--model_dir", str(tmp_path), "--processes", "1", "--sample_every", "0"]
    train.main(["--task", "hand", *common, "--hand_size", "6", "--cell_size", "8", "--num_epochs", "2"])
    encoder = load_encoder(tmp_path / "hand_best.pt")
    own = [
        "--task",
        "synthesis",
        *common,
        "--cell_size",
        "8",
        "--num_epochs",
        "2",
        "--hand",
        str(tmp_path / "hand_best.pt"),
    ]
    train.main([*own, "--max_steps", "1"])
    train.main(["--task", "synthesis", *common, "--resume"])
    network, content = load_checkpoint(tmp_path / "synthesis_best.pt")
    assert network.config.hand_size == 6 and content["encoder"]["forms"].shape == (10, 6)
    assert content["encoder"]["weights"]["head.bias"].equal(encoder.state_dict()["head.bias"])
    whole = tmp_path / "whole"
    train.main([*own[:4], "--model_dir", str(whole), *own[6:]])
    unbroken = load_checkpoint(whole / "synthesis_epoch_2.pt")[0].state_dict()
    resumed = load_checkpoint(tmp_path / "synthesis_epoch_2.pt")[0].state_dict()
    assert all(value.equal(unbroken[name]) for name, value in resumed.items())
    train.main(["--task", "synthesis", "--model_dir", str(tmp_path), "--export", str(tmp_path / "small.pt")])
    capsys.readouterr()
    Writer(tmp_path / "small.pt", retries=0).write("abc")
    train.main(["--evaluate", str(tmp_path / "small.pt"), "--data", str(data)])
    assert "SSE" in capsys.readouterr().out


# Writing


@pytest.fixture
def writer(checkpoints) -> Writer:
    return Writer(checkpoints / "hands.pt", retries=0)


def test_without_a_style_each_seed_has_its_hand_and_a_page_one(writer):
    vectors = [writer.hand_of(seed, 0.0) for seed in range(400)]
    assert np.abs(np.diff(vectors, axis=0)).max(1).min() > 0
    forms = writer.network.encoder.forms.numpy()
    distances = np.linalg.norm(np.array(vectors)[:, None] - forms, axis=2)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-2)
    assert distances.min(1).min() > 0.02 and set(distances.argmin(1).tolist()) == set(range(6))
    text = writer.prepare("abc ab")
    apart, together = writer.write_raw([text] * 2, [1, 2]), writer.write_raw([text] * 2, [1, 2], hand_seeds=[1, 1])
    np.testing.assert_allclose(apart[0].points, together[0].points, atol=0.01)
    assert apart[1].points.shape != together[1].points.shape or np.abs(apart[1].points - together[1].points).max() > 1


def test_a_larger_bias_brings_hands_of_its_own_nearer_to_the_mean_one(writer, checkpoints):
    mean = writer.network.model.get_buffer("hand_mean").numpy()
    usual, wild, tame, tamer = (writer.hand_of(3, bias) - mean for bias in (0.4, 0.0, 1.0, 2.0))
    np.testing.assert_array_equal(usual, wild)
    np.testing.assert_allclose(np.cross(usual[:3], tame[:3]), 0, atol=1e-6)  # the same way
    near, nearer = (np.linalg.norm(each) / np.linalg.norm(usual) for each in (tame, tamer))
    assert 0.7 < near < 0.9 and 0.4 < nearer < near - 0.1
    text = writer.prepare("abc ab")  # each line of a batch by its own bias
    one, two = writer.write_raw([text] * 2, [1, 1], biases=[0.5, 2.0])
    alone = Writer(checkpoints / "hands.pt", bias=2.0, retries=0).write_raw([text], [1])
    np.testing.assert_allclose(two.points, alone[0].points, atol=0.01)
    assert one.points.shape != two.points.shape or np.abs(one.points - two.points).max() > 1
    given = Writer(checkpoints / "hands.pt", write_line("abc ab cab"), retries=0)
    np.testing.assert_array_equal(given.hand_of(3, 0.5), given.hand_of(3, 2.0))


def test_a_style_is_ink_with_or_without_text_or_several(writer, checkpoints, tmp_path):
    one, other = write_line("abc ab cab"), write_line("abc ab cab", x_height=200.0)
    encode = writer.network.encoder.encode
    vectors = encode([one.points, other.points])

    def vector(style, **named):
        return Writer(checkpoints / "hands.pt", style, retries=0, force=True, **named).vector

    mean = writer.network.model.hand_mean.numpy()
    np.testing.assert_allclose(vector(one), vectors[0], atol=1e-6)
    np.testing.assert_allclose(vector([one, other]), vectors.mean(0), atol=1e-6)
    np.testing.assert_allclose(vector(one, strength=2.0), mean + 2 * (vectors[0] - mean), atol=1e-5)
    np.testing.assert_allclose(vector(one, strength=0.0), mean, atol=1e-6)
    for name, ink in (("one.json", one), ("mute.npz", type(one)(other.points))):
        ink.save(tmp_path / name)
    mixed = vector(f"{tmp_path / 'one.json'}:1,{tmp_path / 'mute.npz'}:3")
    np.testing.assert_allclose(mixed, vectors[0] / 4 + vectors[1] * 3 / 4, atol=1e-3)


@pytest.mark.parametrize("rise", [-0.08, 0.0, 0.12])
def test_lines_rise_as_the_given_ink_does_with_letters_as_upright(checkpoints, tmp_path, rise):
    given = write_line("abc ab cab")
    points = given.points + given.points[:, :1] * [0, rise, 0]
    writer = Writer(checkpoints / "hands.pt", [type(given)(points), type(given)(points)], retries=0)
    ink, raw = writer.write("abc ab cab abc"), writer.write_raw([writer.prepare("abc ab cab abc")], [0])[0].points
    np.testing.assert_array_equal(ink.points[:, [0, 2]], raw[:, [0, 2]])
    assert find_level(ink.strokes).slope == pytest.approx(find_level(given.strokes).slope + rise, abs=0.01)
    writer.save_hand(tmp_path / "hand.json")
    other = Writer(checkpoints / "hands.pt", tmp_path / "hand.json", retries=0)
    assert other.slope == pytest.approx(writer.slope, abs=1e-4)
    mixed = Writer(checkpoints / "hands.pt", [type(given)(points), given], retries=0)
    assert mixed.slope == pytest.approx((writer.slope + find_level(given.strokes).slope) / 2, abs=1e-6)


def test_a_hand_can_be_kept(checkpoints, tmp_path):
    given = ["ab cab", "--checkpoint", checkpoints / "hands.pt", "--retries", 0, "--output", tmp_path / "a.json"]
    write_line("abc ab cab").save(tmp_path / "mine.svg")
    generate.main(
        [*map(str, given), "--style", str(tmp_path / "mine.svg"), "--force", "--save_hand", str(tmp_path / "hand.json")]
    )
    first = read_ink(tmp_path / "a.json").points
    generate.main([*map(str, given), "--style", str(tmp_path / "hand.json")])
    np.testing.assert_allclose(read_ink(tmp_path / "a.json").points, first, atol=0.1)
    content = json.loads((tmp_path / "hand.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(content | {"encoder": "0"}))
    with pytest.raises(InputError, match="hand of another network"):
        generate.main([*map(str, given), "--style", str(tmp_path / "other.json")])
    with pytest.raises(InputError, match="a hand that --save_hand kept, without ink"):
        generate.main([*map(str, given), "--prime", str(tmp_path / "hand.json"), "--prime_text", "ab"])


def test_no_file_is_written_over_another_that_is_read_or_written(checkpoints, tmp_path):
    given = ["ab cab", "--checkpoint", checkpoints / "hands.pt", "--retries", 0, "--force"]
    write_line("abc ab cab").save(mine := tmp_path / "mine.svg")
    before = mine.read_bytes()
    for flags in (
        ["--output", tmp_path / "a.json", "--save_hand", tmp_path / "b" / ".." / "a.json"],
        ["--output", tmp_path / "a.png", "--show_prime", tmp_path / "a.png", "--style", mine],
        ["--output", tmp_path / "a.svg", "--preview", tmp_path / "a.svg"], ["--output", mine, "--style", mine],
        ["--output", mine, "--style", f"clara,{mine}#1:0.5"], ["--output", mine, "--prime", f"{mine}#1"],
    ):  # fmt: skip
        with pytest.raises(InputError, match="would be written over"):
            generate.main([*map(str, [*given, *flags])])
    assert [*tmp_path.iterdir()] == [mine] and mine.read_bytes() == before


def test_a_style_is_named_by_the_hands_that_it_mixes():
    named = [
        hands.style_name(style)
        for style in (
            "clara",
            "clara:0.7,ben:0.3",
            "a/my.hand.svg:0.5,ben",
            [Ink(write_line("abc").points), "clara"],
            None,
        )
    ]
    assert named == ["clara", "clara:0.7,ben:0.3", "my.hand:0.5,ben", "clara", ""]


@pytest.mark.parametrize(
    ("style", "word"),
    [("clara:0", "give a hand"), ("none.svg", "no such file"), ("nobody", "no style"), ([], "give a hand")],
)
def test_bad_styles_are_told(checkpoints, style, word):
    with pytest.raises(InputError, match=word):
        Writer(checkpoints / "hands.pt", style)


def test_another_alphabet_tells_how_large_a_hand_is_by_its_letters(checkpoints, monkeypatch):
    monkeypatch.setattr("handwriting.writer.PROBES", ("\u0416 \u043f",))
    measured, measure = [], HandSize.of
    monkeypatch.setattr(HandSize, "of", lambda inks: measured.extend(inks) or measure(inks))
    size = Writer(checkpoints / "hands.pt", retries=0).hand_size
    (ink,) = measured
    assert ink.text == "-7Qabc"  # all that it knows
    assert size.x_height == pytest.approx(find_level(ink.strokes).x_height) and size.advance > 0


def test_too_little_ink_is_no_hand(checkpoints):
    with pytest.raises(InputError, match="too little ink"):
        Writer(checkpoints / "hands.pt", type(write_line("a"))(write_line("a").points[:8]))


def test_a_network_without_hands_keeps_none(checkpoints, tmp_path):
    with pytest.raises(InputError, match="reads no hands"):
        Writer(checkpoints / "blanks.pt", retries=0).save_hand(tmp_path / "hand.json")
    assert hands.style_name(["a.svg", "clara"]) == "a,clara"
