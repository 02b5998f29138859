"""Names of the files that training leaves in a run folder, known without loading torch."""

import re

WEIGHTS = "model.safetensors"
STATE = "state.json"
CHECKPOINT_ROWS = "checkpoint_rows.jsonl"  # the rows of metrics of a run under way
# All checkpoints of a run under way; 0.1 had JSON beside each.
CHECKPOINT = re.compile(r"checkpoint_(rows\.jsonl|[0-9]{8,}\.(safetensors|json))")
