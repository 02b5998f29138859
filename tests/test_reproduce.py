"""The published claims: what they are, when one counts as reproduced, and the whole command."""

import json
import math
import os
import pickle

import numpy as np
import pytest

from command_line import assert_mistake, tree
from comparison_helpers import write_metrics
from score_embedding import atomic_files
from score_embedding.comparison import claims as reproduction
from score_embedding.comparison.claims import judge
from score_embedding.comparison.published import CASES, CLAIMS, Claim
from score_embedding.config import loading
from test_comparison_parts import summary

pytestmark = pytest.mark.filterwarnings("ignore:FPDF.preload_image:DeprecationWarning")

# case, year, SSIM: seconds of score embedding, of DDPM, of DDIM
PUBLISHED = {
    ("cifar1", 2024, 0.99): (26.98, 139.63, 182.53),
    ("cifar1", 2024, 0.98): (16.07, 136.91, 182.29),
    ("cifar1", 2024, 0.95): (9.75, 131.09, 181.57),
    ("celeb1", 2024, 0.95): (105.41, 601.27),
    ("celeb1", 2024, 0.90): (71.68, 342.61),
    ("cifar3", 2024, 0.95): (46.80, 155.16),
    ("cifar3", 2024, 0.90): (37.58, 149.72),
    ("inet3", 2024, 0.95): (111.87,),
    ("celeb3", 2024, 0.95): (289.45,),
    ("cifar1", 2025, 0.99): (60.27, 1634.93),
    ("celeb1", 2025, 0.99): (122.45, 14131.53),
}
VERDICTS = ("reproduced", "not reproduced", "not run here")
TINY = {
    "model.ch": 8,
    "model.ch_mult": "[1,2]",
    "model.num_res_blocks": 1,
    "model.attention_resolutions": "[]",
    "training.epochs": 1,
    "data_loader.image_size": 8,
    "data_loader.batch_size": 4,
    "misc.profile_freq": 1e-6,
}


# Claims


def test_the_claims_are_those_of_the_papers():
    found = {}
    for claim in CLAIMS:
        key = (claim.case, claim.year, claim.target, claim.baseline)
        assert key not in found
        found[key] = (claim.seconds, claim.baseline_seconds)
    expected = {}
    for (case, year, target), (own, *other) in PUBLISHED.items():
        for name, seconds in zip(("ddpm", "ddim"), other, strict=False):
            expected[case, year, target, name] = (own, seconds)
        if not other:
            expected[case, year, target, None] = (own, pytest.approx(math.nan, nan_ok=True))
    assert found == expected


