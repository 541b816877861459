"""Floor 0: dtypes, devices, interned metas, shape algebra and errors. Imports nothing else."""
