"""Training: the trainer, its optimizer and schedule, evaluation, checkpoints, and runs over several processes."""
