"""The YAML config of a run: its sections, how they fit together, how a file becomes one."""