def test_the_ratio_of_a_claim_is_the_time_of_the_baseline_over_that_of_score_embedding():
    assert Claim("x", 2024, 0.99, 26.98, "ddpm", 139.63).ratio == pytest.approx(5.1753, abs=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_full_scale_is_the_published_configs_and_small_scale_changes_little(case):
    full = reproduction.comparison_of(case, "full", [9, 42], [])
    small = reproduction.comparison_of(case, "small", [9], [])
    targets = sorted({target for name, _, target in PUBLISHED if name == case})
    assert (full.seeds, list(full.targets)) == ((9, 42), targets)
    assert full.configs.keys() == CASES[case].keys()
    for method, name in CASES[case].items():
        published = loading.load(name)
        assert full.configs[method] == published
        assert published.method == method
        changes = ["model.ch=16", "training.epochs=20", "misc.profile_freq=1"]
        changes += ["sample.steps=50"] if method != "score_embedding" else []
        assert small.configs[method] == loading.load(name, changes)


def test_every_claim_has_its_case_and_its_baseline():
    for claim in CLAIMS:
        assert claim.baseline is None or claim.baseline in CASES[claim.case]
        targets = reproduction.comparison_of(claim.case, "full", [9], []).targets
        assert claim.target in targets


# Verdicts

CLAIM = Claim("cifar1", 2024, 0.95, 10.0, "ddpm", 60.0)  # a ratio of 6: 3 is enough


def verdict(own, other, claim=CLAIM, trained=100.0, reasons=None):
    summaries = [
        summary("score_embedding", {0.95: own, 0.5: 1.0}),
        summary("ddpm", {0.95: other, 0.5: 1000.0}, trained=trained),
    ]
    return judge(claim, summaries, reasons or {})


@pytest.mark.parametrize(
    ("own", "other", "sign", "value", "expected"),
    [
        (4.0, 80.0, "=", 20.0, "reproduced"),
        (4.0, 12.0, "=", 3.0, "reproduced"),  # the published one over the tolerance
        (4.0, 11.99, "=", 2.9975, "not reproduced"),
        (4.0, 1.0, "=", 0.25, "not reproduced"),
        (4.0, math.inf, ">", 25.0, "reproduced"),  # DDPM's 100 s were over before
        (40.0, math.inf, ">", 2.5, "not reproduced"),  # a bound that is too low says nothing
    ],
)
def test_a_ratio_of_half_the_published_one_is_enough(own, other, sign, value, expected):
    finding = verdict(own, other)
    assert (finding.sign, finding.verdict) == (sign, expected)
    assert finding.ratio == pytest.approx(value)
    assert (finding.seconds, finding.baseline_seconds) == (own, other)
    assert reproduction.TOLERANCE == 2


@pytest.mark.parametrize("other", [80.0, math.inf])
def test_a_claim_whose_quality_is_not_reached_is_not_reproduced(other):
    finding = verdict(math.inf, other)
    assert (finding.sign, finding.verdict) == ("-", "not reproduced")
    assert finding.seconds == math.inf


@pytest.mark.parametrize(
    ("own", "expected"),
    [(1.0, "reproduced"), (1e9, "reproduced"), (math.inf, "not reproduced")],
)
def test_without_a_baseline_reaching_the_quality_is_enough(own, expected):
    finding = verdict(own, 1.0, Claim("inet3", 2024, 0.95, 111.87))
    assert finding.verdict == expected
    assert math.isnan(finding.ratio)


def test_a_case_that_was_not_run_or_lacks_a_run_has_no_verdict():
    assert judge(CLAIM, None, {}).verdict == "not run here"
    finding = verdict(4.0, 80.0, reasons={"cifar1": "ddpm_seed9 (it failed)"})
    assert (finding.verdict, finding.reason) == ("not run here", "ddpm_seed9 (it failed)")
    assert math.isnan(finding.seconds)
    assert verdict(4.0, 80.0, reasons={"celeb1": "left out"}).verdict == "reproduced"


def test_a_claim_is_judged_by_the_start_that_was_published():
    summaries = [
        summary("score_embedding", {0.95: 4.0}),
        summary("ddpm", {0.95: 80.0}),
    ]
    matched = [
        type(own)(**vars(own) | {"prior": "matched", "time_to": summary("x", {0.95: 1}).time_to})
        for own in summaries
    ]
    for order in (summaries + matched, matched + summaries):
        finding = judge(CLAIM, order, {})
        assert (finding.seconds, finding.baseline_seconds) == (4.0, 80.0)


def test_the_table_of_claims_shows_published_and_own_seconds_and_the_verdict():
    other = Claim("inet3", 2024, 0.95, 111.87)
    findings = [
        verdict(4.0, 80.0),
        verdict(4.0, math.inf),
        verdict(math.inf, 80.0),
        judge(CLAIM, None, {}),
        verdict(12.34, 1.0, other),
    ]
    name, published = "cifar1 0.95 (2024), ddpm / score_embedding", "60.0 / 10.0 s = 6.0"
    table = reproduction.claims_table(findings, "full")
    assert table.rows == [
        (name, published, "80.0 s / 4.0 s = 20.00", "reproduced"),
        (name, published, "not reached / 4.0 s > 25.00", "reproduced"),
        (name, published, "not reached", "not reproduced"),
        (name, published, "-", "not run here"),
        ("inet3 0.95 (2024)", "111.9 s", "12.3 s", "reproduced"),
    ]
    assert reproduction.counts(findings) == dict(zip(VERDICTS, (3, 1, 1), strict=True))
    assert "SMALL SCALE" not in table.note
    assert "say nothing" in reproduction.claims_table(findings, "small").note


# The whole command


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """A folder of data sets with celebrities, and none of the others."""
    rng = np.random.default_rng(5)
    content = np.empty(4, dtype=object)
    for i in range(len(content)):
        content[i] = rng.integers(0, 256, (10, 10, 3)).astype(np.uint8)
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "celeb_data.pkl").write_bytes(pickle.dumps(content, 4))
    monkeypatch.setenv("SCORE_EMBEDDING_DATA", str(tmp_path / "sets"))


def command(cases, **changes):
    values = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    options = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    return ("reproduce", "--scale", "small", "--cases", cases, "--seeds", 9, *options)


