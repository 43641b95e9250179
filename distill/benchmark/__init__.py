"""`saldistill benchmark`: what models, metrics, readers and stores cost, each side by side in one run."""
