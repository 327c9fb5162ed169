"""bts.training: the loop learns, repeats itself under a seed, resumes, keeps to its budget, fails clearly."""

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch

from bts.errors import RunError, UsageError
from bts.model import load_model
from bts.presets import Budget, Network, Optimiser, Preset
from bts.training import learning_rate, train

PRESET = Preset(
    name="tiny",
    modalities=("flair",),
    size=(16, 16),
    batch=4,
    network=Network(widths=(4, 8), stem=1),
    optimiser=Optimiser(lr=1e-2, warmup=2, ema=0.5),
    budget=Budget(epochs=3, minutes=None, validate_every=2),
)


def batch(seed: int) -> dict[str, np.ndarray]:
    """Noise with a bright square, which is the tumour: label 3."""
    rng = np.random.default_rng(seed)
    images = rng.integers(50, 150, (4, 1, 16, 16)).astype(np.int16)
    mask = np.zeros((4, 16, 16), np.uint8)
    mask[:, 4:10, 5:11] = 3
    images[:, 0][mask > 0] += 200
    mean, std = np.full((4, 1), 120, np.float32), np.full((4, 1), 60, np.float32)
    return {"images": images, "mask": mask, "mean": mean, "std": std}


def batches(epoch: int, count: int = 4):
    return (batch(100 * epoch + i) for i in range(count))


def run(preset: Preset = PRESET, **options):
    seen = []
    options = {"batches": batches, "on_epoch": lambda p: seen.append((p.epoch, p.state())), **options}
    return train(preset, device="cpu", **options), seen


def weights(progress) -> list[torch.Tensor]:
    return [value.float() for value in progress.average.state_dict().values()]


def test_the_loss_falls_and_is_reported():
    progress, seen = run(replace(PRESET, budget=Budget(epochs=20, minutes=None)))
    assert progress.losses[-1] < 0.7 * progress.losses[0]
    assert [epoch for epoch, _ in seen] == list(range(1, 21))
    assert progress.step == 80 and progress.done and progress.seconds > 0
    assert set(progress.metrics) == {"loss", "lr", "slices_per_second", "wait_share"}
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


def test_resumed_minutes_go_on_counting():
    preset = replace(PRESET, budget=Budget(minutes=0.005))
    first, seen = run(preset)
    assert first.seconds >= 0.3
    assert run(preset, checkpoint=seen[-1][1])[1] == []


def test_a_checkpoint_of_other_settings_is_refused():
    _, seen = run()
    with pytest.raises(UsageError, match="other settings"):
        run(replace(PRESET, optimiser=Optimiser(lr=1)), checkpoint=seen[0][1])
    longer = replace(PRESET, budget=Budget(epochs=4, minutes=None))
    assert run(longer, checkpoint=seen[-1][1])[0].epoch == 4


def test_minutes_end_the_run_within_an_epoch():
    def endless(epoch):
        while True:
            yield batch(0)

    progress, seen = run(replace(PRESET, budget=Budget(minutes=0.01)), batches=endless)
    assert 0.6 <= progress.seconds < 30
    assert progress.epoch == 1 and len(seen) == 1 and progress.done


def test_the_learning_rate_warms_up_by_steps_and_falls_with_the_budget():
    rates = [learning_rate(PRESET, share, step) for share, step in ((0, 0), (0, 1), (0.5, 9), (1, 9))]
    assert rates == pytest.approx([5e-3, 1e-2, 1e-2 * 0.5**0.9, 0])


def test_validation_comes_every_few_epochs_and_last_and_the_best_is_kept():
    figures = iter([{"dice_WT": 0.9}, {"dice_WT": 0.1}])
    labels = []

    def validate(segmenter):
        labels.append(segmenter)
        return next(figures)

    progress, _ = run(validate=validate)
    assert progress.validations == {2: {"dice_WT": 0.9}, 3: {"dice_WT": 0.1}}
    assert progress.metrics["dice_WT"] == 0.1 and progress.best_score == 0.9
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
                bad["mean"][:] = np.nan
            yield bad

    with pytest.raises(RunError, match="nan in epoch 2 at step 5"):
        run(batches=spoilt)


def test_an_epoch_without_batches_says_so():
    with pytest.raises(RunError, match="no batch"):
        run(batches=lambda epoch: [])


def worker(rank: int, meeting: str, queue) -> None:
    """Uneven numbers of batches: rank 0 has 3, rank 1 has 5."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    validate = (lambda segmenter: {"dice_WT": 0.5}) if rank == 0 else None
    uneven = (lambda epoch: batches(epoch, 3)) if rank == 0 else (lambda epoch: batches(epoch + 50, 5))
    progress, _ = run(batches=uneven, validate=validate, rank=rank, world=2)
    queue.put((rank, progress.step, progress.lr, progress.metrics["dice_WT"], weights(progress)[0].tolist()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_uneven_batches_end_together_with_equal_weights(tmp_path):
    context, meeting = multiprocessing.get_context("spawn"), f"file://{tmp_path}/meeting"
    queue = context.Queue()
    ranks = [context.Process(target=worker, args=(rank, meeting, queue)) for rank in range(2)]
    for process in ranks:
        process.start()
    zero, one = sorted(queue.get(timeout=120) for _ in ranks)
    for process in ranks:
        process.join(30)
    assert zero[1:] == one[1:]
    assert zero[1] == 9 and zero[3] == 0.5
