"""The study of transduction: nobody is in two parts, starts are what they should be, and the page says what is so."""

import itertools
import signal
import subprocess
import sys
import time
from dataclasses import replace
from math import nan

import numpy as np
import pytest
import torch

from benchmarks.transduction import contenders, page, rows, run, tasks, training
from benchmarks.transduction.contenders import ABLATION, AVERAGE, MAIN, OURS, STATIC
from benchmarks.transduction.rows import Row
from benchmarks.transduction.tasks import TASKS, Pool, Task
from benchmarks.transduction.training import Schedule
from hocp_mm.errors import DataError

SHORT = Schedule(image_steps=2, video_steps=2, clips=2, length=4, warm_up=1)


def small_pool(people=10, frames=6, side=32):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (people, frames, 3, side, side), generator=generator, dtype=torch.uint8)
    targets = torch.rand(people, frames, 2, generator=generator) * 2 - 1
    return Pool(pixels, targets, torch.full((people,), -1), torch.arange(people))


@pytest.fixture
def static():
    torch.manual_seed(0)
    network = contenders.image_network(2)
    with torch.no_grad():  # norms at zero would hide the branches behind them
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def test_nobody_is_in_two_parts():
    people = torch.tensor([7, 7, 3, 3, 9, 11, 0, 1, 2, 2, 20, 21])
    pool = Pool(torch.arange(12), torch.zeros(12), torch.zeros(12), people)
    tested = []
    for seed in range(tasks.FOLDS):
        parts = tasks.split(pool, seed, filmed=2)
        stills, clips, validation, test = (set(parts[part].people.tolist()) for part in tasks.PARTS)
        assert clips <= stills
        assert len(parts["train"].frames) == 2
        assert len(stills) + len(validation) + len(test) == len(stills | validation | test) == 9
        assert sum(len(parts[part].frames) for part in ("stills", "validation", "test")) == 12
        tested += test
    assert sorted(tested) == sorted(set(people.tolist()))


def test_training_videos_are_of_as_many_people_of_other_folds():
    pool = small_pool(people=20)
    clips = [tasks.split(pool, seed, filmed=3)["train"].people.tolist() for seed in range(tasks.FOLDS)]
    assert clips == [[8, 9, 10], [12, 13, 14], [16, 17, 18], [0, 1, 2], [4, 5, 6]]


def test_blocks_of_writers_lie_apart():
    blocks = tasks.writer_blocks(1797)
    assert len(blocks) == tasks.FOLDS
    assert all(after[0] - before[-1] > tasks.WRITER for before, after in itertools.pairwise(blocks))
    assert all((np.diff(block) == 1).all() for block in blocks)
    assert blocks[-1][-1] == 1796


def test_faces_are_those_of_the_synthetic_set_cut_out():
    pool = tasks.render_faces(5, 0.6, people=2, frames=3)
    assert pool.frames.shape == (2, 3, 3, tasks.FACE, tasks.FACE)
    assert pool.people.tolist() == [0, 1]
    assert pool.targets.abs().max() < 1
    assert pool.frames.float().std() > 20


def moving(people=80):
    rng = np.random.default_rng(1)
    pictures = rng.uniform(size=(people, 8, 8)) * (rng.uniform(size=(people, 8, 8)) < 0.4)
    pool = tasks.move_digits(pictures, np.zeros(people, np.int64), [np.arange(people)])
    return pool.frames[:, :, 0].numpy() / 255.0, pool.targets.numpy()


