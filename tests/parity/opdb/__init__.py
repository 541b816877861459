"""lampion against PyTorch's operator database (op_db), entry by entry.

op_db lists PyTorch's operators with sample inputs, inputs that must raise, dtypes and what forms
(in-place, out=) and derivatives each one has. `python tests/parity/opdb` runs every entry through
both libraries; see `command` for its options. PyTorch is the oracle: nothing in lampion imports it.

- `entries`: the entries, their families, what is left out and why, samples
- `names`: which function of lampion an entry means
- `convert`: PyTorch's values into lampion's and back
- `compare`: tolerances, statistics of random results
- `checks`, `derivatives`, `forms`: the checks themselves
- `pool`, `command`, `report`: running them in processes, the command line, docs/support.md
"""
