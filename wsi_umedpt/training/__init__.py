"""Training the shared model on many tasks: settings, schedule, step, run."""