def explained(inputs, targets, people):
    """Fit a ridge regression to most of the people, and return the correlation of its outputs with the others'."""
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 1e-6)
    known = people < 0.75 * people.max()
    x, y = inputs[known], targets[known]
    fit = np.linalg.solve(x.T @ x + 0.3 * len(x) * np.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    return [np.corrcoef(inputs[~known] @ fit[:, k], targets[~known, k])[0, 1] for k in (0, 1)]


def test_a_frame_of_a_moving_digit_does_not_tell_how_it_moves_and_two_do():
    frames, targets = moving()
    people = np.repeat(np.arange(len(frames)), frames.shape[1] - 2)
    one = frames[:, 1:-1].reshape(len(people), -1)
    spectra = np.abs(np.fft.rfft2(frames[:, 1:-1])).reshape(len(people), -1)
    asked = targets[:, 1:-1].reshape(-1, 2)
    assert np.abs(explained(np.concatenate([one, spectra], axis=1), asked, people)).max() < 0.2
    # The same regression on what two frames say: the place of the peak of their correlation.
    ahead, behind = np.fft.fft2(frames[:, 2:]), np.fft.fft2(frames[:, :-2])
    peaks = np.fft.ifft2(ahead * behind.conj()).real.reshape(len(people), -1).argmax(1)
    down, right = ((k + 16) % 32 - 16 for k in np.divmod(peaks, tasks.DIGIT))
    size = np.hypot(down, right)
    speed, direction = explained(np.stack([size, right / np.maximum(size, 1)], axis=1), asked, people)
    assert speed > 0.9
    assert direction > 0.9


def test_mirrored_clips_have_mirrored_targets():
    pool = small_pool()
    pool.frames[:] = 0
    pool.frames[..., :16] = 200  # bright to the left
    pool.targets[:] = 0.5
    clips, targets, _ = tasks.draw(pool, TASKS["digits"], 16, 4, torch.Generator().manual_seed(0))
    left = clips[..., :16].mean((1, 2, 3, 4)) > clips[..., 16:].mean((1, 2, 3, 4))
    assert 0 < left.sum() < 16
    assert (targets[..., 0] == 0.5).all()
    assert ((targets[:, 0, 1] > 0) == left).all()


def test_frames_are_filmed_badly_each_on_its_own_and_in_tests_always_alike():
    pool, task = small_pool(), TASKS["noise"]
    pool.frames[:] = pool.frames[:, :1]
    clip = tasks.shown(pool, task, 0)
    assert torch.equal(clip, tasks.shown(pool, task, 0))
    assert (clip[:, :, 1:] - clip[:, :, :-1]).abs().mean((0, 1, 3, 4)).min() > 0.05
    assert (clip / 4 + 0.5).min() >= 0
    assert (clip / 4 + 0.5).max() <= 1


STARTS = {
    "factors": lambda static: contenders.transducted(static, motion=None),
    "motion and neck": lambda static: contenders.transducted(static, neck=True),
    "causal": lambda static: contenders.transducted(static, init="last"),
    "inflated": lambda static: contenders.inflated(static, "central"),
    "convolution head": lambda static: contenders.with_head(static, contenders.ConvolutionHead),
    "GRU head": lambda static: contenders.with_head(static, contenders.RecurrentHead),
}


@pytest.mark.parametrize("name", STARTS)
@torch.no_grad()
def test_a_network_in_time_starts_as_the_image_network(static, name):
    clip = torch.randn(2, 3, 5, 32, 32)
    frames = torch.cat([static(clip[:, :, [t]]) for t in range(5)], dim=1)
    assert frames.std(dim=1).min() > 1e-3
    assert torch.allclose(STARTS[name](static).eval()(clip), frames, atol=1e-5)


@torch.no_grad()
def test_an_inflated_mean_is_the_image_network_on_what_stands_still(static):
    image = torch.randn(1, 3, 1, 32, 32)
    network = contenders.inflated(static, "uniform").eval()
    far = 12  # frames to both ends: eleven layers see one more each
    out = network(image.expand(-1, -1, 2 * far + 1, -1, -1))
    assert torch.allclose(out[:, far], static(image)[:, 0], atol=1e-5)
    assert not torch.allclose(out[:, 0], static(image)[:, 0], atol=1e-3)  # zeros beyond the ends


def test_separate_kernels_have_as_many_parameters():
    whole, separate = (contenders.fresh_dense(2, separate) for separate in (False, True))
    sizes = [sum(p.numel() for p in network.parameters()) for network in (whole, separate)]
    assert 0.95 < sizes[1] / sizes[0] < 1.05
    with pytest.raises(ValueError, match=r"^in_space_time: separate kernels start fresh"):
        contenders.in_space_time(torch.nn.Sequential(), "central", separate=True)


def test_the_cost_of_a_gru_is_counted(static):
    clip = torch.zeros(1, 3, 4, 32, 32)
    plain, recurrent = contenders.cost(static, clip), contenders.cost(STARTS["GRU head"](static), clip)
    width, hidden, out = contenders.CHANNELS, 64, 2
    matrices = 2 * 3 * hidden * (width + hidden) + 2 * hidden * out
    assert recurrent[1] - plain[1] == matrices
    assert recurrent[0] - plain[0] == matrices + 2 * 3 * 2 * hidden + out


def test_budgets_are_equal():
    schedule = Schedule(image_steps=7, video_steps=5)
    for plan, steps in {"both": 5, "temporal": 5, "joint": 5, "video": 5, "all": 12, "none": 0}.items():
        assert sum(stage.steps for stage in training.stages(plan, schedule)) == steps


def test_the_temporal_stage_leaves_the_image_network_as_it_was(static):
    task = TASKS["motion"]
    network = contenders.transducted(static, neck=True)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    plan = training.stages("temporal", replace(SHORT, video_steps=3))
    training.train(network, small_pool(), task, SHORT, plan, seed=0)
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.endswith("factors.t") for name in moved)
    assert any(".motion.factors.out" in name for name in moved)
    assert any(name.startswith("neck") for name in moved)
    assert any(name.startswith("head") for name in moved)
    new = ("factors.t", "motion.factors.in", "motion.factors.out")
    assert all(name.startswith(("neck", "head")) or name.endswith(new) for name in moved)


