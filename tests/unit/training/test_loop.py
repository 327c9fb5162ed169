"""The training loop learns, repeats itself under a seed, resumes, keeps to its budget, fails clearly."""

import functools
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch

from bts.errors import RunError, UsageError
from bts.model.device import pick_device
from bts.model.file import load_model
from bts.settings import Augmentation, Budget, Layers, Loss, Normalisation, Optimiser, Preset, Sampling
from bts.training import loop
from bts.training.loop import train
from bts.training.state import start
from bts.training.step import learning_rate, train_step, vary

PRESET = Preset(
    name="tiny",
    modalities=("flair",),
    size=(16, 16),
    batch=4,
    layers=Layers(widths=(4, 8), norm="batch"),
    loss=Loss(dice=1, bce=1),
    optimiser=Optimiser(lr=1e-2, warmup=2, schedule="poly", ema=0.5),
    budget=Budget(epochs=3, validate_every=2),
)

ALIKE = replace(  # nothing that depends on how the samples are dealt to ranks
    PRESET, layers=Layers(widths=(4, 8)), augmentation=Augmentation(flip=0), loss=Loss(bce=1)
)


def batch(seed: int) -> dict[str, np.ndarray]:
    """Noise with a bright square, which is the tumour: label 3."""
    rng = np.random.default_rng(seed)
    images = rng.integers(50, 150, (4, 1, 16, 16)).astype(np.int16)
    mask = np.zeros((4, 16, 16), np.uint8)
    mask[:, 4:10, 5:11] = 3
    images[:, 0][mask > 0] += 200
    constants = np.tile(np.float32([-np.inf, np.inf, 120, 60]), (4, 1, 1))
    return {"images": images, "mask": mask, "constants": constants}


def batches(epoch: int, count: int = 4):
    return (batch(100 * epoch + i) for i in range(count))


def run(preset: Preset = PRESET, **options):
    seen = []
    options = {"batches": batches, "on_epoch": lambda p: seen.append((p.epoch, p.state())), **options}
    return train(preset, device="cpu", **options), seen


def weights(progress) -> list[torch.Tensor]:
    return [value.float() for value in progress.average.state_dict().values()]


def test_the_loss_falls_and_is_reported():
    progress, seen = run(replace(PRESET, budget=Budget(epochs=20)))
    assert progress.losses[-1] < 0.7 * progress.losses[0]
    assert [epoch for epoch, _ in seen] == list(range(1, 21))
    assert progress.step == 80 and progress.done and progress.seconds > 0
    assert set(progress.metrics) == {"loss", "lr", "samples_per_second", "wait_share"}
    assert 0 < progress.lr < PRESET.optimiser.lr


def test_equal_seeds_give_equal_losses_and_weights():
    first, second = run()[0], run()[0]
    assert first.losses == second.losses
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    assert run(replace(PRESET, seed=1))[0].losses != first.losses


def test_resuming_equals_never_having_stopped():
    whole, seen = run()
    resumed, later = run(checkpoint=seen[0][1])
    assert [epoch for epoch, _ in later] == [2, 3]
    assert resumed.losses == whole.losses and resumed.step == whole.step
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    again, nothing = run(checkpoint=seen[-1][1])
    assert not nothing and again.epoch == 3


def test_within_an_epoch_it_says_how_it_goes(monkeypatch):
    monkeypatch.setattr(loop, "TELL_S", 0)
    reports = []
    progress, _ = run(on_progress=lambda p, figures: reports.append((p.epoch, figures)))
    assert [(epoch, seen["steps"]) for epoch, seen in reports] == [
        (e, n) for e in range(3) for n in range(1, 5)
    ]
    assert all(seen["minutes_left"] is None for epoch, seen in reports if epoch == 0)
    assert reports[-1][1]["minutes_left"] == 0 and reports[4][1]["minutes_left"] > 0
    assert reports[3][1]["loss"] == pytest.approx(progress.losses[0])
    reports.clear()
    run(
        replace(PRESET, budget=Budget(minutes=60, epochs=1)),
        on_progress=lambda p, figures: reports.append((p.epoch, figures)),
    )
    assert 0 < reports[-1][1]["minutes_left"] < reports[0][1]["minutes_left"] <= 60


