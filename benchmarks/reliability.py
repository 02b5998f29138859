"""The guarantees of docs/reliability.md: runs the tests that check each of them, and counts cases.

    python benchmarks/reliability.py      # about 5 minutes on one thread, the slow tests included

A case is one input or one interruption (a run killed twenty times is one); fuzzing tests report
their number of cases. Writes results/reliability.json and .md; exit status 1 if a test of a
guarantee failed, was skipped, or does not exist.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import environment, write

ROOT = Path(__file__).parents[1]

GUARANTEES: dict[str, tuple[str, ...]] = {
    "A resumed run is bit for bit equal to an uninterrupted one": (
        "test_resume.py::test_training_resumes_bit_for_bit",
        "test_resume.py::test_the_clock_and_the_seconds_before_it_continue",
        "test_comparison_runs.py::test_a_comparison_killed_in_the_middle_goes_on_where_it_was",
    ),
    "kill -9 at any moment leaves every checkpoint readable": (
        "test_resume.py::test_a_run_killed_at_twenty_moments_ends_as_if_it_had_not_been",
        "test_run_folder.py::test_a_writer_that_is_killed_leaves_the_old_file_whole_and_the_next_"
        "one_succeeds",
        "test_nothing_lost.py::test_partial_files_of_a_killed_process_go_with_the_next_run",
    ),
    "SIGINT and SIGTERM: a checkpoint, how to resume, exit 130 or 143": (
        "test_resume.py::test_a_signal_in_the_middle_of_a_step_waits_for_its_end",
        "test_resume.py::test_an_interrupted_run_says_how_to_resume_it",
        "test_nothing_lost.py::test_a_signal_before_training_says_how_to_resume_and_leaves_no_trace",
        "test_nothing_lost.py::test_a_signal_to_a_comparison_stops_its_runs_too",
    ),
    "A full disk damages no file that was complete before": (
        "test_nothing_lost.py::test_a_checkpoint_that_cannot_be_written_leaves_those_before_whole",
        "test_nothing_lost.py::test_a_report_that_cannot_be_written_leaves_all_as_it_was",
        "test_nothing_lost.py::test_a_disk_that_is_full_leaves_the_report_as_it_was",
    ),
    "A damaged checkpoint is named, and the one before it used": (
        "test_resume.py::test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken",
        "test_fuzzing.py::test_a_damaged_checkpoint_is_passed_over",
        "test_fuzzing.py::test_a_damaged_model_is_loaded_whole_or_not_at_all",
        "test_fuzzing.py::test_a_forged_model_is_loaded_whole_or_not_at_all",
        "test_fuzzing.py::test_a_forged_checkpoint_is_resumed_from_or_refused",
        "test_fuzzing.py::test_no_exchanged_tensor_ends_training_later",
        "test_fuzzing.py::test_no_forged_value_ends_training_later",
    ),
    "One process per run folder; a run resumes only with its own config and images": (
        "test_resume.py::test_one_folder_is_one_process_alone",
        "test_nothing_lost.py::test_a_run_is_not_resumed_with_other_images",
    ),
    "The same run twice is bit for bit the same": (
        "test_nothing_lost.py::test_the_same_run_twice_is_equal_bit_for_bit",
    ),
    "No code from data": (
        "test_pickles.py::test_a_pickle_that_runs_code_is_refused_before_it_runs",
        "test_pickles.py::test_opcodes_that_reach_for_more_are_refused",
        "test_nothing_lost.py::test_a_model_that_would_run_code_is_refused_and_does_not",
        "test_nothing_lost.py::test_a_checkpoint_that_would_run_code_is_refused_and_does_not",
        "test_config.py::test_python_tags_are_refused_and_not_run",
        "test_run_folder.py::test_no_pickle_is_opened",
        "test_cli.py::test_markup_in_the_names_of_images_is_shown_not_obeyed",
    ),
    "A divergence stops the run with what reproduces it, or halves the learning rate": (
        "test_cli.py::test_a_loss_that_is_not_finite_ends_the_run_and_leaves_what_reproduces_it",
        "test_resume.py::test_a_divergence_goes_back_to_the_last_checkpoint_with_half_the_rate",
        "test_resume.py::test_a_restart_outlives_an_interruption",
        "test_resume.py::test_weights_that_are_not_finite_are_no_checkpoint",
    ),
    "Any config is read, or refused by name": (
        "test_fuzzing.py::test_a_mutated_config_is_read_or_refused_by_name",
        "test_fuzzing.py::test_each_oddity_of_yaml_is_read_or_refused_by_name",
        "test_fuzzing.py::test_any_value_at_any_key_of_a_config_is_read_or_refused_by_name",
        "test_fuzzing.py::test_any_override_is_taken_or_refused_by_name",
        "test_fuzzing.py::test_aliases_of_aliases_neither_fill_the_memory_nor_hang",
    ),
    "Any image or pickle is read, or refused by name": (
        "test_fuzzing.py::test_a_damaged_image_is_read_or_refused_by_name",
        "test_fuzzing.py::test_an_image_that_lies_about_its_size_is_read_or_refused_by_name",
        "test_fuzzing.py::test_a_damaged_data_set_is_read_or_refused_and_never_ends_the_process",
        "test_fuzzing.py::test_images_of_few_bytes_do_not_fill_the_memory",
    ),
    "Any run folder gives a report, or the damaged file is named": (
        "test_fuzzing.py::test_no_value_in_a_run_folder_ends_a_report",
        "test_fuzzing.py::test_a_folder_with_a_damaged_file_is_reported_on_or_refused",
        "test_fuzzing.py::test_a_report_with_its_figures_is_written_or_refused",
        "test_nothing_lost.py::test_samples_are_not_replaced_where_no_report_can_be_made",
    ),
    "What cannot fit is refused before the run": (
        "test_limits.py::test_what_does_not_fit_is_refused_with_the_figures",
        "test_limits.py::test_nothing_is_created_by_what_is_refused",
    ),
}


# One process, the slow tests too and not their quick shares, in the format that holds the counts.
ALL = ("-n", "0", "-m", "", "-k", "not a_tenth", "-o", "junit_family=xunit1")


@dataclass
class Tally:
    """Results of one test function, over its parameters."""

    cases: int = 0
    passed: int = 0
    not_passed: int = 0


def run(tests: list[str]) -> dict[str, Tally]:
    """Run tests in a pytest process of its own; their results by name."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={record}", *ALL, *tests]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "CI": "true"}, check=False)
        tallies: dict[str, Tally] = {}
        for case in ElementTree.parse(record).iter("testcase"):
            module = case.attrib["classname"].rpartition(".")[2]
            name = f"{module}.py::{case.attrib['name'].partition('[')[0]}"
            tally = tallies.setdefault(name, Tally())
            counted = [p.attrib["value"] for p in case.iter("property") if p.get("name") == "cases"]
            tally.cases += int(counted[0]) if counted else 1
            if any(case.find(kind) is not None for kind in ("failure", "error", "skipped")):
                tally.not_passed += 1
            else:
                tally.passed += 1
        return tallies


def main() -> int:
    machine = environment()
    tallies = run([f"tests/{test}" for tests in GUARANTEES.values() for test in tests])
    rows: list[dict[str, Any]] = []
    for guarantee, tests in GUARANTEES.items():
        found = [tallies.get(test, Tally(not_passed=1)) for test in tests]
        rows.append(
            {
                "guarantee": guarantee,
                "cases": sum(tally.cases for tally in found),
                "tests": sum(tally.passed + tally.not_passed for tally in found),
                "not passed": sum(tally.not_passed for tally in found),
            }
        )
    write("reliability", rows, machine)
    return 1 if any(row["not passed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
