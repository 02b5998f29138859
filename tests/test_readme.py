"""What the README says works as it says."""

import ast
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from score_embedding.config import loading

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = README + (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")


def test_the_library_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.chelsea()).save("photo.png")
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == names["m0"].shape == (1, 3, 32, 32)
    assert names["solution"].log_density.shape == (1, 20, 3, 32, 32)
    assert names["embedded"].shape == names["scores"].shape == (1, 20, 3, 32, 32)


@pytest.mark.slow
def test_the_library_example_of_closed_form_scores_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "denoising.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    photograph = data.chelsea()[:24, :28, 1]  # grey: a mixture of colours takes longer to fit
    mask = np.zeros(photograph.shape, bool)
    mask[10:14] = True
    images = torch.rand(4, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    names: dict = {"noisy": photograph, "photograph": photograph, "mask": mask}
    names["stack"] = np.stack([photograph, photograph])
    names |= {"images": images, "x": images[:2], "sigma": 0.1}
    exec(code, names)
    assert names["clean"].shape == names["filled"].shape == photograph.shape
    assert names["score"].shape == (2, 1, 24, 24)
    same, density = (names[name].denoise(images, 0.1) for name in ("same", "density"))
    torch.testing.assert_close(same, density)


def test_the_keys_it_names_are_keys_of_the_config():
    sections = "data_loader|diffusion|image_density|training|model|sample|misc"
    keys = set(re.findall(rf"`((?:{sections})\.\w+)`", README)) - {"model.safetensors"}
    dumps = [loading.load(name).model_dump() for name in ("quickstart", "cifar1_ddpm")]
    known = {f"{name}.{key}" for of in dumps for name, part in of.items() if part for key in part}
    assert len(keys) > 8
    assert keys <= known


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", README))
def test_its_links_lead_to_files_of_the_repository(target):
    assert (Path(__file__).parents[1] / target).exists()


def test_its_two_commands_are_one_line_each():
    for marker in ("main", "test"):
        block = re.search(rf"<!-- {marker} command -->\n```\n(.*?)```", README, flags=re.DOTALL)
        assert block is not None
        assert len(block[1].strip().splitlines()) == 1


def test_its_figures_are_those_of_the_benchmarks():
    results = Path(__file__).parents[1] / "benchmarks" / "results"

    def rows(name, key):
        document = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
        return {row[key]: row for row in document["rows"]}

    measured, steps = rows("precompute", "measured"), rows("training_step_ch128", "variant")
    ratios, many = rows("solvers_ratios", "measured"), rows("solvers_many", "measured")
    of_100, alone = (
        ratios[f"published / spectral float32, 32x32, {batch}"]
        for batch in ("of 100 images", "one image")
    )
    density = rows("density", "measured")
    chains = [
        density[f"{rival} / spectral with density, {of}"]["median"]
        for rival in ("official", "published")
        for of in ("32x32x3, N = 20", "64x64x3, N = 10")
    ]
    alone_ms = [1e3 * density[f"exact, {n}x{n}x3, s"]["median"] for n in (32, 64)]
    figures = [
        f"{1e3 * alone['faster, s']:.2f} ms; {1e3 * of_100['faster, s']:.2f} ms",
        f"{alone['median']:.0f} times; {of_100['median']:.0f} times",
        f"{ratios['implicit direct / iterative, 24 images']['median']:.1f} times",
        f"{ratios['implicit direct / krylov, 24 images']['median']:.1f} times",
        f"{many['50,000 log-densities, kept, s']['value']:.0f} s",
        f"{many['share of a step at ch 32, %']['value']:.2f} % of a step",
        f"{measured['implicit / spectral']['median']:.0f} times",
        f"{measured['spectral, 1,000 images, s']['median']:.2f} s",
        f"{measured['spectral, 1,000 images, peak memory / output']['median']:.2f} times",
        "; ".join(f"{gain:.0f} times" for gain in chains),
        f"{alone_ms[0]:.1f} ms; {alone_ms[1]:.1f} ms",
        f"{steps['this package, network published']['seconds / plain']:.2f} |",
        f"{steps['this package, bfloat16']['seconds / plain']:.2f} (processor",
    ]
    assert [figure for figure in figures if figure not in README] == []


@pytest.mark.parametrize("name", re.findall(r"<!-- (comparison_\w+) -->", PAGES))
def test_a_table_of_a_comparison_is_that_of_its_results(name):
    path = ROOT / "benchmarks" / "comparison_table.py"
    module = importlib.util.module_from_spec(spec := _spec(path))
    spec.loader.exec_module(module)
    results = ROOT / "benchmarks" / "results" / name / "comparison.json"
    expected = module.table(json.loads(results.read_text(encoding="utf-8")))
    shown = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", PAGES, flags=re.DOTALL)
    assert shown[1] == expected
    assert len(expected.splitlines()) >= 10


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("reliability", "limits"),
        ("reliability", "reliability"),
        ("reproduction", "networks"),
        ("theory", "density"),
        ("theory", "density_sizes"),
        ("denoising-results", "photographs"),
        ("denoising-results", "densities"),
        ("denoising-results", "fit_steps"),
        ("denoising-results", "residual_choices"),
        ("denoising-results", "refined"),
        ("denoising-results", "inpainting"),
    ],
)
def test_the_tables_of_a_page_are_those_of_the_last_run(page, name):
    results = (ROOT / "benchmarks" / "results" / f"{name}.md").read_text(encoding="utf-8")
    table = results[results.index("| ") :].strip()
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    shown = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", text, flags=re.DOTALL)
    assert shown[1] == table
    assert len(table.splitlines()) > 4


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.stem)
def test_update_tables_would_change_no_page(path):
    module = importlib.util.module_from_spec(spec := _spec(ROOT / "docs" / "update_tables.py"))
    spec.loader.exec_module(module)
    page = path.read_text(encoding="utf-8")
    assert module.updated(page) == page