@pytest.mark.parametrize("parts_now", [1, 2])
def test_resuming_within_an_epoch_equals_never_having_stopped(parts_now):
    """Unless a step is of other batches now: then the epoch begins anew."""
    preset = replace(PRESET, budget=Budget(epochs=2, checkpoint_minutes=1e-9))
    parts = []
    whole, _ = run(preset, on_part=lambda p: parts.append((p.epoch, p.part.steps, p.state())))
    assert [step for step, *_ in enumerate(parts)] == list(range(6))  # the first step only starts the clock
    epoch, steps, state = parts[4]
    assert (epoch, steps) == (1, 3)
    resumed, later = run(preset, checkpoint=state, parts=parts_now)
    assert [epoch for epoch, _ in later] == [2]
    assert (resumed.step == whole.step) == (parts_now == 1)
    if parts_now == 1:
        assert resumed.losses == whole.losses
        assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))


def test_a_step_of_two_parts_is_a_step_of_a_double_batch():
    once, _ = run(ALIKE, batches=lambda epoch: batches(epoch, 7), parts=2)
    double, _ = run(ALIKE, batches=lambda epoch: doubled(list(batches(epoch, 7))))
    assert once.step == double.step == 12
    assert np.allclose(once.losses, double.losses, rtol=2e-2)
    assert np.allclose(weights(once)[0], weights(double)[0], atol=1e-2)


def doubled(singles: list[dict]):
    """Pairs of batches as one; the last alone if there is no other."""
    for first, *second in (singles[n : n + 2] for n in range(0, len(singles), 2)):
        yield {key: np.concatenate([first[key], *(one[key] for one in second)]) for key in first}


def test_resumed_minutes_go_on_counting():
    preset = replace(PRESET, budget=Budget(minutes=0.005))
    first, seen = run(preset)
    assert first.seconds >= 0.3
    assert run(preset, checkpoint=seen[-1][1])[1] == []


def test_a_checkpoint_of_other_settings_is_refused():
    _, seen = run()
    with pytest.raises(UsageError, match="other settings"):
        run(replace(PRESET, optimiser=Optimiser(lr=1)), checkpoint=seen[0][1])
    longer = replace(PRESET, budget=Budget(epochs=4))
    assert run(longer, checkpoint=seen[-1][1])[0].epoch == 4


def test_minutes_end_the_run_within_an_epoch():
    def endless(epoch):
        while True:
            yield batch(0)

    progress, seen = run(replace(PRESET, budget=Budget(minutes=0.01)), batches=endless)
    assert progress.seconds >= 0.6
    assert progress.epoch == 1 and len(seen) == 1 and progress.done


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [5e-3, 1e-2, 1e-2, 1e-2]),
        ("poly", [5e-3, 1e-2, 1e-2 * 0.5**0.9, 0]),
        ("cosine", [5e-3, 1e-2, 5e-3, 0]),
        ("epoch", [5e-3, 1e-2, 1e-3, 1e-4]),
    ],
)
def test_the_learning_rate_warms_up_by_steps_and_falls_as_scheduled(schedule, rates):
    preset = replace(PRESET, optimiser=Optimiser(lr=1e-2, warmup=2, schedule=schedule, factor=0.1))
    progress, seen = start(preset, pick_device("cpu")), []
    for progress.epoch, progress.step, share in ((0, 0, 0), (0, 1, 0), (1, 9, 0.5), (2, 9, 1)):
        seen.append(learning_rate(progress, share))
    assert seen == pytest.approx(rates)


def test_a_plateau_halves_the_learning_rate_and_then_ends_the_training():
    optimiser = Optimiser(lr=1e-2, schedule="plateau", factor=0.5, patience=2, cooldown=1, floor=3e-3)
    preset = replace(PRESET, optimiser=optimiser, budget=Budget(epochs=99, patience=7))
    dice = iter([0.1, 0.5] + [0.4] * 90)
    progress, seen = run(preset, validate=lambda _: {"dice/WT": next(dice), "iou/WT": 9.0})
    assert progress.epoch == 9 and progress.done  # the best of epoch 2, then seven without gain
    assert progress.rates == pytest.approx([1e-2] * 4 + [5e-3] * 3 + [3e-3] * 2)
    assert progress.best_score == 0.5
    assert run(preset, checkpoint=seen[-1][1])[1] == []  # it stays ended