def test_temporal_factors_of_the_backbone_alone_learn_faster_and_none_decays(static):
    network = contenders.transducted(static, neck=True)
    groups = training._groups(network, 5.0)
    factors = {id(p): (group["factor"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(factors) == sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        taps = name.startswith("backbone") and name.endswith("factors.t") and ".motion." not in name
        factor, decay = factors[id(parameter)]
        assert factor == (5.0 if taps else 1.0), name
        if name.endswith((".factors.t", ".factors.h", ".weights", ".bias")):
            assert decay == 0, name


def test_equal_seeds_draw_equal_batches_whatever_network_trains():
    pool, task = small_pool(), TASKS["noise"]
    drawn = []
    for _ in range(2):
        torch.rand(3)  # what the building of a network draws
        drawn.append(tasks.draw(pool, task, 2, 4, torch.Generator().manual_seed(5))[0])
    assert torch.equal(*drawn)


def test_moving_averages_are_those_of_numpy():
    values = torch.randn(3, 10, 2)
    found = training.average(values, 5)
    for frame in range(10):
        near = values[:, max(0, frame - 2) : frame + 3].mean(1)
        assert torch.allclose(found[:, frame], near, atol=1e-6)
    assert torch.equal(training.average(values, 1), values)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A study of one task on a pool of noise."""
    pool = small_pool()
    make = Task("(a) a test", ("valence", "arousal"), lambda cache, workers: pool, tasks.leave)
    monkeypatch.setitem(TASKS, "motion", make)
    run._pool.cache_clear()
    yield tmp_path
    run._pool.cache_clear()


def test_every_contender_runs_once_and_a_killed_command_goes_on(tiny):
    table = tiny / "transduction.csv"
    jobs = run.planned(["motion"], [*MAIN, *ABLATION], [3])
    assert len(jobs) == len(MAIN) + len(ABLATION)
    run.fill(table, jobs[:3], SHORT, tiny, workers=1)
    whole = table.read_text()
    with table.open("a") as file:
        file.write("main,motion,R3D from")  # killed in the middle of a line
    run.fill(table, jobs, SHORT, tiny, workers=1)
    assert table.read_text().startswith(whole)
    found = rows.read_rows(table)
    assert [row.key for row in found] == [tuple(job) for job in jobs]
    sizes = {row.contender: row.parameters for row in found}
    assert sizes[STATIC] == sizes[AVERAGE] < sizes["transduced: factors"] < sizes[OURS] < sizes["R3D from scratch"] / 3
    assert sizes["HO-CP with motion from scratch"] == sizes[OURS]
    assert sizes["rank C/2"] < sizes[OURS] < sizes["rank 3C"]
    text = page.write(found, tiny)
    assert all(f"| {name} |" in text for name in [*MAIN, *ABLATION] if name != OURS)
    assert (tiny / "transduction.png").stat().st_size > 0
    with pytest.raises(DataError, match="all runs must have the settings"):
        run.fill(table, jobs, replace(SHORT, rate=1.0), tiny, workers=1)


APPENDING = """
import sys
from pathlib import Path
from benchmarks.transduction import rows
file = Path(sys.argv[1])
rows.prepare(file)
for seed in range(10**6):
    rows.append(file, rows.Row("main", "motion", "x" * 50, seed, 1, *[0.5] * 10, "s"))
"""


def test_whoever_is_killed_leaves_whole_lines(tmp_path):
    table = tmp_path / "transduction.csv"
    with subprocess.Popen([sys.executable, "-c", APPENDING, table]) as process:
        while process.poll() is None and (not table.is_file() or table.stat().st_size < 5000):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    rows.prepare(table)
    found = rows.read_rows(table)
    assert len(found) > 20
    assert [row.seed for row in found] == list(range(len(found)))
    assert table.read_bytes().endswith(b"\n")


def test_other_tables_are_refused(tmp_path):
    table = tmp_path / "transduction.csv"
    table.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="columns must be those of this study"):
        rows.read_rows(table)
    head, whole = ",".join(rows.COLUMNS), "main,motion,static,0,1,1,1,nan,nan,nan,nan,nan,nan,0.5,nan,s"
    for lines, said in (
        (["main,motion"], r"every line must hold 16 cells that fit \(.*; line 2\)"),
        ([whole, whole.replace("0.5", "half")], r"every line must hold .*'half'; line 3\)"),
        ([whole, whole.replace("0.5", "nan")], r"test must be a CCC, got nan \(line 3\)"),
        ([whole, whole.replace("0.5", "7.5")], r"test must be a CCC, got 7\.5 \(line 3\)"),
        ([whole, whole], r"every run must stand there once, got \('main', 'motion', 'static', 0\) again \(line 3\)"),
    ):
        table.write_text("\n".join([head, *lines, ""]))
        with pytest.raises(DataError, match=said):
            rows.read_rows(table)
    table.write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="must be text in UTF-8"):
        rows.read_rows(table)


def test_no_page_is_made_of_nothing_or_of_other_runs(tmp_path):
    (row,) = made_up(STATIC, 0.5, seeds=[0])
    for numbers, said in (
        ([], "must hold a run"),
        ([replace(row, contender="statik")], r"of this study.*\['statik'\]"),
        ([replace(row, section="ablation")], r"of this study.*\['static'\]"),
        ([row, replace(row, seed=1, settings="t")], r"the same settings, got \['s', 't'\]"),
    ):
        with pytest.raises(DataError, match=said):
            page.write(numbers, tmp_path)
    assert not list(tmp_path.iterdir())


def test_lines_of_the_ablation_are_compared_with_what_differs_in_one_thing():
    for who, contender in ABLATION.items():
        reference = MAIN[page._reference(who)]
        assert (contender.plan, page._reference(who).count("scratch")) == (reference.plan, who.count("scratch"))
    assert page._reference("from scratch, with Psi and motion") == "HO-CP with motion from scratch"
    assert page._reference("from scratch, with Psi") == "HO-CP from scratch"


def made_up(contender, score, parameters=100, task="motion", seeds=range(5)):
    """Rows of a contender whose scores of different seeds are some way from ``score``, alike for all contenders."""
    return [
        Row("main", task, contender, seed, parameters, 1e6, 3.0, nan, nan, nan, nan, nan, nan,
            score + 0.1 * seed + 0.004 * (-1) ** seed * (contender == OURS),
            1 - score + 0.01 * (seed % 2) * (contender == OURS) if task == "digits" else nan, "s")
        for seed in seeds
    ]  # fmt: skip


def lines_about(text, other):
    return [line for line in text.splitlines() if f"*{OURS}* beats *{other}*" in line]


def test_the_page_says_yes_no_and_unclear_from_the_numbers(tmp_path):
    numbers = [
        *made_up(OURS, 0.5),
        *made_up(STATIC, 0.3),
        *made_up(AVERAGE, 0.7),
        *made_up("HO-CP from scratch", 0.5),
        *made_up("R3D from scratch", 0.3, parameters=299),
        *made_up(OURS, 0.5, task="digits"),
        *made_up("R3D from scratch", 0.3, parameters=300, task="digits"),
    ]
    text = page.write(numbers, tmp_path)
    assert text == (tmp_path / "transduction.md").read_text()
    (yes,), (no,), (unclear,) = (lines_about(text, other) for other in (STATIC, AVERAGE, "HO-CP from scratch"))
    assert yes.startswith("- **yes**: on (a)")
    assert "+0.201 [+0.195, +0.206]" in yes
    assert no.startswith("- **no**")
    assert "-0.199" in no
    assert unclear.startswith("- **unclear**")
    larger, smaller, *_ = lines_about(text, "R3D from scratch")
    assert larger.startswith("- **no**: on (a)")  # better, but not that much smaller
    assert smaller.startswith("- **yes**: on (c)")
    assert "with at most 1/3 of its parameters" in smaller
    classes = [line for line in text.splitlines() if "*R3D from scratch* at classes (-0.19" in line]
    assert [line.partition(":")[0] for line in classes] == ["- **no**"]
    assert "| static | " in text
    assert "0.500 ± 0.196" in text


def test_one_seed_is_no_evidence(tmp_path):
    text = page.write([*made_up(OURS, 0.9, seeds=[0]), *made_up(STATIC, 0.1, seeds=[0])], tmp_path)
    (line,) = lines_about(text, STATIC)
    assert line.startswith("- **unclear**")
    assert "[one seed]" in line


def test_only_seeds_that_both_have_are_compared():
    found = page.difference({0: 0.5, 1: 0.6, 2: 0.9}, {1: 0.5, 2: 0.7, 5: 0.0})
    assert found.pairs == 2
    assert found.value == pytest.approx(0.15)
    assert found.low == pytest.approx(0.15 - 12.706 * 0.05, abs=1e-3)
    assert np.isnan(found.wilcoxon)
    six = page.difference({k: 1.0 + k for k in range(6)}, {k: 0.5 * k for k in range(6)})
    assert six.wilcoxon == pytest.approx(2 / 2**6)
