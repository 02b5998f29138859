"""Names of the files that training leaves in a run folder, known without loading torch."""

WEIGHTS = "model.safetensors"
STATE = "state.json"
CHECKPOINT_ROWS = "checkpoint_rows.jsonl"  # the rows of metrics of a run under way