@pytest.mark.parametrize(
    ("name", "folder"), [("denoising", "denoising"), ("half_hour", "denoising_half_hour")]
)
def test_the_table_of_a_denoising_comparison_is_that_of_its_results(name, folder):
    results = (ROOT / "benchmarks" / "results" / folder / "table.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "denoising-results.md").read_text(encoding="utf-8")
    shown = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", page, flags=re.DOTALL)
    assert len(shown[1].splitlines()) >= 6
    assert shown[1] in results


REPRODUCTION = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reproduction():
    """benchmarks/reproduction.py, which writes the tables of docs/reproduction.md."""
    path = ROOT / "benchmarks" / "reproduction.py"
    module = importlib.util.module_from_spec(spec := _spec(path))
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", re.findall(r"<!-- (reproduce_\w+) -->", REPRODUCTION))
def test_the_tables_of_a_reproduction_are_those_of_its_results(name, reproduction):
    shown = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", REPRODUCTION, flags=re.DOTALL)
    results = ROOT / "benchmarks" / "results" / name / "claims.md"
    if results.exists():
        expected = reproduction.block(results.read_text(encoding="utf-8"))
        findings = json.loads(results.with_suffix(".json").read_text(encoding="utf-8"))["findings"]
        shown_claims = re.findall(r"^\| (.*?) \|", expected, flags=re.MULTILINE)
        assert [finding["claim"] for finding in findings] == shown_claims[2 : 2 + len(findings)]
        assert name == "reproduce_full" or len(expected.splitlines()) > 20  # that is of one case
    else:
        expected = reproduction.NOT_MEASURED
    assert shown[1] == expected


def test_the_tables_of_a_reproduction_are_kept_and_put_into_the_page(
    tmp_path, monkeypatch, reproduction
):
    folder, page = tmp_path / "reproduce_laptop", tmp_path / "page.md"
    (folder / "cifar1").mkdir(parents=True)
    for name in ("table.md", "runs.csv", "comparison.json", "ssim_over_time.png"):
        (folder / "cifar1" / name).write_text(name)
    (folder / "claims.md").write_text("### Claims\n\nNote.\n\n| a |\n\n### More\n\n| b |\n\n- c\n")
    (folder / "claims.json").write_text("{}")
    page.write_text(REPRODUCTION)
    monkeypatch.setattr(reproduction, "PAGE", page)
    monkeypatch.setattr(reproduction, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("sys.argv", ["reproduction.py", str(folder), "--note", "of a copy"])
    for _ in range(2):  # again, in place of the first
        reproduction.main()
    before, _, rest = page.read_text().partition("<!-- reproduce_laptop -->\n")
    shown, _, after = rest.partition("\n<!-- end -->")
    assert shown == "Note.\n\n| a |\n\n#### More\n\n| b |\n\n- c\n- of a copy"
    old = re.search(r"<!-- reproduce_laptop -->.*?<!-- end -->", REPRODUCTION, flags=re.DOTALL)
    assert (before, after) == (REPRODUCTION[: old.start()], REPRODUCTION[old.end() :])
    kept = tmp_path / "results" / "reproduce_laptop"
    assert reproduction.block((kept / "claims.md").read_text()) == shown
    assert {path.name for path in (kept / "cifar1").iterdir()} == set(reproduction.OF_CASES)


@pytest.mark.parametrize(
    "name", ["reproduction", "denoising", "closed-form-scores", "denoising-results"]
)
def test_links_of_a_page_lead_to_files_and_headings(name):
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        path, _, heading = target.partition("#")
        page = ROOT / "docs" / (path or f"{name}.md")
        assert page.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in slugs, target


def _spec(path):
    return importlib.util.spec_from_file_location(path.stem, path)


def test_the_guarantees_of_the_reliability_page_name_tests_that_are_there():
    source = (ROOT / "benchmarks" / "reliability.py").read_text(encoding="utf-8")
    (guarantees,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and node.target.id == "GUARANTEES"
    )
    missing = []
    for test in (test for tests in guarantees.values() for test in tests):
        file, name = test.split("::")
        if f"def {name}(" not in (ROOT / "tests" / file).read_text(encoding="utf-8"):
            missing.append(test)
    assert missing == []
