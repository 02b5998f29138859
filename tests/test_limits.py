"""What is told of memory, disk and time before a run, against what can be counted."""

import pytest
import torch
from PIL import Image

from command_line import assert_mistake, sets
from score_embedding.config import loading
from score_embedding.errors import LimitError
from score_embedding.methods.network import create
from score_embedding.runs import resources

CPU = torch.device("cpu")
GIB = 2**30


def config_of(*overrides, name="quickstart"):
    return loading.load(name, ["model.attention_resolutions=[]", *overrides])


def cost_of(config, num_images=1):
    data = config.data_loader
    return resources.cost_of(config.model, data.image_size, data.batch_size, 1, num_images)


def evaluated(config, num_images=1):
    """The real network, and one evaluation of a batch."""
    network = create(config.model, config.data_loader.image_size, num_images, 1.0)
    batch = config.data_loader.batch_size
    return network, lambda: network(
        torch.rand(batch, 3, *config.data_loader.image_size), torch.ones(batch)
    )


@pytest.mark.parametrize(
    "overrides",
    [[], ["model.ch=64", "data_loader.batch_size=3"], ["model.network=published"]],
)
def test_parameters_are_those_of_the_real_network(overrides):
    config = config_of(*overrides)
    network, _ = evaluated(config)
    assert cost_of(config).parameters == network.num_parameters


def test_an_estimate_leaves_the_random_numbers_of_torch_as_they_were(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    resources.check(config_of("model.ch=12"), 1, CPU, tmp_path)
    assert torch.equal(torch.rand(4), expected)


def test_many_images_are_counted_by_the_batch_in_which_they_are_sampled():
    config = config_of("data_loader.batch_size=1", "model.image_index=False")
    parts = [resources.need(config, n).memory["training or sampling"] for n in (64, 640)]
    h, w = config.data_loader.image_size
    samples = 4 * 3 * h * w * 3  # bytes that an image takes, without the states on its way
    assert parts[1] - parts[0] == 576 * samples


@pytest.mark.parametrize("name", ["unet", "published"])
def test_live_bytes_are_what_the_gradient_really_keeps(name):
    config = config_of("data_loader.batch_size=4", f"model.network={name}")
    network, evaluate = evaluated(config)
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage, storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = evaluate()
    total = sum(size for _, size in kept.values())
    assert answer.requires_grad
    assert total <= cost_of(config).step_bytes <= 1.2 * total


def test_an_evaluation_of_more_images_takes_in_proportion_more():
    config = config_of("model.image_index=False")
    one, ten, hundred = (cost_of(config, n) for n in (1, 10, 100))
    assert hundred.evaluation_bytes - ten.evaluation_bytes == pytest.approx(
        10 * (ten.evaluation_bytes - one.evaluation_bytes), rel=0.01
    )
    assert ten.step_bytes == one.step_bytes > one.evaluation_bytes


@pytest.mark.parametrize(
    ("overrides", "n", "part"),
    [
        (["model.ch=20000"], 1, "a checkpoint on its way to the disk"),
        (["model.ch=20000", "training.ema=0.9"], 1, "a checkpoint on its way to the disk"),
        (["data_loader.batch_size=10000000"], 1, "training or sampling"),
        ([], 10_000_000, "training or sampling"),
        (["diffusion.num_timesteps=100000000"], 1, "scores"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_figures(overrides, n, part, tmp_path):
    config = config_of(*overrides)
    needed = resources.need(config, n)
    assert max(needed.memory, key=needed.memory.get) == part
    with pytest.raises(LimitError) as refused:
        resources.check(config, n, CPU, tmp_path)
    total, largest = (
        f"{size / GIB:,.0f} GiB" for size in (sum(needed.memory.values()), needed.memory[part])
    )
    assert f"quickstart: needs about {total} of memory" in str(refused.value)
    assert f"{part} {largest}" in str(refused.value)
    assert "are free" in str(refused.value)


def test_a_full_disk_is_told_before_the_run(tmp_path, monkeypatch):
    config = config_of()
    total = sum(resources.need(config, 1).disk.values())
    monkeypatch.setattr(resources, "free_disk", lambda _: total - 1)
    with pytest.raises(LimitError, match=r"MiB of disk \("):
        resources.check(config, 1, CPU, tmp_path)
    monkeypatch.setattr(resources, "free_disk", lambda _: total)
    resources.check(config, 1, CPU, tmp_path)


def test_runs_at_a_time_share_the_memory_and_all_fill_the_disk():
    small, large = (resources.need(config_of(f"model.ch={ch}"), 1) for ch in (8, 64))
    both = resources.together([small, large], at_a_time=2)
    assert both.memory == {part: 2 * size for part, size in large.memory.items()}
    finished = [sum(n.disk.values()) - n.disk["checkpoints"] for n in (small, large)]
    assert both.disk["finished runs"] == sum(finished)
    assert both.disk["checkpoints"] == 2 * large.disk["checkpoints"]


@pytest.mark.parametrize(
    ("limit", "free"), [("5000", 5000 - 3000 + 400), ("max", 2**63), (None, 2**63)]
)
def test_the_memory_of_a_container_is_its_own(limit, free, tmp_path):
    if limit is not None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text("3000\n")
        (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 400\n")
    assert resources._free_in_group(tmp_path) == free


def test_nothing_is_created_by_what_is_refused(call, tmp_path):
    large = sets(model__ch=20_000)
    assert_mistake(call("run", "--config", "quickstart", *large), "GiB of memory", "are free")
    methods = ("--methods", "none", "--seeds", "0")
    assert_mistake(call("compare", "--config", "quickstart", *methods, *large), "GiB of memory")
    assert list(tmp_path.iterdir()) == []


def test_a_solve_at_too_many_times_is_refused_at_once(call, tmp_path):
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "a.png")
    assert_mistake(call("solve", "a.png", "-N", 10**9), "solve: needs about", "num_timesteps")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