def test_decay_and_floor_of_the_learning_rate():
    progress = start(replace(PRESET, optimiser=Optimiser(lr=1, decay=0.5, floor=0.3)), pick_device("cpu"))
    progress.step = 2
    assert learning_rate(progress, 0) == pytest.approx(0.5)
    progress.step = 98
    assert learning_rate(progress, 0) == pytest.approx(0.3)


def test_validation_comes_every_few_epochs_and_last_and_the_best_is_kept():
    figures = iter([{"dice/WT": 0.9}, {"dice/WT": 0.1}])
    labels = []

    def validate(segmenter):
        labels.append(segmenter)
        return next(figures)

    progress, _ = run(validate=validate)
    assert progress.validations == {2: {"dice/WT": 0.9}, 3: {"dice/WT": 0.1}}
    assert progress.metrics["dice/WT"] == 0.1 and progress.best_score == 0.9
    model = load_model(progress.model_file({"by": "test"}), "m")
    assert model.meta == {"by": "test"} and model.preset == PRESET
    saved, last = model.network.state_dict(), progress.average.state_dict()
    assert any(not torch.equal(saved[key], last[key]) for key in saved)


def test_without_an_average_the_network_itself_is_saved():
    progress, _ = run(replace(PRESET, optimiser=Optimiser(ema=0)))
    saved = load_model(progress.model_file({}), "m").network.state_dict()
    assert all(torch.equal(saved[key], value) for key, value in progress.network.state_dict().items())


def test_a_loss_that_is_not_a_number_names_epoch_and_step():
    def spoilt(epoch):
        for i in range(3):
            bad = batch(i)
            if (epoch, i) == (1, 1):
                bad["constants"][..., 2] = np.nan
            yield bad

    with pytest.raises(RunError, match="nan in epoch 2 at step 5"):
        run(batches=spoilt)


def test_a_wild_step_is_clipped_where_asked():
    """One step of plain SGD moves the weights by no more than learning rate × clip."""
    for clip in (1e-3, 0):
        optimiser = Optimiser(kind="sgd", lr=1.0, clip=clip)
        preset = replace(PRESET, optimiser=optimiser, budget=Budget(epochs=1))
        before = start(preset, pick_device("cpu")).network
        after = run(preset, batches=lambda epoch: batches(epoch, 1))[0].network
        moved = [a - b for a, b in zip(after.parameters(), before.parameters(), strict=True)]
        length = torch.sqrt(sum((m**2).sum() for m in moved)).item()
        assert (length <= 1.001e-3) == bool(clip)


def test_volumes_train_by_the_same_loop():
    preset = replace(
        PRESET, size=(4, 16, 16), sampling=Sampling(kind="volumes"), output="softmax", targets="labels",
        loss=Loss(ce=1), normalisation=Normalisation(background=-9), budget=Budget(epochs=12),
    )  # fmt: skip

    def volumes(epoch):
        for flat in batches(epoch):
            deep = {name: np.stack([flat[name]] * 4, axis=axis) for name, axis in
                    (("images", 2), ("mask", 1), ("constants", 2))}  # fmt: skip
            yield deep

    progress, _ = run(preset, batches=volumes)
    assert progress.losses[-1] < 0.5 * progress.losses[0]


def test_the_slices_of_a_stack_change_together():
    """With equal neighbours in, equal neighbours come out: one contrast, one mirror a modality."""
    preset = replace(
        PRESET, sampling=Sampling(kind="stacks", neighbours=1),
        augmentation=Augmentation(rotate=30, zoom=0.2, scale=0.3, shift=0.3),
    )  # fmt: skip
    images = torch.rand(4, 1, 16, 16).repeat(1, 3, 1, 1) + 1
    mask = (images > 1.5).to(torch.uint8)
    changed, moved = vary(images, mask, preset, torch.Generator().manual_seed(0))
    assert torch.equal(changed[:, 0], changed[:, 1]) and torch.equal(changed[:, 0], changed[:, 2])
    assert moved.shape == (4, 16, 16) and not torch.equal(moved, mask[:, 1])


def test_an_epoch_without_batches_says_so():
    with pytest.raises(RunError, match="no batch"):
        run(batches=lambda epoch: [])


def test_a_rank_without_a_batch_of_its_own_lets_no_norm_learn_from_the_last_one():
    progress, _ = run()
    progress.network.train()
    before = {name: value.clone() for name, value in progress.network.named_buffers()}
    for seed, weight, alike in ((1, 0.0, True), (2, 1.0, False)):
        train_step(progress, progress.network, [batch(seed)], 0.5, torch.Generator(), weight=weight)
        now = dict(progress.network.named_buffers())
        assert before and all(torch.equal(now[name], before[name]) for name in before) == alike


