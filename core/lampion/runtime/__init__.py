"""Floor 2: storage contract, dispatch plans, kernel choice, fallback ledger, randomness."""