def claims_of(folder):
    """The verdicts of claims.json, those of claims.md, and the text below the table."""
    values = json.loads((folder / "claims.json").read_text(), parse_constant=pytest.fail)
    lines = (folder / "claims.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    assert [finding["verdict"] for finding in values["findings"]] == [row[3] for row in rows[2:]]
    assert values["counts"] == {v: [row[3] for row in rows].count(v) for v in VERDICTS}
    return values, rows[2:], [line for line in lines if line.startswith("- ")]


@pytest.mark.usefixtures("faces")
def test_claims_that_can_be_run_here_are_judged_and_the_others_are_not_run(call, tmp_path):
    done = call(*command("celeb1,inet3"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    counts = "0 reproduced, 3 not reproduced, 11 not run here"
    assert done.stderr.splitlines()[-1] == f"error: not every claim is reproduced: {counts}"
    assert f"claims: saves/reproduce_small/claims.md: {counts}" in done.stdout
    folder = tmp_path / "saves" / "reproduce_small"
    assert sorted(os.listdir(folder)) == ["celeb1", "claims.json", "claims.md"]
    values, rows, below = claims_of(folder)
    for row, finding in zip(rows, values["findings"], strict=True):
        case = finding["claim"]["case"]
        assert row[0].startswith(case)
        assert row[3] == ("not reproduced" if case == "celeb1" else "not run here")
        assert row[2] == ("not reached" if case == "celeb1" else "-")
        assert (case == "celeb1") != bool(finding["reason"])
    for case in ("cifar1", "cifar3", "celeb3"):
        assert f"- {case}: not run here: left out by --cases" in below
    (missing,) = [line for line in below if line.startswith("- inet3")]
    assert "not run here: imagenet_data.pkl" in missing
    (described,) = [line for line in below if line.startswith("- celeb1")]
    assert "1 image of 8 x 8 x 3 (celeb); network published, ch 8" in described
    runs = folder / "celeb1" / "runs"
    assert sorted(os.listdir(runs)) == ["ddpm_seed9", "score_embedding_seed9"]
    assert atomic_files.read_rows(runs / "ddpm_seed9" / "metrics.csv")[-1]["nfe"] == 50

    # The same runs, had they got that far: 0.90 in 90 and 100 s, 0.95 in 100 and 600, 0.99 in 110
    write_metrics(folder / "celeb1", "score_embedding_seed9", [(90, 0.9), (100, 0.95), (110, 0.99)])
    write_metrics(folder / "celeb1", "ddpm_seed9", [(100, 0.9), (600, 0.97), (11000, 0.98)])
    done = call(*command("celeb1"))
    assert done.returncode == 1
    assert "2 runs, 2 of them there already" in done.stderr
    values, rows, _ = claims_of(folder)
    own = {row[0]: row[1:] for row in rows if row[0].startswith("celeb1")}
    assert own == {
        "celeb1 0.95 (2024), ddpm / score_embedding": [
            *("601.3 / 105.4 s = 5.7", "600.0 s / 100.0 s = 6.00", "reproduced")
        ],
        "celeb1 0.90 (2024), ddpm / score_embedding": [
            *("342.6 / 71.7 s = 4.8", "100.0 s / 90.0 s = 1.11", "not reproduced")
        ],
        "celeb1 0.99 (2025), ddpm / score_embedding": [
            *("14131.5 / 122.5 s = 115.4", "not reached / 110.0 s > 100.00", "reproduced")
        ],
    }
    assert values["counts"] == dict(zip(VERDICTS, (2, 1, 11), strict=True))


@pytest.mark.usefixtures("faces")
def test_a_run_that_fails_leaves_its_case_without_a_verdict(call, tmp_path):
    done = call(*command("celeb1", training__lr=1e30, training__warmup="off"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    values, _, below = claims_of(tmp_path / "saves" / "reproduce_small")
    assert values["counts"] == dict(zip(VERDICTS, (0, 0, 14), strict=True))
    (line,) = [line for line in below if line.startswith("- celeb1: not run here")]
    assert "score_embedding_seed9 (" in line
    assert "ddpm_seed9 (" in line
    assert line.count("not finite") == 2


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--cases celeb1,celeb2,x", ["celeb2, x", "cifar1, celeb1, cifar3, inet3, celeb3"]),
        ("--cases celeb1 --scale medium", ["medium", "small, full"]),
        ("--cases celeb1 --seeds 9,x", ["--seeds", "'x'"]),
        ("--cases celeb1 --seeds -1", ["seeds: [-1]", "2^32"]),
        ("--cases celeb1 --seeds ,", ["seeds: []", "one or more"]),
        ("--cases celeb1 --seeds 9,9", ["seeds: [9, 9]", "twice"]),
        ("--cases celeb1 --set training.epoch=1", ["training.epoch", "did you mean 'epochs'"]),
        ("--cases celeb1 --device tpu", ["--device tpu"]),
    ],
)
@pytest.mark.usefixtures("faces")
def test_a_mistake_in_what_to_reproduce_is_named_and_nothing_is_created(
    call, tmp_path, arguments, parts
):
    before = tree(tmp_path)
    assert_mistake(call("reproduce", *arguments.split()), *parts)
    assert tree(tmp_path) == before
