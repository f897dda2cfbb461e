"""The demonstration behind ``make demo``: a shop's baskets from the raw log to PyTorch batches."""