def worker(rank: int, meeting: str, queue) -> None:
    """Uneven numbers of batches: rank 0 has 3, rank 1 has 5."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    validate = (lambda segmenter: {"dice/WT": 0.5}) if rank == 0 else None
    uneven = (lambda epoch: batches(epoch, 3)) if rank == 0 else (lambda epoch: batches(epoch + 50, 5))
    progress, _ = run(batches=uneven, validate=validate, rank=rank, world=2)
    queue.put((rank, progress.step, progress.lr, progress.metrics["dice/WT"], weights(progress)[0].tolist()))
    torch.distributed.destroy_process_group()


def cut_off(rank: int, meeting: str, queue) -> None:
    """Uneven ranks as in `worker`, and again from a checkpoint after rank 0's last batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    preset = replace(PRESET, budget=replace(PRESET.budget, checkpoint_minutes=1e-9))
    uneven = (lambda epoch: batches(epoch, 3)) if rank == 0 else (lambda epoch: batches(epoch + 50, 5))
    kept = {}

    def keep(progress):
        kept[progress.epoch, progress.part.steps] = progress.state()

    whole, _ = run(preset, batches=uneven, on_part=keep, rank=rank, world=2)
    again, _ = run(preset, batches=uneven, checkpoint=kept[1, 4], rank=rank, world=2)
    queue.put((rank, whole.step, again.step, weights(whole)[0].tolist(), weights(again)[0].tolist()))
    torch.distributed.destroy_process_group()


def half(rank: int, meeting: str, queue, count: int = 8) -> None:
    """Every other batch of an epoch: the other rank has those between."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)

    def mine(epoch: int):
        return (one for n, one in enumerate(batches(epoch, count)) if n % 2 == rank)

    progress, _ = run(ALIKE, batches=mine, rank=rank, world=2)
    queue.put((rank, progress.step, progress.losses, weights(progress)[0].tolist()))
    torch.distributed.destroy_process_group()


def of_two_ranks(work, tmp_path) -> list[tuple]:
    """What each rank put into the queue."""
    context, meeting = multiprocessing.get_context("forkserver"), f"file://{tmp_path}/meeting"
    context.set_forkserver_preload([__name__])  # PyTorch is imported once for all ranks
    queue = context.Queue()
    ranks = [context.Process(target=work, args=(rank, meeting, queue)) for rank in range(2)]
    for process in ranks:
        process.start()
    found = sorted(queue.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(30)
    return found


@pytest.mark.slow
def test_a_batch_without_a_partner_counts_as_one(tmp_path):
    zero, one = of_two_ranks(functools.partial(half, count=7), tmp_path)
    alone, _ = run(ALIKE, batches=lambda epoch: doubled(list(batches(epoch, 7))))
    assert zero[1] == one[1] == alone.step == 12 and zero[3] == one[3]
    assert np.allclose(zero[3], weights(alone)[0].tolist(), atol=1e-2)


@pytest.mark.slow
def test_two_ranks_with_uneven_batches_end_together_with_equal_weights(tmp_path):
    zero, one = of_two_ranks(worker, tmp_path)
    assert zero[1:] == one[1:]
    assert zero[1] == 15 and zero[3] == 0.5  # every batch of both: none is left out for the other's lack


@pytest.mark.slow
def test_a_training_cut_off_when_one_rank_had_no_batch_left_goes_on(tmp_path):
    for _, steps, again, whole, resumed in of_two_ranks(cut_off, tmp_path):
        assert steps == again == 15 and np.allclose(whole, resumed, atol=1e-5)


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns_from_double_batches(tmp_path):
    zero, one = of_two_ranks(half, tmp_path)

    alone, _ = run(ALIKE, batches=lambda epoch: doubled(list(batches(epoch, 8))))
    assert zero[1] == one[1] == alone.step == 12
    together = np.mean([zero[2], one[2]], axis=0)
    assert np.allclose(together, alone.losses, rtol=1e-2)
    assert together[-1] < 0.95 * together[0]
    assert np.allclose(zero[3], weights(alone)[0].tolist(), atol=1e-2)
