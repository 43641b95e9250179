"""SalDistill's toolkit: data, metrics, losses, targets, one training loop, evaluation, export."""
